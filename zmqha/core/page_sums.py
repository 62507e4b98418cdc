"""Sums of what a store's pages hold, and their running total: the *digest* of the store.

A *unit* is what the tree refers to by one page number: a branch or leaf page without its hole, or a whole overflow run. Its sum is
xxh3_64 of its bytes, seeded with the number of its first page; the digest is the sum of all sums mod 2^64, so it does not depend on
order, and a commit changes it by what it freed and what it wrote. Two stores at one transaction hold the same exactly where their
sums are equal, whatever stands in holes and dead pages.

Pure: no file is read here. ``shipment`` computes the sums of what it carries, on both sides; ``store.census`` keeps those of a
store's file.
"""

import struct
from array import array
from collections.abc import Iterable, Sequence

import xxhash

from zmqha.errors import ProtocolError

NOT_KNOWN = 0  # in place of a digest or a sum; one that is really 0 is compared with nothing, once in 2^64
Units = Sequence[tuple[int, int]]  # (first page, sum)
Runs = Sequence[tuple[int, int]]  # (first page, number of pages)

_MASK = (1 << 64) - 1
_OVERFLOW, _LEAF2 = 4, 0x22
_page_head = struct.Struct("<QHHI").unpack_from  # page | pad | flags | pages of an overflow run
_ALIKE_AT_ONCE = 64  # units looked at together
_sum_of = xxhash.xxh3_64_intdigest


def units_of(payload: bytes, psize: int, runs: Runs, compact: Iterable[tuple[int, int, int]]) -> Units:
    """Every unit in the pages of a shipment. Raises ProtocolError if a run is not made of whole units."""
    found: list[tuple[int, int]] = []
    view, at = memoryview(payload), 0
    for first, count in runs:
        page, end = first, first + count
        if at + count * psize > len(view):
            raise ProtocolError(f"the pages {first} to {end - 1} are cut off")
        while page < end:
            number, _, flags, pages = _page_head(view, at)
            length = pages if flags == _OVERFLOW else 1
            if number != page or flags not in (_OVERFLOW, _LEAF2) or not 1 <= length <= end - page:
                raise ProtocolError(f"page {page} arrives as page {number} with flags {flags:#x}, {length} pages long")
            size = length * psize
            for _ in range(units_alike(view, at, psize, page, length, (end - page) // length)):
                found.append((page, _sum_of(view[at : at + size], page)))
                page, at = page + length, at + size
    for page, lower, upper in compact:
        stop = at + psize - upper + lower
        found.append((page, _sum_of(view[at:stop], page)))
        at = stop
    return found


def units_alike(view: memoryview, at: int, psize: int, page: int, pages: int, most: int) -> int:
    """How many units of so many pages each follow one another, from the one at ``at`` on, which begins with ``page`` and counts; not
    more than ``most``, nor than are looked at together. The others are overflow runs, and say that they are what they should be.

    Most of a large commit are such units: the parts of log values. A look at each alone takes several times as long.
    """
    if most == 1:
        return 1
    most = min(most, _ALIKE_AT_ONCE)
    words, step = view[at : at + most * pages * psize].cast("Q"), pages * psize // 8
    numbers, heads, head = words[::step].tolist(), words[1::step].tolist(), _OVERFLOW << 16 | pages << 32
    due = range(page, page + most * pages, pages)
    if heads.count(head) == most and numbers == list(due):
        return most
    found = enumerate(zip(numbers, heads, due, strict=True))
    return max(1, next((index for index, (number, other, wanted) in found if (number, other) != (wanted, head)), most))


def check_of(units: Units) -> int:
    """One sum over all: what tells whether the pages of a shipment arrived as they were sent."""
    return _sum_of(array("Q", [total for _, total in units]))


class PageSums:
    """The sum of each unit of one snapshot, at its first page, and their total. Pages that begin no unit have none."""

    __slots__ = ("_sums", "digest")

    def __init__(self, raw: bytes = b"") -> None:
        """``raw``: out of ``tobytes``."""
        self._sums = array("Q")
        self._sums.frombytes(raw)
        self.digest = sum(self._sums) & _MASK

    def __len__(self) -> int:
        """Pages there is room for."""
        return len(self._sums)

    def __getitem__(self, page: int) -> int:
        return self._sums[page]

    def tobytes(self) -> bytes:
        """All of it, eight bytes a page."""
        return self._sums.tobytes()

    def grow(self, pages: int) -> None:
        """Room for a file of so many pages; it never shrinks."""
        if pages > len(self._sums):
            self._sums.frombytes(bytes(8 * (pages - len(self._sums))))

    def free(self, runs: Runs) -> None:
        """These pages hold nothing any more. A unit is always freed whole."""
        sums = self._sums
        for first, count in runs:
            if count == 1:
                self.digest -= sums[first]
                sums[first] = 0
            else:
                self.digest -= sum(sums[first : first + count])
                sums[first : first + count] = array("Q", bytes(8 * count))
        self.digest &= _MASK

    def write(self, units: Units) -> None:
        """These units were written, on pages that held nothing."""
        sums = self._sums
        for page, total in units:
            self.digest += total - sums[page]
            sums[page] = total
        self.digest &= _MASK

    def within(self, runs: Runs) -> Units:
        """The units that begin in these runs."""
        sums = self._sums
        found: list[tuple[int, int]] = []
        for first, count in runs:
            if count > 1:
                found += self.units(first, count)
            elif sums[first]:
                found.append((first, sums[first]))
        return found

    def units(self, first: int, pages: int) -> Units:
        """The units that begin in [first, first + pages)."""
        return [(page, total) for page, total in enumerate(self._sums[first : first + pages], first) if total]
