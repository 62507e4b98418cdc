"""The pair of the demo: a temporary directory with what ``zmqha init --single-machine`` writes, and two real servers."""

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmqha
from zmqha.cli import contexts, provision
from zmqha.cli.demo.gateway import Gateway
from zmqha.cli.demo.interrupt import shielded
from zmqha.cli.demo.ports import Ports
from zmqha.cli.demo.relay import HOST, Cable
from zmqha.cli.demo.server import LogEvent, Server
from zmqha.cli.status import SERVING
from zmqha.errors import ZmqhaError

NAMES = ("A", "B")
STOP_S = 4.0
_ANSWER_S = 0.5
_LIMITS = "\n[limits]   # small: this is a demo\ndisk_reserve_bytes = 1048576\njournal_segment_bytes = 8388608\n"


class Pair:
    """A context manager: whatever happens, nothing is left behind."""

    def __init__(self, *, cable: bool = False) -> None:
        """``cable``: the peer link goes through a relay that can be cut."""
        self.directory = Path(tempfile.mkdtemp(prefix="zmqha-demo-"))
        try:
            self._ports = Ports()
            self.gateway = Gateway()
            first, second = provision.single_machine_pair(NAMES, self._ports.base)
            plan = provision.Plan(
                self.directory / "pair", first, second, cluster="demo", gateway_kind="tcp",
                gateway_addresses=(self.gateway.address,), single_machine=True,
            )  # fmt: skip
            self.config = provision.write(plan)
            with self.config.open("a") as file:
                file.write(_LIMITS)
            peers = {machine.name: machine.peer_port for machine in plan.machines}
            owners = {port + more: name for name, port in peers.items() for more in (0, 1)}
            self.cable = Cable(owners) if cable else None
            self.context = self.config.parent / "client" / "context.toml"
            self.url = contexts.read(str(self.context)).url
            self.endpoints = {machine.name: f"{machine.host}:{machine.client_port}" for machine in plan.machines}
            self.servers = {}
            for name, other in zip(NAMES, reversed(NAMES), strict=True):
                environment = {**_without_settings(), "ZMQHA_LOG__FORMAT": "json"}
                if cable:
                    environment[f"ZMQHA_SERVER__{other}__PEER"] = f"{HOST}:{peers[other]}"
                self.servers[name] = Server(name, self.config, self.directory / f"{name}.log", environment)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        self._asker: zmqha.Client | None = None
        self.log: list[LogEvent] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with shielded():
            self.close()

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def start(self) -> None:
        """Both servers; ``wait_in_sync`` follows."""
        for server in self.servers.values():
            server.start()
        self._asker = zmqha.connect(self.url, wait=False, name="demo-look")

    def other(self, name: str) -> str:
        """The peer's name."""
        return NAMES[1 - NAMES.index(name)]

    def new_events(self) -> list[LogEvent]:
        """What both have logged since the last call, in order."""
        fresh = (event for server in self.servers.values() for event in server.new_events())
        found = sorted(fresh, key=lambda event: event.time)
        self.log += found
        return found

    def row(self, name: str) -> dict[str, Any]:
        """What a server says of itself; {} if it does not answer."""
        if self._asker is None or not self[name].running:
            return {}
        try:
            view = self._asker.admin("status", {}, _ANSWER_S, NAMES.index(name))
        except ZmqhaError:
            return {}
        return next((dict(row) for row in view["servers"] if row["name"] == name), {})

    def rows(self) -> dict[str, dict[str, Any]]:
        """Both."""
        return {name: self.row(name) for name in NAMES}

    def active(self) -> str:
        """Who serves now; "" if nobody."""
        return next((name for name, row in self.rows().items() if row.get("state") in SERVING), "")

    def in_sync(self) -> bool:
        """One ACTIVE, the other PASSIVE, nothing under way."""
        rows = list(self.rows().values())
        return {row.get("state") for row in rows} == {"ACTIVE", "PASSIVE"} and not any(row.get("sub") for row in rows)

    def switchover(self, to: str) -> None:
        """Asked of the one that serves; done when the other serves."""
        assert self._asker is not None
        self._asker.admin("switchover", {"to": to}, STOP_S, NAMES.index(self.other(to)))

    def last_words(self) -> str:
        """Both servers', for an error's ``why``."""
        return "; ".join(f"{name}: {server.last_words()}" for name, server in self.servers.items())

    def close(self) -> None:
        """End servers, watchers, gateway; remove the directory."""
        first = self.other(self.active()) if self.active() else NAMES[1]  # the passive first: nobody waits for a hand-over
        if self._asker is not None:
            self._asker.close()
        for name in (first, self.other(first)):
            self[name].note_watcher()
            self[name].ask_to_stop()
            self[name].make_sure(STOP_S)
        if self.cable is not None:
            self.cable.close()
        self.gateway.close()
        self._ports.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def position_of(rows: dict[str, dict[str, Any]]) -> tuple[int, int, str] | None:
    """The one position that both have (epoch, transaction, chain digest); None if they differ or one does not answer."""
    found = {(row.get("epoch"), row.get("txn"), row.get("chain")) for row in rows.values()}
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and None not in only else None  # type: ignore[return-value]


def _without_settings() -> dict[str, str]:
    """The environment without overrides meant for another server."""
    kept = {name: value for name, value in os.environ.items() if not (name.startswith("ZMQHA_") and "__" in name)}
    package = str(Path(zmqha.__file__).parents[1])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (package, kept.get("PYTHONPATH", ""))))}
