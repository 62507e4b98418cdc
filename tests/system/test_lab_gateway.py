"""The gateway falls silent: no reason to do anything while the two have contact, and no permission to serve when they have not."""

import time

import pytest

from tests.system.lab import lab

pytestmark = pytest.mark.lab


def test_a_mute_gateway_changes_nothing_while_both_are_in_contact() -> None:
    with lab() as net_lab:
        began = time.monotonic()
        net_lab.net.mute_gateway()
        net_lab.stay(4)
        assert net_lab.row("a")["gateway"] is False
        net_lab.assert_unchanged(began)
        net_lab.note("gap, s", net_lab.gap(began))
        net_lab.net.heal()
        net_lab.stay(1)
        net_lab.assert_unchanged(began)
        net_lab.settle()


def test_gateway_mute_then_peer_lost_nobody_serves() -> None:
    """PAIRED: back with the peer, not with the gateway. SOLE: back with the gateway."""
    with lab() as net_lab:
        net_lab.net.mute_gateway()
        net_lab.stay(1)
        killed = time.monotonic()
        net_lab["b"].kill()
        net_lab.wait_state("a", "WAITING", 5)
        net_lab.note("a waits after, s", time.monotonic() - killed)
        net_lab.stay(1)
        net_lab.net.heal()
        net_lab.stay(2.5)
        assert net_lab.states_since("a", killed) == ["ACTIVE", "WAITING"], net_lab.logs()
        assert net_lab.both_disks_since(killed + 0.3) == 0
        assert net_lab.confirms_since(killed + 1) == 0
        assert "waits for b" in net_lab.row("a")["sentence"]
        net_lab["b"].start()
        net_lab.wait_in_sync()

        net_lab[("b" if net_lab.active() == "a" else "a")].kill()
        alone = net_lab.active()
        net_lab.wait_state(alone, "STANDALONE", 5)
        net_lab.stay(0.5)
        net_lab.net.mute_gateway()
        net_lab.note("a lone server stops after, s", net_lab.wait_state(alone, "WAITING", 5))
        net_lab.stay(1)
        net_lab.net.heal()
        net_lab.note("and serves again after, s", net_lab.wait_state(alone, "STANDALONE", 5))
        net_lab[("b" if alone == "a" else "a")].start()
        net_lab.settle()


def test_gateway_mute_then_both_paths_cut_both_wait_until_they_meet() -> None:
    with lab() as net_lab:
        net_lab.net.mute_gateway()
        net_lab.stay(1)
        cut = time.monotonic()
        net_lab.net.cut_peer_silently()
        net_lab.net.cut_lan_between()
        for name in ("a", "b"):
            net_lab.wait_state(name, "WAITING", 5)
        net_lab.note("both wait after, s", time.monotonic() - cut)
        net_lab.stay(1)
        net_lab.net.unfilter("gateway")  # both reach it now, neither may serve: each may be the stale one
        net_lab.stay(2)
        assert [net_lab.state(name) for name in ("a", "b")] == ["WAITING", "WAITING"]
        healed = time.monotonic()
        net_lab.net.heal()
        net_lab.wait(lambda: net_lab.confirms_since(healed) > 0, "confirms", 10)
        net_lab.note("confirms again after, s", time.monotonic() - healed)
        net_lab.settle()
