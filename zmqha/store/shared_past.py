"""What the peer is known to hold of this store: the place from which a divergence is counted.

While a peer streams, every commit is noted, and folded in once a later commit says that the peer holds it. While the peer is away the
folded state stays as it is; of the commits behind it, which the peer may or may not have got, only where queues ended is kept. All that
is written with every epoch's lineage record, so it describes a store as of the last transaction that the peer is known to hold. Older
than true is safe, newer never is.

Driven by ``LmdbStore``; only arithmetic here, so the simulator's store is driven by the same.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import add
from typing import NamedTuple

from zmqha.core.branch import NO_PAST, Past, PastCommit, PastQueue
from zmqha.core.work import CursorRow, DestinationRow, StoredLog, StoreImage, Work

NOTES_MAX = 4096  # commits that the peer may lag behind, twice what a copy's backlog may hold; above it the past stays frozen
UNSURE_MAX = 64  # of them are written down: far more than a window of shipments


class _Note(NamedTuple):
    """What one commit changed; a whole one is a store as it stands."""

    txn: int
    last_value: int
    tails: dict[int, int]
    destinations: tuple[DestinationRow, ...]
    cursors: tuple[CursorRow, ...]
    dropped: tuple[int, ...]
    whole: "_State | None" = None


class _State:
    """A store without its messages."""

    def __init__(self) -> None:
        self.txn = 0
        self.last_value = 0
        self.destinations: dict[int, DestinationRow] = {}
        self.cursors: dict[int, CursorRow] = {}
        self.tails: dict[int, int] = {}

    def apply(self, note: _Note) -> None:
        self.txn = note.txn
        self.last_value = max(self.last_value, note.last_value)
        self.tails.update(note.tails)
        for row in note.destinations:
            self.destinations[row.number] = row
        for cursor in note.cursors:
            self.cursors[cursor.destination] = cursor
        for number in note.dropped:
            for rows in (self.destinations, self.cursors, self.tails):
                rows.pop(number, None)

    def copy(self) -> "_State":
        twin = _State()
        twin.txn, twin.last_value = self.txn, self.last_value
        twin.destinations, twin.cursors, twin.tails = self.destinations.copy(), self.cursors.copy(), self.tails.copy()
        return twin

    def past(self) -> Past:
        none = CursorRow(0, 0, (), ())
        queues = []
        for number, row in self.destinations.items():
            cursor = self.cursors.get(number, none)
            queues.append(PastQueue(*row, self.tails.get(number, 0), cursor.floor, cursor.done))
        return Past(self.txn, self.last_value, tuple(queues))


class SharedPast:
    """Of an open store."""

    def __init__(self) -> None:
        self.row = NO_PAST  # what the newest lineage record says
        self._now = _State()
        self._known: _State | None = None  # what ``row`` says, while it can be moved on
        self._notes: deque[_Note] = deque()
        self._noting = False

    def opened(self, image: StoreImage, txn: int, row: Past, *, written_by_peer: bool) -> None:
        """A store as it is opened. What the peer wrote, it holds."""
        now = self._now = _State()
        now.txn, now.last_value = txn, image.last_value
        now.destinations = {row.number: row for row in image.destinations}
        now.cursors = {cursor.destination: cursor for cursor in image.cursors}
        now.tails = {cursor.destination: max((cursor.floor, *(end for _, end in cursor.done))) for cursor in image.cursors}
        log = StoredLog.of(image.log)
        ends = dict(
            zip(log.destination, map(add, log.offset, log.count), strict=True)
        )  # of a queue the last one counts: they rise
        for number, end in ends.items():
            now.tails[number] = max(end, now.tails.get(number, 0))
        self._notes.clear()
        self._noting, self._known = False, None
        self.row = now.past() if written_by_peer else row

    def copied(self, txn: int) -> None:
        """A copy of this store as of ``txn``, its newest transaction, is handed out: from here on the peer may hold everything."""
        whole = self._now.copy()
        whole.txn = txn
        self._notes.clear()
        self._notes.append(_Note(txn, 0, {}, (), (), (), whole))
        self._noting = True

    def committed(self, txn: int, work: Work) -> None:
        """A commit of ours."""
        tails = {append.destination: append.offset + append.count for append in work.appends}
        note = _Note(txn, work.value, tails, work.destinations, work.cursors, work.dropped_destinations)
        self._now.apply(note)
        if not self._noting:
            return
        self._notes.append(note)
        if len(self._notes) > NOTES_MAX:
            self.settle()
            self._notes.clear()
            self._noting, self._known = False, None

    def peer_holds(self, txn: int) -> None:
        """The peer has made this transaction durable (0: it is not known to follow)."""
        while self._notes and self._notes[0].txn <= txn:
            note = self._notes.popleft()
            if note.whole is not None:
                self._known = note.whole
            elif self._known is not None:
                self._known.apply(note)

    def settle(self) -> Past:
        """``row``, brought up to what the peer is known to hold, with what it may hold beyond that."""
        if self._known is not None and self._known.txn >= self.row.txn:
            self.row = self._known.past()._replace(unsure=tuple(self._unsure()))
        return self.row

    def _unsure(self) -> Iterator[PastCommit]:
        for note in islice(self._notes, UNSURE_MAX):
            if note.whole is not None:
                return
            yield PastCommit(note.txn, note.last_value, tuple(note.tails.items()))
