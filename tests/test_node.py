"""The loop around the broker: what the node itself says."""

import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zmq

from zmqha.core.actions import Action, SendToClient
from zmqha.core.events import ControlIn, FactsSaved
from zmqha.core.peer_protocol import Drop, Session, encode
from zmqha.server import main
from zmqha.server.node import Network, Node, clock_ms
from zmqha.store.gauge import NOT_MEASURED
from zmqha.transport.clients import Clients, Sent
from zmqha.transport.gateway import Probe
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
    """Writes down what it hears and does. Decides when it is time, or because of FactsSaved."""

    reads_clients = False
    group_commit = SimpleNamespace(awaits_flush=False)
    protocol_faults = 0

    def __init__(self) -> None:
        self.time_is_up = self.news = False
        self.seen: list[str] = []
        self.actions: list[list[Action]] = []  # of each take_actions

    def begin_turn(self, now_ms: int, wall_ms: int) -> None:
        self.seen.clear()
        self.news = False

    def decides(self, now_ms: int) -> bool:
        return self.time_is_up or self.news

    def receive(self, event: object, now_ms: int) -> None:
        self.seen.append(f"path {event.path}" if isinstance(event, ControlIn) else type(event).__name__)
        self.news = self.news or isinstance(event, FactsSaved)

    def hand_out(self, now_ms: int) -> None:
        self.seen.append("hand out")

    def tick(self, now_ms: int) -> None:
        self.seen.append("decide")
        self.time_is_up = self.news = False

    def take_actions(self) -> list[Action]:
        return self.actions.pop(0) if self.actions else []

    def deadline_ms(self, now_ms: int) -> int:
        return now_ms


class ToyClients:
    """Takes no message to ``gone``."""

    socket = None

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, list[bytes]]] = []

    def tick(self, now_ms: int) -> None:
        pass

    def send(self, client: bytes, frames: list[bytes]) -> Sent:
        self.sent.append((client, frames))
        return Sent.GONE if client == b"gone" else Sent.OK


class ToyStore:
    space = NOT_MEASURED


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
    assert broker.seen == ["hand out"], "no decision, nothing readable"
    broker.time_is_up = True
    node.turn()
    assert broker.seen == ["hand out", "path 0", "path 1", "decide"], "what is only a matter of time comes last"


def test_f3_after_news_nothing_is_handed_out_before_the_decision() -> None:
    node, broker = toy_node([ToyLink()])
    node.mailbox.put(FactsSaved())
    node.turn()
    assert broker.seen == ["FactsSaved", "path 0", "decide"]


def test_a_link_that_is_readable_is_read_in_every_turn_and_first() -> None:
    node, broker = toy_node([ToyLink(), ToyLink(readable=True)])
    node.mailbox.put(FactsSaved())
    node.turn()
    assert broker.seen == ["path 0", "path 1", "FactsSaved", "decide"]


def test_a_link_that_was_replaced_is_waited_for() -> None:
    link = ToyLink()
    node, broker = toy_node([link])
    node.turn()
    old, link.socket = link.socket, os.eventfd(1)
    os.close(old)
    node.turn()
    assert broker.seen == ["path 0", "hand out"]


class ToyProber:
    """A prober with an answer."""

    def __init__(self, *, readable: bool = False) -> None:
        self.fd = os.eventfd(int(readable))

    def tick(self, now_ms: int) -> None:
        pass

    def take(self) -> list[Probe]:
        return [Probe(1, 1, ok=True, detail="")]


def test_a_prober_that_was_replaced_is_waited_for_and_the_old_one_is_not() -> None:
    node, broker = toy_node([])
    old = ToyProber()
    node.network.prober = cast(Any, old)
    node.turn()
    node.network.prober = cast(Any, ToyProber(readable=True))
    os.close(old.fd)
    node.turn()
    assert broker.seen == ["Probed", "hand out"]
    assert old.fd not in node.reactor.wait(0)


def test_after_a_message_that_did_not_go_out_none_goes_until_the_broker_knows() -> None:
    """Also where actions are carried out twice in a turn: a client would see a gap in the order."""
    node, broker = toy_node([])
    broker.actions = [[SendToClient(b"gone", [b"1"]), SendToClient(b"x", [b"1"])], [SendToClient(b"gone", [b"2"])]]
    broker.time_is_up = True
    node.turn()
    sent = cast(ToyClients, node.network.clients).sent
    assert sent == [(b"gone", [b"1"]), (b"x", [b"1"])]
    broker.actions = [[SendToClient(b"gone", [b"3"])]]
    node.turn()
    assert broker.seen == ["ClientGone", "hand out"]
    assert sent[2:] == [(b"gone", [b"3"])], "whatever the broker says after that it means"


def test_a_server_learns_how_its_children_end_whatever_its_parent_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    class Begun(Exception):
        pass

    def begun(config: object) -> None:
        raise Begun

    monkeypatch.setattr(main, "load_keys", begun)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(Begun):
            main.main(cast(Any, None))
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)
