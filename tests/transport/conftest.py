"""Real sockets on 127.0.0.1, ephemeral ports, everything in one thread: ``until`` turns the parts until something is true."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import zmq

from zmqha.transport.security import KeyGate, Keys
from zmqha.transport.sockets import Context, Socket

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def until(condition: Callable[[], object], *turns: Callable[[], object], within_s: float = 3.0) -> bool:
    """Calls every turn, then asks, until it is true (True) or the time is over (False)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        for turn in turns:
            turn()
        if condition():
            return True
        time.sleep(0.002)
    return False


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Party(NamedTuple):
    """Everybody's keys in one test."""

    own: Keys
    peer: Keys
    client: Keys
    stranger: Keys


@pytest.fixture
def context() -> Iterator[Context]:
    made: Context = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture(scope="session")
def party() -> Party:
    return Party(*(Keys(*zmq.curve_keypair()) for _ in Party._fields))


@pytest.fixture
def gate(context: Context, party: Party) -> KeyGate:
    made = KeyGate(context)
    made.admit_peer(party.peer.public)
    made.admit_clients([party.client.public])
    return made


@pytest.fixture
def outside() -> Iterator[Context]:
    """The context of somebody else's process."""
    made: Context = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a script of this directory; kills what is left in the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env=os.environ | {"PYTHONPATH": str(ROOT)}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def dial(context: Context, kind: int, endpoint: str, keys: Keys | None = None, server_key: bytes | None = None) -> Socket:
    """A socket of somebody outside, without any of our hardening."""
    socket: Socket = context.socket(kind)
    for option, value in ((zmq.LINGER, 0), (zmq.SNDTIMEO, 3000), (zmq.RCVTIMEO, 3000)):
        socket.setsockopt(option, value)
    if keys is not None and server_key is not None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
    socket.connect(endpoint)
    return socket


def endpoint_of(socket: Socket | None) -> str:
    """Where a socket bound to port 0 listens."""
    assert socket is not None
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
