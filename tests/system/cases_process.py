"""P1 to P10: processes killed, frozen, switched over, blocked, under the load of the matrix, on loopback."""

import signal
import time

from tests.system.loaded import BLOCK_S, SERVING, loaded, other, own_gaps, pin_to_active, random_phase, restart, waits
from tests.system.matrix import Run, case
from tests.system.stores import standing
from tests.system.test_crash_points import MAYBE, POINTS, run_points


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
                name, pinned = pin_to_active(run, both, load)
                epoch = both.row(name)["epoch"]
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
            name, pinned = pin_to_active(run, both, load)
            epoch = both.row(name)["epoch"]
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
