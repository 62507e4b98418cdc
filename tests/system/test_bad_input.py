"""Whoever is no honest client or peer is refused at every port, told about once a second at most, and disturbs nobody."""

import itertools
import random
import socket
import time
from collections import Counter

import pytest
import zmq

from tests.system.load import Producer, Reader
from tests.system.measure import close_history
from tests.system.pair import Pair, pair
from zmqha.core import limits
from zmqha.core.client_protocol import VERSION as PROTOCOL
from zmqha.core.client_protocol import Failure, Open, Ping, Send, Subscribe, decode, encode
from zmqha.errors import ProtocolError, VersionMismatch, WrongState

RATE = 200


class Stranger:
    """A ZeroMQ socket with any key, or none."""

    def __init__(self, kind: int, port: int, *, server_key: str = "", keys: tuple[bytes, bytes] | None = None) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        if server_key:
            public, secret = keys or zmq.curve_keypair()
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def ask(self, frames: list[bytes], timeout_ms: int = 300) -> list[bytes] | None:
        """The answer, None if there is none."""
        self.socket.setsockopt(zmq.SNDTIMEO, timeout_ms)
        self.socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        try:
            self.socket.send_multipart(frames)
            return self.socket.recv_multipart()
        except zmq.Again:
            return None

    def close(self) -> None:
        self.context.destroy(linger=0)


def ask(both: Pair, kind: int, port: int, frames: list[bytes], server: str = "", own: str = "") -> list[bytes] | None:
    """One question by a stranger, who knows the public key ``server`` and holds the key ``own`` ("": a new one)."""
    keys = zmq.auth.load_certificate(both.directory / "keys" / f"{own}.key_secret") if own else None
    assert keys is None or keys[1] is not None
    key = both.public_key(server) if server else ""
    stranger = Stranger(kind, port, server_key=key, keys=keys)  # type: ignore[arg-type]
    try:
        return stranger.ask(frames)
    finally:
        stranger.close()


def throw(port: int, chance: random.Random, times: int) -> None:
    """Connections with random bytes, half a greeting, or silence."""
    held = []
    for number in range(times):
        connection = socket.create_connection(("127.0.0.1", port), timeout=2)
        what = (
            chance.randbytes(chance.randrange(1, 20_000)),
            b"\xff\0\0\0\0\0\0\0\x01\x7f\x09\x09",
            b"GET / HTTP/1.1\r\n\r\n",
            b"",
        )
        try:
            connection.sendall(what[number % 4])
        except OSError:
            pass
        held.append(connection)
    time.sleep(0.2)
    for connection in held:
        connection.close()


def open_frames() -> list[bytes]:
    return encode(Open((PROTOCOL, PROTOCOL), "a stranger"), request=1)


def wrong_messages(chance: random.Random) -> list[list[bytes]]:
    """What a client with the right key may get wrong."""
    good = open_frames()[0]
    return [
        [b""], [b"", b""], [chance.randbytes(16)], [chance.randbytes(300)], [good[:5]], [b"x"] * 3, [b""] * 2000,
        [good[:4] + b"\xff" + good[5:]], [good[:5] + b"\xee" + good[6:]], [good + b"trailing" * 10],
        encode(Send("q", b"no batch")), encode(Send("../../etc/passwd", chance.randbytes(100))),
        [encode(Ping())[0], chance.randbytes(1000)],
    ]  # fmt: skip


def assert_told_sparingly(both: Pair, *, least: int) -> None:
    """Per kind of refusal at most one line a second, and some at all."""
    lines = 0
    for server in both.servers.values():
        for event in ("input.refused", "key.refused"):
            told = server.events(event)
            lines += len(told)
            moments = [line[11:23] for line in told]
            at = [int(m[:2]) * 3600 + int(m[3:5]) * 60 + float(m[6:]) for m in moments]
            assert all(later - earlier > 0.95 for earlier, later in itertools.pairwise(at)), told
    assert lines >= least
    text = "".join(server.log_text() for server in both.servers.values())
    assert "Traceback" not in text, text


def pids(both: Pair) -> Counter[int]:
    return Counter(server.pid for server in both.servers.values() if server.running)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("curve", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["curve", "plain"])
def test_garbage_at_every_port(curve: bool) -> None:
    with pair(curve=curve) as both:
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        before, chance = pids(both), random.Random(7)
        for name in "ab":
            ports = (both.ports[name], both.peer_ports[name], both.peer_ports[name] + 1)
            for port in ports:
                if name == "b" and port == both.peer_ports["b"]:
                    continue  # the secondary's control port is not bound: it connects to the primary's
                throw(port, chance, 25)
        mine = {"server": "cluster/client_port", "own": "client/client"} if curve else {}
        for frames in wrong_messages(chance):
            ask(both, zmq.DEALER, both.ports[both.active()], frames, **mine)
        assert_answers(both, mine)
        # Above the largest frame: the connection is closed, so what follows on it is not answered.
        stranger_sends_too_much(both, mine)
        producer.wait_confirmed(100)
        assert pids(both) == before
        assert_told_sparingly(both, least=1)
        # The peer's place was not taken: it is found again.
        passive = both.passive()
        both[passive].kill()
        both[passive].start()
        both.wait_in_sync()
        close_history(both, [producer], [reader])


def assert_answers(both: Pair, mine: dict[str, str]) -> None:
    """What is understood and wrong is answered by name."""
    port = both.ports[both.active()]
    other_version = bytearray(open_frames()[0])
    other_version[1] = 255
    questions = {
        VersionMismatch.code: encode(Open((99, 99), "from the future"), request=1),
        ProtocolError.code: [b"\x5a" + bytes(40)],
        WrongState.code: encode(Subscribe(1, "q", 10, 1000), request=1),
    }
    for code, frames in questions.items():
        answer = ask(both, zmq.DEALER, port, frames, **mine)
        assert answer is not None, code
        command = decode(answer).command
        assert isinstance(command, Failure) and command.code in (code, VersionMismatch.code), command
    answer = ask(both, zmq.DEALER, port, [bytes(other_version)], **mine)
    assert answer is not None and isinstance(decode(answer).command, Failure)


def stranger_sends_too_much(both: Pair, mine: dict[str, str]) -> None:
    port = both.ports[both.active()]
    huge = bytes(limits.CLIENT_FRAME_BYTES_MAX + 100)
    assert ask(both, zmq.DEALER, port, [open_frames()[0], huge], **mine) is None
    assert ask(both, zmq.DEALER, port, open_frames(), **mine) is not None
    bulk = {"server": f"{both.active()}/peer", "own": f"{both.passive()}/peer"} if mine else {}
    ask(both, zmq.DEALER, both.peer_ports[both.active()] + 1, [bytes(limits.BULK_FRAME_BYTES_MAX + 100)], **bulk)
    ask(both, zmq.DEALER, both.peer_ports[both.active()] + 1, [b"\x93nonsense", b"x"], **bulk)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_the_wrong_key_at_either_port() -> None:
    with pair(curve=True) as both:
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        before = pids(both)
        for name in "ab":
            client, bulk = both.ports[name], both.peer_ports[name] + 1
            assert ask(both, zmq.DEALER, client, open_frames(), "cluster/client_port", "client/client") is not None
            refused = [
                ask(both, zmq.DEALER, client, open_frames()),  # no CURVE at all
                ask(both, zmq.DEALER, client, open_frames(), "cluster/client_port"),  # an unknown key
                ask(both, zmq.DEALER, client, open_frames(), "client/client", "client/client"),  # the wrong server key
                ask(both, zmq.DEALER, client, open_frames(), "cluster/client_port", f"{name}/peer"),  # a peer's key
                ask(both, zmq.DEALER, bulk, open_frames(), f"{name}/peer", "client/client"),  # a client's key at the peer port
                ask(both, zmq.DEALER, bulk, open_frames(), f"{name}/peer"),
                ask(both, zmq.DEALER, bulk, open_frames()),
            ]
            assert refused == [None] * len(refused)
        control = both.peer_ports["a"]
        assert ask(both, zmq.PAIR, control, open_frames(), "a/peer", "client/client") is None
        assert ask(both, zmq.PAIR, control, open_frames(), "a/peer") is None
        assert both.active()
        assert pids(both) == before
        assert_told_sparingly(both, least=2)
        close_history(both, [producer], [reader])
