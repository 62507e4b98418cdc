"""The pages of random commits are found exactly, and a file made of them is the same store."""

from pathlib import Path

import lmdb.verify
import pytest
import tree_diff
from source_store import EPOCH, SourceStore, contents, contents_of

from zmqha.core import lmdb_page, shipment
from zmqha.core.lmdb_page import Meta
from zmqha.core.position import NOWHERE, Position
from zmqha.errors import StoreDamaged, StoreFull
from zmqha.store import seal
from zmqha.store.page_file import PageReader, PageWriter, write_all


def equal_pages(one: bytes, other: bytes, meta: Meta) -> bool:
    """Same bytes in every page in use, holes left out."""
    pages = sorted(tree_diff.live_pages(one, meta))
    collected = [lmdb_page.collect(memoryview(image), meta.psize, pages) for image in (one, other)]
    return collected[0] == collected[1]


@pytest.mark.parametrize("seed", range(6))
def test_the_free_list_difference_is_the_tree_difference_and_the_replica_is_the_source(tmp_path: Path, seed: int) -> None:
    source = SourceStore(tmp_path / "source", seed)
    writer = PageWriter(tmp_path / "replica")
    live: set[int] = set()
    for step in range(120):
        if source.random.random() < 0.1:
            source.hold()
        if source.random.random() < 0.05:
            source.release()
        before = source.meta
        for ship in source.commit():
            image = source.path.read_bytes()
            expected = tree_diff.changed(image, live, source.meta)
            live = tree_diff.live_pages(image, source.meta)
            assert lmdb_page.changed_pages(image, before, source.meta) == expected
            assert lmdb_page.runs_of(sorted(live)) == lmdb_page.live_runs(image, source.meta)
            writer.write(shipment.decode(ship.head, ship.payload, shipment_base(ship, source)))
            if step % 10 == 0:
                writer.write_metas(source.meta.body)
                replica = (tmp_path / "replica").read_bytes()
                assert equal_pages(image, replica, source.meta)
                assert contents_of(tmp_path / "replica") == contents(source.env)
    writer.close()
    source.close()


def shipment_base(ship: shipment.Shipment, source: SourceStore) -> bytes:
    """Any digest will do where only pages are compared."""
    return source.position.chain


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_of_plain_commits_verifies_clean(tmp_path: Path, seed: int) -> None:
    source = SourceStore(tmp_path / "source", seed, plain=True)
    writer = PageWriter(tmp_path / "replica")
    for _ in range(60):
        for ship in source.commit():
            writer.write(ship)
    writer.write_metas(source.meta.body)
    assert lmdb.verify.verify(str(tmp_path / "replica")) == []  # type: ignore[no-untyped-call]
    assert contents_of(tmp_path / "replica") == contents(source.env)
    source.close()


@pytest.mark.parametrize(("span", "pinned", "exact"), [(n, pin, pin or n < 3) for n in (1, 2, 3, 4) for pin in (False, True)])
def test_a_span_is_exact_for_two_commits_and_for_any_while_a_reader_holds_its_base(
    tmp_path: Path, span: int, pinned: bool, exact: bool
) -> None:
    outcomes = [_span_is_exact(tmp_path / f"source{seed}", seed, span, pinned) for seed in range(8)]
    if exact:
        assert all(outcomes)
    else:
        assert outcomes.count(False) >= 2  # whatever the commits happened to reuse


def _span_is_exact(path: Path, seed: int, span: int, pinned: bool) -> bool:
    source = SourceStore(path, seed)
    for _ in range(20):
        source.commit()
    old, base = source.meta, path.read_bytes()
    if pinned:
        source.hold()
    while source.reader.newest().txnid < old.txnid + span:
        source.transact()
    new = source.reader.newest()
    try:
        ship = source.reader.ship(EPOCH, Position(EPOCH, old.txnid, b""), old, new)
    except StoreDamaged:
        return False
    finally:
        source.close()
    copy = path.with_suffix(".copy")
    copy.write_bytes(base)
    PageWriter(copy).write(ship)
    try:
        return equal_pages(path.read_bytes(), copy.read_bytes(), new)
    except StoreDamaged:
        return False


@pytest.mark.parametrize("seed", range(3))
def test_the_digest_computed_again_from_two_meta_pages_is_the_one_of_the_commit(tmp_path: Path, seed: int) -> None:
    source = SourceStore(tmp_path / "source", seed)
    base = NOWHERE
    for _ in range(60):
        for ship in source.commit():
            assert _led_to(source.reader, base) == ship.position
            txn = source.env.begin(write=True)  # writes pages of a next commit, and is killed before its meta page
            source._change(txn)
            txn.abort()
            assert _led_to(source.reader, base) == ship.position
            _scribble_over_free_pages(source)
            assert _led_to(source.reader, base) == ship.position
            base = ship.position
    source.close()


def _led_to(reader: PageReader, base: Position) -> Position:
    """The position of the newest snapshot, from its pages and those of the one before, whose chain digest is that of ``base``."""
    older, newer = reader.metas()
    return reader.ship(EPOCH, Position(EPOCH, older.txnid, base.chain), older, newer).position


def _scribble_over_free_pages(source: SourceStore) -> None:
    """What a crash in the middle of the next commit's page writes leaves: anything, in pages that neither snapshot uses."""
    image = source.path.read_bytes()
    older, newer = source.reader.metas()
    dead = set(range(2, newer.last_pg + 1)) - tree_diff.live_pages(image, older) - tree_diff.live_pages(image, newer)
    with open(source.path, "r+b") as file:
        for page in source.random.sample(sorted(dead), min(len(dead), 5)):
            file.seek(page * newer.psize)
            file.write(source.random.randbytes(newer.psize))


def test_meta_pages_written_as_a_pair_have_no_seal(tmp_path: Path) -> None:
    source = SourceStore(tmp_path / "source", 1)
    writer = PageWriter(tmp_path / "replica")
    for _ in range(5):
        for ship in source.commit():
            writer.write(ship)
    writer.write_metas(source.meta.body)
    reader = PageReader(tmp_path / "replica")
    older, newer = reader.metas()
    assert (older.txnid, newer.txnid) == (source.meta.txnid - 1, source.meta.txnid)
    assert reader.meta_at(newer.txnid) == newer
    assert not seal.settle(tmp_path / "replica")
    with pytest.raises(StoreDamaged, match="cannot be told"):
        seal.position(tmp_path / "replica", source.position.chain, EPOCH)
    source.close()


def test_a_promoted_replica_commits_and_its_new_digest_can_be_computed_again(tmp_path: Path) -> None:
    source = SourceStore(tmp_path / "source", 2)
    writer = PageWriter(tmp_path / "replica")
    for _ in range(30):
        for ship in source.commit():
            writer.write(ship)
    writer.write_metas(source.meta.body)
    promoted = SourceStore(tmp_path / "replica", 3)
    with promoted.env.begin() as txn:
        assert txn.id() == promoted.env.info()["last_txnid"] == source.meta.txnid
    promoted.meta, promoted.position = promoted.reader.newest(), source.position
    while not (ships := promoted.commit()):
        pass
    assert ships[0].from_txn == source.meta.txnid
    assert _led_to(promoted.reader, source.position) == ships[0].position
    source.close()
    promoted.close()


def test_a_full_copy_of_raw_runs_under_a_pin_is_the_store(tmp_path: Path) -> None:
    source = SourceStore(tmp_path / "source", 4)
    for _ in range(40):
        source.commit()
    first = source.meta
    source.hold()
    writer = PageWriter(tmp_path / "copy")
    runs = source.reader.live_runs(first)
    for _ in range(6):
        source.transact()
    for run in runs:
        writer.write_runs([run], source.reader.read_runs([run], first.psize), first.psize)
    second = source.reader.newest()
    changed = source.reader.changed_runs(first, second)
    writer.write_runs(changed, source.reader.read_runs(changed, first.psize), first.psize)
    writer.write_metas(second.body)
    assert contents_of(tmp_path / "copy") == contents(source.env)
    source.close()


def test_a_file_that_ends_too_early_is_damaged(tmp_path: Path) -> None:
    source = SourceStore(tmp_path / "source", 5)
    while not source.commit():
        pass
    older, newer = source.reader.metas()
    source.close()
    with open(source.path, "r+b") as file:
        file.truncate(2 * newer.psize)
    reader = PageReader(source.path)
    with pytest.raises(StoreDamaged):
        reader.ship(EPOCH, NOWHERE, older, newer)
    with pytest.raises(StoreDamaged):
        reader.read_runs([(2, 1)], newer.psize)
    with open(source.path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(StoreDamaged):
        PageReader(source.path).newest()


def test_a_full_disk_is_told_apart_from_a_broken_one() -> None:
    with open("/dev/full", "wb") as full, pytest.raises(StoreFull):
        write_all(full.fileno(), [memoryview(b"x")], 0)
    with open("/dev/null", "rb") as closed, pytest.raises(OSError, match="Bad file"):
        write_all(closed.fileno(), [memoryview(b"x")], 0)
