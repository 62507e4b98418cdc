"""A pair on loopback under the load of the matrix, judged at its end, and what its cases do to it again and again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.system.history import Outcome, gaps_after
from tests.system.load import Load, Producer
from tests.system.matrix import Run
from tests.system.pair import Pair, pair
from tests.system.stores import assert_equal_offline

SERVING = ("ACTIVE", "STANDALONE")
RESTLESS = {"flap_stable_ms": 200}  # a thawed process and a busy machine are flaps; the pause before pairing doubles with each
BLOCK_S = 2.0  # of ``serve.py`` on SIGUSR2


@contextmanager
def loaded(run: Run, **options: Any) -> Iterator[tuple[Pair, Load, list[float]]]:
    """A pair in sync under load, and a list for the moments of faults; at the end everything is judged."""
    with pair(**{"timers": RESTLESS, **options}) as both:
        load = Load(both.url, failover_timeout=-1)
        moments: list[float] = []
        try:
            load.wait_confirmed()
            yield both, load, moments
            both.wait_in_sync(90)
            run.judge(load.settle())
        except BaseException:
            load.abandon()
            raise
        run.gaps += gaps_after(load.sent, moments, within_s=5)
        run.stalled(own_gaps(both))
        both.assert_equal_stores()
        active = both.active()
        both.kill_both()
        assert_equal_offline(both, active)
        if run.failures:
            both.keep_logs()


def own_gaps(both: Pair) -> list[str]:
    """What the servers logged about having been stopped for too long."""
    return [line for server in both.servers.values() for line in server.events("ha.gap")]


def other(name: str) -> str:
    return "b" if name == "a" else "a"


def random_phase(run: Run, both: Pair, load: Load) -> None:
    """In sync, confirms flow, and the heartbeats are anywhere."""
    both.wait_in_sync(60)
    load.wait_confirmed()
    time.sleep(run.chance.random() * 0.3)
    both.wait_in_sync(60)  # a busy machine may have undone it meanwhile


def pin_to_active(run: Run, both: Pair, load: Load) -> tuple[str, Producer]:
    """A producer that knows only the server that serves, at the moment of a fault; the server's name."""
    while True:
        random_phase(run, both, load)
        name = both.active()
        pinned = load.pin(both.url_of(name), failover_timeout=-1)
        pinned.wait_confirmed(20)
        both.wait_in_sync(60)
        if both.active() == name:
            return name, pinned
        pinned.abandon()


def restart(run: Run, both: Pair, name: str) -> None:
    """Once the other serves, after 0 to 5 s."""
    both.wait(lambda: both.state(other(name)) in SERVING, f"{other(name)} serving")
    time.sleep(run.chance.random() * run.pick(2, 5))
    both[name].start()


def waits(run: Run, both: Pair, load: Load, name: str, seconds: float) -> None:
    """A lone server that must not serve: WAITING all the time, and nothing is confirmed."""
    both.wait(lambda: both.state(name) == "WAITING", f"{name} WAITING", 5)
    settled = len(load.sent)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = both.state(name)
        assert state == "WAITING", f"{name}, which must wait for its peer, is {state}"
        time.sleep(0.1)
    confirmed = sum(1 for one in load.sent[settled:] if one.outcome is Outcome.OK)
    run.expect(confirmed == 0, f"{confirmed} messages confirmed while {name} had to wait")
