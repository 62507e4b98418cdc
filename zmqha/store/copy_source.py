"""The sending side of a full copy: pin a snapshot, hand out its live pages, then what changed meanwhile, until little is left.

::

    round 1   all live pages of S(c)          pinned, so none is reused while commits go on
    round n   pages that S(t) has and S(c) has not     each shorter than the one before
    last      everything left at once, then the position: from there on shipments follow

Commits go on between two steps; a step hands out at most one frame. Driven by the store thread.
"""

from collections.abc import Iterator

import xxhash

from zmqha.core import limits
from zmqha.core.actions import CopyOut
from zmqha.core.events import CopyBegun, CopyDone, CopyPart
from zmqha.store.lmdb_store import LmdbStore


class CopySource:
    """One running copy."""

    def __init__(self, store: LmdbStore, request: CopyOut) -> None:
        self.copy = request.copy
        self.budget = request.budget  # bytes that may still be handed out
        self._store = store
        self._pin = store.pin()
        self._meta = store.meta
        self._psize = self._meta.psize
        runs = store.reader.live_runs(self._meta)
        self._runs = _frames(runs, self._psize)
        self._tail_bytes = limits.COPY_TAIL_BYTES
        self._pages = _count(runs)

    def begun(self) -> CopyBegun:
        """The first event."""
        return CopyBegun(self.copy, self._psize, self._pages)

    def close(self) -> None:
        """Release the pin."""
        self._pin.abort()

    def step(self) -> Iterator[CopyPart | CopyDone]:
        """The next frame; ends with CopyDone, before which no commit may come. Only with a budget left."""
        runs = next(self._runs, None)
        if runs is not None:
            yield self._part(runs)
            return
        changed = self._next_round()
        # A round that stays long (a busy store) is accepted longer each time, so the copy ends whatever the load is.
        if _count(changed) * self._psize > self._tail_bytes:
            self._tail_bytes *= 2
            self._runs = _frames(changed, self._psize)
            return
        for runs in _frames(changed, self._psize):
            yield self._part(runs)
        yield CopyDone(self.copy, self._store.position, self._meta.body)

    def _next_round(self) -> list[tuple[int, int]]:
        """Move the pin to the newest snapshot; what it has and the old one had not."""
        pin, meta = self._store.pin(), self._store.meta
        changed = self._store.reader.changed_runs(self._meta, meta) if meta.txnid != self._meta.txnid else []
        self._pin.abort()
        self._pin, self._meta = pin, meta
        return changed

    def _part(self, runs: list[tuple[int, int]]) -> CopyPart:
        payload = self._store.reader.read_runs(runs, self._psize)
        self.budget -= len(payload)
        return CopyPart(self.copy, tuple(runs), payload, xxhash.xxh3_64_intdigest(payload))


def _count(runs: list[tuple[int, int]]) -> int:
    return sum(count for _, count in runs)


def _frames(runs: list[tuple[int, int]], psize: int) -> Iterator[list[tuple[int, int]]]:
    """Cut runs into frames of at most CHUNK_BYTES_MAX."""
    most = limits.CHUNK_BYTES_MAX // psize
    frame: list[tuple[int, int]] = []
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
