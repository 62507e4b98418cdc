"""What one branch of a divergence holds that the other may lack: values, and the arithmetic that selects them. Pure.

The *past* is what a store remembers of the last transaction that its peer is known to hold (``store.shared_past`` keeps it). What the
loser of a divergence hands over is counted from there: messages stored since and not done, acknowledgements of messages from before,
and differences of queues. An older past than the true one selects more, never less; whatever the winner knows already is skipped
there by (producer, sequence).

``store.salvage`` reads the items from a kept store, ``salvage`` sends them, ``merge`` takes them in.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.ranges import Range, RangeSet
from zmqha.core.work import CursorRow, DestinationRow, Stored


class PastQueue(NamedTuple):
    """A queue as it was then; what is below ``tail`` was stored, what is below ``floor`` or in ``done`` was done."""

    number: int
    name: str
    max_messages: int
    max_bytes: int
    tail: int
    floor: int
    done: tuple[Range, ...]


class PastCommit(NamedTuple):
    """A commit that the peer was sent and may hold; ``tails``: (queue, where it ended then) of those that grew."""

    txn: int
    last_value: int
    tails: tuple[tuple[int, int], ...]


class Past(NamedTuple):
    """A store as of transaction ``txn``; ``last_value`` is its newest log value. ``unsure`` is what came right behind."""

    txn: int
    last_value: int
    queues: tuple[PastQueue, ...]
    unsure: tuple[PastCommit, ...] = ()

    def newest_value(self, in_log: int) -> int:
        """Above which new log values are numbered; ``in_log`` is the newest that is still in the log.

        One with a number from before the fork would not be handed over in a merge.
        """
        return max(in_log, self.last_value, *(commit.last_value for commit in self.unsure))


NO_PAST = Past(0, 0, ())


class Difference(NamedTuple):
    """What happened to a queue on the branch: ``created``, ``removed`` or ``limits`` (changed)."""

    kind: str
    name: str
    max_messages: int
    max_bytes: int


class Differences(NamedTuple):
    """An item of a salvage."""

    differences: tuple[Difference, ...]


class Done(NamedTuple):
    """An item of a salvage: messages from before the fork that were acknowledged on the branch."""

    number: int
    name: str
    ranges: tuple[Range, ...]


class Batches(NamedTuple):
    """An item of a salvage: batches back to back, each with the queue it was stored in and its length."""

    entries: tuple[tuple[str, int], ...]
    data: bytes


Item = Differences | Done | Batches


def salvage_bytes(item: Item) -> int:
    """What an item counts for in the window."""
    return len(item.data) if isinstance(item, Batches) else limits.KIB


class QueueCount(NamedTuple):
    """How much of a queue a branch has to hand over."""

    name: str
    messages: int
    acknowledged: int


class Survey(NamedTuple):
    """What a branch would hand over. Whether the other side knows it already cannot be told here."""

    common_txn: int
    queues: tuple[QueueCount, ...]
    differences: tuple[Difference, ...]


def past_of(past: Past, common_txn: int) -> Past:
    """What to count from. Where both agree on less than the past says, the peer's disk is older than it was: nothing is certain.
    Where they agree on more, the peer had acknowledged more than was heard here."""
    if common_txn < past.txn:
        return NO_PAST
    tails = {queue.number: queue.tail for queue in past.queues}
    for commit in past.unsure:
        if commit.txn <= common_txn:
            tails.update(commit.tails)
            past = past._replace(txn=commit.txn, last_value=max(past.last_value, commit.last_value))
    return past._replace(queues=tuple(queue._replace(tail=tails[queue.number]) for queue in past.queues), unsure=())


def differences(past: Past, destinations: Iterable[DestinationRow]) -> Iterator[Difference]:
    """Queues created, removed, or given other limits since."""
    before = {queue.number: queue for queue in past.queues}
    for row in destinations:
        old = before.pop(row.number, None)
        if old is None:
            yield Difference("created", row.name, row.max_messages, row.max_bytes)
        elif (old.max_messages, old.max_bytes) != (row.max_messages, row.max_bytes):
            yield Difference("limits", row.name, row.max_messages, row.max_bytes)
    for old in before.values():
        yield Difference("removed", old.name, old.max_messages, old.max_bytes)


def acknowledged(past: Past, destinations: Iterable[DestinationRow], cursors: dict[int, CursorRow]) -> Iterator[Done]:
    """What was stored before and is done since, in pieces that fit one message."""
    before = {queue.number: queue for queue in past.queues}
    for row in destinations:
        old, cursor = before.get(row.number), cursors.get(row.number)
        if old is None or cursor is None or old.name != row.name:
            continue
        then = RangeSet(old.done)
        floor = then.absorb(old.floor)
        done = [piece for first, end in _done_below(cursor, old.tail) for piece in then.gaps(max(first, floor), end)]
        for at in range(0, len(done), limits.RANGES_PER_FRAME):
            yield Done(row.number, row.name, tuple(done[at : at + limits.RANGES_PER_FRAME]))


def _done_below(cursor: CursorRow, tail: int) -> Iterator[Range]:
    for first, end in ((0, cursor.floor), *cursor.done):
        if first < min(end, tail):
            yield first, min(end, tail)


def items_of(told: list[Difference], done: Iterable[Done], batches: Iterable[tuple[str, bytes]]) -> Iterator[Item]:
    """Everything, in pieces that fit one message: small batches together, a large one alone."""
    for at in range(0, len(told), limits.DIFFERENCES_PER_FRAME):
        yield Differences(tuple(told[at : at + limits.DIFFERENCES_PER_FRAME]))
    yield from done
    entries: list[tuple[str, int]] = []
    held: list[bytes] = []
    size = 0
    for name, batch in batches:
        if size and size + len(batch) > limits.SALVAGE_BYTES_TARGET:
            yield Batches(tuple(entries), b"".join(held))
            entries, held, size = [], [], 0
        entries.append((name, len(batch)))
        held.append(batch)
        size += len(batch)
    if held:
        yield Batches(tuple(entries), b"".join(held))


class Undone:
    """Which messages of a queue are not done."""

    def __init__(self, cursor: CursorRow | None) -> None:
        self._done = RangeSet(cursor.done if cursor is not None else ())
        self._floor = self._done.absorb(cursor.floor if cursor is not None else 0)

    def of(self, stored: Stored) -> list[Range]:
        """Of a batch, counted from its first."""
        first, end = stored.offset, stored.offset + stored.count
        return [(low - first, high - first) for low, high in self._done.gaps(max(first, self._floor), end)]
