"""Forks: what two lineages have in common, and whether what lies beyond could hold something confirmed."""

import pytest

from tests.core.ha_rig import E1, E2, E3, LINE, at, entry
from zmqha.core.position import NOWHERE, Epoch, Lineage, Mode, Position, bounded, fork, held_whole

OTHER = Epoch(3, 77)


def test_equal_stores_and_a_prefix_are_no_divergence() -> None:
    assert fork(LINE, at(E2, 9), LINE, at(E2, 9)).mine_beyond == 0
    found = fork(LINE, at(E2, 9), (*LINE, entry(E3, Mode.SOLE, 12)), at(E3, 20))
    assert (found.common_txn, found.mine_beyond, found.diverged) == (9, 0, False)


def test_paired_transactions_beyond_the_common_point_were_never_confirmed() -> None:
    found = fork(LINE, at(E2, 11), (*LINE, entry(E3, Mode.SOLE, 10)), at(E3, 20))
    assert (found.common_txn, found.mine_beyond, found.theirs_beyond, found.diverged) == (9, 2, 11, False)


def test_a_lone_epoch_beyond_the_common_point_is_divergence() -> None:
    found = fork((*LINE, entry(OTHER, Mode.SOLE, 10)), at(OTHER, 11), (*LINE, entry(E3, Mode.SOLE, 10)), at(E3, 20))
    assert found.diverged
    assert found.common_txn == 9


def test_two_nodes_that_picked_one_counter_are_told_apart_by_the_nonce() -> None:
    assert OTHER.counter == E3.counter
    assert fork((*LINE, entry(OTHER, Mode.SOLE, 10)), at(OTHER, 12), (*LINE, entry(E3, Mode.SOLE, 10)), at(E3, 12)).diverged


def test_a_common_point_below_what_the_peer_once_held_is_divergence() -> None:
    theirs = (*LINE, entry(E3, Mode.SOLE, 8))
    assert fork(LINE, at(E2, 11), theirs, at(E3, 20), my_peer_high=10).diverged
    assert not fork(LINE, at(E2, 11), theirs, at(E3, 20), my_peer_high=7).diverged


def test_nothing_in_common_with_a_lone_history_is_divergence() -> None:
    stranger = (entry(Epoch(1, 5), Mode.SOLE, 1),)
    assert fork(stranger, at(Epoch(1, 5), 3), LINE, at(E2, 9)).diverged


def test_an_empty_store_has_nothing_to_lose() -> None:
    assert not fork((), NOWHERE, LINE, at(E2, 9)).diverged


def test_a_store_without_lineage_is_doubted() -> None:
    assert fork((), at(E1, 3), LINE, at(E2, 9)).diverged


def test_of_an_epoch_that_another_server_served_alone_to_its_end_a_store_may_hold_a_part() -> None:
    lone = (
        *LINE,
        entry(E3, Mode.SOLE, 12),
        entry(Epoch(4, 4), Mode.PAIRED, 15),
        entry(Epoch(5, 5), Mode.SOLE, 20, "b"),
    )
    assert held_whole(lone) == tuple(each.epoch for each in lone), "b was in sync before it went on"
    promoted = (*LINE, entry(E3, Mode.SOLE, 12), entry(Epoch(4, 4), Mode.SOLE, 15, "b"))
    assert held_whole(promoted) == (E1, E2, Epoch(4, 4))


def lone_epochs(many: int, most: int = 6) -> tuple[Lineage, Position]:
    """The peer left at transaction 9 of epoch 2; since then one epoch after the other, ten transactions each."""
    lineage, txn = LINE, 10
    for counter in range(3, 3 + many):
        lineage = bounded((*lineage, entry(Epoch(counter, 7), Mode.SOLE, txn)), most, 9)
        txn += 10
    return lineage, at(Epoch(2 + many, 7), txn - 1)


@pytest.mark.parametrize("many", [1, 3, 4, 5, 6, 70])
def test_a_clean_copy_is_known_again_after_any_number_of_lone_epochs(many: int) -> None:
    theirs, end = lone_epochs(many)
    assert len(theirs) <= 6
    assert fork(LINE, at(E2, 9), theirs, end) == (9, 0, end.txn - 9, False, "this store is a prefix of the peer's")
    assert not fork(LINE, at(E2, 11), theirs, end).diverged, "an unconfirmed tail"
    assert fork((*LINE, entry(OTHER, Mode.SOLE, 10)), at(OTHER, 12), theirs, end).diverged


def test_epochs_that_are_no_longer_listed_count_as_served_alone() -> None:
    mine, end = lone_epochs(70)
    found = fork(mine, end, LINE, at(E2, 9))
    assert (found.common_txn, found.diverged) == (9, True)
    gap = next(each for each in mine if each.dropped)
    assert gap.dropped + len(mine) == len(LINE[1:]) + 70
    paired = tuple(each._replace(mode=Mode.PAIRED) for each in mine)
    assert "no longer known" in fork(paired, end, LINE, at(E2, 9)).why


def test_of_an_epoch_before_a_gap_only_its_beginning_is_certain() -> None:
    theirs, end = lone_epochs(70)
    mine = (*LINE, theirs[1])
    assert fork(mine, at(mine[-1].epoch, 15), theirs, end).common_txn == 10


def test_while_the_peer_follows_the_oldest_go() -> None:
    lineage = LINE
    for counter in range(3, 20):
        lineage = bounded((*lineage, entry(Epoch(counter, 7), Mode.PAIRED, 10 * counter)), 6, 10 * counter - 1)
    assert [each.epoch.counter for each in lineage] == list(range(14, 20))
    assert not any(each.dropped for each in lineage)
