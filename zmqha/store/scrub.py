"""The scrub: the bytes of the store's file, as the disk gives them now (``disk_reader``), against the sums that they must have.

A slice at a time, over and over, on the active and on the passive, at the pace of ``[limits] scrub_mib_per_s``. Until the sums are
complete a slice builds them instead (``census``). A unit that does not have its sum is read once more by itself; one that cannot be
read from the disk is as wrong as one that is read and differs. Each is reported once; what follows from it is decided in ``core.ha``.

Changes nothing and waits for nothing. Driven by the store thread, between two actions: what is in the file then is what the sums
say, because both change in one action.
"""

import time
from pathlib import Path

from zmqha.core import lmdb_page
from zmqha.core.events import Scrubbed
from zmqha.core.limits import MIB
from zmqha.errors import StoreDamaged
from zmqha.store.census import Census
from zmqha.store.disk_reader import DiskReader

SLICE_BYTES = MIB  # about 1 ms: what a commit may have to wait
PAUSE_S = 10.0  # between two cycles: a small store would be read all the time
BUILD_PAUSE_S = 0.003  # between two slices of a build while nothing else is to be done
LATE_S = 0.02  # under load a build gets a slice this often,
SCRUB_LATE_S = 0.25  # and the scrub one when it is so late: 4 MiB/s at the least
REPORTED_MAX = 8  # pages named in one report


class Scrub:
    """Looks after one open store; between stores it does nothing."""

    def __init__(self, path: Path, mib_per_s: int) -> None:
        self.mib_per_s = mib_per_s  # written by the reactor; 0: off
        self._path = path
        self._disk: DiskReader | None = None
        self._census: Census | None = None
        self._metas = False
        self._next = 2  # page
        self._due_s = 0.0
        self._began_s = 0.0  # of this cycle
        self._told: set[int] = set()  # damaged pages of this store that were reported
        self._bytes = self._cycles = self._cycle_ms = self._damaged = 0

    def watch(self, census: Census | None, *, metas: bool = False) -> None:
        """Another store was opened, or none is open any more. ``metas``: its meta pages are written with every transaction."""
        if census is self._census:
            return
        if self._disk is not None:
            self._disk.close()
            self._disk = None
        self._census, self._metas = census, metas
        self._told.clear()
        self._next = 2
        self._due_s = self._began_s = time.monotonic()
        if census is not None:
            self._disk = DiskReader(self._path, SLICE_BYTES)

    def counts(self) -> Scrubbed:
        """For status."""
        share = self._census.share if self._census is not None else 0.0
        return Scrubbed(-1.0 if share is None else share, self._bytes, self._cycles, self._cycle_ms, self._damaged)

    def count_damaged(self) -> None:
        """Somebody else came upon a damaged page."""
        self._damaged += 1

    @property
    def due_s(self) -> float | None:
        """When a slice is wanted, on the monotonic clock; None: never."""
        census = self._census
        if census is None:
            return None
        if census.unsound:
            return self._began_s
        if census.off or not (census.building or self.mib_per_s):
            return None
        return self._due_s

    def late(self, now_s: float) -> bool:
        """Must a slice go before work that waits."""
        due_s = self.due_s
        if due_s is None or self._census is None:
            return False
        return now_s - due_s > (LATE_S if self._census.building else SCRUB_LATE_S)

    def step(self, now_s: float) -> list[str]:
        """One slice; what was found wrong for the first time, a sentence a page."""
        census = self._census
        if census is None:
            return []
        if census.building or census.unsound:
            census.build(SLICE_BYTES)
            self._due_s = now_s + BUILD_PAUSE_S
            found, census.unsound = census.unsound, []
            self._damaged += len(found)
            return found[:REPORTED_MAX]
        if census.off or not self.mib_per_s:
            return []
        first, pages = self._next, SLICE_BYTES // census.meta.psize
        found, taken = self._slice(census, first, pages)
        self._bytes += taken
        self._next += pages
        self._due_s = now_s + taken / (max(1, self.mib_per_s) * MIB)
        if self._next > census.meta.last_pg:
            found += self._newest_meta(census)
            self._cycles += 1
            self._cycle_ms = int((now_s - self._began_s) * 1000)
            self._next, self._due_s = 2, now_s + PAUSE_S
            self._began_s = self._due_s
        return found[:REPORTED_MAX]

    def _slice(self, census: Census, first: int, pages: int) -> tuple[list[str], int]:
        """Check the units that begin here: (what is wrong, bytes read)."""
        sums, psize = census.sums, census.meta.psize
        expected = sums.units(first, pages) if sums is not None else []
        if not expected:
            return [], 0
        view = self._read(first, pages, psize)
        taken, found = len(view), []
        # A unit without its sum reaches over the end of the slice, or it is wrong.
        doubted = [unit for unit in expected if unit[0] not in self._told and _sum(view, psize, unit[0], first) != unit[1]]
        for page, total in doubted:
            alone = self._alone(page, census)
            taken += len(alone)
            if _sum(alone, psize, page, page) != total:
                self._told.add(page)
                self._damaged += 1
                found.append(f"page {page} of the store does not hold what was written there")
        return found, taken

    def _newest_meta(self, census: Census) -> list[str]:
        """No sum covers it: it must be what was read after its commit. On a passive it is written last of all (``settle``)."""
        meta, page = census.meta, census.meta.txnid & 1
        if not self._metas or page in self._told:
            return []
        held = self._read(page, 1, meta.psize)[lmdb_page.META_AT :]
        if held[: len(meta.body)] == meta.body:
            return []
        self._told.add(page)
        self._damaged += 1
        return [f"page {page} of the store does not hold what was written there"]

    def _alone(self, page: int, census: Census) -> memoryview:
        """The unit that begins here, as long as it says it is."""
        psize = census.meta.psize
        head = self._read(page, 1, psize)
        pages = lmdb_page.unit_pages(head)
        return self._read(page, pages, psize) if 1 < pages <= census.meta.last_pg + 1 - page else head

    def _read(self, first: int, pages: int, psize: int) -> memoryview:
        assert self._disk is not None, "a census is watched"
        return self._disk.read(first * psize, pages * psize)


def _sum(view: memoryview, psize: int, page: int, first: int) -> int | None:
    try:
        return lmdb_page.unit_at(view, psize, page, first)[1]
    except StoreDamaged:
        return None
