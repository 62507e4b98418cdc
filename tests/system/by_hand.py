"""Talking to a server by hand: raw bytes, ZMTP's handshake, single commands; what no client library would say."""

import contextlib
import socket
import time

import zmq

from tests.system.matrix import Run
from tests.system.pair import Pair
from tests.system.test_bad_input import Stranger
from zmqha.core.client_protocol import Command, Envelope, Failure, Open, Opened, decode, encode

MINE = {"server": "cluster/client_port", "own": "client/client"}
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32
_READY = b"\x05READY" + b"\x0bSocket-Type\x00\x00\x00\x06DEALER" + b"\x08Identity\x00\x00\x00\x00"
READY = bytes([4, len(_READY)]) + _READY


def ports(both: Pair) -> list[int]:
    """Those that are bound: the secondary connects to the primary's control port."""
    return [*both.ports.values(), *(port + 1 for port in both.peer_ports.values()), both.peer_ports["a"]]


def connected(port: int) -> socket.socket:
    """A plain TCP connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def joined(port: int) -> socket.socket:
    """One that has done ZMTP's NULL handshake by hand, as a DEALER."""
    raw = connected(port)
    raw.sendall(GREETING + READY)
    received = b""
    while len(received) < 66 or len(received) < 66 + received[65]:
        data = raw.recv(4096)
        assert data, f"the handshake was refused after {len(received)} bytes"
        received += data
    return raw


def closed_after(raw: socket.socket, within_s: float) -> float | None:
    """How long until the other side closed it; None if it did not."""
    raw.settimeout(within_s)
    began = time.monotonic()
    try:
        while raw.recv(1 << 16):
            pass
    except TimeoutError:
        return None
    except OSError:
        pass
    return time.monotonic() - began


class Talker(Stranger):
    """A client of the protocol by hand: says a command, hears what comes."""

    def __init__(self, both: Pair, name: str | None = None) -> None:
        port = both.ports[name or both.active()]
        keys = zmq.auth.load_certificate(both.directory / "keys" / "client" / "client.key_secret") if both.curve else None
        server = both.public_key("cluster/client_port") if both.curve else ""
        super().__init__(zmq.DEALER, port, server_key=server, keys=keys)  # type: ignore[arg-type]

    def say(self, command: Command | list[bytes], timeout_ms: int = 2000) -> Command | None:
        """The first answer."""
        frames = command if isinstance(command, list) else encode(command, request=1)
        answer = self.ask(frames, timeout_ms)
        return decode(answer).command if answer else None

    def hear(self, timeout_ms: int = 500) -> Envelope | None:
        """What comes next."""
        self.socket.setsockopt(zmq.RCVTIMEO, timeout_ms)
        with contextlib.suppress(zmq.Again):
            return decode(self.socket.recv_multipart())
        return None

    def opened(self) -> "Talker":
        assert isinstance(self.say(Open((1, 1), "by hand")), Opened)
        return self


def refused(run: Run, answer: Command | None, *errors: type[Exception], what: str) -> None:
    """Answered with one of these errors."""
    codes = {error.code for error in errors}  # type: ignore[attr-defined]
    run.expect(isinstance(answer, Failure) and answer.code in codes, f"{what} was answered with {str(answer)[:120]}")
