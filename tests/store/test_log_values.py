"""A group commit of any size comes back byte by byte, goes completely, and leaves a file that does not grow."""

import random
import struct
from collections import deque
from pathlib import Path

import pytest

from zmqha.core.position import Epoch, Mode
from zmqha.core.work import Append, Work, batch_positions
from zmqha.errors import StoreDamaged
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.log_values import PART_BYTES
from zmqha.store.seal import Sealer

EPOCH = Epoch(1, 1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LmdbStore:
    monkeypatch.setattr(Sealer, "seal", lambda self, meta, chain: None)  # thousands of commits, and no power cut
    made = LmdbStore(tmp_path, None)
    made.begin_epoch(EPOCH, Mode.SOLE, "a", "test", 0, 0)
    return made


def commit(store: LmdbStore, number: int, batches: list[bytes], dropped: tuple[int, ...] = ()) -> None:
    appends = tuple(Append(1, number * 10_000 + at, 1, batch) for at, batch in enumerate(batches))
    store.commit(Work(number, number if batches else 0, appends, dropped_values=dropped), EPOCH, 0)


SIZES = (
    0,
    1,
    1000,
    PART_BYTES - 32,
    PART_BYTES - 31,
    PART_BYTES,
    PART_BYTES + 1,
    2 * PART_BYTES - 32,
    3 * PART_BYTES + 7,
    600_000,
)


@pytest.mark.parametrize("seed", range(4))
def test_every_batch_comes_back(store: LmdbStore, seed: int) -> None:
    rng = random.Random(seed)
    written: dict[int, list[bytes]] = {}
    for number in range(1, 40):
        written[number] = [rng.randbytes(rng.choice(SIZES)) for _ in range(rng.choice((1, 1, 3, 8)))]
        commit(store, number, written[number])
    for number, batches in written.items():
        lengths = [len(batch) for batch in batches]
        for batch, position, length in zip(batches, batch_positions(lengths), lengths, strict=True):
            assert store.fetch(number, position, length) == batch
    store.close()


def test_a_head_longer_than_a_part_stays_in_one_piece(store: LmdbStore) -> None:
    batches = [bytes([at % 256]) * 40 for at in range(4000)]
    commit(store, 1, batches)
    (*_, position) = batch_positions([40] * 4000)
    assert store.fetch(1, position, 40) == batches[-1]
    assert len(store.image().log) == 4000
    store.close()


def test_what_is_not_there_is_damage(store: LmdbStore) -> None:
    commit(store, 1, [bytes(3 * PART_BYTES)])
    for value, position, length in ((2, 0, 1), (1, 0, 4 * PART_BYTES), (1, 3 * PART_BYTES, 100)):
        with pytest.raises(StoreDamaged):
            store.fetch(value, position, length)
    store.close()


def test_a_dropped_value_leaves_nothing(store: LmdbStore) -> None:
    commit(store, 1, [bytes(10)])
    commit(store, 2, [bytes(10 * PART_BYTES)])
    commit(store, 3, [bytes(2 * PART_BYTES)])
    commit(store, 4, [], (1, 2))
    with store._env.begin() as txn:
        assert [txn.stat(db)["entries"] for db in (store._log, store._parts)] == [1, 2]
    commit(store, 5, [], (3,))
    with store._env.begin() as txn:
        assert [txn.stat(db)["entries"] for db in (store._log, store._parts)] == [0, 0]
    store.close()


def test_a_value_with_a_hole_is_damage_and_takes_nothing_of_the_next_one_along(store: LmdbStore) -> None:
    batch = bytes(5 * PART_BYTES)
    commit(store, 1, [batch])
    commit(store, 2, [batch])
    with store._env.begin(write=True) as txn:
        txn.delete(struct.pack(">QI", 1, 2), db=store._parts)
        parts = txn.stat(store._parts)["entries"]
    with pytest.raises(StoreDamaged):
        store.fetch(1, 0, len(batch))
    with pytest.raises(StoreDamaged):
        commit(store, 3, [], (1,))
    with store._env.begin() as txn:
        assert txn.stat(store._parts)["entries"] == parts


@pytest.mark.parametrize("change", [8, -8])
def test_a_part_of_another_length_is_damage(store: LmdbStore, change: int) -> None:
    batch = bytes(5 * PART_BYTES)
    commit(store, 1, [batch])
    with store._env.begin(write=True) as txn:
        txn.put(struct.pack(">QI", 1, 2), bytes(PART_BYTES + change), db=store._parts)
    (position,) = batch_positions([len(batch)])
    with pytest.raises(StoreDamaged):
        store.fetch(1, position, len(batch) - 100)


@pytest.mark.parametrize("kept", [50, 1200])
def test_large_commits_between_many_small_ones_do_not_make_the_file_longer(store: LmdbStore, kept: int) -> None:
    """In one piece each of them needed hundreds of free pages side by side, and small commits leave none. Parts of 64 KiB need sixteen:
    still too many where small messages are ``kept`` for a while."""
    live: deque[int] = deque()
    number, sizes = 0, []
    for _ in range(6):
        for _ in range(600):
            number += 1
            live.append(number)
            commit(store, number, [bytes(1000)], (live.popleft(),) if len(live) > kept else ())
        large = range(number + 1, number + 3)
        for number in large:
            commit(store, number, [bytes(1000) * 500] * 4)
        for value in large:
            number += 1
            commit(store, number, [], (value,))
        sizes.append(store.file_bytes)
    store.close()
    assert sizes[-1] < 1.1 * sizes[2], sizes  # the first in which as many are kept from beginning to end
