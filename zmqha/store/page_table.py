"""What the pages of a closed store hold, as sums: so that a source sends only what differs.

Of a complete store the sum of each unit (``lmdb_page.unit_at``) at its first page; of an unfinished copy the plain xxh3_64 of each
page, since nothing says yet where its units begin. 0 means "not here": the source sends it. What cannot be read is left out, never
guessed.
Made by the follower a piece at a time, compared by ``copy_source``. Driven by the store thread.
"""

import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

import xxhash

from zmqha.core import limits, lmdb_page
from zmqha.core.events import TablePart
from zmqha.core.lmdb_page import Meta
from zmqha.errors import StoreDamaged
from zmqha.store.disk_reader import DiskReader
from zmqha.store.page_file import STORE_FILE, PageReader
from zmqha.store.replica import COPY_FILE

PART_PAGES = limits.TABLE_BYTES_MAX // 8  # of one TablePart
SLICE_BYTES = 4 * limits.MIB  # read between two looks at what else waits
_METAS_BYTES = 128 * limits.KIB  # both meta pages, however long a page is
_PSIZE = 4096  # of an unfinished copy, whose meta pages are not there yet (``view.PAGE_SIZE``)


def read_table(directory: Path, copy: int, *, partial: bool) -> Iterator[TablePart | None]:
    """Every part, the last one said to be it; None after each slice in between. An empty table where nothing can be read.

    What the disk holds is said, not what the kernel remembers of it: what is rotten only there would be left as it is. And nothing is
    touched through a map before the disk gave it: where it gives nothing, the kernel would end the process (SIGBUS).
    """
    path = directory / (COPY_FILE if partial else STORE_FILE)
    try:
        disk = DiskReader(path, SLICE_BYTES)
    except FileNotFoundError:
        yield TablePart(copy, 0, b"", True)
        return
    try:
        yield from _parts(copy, _page_sums(disk, path.stat().st_size) if partial else _unit_sums(disk, path))
    finally:
        disk.close()


def page_sum(page: bytes | memoryview) -> int:
    """Of a page of an unfinished copy."""
    return xxhash.xxh3_64_intdigest(page)


def sums_of(part: bytes) -> "array[int]":
    """The sums in a piece of a table; what does not fill one is dropped."""
    sums = array("Q")
    sums.frombytes(part[: len(part) // 8 * 8])
    return sums


def _parts(copy: int, found: Iterator[tuple[int, int, int] | None]) -> Iterator[TablePart | None]:
    """Collect (page, pages, sum), which rises, into parts."""
    first, sums = 0, array("Q")
    for unit in found:
        if unit is None:
            yield None
            continue
        page, _, total = unit
        while page - first >= PART_PAGES:
            sums.frombytes(bytes(8 * (PART_PAGES - len(sums))))
            yield TablePart(copy, first, sums.tobytes(), False)
            first, sums = first + PART_PAGES, array("Q")
        sums.frombytes(bytes(8 * (page - first - len(sums))))
        sums.append(total)
    yield TablePart(copy, first, sums.tobytes(), True)


def _unit_sums(disk: DiskReader, path: Path) -> Iterator[tuple[int, int, int] | None]:
    """Of the newest snapshot. Where a unit is damaged, so is the rest of its run: nothing says where the next one begins."""
    try:
        meta = lmdb_page.newest_meta(disk.read(0, _METAS_BYTES))
        runs = _live_runs(disk, path, meta)
    except StoreDamaged:
        return
    window, told = _Window(disk, meta), 0
    for first, count in runs:
        page = first
        while page < first + count:
            try:
                pages, total = window.unit(page)
            except StoreDamaged:
                break
            yield page, pages, total
            page += pages
            if window.loads > told:
                told = window.loads
                yield None


def _live_runs(disk: DiskReader, path: Path, meta: Meta) -> list[tuple[int, int]]:
    """Pages in use. Raises StoreDamaged if the list of the others cannot be read."""
    reader = PageReader(path)
    try:
        for page, count in lmdb_page.free_list(reader.view((meta.last_pg + 1) * meta.psize), meta):
            size = count * meta.psize
            if page + count > meta.last_pg + 1 or len(disk.read(page * meta.psize, size)) < size:
                raise StoreDamaged(f"page {page} of the free list cannot be read")
        return reader.live_runs(meta)
    finally:
        reader.close()


def _page_sums(disk: DiskReader, size: int) -> Iterator[tuple[int, int, int] | None]:
    for at in range(0, size, SLICE_BYTES):
        view = disk.read(at, SLICE_BYTES)
        for start in range(0, len(view) // _PSIZE * _PSIZE, _PSIZE):
            yield (at + start) // _PSIZE, 1, page_sum(view[start : start + _PSIZE])
        yield None


class _Window:
    """A slice of the file, as the disk gives it; where it cannot be read, nothing is in it."""

    def __init__(self, disk: DiskReader, meta: Meta) -> None:
        self.loads = 0
        self._disk = disk
        self._psize, self._end = meta.psize, meta.last_pg + 1
        self._first = self._stop = 0  # pages
        self._view = memoryview(b"")

    def unit(self, page: int) -> tuple[int, int]:
        """(pages, sum) of the unit that begins there; it is never before the one of the last call. Raises StoreDamaged."""
        if page >= self._stop:
            self._load(page, 1)
        try:
            return lmdb_page.unit_at(self._view, self._psize, page, self._first)
        except StoreDamaged:  # or it reaches over the end of the slice
            pages = lmdb_page.unit_pages(self._view[(page - self._first) * self._psize :])
            if page + pages <= self._stop or page + pages > self._end:
                raise
        self._load(page, pages)
        return lmdb_page.unit_at(self._view, self._psize, page, self._first)

    def _load(self, page: int, pages: int) -> None:
        size = max(pages * self._psize, SLICE_BYTES)
        self._view = self._disk.read(page * self._psize, size)
        self._first, self._stop = page, page + size // self._psize
        self.loads += 1


assert sys.byteorder == "little", "sums travel in the byte order of the machine"
