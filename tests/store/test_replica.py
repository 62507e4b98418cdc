"""A passive takes exactly the shipments that fit, applies them late, and becomes the same store."""

import random
from pathlib import Path

import lmdb.verify
import pytest
import xxhash
from following import LINEAGE, copied, reopened, take
from source_store import EPOCH, SourceStore, contents, contents_of

from zmqha.core import limits, lmdb_page, shipment
from zmqha.core.position import Mode
from zmqha.core.shipment import Chunk, Shipment
from zmqha.errors import ProtocolError, StoreDamaged
from zmqha.store.copy_target import CopyTarget
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
            assert replica.position == durable and not replica.ahead and replica.lineage == LINEAGE
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


def test_the_lineage_that_was_noted_is_known_after_a_restart(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    entry = LINEAGE[0]._replace(epoch=EPOCH._replace(counter=9), mode=Mode.PAIRED)
    ship = commit(source)
    pieces = _pieces(ship, 2)
    replica.take(pieces[0])
    replica.note_lineage(entry)
    replica.take(pieces[1])
    replica.flush()
    replica.close()
    assert reopened(tmp_path / "b", SEGMENT).lineage == (*LINEAGE, entry)


def test_a_settled_replica_can_be_opened_and_is_then_ahead_until_rebased(
    source: SourceStore, replica: Replica, tmp_path: Path
) -> None:
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
    again.rebase(promoted.position, LINEAGE)
    again.close()
    after = reopened(tmp_path / "b", SEGMENT)
    assert not after.ahead and after.position == promoted.position


def test_two_commits_that_nobody_has_are_rolled_back(source: SourceStore, replica: Replica, tmp_path: Path) -> None:
    replica.settle()
    base, meta = replica.position, source.meta.body
    replica.close()
    lost = SourceStore(tmp_path / "b" / STORE_FILE, 6)
    lost.meta, lost.position = lost.reader.newest(), base
    commit(lost)
    commit(lost)
    lost.close()
    again = reopened(tmp_path / "b", SEGMENT)
    again.roll_back(base, meta, LINEAGE)
    assert contents_of(tmp_path / "b" / STORE_FILE) == contents(source.env)
    take(again, commit(source))
    again.flush()
    again.close()
    assert reopened(tmp_path / "b", SEGMENT).position == source.position
    assert contents_of(tmp_path / "b" / STORE_FILE) == contents(source.env)


def test_a_store_without_a_journal_is_ahead_of_it(source: SourceStore, tmp_path: Path) -> None:
    directory = tmp_path / "first"
    directory.mkdir()
    source.close()
    source.path.rename(directory / STORE_FILE)
    replica = reopened(directory, SEGMENT)
    assert replica.ahead
    replica.rebase(source.position, LINEAGE)
    replica.close()
    assert reopened(directory, SEGMENT).position == source.position


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


def test_a_copy_refuses_pages_that_do_not_fit(tmp_path: Path) -> None:
    target = CopyTarget(tmp_path, SEGMENT)
    page = bytes(4096)
    digest = xxhash.xxh3_64_intdigest(page)
    with pytest.raises(ProtocolError):
        target.pages([(2, 1)], page, digest)
    target.begin(4096)
    for runs, wrong in (([(2, 1)], digest ^ 1), ([(2, 2)], digest), ([(1, 1)], digest)):
        with pytest.raises(ProtocolError):
            target.pages(runs, page, wrong)


def _pieces(ship: Shipment, count: int) -> list[Chunk]:
    size = -(-len(ship.payload) // count)
    return [
        Chunk(ship.position, index, count, b"" if index else ship.head, ship.payload[index * size : (index + 1) * size])
        for index in range(count)
    ]
