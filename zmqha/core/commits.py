"""What waits for a commit, and what waits for a commit to become durable: one ``Ticket`` per ``Work``.

Everything but a send is kept as *what changed* (queues whose cursor or row moved); a Work takes the state as it is then, and a
Work that was undone only marks its queues as changed again. A send is kept as it is, gets its offset when a Work takes it, and is
refused when that Work is undone. Replies ride along and leave in ``Service.released``.

Sends never wait. Nobody waits for an acknowledgement to be recorded: while sends flow it waits a moment for one, to share its commit;
otherwise such commits are spaced, so that a quick consumer costs a hundred of them a second and not as many as the disks can do.
"""

from collections import deque
from itertools import accumulate
from typing import NamedTuple

from zmqha.core.client_protocol import Acked, Reply
from zmqha.core.contact import LONG_AGO
from zmqha.core.log_index import ValueTable
from zmqha.core.merge_report import MergeReport
from zmqha.core.producers import Pair, Producers, Sequence
from zmqha.core.queues import Queue
from zmqha.core.work import Append, CursorRow, DestinationRow, ProducerRow, Work

COMPANY_MS = 3  # what nobody waits for waits this long for a send to share its commit: about what a lone commit takes
SPACING_MS = 10  # from one commit to the next of what nobody waits for; after a takeover so much may come again
FLOW_MS = 20  # sends flow: one was on its way to the disks less than this ago
DROPPED_PRODUCERS_MAX = 64  # rows deleted in one transaction: each may lie on a page of its own
DROPPED_VALUES_MAX = 4096  # log values deleted in one transaction: a purged queue goes in pieces, not in one long stall


class AcceptedSend:
    """A batch on its way into the store."""

    __slots__ = ("batch", "before", "client", "count", "first", "offset", "producer", "queue", "request", "sequence")

    def __init__(
        self,
        client: bytes,
        request: int,
        queue: Queue,
        sequence: Sequence,
        *,
        producer: int,
        first: int,
        count: int,
        batch: bytes,
        before: int = -1,
    ) -> None:
        self.client = client
        self.request = request
        self.queue = queue
        self.sequence = sequence
        self.producer = producer
        self.first = first
        self.count = count
        self.batch = batch
        self.before = before if before >= 0 else first - 1  # what is accepted, should this one be undone
        self.offset = -1  # none yet


class Answer(NamedTuple):
    """A reply that may leave once what it says is durable."""

    client: bytes
    request: int
    command: Acked | Reply


class Duplicate(NamedTuple):
    """A batch sent again while its earlier copy is on its way: confirmed with it, up to ``last``."""

    client: bytes
    request: int
    queue: Queue
    sequence: Sequence
    producer: int
    last: int


class MergeMark(NamedTuple):
    """Items of an attempt to merge up to ``item`` are accepted; the report that goes with them. ``end``: it was the last."""

    attempt: object
    item: int
    report: MergeReport
    end: bool


class Ticket:
    """What a Work holds, and who waits for it."""

    __slots__ = (
        "answers", "described", "dropped_producers", "dropped_queues", "dropped_values", "duplicates", "hurries", "marks", "number",
        "sends", "touched", "value",
    )  # fmt: skip

    def __init__(self) -> None:
        self.number = 0
        self.value = 0
        self.sends: list[AcceptedSend] = []
        self.touched: dict[int, Queue] = {}  # cursor moved
        self.described: dict[int, Queue] = {}  # row is new or changed
        self.dropped_queues: list[int] = []
        self.dropped_values: tuple[int, ...] = ()
        self.dropped_producers: tuple[Pair, ...] = ()
        self.answers: list[Answer] = []
        self.hurries = False  # an operator waits for one of them
        self.duplicates: list[Duplicate] = []
        self.marks: list[tuple[int, MergeMark]] = []  # (sends accepted by then, mark)

    def describes(self) -> bool:
        return bool(self.touched or self.described or self.dropped_queues or self.marks)


class Commits:
    """The line from accepted to durable."""

    __slots__ = (
        "_accepted", "_alone_ms", "_last_number", "_last_send_ms", "_last_value", "_next", "_outstanding", "_producers", "_sends",
        "_taken_ms", "_values", "company_ms", "waiting_bytes",
    )  # fmt: skip

    def __init__(self, values: ValueTable, producers: Producers, last_value: int) -> None:
        self._values = values
        self._producers = producers
        self._last_value = last_value
        self._last_number = 0
        self._sends: deque[AcceptedSend] = deque()
        self._accepted = 0  # sends ever
        self._next = Ticket()  # everything but sends
        self._outstanding: deque[Ticket] = deque()
        self._last_send_ms = LONG_AGO  # when one was last seen waiting or on its way
        self._alone_ms: int | None = None  # since when only acknowledgements and the like wait
        self._taken_ms = LONG_AGO  # when the last Work was taken
        self.company_ms: int | None = None  # when what waits for company, or for its time, goes; None if nothing does
        self.waiting_bytes = 0

    # --- filling ------------------------------------------------------------------------------------------------------------

    def accept(self, send: AcceptedSend) -> None:
        self._sends.append(send)
        self._accepted += 1
        self.waiting_bytes += len(send.batch)

    def touch(self, queue: Queue) -> None:
        """Its cursor moved."""
        self._next.touched[queue.number] = queue

    def describe(self, queue: Queue) -> None:
        """It is new, or its limits changed."""
        self._next.described[queue.number] = queue

    def drop(self, queue: Queue) -> list[AcceptedSend | Duplicate]:
        """It is removed; the sends to it that no Work took, and the duplicates that waited for them."""
        self._next.touched.pop(queue.number, None)
        self._next.described.pop(queue.number, None)
        self._next.dropped_queues.append(queue.number)
        left = [send for send in self._sends if send.queue is queue]
        if left:
            self._forget_marked(queue)
            self._sends = deque(send for send in self._sends if send.queue is not queue)
            self.waiting_bytes -= sum(len(send.batch) for send in left)
        for send in reversed(left):
            send.sequence.accepted = send.before
        waiting = self._next.duplicates
        orphans = [each for each in waiting if each.queue is queue and each.last > each.sequence.accepted]
        self._next.duplicates = [each for each in waiting if each not in orphans]
        return [*left, *orphans]

    def _forget_marked(self, queue: Queue) -> None:
        """The sends to it go: a mark counts only those before it that stay."""
        taken = self._accepted - len(self._sends)
        gone = list(accumulate((send.queue is queue for send in self._sends), initial=0))
        self._next.marks = [(at - gone[max(0, at - taken)], mark) for at, mark in self._next.marks]
        self._accepted -= gone[-1]

    def mark(self, mark: MergeMark) -> None:
        """Tell when everything accepted so far is durable, and write the report with it."""
        self._next.marks.append((self._accepted, mark))

    def answer_later(self, answer: Answer) -> bool:
        """Keep an answer until everything so far is durable; False if it is already."""
        ticket = self._newest()
        if ticket is None:
            return False
        ticket.answers.append(answer)
        ticket.hurries = ticket.hurries or isinstance(answer.command, Reply)
        return True

    def confirm_later(self, duplicate: Duplicate) -> bool:
        """Keep the confirm of a duplicate until everything so far is durable; False if it is already."""
        ticket = self._newest()
        if ticket is None:
            return False
        ticket.duplicates.append(duplicate)
        return True

    def _newest(self) -> Ticket | None:
        if self._sends or self._next.describes():
            return self._next
        return self._outstanding[-1] if self._outstanding else None

    # --- draining -----------------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is on its way (log values to be dropped do not count)."""
        return not (self._sends or self._outstanding or self._next.describes())

    def _goes_ms(self, since_ms: int) -> int:
        """When what nobody waits for, and no send with it, is to be taken; it has waited since then.

        A commit of its own would stand between two of sends. While a send is on its way the next one is about to come: most producers
        send it when they see the confirm.
        """
        ticket = self._next
        if ticket.hurries or ticket.described or ticket.dropped_queues or ticket.marks:
            return LONG_AGO  # at once
        if since_ms - self._last_send_ms < FLOW_MS:
            return max(self._last_send_ms, since_ms) + COMPANY_MS
        return self._taken_ms + SPACING_MS

    def take(self, max_bytes: int, now_ms: int) -> Work | None:
        """The next group commit; None if nothing waits, or only what waits for company or for its time."""
        ticket, sends = self._next, bool(self._sends)
        self.company_ms = None
        if sends or any(each.sends for each in self._outstanding):
            self._last_send_ms = now_ms
        if not (sends or self._values.waiting or ticket.describes()):
            self._alone_ms = None
            return None
        if not sends:
            if self._alone_ms is None:
                self._alone_ms = now_ms
            goes_ms = self._goes_ms(self._alone_ms)
            if now_ms < goes_ms:
                self.company_ms = goes_ms
                return None
        self._alone_ms = None
        if self._values.waiting:
            ticket.dropped_values = self._values.collect(DROPPED_VALUES_MAX)
            if not (sends or ticket.dropped_values or ticket.describes()):
                return None
        self._next = Ticket()
        self._taken_ms = now_ms
        self._last_number += 1
        ticket.number = self._last_number
        appends, producers, size = self._take_sends(ticket, max_bytes)
        if appends:
            self._last_value += 1
            ticket.value = self._last_value
        if self._sends and ticket.duplicates:
            self._next.duplicates, ticket.duplicates = ticket.duplicates, []
        if self._sends and ticket.marks:
            taken = self._accepted - len(self._sends)
            self._next.marks = [each for each in ticket.marks if each[0] > taken]
            ticket.marks = [each for each in ticket.marks if each[0] <= taken]
        ticket.dropped_producers = self._producers.collect(DROPPED_PRODUCERS_MAX)
        self._outstanding.append(ticket)
        return Work(
            ticket.number, ticket.value, tuple(appends), _cursor_rows(ticket), producers, _destination_rows(ticket),
            tuple(ticket.dropped_queues), ticket.dropped_values, size,
            tuple({mark.report.number: mark.report for _, mark in ticket.marks}.values()),
            ticket.dropped_producers,
        )  # fmt: skip

    def _take_sends(self, ticket: Ticket, max_bytes: int) -> tuple[list[Append], tuple[ProducerRow, ...], int]:
        appends: list[Append] = []
        rows: dict[tuple[int, int], ProducerRow] = {}
        size, sends = 0, self._sends
        while sends:
            send = sends[0]
            length = len(send.batch)
            if size and size + length > max_bytes:
                break
            sends.popleft()
            size += length
            queue = send.queue
            send.offset = queue.tail
            queue.tail += send.count
            appends.append(Append(queue.number, send.offset, send.count, send.batch))
            rows[send.producer, queue.number] = ProducerRow(send.producer, queue.number, send.first + send.count - 1)
            ticket.sends.append(send)
        self.waiting_bytes -= size
        return appends, tuple(rows.values()), size

    def released(self, number: int) -> list[Ticket]:
        """The tickets up to ``number``, oldest first."""
        done = []
        while self._outstanding and self._outstanding[0].number <= number:
            done.append(self._outstanding.popleft())
        return done

    def undo(self, number: int) -> tuple[list[AcceptedSend], list[Duplicate]]:
        """The store applied no Work from ``number`` on: the sends in them and after them, oldest first, are out (offsets and
        sequences are as before them) with the duplicates that waited; everything else waits for the next Work again."""
        refused: list[AcceptedSend] = list(self._sends)
        duplicates = self._next.duplicates
        self._next.duplicates = []
        self._next.marks = []
        self._sends.clear()
        self.waiting_bytes = 0
        while self._outstanding and self._outstanding[-1].number >= number:
            ticket = self._outstanding.pop()
            refused[:0] = ticket.sends
            duplicates[:0] = ticket.duplicates
            if ticket.value:
                self._last_value = ticket.value - 1
            self._wait_again(ticket)
        for send in reversed(refused):  # the oldest of each has the last word
            send.sequence.accepted = send.before
            if not send.before:
                self._producers.take_back(send.producer, send.queue.number)
            send.queue.forget_expected(send.count, len(send.batch))
            if send.offset >= 0:
                send.queue.tail = send.offset
        return refused, duplicates

    def stranded(self) -> list[Answer]:
        """After ``undo``: answers that no Work will carry, because what they say is durable already."""
        if self._next.describes():
            return []
        answers, self._next.answers = self._next.answers, []
        if self._outstanding:
            self._outstanding[-1].answers += answers
            return []
        return answers

    def _wait_again(self, ticket: Ticket) -> None:
        waiting = self._next
        waiting.touched.update((number, queue) for number, queue in ticket.touched.items() if not queue.removed)
        waiting.described.update((number, queue) for number, queue in ticket.described.items() if not queue.removed)
        waiting.dropped_queues[:0] = ticket.dropped_queues
        waiting.answers[:0] = ticket.answers
        self._values.put_back(ticket.dropped_values)
        self._producers.put_back(ticket.dropped_producers)


def _cursor_rows(ticket: Ticket) -> tuple[CursorRow, ...]:
    return tuple([queue.cursor.row(number) for number, queue in ticket.touched.items()])


def _destination_rows(ticket: Ticket) -> tuple[DestinationRow, ...]:
    return tuple([queue.row() for queue in ticket.described.values()])
