"""N: the network between two machines cut, thinned, muted, flapping, in real namespaces with real pings, under the load of the matrix.

Two loads at once, both judged. That of the matrix: four producers and four consumers in the client's namespace. That of the lab: a
producer and a watcher in each server's own namespace, which would be confirmed what a split pair must not confirm.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.history import gaps_after
from tests.system.lab import Lab, lab, other
from tests.system.load import Load
from tests.system.matrix import Run, case
from tests.system.nemesis import Nemesis
from tests.system.wire import write_settings
from zmqha.errors import ConfigError
from zmqha.server import config

RATES = {"client": 20, "a": 20, "b": 20}  # of the lab's own producers, beside the load of the matrix
REJOINED_S = 3.5  # after a failed gateway probe nothing is claimed for REJOIN_MS + decide_ms: both may be coming back
RESTLESS = {
    "flap_stable_ms": 200
}  # each flap of the link doubles the pause before pairing: otherwise most of the time is waiting
SETTLE_S = 90
# Two branches had consumers of their own: what either delivered may come again, elsewhere in the one queue. The queue of the lab has no
# consumer before the end; there only what was in doubt at the split may be twice, with the flag.
MERGED = ("order", "unflagged", "again-after-ack", "stored-twice")
DISK_MIB = 256  # of each server, where disks are filled
SERVING = ("ACTIVE", "STANDALONE")


class Split:
    """What a case works with."""

    def __init__(self, net_lab: Lab, load: Load) -> None:
        self.lab, self.load = net_lab, load
        self.moments: list[float] = []  # of faults whose gap counts
        self.late_confirms = False  # a server stood still and went on
        self.merged = False  # both served on purpose
        self.refused = False  # a disk was full
        self._own_gaps = 0

    def fault(self) -> float:
        """Now, with everything in sync and confirms flowing; own gaps from here on explain what happens."""
        self.lab.wait_in_sync(SETTLE_S)
        self.load.wait_confirmed()
        self.lab.wait_in_sync(SETTLE_S)  # a busy machine may have undone it meanwhile
        self._own_gaps = len(self.lab.gaps_in_logs())
        self.moments.append(time.monotonic())
        return self.moments[-1]

    def own_gaps(self) -> list[str]:
        """How this machine stopped a server since the fault: then a change of roles is right."""
        return self.lab.gaps_in_logs()[self._own_gaps :]

    def confirmed_since(self, moment: float) -> int:
        """By the load of the matrix."""
        return sum(one.returned >= moment and one.outcome == "ok" for one in self.load.sent)

    def wait_confirms(self, moment: float, timeout_s: float = 20.0) -> float:
        """Seconds from a moment until the load is confirmed something."""
        self.lab.wait(lambda: self.confirmed_since(moment) > 0, "confirms", timeout_s)
        return min(one.returned for one in self.load.sent if one.returned >= moment and one.outcome == "ok") - moment


@contextmanager
def split(run: Run, **options: Any) -> Iterator[Split]:
    """A lab in sync under both loads; at the end everything is healed and judged."""
    with lab(rates=RATES, **options) as net_lab:
        net_lab.note = run.note  # type: ignore[method-assign]
        with net_lab.net.inside("client"):
            load = Load(net_lab.url("a", "b"), failover_timeout=-1)
        made = Split(net_lab, load)
        try:
            load.wait_confirmed()
            yield made
            net_lab.net.heal()
            net_lab.wait_in_sync(SETTLE_S)
            load.wait_confirmed()
            run.judge(load.settle(), MERGED if made.merged else ())
        except BaseException:
            load.abandon()
            raise
        run.gaps += gaps_after(load.sent, made.moments, within_s=5)
        run.stalled(net_lab.gaps_in_logs())
        verdict = net_lab.settle(SETTLE_S, frozen=made.late_confirms, merged=made.merged, refused=made.refused)
        run.confirmed += verdict.confirmed
        if run.failures:
            net_lab.keep_logs(run.case.id)


def same_server(run: Run, it: Split, since: float, what: str, changes: int = 0) -> None:
    """The one that served serves on; at most so many changes, unless this machine itself stopped a server."""
    served = it.lab.served_since(since)
    if len(served) - 1 > changes:
        run.stalled(it.own_gaps())
        run.late(f"{what}: at most {changes} changes of roles, seen {served}")


@case("N1", "only the peer link cut, for 1, 5 and 60 s", quick=1, full=3, mark="lab")
def cut_peer_link(run: Run) -> None:
    with split(run, timers=RESTLESS) as it:
        for number in run.rounds():
            for cut in (it.lab.net.cut_peer_silently, it.lab.net.cut_peer_carrier):
                for seconds in run.pick((1, 5), (1, 5, 60) if number == 0 else (1, 5)):
                    moment = it.fault()
                    cut()
                    it.lab.stay(seconds)
                    same_server(run, it, moment, f"{cut.__name__} {seconds} s", 1)
                    run.expect(it.confirmed_since(moment + seconds / 2) > 0, "confirms flow over the LAN")
                    it.lab.net.heal()


@case("N2", "the active off the LAN, peer link intact", quick=1, full=5, mark="lab", p99_s=4)
def active_off_lan(run: Run) -> None:
    """It hands over by agreement (T20); at most once a minute, so each time on a new pair."""
    for _ in run.rounds():
        with split(run) as it:
            name = it.lab.active()
            moment = it.fault()
            it.lab.net.cut_lan(name)
            it.lab.wait(lambda it=it, name=name: it.lab.state(other(name)) in SERVING, "the other serving", 5)
            served_s = it.lab.first(other(name), moment, *SERVING)
            run.soon(served_s, 2, "the other serves")
            it.wait_confirms(moment + 0.3)
            it.lab.wait_in_sync(10)
            it.lab.net.heal()


@case("N3", "the active isolated from everything", quick=2, full=10, mark="lab", p99_s=1.5)
def active_isolated(run: Run) -> None:
    with split(run, timers=RESTLESS) as it:
        for number in run.rounds():
            it.lab.stay(REJOINED_S if number else 0)
            moment, name, epoch = it.fault(), it.lab.active(), it.lab.epoch()
            (it.lab.net.isolate, it.lab.net.pull_both)[number % 2](name)
            done_s = time.monotonic() - moment
            it.lab.wait(lambda m=moment, e=epoch: it.lab.first_confirm(m, above=e) is not None, "a takeover", 5)
            it.lab.wait(lambda m=moment, n=name: it.lab.first(other(n), m, "STANDALONE") is not None, "a look at it", 5)
            served_s = it.lab.first(other(name), moment, "STANDALONE")
            run.soon(served_s, 1 + done_s, "the other serves")
            it.lab.stay(1.5)
            last_s = it.lab.last_confirm(name, moment)
            run.expect(last_s < done_s + 0.2, f"nothing is confirmed by the isolated one; the last {last_s:.2f} s after it")
            run.expect(it.lab.state(name) == "WAITING", f"the isolated one waits, seen {it.lab.states_since(name, moment)}")
            it.lab.net.heal()


@case("N4", "the active isolated, then the other; the stale one healed first", quick=1, full=5, mark="lab")
def stale_healed_first(run: Run) -> None:
    with split(run, timers=RESTLESS) as it:
        for _ in run.rounds():
            it.fault()
            name = it.lab.active()
            it.lab.net.isolate(name)
            it.lab.wait_state(other(name), "STANDALONE", 5)
            it.load.wait_confirmed()
            it.lab.net.isolate(other(name))
            it.lab.wait_state(other(name), "WAITING", 5)
            it.lab.stay(0.3)
            it.lab.net.unfilter(name)
            back = time.monotonic()
            it.lab.stay(run.pick(4, 30))
            run.expect(it.lab.states_since(name, back) == ["WAITING"], "the stale one waits")
            run.expect(it.lab.confirms_since(back) + it.confirmed_since(back) == 0, "nothing is confirmed meanwhile")
            it.lab.net.unfilter(other(name))
            it.lab.wait_state(other(name), "STANDALONE", 10)


ONE_WAY = (("peer",), ("lan",), ("peer", "lan"))


@case("N5", "one-way cuts: either direction, on the peer link, the LAN, both", quick=1, full=5, mark="lab", timeout_s=240)
def one_way(run: Run) -> None:
    with split(run, timers=RESTLESS) as it:
        for _ in run.rounds():
            for paths in ONE_WAY:
                for which in (0, 1):
                    moment = it.fault()
                    deaf = (it.lab.active(), other(it.lab.active()))[which]
                    it.lab.net.deafen(deaf, *paths)
                    if len(paths) == 1:
                        it.lab.stay(2)
                        same_server(run, it, moment, f"one way on {paths[0]}")
                    else:
                        who = f"the {('active', 'passive')[which]} deaf on both paths"
                        run.note(f"{who}: one serves after, s", it.wait_confirms(moment + 0.3) + 0.3)
                        it.lab.stay(1)
                        serving = [name for name in ("a", "b") if it.lab.state(name) in SERVING]
                        if serving != [deaf]:
                            run.stalled(it.own_gaps())
                            run.late(f"{who}: it alone serves, seen {serving}")
                    run.expect(it.confirmed_since(time.monotonic() - 1) > 0, f"confirms in spite of a cut on {paths}")
                    it.lab.net.heal()


@case("N6", "the gateway mute, the peers in contact", quick=1, full=2, mark="lab")
def gateway_mute(run: Run) -> None:
    with split(run) as it:
        for _ in run.rounds():
            moment = it.fault()
            it.lab.net.mute_gateway()
            it.lab.stay(run.pick(4, 60))
            same_server(run, it, moment, "mute gateway")
            for name in ("a", "b"):
                run.expect(it.lab.row(name)["gateway"] is False, f"{name} tells that its gateway is silent")
            it.lab.net.heal()


@case("N7", "the gateway mute, the passive killed, the gateway back", quick=2, full=6, mark="lab", timeout_s=240)
def gateway_mute_and_passive_killed(run: Run) -> None:
    """``safe``: the active waits for its peer. ``available``: it serves once the gateway answers."""
    for number in run.rounds():
        policy = ("safe", "available")[number % 2]
        with split(run, cluster={"resume_alone": policy}) as it:
            it.fault()
            active = it.lab.active()
            it.lab.net.mute_gateway()
            it.lab.stay(1)
            it.lab[other(active)].kill()
            it.lab.wait_state(active, "WAITING", 5)
            it.lab.stay(1)
            quiet = time.monotonic()
            it.lab.net.heal()
            it.lab.stay(2.5)
            run.note(f"{policy}: the active, alone with its gateway", it.lab.state(active))
            if policy == "safe":
                run.expect(it.lab.state(active) == "WAITING", "safe: it waits")
                run.expect(it.confirmed_since(quiet) == 0, "safe: nothing is confirmed")
            else:
                run.expect(it.lab.state(active) == "STANDALONE", "available: it serves")
            it.lab[other(active)].start()


@case("N8", "the two cut from each other, both reach the gateway (A1 broken)", quick=1, full=5, mark="lab")
def both_serve_then_merge(run: Run) -> None:
    """Both serve and confirm; when they meet, one goes on and what the other confirmed is merged into it."""
    skip_unless_merging()
    for _ in run.rounds():
        with split(run, cluster={"on_divergence": "merge"}, timers=RESTLESS) as it:
            it.fault()
            it.merged = True
            it.lab.net.cut_peer_silently()
            it.lab.net.cut_lan_between()
            for name in ("a", "b"):
                it.lab.wait_state(name, "STANDALONE", 5)
            cut = time.monotonic()

            def both_confirm(it: Split = it, cut: float = cut) -> bool:
                return all(it.lab.last_confirm(name, cut) > 0 for name in ("a", "b"))

            it.lab.wait(both_confirm, "confirms by both")
            it.lab.stay(2)
            healed = time.monotonic()
            it.lab.net.heal()

            def one_serves(it: Split = it) -> bool:
                return sum(it.lab.state(name) in SERVING for name in ("a", "b")) == 1

            it.lab.wait(one_serves, "exactly one that serves", 10)
            run.soon(time.monotonic() - healed, 5, "one serves")
            it.lab.wait_in_sync(SETTLE_S)
            run.note("in sync after, s", time.monotonic() - healed)
            merges = [
                line
                for server in it.lab.servers.values()
                for line in server.log_text().splitlines()
                if "merge" in line and " config." not in line
            ]
            run.expect(bool(merges), "the log tells of the merge")
            run.note("told", merges[-1] if merges else "")


def skip_unless_merging() -> None:
    """Does this version's configuration know the word."""
    with tempfile.TemporaryDirectory(prefix="zmqha-merge-") as place:
        made = Lab(Path(place), cluster={"on_divergence": "merge"})
        try:
            config.load(made.config, "a")
        except ConfigError as refusal:
            pytest.skip(refusal.what)


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
            copies = sum(len(server.events("ha.passive_sync")) for server in it.lab.servers.values())
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
            copies = sum(len(server.events("ha.passive_sync")) for server in it.lab.servers.values()) - copies
            run.expect(copies <= 2, f"at most two copies, seen {copies}")
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


@case("N15", "faults of all classes drawn at random, 3 to 10 s apart", quick=12, full=200, mark="lab", timeout_s=420)
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
