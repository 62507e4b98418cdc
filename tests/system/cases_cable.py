"""N9 to N15: cables pulled in any order, flapping, thin, lossy, resetting, half open; and faults of every class at random."""

import time
from pathlib import Path

from tests.system.lab import other
from tests.system.matrix import Run, case
from tests.system.nemesis import Nemesis
from tests.system.split import DISK_MIB, RESTLESS, SETTLE_S, Split, same_server, split
from tests.system.wire import write_settings

LINKS = ("peer", "a", "b", "gateway", "client")


@case("N9", "all links cut one by one, healed in another order", quick=2, full=50, mark="lab", timeout_s=240)
def swizzle(run: Run) -> None:
    with split(run, timers=RESTLESS) as it:
        for _ in run.rounds():
            it.fault()
            for link in run.chance.sample(LINKS, len(LINKS)):
                it.lab.net.pull(link)
                it.lab.stay(run.chance.random() * 1.2)
            it.lab.stay(run.chance.random() * 1.5)
            for link in run.chance.sample(LINKS, len(LINKS)):
                it.lab.net.plug(link)
                it.lab.stay(run.chance.random() * 1.2)
        it.moments.clear()  # nobody can serve while all is cut


def whole_copies(it: Split) -> int:
    """So far, of either server."""
    return sum("way=whole" in line for server in it.lab.servers.values() for line in server.events("copy.begin"))


def memory_mib(it: Split) -> dict[str, float]:
    """Resident memory of both servers."""
    pages = {name: int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) for name, server in it.lab.servers.items()}
    return {name: round(count * 4096 / (1 << 20), 1) for name, count in pages.items()}


@case("N10", "the peer link flaps: 0.3, 1 and 3 s", quick=1, full=1, mark="lab", timeout_s=240)
def flapping(run: Run) -> None:
    """Two minutes in the full run. At most one change of roles for each flap, at most two full copies, memory flat."""
    with split(run) as it:
        for _ in run.rounds():
            began, flaps = it.fault(), 0
            before = memory_mib(it)
            copies = whole_copies(it)
            while time.monotonic() < began + run.pick(20, 120):
                period_s = (0.3, 1, 3)[flaps % 3]
                flaps += 1
                it.lab.net.cut_peer_silently()
                it.lab.stay(period_s)
                it.lab.net.heal()
                it.lab.stay(period_s)
            same_server(run, it, began, "flapping", flaps)
            run.note("flaps", flaps)
            run.note("who served", it.lab.served_since(began))
            copies = whole_copies(it) - copies
            run.expect(copies <= 2, f"at most two full copies, seen {copies}")
            after = memory_mib(it)
            run.note("memory before and after, MiB", f"{before} {after}")
            run.expect(all(after[name] < before[name] + 48 for name in before), "memory does not grow with flaps")


BAD_CABLES = {
    "10 % loss": {"loss": 0.1},
    "30 % loss": {"loss": 0.3},
    "200 ms delay": {"delay": 200},
    "5 % twice": {"twice": 0.05},
    "1 % corrupt": {"corrupt": 0.01},
    "delay and jitter": {"delay": 60, "jitter": 30},
}
HARMLESS = ("10 % loss", "5 % twice", "1 % corrupt")


@case("N11", "the peer link thin, lossy, slow, doubling, corrupting", quick=1, full=5, mark="lab", timeout_s=300)
def bad_cable(run: Run) -> None:
    with split(run, wire=True, timers=RESTLESS) as it:
        for _ in run.rounds():
            for kind, settings in BAD_CABLES.items():
                began = it.fault()
                write_settings(it.lab.wire_settings, left=settings, right=settings)
                it.lab.stay(run.pick(4, 20))
                run.note(f"{kind}: confirms a second", it.confirmed_since(began) / (time.monotonic() - began))
                if kind in HARMLESS:
                    same_server(run, it, began, kind)
                run.expect(it.confirmed_since(began) > 100, f"{kind}: confirms go on")
                write_settings(it.lab.wire_settings)
            began = it.fault()
            it.lab.net.slow_peer("1mbit")
            it.lab.stay(run.pick(5, 20))
            run.note("1 Mbit/s: confirms a second", it.confirmed_since(began) / (time.monotonic() - began))
            dropped = [line for server in it.lab.servers.values() for line in server.events("ha.drop_peer")]
            run.note("1 Mbit/s: peers dropped by agreement", len(dropped))
            run.expect(it.confirmed_since(began) > 100, "1 Mbit/s: confirms go on")
            it.lab.net.heal()


@case("N12", "LAN ports flap in antiphase, the peer link cut", quick=1, full=5, mark="lab")
def antiphase(run: Run) -> None:
    """Each sees the gateway only while the other does not: never two actives, whatever the watchers see."""
    with split(run, timers=RESTLESS) as it:
        for _ in run.rounds():
            it.fault()
            it.lab.net.cut_peer_silently()
            for period_s in (0.1, 0.2, 0.3, 0.5) * run.pick(2, 8):
                for name in ("a", "b"):
                    it.lab.net.cut_lan(name)
                    it.lab.stay(period_s)
                    it.lab.net.join_lan(name)
            it.lab.net.heal()
        it.moments.clear()  # waiting is allowed


@case("N13", "resets on the peer link, an MTU black hole, REJECT on both paths for 0.3 s", quick=1, full=5, mark="lab")
def resets(run: Run) -> None:
    with split(run, timers=RESTLESS) as it:
        for _ in run.rounds():
            moment = it.fault()
            it.lab.net.reset_both_paths(it.lab.active())
            it.lab.stay(0.3)
            it.lab.net.heal()
            run.note("REJECT 0.3 s: confirms again after, s", it.wait_confirms(time.monotonic(), 5))
            it.lab.stay(2)
            same_server(run, it, moment, "REJECT 0.3 s")
            for fault in (it.lab.net.reset_peer_link, it.lab.net.swallow_large_frames):
                moment = it.fault()
                fault()
                it.lab.stay(run.pick(5, 15))
                same_server(run, it, moment, fault.__name__)
                healed = time.monotonic()
                it.lab.net.heal()
                run.note(f"{fault.__name__}: confirms again after, s", it.wait_confirms(healed, 5))


@case("N14", "half open: peer link cut silently, the active killed, healed, started again", quick=2, full=10, mark="lab")
def half_open(run: Run) -> None:
    """The side that went on must not hold on to the dead connection; the peer link is the only path then."""
    with split(run, timers=RESTLESS) as it:
        for _ in run.rounds():
            it.fault()
            name = it.lab.active()
            it.lab.net.cut_peer_silently()
            it.lab.stay(0.5)
            it.lab[name].kill()
            it.lab.wait_state(other(name), "STANDALONE")
            it.lab.stay(1)
            it.lab.net.heal()
            it.lab.net.cut_lan_between()
            started = time.monotonic()
            it.lab[name].start()
            it.lab.wait(lambda name=name: it.lab.row(name).get("contact_ms") is not None, "contact", 10)
            contact_s = time.monotonic() - started  # a second of it is the start of the process
            run.soon(contact_s, 3, "contact after the start")
            it.lab.net.heal()


@case("N15", "faults of all classes drawn at random, 3 to 10 s apart", quick=8, full=200, mark="lab", timeout_s=420)
def nemesis(run: Run) -> None:
    with split(run, timers={"flap_stable_ms": 50}, wire=True, disk_mib=DISK_MIB) as it:
        it.late_confirms = it.refused = True
        it.merged = False
        storm = Nemesis(it.lab, run.chance)
        for _ in run.rounds():
            drawn = storm.draw()
            hold_s = run.chance.choice((0.1, 0.3, 0.6, 1.0, 2.0, 4.0))
            run.say(f"{' + '.join(drawn)} for {hold_s} s")
            for name in drawn:
                storm.faults[name]()
                it.lab.stay(run.chance.choice((0, 0, 0.2, 0.7)))
            it.lab.stay(hold_s)
            died = storm.revive()
            run.expect(not died, f"servers that ended by themselves after {drawn}: {died}")
            it.lab.stay(run.chance.choice((1, 2, 3, 6)))
            if run.chance.random() < 0.3:
                it.lab.wait_in_sync(SETTLE_S)
                it.load.wait_confirmed()
        storm.revive()
