"""A real pair for tests: two server processes on loopback, a stand-in gateway, and what a test may do to them.

Every process started here is ended here, by pid. Ports are taken from a block that this process owns, so tests may run side by side.
"""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import zmq.auth

import zmqha
from zmqha.cli import provision
from zmqha.errors import ZmqhaError

ROOT = Path(__file__).parents[2]
READY_S = 20.0

_pairs = itertools.count()


class Gateway:
    """A TCP listener that stands for the gateway; ``mute`` refuses, ``speak`` answers again."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._listener: socket.socket | None = None
        self.port = 0
        self.speak()

    def speak(self) -> None:
        listener = socket.create_server((self._host, self.port), backlog=64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._answer, args=(listener,), daemon=True).start()

    def mute(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    @staticmethod
    def _answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()


class Server:
    """One server process."""

    def __init__(self, pair: "Pair", name: str) -> None:
        self.pair = pair
        self.name = name
        self.log = pair.directory / f"{name}.log"
        self.config: Path | None = None  # a file of its own instead of the pair's
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.pair.directory / self.name / "data"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, **environment: str) -> None:
        assert not self.running
        command = [*self.pair.prefix(self.name), sys.executable, str(ROOT / "tests" / "system" / "serve.py")]
        command += [str(self.config or self.pair.config), self.name]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            )

    def kill(self) -> None:
        """As by ``kill -9``; returns when the kernel has ended it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 10.0) -> int:
        """SIGTERM, the planned leave; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 10.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def watcher_pid(self) -> int:
        """The forked watcher: the one child of the server that runs the same program in a session of its own."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        found = [int(pid) for pid in children if _leads_a_session(int(pid))]
        assert len(found) == 1, found
        return found[0]

    def kill_watcher(self) -> None:
        """``kill -9`` of the watcher: nobody will tell the peer when the server dies."""
        os.kill(self.watcher_pid(), signal.SIGKILL)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def events(self, name: str) -> list[str]:
        """Log lines of an event."""
        return [line for line in self.log_text().splitlines() if f" {name} " in f"{line} "]


def _leads_a_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:  # a ping that has just ended
        return False


class Pair:
    """Two servers ``a`` (primary) and ``b``, a gateway, a directory."""

    def __init__(
        self,
        directory: Path,
        *,
        timers: dict[str, int] | None = None,
        limits: dict[str, int] | None = None,
        curve: bool = False,
        extra: str = "",
        on_divergence: str = "",
    ) -> None:
        self.directory = directory
        self.gateway = Gateway()
        self.config = directory / "server.toml"
        self.curve = curve
        self.on_divergence = on_divergence
        ports = _free_ports(8)
        self.ports = {"a": ports[0], "b": ports[3]}
        self.peer_ports = {"a": ports[1], "b": ports[4]}
        self.write_config(timers or {}, limits or {}, extra)
        self.servers = {name: Server(self, name) for name in ("a", "b")}
        self.rotten = False  # the test damages a store
        self._admins: dict[str, zmqha.Client] = {}

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def prefix(self, name: str) -> list[str]:
        """What stands before the program (a namespace, a shim); none here."""
        return []

    def write_config(self, timers: dict[str, int], limits: dict[str, int], extra: str) -> None:
        if not (self.directory / "keys").exists():
            self._make_keys()
        limits = {"disk_reserve_bytes": 1 << 20, "journal_segment_bytes": 8 << 20, **limits}
        lines = [
            "[cluster]", 'name = "test"', 'id = "5f2c91ab5f2c91ab"', "single_machine = true", 'secret_file = "keys/cluster/secret"',
            *([f'on_divergence = "{self.on_divergence}"'] if self.on_divergence else []),
            "[gateway]", 'kind = "tcp"', f'addresses = ["127.0.0.1:{self.gateway.port}"]',
            "[timers]", *(f"{key} = {value}" for key, value in timers.items()),
            "[limits]", *(f"{key} = {value}" for key, value in limits.items()),
            "[security]", f"curve = {str(self.curve).lower()}",
        ]  # fmt: skip
        if self.curve:
            key = self.public_key("client/client")
            lines += ['client_port_key_file = "keys/cluster/client_port.key_secret"', f'client_keys = ["{key}"]']
        for name, role in (("a", "primary"), ("b", "secondary")):
            lines += [
                f"[server.{name}]", f'role = "{role}"', f'data_dir = "{name}/data"', f'client = "127.0.0.1:{self.ports[name]}"',
                f'peer = "127.0.0.1:{self.peer_ports[name]}"', 'lan = "127.0.0.2"',
            ]  # fmt: skip
            if self.curve:
                public = self.public_key(f"{name}/peer")
                lines += [f'peer_key_file = "keys/{name}/peer.key_secret"', f'peer_public_key = "{public}"']
        self.config.write_text("\n".join(lines) + "\n" + extra)

    def _make_keys(self) -> None:
        """Keys and secret, made as ``zmqha init`` makes them."""
        machines = provision.single_machine_pair(("a", "b"), 7400)
        provision.write(provision.Plan(self.directory / "keys", *machines, cluster="test", single_machine=True))

    def public_key(self, name: str) -> str:
        """``cluster/client_port``, ``client/client``, ``a/peer``, ``b/peer``."""
        return zmq.auth.load_certificate(self.directory / "keys" / f"{name}.key")[0].decode()

    @property
    def url(self) -> str:
        return self.url_of("a", "b")

    def url_of(self, *names: str) -> str:
        """The URL that names these servers only."""
        url = "zmqha://" + ",".join(f"127.0.0.1:{self.ports[name]}" for name in names)
        if not self.curve:
            return url
        key, file = (
            quote(self.public_key("cluster/client_port"), safe=""),
            self.directory / "keys" / "client" / "client.key_secret",
        )
        return f"{url}?curve_server_key={key}&curve_key_file={quote(str(file), safe='')}"

    def connect(self, **options: Any) -> zmqha.Client:
        return zmqha.connect(self.url, **options)

    def start(self) -> "Pair":
        """Both, and wait until they are in sync."""
        for server in self.servers.values():
            if not server.running:
                server.start()
        self.wait_in_sync()
        return self

    def status(self, name: str) -> dict[str, Any] | None:
        """What a server says of both; None if it does not answer."""
        try:
            return self.admin(name, "status", timeout=1.0)
        except ZmqhaError:
            return None

    def admin(self, name: str, verb: str, *, timeout: float = 5.0, **arguments: Any) -> Any:
        """An operator's verb, to this server; the connection is kept."""
        client = self._admins.get(name)
        if client is None:
            client = self._admins[name] = zmqha.connect(self.url_of(name), wait=False)
        return client.admin(verb, arguments, timeout=timeout, server=0)

    def row(self, name: str) -> dict[str, Any]:
        """A running server's own row of its own status; {} if it does not answer."""
        status = self.status(name)
        return next((row for row in status["servers"] if row["name"] == name), {}) if status else {}

    def state(self, name: str) -> str:
        return str(self.row(name).get("state", "unreachable")) if self[name].running else "down"

    def wait_settled_waiting(self, name: str) -> None:
        """WAITING, and done with looking at its own store, so that an operator may promote it."""
        self.wait(lambda: (self.row(name).get("state"), self.row(name).get("sub")) == ("WAITING", ""), f"{name} WAITING")

    def active(self) -> str:
        """The name of the server that serves; waits for one."""
        self.wait(lambda: any(self.state(name) in ("ACTIVE", "STANDALONE") for name in "ab"), "a server that serves")
        return next(name for name in "ab" if self.state(name) in ("ACTIVE", "STANDALONE"))

    def passive(self) -> str:
        return "b" if self.active() == "a" else "a"

    def wait_in_sync(self, timeout_s: float = READY_S) -> None:
        """One ACTIVE and granted, the other PASSIVE."""

        def in_sync() -> bool:
            rows = {name: self.row(name) for name in "ab"}
            states = {str(row.get("state")) for row in rows.values()}
            return states == {"ACTIVE", "PASSIVE"} and not any(row.get("sub") for row in rows.values())

        self.wait(in_sync, "both in sync", timeout_s)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = READY_S) -> None:
        """Polls; fails with both logs' ends."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n" + "\n".join(s.log_text().splitlines()[-25:]) for name, s in self.servers.items())
                raise AssertionError(f"no {what} within {timeout_s} s\n{logs}")
            time.sleep(0.05)

    def assert_equal_stores(self) -> None:
        """The same position on both, chain digest included; call while nothing is sent."""
        self.wait_in_sync()

        def equal() -> bool:
            a, b = self.row("a"), self.row("b")
            return bool(a) and (a.get("txn"), a.get("chain")) == (b.get("txn"), b.get("chain"))

        self.wait(equal, "equal positions")

    def assert_no_false_alarm(self) -> None:
        """Neither digest nor scrub found damage where nobody did any."""
        if not self.rotten:
            assert not [line for server in self.servers.values() for line in server.events("store.rotten")]

    def kill_both(self) -> None:
        """Both at one instant: neither sees the other's end."""
        for server in self.servers.values():
            if server.running:
                server.freeze()
        for server in self.servers.values():
            if server.running:
                server.kill()

    def keep_logs(self) -> None:
        """After a failure: both logs into ``$ZMQHA_KEEP_LOGS``, if that is set."""
        target = os.environ.get("ZMQHA_KEEP_LOGS")
        for name, server in self.servers.items() if target else ():
            Path(str(target), f"{self.directory.name}-{name}.log").write_text(server.log_text())

    def close(self) -> None:
        """End what still runs."""
        for client in self._admins.values():
            client.close()
        for server in self.servers.values():
            if server.running:
                server.signal(signal.SIGCONT)
                server.kill()
        self.gateway.mute()


def _free_ports(count: int) -> list[int]:
    """A block of neighbouring free ports below the ephemeral range (bulk = peer + 1), another one for each pair of this process."""
    start = 20_000 + (os.getpid() * 37 + next(_pairs) * count) % 9_000
    for base in (*range(start, 29_900, count), *range(20_000, start, count)):
        if all(_is_free(port) for port in range(base, base + count)):
            return list(range(base, base + count))
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    for host in ("127.0.0.1", "127.0.0.2"):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


@contextlib.contextmanager
def pair(**options: Any) -> Iterator[Pair]:
    """A pair in a directory of its own, in sync; ended and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="zmqha-pair-") as directory:
        made = Pair(Path(directory), **options)
        try:
            yield made.start()
            made.assert_no_false_alarm()
        except BaseException:
            made.keep_logs()
            raise
        finally:
            made.close()
