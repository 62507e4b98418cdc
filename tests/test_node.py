"""The loop around the broker: what the node itself says."""

import pytest
import zmq

from zmqha.server.node import Network, Node
from zmqha.transport.clients import Clients


def test_a_port_whose_address_is_not_here_is_logged_once_and_when_it_is_there(caplog: pytest.LogCaptureFixture) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    clients = Clients(context, ["tcp://240.0.0.1:7001"])
    node = Node.__new__(Node)
    node.network = Network(None, clients, (), [], None, None, None, None)
    node._absent_told = ()

    def said() -> list[tuple[str, str, object]]:
        caplog.clear()
        node._tell_absent()
        return [(each.levelname, each.message, dict(each.fields)["port"]) for each in caplog.records]  # type: ignore[attr-defined]

    with caplog.at_level("INFO", "zmqha"):
        assert said() == [("WARNING", "port.absent", "240.0.0.1:7001")]
        assert said() == []
        clients.waiting.clear()
        assert said() == [("INFO", "port.open", "240.0.0.1:7001")]
    clients.close()
    context.term()
