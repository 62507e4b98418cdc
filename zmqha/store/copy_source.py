"""The sending side of a copy: find out what the follower lacks, pin a snapshot, hand it out in rounds until little is left.

::

    what      DELTA   the pages written since the follower's position, where ``absence`` covers it
              DELTA   the units whose sums differ from the follower's table, where it has a complete store
              REST    the pages that its unfinished copy has not, or has otherwise
              WHOLE   every page in use: it has nothing, or so much differs that writing it once is cheaper
    round 1   those pages of S(c)                     pinned, so none is reused while commits go on
    round n   pages that S(t) has and S(c) has not    each shorter than the one before; the follower takes each as its store first
    last      everything left at once, then the position: from there on shipments follow

Commits go on between two steps; a step hands out at most one frame or looks at SLICE_BYTES. Driven by the store thread.
"""

from array import array
from collections.abc import Generator, Iterator, Sequence

import lmdb
import xxhash

from zmqha.core import limits
from zmqha.core.actions import CopyOut, TakeTable
from zmqha.core.events import CopyBegun, CopyDone, CopyPart, RoundDone, TableNeeded
from zmqha.core.lmdb_page import Meta
from zmqha.core.peer_protocol import Way
from zmqha.core.position import NOWHERE, Position
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.page_table import SLICE_BYTES, page_sum, sums_of

DELTA_SHARE_MAX = 0.5  # of the pages in use: a delta is written twice by the follower, a new file once

CopyEvent = TableNeeded | CopyBegun | CopyPart | RoundDone | CopyDone
Run = tuple[int, int]


class CopySource:
    """One running copy."""

    def __init__(self, store: LmdbStore, request: CopyOut) -> None:
        self.copy = request.copy
        self.budget = request.budget  # bytes that may still be handed out
        self._held = request.held
        self._store = store
        self._pin: lmdb.Transaction | None = None
        self._meta: Meta = store.meta
        self._position: Position = store.position  # of the pinned snapshot
        self._psize = self._meta.psize
        self._table = array("Q")  # the follower's
        self._waits = False  # for a table, or for the follower to have taken a round
        self._steps = self._run()

    @property
    def ready(self) -> bool:
        """May ``step`` be called."""
        return self.budget > 0 and not self._waits

    def close(self) -> None:
        """Release the pin."""
        if self._pin is not None:
            self._store.unpin(self._pin)
            self._pin = None

    def step(self) -> list[CopyEvent]:
        """The next events; the last of all is CopyDone, before which, in the same step, no commit may come. Raises StoreDamaged where a
        page is not what was written: it does not go to the peer."""
        return next(self._steps)

    def take_table(self, part: TakeTable) -> None:
        """A piece of the follower's table, in order; anything beyond what is asked for or kept is dropped."""
        sums = sums_of(part.sums)
        if part.first == len(self._table) and part.first + len(sums) <= limits.TABLE_PAGES_MAX:
            self._table.extend(sums)
        if part.last:
            self._waits = False

    def next_round(self) -> None:
        """The follower has taken the last one."""
        self._waits = False

    # --- the steps ----------------------------------------------------------------------------------------------------------

    def _run(self) -> Iterator[list[CopyEvent]]:
        way: Way = Way.WHOLE
        runs: list[Run] | None = None
        if self._held.position != NOWHERE:
            way, runs = yield from self._differing()
        if runs is None and self._held.partial:
            way, runs = Way.REST, (yield from self._compared(partial=True))
        if runs is None:
            self._move_pin()
            way, runs = Way.WHOLE, self._store.reader.live_runs(self._meta)
        yield [CopyBegun(self.copy, self._psize, _count(runs), way)]
        yield from self._rounds(runs)

    def _rounds(self, runs: Sequence[Run]) -> Iterator[list[CopyEvent]]:
        tail_bytes = limits.COPY_TAIL_BYTES
        while True:
            for frame in _frames(runs, self._psize):
                yield [self._part(frame)]
            if _count(runs) * self._psize > tail_bytes:
                self._waits = True
                yield [RoundDone(self.copy, self._position, self._meta.body)]
            runs = self._move_pin()
            if _count(runs) * self._psize <= tail_bytes:
                break
            # A round that stays long (a busy store) is accepted longer each time; above the limit ``core.pace`` sees to its end.
            tail_bytes = min(2 * tail_bytes, limits.COPY_TAIL_BYTES_MAX)
        parts: list[CopyEvent] = [self._part(frame) for frame in _frames(runs, self._psize)]
        yield [*parts, CopyDone(self.copy, self._position, self._meta.body)]

    def _move_pin(self) -> list[Run]:
        """Pin the newest snapshot instead; what it has and the old one had not."""
        old, pin, meta = self._pin, self._store.pin(), self._store.meta
        changed: list[Run] = []
        if old is not None and meta.txnid != self._meta.txnid:
            changed = self._store.reader.changed_runs(self._meta, meta)
        if old is not None:
            self._store.unpin(old)
        self._pin, self._meta, self._position = pin, meta, self._store.position
        return changed

    def _part(self, runs: list[Run]) -> CopyPart:
        payload = self._store.reader.read_runs(runs, self._psize)
        self._store.census.vouch(runs)
        self.budget -= len(payload)
        return CopyPart(self.copy, tuple(runs), payload, xxhash.xxh3_64_intdigest(payload))

    # --- what differs -------------------------------------------------------------------------------------------------------

    def _differing(self) -> "Generator[list[CopyEvent], None, tuple[Way, list[Run] | None]]":
        """On top of the follower's complete store; None where a new file is cheaper, or the store too large to be compared, or perhaps
        so damaged that it cannot be."""
        if self._held.trusted and self._store.absence.covers(self._held.position):
            self._move_pin()
            runs = self._written_since()
        elif self._store.meta.last_pg < limits.TABLE_PAGES_MAX and not self._store.census.as_it_is:
            runs = yield from self._compared(partial=False)
        else:
            return Way.WHOLE, None
        live = _count(self._store.reader.live_runs(self._meta))
        if _count(runs) > live * DELTA_SHARE_MAX and _count(runs) * self._psize > limits.COPY_TAIL_BYTES:
            return Way.WHOLE, None
        return Way.DELTA, runs

    def _written_since(self) -> list[Run]:
        """Pages in use that were written since the follower stood where it says."""
        written = self._store.absence.pages()
        found: list[Run] = []
        for first, count in self._store.reader.live_runs(self._meta):
            at, end = written.find(1, first, first + count), first + count
            while at >= 0:
                stop = written.find(0, at, end)
                stop = min(end, len(written)) if stop < 0 else stop
                found.append((at, stop - at))
                at = written.find(1, stop, end)
        return found

    def _compared(self, *, partial: bool) -> "Generator[list[CopyEvent], None, list[Run]]":
        """Pages in use that the follower's table does not show the same."""
        self._table, self._waits = array("Q"), True
        yield [TableNeeded(self.copy, partial)]
        table = self._table
        self._move_pin()
        found: list[Run] = []
        reader, meta, looked = self._store.reader, self._meta, 0
        for first, count in reader.live_runs(meta):
            page = first
            while page < first + count:
                pages, total = (1, page_sum(reader.page(page, meta))) if partial else reader.unit_at(page, meta)
                if page >= len(table) or table[page] != total:
                    _extend(found, page, pages)
                page += pages
                looked += pages * self._psize
                if looked >= SLICE_BYTES:
                    looked = 0
                    yield []
        return found


def _extend(runs: list[Run], page: int, pages: int) -> None:
    """One more unit, behind all others; at once part of the last run if they touch, for there may be one unit for every page."""
    if runs and sum(runs[-1]) == page:
        runs[-1] = (runs[-1][0], runs[-1][1] + pages)
    else:
        runs.append((page, pages))


def _count(runs: Sequence[Run]) -> int:
    return sum(count for _, count in runs)


def _frames(runs: Sequence[Run], psize: int) -> Iterator[list[Run]]:
    """Cut runs into frames of at most CHUNK_BYTES_MAX."""
    most = limits.CHUNK_BYTES_MAX // psize
    frame: list[Run] = []
    held = 0
    for first, count in runs:
        while count:
            take = min(count, most - held)
            frame.append((first, take))
            first, count, held = first + take, count - take, held + take
            if held == most:
                yield frame
                frame, held = [], 0
    if frame:
        yield frame
