"""Assumption A1 broken on purpose: the two cannot talk at all, yet both reach the gateway, so both serve. It is noticed, and merged."""

import time

import pytest

from tests.system.lab import Lab, lab, other
from tests.system.lab_history import both_serve

pytestmark = pytest.mark.lab


def split(net_lab: Lab) -> None:
    """Both serve, and both confirm."""
    net_lab.net.cut_peer_silently()
    net_lab.net.cut_lan_between()
    for name in ("a", "b"):
        net_lab.wait_state(name, "STANDALONE", 5)
    net_lab.wait(lambda: all(net_lab.last_confirm(name, time.monotonic()) > -0.3 for name in ("a", "b")), "lone confirms")
    net_lab.stay(2.0)
    found = both_serve(net_lab.histories["a"].read(), net_lab.histories["b"].read())
    assert found  # the lab sees what it must never see elsewhere


@pytest.mark.timeout(120)
def test_two_actives_are_merged_when_they_meet_and_no_confirmed_message_is_lost() -> None:
    with lab() as net_lab:
        split(net_lab)
        healed = time.monotonic()
        net_lab.net.heal()

        def one_serves() -> bool:
            states = [net_lab.state(name) for name in ("a", "b")]
            return sum(state in ("ACTIVE", "STANDALONE") for state in states) == 1 and "unreachable" not in states

        net_lab.wait(one_serves, "exactly one that serves", 5)
        net_lab.note("one serves after healing began, s", time.monotonic() - healed)
        verdict = net_lab.settle(merged=True)
        net_lab.note("since healing, s", time.monotonic() - healed)
        net_lab.note("stored twice (in doubt at one, sent again to the other)", len(verdict.twice))
        (report,) = net_lab.admin(net_lab.active(), "merges")["reports"]
        (row,) = report["queues"]
        net_lab.note("merged, known, acknowledged", (row["merged"], row["known"], row["acknowledged"]))
        assert report["finished"] and row["merged"] > 0
        assert sum(each["last"] - each["first"] + 1 for each in report["ranges"]) == row["merged"]


def test_with_stop_the_loser_waits_for_the_operator() -> None:
    with lab(cluster={"on_divergence": "stop"}) as net_lab:
        split(net_lab)
        healed = time.monotonic()
        net_lab.net.heal()

        def loser() -> str:
            return next((name for name in ("a", "b") if net_lab.row(name).get("standing") == "behind"), "")

        net_lab.note("noticed after, s", net_lab.wait(lambda: bool(loser()), "a loser", 5))
        stopped = loser()
        net_lab.wait(lambda: "resync --discard-own" in net_lab.row(stopped).get("sentence", ""), "the cure", 5)
        net_lab.stay(1.5)
        assert net_lab.state(stopped) == "WAITING"
        assert net_lab.state(other(stopped)) == "STANDALONE"
        net_lab.admin(stopped, "resync", discard_own=True)
        net_lab.note("in sync after resync, s", net_lab.wait_in_sync(20))
        net_lab.note("since healing, s", time.monotonic() - healed)
        assert net_lab.active() == other(stopped)
