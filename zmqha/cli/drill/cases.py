"""The cases of the drill: each one breaks something, watches, and mends it. What must hold always is checked in ``runs``.

A case may use all of ``Scene`` and ends when everything has been mended; the two need not be in sync yet.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from zmqha.cli.drill.scene import Scene

TAKEOVER_S = 10.0  # until the other server serves
DOWN_S = 0.7  # a killed server stays down for this long
HOLD_S = 2.5  # a cut or a silence lasts this long: longer than every decision window
FROZEN_S = 1.5  # longer than pause_ms and decide_ms
STALE_S = 2.5  # a stale server is watched for this long: T5 would need 2 s


class Case(NamedTuple):
    """One fault."""

    name: str
    what: str
    act: Callable[["Scene"], None]
    gap_limit_s: float  # generous: about ten times what an idle machine needs, and the time that the case itself takes
    flaps: bool = False  # the servers remember it and pair later next time: the pair is not used again
    quick: bool = True  # belongs to the drill without --cases


def _kill_active(scene: "Scene") -> None:
    victim, heir = scene.active, scene.passive
    scene.fault()
    scene.kill(victim)
    scene.wait_serving(heir, TAKEOVER_S)
    scene.pause(DOWN_S)
    scene.start(victim)


def _kill_passive(scene: "Scene") -> None:
    victim = scene.passive
    scene.fault()
    scene.kill(victim)
    scene.wait_serving(scene.active, TAKEOVER_S, alone=True)
    scene.pause(DOWN_S)
    scene.start(victim)


def _kill_both(scene: "Scene") -> None:
    order = [scene.active, scene.passive]
    scene.fault()
    for name in order:
        scene.kill(name)
    scene.rng.shuffle(order)
    for name in order:
        scene.start(name)
        scene.pause(scene.rng.uniform(0.0, DOWN_S))


def _stop_active(scene: "Scene") -> None:
    victim, heir = scene.active, scene.passive
    scene.fault()
    code = scene.stop(victim)
    scene.must(code == 0, f"the stopped server ended with {code}")
    scene.wait_serving(heir, TAKEOVER_S)
    scene.start(victim)


def _switchover(scene: "Scene") -> None:
    heir = scene.passive
    scene.fault()
    scene.pair.switchover(heir)
    scene.wait_serving(heir, TAKEOVER_S)


def _stale_first(scene: "Scene") -> None:
    stale, fresh = scene.passive, scene.active
    scene.fault()
    scene.kill(stale)
    scene.wait_serving(fresh, TAKEOVER_S, alone=True)
    scene.wait_confirms(100)
    scene.kill(fresh)
    scene.start(stale)
    scene.wait(lambda: scene.pair.row(stale).get("state") == "WAITING", f"{stale} answers", TAKEOVER_S)
    seen = scene.watch(stale, STALE_S)
    scene.must(seen <= {"WAITING", ""}, f"the stale server did not wait: {', '.join(sorted(seen))}")
    scene.start(fresh)


def _gateway_mute(scene: "Scene") -> None:
    epoch = scene.epoch()
    scene.fault()
    scene.pair.gateway.mute()
    scene.pause(HOLD_S)
    scene.pair.gateway.speak()
    scene.pause(1.0)  # both have asked again
    scene.must(scene.epoch() == epoch or scene.stood_still(), "a mute gateway alone changed the roles")


def _cut(scene: "Scene", towards: str) -> None:
    cable = scene.pair.cable
    assert cable is not None
    epoch = scene.epoch()
    scene.fault()
    cable.cut(towards)
    scene.pause(HOLD_S)
    cable.mend()
    scene.must(scene.epoch() == epoch or scene.stood_still(), "a cut of the peer link alone changed the roles")


def _cut_link(scene: "Scene") -> None:
    _cut(scene, "")


def _cut_one_way(scene: "Scene") -> None:
    _cut(scene, scene.rng.choice([scene.active, scene.passive]))


def _freeze_active(scene: "Scene") -> None:
    victim, heir = scene.active, scene.passive
    scene.fault()
    scene.freeze(victim)
    scene.wait_serving(heir, TAKEOVER_S)
    scene.pause(FROZEN_S)
    scene.thaw(victim)


def _freeze_passive(scene: "Scene") -> None:
    victim = scene.passive
    scene.fault()
    scene.freeze(victim)
    scene.wait_serving(scene.active, TAKEOVER_S, alone=True)
    scene.pause(FROZEN_S)
    scene.thaw(victim)


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("kill-active", "kill -9 the active", _kill_active, 5.0),
        Case("kill-passive", "kill -9 the passive", _kill_passive, 5.0),
        Case("kill-both", "kill -9 both, restart in any order", _kill_both, 20.0),
        Case("stop-active", "SIGTERM to the active", _stop_active, 5.0),
        Case("switchover", "an operator's switchover", _switchover, 5.0),
        Case("gateway-mute", "the gateway answers nobody", _gateway_mute, 5.0),
        Case("cut-link", "peer link cut, LAN well", _cut_link, 8.0),
        Case("cut-one-way", "peer link cut in one direction", _cut_one_way, 8.0),
        Case("stale-first", "both down, the stale one is first", _stale_first, 30.0),
        Case("freeze-active", "SIGSTOP the active, SIGCONT later", _freeze_active, 10.0, flaps=True),
        Case("freeze-passive", "SIGSTOP the passive, SIGCONT later", _freeze_passive, 10.0, flaps=True, quick=False),
    )
}
