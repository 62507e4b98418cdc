"""Forks: what two lineages have in common, and whether what lies beyond could hold something confirmed."""

from tests.core.ha_rig import E1, E2, E3, LINE, at, entry
from zmqha.core.position import NOWHERE, Epoch, Mode, fork

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
