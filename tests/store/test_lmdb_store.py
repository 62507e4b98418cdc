"""The serving store: what a new one makes durable, what it forgets, what is said of one that cannot be opened."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from zmqha.core import limits
from zmqha.core.position import Epoch, Mode
from zmqha.core.work import Append, DestinationRow, ProducerRow, Work
from zmqha.errors import StoreDamaged, StoreFull
from zmqha.store import lmdb_store, records
from zmqha.store.alive import ROWS
from zmqha.store.lmdb_store import IDLE_ROWS_PER_COMMIT, LmdbStore
from zmqha.store.page_file import STORE_FILE

EPOCH = Epoch(1, 7)
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    made = LmdbStore(tmp_path, None)
    made.begin_epoch(EPOCH, Mode.SOLE, "a", "first start", 0, 0)
    yield made
    made.close()


def producers(store: LmdbStore) -> set[int]:
    """Numbers of the rows that are there, idle or not."""
    with store._env.begin() as txn:
        rows = [records.read_producer(key, raw) for key, raw in txn.cursor(store._state) if key[:1] == records.PRODUCER]
    return {row[0] for row in rows}


def commit(store: LmdbStore, number: int, *used: int) -> None:
    store.commit(Work(number, 0, producers=tuple(ProducerRow(producer, 1, 5) for producer in used)), EPOCH, 0)


def later(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    now_s = time.time()
    monkeypatch.setattr(lmdb_store.time, "time", lambda: now_s + days * DAY_S)


def test_signs_of_life_are_given_while_many_values_are_read(store: LmdbStore) -> None:
    commit(store, 1, *range(3 * ROWS))
    with store._transaction() as txn:
        for value in range(1, 3 * ROWS + 1):
            txn.put(records.log_key(value), records.log_value((Append(1, value, 1, b"x"),)), db=store._log)
    calls: list[int] = []
    assert len(store.image(alive=lambda: calls.append(1)).log) == 3 * ROWS
    assert len(calls) >= 6


def test_the_name_of_a_new_store_is_durable_before_anything_is_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.fstat(fd).st_ino), real(fd)))
    store = LmdbStore(tmp_path, None)
    store.begin_epoch(EPOCH, Mode.SOLE, "a", "first start", 0, 0)
    assert tmp_path.stat().st_ino in flushed
    flushed.clear()
    store.begin_epoch(EPOCH._replace(counter=2), Mode.PAIRED, "a", "", 0, 0)
    assert not flushed
    store.close()


def test_rows_of_idle_producers_are_deleted_a_few_per_commit(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2 * IDLE_ROWS_PER_COMMIT + 10
    commit(store, 1, *range(count))
    later(monkeypatch, limits.PRODUCER_IDLE_DAYS + 1)
    commit(store, 2, 500)
    assert len(producers(store)) == count + 1  # nothing is deleted before the store was read
    assert [row.producer for row in store.image().producers] == [500]
    left = []
    for number in range(3, 7):
        commit(store, number)
        left.append(len(producers(store)))
    assert left == [count + 1 - IDLE_ROWS_PER_COMMIT, count + 1 - 2 * IDLE_ROWS_PER_COMMIT, 1, 1]
    assert producers(store) == {500}


def test_an_idle_row_that_is_used_again_stays(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, 1, *range(IDLE_ROWS_PER_COMMIT + 5))
    later(monkeypatch, limits.PRODUCER_IDLE_DAYS + 1)
    assert store.image().producers == ()
    commit(store, 2, 0, IDLE_ROWS_PER_COMMIT + 4)
    commit(store, 3)
    commit(store, 4)
    assert producers(store) == {0, IDLE_ROWS_PER_COMMIT + 4}


def test_idle_rows_are_remembered_when_their_commit_was_refused(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, 1, 1, 2, 3)
    later(monkeypatch, limits.PRODUCER_IDLE_DAYS + 1)
    store.image()
    with monkeypatch.context() as patch:
        patch.setattr(LmdbStore, "_head", _full)
        with pytest.raises(StoreFull):
            commit(store, 2)
    assert producers(store) == {1, 2, 3}
    commit(store, 2)
    assert producers(store) == set()


def test_idle_rows_of_a_queue_that_is_dropped_are_no_trouble(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    row = DestinationRow(1, "orders", 0, 0)
    append = Append(1, 0, 1, b"batch")
    store.commit(Work(1, 1, (append,), producers=(ProducerRow(9, 1, 5),), destinations=(row,)), EPOCH, 0)
    later(monkeypatch, limits.PRODUCER_IDLE_DAYS + 1)
    store.image()
    store.commit(Work(2, 0, dropped_destinations=(1,), dropped_values=(1,)), EPOCH, 0)
    assert producers(store) == set() and store.image().destinations == ()


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"no store" * 2000])
def test_a_file_that_lmdb_does_not_open_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STORE_FILE).write_bytes(content)
    with pytest.raises(StoreDamaged):
        lmdb_store.inspect(tmp_path)


def test_no_room_for_the_lock_file_is_no_damage(store: LmdbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "open", _full)
    with pytest.raises(StoreFull):
        lmdb_store.inspect(tmp_path)


def _full(*_: object, **__: object) -> lmdb.Environment:
    raise lmdb.DiskError("store.mdb-lock: No space left on device")


def test_room_inside_the_file_is_what_can_be_reused_while_a_copy_holds_a_snapshot(store: LmdbStore) -> None:
    """Else a disk that fills up during a copy looks as free as ever, and acknowledgements are refused."""
    body = os.urandom(200_000)

    def come_and_go(first: int, end: int) -> None:
        for value in range(first, end):
            store.commit(
                Work(value, value, (Append(1, value, 1, body),), dropped_values=(value - 3,) if value > 3 else ()), EPOCH, 0
            )

    come_and_go(1, 20)
    assert store.reusable_bytes() > 100_000
    pin, size, room = store.pin(), store.file_bytes, store.reusable_bytes()
    come_and_go(20, 60)
    assert store.file_bytes - size > 30 * len(body)
    assert store.reusable_bytes() <= room
    store.unpin(pin)
    come_and_go(60, 65)
    assert store.reusable_bytes() > 30 * len(body)
