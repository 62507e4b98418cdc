"""Faults of the peer link alone: the LAN is the second path, so nobody changes roles and nothing stops for long."""

import time

import pytest

from tests.system.lab import FULL, lab

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("how", ["silently", "carrier"])
def test_a_cut_peer_link_moves_the_copy_to_the_lan_and_back(how: str) -> None:
    with lab() as net_lab:
        cut = time.monotonic()
        if how == "silently":
            net_lab.net.cut_peer_silently()
        else:
            net_lab.net.cut_peer_carrier()
        net_lab.stay(3)
        net_lab.note("gap, s", net_lab.gap(cut))
        net_lab.assert_unchanged(cut)
        assert net_lab.both_disks_since(cut + 2) > 50
        net_lab.net.heal()

        def copies_on_peer_link() -> bool:
            before = net_lab.net.received_bytes("b", "peer")
            time.sleep(0.5)
            return net_lab.net.received_bytes("b", "peer") - before > 50_000

        net_lab.note("back on the peer link, s", net_lab.wait(copies_on_peer_link, "copy on the peer link", 15))
        net_lab.assert_unchanged(cut)
        net_lab.settle()


def test_a_flapping_peer_link_changes_no_role() -> None:
    with lab() as net_lab:
        began = time.monotonic()
        for period_s in (0.3, 0.3, 0.3, 0.3, 0.8, 0.8, 1.5):
            net_lab.net.cut_peer_silently()
            net_lab.stay(period_s)
            net_lab.net.heal()
            net_lab.stay(period_s)
        net_lab.note("gap, s", net_lab.gap(began))
        net_lab.assert_unchanged(began)
        net_lab.settle()


def test_a_slow_peer_link_loses_nothing() -> None:
    """1 Mbit/s is less than the load: the peer is dropped by agreement, or confirms crawl."""
    with lab() as net_lab:
        began = time.monotonic()
        net_lab.net.slow_peer("1mbit")
        net_lab.stay(6)
        net_lab.note("confirms in 6 s", net_lab.confirms_since(began))
        net_lab.note("gap, s", net_lab.gap(began))
        net_lab.note("a", net_lab.states_since("a", began))
        net_lab.note("b", net_lab.states_since("b", began))
        assert net_lab.confirms_since(began) > 200
        net_lab.settle()


@FULL
def test_an_mtu_black_hole_on_the_peer_link_loses_nothing() -> None:
    """Heartbeats pass, pages do not: the peer is dropped by agreement after T_SLOW, confirms go on."""
    with lab() as net_lab:
        began = time.monotonic()
        net_lab.net.swallow_large_frames()
        net_lab.stay(10)
        net_lab.note("confirms in 10 s", net_lab.confirms_since(began))
        net_lab.note("gap, s", net_lab.gap(began))
        for name in ("a", "b"):
            net_lab.note(name, net_lab.states_since(name, began))
        assert net_lab.gap(began) < 6
        net_lab.settle(90)


def test_resets_on_both_paths_for_a_moment_cause_no_takeover() -> None:
    with lab() as net_lab:
        began = time.monotonic()
        net_lab.net.reset_both_paths("a")
        net_lab.stay(0.3)
        assert net_lab.gap(began + 0.05) > 0.2  # they hit
        net_lab.net.unfilter("a")
        healed = time.monotonic()
        net_lab.wait(lambda: net_lab.both_disks_since(healed) > 0, "confirms", 5)
        net_lab.note("confirms again after, s", time.monotonic() - healed)
        net_lab.stay(2)
        net_lab.assert_unchanged(began)
        net_lab.settle()


def test_a_half_open_peer_link_works_soon_after_a_restart() -> None:
    """The peer link is the only path then; the side that kept running must not hold on to the dead connection."""
    with lab() as net_lab:
        net_lab.net.cut_peer_silently()
        net_lab.stay(0.5)
        killed = time.monotonic()
        net_lab["a"].kill()
        net_lab.wait_state("b", "STANDALONE")
        net_lab.note("takeover, s", net_lab.first("b", killed, "STANDALONE"))
        net_lab.stay(1)
        net_lab.net.heal()
        net_lab.net.cut_lan_between()
        restarted = time.monotonic()
        net_lab["a"].start()
        net_lab.wait(lambda: net_lab.row("a").get("contact_ms") is not None, "contact", 10)
        contact_s = time.monotonic() - restarted
        net_lab.note("contact after the restart, s", contact_s)
        assert contact_s < 3
        net_lab.settle()
