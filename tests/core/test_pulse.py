"""When a path is rebuilt, at any scale of the timers."""

from itertools import pairwise

import pytest

from zmqha.core.actions import ResetPath
from zmqha.core.contact import Contact, Path
from zmqha.core.peer_protocol import Session
from zmqha.core.pulse import Pulse
from zmqha.core.timers import REJOIN_MS, RESET_PERIOD_MS, Timers
from zmqha.core.vote import Vote

LAN_ONLY = ("probe_ms", "probe_idle_ms", "probe_timeout_ms")


def scaled(factor: int) -> Timers:
    plain = Timers()
    times = {name: getattr(plain, name) * (1 if name in LAN_ONLY else factor) for name in plain.__dataclass_fields__}
    timers = Timers(**times)
    timers.check()
    return timers


def rebuilt(timers: Timers, lost_ms: int, until_ms: int) -> list[int]:
    """When path 1 is rebuilt: every heartbeat is answered on both paths, on this one until ``lost_ms``."""
    contact = Contact("cf", "b", Session(1, 1), [Path(reset_ms=0), Path(reset_ms=0)], opened_ms=0)
    pulse = Pulse(timers, contact, Vote(configured=False))
    resets = []
    for now_ms in range(0, until_ms, 10):
        if now_ms % timers.heartbeat_ms == 0:
            for path in contact.paths if now_ms < lost_ms else contact.paths[:1]:
                path.heard_ms = path.contact_ms = now_ms
        pulse.tick(now_ms)
        resets += [now_ms for action in pulse.take_actions() if action == ResetPath(1)]
        assert ResetPath(0) not in pulse.actions
    return resets


@pytest.mark.parametrize("factor", [1, 4, 5, 12])
def test_a_healthy_path_is_never_rebuilt_and_a_lost_one_is_again_and_again(factor: int) -> None:
    timers = scaled(factor)
    assert rebuilt(timers, 60_000, 60_000) == []
    lost_ms = 20 * timers.heartbeat_ms
    resets = rebuilt(timers, lost_ms, lost_ms + 10 * timers.reset_ms)
    assert resets[0] - lost_ms <= timers.reset_ms + 20
    assert all(timers.heartbeat_ms < later - earlier <= timers.reset_ms + 10 for earlier, later in pairwise(resets))


def test_whoever_waits_for_both_ends_to_be_connected_waits_for_a_scaled_rebuild_too() -> None:
    assert (Timers().reset_ms, Timers().rejoin_ms) == (RESET_PERIOD_MS, REJOIN_MS)
    assert scaled(5).rejoin_ms - REJOIN_MS == scaled(5).reset_ms - RESET_PERIOD_MS > 0
