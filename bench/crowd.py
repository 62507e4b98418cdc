"""Many real clients in few processes: each process holds a share of them and has every one send at a word.

Each client is what an application has: a thread of its own, two connections, its own key exchange. What they cost here, on the machine
that the servers are measured on too, is told beside what they see.
"""

import contextlib
import multiprocessing
import resource
import time
from array import array
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

import zmqha
from zmqha.client.handle import Handle
from zmqha.errors import ZmqhaError

QUEUE = "bench/crowd"
PATIENCE_S = 60.0
CONNECT_S = 60.0


class Seen(NamedTuple):
    """What the clients of one process saw."""

    confirmed_s: "array[float]"  # monotonic moments of their confirms, at the latest
    failed: int
    begun_cpu_s: float  # of the process, when it was told to send
    ended_cpu_s: float


class Crowd:
    """One process with ``count`` connected clients."""

    def __init__(self, url: str, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_hold, args=(theirs, url, count), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_ready(self) -> None:
        """Every client is connected, and has had a first send confirmed."""
        assert self._pipe.recv() == "ready"

    def begin(self) -> None:
        """Everybody sends; ``end`` must follow."""
        self._pipe.send("send")

    def end(self) -> Seen:
        """Wait until everybody's send is settled."""
        seen: Seen = self._pipe.recv()
        return seen

    def close(self) -> None:
        self._pipe.send("end")
        self._process.join(CONNECT_S)
        self._pipe.close()


@contextlib.contextmanager
def crowds(url: str, clients: int, processes: int) -> Iterator[list[Crowd]]:
    """All of them connected; ended afterwards."""
    made = [Crowd(url, clients // processes + (number < clients % processes)) for number in range(processes)]
    try:
        for crowd in made:
            crowd.wait_ready()
        yield made
    finally:
        for crowd in made:
            crowd.close()


def _hold(pipe: Connection, url: str, count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(zmqha.connect(url, wait=False, name=f"crowd-{number}")) for number in range(count)]
        _settle([client.send_nowait(QUEUE, b"here") for client in clients], array("d"))
        pipe.send("ready")
        while pipe.recv() == "send":
            begun, confirmed = time.process_time(), array("d")
            failed = _settle([client.send_nowait(QUEUE, b"again") for client in clients], confirmed)
            pipe.send(Seen(confirmed, failed, begun, time.process_time()))


def _settle(handles: list[Handle], confirmed: "array[float]") -> int:
    """Wait for each; a moment is noted when it is this one's turn, so never too early. How many failed."""
    failed = 0
    for handle in handles:
        try:
            handle.result(PATIENCE_S)
            confirmed.append(time.monotonic())
        except ZmqhaError:
            failed += 1
    return failed
