"""Where the shared subscription of a queue stands: every message is in exactly one of ready, in flight, done (guarantee 4).

::

      0 ........ floor ............................ fresh ............ tail
        done          done | in flight | returned          fresh             not yet durable, invisible
                                       | delayed

``returned`` are ready again and go out before anything fresh, lowest first; ``delayed`` become returned when their time comes.
After a takeover everything below the tail that is not done is ``returned``: it may have been out, nobody knows. In flight ranges
are kept by the subscription that holds them (``session``); the cursor counts them. Tags are numbers of deliveries.
"""

from bisect import bisect_right
from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.ranges import Range, RangeMap, RangeSet
from zmqha.core.work import CursorRow

RANGES_MAX = limits.CREDIT_MESSAGES_MAX  # done and counted ranges of a queue; above it nothing fresh goes out until some are done
DELAYED_MAX = RANGES_MAX // 4  # delayed ranges: each is counted, and may lie between two that are done; no queue stops for them


class Front(NamedTuple):
    """The ready range that is next; ``deliveries`` so far, as far as known."""

    first: int
    end: int
    deliveries: int
    redelivered: bool


class Cursor:
    """Offsets only; bytes and batches are the queue's business."""

    __slots__ = ("counts", "delayed", "done", "floor", "fresh", "in_flight", "messages", "returned", "tail")

    def __init__(self) -> None:
        self.floor = 0
        self.fresh = 0
        self.tail = 0
        self.done = RangeSet()  # above the floor
        self.returned = RangeMap()
        self.delayed = RangeMap()
        self.counts = RangeMap()  # deliveries of what came back at least once and is not done
        self.in_flight = 0  # messages
        self.messages = 0  # not done

    @property
    def ready(self) -> int:
        """Messages that nobody holds."""
        return self.messages - self.in_flight

    def load(self, row: CursorRow) -> None:
        """What the store kept; ``resume`` follows."""
        self.done = RangeSet(row.done)
        self.floor = self.done.absorb(row.floor)
        self.counts = RangeMap(row.returned)

    def resume(self, log_end: int) -> None:
        """Begin after a takeover; ``log_end`` is where the log ends, as far as it still holds batches."""
        self.tail = self.fresh = max(log_end, self.done.ends[-1] if self.done else self.floor)
        for first, end in self.done.gaps(self.floor, self.tail):
            self.messages += end - first
            self.returned.add(first, end, 0)
        for first, end, deliveries in self.counts:
            self.returned.put(first, end, deliveries)

    def row(self, destination: int) -> CursorRow:
        """What the store keeps."""
        return CursorRow(destination, self.floor, tuple(self.done), tuple(map(tuple, self.counts)))  # type: ignore[arg-type]

    def extend(self, end: int) -> None:
        """Messages up to ``end`` are durable now."""
        self.messages += end - self.tail
        self.tail = end

    def mistrust(self) -> None:
        """Somebody may have seen what is fresh here: it goes out as if it came back."""
        if self.fresh < self.tail:
            self.returned.add(self.fresh, self.tail, 0)
            self.fresh = self.tail

    def front(self) -> Front | None:
        """What is delivered next, if anything may be."""
        returned = self.returned
        if returned.firsts:
            return Front(returned.firsts[0], returned.ends[0], returned.tags[0], True)
        if self.fresh < self.tail and len(self.done.firsts) + len(self.counts.firsts) < RANGES_MAX:
            return Front(self.fresh, self.tail, 0, False)
        return None

    def hand_out(self, front: Front, end: int) -> None:
        """[front.first, end) is in flight now."""
        self.in_flight += end - front.first
        if front.redelivered:
            self.returned.take(front.first, end)
        else:
            self.fresh = end

    def next_returned(self, offset: int) -> Range | None:
        """The first returned range that ends above ``offset``."""
        at = bisect_right(self.returned.ends, offset)
        return (self.returned.firsts[at], self.returned.ends[at]) if at < len(self.returned) else None

    def claim(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """What of [first, end) is ready and was handed out before is in flight now; with deliveries, at least 1."""
        pieces = self.returned.take(first, end)
        self.in_flight += sum(piece.end - piece.first for piece in pieces)
        return [(piece.first, piece.end, max(1, piece.tag)) for piece in pieces]

    def claim_ready(self, first: int, end: int) -> list[Range]:
        """What of [first, end) nobody holds is in flight now. What is fresh below it may go out later: it is returned then."""
        pieces = [(piece.first, piece.end) for piece in (*self.returned.take(first, end), *self.delayed.take(first, end))]
        low, high = max(first, self.fresh), min(end, self.tail)
        if low < high:
            if self.fresh < low:
                self.returned.add(self.fresh, low, 0)
            self.fresh = high
            pieces.append((low, high))
        self.in_flight += sum(piece_end - piece_first for piece_first, piece_end in pieces)
        return sorted(pieces)

    def give_back(self, first: int, end: int, deliveries: int, *, delayed: bool = False) -> None:
        """[first, end) was in flight and is not any more."""
        self.in_flight -= end - first
        self.counts.put(first, end, deliveries)
        (self.delayed if delayed else self.returned).add(first, end, deliveries)

    def due(self, first: int, end: int) -> bool:
        """A delay is over; whether anything came of it (a purge may have been faster)."""
        pieces = self.delayed.take(first, end)
        for piece in pieces:
            self.returned.add(*piece)
        return bool(pieces)

    def finish(self, first: int, end: int) -> None:
        """[first, end) was in flight and is done."""
        self.in_flight -= end - first
        self.messages -= end - first
        if self.counts.firsts:
            self.counts.take(first, end)
        if first != self.floor:
            self.done.add(first, end)
        elif self.done.firsts:
            self.floor = self.done.absorb(end)
        else:
            self.floor = end

    def finish_all(self) -> int:
        """Everything visible is done; how many were not."""
        removed, self.messages, self.in_flight = self.messages, 0, 0
        self.floor = self.fresh = self.tail
        for ranges in (self.done, self.returned, self.delayed, self.counts):
            ranges.clear()
        return removed

    def done_within(self, first: int, end: int) -> list[Range]:
        """The parts of [first, end) that are done."""
        below = [(first, min(end, self.floor))] if first < self.floor else []
        above = self.done.within(first, end)
        return below + above
