"""The winner's side of a merge: take in what the loser of a divergence holds, one item a turn, confirmed once it is durable.

Rules:

- A batch is known by its producer and sequences. What is at or below the producer's row is skipped, the rest goes to the tail of the
  queue of that name and the row moves to its end; gaps are accepted here. Order across the two branches cannot be recovered.
- Limits of a queue refuse no merged message; a disk that is nearly full makes the merge wait.
- An acknowledgement counts where the queue is the same one (name and number) and the message is ready here, never in flight.
- Nothing else is done to queues but creating those that hold messages. What an operator did there and not here goes to the report.

Everything is idempotent: a loser that is not sure begins again. The report is written in the transactions that it speaks of, or in one
right after. ``Service`` owns this machine, ``Broker`` hands it the loser's messages; it works at the desk.
"""

from collections import deque

import xxhash

from zmqha.core.actions import Note, SendBulk
from zmqha.core.branch import Difference
from zmqha.core.commits import AcceptedSend, MergeMark
from zmqha.core.contact import LONG_AGO
from zmqha.core.desk import Desk
from zmqha.core.limits import MERGE_REPORTS
from zmqha.core.merge_report import MergedRange, MergeReport, QueueReport
from zmqha.core.message import check_name, cut, merged, read_head
from zmqha.core.outbox import Outbox
from zmqha.core.peer_protocol import NO_SESSION, Salvage, SalvageBegin, Salvaged, SalvageEnd, Session
from zmqha.core.queues import Queue
from zmqha.core.ranges import Range
from zmqha.errors import BadName, ProtocolError

TELL_MS = 250  # how often the loser is told where nothing changes: it waits for that (``salvage.STALL_MS``)


class _Item:
    """A whole item; one without a message is the end."""

    __slots__ = ("data", "index", "message")

    def __init__(self, index: int, message: Salvage | None = None, data: bytes = b"") -> None:
        self.index = index
        self.message = message
        self.data = data


class Merge(Outbox[SendBulk | Note]):
    """Takes in one branch at a time."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.forget()

    def forget(self) -> None:
        """A term of being active is over, or what was taken in is out again."""
        self._accepted: MergeReport | None = None  # newest report handed to a commit; another attempt goes on from it
        self.clear()

    def clear(self) -> None:
        """No loser any more, or another attempt."""
        self._route: bytes | None = None
        self._asked = (NO_SESSION, NO_SESSION, 0)  # session, own session, attempt
        self._taken = self._durable = 0
        self._told_ms = LONG_AGO
        self._pieces: list[bytes] = []
        self._items: deque[_Item] = deque()  # bounded by the loser's window
        self._differences: list[Difference] = []
        self._seen: dict[str, int] = {}  # messages of this attempt by queue
        self._report: MergeReport | None = None
        self._rows: dict[str, QueueReport] = {}  # of the report

    @property
    def pending(self) -> bool:
        """Is there an item that can be taken in now."""
        return bool(self._items) and self._desk.hold is None and self._desk.refusal is None

    # --- the loser ----------------------------------------------------------------------------------------------------------

    def begin(self, sender: bytes, message: SalvageBegin, loser: str, now_ms: int, wall_ms: int) -> None:
        """The loser asks, perhaps again. The caller has checked both sessions."""
        asked = (message.session, message.to_session, message.attempt)
        if asked[:2] == self._asked[:2] and message.attempt < self._asked[2]:
            return  # sat in the kernel of a path that was cut
        if asked != self._asked or sender != self._route:
            self.clear()
            self._asked, self._route = asked, sender
            self._report = self._report_of(message, loser, wall_ms)
            self._rows = {row.name: row for row in self._report.queues}
            for queue in self._desk.queues.by_number.values():
                queue.cursor.mistrust()  # the loser may have delivered what both hold
            self.note("merge.begin", loser=loser, branch=message.branch.counter, common_txn=message.common_txn)
        self._tell(now_ms)

    def hear(self, sender: bytes, message: Salvage | SalvageEnd, frames: tuple[bytes, ...]) -> None:
        """An item, or a piece of one. Raises ProtocolError for what is not in the grammar; then the loser will begin again."""
        if sender != self._route or (message.session, message.to_session, message.attempt) != self._asked:
            return
        if message.index != self._taken + 1:
            return  # something before it was lost
        if isinstance(message, SalvageEnd):
            self._taken = message.index
            self._items.append(_Item(message.index))
            return
        if len(frames) != 1:
            raise ProtocolError(f"Salvage with {len(frames)} byte frames")
        if xxhash.xxh3_64_intdigest(frames[0]) != message.digest:
            raise ProtocolError("a salvaged piece does not match its checksum")
        if message.piece == 0:
            self._pieces = []
        if message.piece != len(self._pieces) or message.piece >= message.pieces:
            return
        self._pieces.append(frames[0])
        if message.piece == message.pieces - 1:
            data, self._pieces = b"".join(self._pieces), []
            _check(message, data)
            self._taken = message.index
            self._items.append(_Item(message.index, message, data))

    def gone(self, session: Session) -> None:
        """The peer's session is this one now: what an earlier one began is over."""
        if self._route is not None and session != self._asked[0]:
            self.clear()

    # --- time and the disks -------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Take in one item; tell the loser now and then."""
        if self._route is None:
            return
        if self.pending:
            item = self._items.popleft()
            self._take(item)
            report = self._accepted = self._present()._replace(queues=tuple(self._rows.values()))
            self._desk.commits.mark(MergeMark(self._asked, item.index, report, end=item.message is None))
            self._tell(now_ms)
        elif now_ms - self._told_ms >= TELL_MS:
            self._tell(now_ms)

    def released(self, mark: MergeMark) -> None:
        """Everything up to this mark is durable."""
        self._remember(mark.report)
        if mark.attempt != self._asked:
            return  # it is over
        self._durable = mark.item
        self._told_ms = LONG_AGO
        if mark.end:
            report = mark.report
            self.note(
                "merge.done", loser=report.loser, branch=report.branch.counter, common_txn=report.common_txn, merged=report.merged,
                known=sum(queue.known for queue in report.queues), acknowledged=sum(queue.acknowledged for queue in report.queues),
                audit=len(report.audit) + report.audit_left_out,
            )  # fmt: skip

    def undone(self) -> None:
        """The store was full: items taken in are out again. The loser hears nothing any more and begins again."""
        self.forget()

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _report_of(self, message: SalvageBegin, loser: str, wall_ms: int) -> MergeReport:
        newest = [self._accepted] if self._accepted is not None else []
        for report in (*newest, *self._desk.reports):
            if (report.loser, report.branch) == (loser, message.branch):
                return report
        number = self._desk.reports[-1].number + 1 if self._desk.reports else 1
        server, epoch = self._desk.settings.server, self._desk.epoch.counter
        return MergeReport(number, wall_ms, server, epoch, loser, message.branch, message.common_txn)

    def _remember(self, report: MergeReport) -> None:
        kept = [each for each in self._desk.reports if each.number != report.number]
        self._desk.reports = sorted([*kept, report], key=lambda each: each.number)[-MERGE_REPORTS:]

    def _take(self, item: _Item) -> None:
        message = item.message
        if message is None:
            self._end()
            return
        self._differences += message.differences
        at = 0
        for name, length in message.batches:
            self._insert(name, item.data[at : at + length])
            at += length
        if message.done is not None:
            self._acknowledge(*message.done)

    def _insert(self, name: str, batch: bytes) -> None:
        desk, head = self._desk, read_head(batch)
        self._seen[name] = self._seen.get(name, 0) + head.count
        queue = desk.queues.by_name.get(name)
        sequence = desk.producers.find(head.producer, queue.number if queue is not None else 0)
        known = min(head.count, max(0, sequence.accepted + 1 - head.first))
        if known == head.count:
            return
        if queue is None:
            queue = self._create(name)
        first, count = head.first + known, head.count - known
        marked = merged(cut(batch, head, known, head.count), self._present().branch.counter)
        if sequence.accepted == 0:
            desk.producers.keep(head.producer, queue.number, sequence)
        queue.expect(count, len(marked))
        send = AcceptedSend(
            b"", 0, queue, sequence, producer=head.producer, first=first, count=count, batch=marked, before=sequence.accepted
        )  # fmt: skip
        sequence.accepted = head.next - 1
        desk.commits.accept(send)
        self._report = self._present().with_range(MergedRange(name, head.producer, first, head.next - 1))
        self._count(name, merged=count)

    def _create(self, name: str) -> Queue:
        """With the limits it has there, if it is new there; else it was removed here."""
        queue = self._desk.create(name, beyond=True)
        there = next((each for each in self._differences if (each.kind, each.name) == ("created", name)), None)
        if there is None:
            self._audit(f"queue {name} was removed here and got messages there: it is created again")
        else:
            queue.max_messages, queue.max_bytes = there.max_messages, there.max_bytes
        return queue

    def _acknowledge(self, number: int, name: str, ranges: tuple[Range, ...]) -> None:
        desk, queue = self._desk, self._desk.queues.by_name.get(name)
        if queue is None or queue.number != number:
            self._audit(f"queue {name} was removed here, messages of it were acknowledged there")
            return
        taken, finished = queue.finish_ready(ranges)
        if not taken:
            return
        desk.commits.touch(queue)
        for first, value in finished:
            desk.delivery.cache.drop((queue.number, first))
            desk.values.finish(value)
        desk.delivery.wake(queue)
        self._count(name, acknowledged=taken)

    def _end(self) -> None:
        queues = self._desk.queues.by_name
        for kind, name, max_messages, max_bytes in self._differences:
            here = queues.get(name)
            there = f"{max_messages or 'default'} messages, {max_bytes or 'default'} bytes"
            differs = here is not None and (here.max_messages, here.max_bytes) != (max_messages, max_bytes)
            if kind == "removed" and here is not None:
                self._audit(f"queue {name} was removed there; it stays here")
            elif kind == "created" and here is None:
                self._audit(f"queue {name} was created there (limits: {there}) and holds nothing: not created here")
            elif kind != "removed" and differs:
                self._audit(f"queue {name} has other limits there: {there}; here they stay")
            elif kind == "limits" and here is None:
                self._audit(f"queue {name} got other limits there ({there}) and was removed here")
        for name, seen in self._seen.items():
            row = self._rows.get(name, QueueReport(name, 0, 0, 0))
            self._rows[name] = row._replace(known=max(0, seen - row.merged))
        self._report = self._present()._replace(finished=True)

    def _count(self, name: str, *, merged: int = 0, acknowledged: int = 0) -> None:
        row = self._rows.get(name, QueueReport(name, 0, 0, 0))
        self._rows[name] = row._replace(merged=row.merged + merged, acknowledged=row.acknowledged + acknowledged)

    def _present(self) -> MergeReport:
        assert self._report is not None
        return self._report

    def _audit(self, line: str) -> None:
        self._report = self._present().with_audit(line)

    def _tell(self, now_ms: int) -> None:
        self._told_ms = now_ms
        if self._route is not None:
            theirs, mine, attempt = self._asked
            self.actions.append(SendBulk(self._route, Salvaged(mine, theirs, attempt, self._taken, self._durable)))

    def note(self, event: str, **fields: object) -> None:
        self.actions.append(Note(event, tuple(fields.items())))


def _check(message: Salvage, data: bytes) -> None:
    """Raise ProtocolError for an item that cannot be taken in: nothing of it may be, then."""
    at = 0
    view = memoryview(data)
    for name, length in message.batches:
        try:
            check_name(name)
        except BadName as error:
            raise ProtocolError(f"a salvaged batch for {error.what}") from error
        read_head(view[at : at + length])
        at += length
    if at != len(data):
        raise ProtocolError("salvaged batches are not as long as they say")
