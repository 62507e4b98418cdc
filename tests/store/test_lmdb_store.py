"""The serving store: what a new one makes durable, what it forgets, what is said of one that cannot be opened."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from zmqha.core import limits
from zmqha.core.events import Inspected, KeptBranch
from zmqha.core.position import NOWHERE, Epoch, Mode
from zmqha.core.work import Append, DestinationRow, ProducerRow, Work
from zmqha.errors import StoreDamaged, StoreFull
from zmqha.store import inspection, lmdb_store, records
from zmqha.store.alive import ROWS, nobody_waits
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.page_file import STORE_FILE

EPOCH = Epoch(1, 7)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    made = LmdbStore(tmp_path, None)
    made.begin_epoch(EPOCH, Mode.SOLE, "a", "first start", 0, 0)
    yield made
    made.close()


def commit(store: LmdbStore, number: int, *used: int) -> None:
    store.commit(Work(number, 0, producers=tuple(ProducerRow(producer, 1, 5) for producer in used)), EPOCH, 0)


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


def test_rows_of_producers_come_back_least_recently_used_first_whatever_the_clock_says(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, 1, 7, 8, 9)
    monkeypatch.setattr(lmdb_store.time, "time", lambda: 0.0)
    commit(store, 2, 8)
    commit(store, 3, 3)
    assert [row.producer for row in store.image().producers] == [7, 9, 8, 3]


def test_rows_of_forgotten_producers_are_deleted_unless_they_are_written_with_it(store: LmdbStore) -> None:
    commit(store, 1, 1, 2, 3)
    store.commit(Work(2, 0, producers=(ProducerRow(2, 1, 6),), dropped_producers=((1, 1), (2, 1), (99, 1))), EPOCH, 0)
    assert [(row.producer, row.last) for row in store.image().producers] == [(3, 5), (2, 6)]


def test_rows_of_a_queue_that_is_dropped_go_with_it(store: LmdbStore) -> None:
    row = DestinationRow(1, "orders", 0, 0)
    append = Append(1, 0, 1, b"batch")
    store.commit(Work(1, 1, (append,), producers=(ProducerRow(9, 1, 5),), destinations=(row,)), EPOCH, 0)
    store.commit(Work(2, 0, dropped_destinations=(1,), dropped_values=(1,), dropped_producers=((9, 1),)), EPOCH, 0)
    assert (store.image().producers, store.image().destinations) == ((), ())


@pytest.mark.parametrize("content", [b"\0" * 8192, b"no store" * 2000])
def test_a_file_that_lmdb_does_not_open_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STORE_FILE).write_bytes(content)
    with pytest.raises(StoreDamaged):
        lmdb_store.inspect(tmp_path)


def test_an_empty_file_is_damaged_before_lmdb_sees_it(tmp_path: Path) -> None:
    (tmp_path / STORE_FILE).write_bytes(b"")
    with pytest.raises(StoreDamaged):
        look(tmp_path)


def look(directory: Path) -> Inspected:
    return inspection.inspect(directory, 96 * limits.KIB, KeptBranch, nobody_waits)


@pytest.mark.parametrize("begun", [False, True])
def test_a_store_whose_first_transaction_is_not_durable_is_none(tmp_path: Path, begun: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "killed").mkdir()
    store = LmdbStore(tmp_path / "a", None)
    if begun:
        store.begin_epoch(EPOCH, Mode.SOLE, "a", "first start", 0, 0)
    shutil.copy(tmp_path / "a" / STORE_FILE, tmp_path / "killed")
    store.close()
    assert look(tmp_path / "a").present is begun
    assert look(tmp_path / "killed") == Inspected(False, NOWHERE, (), 0, "")
    assert not (tmp_path / "killed" / STORE_FILE).exists()
    again = LmdbStore(tmp_path / "killed", None)
    again.begin_epoch(EPOCH, Mode.SOLE, "a", "first start", 0, 0)
    again.close()
    assert look(tmp_path / "killed").position == again.position


@pytest.mark.parametrize(
    "error",
    [
        lmdb.MemoryError("store.mdb: Cannot allocate memory"), lmdb.LockError("store.mdb-lock: Resource temporarily unavailable"),
        lmdb.Error("store.mdb: Too many open files"), lmdb.Error("store.mdb: No locks available"),
        lmdb.Error("store.mdb: Input/output error"),
    ],
)  # fmt: skip
def test_what_keeps_a_store_from_being_opened_is_no_damage(tmp_path: Path, error: lmdb.Error) -> None:
    with pytest.raises(lmdb.Error) as caught, lmdb_store.reading(tmp_path / STORE_FILE):
        raise error
    assert caught.value is error


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
