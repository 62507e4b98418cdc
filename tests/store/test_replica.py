"""A passive takes exactly the shipments that fit, applies them late, and becomes the same store."""

import errno
import os
import random
import threading
from pathlib import Path

import lmdb.verify
import pytest
import xxhash
from following import copied, reopened, take
from source_store import EPOCH, SourceStore, contents, contents_of

from zmqha.core import limits, lmdb_page, shipment
from zmqha.core.peer_protocol import Way
from zmqha.core.position import Epoch, Position
from zmqha.core.shipment import Chunk, Shipment
from zmqha.errors import ProtocolError, StoreDamaged, StoreFull
from zmqha.store.copy_target import CopyTarget
from zmqha.store.delta import DELTA_FILE
from zmqha.store.page_file import STORE_FILE, PageReader
from zmqha.store.replica import COPY_FILE, Replica

SEGMENT = 256 * 1024


@pytest.fixture
def source(tmp_path: Path) -> SourceStore:
    made = SourceStore(tmp_path / "source", 21)
    for _ in range(10):
        made.commit()
    return made


@pytest.fixture
def replica(source: SourceStore, tmp_path: Path) -> Replica:
    return copied(source, tmp_path / "b", SEGMENT)


def commit(source: SourceStore) -> Shipment:
    while not (found := source.commit()):
        pass
    return found[0]


def test_nothing_on_disk_is_no_replica(tmp_path: Path) -> None:
    assert Replica.open(tmp_path, SEGMENT) is None


@pytest.mark.parametrize("seed", range(3))
def test_random_commits_taken_flushed_and_applied_in_any_rhythm_are_the_same_store(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source = SourceStore(tmp_path / "source", seed, plain=True)
    replica = copied(source, tmp_path / "b", SEGMENT)
    for _ in range(150):
        for ship in source.commit():
            take(replica, ship)
        if rng.random() < 0.5:
            assert replica.flush() == source.position
        if rng.random() < 0.3:
            replica.apply(rng.choice((1, 10_000, 1 << 30)))
        if rng.random() < 0.03:
            replica.settle()
            assert contents_of(tmp_path / "b" / STORE_FILE) == contents(source.env)
        if rng.random() < 0.03:
            durable = replica.flush()
            replica.close()
            replica = reopened(tmp_path / "b", SEGMENT)
            assert replica.position == durable and not replica.ahead
    replica.settle()
    assert replica.position == source.position
    assert lmdb.verify.verify(str(tmp_path / "b" / STORE_FILE)) == []  # type: ignore[no-untyped-call]
    assert contents_of(tmp_path / "b" / STORE_FILE) == contents(source.env)


def test_only_what_is_flushed_is_applied(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    before = (tmp_path / "b" / STORE_FILE).read_bytes()
    take(replica, commit(source))
    assert not replica.apply(1 << 30)
    assert (tmp_path / "b" / STORE_FILE).read_bytes() == before
    replica.flush()
    assert not replica.apply(1 << 30)
    assert (tmp_path / "b" / STORE_FILE).read_bytes() != before


def test_a_shipment_applies_only_on_exactly_its_base(source: SourceStore, replica: Replica) -> None:
    first, second = commit(source), commit(source)
    with pytest.raises(ProtocolError):
        take(replica, second)
    take(replica, first)
    with pytest.raises(ProtocolError):
        take(replica, first)
    take(replica, second)
    assert replica.flush() == source.position


def test_another_branch_with_the_same_numbers_is_refused(source: SourceStore, replica: Replica) -> None:
    ship = commit(source)
    chunk = next(shipment.chunks(ship))
    foreign = ship.position._replace(chain=b"\1" * 32)
    with pytest.raises(ProtocolError):
        replica.take(chunk._replace(position=foreign))
    other_meta = shipment.build(
        epoch=EPOCH, base=replica.position, old_meta=lmdb_page.restamp(ship.meta, ship.from_txn), to_txn=ship.position.txn,
        new_meta=ship.meta, psize=ship.psize, pages=shipment.Pages(ship.runs, ship.compact, ship.payload),
    )  # fmt: skip
    with pytest.raises(ProtocolError):
        take(replica, other_meta)
    take(replica, ship)


def test_damaged_pages_are_refused_and_the_good_ones_taken_afterwards(source: SourceStore, replica: Replica) -> None:
    ship = commit(source)
    pieces = _pieces(ship, 3)
    assert not replica.take(pieces[0])
    assert not replica.take(pieces[1])
    with pytest.raises(ProtocolError):
        replica.take(pieces[2]._replace(piece=bytes(len(pieces[2].piece))))
    with pytest.raises(ProtocolError):
        replica.take(pieces[2])
    take(replica, ship)
    assert replica.flush() == source.position


def test_a_shipment_begun_again_replaces_the_unfinished_one(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    ship = commit(source)
    pieces = _pieces(ship, 4)
    for piece in pieces[:3]:
        replica.take(piece)
        replica.flush()
    assert replica.position.txn == ship.from_txn
    for piece in pieces:
        replica.take(piece)
    replica.flush()
    replica.close()
    assert reopened(tmp_path / "b", SEGMENT).position == source.position


def test_a_shipment_larger_than_a_segment_is_taken(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    with source.env.begin(write=True, db=source.env.open_db(b"log")) as txn:
        txn.put(b"large", random.Random(1).randbytes(3 * limits.MIB))
    (ship,) = source.shipped()
    assert len(list(shipment.chunks(ship))) > 1
    take(replica, ship)
    take(replica, commit(source))
    replica.flush()
    replica.close()
    after = reopened(tmp_path / "b", SEGMENT)
    assert after.position == source.position
    assert contents_of(tmp_path / "b" / STORE_FILE) == contents(source.env)


def test_a_settled_replica_can_be_opened_and_is_then_ahead(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    take(replica, commit(source))
    replica.settle()
    base = replica.position
    replica.close()
    promoted = SourceStore(tmp_path / "b" / STORE_FILE, 5)
    promoted.meta, promoted.position = promoted.reader.newest(), base
    commit(promoted)
    commit(promoted)
    promoted.close()

    again = reopened(tmp_path / "b", SEGMENT)
    assert again.ahead and again.position == base
    with pytest.raises(AssertionError):
        again.take(Chunk(base, 0, 1, b"", b""))
    again.close()


def test_a_store_without_a_journal_is_ahead_of_it(source: SourceStore, tmp_path: Path) -> None:
    directory = tmp_path / "first"
    directory.mkdir()
    source.close()
    source.path.rename(directory / STORE_FILE)
    assert reopened(directory, SEGMENT).ahead


def test_a_journal_without_its_store_is_damage(replica: Replica, tmp_path: Path) -> None:
    replica.close()
    (tmp_path / "b" / STORE_FILE).unlink()
    with pytest.raises(StoreDamaged):
        Replica.open(tmp_path / "b", SEGMENT)


def test_an_older_file_put_in_place_is_found(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    old = (tmp_path / "b" / STORE_FILE).read_bytes()
    take(replica, commit(source))
    replica.settle()
    replica.close()
    (tmp_path / "b" / STORE_FILE).write_bytes(old)
    with pytest.raises(StoreDamaged):
        Replica.open(tmp_path / "b", SEGMENT)


def test_a_copy_whose_rename_was_lost_is_finished(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    replica.close()
    old = (tmp_path / "b" / STORE_FILE).read_bytes()
    commit(source)
    copied(source, tmp_path / "b", SEGMENT).close()
    (tmp_path / "b" / STORE_FILE).rename(tmp_path / "b" / COPY_FILE)
    (tmp_path / "b" / STORE_FILE).write_bytes(old)
    assert reopened(tmp_path / "b", SEGMENT).position == source.position
    assert PageReader(tmp_path / "b" / STORE_FILE).newest().body == source.meta.body


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "to be replayed"])
def test_a_store_that_was_cut_is_told_before_anybody_reads_behind_its_end(
    source: SourceStore, replica: Replica, tmp_path: Path, settled: bool
) -> None:
    take(replica, commit(source))
    replica.flush()
    if settled:
        replica.settle()
    replica.close()
    store = tmp_path / "b" / STORE_FILE
    os.truncate(store, 5 * 4096 + 100)
    with pytest.raises(StoreDamaged, match="was cut" if not settled else "was cut|free list"):
        Replica.open(tmp_path / "b", SEGMENT)


def test_a_file_that_ends_before_pages_nobody_uses_is_whole(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    def used() -> int:
        return max(first + count for first, count in source.reader.live_runs(source.meta))

    for _ in range(300):
        take(replica, commit(source))
        if used() <= source.meta.last_pg:
            break
    replica.flush()
    replica.settle()
    replica.close()
    assert used() <= source.meta.last_pg, "the last page was always in use"
    os.truncate(tmp_path / "b" / STORE_FILE, used() * 4096)
    assert reopened(tmp_path / "b", SEGMENT).position == source.position


def test_a_copy_refuses_pages_that_do_not_fit(tmp_path: Path) -> None:
    target = CopyTarget(tmp_path, SEGMENT)
    page = bytes(4096)
    digest = xxhash.xxh3_64_intdigest(page)
    with pytest.raises(ProtocolError):
        target.pages([(2, 1)], page, digest)
    target.begin(4096)
    for runs, wrong in (
        ([(2, 1)], digest ^ 1),
        ([(2, 2)], digest),
        ([(1, 1)], digest),
        ([(1 << 60, 1)], digest),
        ([(2, -1)], digest),
    ):
        with pytest.raises(ProtocolError):
            target.pages(runs, page, wrong)


@pytest.mark.parametrize("psize", [0, -4096, 1, 4097, 1 << 20])
def test_a_copy_refuses_a_page_size_that_no_store_has(tmp_path: Path, psize: int) -> None:
    with pytest.raises(ProtocolError, match="with pages of"):
        CopyTarget(tmp_path, SEGMENT).begin(psize)


def test_a_copy_refuses_a_meta_page_that_is_none_or_anothers(source: SourceStore, tmp_path: Path) -> None:
    body = source.meta.body
    flipped = bytearray(body)
    flipped[111] ^= 0x40  # the highest bits of the last page's number
    other = source.position._replace(txn=source.position.txn + 1)
    for position, meta in (
        (source.position, b"short"),
        (source.position, bytes(120)),
        (source.position, bytes(flipped)),
        (other, body),
    ):
        (tmp_path / "b").mkdir(exist_ok=True)
        target = CopyTarget(tmp_path / "b", SEGMENT)
        target.begin(source.meta.psize)
        with pytest.raises(ProtocolError, match="the copy ends"):
            target.adopt(position, meta, 0)
        target.abandon()


def test_a_shipment_that_the_journal_had_no_room_for_cannot_be_completed(
    source: SourceStore, replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = commit(source)
    pieces = _pieces(ship, 3)
    replica.take(pieces[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", _no_space)
        with pytest.raises(StoreFull):
            replica.take(pieces[1])
    with pytest.raises(ProtocolError):
        replica.take(pieces[2])
    assert replica.flush().txn == ship.from_txn
    take(replica, ship)
    assert replica.flush() == source.position
    replica.close()
    assert reopened(tmp_path / "b", SEGMENT).position == source.position


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MemoryError()])
@pytest.mark.parametrize("closing", [False, True])
def test_a_flush_of_the_store_that_failed_in_its_thread_is_no_checkpoint(
    source: SourceStore, replica: Replica, monkeypatch: pytest.MonkeyPatch, error: Exception, closing: bool
) -> None:
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        if threading.current_thread().name == "zmqha-checkpoint":
            raise error
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(type(error)) as caught:
        while replica._checkpoint is None:
            take(replica, commit(source))
            replica.flush()
            replica.apply(1 << 30)
        if closing:
            replica.close()
        replica._checkpoint.join()
        replica.apply(1)
    assert caught.value is error


def test_there_is_something_to_apply_until_the_flush_of_the_store_is_over(
    source: SourceStore, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fails = os.fdatasync, threading.Event()

    def fdatasync(fd: int) -> None:
        if threading.current_thread().name == "zmqha-checkpoint":
            fails.wait(10)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    while replica._checkpoint is None:
        take(replica, commit(source))
        replica.flush()
        applying = replica.apply(1 << 30)
    assert applying
    fails.set()
    with pytest.raises(OSError, match="Input/output"):
        while replica.apply(1 << 30):
            pass


def test_no_space_out_of_the_flush_of_a_settled_store_is_not_a_clean_full(
    source: SourceStore, replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(replica, commit(source))
    replica.flush()
    store = os.stat(tmp_path / "b" / STORE_FILE).st_ino
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        if os.fstat(fd).st_ino == store:
            _no_space()
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(OSError, match="No space"):
        replica.settle()


def test_a_store_that_cannot_be_opened_for_want_of_room_leaves_no_descriptor(
    source: SourceStore, replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.settle()
    replica.close()
    known = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", _no_space)
        with pytest.raises(StoreFull):
            Replica.open(tmp_path / "b", SEGMENT)
    assert len(os.listdir("/proc/self/fd")) == known
    assert reopened(tmp_path / "b", SEGMENT).position == source.position


def test_a_delta_whose_end_finds_no_room_leaves_nothing(
    source: SourceStore, replica: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.close()
    before = (tmp_path / "b" / STORE_FILE).read_bytes()
    known = len(os.listdir("/proc/self/fd"))
    target = CopyTarget(tmp_path / "b", SEGMENT)
    target.begin(4096, Way.DELTA)
    commit(source)
    monkeypatch.setattr(os, "pwritev", _no_space)
    with pytest.raises(StoreFull):
        target.adopt(source.position, source.meta.body, 0)
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == known and not (tmp_path / "b" / DELTA_FILE).exists()
    assert (tmp_path / "b" / STORE_FILE).read_bytes() == before


def test_an_unfinished_copy_stays_beside_a_store_that_is_another_file(replica: Replica, tmp_path: Path) -> None:
    replica.close()
    copy = tmp_path / "b" / COPY_FILE
    copy.write_bytes(bytes(8192))
    reopened(tmp_path / "b", SEGMENT).close()
    assert copy.read_bytes() == bytes(8192)
    copy.write_bytes(bytes(8192))
    (tmp_path / "b" / STORE_FILE).unlink()
    with pytest.raises(StoreDamaged):
        Replica.open(tmp_path / "b", SEGMENT)
    assert copy.exists()


def test_an_abandoned_copy_stays_for_the_next_attempt_and_so_does_one_that_may_be_the_store(
    source: SourceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b").mkdir()
    target = CopyTarget(tmp_path / "b", SEGMENT)
    target.begin(4096)
    target.abandon()
    assert (tmp_path / "b" / COPY_FILE).exists() and Replica.open(tmp_path / "b", SEGMENT) is None
    target = CopyTarget(tmp_path / "b", SEGMENT)
    target.begin(source.meta.psize)
    runs = source.reader.live_runs(source.meta)
    pages = source.reader.read_runs(runs, source.meta.psize)
    target.pages(runs, pages, xxhash.xxh3_64_intdigest(pages))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _no_space)
        with pytest.raises(OSError, match="No space"):
            target.adopt(source.position, source.meta.body, target.copied_bytes)
    target.abandon()
    after = reopened(tmp_path / "b", SEGMENT)
    assert after.position == source.position and contents_of(tmp_path / "b" / STORE_FILE) == contents(source.env)


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _pieces(ship: Shipment, count: int) -> list[Chunk]:
    size = -(-len(ship.payload) // count)
    return [
        Chunk(ship.position, index, count, b"" if index else ship.head, ship.payload[index * size : (index + 1) * size])
        for index in range(count)
    ]


def test_a_copy_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    target = CopyTarget(tmp_path, SEGMENT)
    target.begin(4096)
    payload = bytes(4096)
    target.pages([(2, 1)], payload, xxhash.xxh3_64_intdigest(payload))
    with pytest.raises(ProtocolError, match="4096 of 8192 bytes"):
        target.adopt(Position(Epoch(1, 1), 1, bytes(32)), bytes(120), 8192)
    target.abandon()
