"""Sets of offsets as ranges [first, end): rising, disjoint, found by bisection, never one entry per message.

``RangeSet`` merges what touches (done messages). ``RangeMap`` gives each range a tag and merges what touches and has an equal tag
(in flight, given back: the tag is the number of deliveries). Cost grows with the number of ranges touched, not with their length.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

Range = tuple[int, int]


class Tagged(NamedTuple):
    """A range and its tag."""

    first: int
    end: int
    tag: int


class RangeSet:
    """Disjoint ranges that never touch each other."""

    __slots__ = ("ends", "firsts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.firsts: list[int] = []
        self.ends: list[int] = []
        for first, end in ranges:
            self.add(first, end)

    def __len__(self) -> int:
        return len(self.firsts)

    def __iter__(self) -> Iterator[Range]:
        return zip(self.firsts, self.ends, strict=True)

    def add(self, first: int, end: int) -> None:
        """Include [first, end), whatever of it was there before."""
        low = bisect_left(self.ends, first)
        high = bisect_right(self.firsts, end)
        if low < high:
            first = min(first, self.firsts[low])
            end = max(end, self.ends[high - 1])
        self.firsts[low:high] = [first]
        self.ends[low:high] = [end]

    def within(self, first: int, end: int) -> list[Range]:
        """The parts of [first, end) that are included."""
        low = bisect_right(self.ends, first)
        high = bisect_left(self.firsts, end)
        return [(max(first, self.firsts[at]), min(end, self.ends[at])) for at in range(low, high)]

    def gaps(self, first: int, end: int) -> Iterator[Range]:
        """The parts of [first, end) that are not included."""
        for covered, covered_end in self.within(first, end):
            if covered > first:
                yield first, covered
            first = covered_end
        if first < end:
            yield first, end

    def absorb(self, floor: int) -> int:
        """Drop everything up to ``floor`` and what touches it; the floor after that."""
        high = bisect_right(self.firsts, floor)
        if high:
            floor = max(floor, self.ends[high - 1])
            del self.firsts[:high], self.ends[:high]
        return floor

    def clear(self) -> None:
        self.firsts.clear()
        self.ends.clear()


class RangeMap:
    """Disjoint ranges with a tag each; neighbours with one tag are one range."""

    __slots__ = ("ends", "firsts", "tags")

    def __init__(self, ranges: Iterable[tuple[int, int, int]] = ()) -> None:
        self.firsts: list[int] = []
        self.ends: list[int] = []
        self.tags: list[int] = []
        for first, end, tag in ranges:
            self.add(first, end, tag)

    def __len__(self) -> int:
        return len(self.firsts)

    def __iter__(self) -> Iterator[Tagged]:
        return map(Tagged, self.firsts, self.ends, self.tags)

    def add(self, first: int, end: int, tag: int) -> None:
        """Include [first, end), of which nothing may be there yet."""
        firsts, ends, tags = self.firsts, self.ends, self.tags
        at = bisect_left(firsts, first)
        assert (at == 0 or ends[at - 1] <= first) and (at == len(firsts) or end <= firsts[at]), "ranges overlap"
        joins_left = at > 0 and ends[at - 1] == first and tags[at - 1] == tag
        joins_right = at < len(firsts) and firsts[at] == end and tags[at] == tag
        if joins_left and joins_right:
            ends[at - 1] = ends[at]
            self._delete(at, at + 1)
        elif joins_left:
            ends[at - 1] = end
        elif joins_right:
            firsts[at] = first
        else:
            firsts.insert(at, first)
            ends.insert(at, end)
            tags.insert(at, tag)

    def put(self, first: int, end: int, tag: int) -> None:
        """Include [first, end) with this tag, whatever was there."""
        self.take(first, end)
        self.add(first, end, tag)

    def take(self, first: int, end: int) -> list[Tagged]:
        """Remove what is there of [first, end); the pieces removed, rising."""
        at = bisect_right(self.ends, first)
        if at == len(self.firsts) or self.firsts[at] >= end:
            return []
        if end <= self.ends[at]:
            return [self._take_inside(at, max(first, self.firsts[at]), end)]
        stop = bisect_left(self.firsts, end, at)
        pieces = list(map(Tagged, self.firsts[at:stop], self.ends[at:stop], self.tags[at:stop]))
        self._delete(at, stop)
        head, tail = pieces[0], pieces[-1]
        if tail.end > end:
            pieces[-1] = tail._replace(end=end)
            self.add(end, tail.end, tail.tag)
        if head.first < first:
            pieces[0] = pieces[0]._replace(first=first)
            self.add(head.first, first, head.tag)
        return pieces

    def _take_inside(self, at: int, first: int, end: int) -> Tagged:
        """Cut [first, end) out of the one range that holds it."""
        old_end, tag = self.ends[at], self.tags[at]
        if self.firsts[at] == first:
            if old_end == end:
                self._delete(at, at + 1)
            else:
                self.firsts[at] = end
        else:
            self.ends[at] = first
            if end < old_end:
                self.firsts.insert(at + 1, end)
                self.ends.insert(at + 1, old_end)
                self.tags.insert(at + 1, tag)
        return Tagged(first, end, tag)

    def _delete(self, at: int, stop: int) -> None:
        del self.firsts[at:stop], self.ends[at:stop], self.tags[at:stop]

    def clear(self) -> None:
        self._delete(0, len(self.firsts))
