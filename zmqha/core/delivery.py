"""Who gets which messages when: credit decides, consumers of a queue take turns, every DELIVER is a batch or a slice of one.

A queue with something to do is *woken*; ``run`` serves each woken queue until it has no ready message, no consumer with credit,
or its next batch is not in memory. Then the batch is fetched (with a small read-ahead) and nothing of that queue overtakes it.
"""

from zmqha.core import limits
from zmqha.core.actions import Fetch, SendToClient
from zmqha.core.batch_cache import BatchCache
from zmqha.core.client_protocol import Deliver, encode
from zmqha.core.log_index import LogIndex
from zmqha.core.message import MERGED, cut, fit, stored_head
from zmqha.core.position import Epoch
from zmqha.core.queues import NEVER, Queue

READ_AHEAD_BATCHES = 32  # per queue, counted from the message that is next
READ_AHEAD_BYTES = limits.MIB  # likewise; the first batch is fetched whatever its size

Action = SendToClient | Fetch


class Delivery:
    """Holds the cache and the reads that are on their way."""

    __slots__ = ("_reads", "_token", "_woken", "cache", "held")

    def __init__(self, cache_bytes: int) -> None:
        self._token = 0  # rises for ever, so that the answer to a read of an earlier term is known as such
        self._woken: dict[int, Queue] = {}
        self._reads: dict[int, tuple[Queue, int]] = {}  # token -> queue, first offset of the batch
        self.cache = BatchCache(cache_bytes)
        self.held = False  # nothing goes out (a switchover is under way)

    def reset(self, cache_bytes: int) -> None:
        """Forget everything but the token."""
        self._woken.clear()
        self._reads.clear()
        self.held = False
        self.cache = BatchCache(cache_bytes)

    def wake(self, queue: Queue) -> None:
        """Something changed: messages became ready or a consumer has credit."""
        if queue.ring:
            self._woken[queue.number] = queue

    def fetched(self, token: int, batch: bytes) -> None:
        """A read ended. Its result is kept only if somebody still needs it."""
        queue, first = self._reads.pop(token, (None, 0))
        if queue is None or queue.fetching.get(first) != token:
            return
        del queue.fetching[first]
        at = queue.log.find(first)
        if not queue.removed and at >= 0 and queue.log.first[at] == first and queue.log.left[at]:
            self.cache.put((queue.number, first), batch)
            self.wake(queue)

    def run(self, epoch: Epoch, out: list[Action]) -> None:
        """Serve woken queues, up to DELIVERS_PER_TURN; what is left is ``pending``, those not served yet first."""
        if self.held or not self._woken:
            return
        woken, self._woken = self._woken, {}
        stop = len(out) + limits.DELIVERS_PER_TURN
        unfinished: list[Queue] = []
        for queue in woken.values():
            if queue.removed:
                continue
            if len(out) >= stop:
                self._woken[queue.number] = queue
            elif not self._serve(queue, epoch, out, stop):
                unfinished.append(queue)
        for queue in unfinished:
            self._woken[queue.number] = queue

    @property
    def pending(self) -> bool:
        """Is there more to deliver at once."""
        return bool(self._woken) and not self.held

    def _serve(self, queue: Queue, epoch: Epoch, out: list[Action], stop: int) -> bool:
        """Hand out what its consumers have credit for; False if ``stop`` actions were reached first."""
        ring, cursor, log = queue.ring, queue.cursor, queue.log
        while ring:
            if len(out) >= stop:
                return False
            front = cursor.front()
            if front is None:
                return True
            at = log.find(front.first)
            begin, count, length = log.first[at], log.count[at], log.length[at]
            batch = self.cache.get((queue.number, begin))
            if batch is None:
                self._read(queue, at, front.end, out)
                return True
            if begin >= queue.read_on:
                self._read(queue, at + 1, front.end, out)
            subscription = ring.popleft()
            subscription.waiting = False
            weight = length // count
            room = subscription.room(weight)
            if room < 1:
                continue  # it waits for an acknowledgement, which puts it into the ring again
            end = min(front.end, begin + count, front.first + room)
            start = front.first - begin
            if start or end - begin < count or length > limits.DELIVER_BYTES_TARGET:
                head = stored_head(batch)
                if length > limits.DELIVER_BYTES_TARGET:
                    end = min(end, begin + fit(batch, head, start, limits.DELIVER_BYTES_TARGET))
                batch = cut(batch, head, start, end - begin)
            deliveries = front.deliveries + 1
            cursor.hand_out(front, end)
            subscription.in_flight.add(front.first, end, deliveries)
            subscription.out_messages += end - front.first
            subscription.out_bytes += (end - front.first) * weight
            queue.turn(subscription)
            again = front.redelivered or bool(batch[1] & MERGED)  # another branch may have delivered it
            command = Deliver(subscription.number, front.first, deliveries, again, batch)
            out.append(SendToClient(subscription.client, encode(command, epoch=epoch)))
        return True

    def _read(self, queue: Queue, at: int, end: int, out: list[Action]) -> None:
        """Fetch the batch at ``at`` and some after it, as far as [.., end) is ready. Once half of them are handed out, the next ones
        are fetched, so that consumers need not wait for the store between two rounds."""
        log, budget, read = queue.log, READ_AHEAD_BYTES, list[int]()
        for near in range(at, min(at + READ_AHEAD_BATCHES, len(log.first))):
            first = log.first[near]
            budget -= log.length[near]
            if first >= end or (near > at and budget < 0):
                break
            if log.left[near] and first not in queue.fetching and self.cache.get((queue.number, first)) is None:
                out.append(self._fetch(queue, log, near))
                read.append(first)
        queue.read_on = read[len(read) // 2] if read else NEVER

    def _fetch(self, queue: Queue, log: LogIndex, at: int) -> Fetch:
        place = log.place(at)
        self._token += 1
        queue.fetching[place.first] = self._token
        self._reads[self._token] = (queue, place.first)
        return Fetch(self._token, place.value, place.position, place.length)
