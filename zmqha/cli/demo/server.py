"""One server of the demo: a process of its own, told by its pid, and the log that it writes.

``python -m zmqha.cli.demo.server CONFIG NAME`` is what runs in it: the real server, which additionally ends when the demo does,
however that happens.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WATCHER_S = 1.0  # a watcher ends by itself about 0.1 s after its server
_TAIL = 6


class LogEvent(NamedTuple):
    """One line of a server's log."""

    time: float  # seconds since 1970, in milliseconds' steps
    server: str
    name: str
    fields: dict[str, Any]


class Server:
    """Started, killed, stopped; never waits for anything but the kernel."""

    def __init__(self, name: str, config: Path, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._config = config
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._watchers: list[int] = []  # pidfds, so that no other process can be meant
        self._read = 0
        self._told: list[str] = []

    @property
    def pid(self) -> int:
        """Of the last start; 0 before the first."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """A session of its own: Ctrl-C reaches the demo, which decides what happens to its servers."""
        command = [sys.executable, "-P", "-m", "zmqha.cli.demo.server", str(self._config), self.name, str(os.getpid())]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def note_watcher(self) -> None:
        """Remember the watcher that this server has forked: its child that leads a session."""
        with suppress(OSError):
            for text in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                with suppress(ProcessLookupError):
                    if os.getsid(int(text)) == int(text):
                        self._watchers.append(os.pidfd_open(int(text)))

    def kill(self) -> None:
        """As by ``kill -9``; the moment counts, so nothing is waited for."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: it neither runs nor ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on; nothing if it is not frozen, or gone."""
        if self.running and self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None if it still runs."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def ask_to_stop(self) -> None:
        """SIGTERM: the planned leave."""
        if self.running and self._process is not None:
            self._process.terminate()

    def make_sure(self, seconds: float) -> None:
        """It and its watchers are gone when this returns."""
        if self._process is not None and self.wait(seconds) is None:
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + _WATCHER_S
        for pidfd in self._watchers:
            while not _has_ended(pidfd) and time.monotonic() < deadline:
                time.sleep(0.01)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self._watchers.clear()

    def new_events(self) -> list[LogEvent]:
        """What it has logged since the last call, whole lines only."""
        if not self._log.exists():
            return []
        with self._log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in whole.decode(errors="replace").splitlines():
            event = parse_event(line)
            if event is not None:
                found.append(event)
            words = line if event is None else f"{event.name} {event.fields.get('reason', '')}".strip()
            self._told = [*self._told, words][-_TAIL:]
        return found

    def last_words(self) -> str:
        """For an error's ``why``."""
        return " | ".join(self._told[-2:]) or "it has logged nothing"


def parse_event(line: str) -> LogEvent | None:
    """A JSON log line; None for anything else (a traceback)."""
    try:
        fields = orjson.loads(line)
        moment = datetime.fromisoformat(fields.pop("time")).timestamp()
        return LogEvent(moment, fields.pop("server"), fields.pop("event"), fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _has_ended(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    return False


def main(config_file: str, name: str, parent: str) -> int:
    """Run the server; SIGTERM when the demo is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):
        return 0
    from zmqha.errors import ConfigError
    from zmqha.server import config
    from zmqha.server.main import main as serve

    try:
        return serve(config.load(config_file, name))
    except ConfigError as error:
        print(error.explain(), file=sys.stderr)
        return 78


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
