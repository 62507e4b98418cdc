"""A branch as it is read for a merge: LMDB, read-only, a closed and settled store. What is selected is ``core.branch``'s business.

``survey`` counts, ``items`` reads the same piece by piece: differences of queues, acknowledgements, then batches in the order of the
log, small ones together. Driven by the store thread; nobody writes the file meanwhile.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from zmqha.core.branch import (
    NO_PAST,
    Difference,
    Done,
    Item,
    Past,
    QueueCount,
    Survey,
    Undone,
    acknowledged,
    differences,
    items_of,
    past_of,
)
from zmqha.core.message import cut, stored_head
from zmqha.core.work import CursorRow, DestinationRow, Stored
from zmqha.store import lmdb_store, records
from zmqha.store.alive import nobody_waits, rows
from zmqha.store.log_values import LOG, PARTS, LogValues


class Branch:
    """An open one. ``common_txn`` is the last transaction that both sides hold."""

    def __init__(self, path: Path, common_txn: int, alive: Callable[[], None] = nobody_waits) -> None:
        self._common_txn = common_txn
        self._alive = alive
        self._names: dict[int, DestinationRow] = {}
        self._cursors: dict[int, CursorRow] = {}
        self._env = lmdb_store.open_reading(path)
        self._txn = self._env.begin(buffers=True)
        try:
            self._past = self._read_state()
        except BaseException:
            self.close()
            raise

    def _read_state(self) -> Past:
        """All but the messages."""
        past = NO_PAST
        self._log = self._env.open_db(LOG, txn=self._txn, create=False)
        self._parts = self._env.open_db(PARTS, txn=self._txn, create=False)
        state = self._env.open_db(b"state", txn=self._txn, create=False)
        for key, raw in rows(self._txn.cursor(db=state), self._alive):
            kind = bytes(key[:1])
            if kind == records.DESTINATION:
                row = records.read_destination(raw)
                self._names[row.number] = row
            elif kind == records.CURSOR:
                cursor = records.read_cursor(raw)
                self._cursors[cursor.destination] = cursor
            elif kind == records.PAST:
                past = records.read_past(raw)
        return past_of(past, self._common_txn)

    def close(self) -> None:
        """Let go of the file."""
        self._txn.abort()
        self._env.close()

    def survey(self) -> Survey:
        """How much there is to hand over."""
        messages: dict[str, int] = {}
        for name, _, start, stop in self._pieces():
            messages[name] = messages.get(name, 0) + stop - start
        done: dict[str, int] = {}
        for _, name, ranges in self._done():
            done[name] = done.get(name, 0) + sum(end - first for first, end in ranges)
        counts = (QueueCount(name, messages.get(name, 0), done.get(name, 0)) for name in sorted(messages.keys() | done.keys()))
        return Survey(self._common_txn, tuple(counts), tuple(self._differences()))

    def items(self) -> Iterator[Item]:
        """Everything, in pieces that fit one message."""
        return items_of(list(self._differences()), self._done(), self._batches())

    def _done(self) -> Iterator[Done]:
        return acknowledged(self._past, self._names.values(), self._cursors)

    def _differences(self) -> Iterator[Difference]:
        return differences(self._past, self._names.values())

    def _batches(self) -> Iterator[tuple[str, bytes]]:
        """(queue, batch): everything stored after the past and not done."""
        values = LogValues(self._txn, self._log, self._parts)
        for name, stored, start, stop in self._pieces():
            batch = memoryview(values.read(stored.value, stored.position, stored.length))
            yield name, cut(batch, stored_head(batch), start, stop)

    def _pieces(self) -> Iterator[tuple[str, Stored, int, int]]:
        """(queue, batch, from, to) of the same; of a value only the head is read."""
        queues = {number: (row.name, Undone(self._cursors.get(number))) for number, row in self._names.items()}
        with self._txn.cursor(db=self._log) as cursor:
            if not cursor.set_range(records.log_key(self._past.last_value + 1)):
                return
            for key, raw in rows(cursor, self._alive):
                for stored in records.read_log_head(records.log_number(key), raw):
                    name, undone = queues.get(stored.destination, ("", None))
                    for start, stop in undone.of(stored) if undone is not None else ():  # None: its queue was removed
                        yield name, stored, start, stop
