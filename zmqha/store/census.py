"""The sums of every unit in one store's file (``core.page_sums``): built in the background, kept in step with every commit.

A build begins from a snapshot and visits its pages a slice at a time; commits go on. What a commit frees is not visited any more (and
may be written over from then on), what it writes is counted at once, from the shipment. So the end of a build is exact at whatever
transaction the store stands then. Until then the digest is not known.

Nothing needs to hold the snapshot meanwhile, on the active as little as on the passive: a page is written over only by transactions
after the one that freed it, and each comes past here before the next one is begun.

Refuses nothing; a page that is not what it says is remembered in ``unsound``. Driven by the store thread.
"""

import logging

from zmqha.core import limits, lmdb_page
from zmqha.core.lmdb_page import Meta
from zmqha.core.page_sums import NOT_KNOWN, PageSums, Runs, Units
from zmqha.errors import StoreDamaged
from zmqha.store.page_file import PageReader

log = logging.getLogger("zmqha.store")
UNSOUND_MAX = 8  # remembered until they are reported; one is enough to give the store up
_FREE, _IN_USE = b"\1", b"\0"


class Census:
    """Of one open store. Above ``limits.DIGEST_PAGES_MAX`` pages it is off."""

    def __init__(self, reader: PageReader, meta: Meta, sums: PageSums | None = None) -> None:
        """``sums``: those of exactly this snapshot, if known; otherwise they are built."""
        self.meta = meta  # the newest snapshot
        self.unsound: list[str] = []
        self._reader = reader
        self._sums = PageSums() if sums is None else sums
        self._gone: bytearray | None = None  # pages of the snapshot that need no visit: free, or freed since
        self._next = 2
        self.off = False
        self.as_it_is = False  # an operator wants this very store served, damaged or not
        self.complete = sums is not None
        self._fit(meta)

    @property
    def share(self) -> float | None:
        """How far the build is, 0..1; None: off."""
        if self.off:
            return None
        return 1.0 if self.complete else min(0.99, self._next / (self.meta.last_pg + 1))

    @property
    def sums(self) -> PageSums | None:
        """Those of the newest snapshot, once complete."""
        return self._sums if self.complete and not self.off else None

    @property
    def digest(self) -> int:
        """Of the newest snapshot, or NOT_KNOWN."""
        return self._sums.digest if self.complete else NOT_KNOWN

    @property
    def building(self) -> bool:
        """Is there anything to be done by ``build``."""
        return not (self.complete or self.off)

    def close(self) -> None:
        """The store is closed."""
        self.off = True
        self._gone = None

    def verify(self, view: memoryview, freed: Runs) -> None:
        """What a transaction freed, before it is forgotten: it read those pages and copied what was in them to new ones, under new
        sums. Raises StoreDamaged if they did not hold what was written there: then that lies in the new pages too, and none of them
        may go anywhere. ``freed`` must not have been written over yet."""
        if self.off:
            return
        for page in lmdb_page.spoilt_copies(view, self.meta.psize, self._sums.within(freed)):
            why = f"page {page} of the store did not hold what was written there when a commit changed it"
            if not self.as_it_is:
                raise StoreDamaged(why)
            if len(self.unsound) < UNSOUND_MAX:
                self.unsound.append(why)

    def vouch(self, runs: Runs) -> None:
        """For pages of a snapshot that is held, before they go to the peer: they may be written over a good copy of themselves.
        Raises StoreDamaged."""
        if self.sums is None or self.as_it_is:
            return
        view = self._reader.view((self.meta.last_pg + 1) * self.meta.psize)
        for page, total in self.sums.within(runs):
            if lmdb_page.unit_at(view, self.meta.psize, page)[1] != total:
                raise StoreDamaged(f"page {page} of the store does not hold what was written there: it was to be copied")

    def advance(self, meta: Meta, freed: Runs, units: Units) -> int:
        """A transaction freed and wrote this; the digest after it. Begins a build, if there must be one, before."""
        if self.building and self._gone is None:
            self._begin()
        self.meta = meta
        self._fit(meta)
        if self.off:
            return NOT_KNOWN
        self._sums.free(freed)
        self._sums.write(units)
        gone = self._gone
        if gone is not None:
            for first, count in freed:
                gone[first : first + count] = _FREE * min(count, max(0, len(gone) - first))
        return self.digest

    def build(self, budget_bytes: int) -> None:
        """Visit about so many bytes of pages. The file must stand at the newest snapshot."""
        if not self.building:
            return
        if self._gone is None:
            self._begin()
        gone, psize = self._gone, self.meta.psize
        if gone is None:
            return
        view = self._reader.view(len(gone) * psize)
        units: list[tuple[int, int]] = []
        page = self._next
        while budget_bytes > 0 and (page := gone.find(_IN_USE, page)) >= 0:
            try:
                pages, total = lmdb_page.unit_at(view, psize, page)
                units.append((page, total))
            except StoreDamaged as error:
                if len(self.unsound) < UNSOUND_MAX:
                    self.unsound.append(error.what)
                pages = 1
            page += pages
            budget_bytes -= pages * psize
        self._sums.write(units)
        self._next = page
        if page < 0 or page >= len(gone):
            self.complete = True
            self._gone = None

    def _begin(self) -> None:
        """Mark what the snapshot does not use. All at once: 50 ns a free page."""
        meta = self.meta
        gone = bytearray(meta.last_pg + 1)
        gone[:2] = _FREE * 2
        try:
            for page in lmdb_page.free_ids(self._reader.view((meta.last_pg + 1) * meta.psize), meta):
                gone[page] = 1
        except (StoreDamaged, IndexError) as error:
            self.unsound.append(f"the free list cannot be read ({error})")
            self.close()
            return
        self._gone = gone

    def _fit(self, meta: Meta) -> None:
        """Grow with the file, up to the bound."""
        pages = meta.last_pg + 1
        if pages > limits.DIGEST_PAGES_MAX:
            if not self.off:
                log.warning("digest.off", extra={"fields": (("pages", pages), ("limit", limits.DIGEST_PAGES_MAX))})
            self.close()
            self._sums = PageSums()
        elif not self.off:
            self._sums.grow(pages)
