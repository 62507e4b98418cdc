"""The control channel: it comes back after everything, and strangers never get hold of it."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest
import zmq

from tests.transport.conftest import Party, dial, endpoint_of, now_ms, until
from zmqha.core import limits
from zmqha.errors import ConfigError
from zmqha.transport.peer_link import PeerLink
from zmqha.transport.security import KeyGate
from zmqha.transport.sockets import Context

Start = Callable[..., subprocess.Popen[bytes]]


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Talk:
    """Sends a numbered frame every few ms, rebuilds after LOST_MS without an answer: what a server does, in small."""

    LOST_MS = 300

    def __init__(self, link: PeerLink) -> None:
        self.link = link
        self.number = 0
        self.answered = -1
        self.heard_ms = now_ms()

    def turn(self) -> None:
        now = now_ms()
        self.number += 1
        self.link.send(b"%d" % self.number)
        for frame in self.link.receive(16):
            self.answered = int(frame)
            self.heard_ms = now
        if now - self.heard_ms > self.LOST_MS:
            self.link.rebuild(now)
            self.heard_ms = now
        self.link.tick(now)

    def meets(self, within_s: float = 3.0) -> bool:
        """An answer to something said after now."""
        mark = self.number
        return until(lambda: self.answered > mark, self.turn, within_s=within_s)


@pytest.fixture(params=["we bind", "we connect"])
def talk(request: pytest.FixtureRequest, context: Context) -> Talk:
    return Talk(PeerLink(context, free_endpoint(), binds=request.param == "we bind", path_name="lan"))


def other_side(talk: Talk) -> str:
    return "connect" if talk.link.binds else "bind"


def test_a_frozen_peer_is_heard_again_within_a_second_of_waking(talk: Talk, child: Start) -> None:
    peer = child("echo_peer.py", talk.link.endpoint, other_side(talk))
    assert talk.meets(5)

    peer.send_signal(signal.SIGSTOP)
    assert until(lambda: talk.link.rebuilds >= 3, talk.turn)
    peer.send_signal(signal.SIGCONT)

    assert talk.meets(1.5)


def test_a_killed_peer_is_heard_again_as_soon_as_it_is_back_on_the_same_port(talk: Talk, child: Start) -> None:
    peer = child("echo_peer.py", talk.link.endpoint, other_side(talk))
    assert talk.meets(5)

    peer.kill()
    peer.wait()
    assert until(lambda: talk.link.rebuilds >= 2, talk.turn)
    peer = child("echo_peer.py", talk.link.endpoint, other_side(talk))
    assert peer.stdout is not None
    assert peer.stdout.readline() == b"up\n"

    assert talk.meets(1.5)


def test_a_bound_link_is_bound_again_within_milliseconds(context: Context) -> None:
    link = PeerLink(context, free_endpoint(), binds=True, path_name="lan")
    slowest_s = 0.0
    for _ in range(20):
        start = time.monotonic()
        link.rebuild(now_ms())
        assert until(lambda: link.socket is not None, lambda: link.tick(now_ms()))
        slowest_s = max(slowest_s, time.monotonic() - start)
    assert slowest_s < 0.1


def taken() -> socket.socket:
    taker = socket.socket()
    taker.bind(("127.0.0.1", 0))
    taker.listen()
    return taker


def test_a_port_that_is_taken_at_the_start_is_a_config_error(context: Context) -> None:
    with taken() as taker, pytest.raises(ConfigError, match="cannot listen"):
        PeerLink(context, f"tcp://127.0.0.1:{taker.getsockname()[1]}", binds=True, path_name="lan")


def test_a_port_taken_by_somebody_else_is_waited_for_without_a_socket(context: Context) -> None:
    link = PeerLink(context, free_endpoint(), binds=True, path_name="lan")
    with taken() as taker:
        link.endpoint = f"tcp://127.0.0.1:{taker.getsockname()[1]}"
        link.rebuild(now_ms())
        assert link.socket is None
        assert link.waiting == [], "a port in use is another matter"
        assert not link.send(b"frame")
        assert link.receive(1) == []
        assert link.deadline_ms is not None
        link.tick(link.deadline_ms)
    assert until(lambda: link.socket is not None, lambda: link.tick(now_ms()))


def test_an_address_that_is_not_here_is_waited_for(context: Context) -> None:
    link = PeerLink(context, "tcp://240.0.0.1:7001", binds=True, path_name="lan")
    assert link.socket is None
    link.tick(10_000)
    assert link.socket is None
    assert link.deadline_ms == 10_500
    assert link.waiting == ["tcp://240.0.0.1:7001"]


def test_sending_to_nobody_says_no_and_does_not_wait(context: Context) -> None:
    for binds in (True, False):
        link = PeerLink(context, free_endpoint(), binds=binds, path_name="lan")
        start = time.monotonic()
        assert not link.send(b"frame")
        assert time.monotonic() - start < 0.05


def test_a_frozen_peer_does_not_make_sending_wait(context: Context) -> None:
    # given a peer that is connected and never reads
    link = PeerLink(context, free_endpoint(), binds=True, path_name="lan")
    reader = dial(context, zmq.PAIR, link.endpoint)
    assert until(lambda: link.send(b"first"))
    # when more is sent than all queues hold
    frame = bytes(limits.CONTROL_FRAME_BYTES_MAX)
    sent = 0
    while link.send(frame):  # then at some time the answer is no, at once
        sent += 1
        assert sent < 5000
    assert sent > 0
    reader.close()


# --- strangers --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(context: Context, party: Party, gate: KeyGate) -> PeerLink:
    link = PeerLink(context, "tcp://127.0.0.1:*", binds=True, path_name="lan", keys=party.own, peer_key=party.peer.public)
    link.endpoint = endpoint_of(link.socket)
    return link


def honest(outside: Context, party: Party, endpoint: str) -> PeerLink:
    return PeerLink(outside, endpoint, binds=False, path_name="lan", keys=party.peer, peer_key=party.own.public)


def both_hear(gate: KeyGate, link: PeerLink, peer: PeerLink, within_s: float = 2.0) -> bool:
    got: list[bytes] = []
    asked = until(
        lambda: b"ask" in got, gate.receive, lambda: peer.send(b"ask"), lambda: got.extend(link.receive(9)), within_s=within_s
    )
    return asked and until(
        lambda: b"answer" in got, gate.receive, lambda: link.send(b"answer"), lambda: got.extend(peer.receive(9))
    )


def tcp(endpoint: str, *sends: bytes) -> socket.socket:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    raw = socket.create_connection((host, int(port)))
    for data in sends:
        raw.sendall(data)
    return raw


GREETING = bytes.fromhex("ff00000000000000017f0300")


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 16,
        GREETING + b"NULL".ljust(20, b"\0") + bytes(32),
        b"\x01\x00",
        GREETING[:11],
    ],
    ids=["silence", "http", "noise", "null greeting", "unversioned ZMTP", "half a greeting"],
)
def test_a_foreign_connection_that_is_first_does_not_take_the_slot(
    bytes_sent: bytes, guarded: PeerLink, gate: KeyGate, outside: Context, party: Party
) -> None:
    with tcp(guarded.endpoint, bytes_sent):
        until(lambda: False, gate.receive, within_s=0.05)
        assert not guarded.send(b"to nobody")
        assert both_hear(gate, guarded, honest(outside, party, guarded.endpoint), 0.9)


@pytest.mark.parametrize("who", ["no keys", "stranger", "client", "wrong server key"])
def test_only_the_peers_key_is_admitted(who: str, guarded: PeerLink, gate: KeyGate, outside: Context, party: Party) -> None:
    keys = {"no keys": None, "stranger": party.stranger, "client": party.client, "wrong server key": party.peer}[who]
    server_key = party.stranger.public if who == "wrong server key" else party.own.public
    intruder = dial(outside, zmq.PAIR, guarded.endpoint, keys, server_key)
    intruder.send(b"let me in", zmq.NOBLOCK)
    got: list[bytes] = []
    until(lambda: False, gate.receive, lambda: got.extend(guarded.receive(9)), within_s=0.15)

    assert got == []
    assert not guarded.send(b"to nobody")
    assert both_hear(gate, guarded, honest(outside, party, guarded.endpoint))
    assert (gate.refusals > 0) == (who in ("stranger", "client"))


def test_a_stranger_does_not_disturb_a_conversation(guarded: PeerLink, gate: KeyGate, outside: Context, party: Party) -> None:
    peer = honest(outside, party, guarded.endpoint)
    assert both_hear(gate, guarded, peer)
    raw = tcp(guarded.endpoint, b"\xff" * 4096)
    intruder = dial(outside, zmq.PAIR, guarded.endpoint, party.stranger, party.own.public)
    got: list[bytes] = []
    beats = [b"beat %d" % number for number in range(50)]
    for number, beat in enumerate(beats):
        assert peer.send(beat)
        assert until(lambda n=number: beats[n] in got, gate.receive, lambda: got.extend(guarded.receive(9)))
    assert [frame for frame in got if frame != b"ask"] == beats
    raw.close()
    intruder.close()


def test_nobody_is_admitted_without_a_gate(context: Context, outside: Context, party: Party) -> None:
    link = PeerLink(context, "tcp://127.0.0.1:*", binds=True, path_name="lan", keys=party.own, peer_key=party.peer.public)
    peer = honest(outside, party, endpoint_of(link.socket))
    assert not until(lambda: peer.send(b"x"), within_s=0.3)


def test_several_frames_are_dropped_and_counted(guarded: PeerLink, gate: KeyGate, outside: Context, party: Party) -> None:
    peer = honest(outside, party, guarded.endpoint)
    assert both_hear(gate, guarded, peer)
    assert peer.socket is not None
    peer.socket.send_multipart([b"one", b"two"])
    peer.socket.send_multipart([b""] * 1000)
    peer.send(b"single")
    got: list[bytes] = []
    assert until(lambda: b"single" in got, lambda: got.extend(guarded.receive(50)))
    assert {frame for frame in got if frame != b"ask"} == {b"single"}
    assert guarded.multipart == 2


def test_a_frame_at_the_limit_arrives_and_one_above_it_ends_the_connection_until_both_ends_rebuild(
    guarded: PeerLink, gate: KeyGate, outside: Context, party: Party
) -> None:
    peer = honest(outside, party, guarded.endpoint)
    assert both_hear(gate, guarded, peer)
    got: list[bytes] = []
    for size in (limits.CONTROL_FRAME_BYTES_MAX, limits.CONTROL_FRAME_BYTES_MAX + 1):
        assert peer.send(bytes(size))
        until(lambda n=size: n in map(len, got), gate.receive, lambda: got.extend(guarded.receive(9)), within_s=0.1)
    assert {len(frame) for frame in got if frame != b"ask"} == {limits.CONTROL_FRAME_BYTES_MAX}

    for link in (guarded, peer):
        link.rebuild(now_ms())
    assert until(lambda: guarded.socket is not None, lambda: guarded.tick(now_ms()))
    assert both_hear(gate, guarded, peer)
