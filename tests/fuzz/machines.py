"""Machines behind the decoders, fed with what decoding lets through: the messaging core, a whole broker, a broker and its peer.

They answer wrong input with an error of the protocol and stay sound; nothing else may come out of them, an AssertionError least of all.
"""

from typing import Any

import msgspec

from tests.core.service_rig import Rig, check
from tests.fuzz.decoders import CLUSTER, MINE, PEER, bulk_frames, client_seeds, control_messages
from tests.fuzz.frames import join, split
from tests.sim.cluster import Cluster
from tests.sim.server import Process
from zmqha.core import client_protocol, peer_protocol
from zmqha.core.client_protocol import Ack, Admin, Close, Command, Credit, Nack, Open, Ping, Send, Subscribe, Unsubscribe, encode
from zmqha.core.contact import Contact
from zmqha.core.events import BulkIn, ClientIn, ControlIn
from zmqha.core.message import batch_of
from zmqha.core.peer_protocol import Bulk, Control, Hello
from zmqha.core.view import PAIRED_ROLES
from zmqha.errors import ProtocolError

MESSAGES_MAX = 12  # in one input
FOREVER_MS = 1_000
INPUTS_PER_PAIR = 50


def commands() -> list[Command]:
    """What a client may say, in an order that means something."""
    return [
        Open((1, 1), "c"), Send("q", batch_of([b"x", b"y"], producer=1, first=1)), Send("q", batch_of([b"z"], producer=1, first=3)),
        Subscribe(1, "q", 10, 10_000, ((0, 1),)), Ack(1, ((0, 1),)), Nack(1, 10, ((1, 2),)), Credit(1, 5, 1000), Ping(),
        Admin("queue.add", {"name": "r", "max_messages": 2}), Send("r", batch_of([b"1", b"2", b"3"], producer=2, first=1)),
        Admin("queue.ls"), Admin("queue.info", {"name": "q"}), Admin("queue.purge", {"name": "q"}),
        Admin("queue.rm", {"name": "q", "force": True}), Admin("status"), Admin("history"), Admin("version"),
        Admin("switchover", {"to": "c", "reason": "why"}), Admin("promote", {}), Admin("resync", {}), Unsubscribe(1), Close(),
    ]  # fmt: skip


def conversation_seeds() -> list[bytes]:
    """Whole conversations, and every vector alone after an OPEN."""
    said = [join(encode(command, request=number)) for number, command in enumerate(commands())]
    lone = [join([join(encode(Open((1, 1), "c"))), frames]) for frames in client_seeds()]
    return [join(said[:MESSAGES_MAX]), join([said[0], *said[10:20]]), *(join([said[0], one]) for one in said), *lone]


def service(data: bytes) -> None:
    """Messages of one client to the messaging core: every message stays in exactly one place."""
    rig = Rig()
    for joined in split(data, MESSAGES_MAX):
        try:
            envelope = client_protocol.decode(split(joined, 4))
        except ProtocolError:
            continue
        rig.service.receive(b"c", envelope, rig.now_ms)
        rig.settle()
    check(rig.service)
    rig.pass_time(FOREVER_MS)
    check(rig.service)


# --- a broker and its peer --------------------------------------------------------------------------------------------------------


class _Place:
    """A simulated pair, made anew now and then: what was said before must not decide for ever what is possible."""

    def __init__(self) -> None:
        self.left = 0  # inputs until a new one
        self.cluster: Cluster | None = None

    def broker(self, name: str) -> Process:
        if self.cluster is None or self.left <= 0:
            self.cluster = Cluster(1, delays=0, consumer=False)
            self.cluster.form()
            self.left = INPUTS_PER_PAIR
        self.left -= 1
        process = {"a": self.cluster.a, "b": self.cluster.b}[name].process
        assert process is not None
        return process


_place = _Place()


def broker(data: bytes) -> None:
    """Frames of a client to a whole broker, the active or the passive, operators' verbs included."""
    process = _place.broker("ab"[data[0] & 1] if data else "a")
    for joined in split(data[1:], MESSAGES_MAX):
        process.broker.receive(ClientIn(b"c", split(joined, 4)), process.machine.own_ms())
        for action in process.broker.take_actions():
            if getattr(action, "client", None) == b"c":
                client_protocol.decode(action.frames)  # type: ignore[union-attr]
    if process.broker.ha.leaving is not None:
        _place.left = 0


def broker_seeds() -> list[bytes]:
    return [flag + seed for seed in conversation_seeds() for flag in (b"\0", b"\1")]


def peer(data: bytes) -> None:
    """Control and bulk frames in the peer's name, their sums put right, to a whole broker: refused or taken, never the end of it."""
    process = _place.broker("ab"[data[0] & 1] if data else "a")
    now_ms = process.machine.own_ms()
    contact = process.broker.ha.contact
    for joined in split(data[1:], MESSAGES_MAX):
        frames = split(joined, 4) or [b""]
        frames[0] = peer_protocol.sealed(frames[0][: -peer_protocol.SUM_BYTES])
        try:
            process.broker.receive(ControlIn(0, _here(peer_protocol.decode_control(frames[0]), contact)), now_ms)
        except ProtocolError:
            pass
        try:
            message = _here(peer_protocol.decode_bulk(frames[0]), contact)
            for sender in (None, b"follower"):
                process.broker.receive(BulkIn(sender, message, tuple(frames[1:])), now_ms)
        except ProtocolError:
            pass
        process.broker.tick(now_ms)
        for action in process.broker.take_actions():
            if isinstance(getattr(action, "message", None), Control | Bulk):
                peer_protocol.encode(action.message)  # type: ignore[union-attr]
    if not process.broker.ha.fresh(now_ms) or process.broker.ha.state not in PAIRED_ROLES:
        _place.left = 0


def _here(message: Any, contact: Contact) -> Any:
    """The sessions of the seeds become those of this pair; all others stay as they are."""
    changes: dict[str, object] = {}
    if message.session == PEER:
        changes["session"] = contact.peer_session
    if getattr(message, "to_session", None) == MINE:
        changes["to_session"] = contact.session
    if isinstance(message, Hello) and message.cluster_id == CLUSTER:
        changes |= {"cluster_id": contact.cluster_id, "node_id": contact.peer_id}
    return msgspec.structs.replace(message, **changes) if changes else message


def peer_seeds() -> list[bytes]:
    control = [join([peer_protocol.encode(message)]) for message in control_messages()]
    bulk = [join([frame, b"head", b"piece"]) for frame in bulk_frames()] + [join([frame]) for frame in bulk_frames()]
    return [flag + join(some) for flag in (b"\0", b"\1") for some in ([*control], *([one] for one in [*control, *bulk]))]
