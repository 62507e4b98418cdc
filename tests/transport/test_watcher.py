"""The death notice: sent when the process is gone, never before, believed only with the secret."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.transport.conftest import until
from zmqha.core import death_notice
from zmqha.errors import ConfigError
from zmqha.transport.watcher import REPEATS, DeathListener

Start = Callable[..., subprocess.Popen[bytes]]
SECRET = b"a cluster secret"


@pytest.fixture
def listener() -> Iterator[DeathListener]:
    made = DeathListener([("127.0.0.1", 0)])
    yield made
    made.close()


def watched(child: Start, listener: DeathListener, end: str = "forever") -> tuple[subprocess.Popen[bytes], int]:
    server = child("watched_server.py", listener.sockets[0].getsockname()[1], SECRET.decode(), end)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def held(pid: int) -> list[str]:
    """What the descriptors of a process are, by number."""
    try:
        return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int)]
    except FileNotFoundError:  # closed meanwhile
        return []


def test_a_killed_server_is_announced_within_a_second_several_times(child: Start, listener: DeathListener) -> None:
    server, watcher = watched(child, listener)
    assert listener.receive() == []

    server.kill()
    start = time.monotonic()
    got: list[bytes] = []
    assert until(lambda: got, lambda: got.extend(listener.receive()), within_s=1.0)
    assert time.monotonic() - start < 0.5
    assert until(lambda: len(got) == REPEATS, lambda: got.extend(listener.receive()), within_s=1.0)

    assert {death_notice.verify(datagram, SECRET, "test") for datagram in got} == {("a", 7)}
    assert until(lambda: not alive(watcher))


def test_a_stopped_server_is_not_announced(child: Start, listener: DeathListener) -> None:
    server, _ = watched(child, listener)
    server.send_signal(signal.SIGSTOP)
    assert not until(listener.receive, within_s=0.3)
    server.send_signal(signal.SIGCONT)
    assert not until(listener.receive, within_s=0.1)


def test_a_planned_exit_is_not_announced(child: Start, listener: DeathListener) -> None:
    server, watcher = watched(child, listener, "planned")
    assert server.wait(5) == 0
    assert not alive(watcher)
    assert not until(listener.receive, within_s=0.2)


def test_a_watcher_ignores_signals_has_its_own_session_and_holds_nothing_open(child: Start, listener: DeathListener) -> None:
    server, watcher = watched(child, listener)
    assert until(lambda: os.getsid(watcher) == watcher)
    assert until(lambda: held(watcher) == ["/dev/null"] * 3 + ["anon_inode:[pidfd]"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(watcher, number)
    server.kill()
    assert until(listener.receive, within_s=1.0)
    assert server.stdout is not None
    assert server.stdout.read() == b""  # the end of the pipe: nobody else holds it


def test_a_forged_or_foreign_notice_is_not_believed() -> None:
    notice = death_notice.encode("test", "a", 7, SECRET)
    assert death_notice.verify(notice, SECRET, "test") == ("a", 7)
    assert death_notice.verify(notice, b"another secret", "test") is None
    assert death_notice.verify(notice, SECRET, "another cluster") is None
    for index in range(len(notice)):
        forged = bytearray(notice)
        forged[index] ^= 1
        assert death_notice.verify(bytes(forged), SECRET, "test") is None
    for size in range(len(notice)):
        assert death_notice.verify(notice[:size], SECRET, "test") is None
    assert death_notice.verify(notice + b"\0" * 600, SECRET, "test") is None
    assert len(death_notice.encode("c" * 200, "n" * 200, 2**64 - 1, SECRET)) <= death_notice.DATAGRAM_BYTES_MAX


def test_a_notice_needs_a_secret_and_short_names() -> None:
    with pytest.raises(ValueError, match="empty"):
        death_notice.encode("test", "a", 7, b"")
    with pytest.raises(ValueError, match="201 bytes"):
        death_notice.encode("c" * 201, "a", 7, SECRET)


def test_a_listener_takes_a_bounded_number_and_drops_what_is_too_long(listener: DeathListener) -> None:
    sender = listener.sockets[0].dup()
    for _ in range(5):
        sender.sendto(b"x", sender.getsockname())
    sender.sendto(bytes(death_notice.DATAGRAM_BYTES_MAX + 1), sender.getsockname())
    sender.close()
    assert listener.receive(3) == [b"x"] * 3
    assert listener.receive(3) == [b"x"] * 2
    assert len(listener.fds) == 1


def test_a_taken_port_is_a_config_error_and_a_missing_address_is_not(listener: DeathListener) -> None:
    with pytest.raises(ConfigError, match="cannot listen on udp"):
        DeathListener([("127.0.0.1", listener.sockets[0].getsockname()[1])])
    DeathListener([("240.0.0.1", 0)]).close()
