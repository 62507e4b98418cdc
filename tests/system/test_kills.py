"""The active killed, frozen, killed with its watcher; the passive killed; all under load, at default timers."""

import random
import time
from collections.abc import Callable

import pytest

from tests.system.history import Outcome, gaps_after, judge
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
        gaps = run_faults(both, count(10, 50), lambda: kill_active(both))
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
    """A second producer knows the frozen server only: what that one still confirms must be in the new active's store (I4).

    That no client which knows the new epoch takes such a confirm is asserted by ``Tap`` at each of them. A thawed process counts as
    a flap of the link, whose pause doubles each time, so all but the first are restarted after what is to be seen was seen.
    """
    with pair() as both:
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        moments: list[float] = []
        pinned: list[Producer] = []
        late = 0
        for number in range(count(6, 20)):
            both.wait_in_sync()
            pinned.append(Producer(both.url_of(both.active()), f"pinned-{number}", rate=500))
            pinned[-1].wait_confirmed(100)
            producer.wait_confirmed(200)
            moments.append(time.monotonic())
            frozen = freeze_active(both)
            producer.wait_confirmed(200)
            pinned[-1].abandon()
            taken = [at for at, _, _, taken in pinned[-1].tap.confirms if taken]
            late += sum(1 for at in taken if at > moments[-1] + 0.6)
            if number:
                both[frozen].kill()
                both[frozen].start()
        both.wait_in_sync()
        verdict = close_history(both, [producer, *pinned], [reader])
    gaps = gaps_after(producer.sent, moments, within_s=5)
    print(f"confirms of the frozen one after its thaw: {late}, outcomes unknown and there: {verdict.counts['recovered']}")
    record_property("figures", figures("SIGSTOP of the active", gaps))
    assert max(gaps) < 1.2


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_killed_passive_is_missed_and_taken_back() -> None:
    """Alone within 1 s, SOLE on disk before the first lone confirm; takes the passive back by itself."""
    with pair() as both:
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        producer.wait_confirmed(300)
        passive = both.passive()
        active = both.active()
        moment = time.monotonic()
        both[passive].kill()
        while standing(both, active) != "sole":
            assert time.monotonic() < moment + 5
        sole_seen = time.monotonic()
        producer.wait_confirmed(300)
        alone = [one.returned for one in producer.sent if one.durability == 1 and one.returned > moment]
        assert alone and alone[0] - moment < 1.0
        # node.state is read a little after it was written: the record may be older than the look, never younger than the confirm.
        assert alone[0] > sole_seen - 0.25
        print(
            f"the passive killed: SOLE seen after {sole_seen - moment:.3f} s, first lone confirm after {alone[0] - moment:.3f} s"
        )
        both[passive].start()
        both.wait_in_sync()
        producer.wait_confirmed(300)
        assert producer.sent[-1].durability == 2
        close_history(both, [producer], [reader])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_frozen_passive_never_promotes_itself_and_two_frozen_ones_agree() -> None:
    with pair() as both:
        producer, reader = Producer(both.url, "p", rate=RATE), Reader(both.url, "r")
        producer.wait_confirmed(200)
        active, passive = both.active(), both.passive()
        both[passive].freeze()
        both.wait(lambda: both.state(active) == "STANDALONE", "the active going alone")
        time.sleep(1)
        both[passive].thaw()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert both.state(passive) not in ("ACTIVE", "STANDALONE")
            time.sleep(0.05)
        both.wait_in_sync()
        for first in (active, passive):
            both["a"].freeze()
            both["b"].freeze()
            time.sleep(2)
            both[first].thaw()
            time.sleep(0.4)
            both[passive if first == active else active].thaw()
            both.wait_in_sync(60)
            producer.wait_confirmed(200)
        close_history(both, [producer], [reader])


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("survivor", ["passive", "active"])
def test_what_both_disks_confirmed_is_on_either_disk_alone(survivor: str) -> None:
    """The passive is stopped for a moment, so that nothing more reaches its disk; then both die and one is lost for good."""
    with pair() as both:
        producer = Producer(both.url, "p", rate=RATE)
        producer.wait_confirmed(300)
        active, passive = both.active(), both.passive()
        both[passive].freeze()
        time.sleep(0.3)
        both[active].freeze()
        both.kill_both()
        sent = producer.abandon()
        assert all(one.durability == 2 for one in sent if one.outcome is Outcome.OK)
        left = passive if survivor == "passive" else active
        both[left].start()
        both.wait_settled_waiting(left)
        both.admin(left, "promote", accept_loss_of_peer=True)
        reader = Reader(both.url, "r")
        reader.drain()
        verdict = judge(sent, reader.stop())
        print(verdict.explain())
        verdict.check()
