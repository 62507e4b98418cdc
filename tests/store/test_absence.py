"""The pages that a returning peer lacks are never fewer than it lacks, wherever on the branch it stopped."""

import random

import pytest

from tests.core.ha_rig import E2, at
from zmqha.core.shipment import Shipment
from zmqha.store import absence
from zmqha.store.absence import Absence


def commit(txn: int, *pages: int) -> Shipment:
    runs = [(page, 2) for page in pages if page % 3 == 0]
    compact = [(page, 16, 4096) for page in pages if page % 3]
    return Shipment(at(E2, txn), txn - 1, 4096, b"", 0, runs, compact, b"", b"")


def written(pages: bytearray) -> set[int]:
    return {page for page, mark in enumerate(pages) if mark}


def touched(shipment: Shipment) -> set[int]:
    return {page + more for page, count in shipment.runs for more in range(count)} | {page for page, _, _ in shipment.compact}


def test_a_peer_that_stands_where_it_last_acknowledged_lacks_what_came_after() -> None:
    since = Absence(at(E2, 5))
    since.committed(commit(6, 10), 0)
    since.committed(commit(7, 20, 33), 6)
    assert since.covers(at(E2, 6)) and since.covers(at(E2, 7)) and not since.covers(at(E2, 5))
    assert written(since.pages()) == {20, 33, 34}


def test_the_same_number_on_another_branch_is_not_covered() -> None:
    since = Absence(at(E2, 5))
    since.committed(commit(6, 10), 0)
    assert not since.covers(at(E2, 6, mark=1))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_acknowledged_when_no_page_is_missing(seed: int) -> None:
    """A peer that keeps up, falls behind for long, comes back at any place that is covered."""
    rng = random.Random(seed)
    since, commits, acked = Absence(at(E2, 0)), [], 0
    for txn in range(1, 900):
        made = commit(txn, *(rng.randrange(2, 3000) for _ in range(5)))
        commits.append(made)
        if txn % 300 < 150:
            acked = max(acked, txn - rng.randint(1, 5))
        since.committed(made, acked if txn % 300 < 150 else 0)
        place = rng.randint(max(0, txn - 400), txn)
        if since.covers(at(E2, place)):
            lacking = set().union(*(touched(each) for each in commits[place:]))
            assert written(since.pages()) >= lacking
    assert since.covers(at(E2, 899))


def test_a_place_in_the_window_at_which_the_peer_was_lost_stays_covered_however_long_it_is_away() -> None:
    since = Absence(at(E2, 0))
    for txn in range(1, 101):
        since.committed(commit(txn, txn + 2), max(0, txn - 4))
    for txn in range(101, 5000):
        since.committed(commit(txn, txn % 700 + 2), 0)
    assert all(since.covers(at(E2, txn)) for txn in range(96, 101))
    assert written(since.pages()) >= {page for txn in range(97, 5000) for page in touched(commit(txn, txn % 700 + 2))}


def test_a_store_too_large_for_it_is_not_covered_until_the_peer_keeps_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "PAGES_MAX", 50)
    since = Absence(at(E2, 0))
    for txn in range(1, 100):
        since.committed(commit(txn, 61), 0)
    assert not since.covers(at(E2, 0))
    since.committed(commit(100, 61), 99)
    assert since.covers(at(E2, 99)) and written(since.pages()) == {61}
