"""The loop around the broker: what the node itself says."""

import os
from typing import Any, cast

import pytest
import zmq

from zmqha.core.events import ControlIn, FactsSaved
from zmqha.core.peer_protocol import Drop, Session, encode
from zmqha.server.node import Network, Node, clock_ms
from zmqha.store.writer import Space
from zmqha.transport.clients import Clients
from zmqha.transport.mailbox import Mailbox
from zmqha.transport.reactor import Reactor

FRAME = encode(Drop(Session(1, 1), Session(2, 1), "slow"))


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


class ToyLink:
    """A link that always has one frame; its socket is a descriptor, readable or not."""

    def __init__(self, *, readable: bool = False) -> None:
        self.socket = os.eventfd(int(readable))
        self.waiting: list[str] = []

    def tick(self, now_ms: int) -> None:
        pass

    def receive(self, budget: int) -> list[bytes]:
        return [FRAME]


class ToyBroker:
    """Writes down what it hears. Decides when told to, or because of FactsSaved."""

    reads_clients = False
    protocol_faults = 0

    def __init__(self) -> None:
        self.will_decide = False
        self.seen: list[str] = []

    def begin_turn(self, now_ms: int, wall_ms: int) -> None:
        self.seen.clear()

    def decides(self, now_ms: int) -> bool:
        return self.will_decide

    def receive(self, event: object, now_ms: int) -> None:
        self.seen.append(f"path {event.path}" if isinstance(event, ControlIn) else type(event).__name__)
        self.will_decide = self.will_decide or isinstance(event, FactsSaved)

    def tick(self, now_ms: int) -> None:
        self.seen.append("decision" if self.will_decide else "tick")
        self.will_decide = False

    def take_actions(self) -> list[object]:
        return []

    def deadline_ms(self, now_ms: int) -> int:
        return now_ms


class ToyClients:
    socket = None

    def tick(self, now_ms: int) -> None:
        pass


class ToyStore:
    space = Space(1.0, 1, 1)


def toy_node(links: list[ToyLink]) -> tuple[Node, ToyBroker]:
    broker = ToyBroker()
    network = Network(None, cast(Any, ToyClients()), (), cast(Any, links), None, None, None, None)
    node = Node(
        cast(Any, broker), network, cast(Any, ToyStore()), Mailbox(), Reactor(), b"", lambda *_: None, lambda *_: None
    )  # fmt: skip
    node._store_look_ms, node._space_seen = clock_ms(), ToyStore.space
    return node, broker


def test_f3_every_link_is_read_before_a_decision_whatever_the_poller_says() -> None:
    node, broker = toy_node([ToyLink(), ToyLink()])
    node.turn()
    assert broker.seen == ["tick"], "no decision, nothing readable"
    broker.will_decide = True
    node.turn()
    assert broker.seen == ["path 0", "path 1", "decision"]


def test_f3_also_where_it_is_this_turn_that_brings_the_decision_about() -> None:
    node, broker = toy_node([ToyLink()])
    node.mailbox.put(FactsSaved())
    node.turn()
    assert broker.seen == ["FactsSaved", "path 0", "decision"]


def test_a_link_that_is_readable_is_read_in_every_turn_and_first() -> None:
    node, broker = toy_node([ToyLink(), ToyLink(readable=True)])
    node.mailbox.put(FactsSaved())
    node.turn()
    assert broker.seen == ["path 0", "path 1", "FactsSaved", "decision"]


def test_a_link_that_was_replaced_is_waited_for() -> None:
    link = ToyLink()
    node, broker = toy_node([link])
    node.turn()
    old, link.socket = link.socket, os.eventfd(1)
    os.close(old)
    node.turn()
    assert broker.seen == ["path 0", "tick"]
