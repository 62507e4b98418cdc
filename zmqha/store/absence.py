"""Which pages were written since the peer last held everything: what it lacks when it comes back soon.

Told of every commit with the highest transaction that the peer has acknowledged. While the peer keeps up, only its window is kept.
Once it falls behind, the base stays where it was and page numbers collect, a byte each; a peer that comes back standing anywhere
from the base on, on this very branch, lacks at most these pages. Answers from what it was told; reads nothing. Owned by ``LmdbStore``.
"""

from collections import deque
from typing import NamedTuple

from zmqha.core.position import Position
from zmqha.core.shipment import Shipment

STEPS_MAX = 64  # commits kept one by one: many windows; what is older is only a set of pages
PAGES_MAX = 1 << 25  # 128 GiB of store in 32 MiB of memory; a larger one is compared instead


class _Step(NamedTuple):
    position: Position
    pages: list[tuple[int, int]]  # (first, number)


class Absence:
    """Begins where the peer is known to stand."""

    def __init__(self, base: Position) -> None:
        self._base = base
        self._places: list[Position] = []  # where the first STEPS_MAX of the commits led that are not among the steps any more
        self._steps: deque[_Step] = deque()
        self._old = bytearray()  # one byte per page written by commits that are not among the steps any more
        self._old_end: Position | None = None  # where the newest of those led
        self._too_large = False

    def committed(self, shipment: Shipment, peer_high: int) -> None:
        """A commit, and up to which transaction the peer has acknowledged by now."""
        if peer_high > self._base.txn:
            self._advance(peer_high)
        pages = [*shipment.runs, *((page, 1) for page, _, _ in shipment.compact)]
        self._steps.append(_Step(shipment.position, pages))
        if len(self._steps) > STEPS_MAX:
            self._fold(self._steps.popleft())

    def covers(self, position: Position) -> bool:
        """May a store that stands there be brought up with ``pages``."""
        if self._too_large:
            return False
        return position == self._base or position in self._places or any(step.position == position for step in self._steps)

    def pages(self) -> bytearray:
        """One byte per page, 1 where a commit after the base wrote."""
        pages = bytearray(self._old)
        for step in self._steps:
            _mark(pages, step.pages)
        return pages

    def _advance(self, peer_high: int) -> None:
        if self._old_end is not None:
            if self._old_end.txn > peer_high:
                return  # in the middle of what is a set only: an older base is right too
            self._base, self._old_end = self._old_end, None
            self._old, self._places, self._too_large = bytearray(), [], False
        while self._steps and self._steps[0].position.txn <= peer_high:
            self._base = self._steps.popleft().position

    def _fold(self, step: _Step) -> None:
        self._old_end = step.position
        if len(self._places) < STEPS_MAX:  # a peer that fell behind has stopped within its window, so early
            self._places.append(step.position)
        self._too_large = self._too_large or any(first + count > PAGES_MAX for first, count in step.pages)
        if not self._too_large:
            _mark(self._old, step.pages)


def _mark(pages: bytearray, runs: list[tuple[int, int]]) -> None:
    for first, count in runs:
        end = first + count
        if len(pages) < end:
            pages.extend(bytes(end - len(pages)))
        pages[first:end] = b"\1" * count
