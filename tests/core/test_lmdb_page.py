"""Pages and meta pages are read as LMDB wrote them, and what is not sound is refused."""

import struct
from itertools import pairwise
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqha.core import lmdb_page
from zmqha.core.lmdb_page import Meta
from zmqha.errors import StoreDamaged


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    """A store with small values, overflow runs, free pages."""
    env = lmdb.open(str(tmp_path / "store"), subdir=False, map_size=1 << 26, max_dbs=4, sync=False, lib_version=0)
    log = env.open_db(b"log")
    for step in range(40):
        with env.begin(write=True, db=log) as txn:
            txn.put(b"%04d" % step, bytes(step * 400 + 1))
            if step > 10:
                txn.delete(b"%04d" % (step - 10))
    env.close()
    return (tmp_path / "store").read_bytes()


def metas(image: bytes) -> tuple[Meta, Meta]:
    found = [lmdb_page.read_meta(image, slot) for slot in (0, 1)]
    assert found[0] is not None and found[1] is not None
    older, newer = sorted((found[0], found[1]), key=lambda meta: meta.txnid)
    return older, newer


def test_the_newest_meta_page_is_the_one_with_the_higher_transaction(image: bytes) -> None:
    older, newer = metas(image)
    assert newer.txnid == older.txnid + 1
    assert lmdb_page.newest_meta(image) == newer
    assert newer.psize == 4096 and newer.mapsize == 1 << 26
    assert image[(newer.txnid & 1) * 4096 + 32 :][:120] == newer.body


def test_a_meta_page_begins_with_the_static_bytes(image: bytes) -> None:
    assert [image[at : at + 32] for at in (0, 4096)] == [lmdb_page.static_head(0), lmdb_page.static_head(1)]


def test_restamping_changes_the_transaction_and_nothing_else(image: bytes) -> None:
    newer = lmdb_page.newest_meta(image)
    body = lmdb_page.restamp(newer.body, 7)
    assert lmdb_page.parse_body(body) == newer._replace(txnid=7, body=body)


def test_another_data_version_is_refused_and_no_magic_is_no_meta_page(image: bytes) -> None:
    other = bytearray(image)
    struct.pack_into("<I", other, 20, 3)
    with pytest.raises(StoreDamaged, match="version 3"):
        lmdb_page.read_meta(bytes(other), 0)
    struct.pack_into("<I", other, 16, 0)
    assert lmdb_page.read_meta(bytes(other), 0) is None
    assert lmdb_page.read_meta(b"", 1) is None
    with pytest.raises(StoreDamaged):
        lmdb_page.newest_meta(bytes(8192))


def test_live_and_free_pages_cover_the_file_without_overlap(image: bytes) -> None:
    newer = lmdb_page.newest_meta(image)
    free = set(lmdb_page.free_ids(image, newer))
    live = {page for first, count in lmdb_page.live_runs(image, newer) for page in range(first, first + count)}
    assert free and not free & live
    assert lmdb_page.free_count(image, newer) == len(free)
    assert lmdb_page.free_count(image, newer, newer.txnid + 1) == len(free)
    assert 0 < lmdb_page.free_count(image, newer, newer.txnid) < len(free)
    assert lmdb_page.free_count(image, newer, 0) == 0
    assert free | live == set(range(2, newer.last_pg + 1))


def test_the_free_list_lies_where_it_is_said_to_lie_and_nowhere_else(tmp_path: Path) -> None:
    env = lmdb.open(str(tmp_path / "store"), subdir=False, map_size=1 << 28, sync=False, lib_version=0)
    for step in range(200):
        with env.begin(write=True) as txn:
            for key in range(step * 20, step * 20 + 20):
                txn.put(b"%06d" % key, bytes(3000))
    with env.begin():  # holds what the others free
        for step in range(200):
            with env.begin(write=True) as txn:
                for key in range(step * 20, step * 20 + (20 if step % 2 else 1)):
                    txn.delete(b"%06d" % key)
        with env.begin(write=True) as txn:
            for key in range(0, 4000, 2):
                txn.delete(b"%06d" % key)
    env.close()
    image = (tmp_path / "store").read_bytes()
    newer = lmdb_page.newest_meta(image)
    told = list(lmdb_page.free_list(image, newer))
    assert newer.free_depth > 1 and max(count for _, count in told) > 1
    alone = bytearray(len(image))
    for first, count in told:
        alone[first * 4096 : (first + count) * 4096] = image[first * 4096 : (first + count) * 4096]
    assert lmdb_page.free_ids(bytes(alone), newer) == lmdb_page.free_ids(image, newer)


def test_holes_are_left_out_and_overflow_runs_are_whole_and_joined(image: bytes) -> None:
    newer = lmdb_page.newest_meta(image)
    pages = [page for first, count in lmdb_page.live_runs(image, newer) for page in range(first, first + count)]
    found = lmdb_page.collect(memoryview(image), 4096, pages)
    whole = [page for first, count in found.runs for page in range(first, first + count)]
    assert sorted(whole + [page for page, _, _ in found.compact]) == pages
    assert len(found.runs) < sum(count for _, count in found.runs)
    first, count = found.runs[0]
    assert found.payload.startswith(image[first * 4096 : (first + count) * 4096])
    size = 4096 * len(pages) - sum(upper - lower for _, lower, upper in found.compact)
    assert len(found.payload) == size


def test_pages_that_are_not_in_use_are_refused(image: bytes) -> None:
    newer = lmdb_page.newest_meta(image)
    view = memoryview(image)
    first, count = next(run for run in lmdb_page.collect(view, 4096, _live(image, newer)).runs if run[1] > 1)
    for pages in ([first], [first + 1], [0], [newer.last_pg + 100]):
        with pytest.raises(StoreDamaged):
            lmdb_page.collect(view, 4096, pages)
    assert lmdb_page.collect(view, 4096, range(first, first + count)).runs == [(first, count)]


def test_a_damaged_free_list_is_refused(image: bytes) -> None:
    older, newer = metas(image)
    damaged = bytearray(image)
    at = newer.free_root * 4096
    for offset, value in ((0, b"\xff"), (10, b"\x01"), (12, b"\xff\xff"), (16, b"\xff\xff")):
        damaged[:] = image
        damaged[at + offset : at + offset + len(value)] = value
        with pytest.raises(StoreDamaged):
            lmdb_page.changed_pages(bytes(damaged), older, newer)
    with pytest.raises(StoreDamaged):
        lmdb_page.free_ids(image[: at + 100], newer)


def test_page_numbers_join_to_runs() -> None:
    assert lmdb_page.runs_of([]) == []
    assert lmdb_page.runs_of([2, 3, 4, 9, 11, 12]) == [(2, 3), (9, 1), (11, 2)]


def _live(image: bytes, meta: Meta) -> list[int]:
    return [page for first, count in lmdb_page.live_runs(image, meta) for page in range(first, first + count)]


def test_the_units_of_a_snapshot_lie_side_by_side_and_fill_its_pages(image: bytes) -> None:
    """Whoever steps from unit to unit through the pages in use meets every one of them; a hole does not count, a byte does."""
    view, meta = memoryview(bytearray(image)), lmdb_page.newest_meta(image)
    seen, small = 0, 0
    for first, count in lmdb_page.live_runs(image, meta):
        page = first
        while page < first + count:
            pages, found = lmdb_page.unit_at(view, meta.psize, page)
            lower, upper = struct.unpack_from("<HH", view, page * meta.psize + 12)
            if pages == 1 and lower < upper:
                small += 1
                view[page * meta.psize + lower] ^= 1
                assert lmdb_page.unit_at(view, meta.psize, page) == (1, found)
            view[page * meta.psize + meta.psize * pages - 1] ^= 1
            assert lmdb_page.unit_at(view, meta.psize, page) != (pages, found)
            page += pages
        assert page == first + count
        seen += count
    assert small >= 3 and seen == meta.last_pg - 1 - len(lmdb_page.free_ids(image, meta))


def test_what_is_not_a_unit_is_refused(image: bytes) -> None:
    view, meta = memoryview(bytearray(image)), lmdb_page.newest_meta(image)
    page = meta.main_root
    struct.pack_into("<Q", view, page * meta.psize, page + 1)
    with pytest.raises(StoreDamaged, match=f"page {page} says"):
        lmdb_page.unit_at(view, meta.psize, page)
    with pytest.raises(StoreDamaged, match="behind the end"):
        lmdb_page.unit_at(view, meta.psize, len(image) // meta.psize)


@given(st.sets(st.integers(2, 90)))
def test_runs_are_the_same_pages_joined_as_far_as_possible(pages: set[int]) -> None:
    runs = lmdb_page.runs_of(sorted(pages))
    assert [page for first, count in runs for page in range(first, first + count)] == sorted(pages)
    assert all(first + count < following for (first, count), (following, _) in pairwise(runs))
