"""The store thread: what it says when the store is damaged, what it leaves behind when it stands down."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

import pytest

from zmqha.core.actions import Claim, Follow, KeepBranch, SaveFacts, SettleBranch, StandDown, TakeCopy
from zmqha.core.events import Event, FactsSaved, Inspected, KeepRefused, NoRoom, SalvageSettled, Surveyed
from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import NO_SESSION, CopyBegin, Standing
from zmqha.core.position import Epoch
from zmqha.errors import StoreDamaged
from zmqha.store import kept, writer
from zmqha.store.journal import SEGMENT_FILES
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.node_state import SLOT_BYTES, STATE_FILE, NodeState
from zmqha.store.page_file import STORE_FILE
from zmqha.store.replica import COPY_FILE
from zmqha.store.writer import StoreThread

SEGMENT = 96 * 1024
FACTS = NodeFacts("cluster", "a", 1, Epoch(1, 7), Standing.SOLE, "first start")
Lines = list[logging.LogRecord]


class Died(BaseException):
    """Instead of the end of the process."""


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def thread(tmp_path: Path, events: list[Event]) -> StoreThread:
    """Not started: its actions are done here."""
    return StoreThread(tmp_path, NodeState(tmp_path / STATE_FILE), "a", SEGMENT, events.append)


@pytest.fixture
def lines() -> Iterator[Lines]:
    found: Lines = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    writer.log.addHandler(handler)
    yield found
    writer.log.removeHandler(handler)


def fields(line: logging.LogRecord) -> dict[str, Any]:
    return dict(getattr(line, "fields", ()))


def test_a_damaged_store_is_set_aside_with_what_why_and_fix(
    thread: StoreThread, tmp_path: Path, events: list[Event], lines: Lines
) -> None:
    for name in SEGMENT_FILES:
        (tmp_path / name).write_bytes(b"\xff" * SEGMENT)
    (tmp_path / STORE_FILE).write_bytes(b"\xff" * SEGMENT)
    (tmp_path / COPY_FILE).write_bytes(b"may be the only whole one")
    thread._do(StandDown())
    (line,) = lines
    assert line.getMessage() == "store.damaged"
    assert fields(line)["what"] and "copy" in fields(line)["fix"]
    assert all(name in fields(line)["kept"] for name in (*SEGMENT_FILES, STORE_FILE, COPY_FILE))
    assert (tmp_path / f"{COPY_FILE}.damaged-1").exists() and not (tmp_path / COPY_FILE).exists()
    assert isinstance(events[-1], Inspected) and not events[-1].present


def test_the_end_of_the_process_is_said_with_what_why_and_fix(
    thread: StoreThread, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    def fail(_: object) -> NoReturn:
        raise StoreDamaged("it broke", cause="a mouse", cure="a cat")

    def die(code: int) -> NoReturn:
        raise Died(code)

    monkeypatch.setattr(thread, "_do", fail)
    monkeypatch.setattr(os, "_exit", die)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    thread.put(StandDown())
    with pytest.raises(Died):
        thread.run()
    (line,) = lines
    assert line.getMessage() == "store.failed" and line.exc_info
    assert fields(line) == {"what": "it broke", "why": "a mouse", "fix": "a cat"}


def test_a_copy_that_was_given_up_stays_for_the_next_attempt_and_goes_when_this_server_serves(
    thread: StoreThread, tmp_path: Path
) -> None:
    thread._do(Claim(FACTS, Epoch(1, 7), "first start", 0))
    thread._do(StandDown())
    thread._do(Follow(FACTS._replace(standing=Standing.BEHIND)))
    thread._do(TakeCopy(CopyBegin(NO_SESSION, NO_SESSION, 1, 4096, 10), b""))
    thread._do(StandDown())
    assert (tmp_path / COPY_FILE).exists() and (tmp_path / STORE_FILE).exists()
    thread._do(Claim(FACTS, Epoch(2, 7), "elected", 0))
    assert not (tmp_path / COPY_FILE).exists()


def test_a_claim_that_has_no_room_writes_nothing(
    thread: StoreThread, events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB would be killed by SIGBUS where its lock file gets no blocks."""

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    thread._do(Claim(FACTS, Epoch(1, 7), "elected", 0))
    assert isinstance(events[-1], NoRoom) and "no space" in events[-1].why
    assert not (tmp_path / STORE_FILE).exists() and not (tmp_path / STATE_FILE).exists()


def test_sole_is_not_said_of_a_store_that_is_not_there_yet(
    thread: StoreThread, events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> NoReturn:
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(LmdbStore, "begin_epoch", die)
        thread._do(Claim(FACTS, Epoch(1, 7), "first start", 0))
    assert NodeState(tmp_path / STATE_FILE).load() is None


def test_an_epoch_is_not_begun_in_a_store_that_is_there_before_sole_is_said(
    thread: StoreThread, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> NoReturn:
        raise Died

    thread._do(Claim(FACTS, Epoch(1, 7), "first start", 0))
    thread._do(StandDown())
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(NodeState, "save", die)
        thread._do(Claim(FACTS, Epoch(2, 7), "elected", 0))
    thread._close_all()
    thread._store = None
    thread._do(StandDown())
    assert isinstance(events[-1], Inspected) and events[-1].position.epoch == Epoch(1, 7)


def test_a_claim_and_a_survey_give_signs_of_life(thread: StoreThread) -> None:
    for action in (Claim(FACTS, Epoch(1, 7), "first start", 0), StandDown(), KeepBranch(1, keep=False)):
        thread._do(action)
    moves = thread.moves
    assert moves > 0
    thread._do(Claim(FACTS, Epoch(2, 7), "elected", 0))
    assert thread.moves > moves


INTO = Epoch(9, 9)


@pytest.fixture
def loser(thread: StoreThread, events: list[Event]) -> StoreThread:
    """Its store is kept, to be handed over."""
    thread._do(Claim(FACTS, Epoch(1, 7), "first start", 0))
    thread._do(StandDown())
    thread._do(KeepBranch(1, keep=True))
    assert isinstance(events[-1], Surveyed) and events[-1].kept
    events.clear()
    return thread


def full_once(patch: pytest.MonkeyPatch, thread: StoreThread, order: SettleBranch | StandDown) -> None:
    """It is asked for while the disk has no room for a manifest."""

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with patch.context() as inner:
        inner.setattr(kept, "_write", full)
        thread._do(order)


def test_a_full_disk_refuses_to_settle_and_the_next_attempt_settles(
    loser: StoreThread, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_once(monkeypatch, loser, SettleBranch(INTO))
    (refused,) = events
    assert isinstance(refused, KeepRefused) and refused.order == SettleBranch(INTO)
    loser._do(SettleBranch(INTO))
    assert events[1:] == [SalvageSettled(INTO)]


def test_a_full_disk_refuses_to_discard_and_the_store_stays_until_the_next_attempt(
    loser: StoreThread, tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_once(monkeypatch, loser, StandDown(discard=True))
    refused, there = events
    assert isinstance(refused, KeepRefused) and refused.order == StandDown(discard=True)
    assert isinstance(there, Inspected) and there.present and there.kept.state == "merging"
    loser._do(StandDown(discard=True))
    assert isinstance(events[-1], Inspected) and not events[-1].present
    assert (tmp_path / f"{STORE_FILE}.damaged-1").exists()


@pytest.mark.parametrize("newer", [StandDown(discard=True), Claim(FACTS, Epoch(2, 7), "promoted", 0)])
def test_an_operators_order_in_the_turn_of_the_last_confirmation_wins(
    loser: StoreThread, events: list[Event], newer: StandDown | Claim
) -> None:
    loser._do(newer)
    loser._do(SettleBranch(INTO))
    assert not any(isinstance(event, SalvageSettled | KeepRefused) for event in events)


def test_once_the_answer_is_out_both_slots_hold_what_was_saved(tmp_path: Path) -> None:
    answers: SimpleQueue[Event] = SimpleQueue()
    thread = StoreThread(tmp_path, NodeState(tmp_path / STATE_FILE), "a", SEGMENT, answers.put)
    thread.start()
    thread.put(SaveFacts(FACTS._replace(standing=Standing.PAIRED)))
    assert isinstance(answers.get(timeout=10), FactsSaved)
    thread.stop()
    content = (tmp_path / STATE_FILE).read_bytes()
    assert content[:SLOT_BYTES] == content[SLOT_BYTES:]
