"""One producer's stream to one destination: batches, sequence numbers, what is in flight and what became of it. Pure.

A batch goes out at once if nothing is in flight; otherwise it collects, and leaves when a confirm comes or when it is full.
Each batch of the stream is in one of::

    open       collecting; the last one only                    (no sequence yet)
    closed     full, or followed by another priority            (no sequence yet)
    waiting    in flight list, to be sent (again)               first known
    sent       in flight list, the outcome is unknown           first fixed: only ever sent again unchanged
    refused    in flight list, certainly not stored             first will be another one
    settled    a Receipt or an error; gone from the stream

A server takes only the next sequence. So after a refused batch every later one in flight comes back as OutOfSequence; when all
have come back they are numbered anew from the gap and sent again. That waits for their refusals: a batch whose outcome is unknown
is never numbered anew, else it could be stored twice.

A sequence that a server may hold is never given to another message: two servers that served alone at the same time are merged by
(producer, sequence). Where numbering anew would do so (the server now expects what another one confirmed, or may have stored), the
stream takes a new producer id and begins at 1.

The caller (``Engine``) holds the lock, sends what ``take`` returns and wakes who waits.
"""

import secrets
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.client_protocol import Durability
from zmqha.core.message import PRIORITY_DEFAULT, pack_batch, renumber
from zmqha.errors import OutcomeUnknown, OutOfSequence, ZmqhaError

PRODUCER_BITS = 62  # of an id: enough that two never meet, and it fits every language's integers


def new_producer() -> int:
    """An id that nobody else has."""
    return secrets.randbits(PRODUCER_BITS) + 1


class Receipt(NamedTuple):
    """What a confirm promises about the message."""

    destination: str
    durability: Durability

    @property
    def both_disks(self) -> bool:
        """The message is on both servers' disks (else on one: the server runs alone)."""
        return self.durability is Durability.BOTH_DISKS


class Stage(IntEnum):
    """Where a batch is, see above."""

    OPEN = 0
    CLOSED = 1
    WAITING = 2
    SENT = 3
    REFUSED = 4
    SETTLED = 5


class Batch:
    """Some messages that share one fate."""

    __slots__ = (
        "count", "data", "error", "first", "flags", "priority", "receipt", "records", "request",
        "size", "stage", "stream", "told",
    )  # fmt: skip

    def __init__(self, stream: "Stream", priority: int) -> None:
        self.stream = stream
        self.priority = priority
        self.stage = Stage.OPEN
        self.records: list[bytes] = []  # until it is numbered
        self.count = 0  # from then on
        self.size = 0  # bytes of the records
        self.flags = 0
        self.first = 0
        self.request = 0  # of the SEND that is out
        self.data = b""
        self.receipt: Receipt | None = None
        self.error: ZmqhaError | None = None
        self.told = 0  # messages whose sender was told about the error: threads share a batch

    @property
    def end(self) -> int:
        """The sequence after this batch."""
        return self.first + self.count


class Stream:
    """See above. ``limit_*``: the bounds of one batch and of the number in flight, as the server said."""

    def __init__(self, destination: str, producer: int, ids: Callable[[], int] = new_producer) -> None:
        self.destination = destination
        self.producer = producer  # another one after a divergence
        self._ids = ids
        self._held = 0  # the last sequence under this id that a server may hold: confirmed, or sent in an earlier session
        self.next = 1
        self.in_flight: deque[Batch] = deque()
        self.limit_messages = limits.BATCH_MESSAGES_MAX
        self.limit_bytes = limits.BATCH_BYTES_TARGET
        self.limit_in_flight = limits.BATCHES_IN_FLIGHT
        self.open: Batch | None = None
        self._closed: deque[Batch] = deque()
        self._may_leave = False  # a confirm came: the open batch may go though others are in flight
        self._restart: int | None = None  # a refusal round is on: number anew from here

    @property
    def busy(self) -> bool:
        """Something is not settled yet."""
        return bool(self.in_flight or self._closed or self.open)

    def unsettled(self) -> list[Batch]:
        """Every batch that is not settled, in order."""
        return [*self.in_flight, *self._closed, *([self.open] if self.open else [])]

    def add(self, record: bytes, flags: int, priority: int = PRIORITY_DEFAULT) -> Batch:
        """Take one message; the batch it is in."""
        size = len(record)
        batch = self.open
        if batch is None or batch.priority != priority or batch.size + size > self.limit_bytes:
            self._close()
            batch = self.open = Batch(self, priority)
        batch.records.append(record)
        batch.size += size
        batch.flags |= flags
        if len(batch.records) >= self.limit_messages:
            self._close()
        return batch

    def has_work(self) -> bool:
        """``take`` would return something (or, while a round is on, will soon)."""
        if not self.in_flight:
            return self.open is not None or bool(self._closed)
        return bool(self._closed) and len(self.in_flight) < self.limit_in_flight

    def take(self) -> list[Batch]:
        """What to send now, in this order."""
        if self._restart is not None:
            return []
        batches = [batch for batch in self.in_flight if batch.stage is Stage.WAITING]
        while len(self.in_flight) < self.limit_in_flight:
            if self._closed:
                batch = self._closed.popleft()
            elif self.open is not None and (self._may_leave or not self.in_flight):
                batch, self.open = self.open, None
            else:
                break
            self._may_leave = False
            self._number(batch)
            batches.append(batch)
        for batch in batches:
            batch.stage = Stage.SENT
        return batches

    def confirm(self, up_to: int, durability: int) -> list[Batch]:
        """Everything up to this sequence is stored; the batches that are settled by it."""
        settled: list[Batch] = []
        while self.in_flight and self.in_flight[0].stage is Stage.SENT and self.in_flight[0].end <= up_to + 1:
            batch = self.in_flight.popleft()
            self._settle(batch, receipt=Receipt(self.destination, Durability(durability)))
            settled.append(batch)
            self._held = max(self._held, batch.end - 1)
        self._may_leave = self._may_leave or bool(settled)
        if settled and self._restart is not None:
            self._finish_round()
        return settled

    def refuse(self, batch: Batch, error: ZmqhaError) -> list[Batch]:
        """The server did not store this batch; the batches that are settled by it (none if it will be sent again)."""
        if batch.stage is not Stage.SENT:
            return []
        gap = batch.first
        if isinstance(error, OutOfSequence) and 1 <= error.expected < batch.first:
            gap = error.expected
            batch.stage = Stage.REFUSED
            settled = []
        else:
            if isinstance(error, OutOfSequence):
                error = _contradiction(batch, error)
                self._held = max(self._held, batch.end - 1)
            self.in_flight.remove(batch)
            self._settle(batch, error=error)
            settled = [batch]
        self._restart = gap if self._restart is None else min(gap, self._restart)
        self._finish_round()
        return settled

    def reopen(self) -> None:
        """A new session: everything in flight goes out again, unchanged and in order. Refusals not acted upon will come again."""
        self._restart = None
        for batch in self.in_flight:
            if batch.stage is Stage.SENT:
                self._held = max(self._held, batch.end - 1)
            batch.stage = Stage.WAITING

    def abandon(self, in_doubt: ZmqhaError, unsent: ZmqhaError) -> list[Batch]:
        """The client closes: settle everything, what may be stored with ``in_doubt``, what was never sent with ``unsent``."""
        left = self.unsettled()
        for batch in left:
            self._settle(batch, error=in_doubt if batch.first else unsent)
        self.in_flight.clear()
        self._closed.clear()
        self.open = None
        return left

    def _close(self) -> None:
        if self.open is not None:
            self.open.stage = Stage.CLOSED
            self._closed.append(self.open)
            self.open = None

    def _number(self, batch: Batch) -> None:
        batch.first = self.next
        batch.count = len(batch.records)
        batch.data = pack_batch(
            batch.records,
            producer=self.producer,
            first=batch.first,
            flags=batch.flags,
            priority=batch.priority,
        )
        batch.records = []
        self.next = batch.end
        self.in_flight.append(batch)

    def _finish_round(self) -> None:
        """Number the refused batches anew, once none behind the gap is in doubt."""
        restart = self._restart
        assert restart is not None
        behind = [batch for batch in self.in_flight if batch.first >= restart]
        if any(batch.stage is Stage.SENT for batch in behind):
            return
        if restart <= self._held:
            if len(behind) < len(self.in_flight):
                return  # what is before the gap is confirmed under the old id
            self.producer, self._held, restart = self._ids(), 0, 1
        for batch in behind:
            batch.first = restart
            batch.data = renumber(batch.data, restart, self.producer)
            batch.stage = Stage.WAITING
            restart = batch.end
        self.next = restart
        self._restart = None
        self._may_leave = True

    def _settle(self, batch: Batch, *, receipt: Receipt | None = None, error: ZmqhaError | None = None) -> None:
        batch.count = batch.count or len(batch.records)
        batch.receipt, batch.error = receipt, error
        batch.stage = Stage.SETTLED
        batch.data = b""
        batch.records = []


def _contradiction(batch: Batch, error: OutOfSequence) -> ZmqhaError:
    """The server wants a later sequence than this batch has, yet did not confirm it (it would if it had stored it)."""
    return OutcomeUnknown(
        f"the server expects sequence {error.expected} of this producer, the batch begins with {batch.first}",
        cause=error.what,
        cure="look whether the messages are there before sending them again",
    )
