"""What operators do to a running pair: switchover, stop, restart, reload, a wrong file. Under load, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.system.history import gaps_after
from tests.system.load import Producer, Reader
from tests.system.measure import close_history, count, figures
from tests.system.pair import ROOT, Pair, pair
from zmqha.errors import MessageTooLarge, ZmqhaError

RATE = 500


def switch(both: Pair) -> None:
    """One switchover, finished: the other is active and in sync."""
    name = both.active()
    both.admin(name, "switchover", reason="a test")
    both.wait(lambda: both.state(name) not in ("ACTIVE", "STANDALONE"), f"{name} handing over")


def run_switchovers(times: int, record: Callable[[str, object], None]) -> None:
    with pair() as both:
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        moments = []
        for _ in range(times):
            both.wait_in_sync()
            producer.wait_confirmed(100)
            moments.append(time.monotonic())
            switch(both)
            producer.wait_confirmed(100)
        close_history(both, [producer], [reader])
    gaps = gaps_after(producer.sent, moments, within_s=4)
    record("figures", figures("switchover", gaps))
    assert max(gaps) < 1.0


@pytest.mark.timeout(60)
def test_switchover_under_load(record_property: Callable[[str, object], None]) -> None:
    run_switchovers(2, record_property)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_switchovers_under_load(record_property: Callable[[str, object], None]) -> None:
    run_switchovers(count(6, 30), record_property)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_planned_leaves_wait_for_no_window() -> None:
    with pair() as both:
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        moments = []
        for whose in (both.active, both.passive):
            both.wait_in_sync()
            producer.wait_confirmed(100)
            name = whose()
            moments.append(time.monotonic())
            assert both[name].stop() == 0
            producer.wait_confirmed(100)
            assert both.state("b" if name == "a" else "a") == "STANDALONE"
            both[name].start()
        both.wait_in_sync()
        close_history(both, [producer], [reader])
    figures("SIGTERM of active, passive", gaps_after(producer.sent, moments, within_s=4))
    assert max(gaps_after(producer.sent, moments, within_s=4)) < 0.7  # silence would need 0.75 s


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", ["active", "passive"])
def test_both_stopped_and_started_again(first: str) -> None:
    """Whichever returns first: nothing is lost, and service resumes at the latest when both are there."""
    with pair() as both:
        with both.connect() as client:
            client.send_many("q", [b"%d" % number for number in range(100)])
        active, passive = both.active(), both.passive()
        for name in (passive, active):
            assert both[name].stop() == 0
        order = (active, passive) if first == "active" else (passive, active)
        for name in order:
            both[name].start()
            both.wait(lambda name=name: both.state(name) != "unreachable", f"{name} answering")
            time.sleep(1.2)
        both.wait_in_sync()
        both.assert_equal_stores()
        with both.connect() as client:
            assert [int(message.body) for message in client.consume("q", timeout=1.5)] == list(range(100))


@pytest.mark.timeout(60)
def test_reload_changes_what_it_may_and_refuses_a_broken_file() -> None:
    with pair() as both, both.connect() as client:
        active = both.active()
        client.send("q", b"x" * 5000)
        text = both.config.read_text()
        changed = text.replace("[limits]", "[limits]\nmax_message_bytes = 4096")
        changed = changed.replace("[security]", '[log]\nlevel = "warning"\n[security]')
        both.config.write_text(changed.replace("[cluster]\n", '[cluster]\nresume_alone = "available"\n'))
        both[active].signal(signal.SIGHUP)
        both.wait(lambda: refused(both, b"x" * 5000), "the smaller limit")
        both.config.write_text(text + "\n[limits]\nno_such_limit = 1\n")
        both[active].signal(signal.SIGHUP)
        both.wait(lambda: bool(both[active].events("config.refused")), "the refusal of the broken file")
        assert both.state(active) == "ACTIVE"
        both.config.write_text(text)
        both[active].signal(signal.SIGHUP)
        both.wait(lambda: not refused(both, b"x" * 5000), "the old limit")
        both.wait(lambda: any("needs_restart" in line for line in both[active].events("config.reload")), "the reload being told")


def refused(both: Pair, body: bytes) -> bool:
    """A new client's message of this size is refused."""
    with both.connect() as client:
        try:
            client.send("q", body)
        except MessageTooLarge:
            return True
        except ZmqhaError as error:
            pytest.fail(error.explain())
    return False


IMPOSSIBLE = {
    "unknown key": ("[limits]", "[limits]\nno_such_limit = 1"),
    "wrong type": ("[limits]", '[limits]\nsessions_max = "many"'),
    "impossible timers": ("[timers]", "[timers]\npause_ms = 700"),
    "no secret": ('secret_file = "keys/cluster/secret"', ""),
    "no such server": ("[server.a]", "[server.z]"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mistake", IMPOSSIBLE)
def test_an_impossible_configuration_is_refused_in_three_lines(mistake: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    both = Pair(tmp_path_factory.mktemp("refused"))
    try:
        was, becomes = IMPOSSIBLE[mistake]
        text = both.config.read_text()
        assert was in text
        both.config.write_text(text.replace(was, becomes))
        program = "from zmqha.cli import server_main; server_main()"
        command = [sys.executable, "-c", program, "--config", str(both.config), "--name", "a"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=20)
        assert done.returncode == 78, done
        what, why, cure = done.stderr.strip().splitlines()
        assert what.startswith("error ZHA-401:") and why.startswith("why:") and cure.startswith("fix:")
        assert not both["a"].data.exists()
    finally:
        both.close()
