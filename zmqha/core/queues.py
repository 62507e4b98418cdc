"""A queue: its limits, its log, its cursor, its consumers; and the table of all queues.

The queue keeps the three views of one message in step (cursor, log index, the credit of whoever holds it) and tells its caller
which batches are finished. It sends nothing and writes nothing.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.cursor import Cursor
from zmqha.core.log_index import LogIndex, Place
from zmqha.core.ranges import Range
from zmqha.core.session import Subscription
from zmqha.core.work import DestinationRow, StoredLog
from zmqha.errors import LimitReached, QueueFull

NEVER = 1 << 63  # above every offset


class AckResult(NamedTuple):
    """What an ACK came to: which of its ranges are done, whether the cursor moved, (first offset, value) of finished batches."""

    done: list[Range]
    changed: bool
    finished: list[tuple[int, int]]


class Queue:
    """One destination with one shared subscription."""

    __slots__ = (
        "consumers", "cursor", "fetching", "incoming_bytes", "incoming_messages", "log", "max_bytes", "max_messages", "name",
        "number", "read_on", "removed", "ring", "tail",
    )  # fmt: skip

    def __init__(self, row: DestinationRow) -> None:
        self.number = row.number
        self.name = row.name
        self.max_messages = row.max_messages  # 0 = the server's default
        self.max_bytes = row.max_bytes
        self.cursor = Cursor()
        self.log = LogIndex()
        self.tail = 0  # next offset to give away; ahead of cursor.tail by what is not yet durable
        self.incoming_messages = 0  # accepted, not yet durable
        self.incoming_bytes = 0
        self.consumers: list[Subscription] = []
        self.ring: deque[Subscription] = deque()  # consumers with credit, in turn
        self.fetching: dict[int, int] = {}  # first offset of a batch being read from the store -> token
        self.read_on = NEVER  # when the batch at this offset is handed out, the next ones are to be read
        self.removed = False

    # --- rows ---------------------------------------------------------------------------------------------------------------

    def row(self) -> DestinationRow:
        return DestinationRow(self.number, self.name, self.max_messages, self.max_bytes)

    def restore_batch(self, place: Place) -> bool:
        """A batch found in the store; whether any of its messages is not done. The cursor is loaded, ``resume`` follows."""
        end = place.first + place.count
        self.tail = max(self.tail, end)
        left, cursor = place.count, self.cursor
        if place.first < cursor.floor or cursor.done.firsts:
            left -= sum(done_end - done_first for done_first, done_end in cursor.done_within(place.first, end))
        if left:
            self.log.append(place, left)
        return left > 0

    def restore_log(self, log: StoredLog) -> list[int]:
        """All batches of this queue that the store holds, rising; which of them are finished. Where nothing is done yet, which is
        nearly everywhere, they are taken over a column at a time."""
        done = self.cursor.done
        begin = bisect_left(log.offset, done.ends[-1] if done else self.cursor.floor)
        head = zip(*(column[:begin] for column in log.columns[1:]), strict=True)
        finished = [row for row, place in enumerate(map(Place._make, head)) if not self.restore_batch(place)]
        if begin < len(log):
            self.tail = max(self.tail, log.offset[-1] + log.count[-1])
            self.log.extend(log, begin)
        return finished

    def resume(self) -> None:
        """Everything in the store is known."""
        self.cursor.resume(self.tail)
        self.tail = self.cursor.tail

    # --- producers' side ----------------------------------------------------------------------------------------------------

    def check_room(self, messages: int, size: int, default_messages: int, default_bytes: int) -> None:
        """Raise QueueFull if a batch does not fit into the limits."""
        most = self.max_messages or default_messages
        held = self.cursor.messages + self.incoming_messages
        if held + messages > most:
            raise QueueFull(
                f"queue {self.name} is full",
                cause=f"it holds {held} messages of at most {most}, and this batch brings {messages}",
                cure=f"consume from it, or raise its limit: zmqha queue add {self.name} --max-messages N",
            )
        most_bytes = self.max_bytes or default_bytes
        held_bytes = self.log.bytes + self.incoming_bytes
        if held_bytes + size > most_bytes:
            raise QueueFull(
                f"queue {self.name} is full",
                cause=f"it holds {held_bytes} bytes of at most {most_bytes}, and this batch brings {size}",
                cure=f"consume from it, or raise its limit: zmqha queue add {self.name} --max-bytes N",
            )

    def expect(self, messages: int, size: int) -> None:
        """A batch is accepted."""
        self.incoming_messages += messages
        self.incoming_bytes += size

    def forget_expected(self, messages: int, size: int) -> None:
        """An accepted batch will not come."""
        self.incoming_messages -= messages
        self.incoming_bytes -= size

    def stored(self, place: Place) -> None:
        """The next accepted batch is durable and may be delivered."""
        self.incoming_messages -= place.count
        self.incoming_bytes -= place.length
        assert place.first == self.cursor.tail, "a batch is out of place"
        self.log.append(place, place.count)
        self.cursor.extend(place.first + place.count)

    # --- consumers' side ----------------------------------------------------------------------------------------------------

    def join(self, subscription: Subscription, held: Iterable[Range]) -> list[Range]:
        """A new consumer; what it held before a takeover and is still ready is in flight to it again, up to its credit."""
        self.consumers.append(subscription)
        taken: list[Range] = []
        for first, end in held:
            room = subscription.max_messages - subscription.out_messages
            for piece_first, piece_end, deliveries in self._claim(first, end, room):
                subscription.in_flight.add(piece_first, piece_end, deliveries)
                subscription.out_messages += piece_end - piece_first
                subscription.out_bytes += self.log.weight(piece_first, piece_end)
                taken.append((piece_first, piece_end))
        self.turn(subscription)
        return taken

    def _claim(self, first: int, end: int, room: int) -> list[tuple[int, int, int]]:
        pieces: list[tuple[int, int, int]] = []
        while room > 0 and first < end:
            ready = self.cursor.next_returned(first)
            if ready is None or ready[0] >= end:
                break
            start = max(first, ready[0])
            stop = min(end, ready[1], start + room)
            pieces += self.cursor.claim(start, stop)
            room -= stop - start
            first = stop
        return pieces

    def turn(self, subscription: Subscription) -> None:
        """Put a consumer with credit at the end of the ring, once."""
        if not subscription.waiting and subscription.has_credit:
            subscription.waiting = True
            self.ring.append(subscription)

    def leave(self, subscription: Subscription) -> bool:
        """A consumer goes; whether anything came back."""
        self.consumers.remove(subscription)
        if subscription.waiting:
            self.ring.remove(subscription)
            subscription.waiting = False
        came_back = bool(subscription.in_flight)
        if not self.removed:
            for first, end, deliveries in subscription.in_flight:
                self.cursor.give_back(first, end, deliveries)
        subscription.in_flight.clear()
        return came_back and not self.removed

    def acknowledge(self, subscription: Subscription, ranges: Iterable[Range]) -> AckResult:
        """Done with what of these ranges is in flight to this consumer; what was done stays so, the rest is not touched."""
        done: list[Range] = []
        finished: list[tuple[int, int]] = []
        changed = False
        for first, end in ranges:
            if first >= end:
                continue
            taken = 0
            for piece_first, piece_end, _ in subscription.in_flight.take(first, end):
                weight, closed = self.log.finish(piece_first, piece_end)
                self.cursor.finish(piece_first, piece_end)
                taken += piece_end - piece_first
                subscription.out_bytes -= weight
                finished += closed
            subscription.out_messages -= taken
            changed = changed or taken > 0
            if taken == end - first:
                done.append((first, end))
            elif len(done) < limits.RANGES_PER_FRAME:
                done += self.cursor.done_within(first, end)
        if changed:
            self.turn(subscription)
        return AckResult(done[: limits.RANGES_PER_FRAME], changed, finished)

    def give_back(self, subscription: Subscription, ranges: Iterable[Range], *, delayed: bool) -> list[Range]:
        """What of these ranges is in flight to this consumer is ready again (or delayed); which."""
        back: list[Range] = []
        for first, end in ranges:
            if first >= end:
                continue
            for piece_first, piece_end, deliveries in subscription.in_flight.take(first, end):
                subscription.out_messages -= piece_end - piece_first
                subscription.out_bytes -= self.log.weight(piece_first, piece_end)
                self.cursor.give_back(piece_first, piece_end, deliveries, delayed=delayed)
                back.append((piece_first, piece_end))
        self.turn(subscription)
        return back

    def finish_ready(self, ranges: Iterable[Range]) -> tuple[int, list[tuple[int, int]]]:
        """Done with what of these ranges nobody holds: how many messages, and (first offset, value) of finished batches."""
        taken, finished = 0, []
        for first, end in ranges:
            for piece_first, piece_end in self.cursor.claim_ready(first, end):
                finished += self.log.finish(piece_first, piece_end)[1]
                self.cursor.finish(piece_first, piece_end)
                taken += piece_end - piece_first
        return taken, finished

    def finish_all(self) -> tuple[int, LogIndex]:
        """Everything visible is done; how many messages were not, and the index of their batches."""
        removed, old = self.cursor.finish_all(), self.log
        self.log = LogIndex()
        self.fetching.clear()
        for subscription in self.consumers:
            subscription.in_flight.clear()
            subscription.out_messages = subscription.out_bytes = 0
            self.turn(subscription)
        return removed, old


class Queues:
    """All queues, by name and by number. Numbers rise and are never used again: two branches must not mean two queues by one."""

    __slots__ = ("_last_number", "by_name", "by_number", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._last_number = 0
        self.by_name: dict[str, Queue] = {}
        self.by_number: dict[int, Queue] = {}

    def restore(self, row: DestinationRow) -> Queue:
        """A row of the store."""
        queue = self.by_name[row.name] = self.by_number[row.number] = Queue(row)
        self.seen(row.number)
        return queue

    def seen(self, number: int) -> None:
        """The number is or was in use somewhere in the store."""
        self._last_number = max(self._last_number, number)

    def create(self, name: str, *, beyond: bool = False) -> Queue:
        """A new queue under a checked name; raises LimitReached, unless it may be ``beyond`` the limit."""
        if len(self.by_name) >= self.most and not beyond:
            raise LimitReached(
                f"queue {name} cannot be created",
                cause=f"there are {self.most} queues, the most this server keeps",
                cure="remove queues that nobody uses: zmqha queue rm NAME",
            )
        return self.restore(DestinationRow(self._last_number + 1, name, 0, 0))

    def remove(self, queue: Queue) -> None:
        del self.by_name[queue.name], self.by_number[queue.number]
        queue.removed = True
