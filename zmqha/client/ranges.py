"""The offsets a consumer holds: the server's set of ranges, which can also shrink here. Pure."""

from bisect import bisect_left, bisect_right

from zmqha.core.ranges import RangeSet


class Ranges(RangeSet):
    """Cheap as long as the ranges are few, which batches ensure."""

    __slots__ = ()

    def remove(self, first: int, end: int) -> None:
        """Take [first, end) out; what is not there does not matter."""
        firsts, ends = self.firsts, self.ends
        left = bisect_right(ends, first)
        right = bisect_left(firsts, end)
        if left >= right:
            return
        head = [(firsts[left], first)] if firsts[left] < first else []
        tail = [(end, ends[right - 1])] if ends[right - 1] > end else []
        kept = head + tail
        firsts[left:right] = [pair[0] for pair in kept]
        ends[left:right] = [pair[1] for pair in kept]

    def count(self) -> int:
        """How many offsets."""
        return sum(self.ends) - sum(self.firsts)
