"""The fault lab: a pair as users run it (CURVE, real pings, two machines' worth of network) in namespaces, under load, watched.

``a`` is the primary and normally the active; a producer in the client's namespace names both servers; in each server's own namespace
another producer knows only that one, which would confirm to it whatever a split pair must not, and asks it for its state every 25 ms.
``settle`` ends the faults, waits until both are in sync, drains the queue and judges everything. Times are CLOCK_MONOTONIC.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq.auth

from tests.system import lab_net
from tests.system.lab_history import History, Sample, Verdict, both_serve, judge, overlapping_epochs
from tests.system.lab_net import LAN, OTHER, PEER, Net
from tests.system.pair import ROOT, Server
from tests.system.wire import write_settings
from zmqha.cli import provision
from zmqha.server.settings import CLIENT_PORT

READY_S = 20.0
HEAL_S = 30.0
BOTH_DISKS = 2
SAMPLE_S = 0.4  # a sample older than this says nothing of now
RATES = {"client": 200, "a": 20, "b": 20}
# For tests that assert that nothing changes: a busy machine that stops a server for a second is not what they are about.
CALM = {"lost_ms": 1500, "silent_ms": 1200, "decide_ms": 2200, "pause_ms": 1500, "fresh_ms": 1000, "isolated_ms": 2400}


FULL = pytest.mark.skipif(not os.environ.get("ZMQHA_FULL"), reason="one of the long ones: set ZMQHA_FULL=1")


class Lab:
    """One network, one pair, its load. Made by ``lab``."""

    def __init__(
        self,
        directory: Path,
        *,
        timers: dict[str, int] | None = None,
        cluster: dict[str, str] | None = None,
        rates: dict[str, int] | None = None,
        wire: bool = False,
        disk_mib: int = 0,
    ) -> None:
        self.directory = directory
        self.net = Net(wire=wire)
        self.wire_settings = directory / "wire.json"
        self._wired = wire
        machines = [provision.Machine(name, LAN[name], PEER[name]) for name in ("a", "b")]
        plan = provision.Plan(directory / "pair", *machines, cluster="lab", gateway_addresses=(LAN["gateway"],))
        self.config = provision.write(plan)
        limits = {"disk_reserve_bytes": 1 << 20, "journal_segment_bytes": 8 << 20}
        self._rates = rates or RATES
        for key, value in (cluster or {}).items():
            self.config.write_text(re.sub(f"(?m)^{key} = .*$", f'{key} = "{value}"', self.config.read_text()))
        with self.config.open("a") as config:
            for section, values in (("timers", timers or {}), ("limits", limits)):
                config.write("\n".join(["", f"[{section}]", *(f"{key} = {value}" for key, value in values.items()), ""]))
        self.servers = {name: Server(self, name) for name in ("a", "b")}  # type: ignore[arg-type]
        self.histories = {who: History(directory / f"{who}.history") for who in RATES}
        self.drained = History(directory / "drain.history")
        self._loads: dict[str, subprocess.Popen[bytes]] = {}
        self._disks = [self.data(name) for name in ("a", "b")] if disk_mib else []
        for place in self._disks:
            place.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_mib}m", "tmpfs", str(place)], check=True, timeout=10)

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def prefix(self, name: str) -> list[str]:
        """What stands before a server's program (asked by ``Server``)."""
        return self.net.prefix(name)

    def data(self, name: str) -> Path:
        """A server's data directory; a file system of its own if ``disk_mib`` was given."""
        return self.config.parent / "data" / name

    def ballast(self, name: str) -> Path:
        """A file that fills a disk."""
        return self.data(name) / "ballast"

    def free_bytes(self, name: str) -> int:
        return shutil.disk_usage(self.data(name)).free

    def url(self, *names: str) -> str:
        """For clients of these servers."""
        base = self.config.parent
        public, _ = zmq.auth.load_certificate(base / "cluster" / "client_port.key")
        hosts = ",".join(f"{LAN[name]}:{CLIENT_PORT}" for name in names)
        return f"zmqha://{hosts}?curve_server_key={_quoted(public.decode())}&curve_key_file={base}/client/client.key_secret"

    # --- from start to end --------------------------------------------------------------------------------------------------

    def start(self) -> "Lab":
        """Everything, until both are in sync, a is active and confirms flow."""
        if self._wired:
            write_settings(self.wire_settings)
        self.net.build(self.wire_settings if self._wired else None)
        for server in self.servers.values():
            server.start()
        self.start_watching("a")
        self.start_watching("b")
        self.wait_in_sync(READY_S)
        self._load("client", self.url("a", "b"))
        self.wait(lambda: len(self.histories["client"].read().confirmed) > 20, "confirms")
        return self

    def start_watching(self, name: str) -> None:
        """The producer that knows only this server, and its questions."""
        self._load(name, self.url(name), "watch")

    def close(self) -> None:
        """End every process by its pid, then the network by its name."""
        for process in self._loads.values():
            process.kill()
            process.wait()
        for server in self.servers.values():
            if server.running:
                server.signal(signal.SIGCONT)
                server.kill()
        self.net.close()
        for place in self._disks:
            subprocess.run(["umount", "-l", str(place)], check=True, timeout=10)

    def settle(self, timeout_s: float = HEAL_S, *, frozen: bool = False, merged: bool = False, refused: bool = False) -> Verdict:
        """Heal, wait for both in sync, stop the load, compare the stores, drain, judge. Fails on any violation.

        ``frozen``: a server was stopped and went on, so confirms of its last moment may have surfaced late (I4). ``merged``: both
        served on purpose and two branches became one: its order is lost, and what was in doubt at the split may be there twice, with
        the flag. ``refused``: a disk was full, so sends may have failed.
        """
        healed = time.monotonic()
        self.net.heal()
        self.wait_in_sync(timeout_s)
        self.note("in sync after healing, s", time.monotonic() - healed)
        for process in self._loads.values():
            process.send_signal(signal.SIGUSR1)
        self.wait(lambda: all(history.read().unknown is not None for history in self.histories.values()), "the end of the load")
        self.wait_in_sync(timeout_s)
        self.wait(self._equal, "equal stores")
        drain = [*self.net.prefix("client"), sys.executable, str(ROOT / "tests" / "system" / "lab_load.py")]
        drain += [self.url("a", "b"), str(self.drained.file), "drain"]
        subprocess.run(drain, timeout=60, check=True, env=_environment())
        verdict = judge({who: history.read() for who, history in self.histories.items()}, self.drained.read())
        self.note("confirmed messages", verdict.confirmed)
        self.note("unknown outcomes that were stored", verdict.recovered)
        if merged:
            self.note("stored twice", len(verdict.twice))
            twice = [one for one in verdict.twice if (one.split()[0], int(one.split()[1])) not in self.drained.flagged]
            judged = verdict._replace(disordered=[], twice=twice)
        else:
            judged = verdict
        assert judged.clean, (verdict, self.logs())
        failed = [history.failed for history in self.histories.values() if history.failed]
        assert refused or not failed, failed
        if not merged:
            self.assert_never_two(late_confirms=frozen)
        return verdict

    def admin(self, name: str, verb: str, **arguments: object) -> Any:
        """An operator's order to one server, given in its own namespace; the answer."""
        code = "import json, sys, zmqha\nwith zmqha.connect(sys.argv[1], wait=False) as client: "
        code += "print(json.dumps(client.admin(sys.argv[2], json.loads(sys.argv[3]), 5.0, 0)))"
        command = [*self.net.prefix(name), sys.executable, "-c", code, self.url(name), verb, json.dumps(arguments)]
        answered = subprocess.run(command, timeout=20, check=True, env=_environment(), stdout=subprocess.PIPE)
        return json.loads(answered.stdout)

    # --- what is going on ---------------------------------------------------------------------------------------------------

    def sample(self, name: str) -> Sample | None:
        """The newest answer, None if there is none young enough."""
        samples = self.histories[name].read().samples
        fresh = bool(samples) and time.monotonic() - samples[-1].answered < SAMPLE_S
        return samples[-1] if fresh else None

    def state(self, name: str) -> str:
        sample = self.sample(name)
        return sample.state if sample else "unreachable"

    def row(self, name: str) -> dict[str, Any]:
        sample = self.sample(name)
        return sample.row if sample else {}

    def active(self) -> str:
        """Who serves; fails if nobody does."""
        serving = [name for name in ("a", "b") if (sample := self.sample(name)) and sample.serves]
        assert len(serving) == 1, (serving, self.logs())
        return serving[0]

    def served_since(self, since: float) -> list[str]:
        """Who was seen serving since a moment, in order, without repetitions."""
        samples = ((sample, name) for name in ("a", "b") for sample in self.histories[name].read().samples)
        serving = sorted((sample.answered, name) for sample, name in samples if sample.serves and sample.asked >= since)
        return [name for name, _ in itertools.groupby(name for _, name in serving)]

    def states_since(self, name: str, since: float) -> list[str]:
        """The states that were seen since a moment, without repetitions."""
        seen: list[str] = []
        for sample in self.histories[name].read().samples:
            if sample.asked >= since and (not seen or seen[-1] != sample.state):
                seen.append(sample.state)
        return seen

    def first(self, name: str, since: float, *states: str) -> float | None:
        """Seconds from ``since`` to the first answer with one of these states."""
        samples = (sample for sample in self.histories[name].read().samples if sample.asked >= since)
        return next((sample.answered - since for sample in samples if sample.state in states), None)

    def last_confirm(self, who: str, since: float) -> float:
        """Seconds from ``since`` to the last confirm of a producer so far; negative if there was none later."""
        confirms = self.histories[who].read().confirms
        return confirms[-1].at - since if confirms else float("-inf")

    def first_confirm(self, since: float, *, above: int) -> float | None:
        """Seconds from ``since`` to the first confirm of an epoch above this one, at any producer."""
        times = [c.at for history in self.histories.values() for c in history.read().confirms if c.epoch[0] > above]
        return min(times) - since if times else None

    def both_disks_since(self, since: float) -> int:
        """Confirms that promise both disks."""
        confirms = (confirm for history in self.histories.values() for confirm in history.read().confirms)
        return sum(confirm.at >= since and confirm.durability == BOTH_DISKS for confirm in confirms)

    def confirms_since(self, since: float) -> int:
        return sum(at >= since for history in self.histories.values() for at in history.read().confirmed.values())

    def gap(self, since: float) -> float:
        """The longest time without a confirm at the client, until now."""
        return self.histories["client"].read().longest_gap(since, time.monotonic())

    def epoch(self) -> int:
        return max(int(self.row(name).get("epoch", 0)) for name in ("a", "b"))

    def gaps_in_logs(self) -> list[str]:
        """Times at which this machine stopped a server for too long, which is a reason to switch (F3)."""
        return [line for server in self.servers.values() for line in server.events("ha.gap")]

    def logs(self) -> str:
        """The ends of both logs, for a failure."""
        return "\n".join(f"--- {name}\n" + "\n".join(s.log_text().splitlines()[-40:]) for name, s in self.servers.items())

    def keep_logs(self, what: str = "") -> None:
        """After a failure: logs and histories into a directory of ``$ZMQHA_LAB_KEEP``, if that is set."""
        keep = os.environ.get("ZMQHA_LAB_KEEP")
        if keep:
            what = what or os.environ.get("PYTEST_CURRENT_TEST", "lab").split("::")[-1].split(" ")[0]
            target = Path(keep) / f"{what}-{self.directory.name}"
            target.mkdir(parents=True, exist_ok=True)
            for pattern in ("*.log", "*.history", "*.err"):
                for file in self.directory.glob(pattern):
                    (target / file.name).write_bytes(file.read_bytes())

    def note(self, what: str, value: object) -> None:
        """A measured figure, for people (pytest -s)."""
        print(f"LAB {what}: {value:.2f}" if isinstance(value, float) else f"LAB {what}: {value}", flush=True)

    # --- waiting and asserting ----------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = READY_S) -> float:
        """Polls; the seconds it took. Fails with both logs' ends."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > timeout_s:
                states = {name: self.row(name) for name in ("a", "b")}
                raise AssertionError(f"no {what} within {timeout_s} s; {states}\n{self.logs()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_state(self, name: str, state: str, timeout_s: float = READY_S) -> float:
        return self.wait(lambda: self.state(name) == state, f"{state} of {name}", timeout_s)

    def wait_in_sync(self, timeout_s: float = HEAL_S) -> float:
        """One ACTIVE, the other PASSIVE, nothing under way."""

        def in_sync() -> bool:
            rows = [self.row(name) for name in ("a", "b")]
            return sorted(str(row.get("state")) for row in rows) == ["ACTIVE", "PASSIVE"] and not any(row["sub"] for row in rows)

        return self.wait(in_sync, "both in sync", timeout_s)

    def stay(self, seconds: float) -> None:
        """Let time pass in which something is expected not to happen."""
        time.sleep(seconds)

    def assert_unchanged(self, since: float) -> None:
        """Neither role has changed, unless this machine itself stopped a server, which is said."""
        seen = {name: self.states_since(name, since) for name in ("a", "b")}
        if seen == {"a": ["ACTIVE"], "b": ["PASSIVE"]}:
            return
        gaps = self.gaps_in_logs()
        assert gaps, (seen, self.logs())
        self.note("a role changed after an own gap of this machine, not asserted", gaps[0])

    def assert_never_two(self, *, late_confirms: bool = False) -> None:
        """Neither by what the servers said of themselves nor, unless confirms may come late, by what they confirmed."""
        histories = {name: history.read() for name, history in self.histories.items()}
        found = both_serve(histories["a"], histories["b"])
        assert not found, (found, self.logs())
        late = overlapping_epochs(list(histories.values()))
        assert not late or late_confirms, (late, self.logs())

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _load(self, who: str, url: str, mode: str = "") -> None:
        script = str(ROOT / "tests" / "system" / "lab_load.py")
        command = [*self.net.prefix(who), sys.executable, script, url, str(self.histories[who].file), who]
        command.append(str(self._rates[who]))
        with (self.directory / f"{who}.err").open("ab") as errors:
            self._loads[who] = subprocess.Popen(
                [*command, *([mode] if mode else [])], stdin=subprocess.DEVNULL, stderr=errors, env=_environment()
            )

    def _equal(self) -> bool:
        a, b = self.row("a"), self.row("b")
        return bool(a and b) and (a["txn"], a["chain"]) == (b["txn"], b["chain"])


def other(name: str) -> str:
    """The other server."""
    return OTHER[name]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _quoted(text: str) -> str:
    return provision.quote(text, safe="")


@contextlib.contextmanager
def lab(**options: Any) -> Iterator[Lab]:
    """A lab in a directory of its own, under load; ended and removed afterwards, whatever happens."""
    if reason := lab_net.missing():
        pytest.skip(f"no network lab: {reason}")
    lab_net.remove_leftovers()
    with tempfile.TemporaryDirectory(prefix="zmqha-lab-") as directory:
        made = Lab(Path(directory), **options)
        try:
            yield made.start()
        except BaseException:
            made.keep_logs()
            raise
        finally:
            made.close()
