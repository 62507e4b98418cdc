"""N1 to N8: paths between the two, the LAN and the gateway cut, in real namespaces with real pings, under the load of the matrix."""

import tempfile
import time
from pathlib import Path

import pytest

from tests.system.lab import Lab, other
from tests.system.matrix import Run, case
from tests.system.split import REJOINED_S, RESTLESS, SERVING, SETTLE_S, Split, same_server, split
from zmqha.errors import ConfigError
from zmqha.server import config


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
