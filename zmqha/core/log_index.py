"""Where the batches of the queues are in the store's log: flat arrays, 28 bytes per batch and 12 per value, found by bisection.

``LogIndex`` is one queue's list of batches with how many messages of each are not done. ``ValueTable`` counts, over all queues,
the unfinished batches of each log value, so that a value goes when its last message is done. Both forget finished entries a block
at a time, so a long life costs what lives, not what lived.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterator
from itertools import compress, islice
from operator import lt
from typing import NamedTuple

from zmqha.core.work import StoredLog

_KEEP_DEAD = 64  # entries: below this, forgetting is not worth a move


class Place(NamedTuple):
    """One batch: messages [first, first + count), and where its bytes are."""

    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    value: int
    position: int
    length: int


class LogIndex:
    """The batches of one queue that hold a message not done, rising by offset."""

    __slots__ = ("_dead", "bytes", "count", "first", "left", "length", "position", "value")

    def __init__(self) -> None:
        self.first = array("Q")
        self.count = array("H")
        self.left = array("H")  # messages not done
        self.value = array("Q")
        self.position = array("I")
        self.length = array("I")
        self._dead = 0
        self.bytes = 0  # of the unfinished batches

    def append(self, place: Place, left: int) -> None:
        """Add the newest batch; ``left`` of its messages are not done."""
        self.first.append(place.first)
        self.count.append(place.count)
        self.left.append(left)
        self.value.append(place.value)
        self.position.append(place.position)
        self.length.append(place.length)
        self.bytes += place.length

    def extend(self, log: StoredLog, begin: int) -> None:
        """Add the batches of a log from ``begin`` on, of which no message is done."""
        mine = (self.first, self.count, self.left, self.value, self.position, self.length)
        theirs = (log.offset, log.count, log.count, log.value, log.position, log.length)
        for column, source in zip(mine, theirs, strict=True):
            column.extend(source[begin:] if begin else source)
        self.bytes += sum(log.length[begin:])

    def find(self, offset: int) -> int:
        """Where in the arrays the batch of a message that is not done is; valid until the next change."""
        return bisect_right(self.first, offset) - 1

    def place(self, at: int) -> Place:
        return Place(self.first[at], self.count[at], self.value[at], self.position[at], self.length[at])

    def weight(self, first: int, end: int) -> int:
        """Bytes that [first, end), not done, counts for in a consumer's credit: the average of its batch for each message."""
        total, at = 0, self.find(first)
        while first < end:
            stop = min(self.first[at] + self.count[at], end)
            total += (stop - first) * (self.length[at] // self.count[at])
            first = stop
            at += 1
        return total

    def finish(self, first: int, end: int) -> tuple[int, list[tuple[int, int]]]:
        """Mark [first, end), not done so far, as done; its weight, and (first offset, value) of the batches it finished."""
        weight, finished, at = 0, [], self.find(first)
        while first < end:
            count, length, begin = self.count[at], self.length[at], self.first[at]
            stop = min(begin + count, end)
            weight += (stop - first) * (length // count)
            left = self.left[at] - (stop - first)
            assert left >= 0 and first >= begin, "a message is done twice"
            self.left[at] = left
            if left == 0:
                finished.append((begin, self.value[at]))
                self.bytes -= length
            first = stop
            at += 1
        if finished:
            self._dead += len(finished)
            if self._dead > _KEEP_DEAD and self._dead * 2 > len(self.first):
                self._forget()
        return weight, finished

    def unfinished_values(self) -> Iterator[int]:
        """The value of each unfinished batch."""
        return compress(self.value, self.left)

    def _forget(self) -> None:
        alive = self.left
        for name in ("first", "count", "value", "position", "length", "left"):
            column: array[int] = getattr(self, name)
            setattr(self, name, array(column.typecode, compress(column, alive)))
        self._dead = 0


class ValueTable:
    """How many unfinished batches each log value holds, and which values can go."""

    __slots__ = ("_dead", "_open", "_retired", "_value", "droppable")

    def __init__(self) -> None:
        self._value = array("Q")
        self._open = array("I")
        self._dead = 0
        self._retired: deque[Iterator[int]] = deque()  # indexes of purged queues, worked off a block at a time
        self.droppable: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._value) - self._dead

    @property
    def waiting(self) -> bool:
        """Whether ``collect`` has something to do."""
        return bool(self.droppable or self._retired)

    def add(self, value: int, batches: int) -> None:
        """A value, higher than all before, with this many unfinished batches; none means it can go."""
        if batches == 0:
            self.droppable.append(value)
            return
        self._value.append(value)
        self._open.append(batches)

    def restore(self, values: "array[int]", unfinished: bytes | bytearray) -> None:
        """The table was empty: the value of every batch in the log, rising, and for each a 1 if it is not finished."""
        if all(map(lt, values, values[1:])) and 0 not in unfinished:  # a batch each, as lone senders leave it
            self._value.extend(values)
            self._open.extend(unfinished)
            return
        unfinished_batches = Counter(compress(values, unfinished))
        self._value.extend(unfinished_batches.keys())
        self._open.extend(unfinished_batches.values())
        if 0 in unfinished:
            self.droppable.extend(value for value in dict.fromkeys(values) if value not in unfinished_batches)

    def finish(self, value: int) -> None:
        """One batch of the value is finished."""
        at = value - self._value[0]
        if at >= len(self._value) or self._value[at] != value:
            at = bisect_left(self._value, value)
        assert self._value[at] == value and self._open[at] > 0, "a batch is finished twice"
        self._open[at] -= 1
        if self._open[at] == 0:
            self.droppable.append(value)
            self._dead += 1
            if self._dead > _KEEP_DEAD and self._dead * 2 > len(self._value):
                self._forget()

    def retire(self, index: LogIndex) -> None:
        """Every batch of this index is finished; it is worked off by later ``collect`` calls."""
        self._retired.append(index.unfinished_values())

    def collect(self, most: int) -> tuple[int, ...]:
        """Up to ``most`` values that can go now."""
        if self._retired and len(self.droppable) < most:
            block = list(islice(self._retired[0], most))
            for value in block:
                self.finish(value)
            if len(block) < most:
                self._retired.popleft()
        return tuple(self.droppable.popleft() for _ in range(min(most, len(self.droppable))))

    def put_back(self, values: tuple[int, ...]) -> None:
        """These were not dropped after all."""
        self.droppable.extendleft(reversed(values))

    def _forget(self) -> None:
        alive = self._open
        self._value = array("Q", compress(self._value, alive))
        self._open = array("I", compress(alive, alive))
        self._dead = 0
