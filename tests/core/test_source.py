"""The active's side of replication: what counts as an acknowledgement, and what is sent again."""

from tests.core.ha_rig import E2, at
from zmqha.core import limits
from zmqha.core.actions import CopyOut, Note, SendBulk, StopCopy, TakeTable
from zmqha.core.events import CopyBegun, CopyDone, CopyPart, RoundDone, TableNeeded
from zmqha.core.pace import PAUSE_MS
from zmqha.core.peer_protocol import (
    CopyBegin,
    CopyEnd,
    CopyPages,
    CopyRound,
    Follow,
    Held,
    Piece,
    Session,
    Stored,
    Table,
    TableWanted,
    Way,
)
from zmqha.core.position import NOWHERE, Position
from zmqha.core.shipment import Shipment
from zmqha.core.source import Phase, Source
from zmqha.core.timers import TABLE_SLOW_MS

MINE, THEIRS = Session(5, 1), Session(7, 1)


def follow(position: Position = NOWHERE, attempt: int = 1) -> Follow:
    return Follow(THEIRS, MINE, position, attempt)


def stored(position: Position, copied: int = 0, session: Session = THEIRS, copy: int = 1) -> Stored:
    return Stored(session, MINE, copy, position, copied, held=Held(partial=copied > 0))


def ship(txn: int, pages: int = 0) -> Shipment:
    return Shipment(at(E2, txn), txn - 1, 4096, b"", 0, [(2, pages)] if pages else [], [], b"head", b"pages")


def streaming() -> Source:
    """A source whose follower has taken the whole copy, at transaction 9."""
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.copy_begun(CopyBegun(1, 4096, 2))
    source.copy_part(CopyPart(1, ((2, 2),), bytes(8192), 0))
    source.copy_done(CopyDone(1, at(E2, 9), b"meta"))
    source.stored(b"r1", stored(at(E2, 9), 8192), 10)
    source.take_actions()
    return source


def sent(source: Source) -> list[object]:
    return [action.message for action in source.take_actions() if isinstance(action, SendBulk)]


def test_a_follower_that_has_nothing_gets_a_copy_in_order() -> None:
    source = Source()
    source.follow(b"r1", follow(), 0)
    begin = source.take_actions()[0]
    assert isinstance(begin, CopyOut)
    assert begin.begin
    source.copy_begun(CopyBegun(begin.copy, 4096, 2))
    source.copy_part(CopyPart(begin.copy, ((2, 2),), bytes(8192), 0))
    source.copy_done(CopyDone(begin.copy, at(E2, 9), b"meta"))
    assert [type(message) for message in sent(source)] == [CopyBegin, CopyPages, CopyEnd]
    assert source.phase is Phase.STREAMING
    assert not source.in_sync  # not before the follower says that it has all of it


def test_a_repeated_follow_changes_nothing_and_a_new_attempt_begins_again() -> None:
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.take_actions()
    source.follow(b"r1", follow(), 50)
    assert source.take_actions() == []
    source.follow(b"r2", follow(attempt=2), 100)
    assert [type(action) for action in source.take_actions()] == [StopCopy, CopyOut]


def test_events_of_an_older_copy_are_dropped() -> None:
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.follow(b"r2", follow(attempt=2), 100)
    source.take_actions()
    source.copy_begun(CopyBegun(1, 4096, 2))
    source.copy_done(CopyDone(1, at(E2, 9), b"meta"))
    assert sent(source) == []
    assert source.phase is Phase.COPYING


def test_acknowledgements_are_cumulative() -> None:
    source = streaming()
    for txn in (10, 11, 12):
        source.committed(ship(txn), 20)
    source.stored(b"r1", stored(at(E2, 11)), 30)
    assert source.acked == at(E2, 11)
    assert not source.empty


def test_an_acknowledgement_of_another_chain_at_the_same_number_is_none() -> None:
    source = streaming()
    source.committed(ship(10), 20)
    source.stored(b"r1", stored(at(E2, 10, mark=1)), 30)
    assert source.acked == at(E2, 9)


def test_an_acknowledgement_of_another_session_is_none() -> None:
    source = streaming()
    source.committed(ship(10), 20)
    source.stored(b"r1", stored(at(E2, 10), session=Session(6, 1)), 30)
    assert source.acked == at(E2, 9)


def test_a_late_acknowledgement_of_something_older_takes_nothing_back() -> None:
    source = streaming()
    source.committed(ship(10), 20)
    source.stored(b"r1", stored(at(E2, 10)), 30)
    source.stored(b"r1", stored(at(E2, 9)), 31)
    assert source.acked == at(E2, 10)


def test_what_is_not_acknowledged_is_sent_again_over_a_new_connection() -> None:
    source = streaming()
    source.committed(ship(10), 20)
    source.committed(ship(11), 20)
    source.take_actions()
    source.stored(b"r2", stored(at(E2, 10)), 30)
    again = sent(source)
    assert [message.position.txn for message in again if isinstance(message, Piece)] == [11]


def copies(source: Source) -> list[CopyOut]:
    return [action for action in source.take_actions() if isinstance(action, CopyOut)]


def test_a_copy_whose_connection_moved_begins_again_on_top_of_what_has_come() -> None:
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.take_actions()
    much = 50 * limits.COPY_WINDOW_BYTES
    source.stored(b"r2", stored(NOWHERE, much), 10)
    stop, begin = source.take_actions()
    assert stop == StopCopy()
    assert begin == CopyOut(2, begin=True, budget=limits.COPY_WINDOW_BYTES, held=Held(partial=True))
    source.stored(b"r2", stored(NOWHERE, much), 20)
    assert copies(source) == []  # the follower does not know yet that another copy begins: that much of it was never sent
    source.copy_begun(CopyBegun(2, 4096, 9000, Way.REST))
    source.stored(b"r2", stored(NOWHERE, 0, copy=2), 30)
    assert copies(source) == []
    source.stored(b"r2", stored(NOWHERE, limits.MIB, copy=2), 40)
    assert copies(source) == [CopyOut(2, begin=False, budget=limits.MIB)]


def test_a_round_of_the_copy_before_is_none_of_this_one() -> None:
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.stored(b"r2", stored(NOWHERE), 10)
    source.copy_begun(CopyBegun(2, 4096, 2))
    source.round_done(RoundDone(2, at(E2, 9), b"meta"))
    source.take_actions()
    source.stored(b"r2", Stored(THEIRS, MINE, 1, NOWHERE, 8192, 1), 20)
    assert copies(source) == []


def test_the_window_is_bounded_and_its_age_is_known() -> None:
    source = streaming()
    for txn in range(10, 10 + limits.WINDOW_SHIPMENTS):
        assert source.room
        source.committed(ship(txn), 100 + txn)
    assert not source.room
    assert not source.in_sync
    assert source.overdue_ms(2110) == 2000
    assert source.too_slow(2111, 2000)


def test_without_a_follower_nothing_is_kept() -> None:
    source = streaming()
    source.reset()
    source.committed(ship(10), 20)
    assert source.empty
    assert source.acked == NOWHERE


def test_an_older_attempt_that_sat_in_a_cut_path_is_not_answered() -> None:
    source = streaming()
    source.follow(b"r2", follow(at(E2, 9), attempt=3), 20)
    source.take_actions()
    source.follow(b"r1", follow(attempt=1), 30)
    assert source.phase is Phase.STREAMING
    assert source.acked == at(E2, 9)
    assert source.take_actions() == []


def test_when_the_follower_is_given_up_the_store_is_asked_for_no_more_of_its_copy() -> None:
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.copy_begun(CopyBegun(1, 4096, 9000))
    source.take_actions()
    source.stored(b"r1", stored(NOWHERE, 4 * limits.MIB), 10)
    source.reset()
    assert [type(action) for action in source.take_actions()] == [StopCopy]


def test_what_the_follower_holds_goes_to_the_store_and_its_table_when_the_store_must_compare() -> None:
    source = Source()
    source.follow(b"r1", Follow(THEIRS, MINE, NOWHERE, 1, Held(at(E2, 5))), 0)
    begin = source.take_actions()[0]
    assert isinstance(begin, CopyOut)
    assert begin.held == Held(at(E2, 5))
    source.table_needed(TableNeeded(begin.copy, False), 10)
    assert sent(source) == [TableWanted(MINE, THEIRS, 1, False)]
    source.table(b"r1", Table(THEIRS, MINE, 1, 0, True), b"12345678", 20)
    source.table(b"r2", Table(THEIRS, MINE, 1, 0, True), b"of an older connection", 20)
    source.table(b"r1", Table(THEIRS, MINE, 7, 0, True), b"for another copy", 20)
    assert source.take_actions() == [TakeTable(begin.copy, 0, b"12345678", True)]
    source.copy_begun(CopyBegun(begin.copy, 4096, 2, Way.DELTA))
    assert sent(source) == [CopyBegin(MINE, THEIRS, 1, 4096, 2, Way.DELTA)]


def test_a_table_that_does_not_come_is_overdue_after_the_time_that_reading_a_piece_may_take() -> None:
    source = Source()
    source.follow(b"r1", Follow(THEIRS, MINE, NOWHERE, 1, Held(at(E2, 5))), 0)
    assert source.overdue_ms(99_999) == 0, "the own store has not answered"
    source.table_needed(TableNeeded(1, False), 1000)
    source.table(b"r1", Table(THEIRS, MINE, 1, 0, False), b"12345678", 50_000)
    assert not source.too_slow(50_000 + TABLE_SLOW_MS, 2000)
    assert source.too_slow(50_001 + TABLE_SLOW_MS, 2000)
    source.table(b"r1", Table(THEIRS, MINE, 1, 9, True), b"12345678", 60_000)
    assert source.overdue_ms(999_999) == 0, "the own store compares"


def test_the_next_round_waits_until_the_follower_has_made_the_last_one_its_store() -> None:
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.copy_begun(CopyBegun(1, 4096, 2))
    source.copy_part(CopyPart(1, ((2, 2),), bytes(8192), 0))
    source.round_done(RoundDone(1, at(E2, 9), b"meta"))
    assert [type(message) for message in sent(source)] == [CopyBegin, CopyPages, CopyRound]
    source.stored(b"r1", stored(NOWHERE, 8192), 10)
    assert not [action for action in source.take_actions() if isinstance(action, CopyOut) and action.next_round]
    assert source.overdue_ms(99_999) == 0  # taking it may be long; a follower that hangs ends itself
    source.stored(b"r1", Stored(THEIRS, MINE, 1, NOWHERE, 8192, 1), 20)
    source.stored(b"r1", Stored(THEIRS, MINE, 1, NOWHERE, 8192, 1), 30)
    assert len([action for action in source.take_actions() if isinstance(action, CopyOut) and action.next_round]) == 1
    assert not source.in_sync


def copies_in_rounds(count: int, part_bytes: int = 8192) -> Source:
    """A source that has copied so many rounds of one part each; the next one is ordered."""
    source = Source()
    source.follow(b"r1", follow(), 0)
    source.copy_begun(CopyBegun(1, 4096, 2))
    for done in range(1, count + 1):
        source.copy_part(CopyPart(1, ((2, 2),), bytes(part_bytes), 0))
        source.round_done(RoundDone(1, at(E2, 9), b"meta"))
        source.stored(b"r1", Stored(THEIRS, MINE, 1, NOWHERE, done * part_bytes, done), 10)
    return source


def test_commits_are_spaced_while_what_they_write_outruns_the_copy_and_no_longer() -> None:
    part = limits.COPY_TAIL_BYTES_MAX + 4096
    source = copies_in_rounds(2, part)
    assert Note("copy.pace", (("rounds", 2), ("pause_ms", PAUSE_MS))) in source.take_actions()
    assert source.pause_ms == 0
    source.committed(ship(10, pages=part // 4096), 20)
    assert source.pause_ms == PAUSE_MS
    source.copy_part(CopyPart(1, ((2, 2),), bytes(2 * part), 0))
    source.stored(b"r1", Stored(THEIRS, MINE, 1, NOWHERE, 4 * part, 2), 30)
    assert source.pause_ms == 0
    source.committed(ship(11, pages=part // 4096), 40)
    assert source.pause_ms == PAUSE_MS
    source.copy_done(CopyDone(1, at(E2, 11), b"meta"))
    assert source.pause_ms == 0


def test_a_copy_that_does_not_end_is_given_up() -> None:
    source = copies_in_rounds(limits.COPY_ROUNDS_MAX)
    assert not source.endless
    source = copies_in_rounds(limits.COPY_ROUNDS_MAX + 1)
    assert source.endless
    source.reset()
    assert not source.endless
