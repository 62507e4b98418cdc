"""One server loses more than the peer link: it stops confirming, the other serves, nothing confirmed is lost."""

import time

import pytest

from tests.system.lab import FULL, lab, other

pytestmark = pytest.mark.lab


def test_an_active_off_the_lan_hands_over() -> None:
    """The peer link still works, so it does so by agreement (T20)."""
    with lab() as net_lab:
        cut, epoch = time.monotonic(), net_lab.epoch()
        net_lab.net.cut_lan("a")
        net_lab.wait(lambda: net_lab.first("b", cut, "STANDALONE", "ACTIVE") is not None, "hand-over", 5)
        taken_s = net_lab.first("b", cut, "STANDALONE", "ACTIVE")
        net_lab.note("b serves after, s", taken_s)
        assert taken_s is not None and taken_s < 3
        net_lab.wait(lambda: net_lab.first_confirm(cut, above=epoch) is not None, "confirms", 5)
        net_lab.wait_in_sync(10)
        assert net_lab.active() == "b"
        net_lab.note("gap at the client, s", net_lab.gap(cut))
        net_lab.settle()


@pytest.mark.parametrize("how", ["silently", "carrier"])
def test_an_isolated_active_confirms_nothing_and_is_replaced(how: str) -> None:
    with lab() as net_lab:
        cut, epoch = time.monotonic(), net_lab.epoch()
        if how == "silently":
            net_lab.net.isolate("a")
        else:
            net_lab.net.pull_both("a")
        done_s = time.monotonic() - cut
        net_lab.wait(lambda: net_lab.first_confirm(cut, above=epoch) is not None, "takeover", 5)
        net_lab.wait(lambda: net_lab.first("b", cut, "STANDALONE") is not None, "a look at it", 5)
        serves_s, confirms_s = net_lab.first("b", cut, "STANDALONE"), net_lab.first_confirm(cut, above=epoch)
        net_lab.note("b serves after, s", serves_s)
        net_lab.note("b confirms after, s", confirms_s)
        net_lab.wait(lambda: net_lab.gap(time.monotonic() - 0.5) < 0.4, "the client's confirms", 5)
        net_lab.note("gap at the client, s", net_lab.gap(cut))
        net_lab.note("a waits after, s", net_lab.first("a", cut, "WAITING"))
        net_lab.stay(1)
        assert net_lab.last_confirm("a", cut) < done_s + 0.2
        assert serves_s is not None and (serves_s < 1.2 or net_lab.gaps_in_logs())
        assert net_lab.state("a") == "WAITING"
        net_lab.settle()
        assert net_lab.active() == "b"


def test_the_stale_server_waits_although_it_is_back_first() -> None:
    with lab() as net_lab:
        net_lab.net.isolate("a")
        net_lab.wait_state("b", "STANDALONE", 5)
        net_lab.stay(1.5)
        net_lab.net.isolate("b")
        net_lab.note("b stops after, s", net_lab.wait_state("b", "WAITING", 5))
        net_lab.net.unfilter("a")
        back = time.monotonic()
        net_lab.stay(4)
        assert net_lab.states_since("a", back) == ["WAITING"], net_lab.logs()
        assert net_lab.confirms_since(back) == 0
        healed = time.monotonic()
        net_lab.net.unfilter("b")
        net_lab.wait_state("b", "STANDALONE", 10)
        net_lab.note("b serves again after, s", time.monotonic() - healed)
        net_lab.settle()


@FULL
def test_lan_ports_flapping_in_antiphase_never_make_two_actives() -> None:
    """The peer link is cut and each server sees the gateway only while the other does not (case 33)."""
    with lab() as net_lab:
        net_lab.net.cut_peer_silently()
        for period_s in (0.1, 0.2, 0.3, 0.5) * 5:
            for name in ("a", "b"):
                net_lab.net.cut_lan(name)
                net_lab.stay(period_s)
                net_lab.net.join_lan(name)
        net_lab.settle(90)


@pytest.mark.parametrize("deaf", ["a", "b"])
def test_one_way_cuts_leave_exactly_one_active(deaf: str) -> None:
    """The hearing server yields to the deaf one (F6)."""
    with lab() as net_lab:
        cut, epoch = time.monotonic(), net_lab.epoch()
        net_lab.net.deafen(deaf)
        net_lab.wait(lambda: net_lab.first_confirm(cut, above=epoch) is not None, "one that serves", 10)
        net_lab.note(f"confirms again after, s ({deaf} deaf)", net_lab.first_confirm(cut, above=epoch))
        net_lab.stay(2)
        net_lab.note(deaf, net_lab.states_since(deaf, cut))
        net_lab.note(other(deaf), net_lab.states_since(other(deaf), cut))
        assert net_lab.active() == deaf
        net_lab.settle()
