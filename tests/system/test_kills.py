"""A3, A4, A10: the active killed, frozen, killed with its watcher; the passive killed; all under load, at default timers."""

import random
import time
from collections.abc import Callable

import pytest

from tests.system.history import gaps_after
from tests.system.load import Producer, Reader, median
from tests.system.measure import close_history, count, figures
from tests.system.pair import Pair, pair
from tests.system.stores import standing

RATE = 1000


def run_faults(both: Pair, times: int, fault: Callable[[], str]) -> list[float]:
    """``fault`` so many times, each with the pair in sync before and at a random phase of the heartbeats; the gaps."""
    producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
    moments = []
    chance = random.Random(both.ports["a"])
    for _ in range(times):
        both.wait_in_sync()
        producer.wait_confirmed(200)
        time.sleep(chance.random() * 0.3)
        moments.append(time.monotonic())
        fault()
        producer.wait_confirmed(200)
    both.wait_in_sync()
    verdict = close_history(both, [producer], [reader])
    assert verdict.counts["sent ok"] > times * 400
    return gaps_after(producer.sent, moments, within_s=5)


def kill_active(both: Pair, *, watcher_first: bool = False) -> str:
    """``kill -9``, and start it again once the other serves."""
    name = both.active()
    other = "b" if name == "a" else "a"
    if watcher_first:
        both[name].kill_watcher()
    both[name].kill()
    both.wait(lambda: both.state(other) in ("STANDALONE", "ACTIVE"), f"{other} serving")
    both[name].start()
    return name


@pytest.mark.timeout(120)
def test_kills_of_the_active_lose_nothing() -> None:
    with pair() as both:
        gaps = run_faults(both, 2, lambda: kill_active(both))
        figures("kill -9 of the active", gaps)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_of_the_active(record_property: Callable[[str, object], None]) -> None:
    with pair() as both:
        gaps = run_faults(both, count(15, 50), lambda: kill_active(both))
    record_property("figures", figures("kill -9 of the active", gaps))
    assert median(gaps) < 0.3
    assert sum(1 for gap in gaps if gap >= 1.0) <= 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_watcher_then_active(record_property: Callable[[str, object], None]) -> None:
    with pair() as both:
        gaps = run_faults(both, count(2, 5), lambda: kill_active(both, watcher_first=True))
    record_property("figures", figures("watcher killed first", gaps))
    assert max(gaps) < 1.2


def freeze_active(both: Pair) -> str:
    """SIGSTOP until the other serves and a little longer, then SIGCONT."""
    name = both.active()
    other = "b" if name == "a" else "a"
    both[name].freeze()
    both.wait(lambda: both.state(other) in ("STANDALONE", "ACTIVE"), f"{other} serving")
    time.sleep(0.5)
    both[name].thaw()
    return name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_freezes_of_the_active(record_property: Callable[[str, object], None]) -> None:
    """Producers that know one server only are on the frozen one too: what it still confirms must be in the new active's store."""
    with pair() as both:
        pinned = [Producer(both.url_of(name), f"pinned-{name}", rate=200, connect_timeout=30) for name in both.active()]
        times = count(6, 20)
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        moments, late = [], 0
        for _ in range(times):
            both.wait_in_sync()
            producer.wait_confirmed(200)
            frozen = both.active()
            pinned.append(Producer(both.url_of(frozen), f"pinned-{len(pinned)}", rate=200))
            pinned[-1].wait_confirmed(20)
            moments.append(time.monotonic())
            freeze_active(both)
            producer.wait_confirmed(200)
            newest = producer.tap.epoch
            time.sleep(0.3)
            late += sum(1 for at, _, epoch, taken in pinned[-1].tap.confirms if taken and at > moments[-1] + 0.5 and epoch < newest)
            pinned.pop().retire(into=finished)
        both.wait_in_sync()
    record_property("figures", figures("SIGSTOP of the active", gaps_after(producer.sent, moments, within_s=5)))
