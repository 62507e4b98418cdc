"""The passive's side of replication: what it hands to the store and what it acknowledges."""

import pytest

from tests.core.ha_rig import E2, at
from zmqha.core.actions import ConnectBulk, Journal, ReadTable, SendBulk, TakeCopy
from zmqha.core.contact import Contact, Path
from zmqha.core.events import Journalled, TablePart
from zmqha.core.follower import HOME_MS, Follower
from zmqha.core.peer_protocol import (
    Beat,
    CopyBegin,
    CopyEnd,
    CopyPages,
    CopyRound,
    Follow,
    Held,
    Piece,
    Session,
    Standing,
    State,
    Stored,
    Sub,
    Table,
    TableWanted,
    Way,
)
from zmqha.core.position import NOWHERE
from zmqha.core.timers import Timers
from zmqha.errors import ProtocolError

MINE, THEIRS = Session(7, 1), Session(5, 1)


def following() -> Follower:
    follower = Follower(Timers(), Contact("cf", "a", MINE, [Path(contact_ms=0), Path(contact_ms=0)]))
    follower.start(MINE, THEIRS, Held(at(E2, 5)), 0)
    return follower


def whole() -> Follower:
    """It has the copy, up to transaction 9."""
    follower = following()
    follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (), 1)
    follower.journalled(Journalled(1, NOWHERE, 0, False), 1)
    follower.hear(CopyPages(THEIRS, MINE, ((2, 2),), 0), (bytes(8192),), 2)
    follower.hear(CopyEnd(THEIRS, MINE, at(E2, 9), b"meta", 8192), (), 3)
    follower.journalled(Journalled(1, at(E2, 9), 8192, True), 4)
    follower.take_actions()
    return follower


def said(follower: Follower) -> list[object]:
    return [action.message for action in follower.take_actions() if isinstance(action, SendBulk)]


def test_it_connects_and_asks_for_everything() -> None:
    first, second = following().take_actions()[:2]
    assert first == ConnectBulk(0)
    assert isinstance(second, SendBulk)
    assert isinstance(second.message, Follow)
    assert second.message.position == NOWHERE


def test_it_asks_quickly_until_something_comes_and_then_tells_every_heartbeat() -> None:
    follower = following()
    follower.take_actions()
    follower.tick(60)
    assert len(said(follower)) == 1
    follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (), 70)
    follower.tick(120)
    assert said(follower) == []


def test_pages_go_to_the_store_and_only_what_is_durable_is_acknowledged() -> None:
    follower = whole()
    follower.hear(Piece(THEIRS, MINE, at(E2, 10), 0, 1), (b"head", b"pages"), 10)
    actions = follower.take_actions()
    assert [type(action) for action in actions] == [Journal]
    follower.journalled(Journalled(1, at(E2, 10), 8192, True), 20)
    stored = said(follower)[-1]
    assert isinstance(stored, Stored)
    assert stored.position == at(E2, 10)


def test_what_is_sent_again_is_taken_once() -> None:
    follower = whole()
    for _ in range(2):
        follower.hear(Piece(THEIRS, MINE, at(E2, 10), 0, 1), (b"head", b"pages"), 10)
    assert len([action for action in follower.take_actions() if isinstance(action, Journal)]) == 1


@pytest.mark.parametrize("sessions", [(Session(5, 2), MINE), (THEIRS, Session(7, 2))])
def test_bulk_of_another_session_is_nothing(sessions: tuple[Session, Session]) -> None:
    follower = whole()
    follower.hear(Piece(*sessions, at(E2, 10), 0, 1), (b"head", b"pages"), 10)
    assert follower.take_actions() == []


def test_a_frame_too_many_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        following().hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (b"?",), 1)


def test_a_copy_that_begins_again_starts_from_nothing() -> None:
    follower = whole()
    follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (), 10)
    assert (follower.whole, follower.position) == (False, NOWHERE)
    assert isinstance(follower.take_actions()[0], TakeCopy)


def test_t7_bulk_moves_to_the_other_path_and_home_again_later() -> None:
    follower = whole()
    contact = follower._contact
    contact.paths[1].contact_ms = 1000
    follower.tick(1000)
    assert ConnectBulk(1) in follower.take_actions()
    home_ms = []
    for now_ms in range(1100, 1100 + HOME_MS + 400, 100):
        contact.paths[0].contact_ms = contact.paths[1].contact_ms = now_ms
        follower.tick(now_ms)
        home_ms += [now_ms for action in follower.take_actions() if action == ConnectBulk(0)]
    assert home_ms
    assert home_ms[0] - 1100 > HOME_MS - 100


def test_who_stopped_following_acknowledges_nothing() -> None:
    follower = whole()
    follower.stop()
    assert follower.take_actions() == [ConnectBulk(None)]
    follower.tick(10_000)
    assert follower.take_actions() == []


def test_what_the_store_still_says_of_an_older_copy_is_not_told() -> None:
    follower = whole()
    follower.hear(CopyBegin(THEIRS, MINE, 2, 4096, 2), (), 30)
    follower.journalled(Journalled(1, at(E2, 9), 8192, True), 31)
    assert (follower.copied_bytes, follower.whole) == (0, False)
    follower.journalled(Journalled(2, NOWHERE, 0, False), 32)
    follower.journalled(Journalled(2, NOWHERE, 4096, False), 33)
    assert follower.copied_bytes == 4096


def test_after_a_reconnect_it_tells_of_which_copy_it_counts_and_what_it_holds() -> None:
    """The table for the next copy is wanted already; the store still writes pages of the one before."""
    follower = following()
    follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (), 1)
    follower.journalled(Journalled(1, NOWHERE, 4096, False), 2)
    follower._connect(1, 3)
    follower.hear(TableWanted(THEIRS, MINE, 2, True), (), 4)
    follower.journalled(Journalled(1, NOWHERE, 8192, False), 5)
    assert said(follower)[-1] == Stored(MINE, THEIRS, 1, NOWHERE, 8192, 0, Held(at(E2, 5), partial=True))
    follower.hear(CopyBegin(THEIRS, MINE, 2, 4096, 2), (), 6)
    follower.tick(1000)
    assert said(follower)[-1] == Stored(MINE, THEIRS, 2, NOWHERE, 0, 0, Held(at(E2, 5), partial=True))


def test_it_says_what_it_holds_and_after_a_round_that_it_holds_more() -> None:
    follower = following()
    assert [message.held for message in said(follower) if isinstance(message, Follow)] == [Held(at(E2, 5))]
    follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (), 1)
    follower.journalled(Journalled(1, NOWHERE, 0, False), 1)
    follower.hear(CopyPages(THEIRS, MINE, ((2, 2),), 0), (bytes(8192),), 2)
    follower.hear(CopyRound(THEIRS, MINE, at(E2, 8), b"meta", 8192), (), 3)
    follower.journalled(Journalled(1, at(E2, 8), 8192, False, 1), 4)
    stored = said(follower)[-1]
    assert isinstance(stored, Stored)
    assert (stored.position, stored.rounds) == (NOWHERE, 1)  # not a place in the stream
    follower._connect(1, 5)
    again = said(follower)[-1]
    assert isinstance(again, Follow)
    assert again.held == Held(at(E2, 8))


def test_an_unfinished_new_file_is_offered_for_the_next_attempt() -> None:
    follower = following()
    follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (), 1)
    follower.journalled(Journalled(1, NOWHERE, 0, False), 1)
    follower.journalled(Journalled(1, NOWHERE, 4096, False), 2)
    follower.take_actions()
    follower._connect(1, 3)
    again = said(follower)[-1]
    assert isinstance(again, Follow)
    assert again.held == Held(at(E2, 5), partial=True)


def test_a_new_file_that_did_not_fit_needs_room_for_its_rest_and_a_delta_for_twice_its_size() -> None:
    follower = following()
    follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 10, Way.REST), (), 1)
    follower.journalled(Journalled(1, NOWHERE, 7 * 4096, False), 2)
    assert follower.missing_bytes == 3 * 4096
    follower.journalled(Journalled(1, at(E2, 8), 10 * 4096, False, 1), 3)
    follower.journalled(Journalled(1, at(E2, 8), 14 * 4096, False, 1), 4)
    assert follower.missing_bytes == 2 * 4 * 4096  # of the next round, which is a delta
    follower.hear(CopyBegin(THEIRS, MINE, 2, 4096, 10, Way.DELTA), (), 5)
    follower.journalled(Journalled(2, NOWHERE, 7 * 4096, False), 6)
    assert follower.missing_bytes == 2 * 10 * 4096  # what has come of it is deleted
    follower.journalled(Journalled(2, NOWHERE, 10 * 4096, False), 7)
    assert follower.missing_bytes == 10 * 4096  # it lies there whole, and is yet to be laid over the store
    follower.journalled(Journalled(2, at(E2, 9), 10 * 4096, True, 1), 8)
    assert follower.missing_bytes == 0


def test_a_table_is_read_when_it_is_wanted_and_sent_in_pieces() -> None:
    follower = following()
    follower.take_actions()
    follower.hear(TableWanted(THEIRS, MINE, 1, False), (), 1)
    assert follower.take_actions() == [ReadTable(1, False)]
    follower.table_part(TablePart(1, 0, b"\1" * 8, True))
    assert follower.take_actions() == [SendBulk(None, Table(MINE, THEIRS, 1, 0, True), (b"\1" * 8,))]


def moved(follower: Follower, until_ms: int, *, busy: bool = False) -> list[int]:
    """When it moved to the LAN; heartbeats pass on both paths."""
    moves = []
    for now_ms in range(1000, until_ms, 100):
        for path in follower._contact.paths:
            path.contact_ms = now_ms
        follower.tick(now_ms, busy=busy)
        moves += [now_ms for action in follower.take_actions() if action == ConnectBulk(1)]
    return moves


@pytest.mark.parametrize("stage", ["nothing", "the table", "pages"])
def test_a_copy_of_which_nothing_comes_though_heartbeats_pass_goes_round_that_path(stage: str) -> None:
    """A closed port, or a hole in the MTU: small frames come, and no pages."""
    follower = following()
    if stage == "the table":
        follower.hear(TableWanted(THEIRS, MINE, 1, False), (), 500)
        assert moved(follower, 60_000) == [], "this node reads its own pages"
        follower.table_part(TablePart(1, 0, b"", True))
        assert moved(follower, 115_000) == [], "the source compares them with its own: so many that it may take a minute"
    if stage == "pages":
        follower.hear(CopyBegin(THEIRS, MINE, 1, 4096, 2), (), 500)
        assert moved(follower, 60_000, busy=True) == [], "what has come is being written"
    moves = moved(follower, 200_000)
    assert len(moves) == 1 and follower._path == 1, "and not to and fro"
    follower.stop()
    follower.start(MINE, THEIRS, Held(), 200_000)
    assert follower._path == 1, "the next copy does not try it again at once"


def test_a_source_that_finds_out_what_is_to_be_sent_is_waited_for_longer() -> None:
    follower = following()
    follower._contact.beat = Beat(
        THEIRS, 1, 0, State.STANDALONE, Sub.NONE, "", Standing.SOLE, E2, at(E2, 9), False, True, True, 0, True, (MINE, 1), MINE
    )  # fmt: skip
    assert moved(follower, 10_000) == []
    assert moved(follower, 20_000)


def test_who_has_the_whole_copy_does_not_move_for_want_of_news() -> None:
    assert moved(whole(), 60_000) == []
