"""Faults drawn at random, one or two at a time, with the pair under load (ZMQHA_FULL=1; ZMQHA_SEED and ZMQHA_ROUNDS choose)."""

import os
import random
import time
from collections.abc import Callable

import pytest

from tests.system.lab import FULL, Lab, lab

pytestmark = [
    pytest.mark.lab,
    FULL,
    pytest.mark.timeout(900),
]

ROUNDS = int(os.environ.get("ZMQHA_ROUNDS", "30"))
# Two that must not meet: together no message passes while both reach the gateway, so A1 is broken and two may serve.
CONFLICTS = ({"deafen a", "deafen b"}, {"peer silent", "between"}, {"peer carrier", "between"}, {"deafen a", "between"},
             {"deafen b", "between"})  # fmt: skip


def faults(both: Lab) -> dict[str, Callable[[], None]]:
    """By name; ``heal`` ends all of them, ``revive`` those of processes."""
    net = both.net
    return {
        "peer silent": net.cut_peer_silently,
        "peer carrier": net.cut_peer_carrier,
        "lan a": lambda: net.cut_lan("a"),
        "lan b": lambda: net.cut_lan("b"),
        "between": net.cut_lan_between,
        "isolate a": lambda: net.isolate("a"),
        "isolate b": lambda: net.isolate("b"),
        "deafen a": lambda: net.deafen("a"),
        "deafen b": lambda: net.deafen("b"),
        "reset a": lambda: net.reset_both_paths("a"),
        "reset b": lambda: net.reset_both_paths("b"),
        "gateway": net.mute_gateway,
        "slow": lambda: net.slow_peer("1mbit"),
        "kill a": both["a"].kill,
        "kill b": both["b"].kill,
        "freeze a": both["a"].freeze,
        "freeze b": both["b"].freeze,
    }


def revive(both: Lab) -> None:
    """Every process runs again."""
    for server in both.servers.values():
        if server.running:
            server.thaw()
        else:
            server.start()


def draw(names: list[str], chance: random.Random) -> list[str]:
    """One or two faults that may meet."""
    while True:
        drawn = chance.sample(names, chance.choice((1, 1, 2)))
        if set(drawn) not in CONFLICTS:
            return drawn


def test_random_faults_lose_nothing() -> None:
    seed = int(os.environ.get("ZMQHA_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    chance = random.Random(seed)
    with lab(timers={"flap_stable_ms": 50}) as net_lab:  # doubles with every flap; otherwise most of the time is waiting
        net_lab.note("seed", seed)
        began = time.monotonic()
        known = faults(net_lab)
        for number in range(ROUNDS):
            drawn = draw(list(known), chance)
            hold_s = chance.choice((0.1, 0.3, 0.6, 1.0, 2.0, 4.0))
            net_lab.note(f"{time.monotonic() - began:6.1f} s, round {number}", f"{' + '.join(drawn)} for {hold_s} s")
            for name in drawn:
                known[name]()
                net_lab.stay(chance.choice((0, 0, 0.2, 0.7)))
            net_lab.stay(hold_s)
            revive(net_lab)
            net_lab.net.heal()
            for name, server in net_lab.servers.items():
                assert server.running, (name, net_lab.logs())
            net_lab.stay(chance.choice((0, 0.5, 1, 3, 8)))
            if chance.random() < 0.3:
                net_lab.wait_in_sync(90)
        revive(net_lab)
        net_lab.settle(90, frozen=True)
