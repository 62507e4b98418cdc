"""What a follower says that its closed store holds: every unit that the disk gives, and nothing that it does not give."""

import errno
import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from source_store import SourceStore

from zmqha.core import limits, lmdb_page
from zmqha.store import page_table
from zmqha.store.page_file import STORE_FILE, PageReader
from zmqha.store.page_table import page_sum, read_table, sums_of
from zmqha.store.replica import COPY_FILE

SLICE = 64 * limits.KIB  # a value of the store below may be longer
Sums = dict[int, int]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_table, "SLICE_BYTES", SLICE)


@pytest.fixture
def held(tmp_path: Path) -> Sums:
    """The units of a store, with a free list of more than one page; their sums by their first pages."""
    source = SourceStore(tmp_path / STORE_FILE, 5, large=200_000)
    for _ in range(80):
        source.commit()
    source.close()
    reader = PageReader(tmp_path / STORE_FILE)
    meta, found = reader.newest(), {}
    for first, count in reader.live_runs(meta):
        page = first
        while page < first + count:
            pages, found[page] = reader.unit_at(page, meta)
            page += pages
    reader.close()
    return found


def table(directory: Path, *, partial: bool = False) -> Sums:
    sums: array[int] = array("Q")
    for part in read_table(directory, 1, partial=partial):
        if part is not None:
            assert part.first == len(sums)
            sums.extend(sums_of(part.sums))
    return {page: total for page, total in enumerate(sums) if total}


def unreadable(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """The sectors of this page give an error from now on."""
    real: Callable[[int, Sequence[memoryview], int], int] = os.preadv

    def preadv(fd: int, buffers: Sequence[memoryview], at: int) -> int:
        if at <= page * 4096 < at + sum(map(len, buffers)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", preadv)


def test_every_unit_is_told_however_it_lies_across_slices(held: Sums, tmp_path: Path) -> None:
    assert table(tmp_path) == held


def test_a_unit_that_the_disk_does_not_give_is_left_out_with_what_is_read_with_it(
    held: Sums, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = sorted(held)[len(held) // 2]
    unreadable(monkeypatch, bad)
    told = table(tmp_path)
    assert bad not in told and told.items() < held.items()
    assert {page for page in held if page < bad - SLICE // 4096} <= told.keys()


def test_where_the_free_list_or_a_meta_page_is_not_given_the_table_is_empty(
    held: Sums, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = PageReader(tmp_path / STORE_FILE)
    meta = reader.newest()
    pages = [page for page, _ in lmdb_page.free_list(reader.view(0), meta)]
    reader.close()
    assert len(pages) > 1 and all(page in held for page in pages)
    for page in (0, *pages):
        with monkeypatch.context() as patch:
            unreadable(patch, page)
            assert table(tmp_path) == {}


def test_of_an_unfinished_copy_every_page_is_told_that_the_disk_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [os.urandom(4096) for _ in range(50)]
    (tmp_path / COPY_FILE).write_bytes(b"".join(pages))
    expected = {page: page_sum(content) for page, content in enumerate(pages)}
    assert table(tmp_path, partial=True) == expected
    unreadable(monkeypatch, 20)
    assert table(tmp_path, partial=True) == {page: total for page, total in expected.items() if not 16 <= page < 32}


def test_where_there_is_no_file_the_table_is_empty(tmp_path: Path) -> None:
    assert table(tmp_path) == {}
