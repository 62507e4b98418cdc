"""P: processes killed, frozen, switched, blocked, starved, under the load of the matrix, on loopback."""

import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.history import Outcome, gaps_after
from tests.system.load import Load
from tests.system.matrix import Run, case
from tests.system.pair import Pair, pair
from tests.system.stores import assert_equal_offline, standing
from tests.system.test_crash_points import MAYBE, POINTS, run_points

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


@case("P3", "kill -9 of both at once, started again in either order", quick=4, full=100, timeout_s=240)
def kill_both(run: Run) -> None:
    """Equal on both disks: service only once they meet. One that was alone (SOLE): it serves at once, by itself."""
    with loaded(run) as (both, load, _):
        for number in run.rounds():
            random_phase(run, both, load)
            active, passive = both.active(), both.passive()
            if number % 4 == 3:
                both[passive].kill()
                both.wait(lambda active=active: both.state(active) == "STANDALONE", "the active alone")
                load.wait_confirmed()
                both[active].kill()
                both[active].start()
                both.wait(lambda active=active: both.state(active) == "STANDALONE", "the sole server serving by itself", 5)
                load.wait_confirmed()
                both[passive].start()
                continue
            both.kill_both()
            first = (active, passive)[number % 2]
            both[first].start()
            waits(run, both, load, first, 1.5)
            both[other(first)].start()


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


@case("P4", "the stale server comes back first, gateway up", quick=1, full=5, timeout_s=120)
def stale_first(run: Run) -> None:
    """The other had confirmed 1000 messages alone."""
    with loaded(run) as (both, load, _):
        for _ in run.rounds():
            random_phase(run, both, load)
            stale, fresh = both.active(), both.passive()
            both[stale].kill()
            both.wait(lambda fresh=fresh: both.state(fresh) == "STANDALONE", "the other alone")
            load.wait_confirmed(250)
            both[fresh].kill()
            both[stale].start()
            waits(run, both, load, stale, run.pick(5, 60))
            both[fresh].start()
            both.wait_in_sync()
            run.expect(both.active() == fresh, "the fresh one serves")
            load.wait_confirmed()


FREEZES_S = (0.1, 0.5, 1, 5)


@case("P5", "SIGSTOP and SIGCONT of the active", quick=1, full=5, timeout_s=240)
def freeze_active(run: Run) -> None:
    """At most 0.2 s: nothing happens. What a client that knows only the frozen server hears late, the other holds too (I4)."""
    with loaded(run) as (both, load, moments):
        for number in run.rounds():
            for seconds in (*FREEZES_S, *run.pick((), (60,) if number == 0 else ())):
                random_phase(run, both, load)
                name, epoch = both.active(), both.row(both.active())["epoch"]
                pinned = load.pin(both.url_of(name), failover_timeout=-1)
                pinned.wait_confirmed(20)
                moments.append(time.monotonic())
                both[name].freeze()
                time.sleep(seconds)
                both[name].thaw()
                load.wait_confirmed()
                both.wait_in_sync(90)
                time.sleep(0.3)
                pinned.abandon()
                if seconds <= 0.2 and not own_gaps(both):
                    run.expect(both.row(name)["epoch"] == epoch, f"no change of roles for a stop of {seconds} s")
                late = sum(1 for at, _, _, taken in pinned.tap.confirms if taken and at > moments[-1] + seconds)
                run.note(f"stopped for {seconds} s: confirms of its own client after the thaw", late)


@case("P6", "SIGSTOP and SIGCONT of the passive", quick=1, full=5, timeout_s=240)
def freeze_passive(run: Run) -> None:
    """It never promotes itself after waking."""
    with loaded(run) as (both, load, moments):
        for number in run.rounds():
            for seconds in (*FREEZES_S, *run.pick((), (60,) if number == 0 else ())):
                random_phase(run, both, load)
                active, passive = both.active(), both.passive()
                moments.append(time.monotonic())
                both[passive].freeze()
                time.sleep(seconds)
                both[passive].thaw()
                end = time.monotonic() + 2
                while time.monotonic() < end:
                    state = both.state(passive)
                    assert state not in SERVING, f"the passive is {state} after its sleep of {seconds} s"
                    time.sleep(0.05)
                run.expect(both.active() == active, "the active serves on")


@case("P7", "SIGSTOP of both, woken in either order", quick=2, full=10, timeout_s=240)
def freeze_both(run: Run) -> None:
    with loaded(run) as (both, load, _):
        for number in run.rounds():
            random_phase(run, both, load)
            names = (both.active(), both.passive())[:: 1 if number % 2 else -1]
            for name in names:
                both[name].freeze()
            time.sleep(run.chance.choice((1, 2, 4)))
            for name in names:
                both[name].thaw()
                time.sleep(run.chance.choice((0, 0.4, 1.5)))


@case("P8", "switchover", quick=5, full=100, p99_s=0.15)
def switchover(run: Run) -> None:
    with loaded(run) as (both, load, moments):
        for _ in run.rounds():
            random_phase(run, both, load)
            name = both.active()
            moments.append(time.monotonic())
            both.admin(name, "switchover", reason="a test")
            both.wait(lambda name=name: both.state(other(name)) in SERVING, f"{other(name)} serving")


@case("P9", "kill -9 at labelled points of commit, copy, grant, claim", quick=3, full=1, timeout_s=240)
def crash_points(run: Run) -> None:
    """Quick: some points drawn at random. Full: each point on either side."""
    every = [(side, point) for point in POINTS for side in "ab"]
    drawn = run.pick(run.chance.sample(every, run.count), every)
    reached, verdict = run_points(tuple(drawn))
    run.runs = len(drawn)
    run.judge(verdict)
    run.note("points reached", len(reached))
    missed = {point for _, point in drawn} - reached - MAYBE
    run.expect(not missed, f"points that were not reached: {sorted(missed)}")


@case("P10", "the active's loop stands still for 2 s", quick=2, full=10)
def block_loop(run: Run) -> None:
    """The other takes over; the blocked one gives its role up as soon as its loop turns again."""
    with loaded(run) as (both, load, moments):
        for _ in run.rounds():
            random_phase(run, both, load)
            name, epoch = both.active(), both.row(both.active())["epoch"]
            pinned = load.pin(both.url_of(name), failover_timeout=-1)
            pinned.wait_confirmed(20)
            moments.append(time.monotonic())
            both[name].signal(signal.SIGUSR2)
            both.wait(lambda name=name: both.state(other(name)) in SERVING, "the other serving")
            both.wait(lambda name=name: both.state(name) != "unreachable", "an answer of the blocked one")
            late_s = time.monotonic() - moments[-1] - BLOCK_S
            run.expect(both.state(name) not in SERVING, f"{name} gave its role up")
            run.note("answers after the block, s", late_s)
            both.wait_in_sync(60)
            run.expect(both.row(both.active())["epoch"] > epoch, "a new epoch")
            pinned.abandon()


@case("P11", "no memory: address space limited, the N-th allocation fails", quick=4, full=40, timeout_s=300)
def out_of_memory(run: Run) -> None:
    """Either it goes on as if nothing had been, or it is gone; never anything between."""
    with tempfile.TemporaryDirectory(prefix="zmqha-shim-") as place, loaded(run) as (both, load, _):
        shim = build_shim(Path(place))
        for number in run.rounds():
            random_phase(run, both, load)
            name = (both.active, both.passive)[number // 2 % 2]()
            pid = both[name].pid
            large = load.pin(both.url, rate=20, size=300_000, failover_timeout=-1)
            if number % 2:
                limit_address_space(both, name, run.chance.choice((0, 1, 4)) * MIB)
            else:
                at = run.chance.randrange(1, 60_000)
                both[name].kill()
                both.wait(lambda name=name: both.state(other(name)) in SERVING, "the other serving")
                both[name].start(LD_PRELOAD=str(shim), FAIL_ALLOCATION=f"{at} {run.chance.choice((1, 1000, 1 << 40))}")
                pid = both[name].pid
            end = time.monotonic() + WEDGED_S
            seen_well = 0.0
            while time.monotonic() < end and both[name].running and seen_well < 3:
                seen_well = seen_well + 0.2 if both.state(name) in HEALTHY else 0.0
                time.sleep(0.2)
            large.stop()
            went_on = both[name].running
            run.note("it", f"went on as {both.state(name)}" if went_on else f"ended with {both[name].wait()}")
            run.expect(not went_on or seen_well >= 3, f"{name} hangs: {both.state(name)} for {WEDGED_S} s")
            load.wait_confirmed(20, 30)
            if went_on:
                assert both[name].pid == pid
                both[name].kill()
                both.wait(lambda name=name: both.state(other(name)) in SERVING, "the other serving")
            both[name].start()


MIB = 1 << 20
WEDGED_S = 30  # a store thread that stands still is noticed after 20 s
HEALTHY = ("ACTIVE", "STANDALONE", "PASSIVE")


def limit_address_space(both: Pair, name: str, more_bytes: int) -> None:
    """From now on no more than what it has and this."""
    pages = int(Path(f"/proc/{both[name].pid}/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + more_bytes
    resource.prlimit(both[name].pid, resource.RLIMIT_AS, (bound, bound))


def build_shim(place: Path) -> Path:
    """A library that makes allocations fail; skips where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the shim")
    shim = place / "fail_allocation.so"
    source = Path(__file__).with_name("fail_allocation.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(shim), str(source), "-ldl"], check=True, timeout=60)
    return shim
