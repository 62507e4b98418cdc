"""A pair of real servers on this machine, for the benches, and what /proc says of their CPU and memory.

The parts are those of ``zmqha demo`` (processes, logs, ports, stand-in gateway), the configuration is what ``zmqha init`` writes, with
default timers and limits; plain unless CURVE is asked for. Which tree is measured is what ``import zmqha`` finds (PYTHONPATH).
"""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zmqha
from zmqha.cli import contexts, provision
from zmqha.cli.demo.gateway import Gateway
from zmqha.cli.demo.ports import Ports
from zmqha.cli.demo.server import LogEvent, Server
from zmqha.errors import ZmqhaError

NAMES = ("a", "b")
SERVING = ("ACTIVE", "STANDALONE")
READY_S = 30.0
ANSWER_S = 0.5
LOOK_S = 0.02
STOP_S = 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Cpu(NamedTuple):
    """Processor time of one process, in seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system


def cpu_of(pid: int, *, children: bool = False) -> Cpu:
    """From /proc: all threads, in steps of 10 ms; and ``children`` that have ended and were waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, child_user, child_system = (int(field) / _TICKS for field in fields[11:15])
    return Cpu(user + child_user, system + child_system) if children else Cpu(user, system)


class Memory(NamedTuple):
    """What a process holds, in bytes."""

    private: int  # shared with nobody, and it takes memory until the process gives it back
    mapped: int  # pages of files it maps shared, as the store's: the kernel's cache, which it takes back when it needs to


def memory_of(pid: int) -> Memory:
    """From /proc. The kernel counts a page of a file as private where just one process maps it; here such pages stand apart."""
    private = mapped = 0
    shared = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            shared = rest[3:4] == "s"  # a new mapping: addresses, then rwx and s(hared) or p(rivate)
        elif name == "Rss:" and shared:
            mapped += int(rest.split()[0])
        elif name.startswith("Private_") and not shared:
            private += int(rest.split()[0])
    return Memory(private * 1024, mapped * 1024)


def private_bytes(pid: int) -> int:
    """Memory that this process shares with nobody, without the pages of files that it maps."""
    return memory_of(pid).private


def other(name: str) -> str:
    """The peer of a server."""
    return NAMES[1 - NAMES.index(name)]


class Pair:
    """Both servers. Made by ``pair``."""

    def __init__(self, directory: Path, *, curve: bool) -> None:
        self.gateway = Gateway()
        self._ports = Ports()
        primary, secondary = provision.single_machine_pair(NAMES, self._ports.base)
        plan = provision.Plan(
            directory / "pair", primary, secondary, "bench", gateway_kind="tcp", gateway_addresses=(self.gateway.address,),
            single_machine=True, curve=curve,
        )  # fmt: skip
        config = provision.write(plan)
        self._data = config.parent / plan.data_dir
        package = str(Path(zmqha.__file__).parents[1])
        paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": paths, "ZMQHA_LOG__FORMAT": "json"}
        self.servers = {name: Server(name, config, directory / f"{name}.log", environment) for name in NAMES}
        self.url = contexts.read(str(config.parent / "client" / "context.toml")).url
        self._asker = zmqha.connect(self.url, wait=False, name="bench-look")

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def data(self, name: str) -> Path:
        """A server's data directory."""
        return self._data / name

    def connect(self, **options: Any) -> zmqha.Client:
        return zmqha.connect(self.url, **options)

    def start(self) -> None:
        """Start what does not run; return when both are in sync."""
        for server in self.servers.values():
            if not server.running:
                server.start()
        self.wait_in_sync()

    def close(self) -> None:
        """End what still runs, and give everything back."""
        self._asker.close()
        for server in self.servers.values():
            if server.running:
                server.note_watcher()
                os.kill(server.pid, signal.SIGCONT)
                server.kill()
            server.make_sure(STOP_S)
        self.gateway.close()
        self._ports.close()

    def new_events(self) -> list[LogEvent]:
        """What both have logged since the last call, in order."""
        return sorted((event for server in self.servers.values() for event in server.new_events()), key=lambda event: event.time)

    def row(self, name: str) -> dict[str, Any]:
        """What a server says of itself; empty if it does not answer."""
        if not self[name].running:
            return {}
        try:
            rows = self._asker.admin("status", {}, ANSWER_S, NAMES.index(name))["servers"]
        except ZmqhaError:
            return {}
        return next((row for row in rows if row["name"] == name), {})

    def active(self) -> str:
        """The name of the server that serves; waits for one."""
        found: list[str] = []

        def serves() -> bool:
            found[:] = [name for name in NAMES if self.row(name).get("state") in SERVING]
            return bool(found)

        self.wait(serves, "a server that serves")
        return found[0]

    def wait_in_sync(self) -> None:
        """One ACTIVE, its grant accepted; the other PASSIVE."""

        def in_sync() -> bool:
            rows = [self.row(name) for name in NAMES]
            return {row.get("state") for row in rows} == {"ACTIVE", "PASSIVE"} and not any(row["sub"] for row in rows)

        self.wait(in_sync, "the pair in sync")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Poll; end the bench with both servers' last words if it does not come."""
        deadline = time.monotonic() + READY_S
        while not condition():
            if time.monotonic() > deadline:
                words = "; ".join(f"{name}: {server.last_words()}" for name, server in self.servers.items())
                raise SystemExit(f"{what}: not within {READY_S:g} s ({words})")
            time.sleep(LOOK_S)


@contextlib.contextmanager
def pair(directory: Path, *, curve: bool = False) -> Iterator[Pair]:
    """A pair in sync with its files in a new directory below ``directory``; ended and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="zmqha-bench-", dir=directory) as place:
        made = Pair(Path(place), curve=curve)
        try:
            made.start()
            yield made
        finally:
            made.close()
