"""What every act of the demo works with: the pair, the load, the timeline, the screen, and waiting that keeps all of them moving."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zmqha.cli.demo.ledger import per_bin
from zmqha.cli.demo.load import Load
from zmqha.cli.demo.pair import Pair
from zmqha.cli.demo.screen import Line, Scene, Screen, progress, sparkline
from zmqha.cli.demo.timeline import Timeline
from zmqha.cli.demo.waiting import wait
from zmqha.errors import OperationFailed

LIMIT_S = 27.0  # of the acts; what is left of 30 s is for tidying up
_SHOW_S = 0.1
_SPARK_S, _SPARKS = 0.1, 60


@dataclass(frozen=True)
class Settings:
    """From the command line."""

    seed: int
    rate: int
    seconds: int
    cut_link: bool


class Stage:
    """Driven by one thread."""

    def __init__(self, settings: Settings, pair: Pair, screen: Screen) -> None:
        self.settings = settings
        self.pair = pair
        self.screen = screen
        self.timeline = Timeline()
        self.rng = random.Random(settings.seed)
        self.load = Load(pair.url, settings.rate, self.rng)
        self.scene = Scene(self.timeline, endpoints=pair.endpoints)
        self.began = self.ended = 0.0  # of the load
        self.copying = ""  # whose copy is to be shown
        self.faults: list[str] = []
        self.stores: dict[str, Any] = {}
        self._deadline = time.monotonic() + LIMIT_S
        self._shown = 0.0

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Until it holds. Raises OperationFailed with the servers' last words."""
        try:
            wait(condition, what, min(seconds, self._deadline - time.monotonic()), self.pair, self.load, self.tick)
        except OperationFailed as error:
            raise OperationFailed(
                f"the demo {error.what}",
                cause=error.cause,
                cure="is the machine very busy? Run it again; zmqha-demo.json holds the servers' logs",
            ) from error

    def pause(self, seconds: float) -> None:
        """Let it run."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end, "time", seconds + 1)

    def tick(self, *, last: bool = False) -> None:
        """Read the logs, show what is new."""
        for event in self.pair.new_events():
            self.timeline.hear(event)
        now = time.time()
        if not last and now - self._shown < _SHOW_S:
            return
        self._shown = now
        scene = self.scene
        scene.now = min(now, self.ended or now)
        if scene.span is not None and scene.now > scene.span[1]:
            scene.span = (scene.span[0], scene.now)
        scene.footer = [] if last else self._footer(now)
        self.screen.refresh(scene, self.timeline.release(math.inf if last else now))

    def _footer(self, now: float) -> list[Line]:
        if not self.began:
            return [Line(""), Line("  starting two servers …", "dim")]
        ledger = self.load.ledger
        counts = per_bin([one.time for one in ledger.confirmed[-20_000:]], now - _SPARKS * _SPARK_S, _SPARK_S, _SPARKS)
        lines = [Line("")]
        if self.copying:
            share = float(self.pair.row(self.copying).get("copied") or 0.0)
            lines.append(Line(f"  {self.copying} copies  {progress(share)}", "yellow"))
        lines.append(Line(f"  acknowledged  {sparkline(counts)}  {len(ledger.confirmed):,}", "dim"))
        return lines
