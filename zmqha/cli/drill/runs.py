"""The runs of the drill: a pair under load for each, the case, and the count afterwards.

The same pair serves one run after the other; a new one is made after a failure, and after a case that the servers remember.
"""

import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from zmqha.cli.demo.interrupt import interruptible
from zmqha.cli.demo.ledger import longest_pause
from zmqha.cli.demo.load import Load
from zmqha.cli.demo.pair import Pair, position_of
from zmqha.cli.demo.waiting import wait
from zmqha.cli.drill.cases import Case
from zmqha.cli.drill.scene import Scene
from zmqha.errors import ZmqhaError

FORM_S, SYNC_S, DRAIN_S = 15.0, 60.0, 20.0
BEFORE_S = (0.3, 0.8)  # of load before the fault
AFTER_S = 0.5  # of load after everything is in order again


class Outcome(NamedTuple):
    """What one run came to; ``faults`` empty = everything was kept."""

    case: str
    run: int
    confirmed: int
    lost: int
    twice: int
    gap_s: float
    seconds: float
    faults: tuple[str, ...]


class Runs:
    """A context manager: whatever happens, nothing is left behind."""

    def __init__(self, seed: int, rate: int, say: Callable[[str], None]) -> None:
        self._seed = seed
        self._rate = rate
        self._say = say
        self._pair: Pair | None = None
        self._signals = interruptible()

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._end_pair()
        finally:
            self._signals.__exit__(kind, error, trace)

    def run(self, case: Case, number: int) -> Outcome:
        """One run of one case."""
        began = time.monotonic()
        rng = random.Random(f"{self._seed}/{case.name}/{number}")
        pair = self._ready_pair()
        load = Load(pair.url, self._rate, rng, queue=f"drill-{case.name}-{number}")
        scene = Scene(pair, load, rng)
        try:
            self._perform(case, scene)
        except ZmqhaError as error:
            scene.faults.append(f"{error.what} ({error.cause})" if error.cause else error.what)
        finally:
            scene.mend()
            load.close()
        outcome = _count(case, number, scene, began)
        if outcome.faults or case.flaps:
            self._end_pair()
        verdict = f"FAIL: {'; '.join(outcome.faults)}" if outcome.faults else "ok"
        self._say(f"{case.name} {number}: {verdict}, gap {outcome.gap_s:.2f} s, {outcome.confirmed:,} confirmed")
        return outcome

    def _perform(self, case: Case, scene: Scene) -> None:
        pair, load = scene.pair, scene.load
        load.start()
        scene.wait_confirms(int(self._rate * scene.rng.uniform(*BEFORE_S)))
        case.act(scene)
        scene.wait(pair.in_sync, "both are in sync again", SYNC_S)
        for server in pair.servers.values():
            server.note_watcher()
        scene.pause(AFTER_S)
        load.stop_sending()
        scene.wait(load.ledger.is_complete, "every message is confirmed and received", DRAIN_S)
        scene.wait(lambda: pair.in_sync() and position_of(pair.rows()) is not None, "both stores are equal", SYNC_S)

    def _ready_pair(self) -> Pair:
        if self._pair is None:
            self._pair = Pair(cable=True)
            self._pair.start()
            wait(self._pair.in_sync, "two new servers become a pair", FORM_S, self._pair, None, self._pair.new_events)
            for server in self._pair.servers.values():
                server.note_watcher()
        return self._pair

    def _end_pair(self) -> None:
        pair, self._pair = self._pair, None
        if pair is not None:
            pair.__exit__(None, None, None)


def _count(case: Case, number: int, scene: Scene, began: float) -> Outcome:
    count = scene.load.ledger.count()
    after = [one.time for one in scene.load.ledger.confirmed if one.time >= scene.zero]
    gap_s = longest_pause([scene.zero, *after]).seconds if after else time.time() - scene.zero
    faults = [*scene.faults, *count.faults()]
    if gap_s > case.gap_limit_s:
        faults.append(f"no confirm for {gap_s:.1f} s, the limit is {case.gap_limit_s:g} s")
    twice = count.stored_twice + count.unmarked
    seconds = time.monotonic() - began
    return Outcome(case.name, number, count.acknowledged, count.lost, twice, gap_s, seconds, tuple(faults))
