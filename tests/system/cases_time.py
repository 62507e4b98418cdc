"""T1, T2: wall clocks that jump and creep, a clock that goes too fast on one side. Read through a preloaded ``clock_faults.c``."""

import itertools
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system import disk_faults
from tests.system.load import Load
from tests.system.matrix import Run, case
from tests.system.pair import Pair
from tests.system.stores import assert_equal_offline

SOURCE = Path(__file__).with_name("clock_faults.c")
HOURS = 3600.0


class Clock:
    """What one server's process reads."""

    def __init__(self, both: Pair, name: str, rate: float = 1.0) -> None:
        self._file = both.directory / f"{name}.clock"
        self._rate = rate
        self.ahead(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """For ``Server.start``."""
        return {"LD_PRELOAD": str(disk_faults.library(SOURCE)), "CLOCK_FAULTS": str(self._file)}

    def ahead(self, seconds: float) -> None:
        """The wall clock, from now on. In place: the file is mapped."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("<dd", seconds, self._rate))


@contextmanager
def clocked(run: Run, **rates: float) -> Iterator[tuple[Pair, Load, dict[str, Clock]]]:
    """A pair under load with clocks of its own; judged at the end."""
    if why := disk_faults.missing():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="zmqha-pair-") as place:
        both = Pair(Path(place))
        clocks = {name: Clock(both, name, rates.get(name, 1.0)) for name in "ab"}
        try:
            for name in "ab":
                both[name].start(**clocks[name].environment)
            both.wait_in_sync()
            load = Load(both.url)
            load.wait_confirmed()
            yield both, load, clocks
            both.wait_in_sync(60)
            run.judge(load.settle())
            both.assert_equal_stores()
            active = both.active()
            both.kill_both()
            assert_equal_offline(both, active)
        except BaseException:
            both.keep_logs()
            raise
        finally:
            both.close()


def calm(run: Run, both: Pair, load: Load, seconds: float, what: str) -> None:
    """Confirms flow and nobody changes its role."""
    active, end = both.active(), time.monotonic() + seconds
    gaps = {name: len(both[name].events("ha.gap")) for name in "ab"}
    while time.monotonic() < end:
        states = (both.state(active), both.state("b" if active == "a" else "a"))
        stalled = any(len(both[name].events("ha.gap")) > gaps[name] for name in "ab")
        run.expect(states == ("ACTIVE", "PASSIVE") or stalled, f"{what}: {states}")
        load.wait_confirmed(5)
        time.sleep(0.05)


def restarted(both: Pair, clocks: dict[str, Clock], name: str) -> None:
    both[name].kill()
    both[name].start(**clocks[name].environment)
    both.wait_in_sync(60)


@case("T1", "wall clocks jump by 3 h both ways, and creep by 1 s every 100 ms", timeout_s=240)
def wall_clock(run: Run) -> None:
    """Nothing that is decided reads them."""
    with clocked(run) as (both, load, clocks):
        for name in "ab":
            for hours in (3, -3, 0):
                clocks[name].ahead(hours * HOURS)
                calm(run, both, load, run.pick(1.5, 10), f"the wall clock of {name} {hours:+} h")
                run.runs += 1
            clocks[name].ahead(-3 * HOURS)  # and a start in the past: its peer has met it in the future
            restarted(both, clocks, name)
            load.wait_confirmed()
            clocks[name].ahead(0)
        steps = run.pick(30, 300)
        for step in range(steps):
            clocks["a"].ahead(float(step))
            clocks["b"].ahead(-float(step))
            time.sleep(0.1)
        calm(run, both, load, 1, f"wall clocks {2 * steps} s apart")
        run.note("ahead behind at the end, s", [steps, -steps])
        run.note("expiry of messages", "skipped: this version has no time to live")


@case("T2", "one side's clock is 5 % fast", timeout_s=240)
def fast_clock(run: Run) -> None:
    for name in "ab":
        with clocked(run, **{name: 1.05}) as (both, load, clocks):
            calm(run, both, load, run.pick(5, 60), f"{name} is 5 % fast")
            for killed in (both.active(), both.passive()):
                moment = time.monotonic()
                both[killed].kill()
                load.wait_confirmed(20)
                run.gaps.append(max(gap for gap in _gaps(load, moment)))
                both[killed].start(**clocks[killed].environment)
                both.wait_in_sync(60)
            run.runs += 1


def _gaps(load: Load, since: float) -> list[float]:
    confirms = sorted(one.returned for one in load.sent if one.returned > since - 0.1)
    return [later - earlier for earlier, later in itertools.pairwise(confirms)]
