"""P: processes killed, frozen, switched, blocked, starved, under the load of the matrix, on loopback."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.system.history import gaps_after
from tests.system.load import Load
from tests.system.matrix import Run, case
from tests.system.pair import Pair, pair
from tests.system.stores import assert_equal_offline, standing

SERVING = ("ACTIVE", "STANDALONE")


@contextmanager
def loaded(run: Run, **options: Any) -> Iterator[tuple[Pair, Load, list[float]]]:
    """A pair in sync under load, and a list for the moments of faults; at the end everything is judged."""
    with pair(**options) as both:
        load, moments = Load(both.url), []
        load.wait_confirmed()
        yield both, load, moments
        both.wait_in_sync(60)
        run.judge(load.settle())
        run.gaps += gaps_after(load.sent, moments, within_s=5)
        run.stalled([line for server in both.servers.values() for line in server.events("ha.gap")])
        both.assert_equal_stores()
        active = both.active()
        both.kill_both()
        assert_equal_offline(both, active)


def other(name: str) -> str:
    return "b" if name == "a" else "a"


def random_phase(run: Run, both: Pair, load: Load) -> None:
    """In sync, confirms flow, and the heartbeats are anywhere."""
    both.wait_in_sync(60)
    load.wait_confirmed()
    time.sleep(run.chance.random() * 0.3)


def restart(run: Run, both: Pair, name: str) -> None:
    """Once the other serves, after 0 to 5 s."""
    both.wait(lambda: both.state(other(name)) in SERVING, f"{other(name)} serving")
    time.sleep(run.chance.random() * run.pick(2, 5))
    both[name].start()


@case("P1", "kill -9 of the active", quick=5, full=100, median_s=0.3, p99_s=1.0)
def kill_active(run: Run) -> None:
    with loaded(run) as (both, load, moments):
        for _ in run.rounds():
            random_phase(run, both, load)
            name = both.active()
            moments.append(time.monotonic())
            both[name].kill()
            restart(run, both, name)


@case("P1w", "kill -9 of its watcher, then of the active", quick=3, full=20, median_s=0.9)
def kill_watcher_and_active(run: Run) -> None:
    with loaded(run) as (both, load, moments):
        for _ in run.rounds():
            random_phase(run, both, load)
            name = both.active()
            both[name].kill_watcher()
            moments.append(time.monotonic())
            both[name].kill()
            restart(run, both, name)


@case("P2", "kill -9 of the passive", quick=5, full=100, p99_s=1.0)
def kill_passive(run: Run) -> None:
    """SOLE is on the disk before the first lone confirm."""
    with loaded(run) as (both, load, moments):
        for _ in run.rounds():
            random_phase(run, both, load)
            active, passive = both.active(), both.passive()
            moments.append(time.monotonic())
            both[passive].kill()
            both.wait(lambda active=active: standing(both, active) == "sole", "SOLE on the disk")
            seen = time.monotonic()
            load.wait_confirmed()
            alone = min(one.returned for one in load.sent if one.durability == 1 and one.returned > moments[-1])
            # node.state is read a little after it was written: the record may be older than the look, never younger than the confirm.
            run.expect(alone > seen - 0.25, f"a lone confirm {seen - alone:.3f} s before SOLE was seen on the disk")
            restart(run, both, passive)
