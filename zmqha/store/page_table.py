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

from zmqha.core import limits
from zmqha.core.events import TablePart
from zmqha.errors import StoreDamaged
from zmqha.store.disk_reader import forget
from zmqha.store.page_file import STORE_FILE, PageReader
from zmqha.store.replica import COPY_FILE

PART_PAGES = limits.TABLE_BYTES_MAX // 8  # of one TablePart
SLICE_BYTES = 4 * limits.MIB  # read between two looks at what else waits
_PSIZE = 4096  # of an unfinished copy, whose meta pages are not there yet (``view.PAGE_SIZE``)


def read_table(directory: Path, copy: int, *, partial: bool) -> Iterator[TablePart | None]:
    """Every part, the last one said to be it; None after each slice in between. An empty table where nothing can be read.

    What the disk holds is said, not what the kernel remembers of it: what is rotten only there would be left as it is.
    """
    path = directory / (COPY_FILE if partial else STORE_FILE)
    try:
        yield from forget(path)
        reader = PageReader(path)
    except FileNotFoundError:
        yield TablePart(copy, 0, b"", True)
        return
    try:
        yield from _parts(copy, _page_sums(reader) if partial else _unit_sums(reader))
    finally:
        reader.close()


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


def _unit_sums(reader: PageReader) -> Iterator[tuple[int, int, int] | None]:
    """Of the newest snapshot. Where a unit is damaged, so is the rest of its run: nothing says where the next one begins."""
    try:
        meta = reader.newest()
        runs = reader.live_runs(meta)
    except StoreDamaged:
        return
    read = 0
    for first, count in runs:
        page = first
        while page < first + count:
            try:
                pages, total = reader.unit_at(page, meta)
            except StoreDamaged:
                break
            yield page, pages, total
            page += pages
            read += pages * meta.psize
            if read >= SLICE_BYTES:
                read = 0
                yield None


def _page_sums(reader: PageReader) -> Iterator[tuple[int, int, int] | None]:
    read = 0
    for page, content in enumerate(reader.every_page(_PSIZE)):
        yield page, 1, page_sum(content)
        read += _PSIZE
        if read >= SLICE_BYTES:
            read = 0
            yield None


assert sys.byteorder == "little", "sums travel in the byte order of the machine"
