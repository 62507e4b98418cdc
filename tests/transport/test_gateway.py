"""Probing the gateway: answers, silence, refusals, and nothing left behind."""

import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transport.conftest import now_ms, until
from zmqha.errors import ConfigError
from zmqha.transport.gateway import DEADLINE_MS, RUNNING_MAX, Kind, Probe, Prober

SILENT = "sh -c 'exec sleep 5' {address}"  # stands for a gateway that does not answer
NOBODY = "240.0.0.1"  # class E: nowhere
needs_ping = pytest.mark.skipif(shutil.which("ping") is None, reason="no ping on this machine")


def ask(prober: Prober, within_s: float = 1.0) -> Probe:
    prober.start(now_ms(), 7)
    results: list[Probe] = []
    assert until(lambda: results, lambda: prober.tick(now_ms()), lambda: results.extend(prober.take()), within_s=within_s)
    assert results[0].token == 7
    return results[0]


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert (children(), len(os.listdir("/proc/self/fd"))) == before


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@needs_ping
def test_a_gateway_that_answers_is_ok() -> None:
    prober = Prober(["127.0.0.1"])
    probe = ask(prober)
    assert probe.ok, probe.detail
    assert probe.detail == "127.0.0.1"
    prober.close()


@needs_ping
def test_a_gateway_that_does_not_answer_has_failed_by_the_deadline() -> None:
    prober = Prober([NOBODY])
    start = time.monotonic()
    probe = ask(prober)
    assert not probe.ok
    assert time.monotonic() - start < 0.3
    prober.close()


@needs_ping
def test_one_answer_of_two_is_enough() -> None:
    prober = Prober([NOBODY, "127.0.0.1"])
    assert ask(prober).ok
    prober.close()


def test_a_probe_that_hangs_is_killed_at_the_deadline_and_reaped() -> None:
    prober = Prober([NOBODY], command=SILENT)
    start = now_ms()
    prober.start(start, 1)
    prober.tick(start + DEADLINE_MS - 1)
    assert prober.take() == []
    assert prober.deadline_ms == start + DEADLINE_MS
    prober.tick(start + DEADLINE_MS)
    assert prober.take() == [Probe(1, start, False, f"no answer within {DEADLINE_MS} ms")]
    assert prober.deadline_ms is None
    assert until(lambda: children() == "", prober.ready)
    prober.close()


def test_an_answer_that_was_read_late_is_an_answer() -> None:
    prober = Prober([NOBODY], command="sh -c 'exec sleep 0.05' {address}")
    prober.start(1000, 1)
    assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    prober.tick(2000)
    assert [probe.ok for probe in prober.take()] == [True]
    prober.close()


def test_the_descriptor_is_readable_when_something_has_ended() -> None:
    prober = Prober([NOBODY], command="sh -c 'sleep 0.05; exit 1' {address}")
    prober.start(1000, 1)
    assert select.select([prober.fd], [], [], 2.0)[0]
    prober.ready()
    assert prober.take() == [Probe(1, 1000, False, f"{NOBODY}: no answer")]
    prober.close()


def test_a_child_that_the_kernel_reaped_is_a_failed_probe() -> None:
    """Where somebody has SIGCHLD ignored; how the child ended is lost."""
    prober = Prober([NOBODY], command="sh -c 'exec sleep 0.05' {address}")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        probe = ask(prober)
    finally:
        signal.signal(signal.SIGCHLD, before)
    prober.close()
    assert not probe.ok and "nobody knows" in probe.detail


def test_a_probe_that_cannot_be_killed_fails_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs as another user (sudo)."""

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    prober = Prober([NOBODY], command=SILENT)
    prober.start(1000, 1)
    (left,) = prober._running[0].attempts.values()
    with monkeypatch.context() as other_user:
        other_user.setattr(os, "kill", kill)
        prober.tick(1000 + DEADLINE_MS)
        start = time.monotonic()
        prober.close()
    assert [probe.ok for probe in prober.take()] == [False]
    assert time.monotonic() - start < 3
    left.abandon()
    assert until(lambda: left.outcome() is not None)


def test_a_missing_ping_is_a_failed_probe() -> None:
    prober = Prober(["127.0.0.1"], command="no-such-ping {address}")
    prober.start(1, 1)
    (probe,) = prober.take()
    assert not probe.ok
    assert "`no-such-ping` is not installed" in probe.detail
    prober.close()


def test_probes_overlap_and_are_bounded() -> None:
    prober = Prober([NOBODY], command=SILENT)
    for token in range(RUNNING_MAX + 1):
        prober.start(token, token)
    assert [probe.token for probe in prober.take()] == [RUNNING_MAX]
    prober.tick(DEADLINE_MS + 2)
    assert [probe.token for probe in prober.take()] == [0, 1, 2]
    prober.close()


@pytest.mark.parametrize("command", ["", "ping", "ping {adress}", "ping '{address}"])
def test_a_command_that_names_no_address_is_refused(command: str) -> None:
    with pytest.raises(ConfigError):
        Prober(["127.0.0.1"], command=command)


def test_a_tcp_gateway_that_accepts_is_ok(listening: str) -> None:
    prober = Prober([listening], kind="tcp")
    assert ask(prober).ok
    prober.close()


def test_a_tcp_gateway_that_refuses_has_failed() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        prober = Prober([f"127.0.0.1:{unused.getsockname()[1]}"], kind=Kind.TCP)
        probe = ask(prober)
    assert not probe.ok
    assert "refused" in probe.detail
    prober.close()


def test_a_tcp_gateway_that_is_silent_fails_at_the_deadline() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):  # the backlog is full: further SYNs are not answered
            prober = Prober([f"127.0.0.1:{full.getsockname()[1]}"], kind=Kind.TCP)
            probes = [ask(prober), ask(prober)]
            prober.close()
    assert not probes[-1].ok
    assert "no answer within" in probes[-1].detail


def test_a_bad_tcp_address_is_a_failed_probe() -> None:
    prober = Prober(["no-number"], kind=Kind.TCP)
    assert not ask(prober).ok
    prober.close()
