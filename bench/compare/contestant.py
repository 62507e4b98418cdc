"""What a message system must offer to be compared, and the server processes that it is made of.

A contestant is one way to run one system: its servers on loopback, their data in a directory, their settings, the words for what its
acknowledgement promises. Its load is done by processes of their own (``load.Worker``), connected by the contestant's recipe.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from load import Consume, Done, OneByOne, Paced, Pipelined, Recipe
from pair import cpu_of, private_bytes

PREFETCH = 500  # messages on their way to a consumer, or fetched at once, in every contestant
WINDOW = 1000  # unconfirmed messages of a pipelining producer, where a contestant leaves that to its user
WINDOW_BYTES = 1 << 20  # and their bytes
READY_S = 60.0
LOOK_S = 0.02
STOP_S = 10.0
PORTS = range(30_000, 32_700)  # below those that the kernel hands out by itself, and beside those of zmqha's demo


def window(size: int) -> int:
    """How many messages of this size a pipelining producer may have unconfirmed."""
    return max(16, min(WINDOW, WINDOW_BYTES // max(1, size)))


class CannotCompare(Exception):
    """A contestant, or one measurement of it, is not possible; the text says why."""


class Words(NamedTuple):
    """What the table says of a contestant beside its figures."""

    promise: str  # what an acknowledgement guarantees: a few words for each row
    acknowledged: str  # the same in full
    settings: str  # how it is set up, as far as it is not the default
    client: str  # which client, and how it pipelines


class Contestant(Protocol):
    """One system, set up in one way. Made with the directory for its files; nothing runs before ``start``."""

    name: str
    words: Words
    errors: tuple[type[Exception], ...]  # what its client library raises

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here; None: it can."""
        ...

    def start(self) -> None:
        """All servers run, are joined, and can take messages."""

    def stop(self) -> None:
        """Every process that was started is gone. Always called, also when ``start`` failed."""

    def versions(self) -> dict[str, str]:
        """Of servers and client library."""
        ...

    def pids(self) -> dict[str, int]:
        """The server processes that run, by what they are."""
        ...

    def recipe(self) -> Recipe:
        """How load processes connect."""
        ...

    def make(self, queue: str) -> None:
        """A new, empty queue."""

    def drop(self, queue: str) -> None:
        """Remove it with all that is in it."""

    def depth(self, queue: str) -> int:
        """Messages in it that nobody has acknowledged."""
        ...

    def kill_leader(self, queue: str) -> None:
        """SIGKILL to the server that leads this queue (with its clients on it); returns at once."""

    def heal(self) -> None:
        """The killed server runs again and has all that the others have."""


class Load(Protocol):
    """A client's way to do each of the jobs: the values of ``load`` say what, this says how."""

    def one_by_one(self, job: OneByOne) -> Done: ...

    def pipelined(self, job: Pipelined) -> Done: ...

    def paced(self, job: Paced) -> Done: ...

    def consume(self, job: Consume) -> Done: ...


def doer(load: Load, before: Callable[[], None] = lambda: None) -> Callable[[Any], Done]:
    """Does any job with this client, after what must be done before each."""

    def do(job: Any) -> Done:
        before()
        match job:
            case OneByOne():
                return load.one_by_one(job)
            case Pipelined():
                return load.pipelined(job)
            case Paced():
                return load.paced(job)
            case Consume():
                return load.consume(job)
        raise TypeError(f"no such job: {job}")

    return do


class Process:
    """One server process and what it has forked: a session of its own, ended as a whole. Its words go to a file."""

    def __init__(self, command: Sequence[str | Path], directory: Path, name: str, environment: Mapping[str, str] | None = None):
        self.log = directory / f"{name}.log"
        # setpriv: should this bench be killed without a chance to clean up, the kernel ends the server.
        self._command = ["setpriv", "--pdeathsig", "KILL", *map(str, command)]
        self._directory = directory
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, cwd=self._directory,
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL to all of the session's group; nothing is waited for."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """It and what it has forked are gone when this returns: nobody writes into the directory any more."""
        if self._process is None:
            return
        self.kill()
        self._process.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(LOOK_S)
        self._process = None  # its number may soon be somebody else's

    def last_words(self) -> str:
        """For an error's reason."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return " | ".join([line.strip() for line in lines if line.strip()][-3:]) or "it said nothing"


def wait_for(condition: Callable[[], bool], what: str, processes: Sequence[Process] = (), seconds: float = READY_S) -> None:
    """Poll until it holds; CannotCompare if it does not come, or if one of the processes ends meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        ended = [process for process in processes if not process.running]
        if ended or time.monotonic() > deadline:
            why = "a server has ended" if ended else f"not within {seconds:g} s"
            words = "; ".join(process.last_words() for process in ended or processes)
            raise CannotCompare(f"{what}: {why} ({words})")
        time.sleep(LOOK_S)


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nobody listens now."""
    found: list[int] = []
    offset = os.getpid() * 37 % len(PORTS)
    for at in range(len(PORTS)):
        port = PORTS[(offset + at) % len(PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == count:
            return found
    raise CannotCompare(f"no {count} free ports on 127.0.0.1 from {PORTS.start} to {PORTS.stop}")


def cpu_s(pids: Mapping[str, int]) -> float:
    """Processor time of these processes and of the children they have waited for (redis rewrites its file in one), in seconds."""
    return sum(cpu_of(pid, children=True).total for pid in pids.values())


def private_mib(pids: Mapping[str, int]) -> float:
    """Memory of these processes that they share with nobody; the page cache does not count."""
    return sum(private_bytes(pid) for pid in pids.values()) / 2**20


@contextlib.contextmanager
def started(contestant: Contestant) -> Iterator[Contestant]:
    """It runs as long as the context lasts."""
    try:
        contestant.start()
        yield contestant
    finally:
        contestant.stop()
