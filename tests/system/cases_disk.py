"""D1-D5, D9: disks that are full, fail, stall and tear, under one server or the other."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system import disk_faults
from tests.system.cases_process import SERVING, other
from tests.system.disk_faults import DiskFaults, Rule
from tests.system.load import Load
from tests.system.matrix import Run, case
from tests.system.pair import Pair
from tests.system.stores import assert_equal_offline
from tests.system.test_disk import BODY, MIB, fill, pair_on_small_disks
from zmqha.errors import NoSpace

CONFIRMED = 5  # per producer: a phase with a fault is over then


@contextmanager
def shimmed(run: Run, **load_options: float) -> Iterator[tuple[Pair, Load, dict[str, DiskFaults]]]:
    """A pair under load whose disks can be made to fail; at the end the history and both stores are judged."""
    if why := disk_faults.missing():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="zmqha-pair-") as place:
        both = Pair(Path(place))
        faults = {name: DiskFaults(both[name]) for name in "ab"}
        try:
            bring_up(both, faults)
            load = Load(both.url, **load_options)  # type: ignore[arg-type]
            load.wait_confirmed()
            yield both, load, faults
            bring_up(both, faults)
            run.judge(load.settle())
            both.assert_equal_stores()
            active = both.active()
            both.kill_both()
            assert_equal_offline(both, active)
        except BaseException:
            both.keep_logs()
            raise
        finally:
            both.close()


def bring_up(both: Pair, faults: dict[str, DiskFaults]) -> None:
    """The disks work, both servers run and are in sync."""
    for name, fault in faults.items():
        fault.clear()
        if not both[name].running:
            both[name].start(**fault.environment)
    both.wait_in_sync(90)


def hold_role(both: Pair, name: str, *, active: bool) -> None:
    """Let ``name`` be the active, or the passive."""
    both.wait_in_sync(60)
    if (both.active() == name) is not active:
        both.admin(both.active(), "switchover")
        both.wait(lambda: both.state(name if active else other(name)) in SERVING, "the switchover")
        both.wait_in_sync(60)


# --- D3, D5: the N-th call fails ---------------------------------------------------------------------------------------------------

PHASES = ("start", "follow", "claim", "serve", "alone")


def in_phase(both: Pair, load: Load, faults: dict[str, DiskFaults], name: str, phase: str, rule: Rule) -> bool:
    """Lead one server into a phase of its life, let the rule hold, go through the phase; whether the fault came."""
    server, fault = both[name], faults[name]
    hold_role(both, name, active=phase in ("serve", "alone"))
    if phase == "start":
        server.kill()
        fault.set(rule)
        server.start(**fault.environment)
    elif phase == "alone":
        both[other(name)].kill()
        both.wait(lambda: both.state(name) == "STANDALONE", f"{name} STANDALONE")
        fault.set(rule)
    else:
        fault.set(rule)
        if phase == "claim":
            both[other(name)].kill()
    settled = len(load.sent)
    end = time.monotonic() + (3 if phase == "start" else 10)
    while server.running and time.monotonic() < end and not fault.hits:
        done = len(load.sent) - settled >= 4 * CONFIRMED
        if done and (phase != "start" or both.row(name).get("state") == "PASSIVE"):
            break
        time.sleep(0.02)
    return bool(fault.hits)


def numbers(run: Run) -> Iterator[int]:
    """Which call fails, one after the other until a phase has fewer."""
    if not run.full:
        yield from (1, 3)
        return
    step = one = 1
    while True:
        yield one
        one, step = one + step, one


def rising(run: Run, rules: tuple[tuple[str, str], ...], *, fatal: bool) -> None:
    """Each kind of call, in each phase, on both sides: the first fails, the second, and so on until the phase passes."""
    deaths = reached = 0
    with shimmed(run, rate=50) as (both, load, faults):
        sides = run.pick("b", "ab")
        phases = [(name, phase, *rule) for rule in rules for phase in PHASES for name in sides]
        for name, phase, call, mode in phases:
            for number in numbers(run):
                hit = in_phase(both, load, faults, name, phase, Rule(call, mode, number, number))
                run.runs += 1
                if hit and fatal:
                    reached += 1
                    code = both[name].wait(15)
                    deaths += 1
                    run.expect(code == 1, f"{name} ended with {code} after {mode} at {call} {number} in {phase}")
                elif hit:
                    reached += 1
                    time.sleep(0.3)
                    deaths += not both[name].running
                bring_up(both, faults)
                if not hit:
                    run.say(f"{name} {phase}: {call} {mode} not reached at {number}")
                    break
    run.note("faults", reached)
    run.note("ends", deaths)


@case("D3", "the N-th flush or write fails with EIO", timeout_s=400)
def failing_calls(run: Run) -> None:
    """Whoever meets it exits at once and confirms nothing of it."""
    rising(run, (("sync", "eio"), ("write", "eio"), *run.pick((), (("size", "eio"), ("sync", "enospc")))), fatal=True)


@case("D5", "torn and short writes", timeout_s=300)
def torn_writes(run: Run) -> None:
    """Half a write and an error: exits. Half a write without an error: the rest is written, or it exits."""
    rising(run, (("write", "torn"),), fatal=True)
    rising(run, (("write", "short"),), fatal=False)


@case("D4", "flushes stall for 50, 500, 5000 ms; flushes that lie", timeout_s=300)
def stalls(run: Run) -> None:
    """The heartbeats go on, so nobody takes over; a passive that is too slow is dropped by agreement."""
    with shimmed(run) as (both, load, faults):
        for side, stall_ms in itertools.product(("active", "passive"), (50, 500, 5000)):
            both.wait_in_sync(60)
            active = both.active()
            name = active if side == "active" else other(active)
            faults[name].set(Rule("sync", "stall", argument=stall_ms))
            end, states = time.monotonic() + run.pick(6, 20), set()
            while time.monotonic() < end:
                states.add(both.state(active))
                run.expect(
                    both.state(other(active)) not in SERVING, f"{other(active)} took over while {name} stalled {stall_ms} ms"
                )
                time.sleep(0.05)
            run.expect(states <= {"ACTIVE", "STANDALONE"}, f"{active} was {states} while {name} stalled {stall_ms} ms")
            run.note(f"{side} stalled {stall_ms} ms", "dropped" if "STANDALONE" in states else "in sync")
            run.expect(bool(faults[name].hits), "no flush was stalled")
            faults[name].clear()
            both.wait_in_sync(60)
            load.wait_confirmed()
            run.runs += 1
        for name in "ab":  # no power cut here: what the kernel holds survives every kill
            faults[name].set(Rule("sync", "lie"))
        load.wait_confirmed()
        both[both.active()].kill()
        bring_up(both, faults)


# --- D1, D2, D9: full --------------------------------------------------------------------------------------------------------------


@case("D1", "the active's disk is full", timeout_s=180)
def full_active(run: Run) -> None:
    """Producers are refused by name, consumers drain, it goes on without a restart."""
    with (
        tempfile.TemporaryDirectory(prefix="zmqha-pair-") as place,
        pair_on_small_disks(Path(place), {"a": 64, "b": 128}) as both,
    ):
        first = {name: both[name].pid for name in "ab"}
        for _ in run.rounds():
            confirmed = fill(both)
            run.confirmed += confirmed
            with both.connect() as client:
                with pytest.raises(NoSpace):
                    client.send("q", b"one more")
                read = sum(1 for message in client.consume("q", timeout=2) if message.body == BODY)
                run.expect(read == confirmed, f"{confirmed} confirmed, {read} read")
                both.wait(lambda client=client: taken(client), "room for a message", 5)
                for _ in client.consume("q", timeout=1):
                    pass
        run.expect(
            {name: both[name].pid for name in "ab"} == first and all(both[name].running for name in "ab"), "a server restarted"
        )
        both.assert_equal_stores()


def taken(client: object) -> bool:
    """Is a message taken again."""
    try:
        client.send("q", b"again")  # type: ignore[attr-defined]
    except NoSpace:
        return False
    return True


@case("D2", "the passive's disk is full, later it has space", timeout_s=180)
def full_passive(run: Run) -> None:
    """The active goes on alone within a second, the passive says why, and they pair again by themselves."""
    with tempfile.TemporaryDirectory(prefix="zmqha-pair-") as place, pair_on_small_disks(Path(place), {"b": 160}) as both:
        ballast, first, sent = both["b"].data / "ballast", both["b"].pid, 0
        with both.connect() as client:
            for _ in run.rounds():
                both.wait_in_sync(60)
                ballast.write_bytes(bytes(120 * MIB))
                worst = 0.0
                while both.state("b") != "WAITING":
                    before = time.monotonic()
                    client.send_many("q", [BODY] * 8)
                    sent += 8
                    worst = max(worst, time.monotonic() - before)
                run.expect("disk is full" in both.row("b")["reason"], f"reason {both.row('b')['reason']!r}")
                both.wait(lambda: both.state("a") == "STANDALONE", "the active going alone", 1.0)
                run.gaps.append(worst)
                run.expect(client.send("q", b"alone").durability == 1, "confirmed by both")
                ballast.unlink()
                both.wait_in_sync(60)
                run.expect(client.send("q", b"both").durability == 2, "not confirmed by both")
                read = sum(1 for message in client.consume("q", timeout=2))
                run.expect(read == sent + 2, f"{sent + 2} confirmed, {read} read")
                run.confirmed += sent + 2
                sent = 0
        run.expect(both["b"].pid == first and both["b"].running, "the passive restarted")
        both.assert_equal_stores()


@case("D9", "the passive's file system is smaller than the store grows", timeout_s=180)
def small_passive(run: Run) -> None:
    """It leaves when it is full; the active serves on; neither ends."""
    with (
        tempfile.TemporaryDirectory(prefix="zmqha-pair-") as place,
        pair_on_small_disks(Path(place), {"a": 256, "b": 64}) as both,
    ):
        for _ in run.rounds():
            confirmed = fill(both)
            run.confirmed += confirmed
            run.expect(both.state("a") == "STANDALONE", f"the active is {both.state('a')}")
            run.expect("disk is full" in both.row("b").get("reason", ""), f"the passive says {both.row('b').get('reason')!r}")
            run.expect(confirmed * len(BODY) > 100 * MIB, f"only {confirmed} messages fitted")
            for name in "ab":
                run.expect(
                    both[name].running and "Traceback" not in both[name].log_text(), f"{name}: {both[name].log_text()[-600:]}"
                )
            with both.connect() as client:
                read = sum(1 for _ in client.consume("q", timeout=2))
            run.expect(read == confirmed, f"{confirmed} confirmed, {read} read")
