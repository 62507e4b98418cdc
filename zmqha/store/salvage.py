"""A branch as it is read for a merge: LMDB, read-only, a closed and settled store. What is selected is ``core.branch``'s business.

``survey`` counts, ``items`` reads the same piece by piece: differences of queues, acknowledgements, then batches in the order of the
log, small ones together. Driven by the store thread; nobody writes the file meanwhile.
"""

from collections.abc import Iterator
from pathlib import Path

from zmqha.core.branch import (
    NO_PAST,
    Difference,
    Done,
    Item,
    QueueCount,
    Survey,
    acknowledged,
    differences,
    items_of,
    past_of,
    undone,
)
from zmqha.core.message import cut, stored_head
from zmqha.core.work import CursorRow, DestinationRow
from zmqha.store import lmdb_store, records


class Branch:
    """An open one. ``common_txn`` is the last transaction that both sides hold."""

    def __init__(self, path: Path, common_txn: int) -> None:
        self._common_txn = common_txn
        self._env = lmdb_store.open_reading(path)
        self._log = self._env.open_db(b"log", create=False)
        state = self._env.open_db(b"state", create=False)
        self._txn = self._env.begin(buffers=True)
        self._names: dict[int, DestinationRow] = {}
        self._cursors: dict[int, CursorRow] = {}
        past = NO_PAST
        for key, raw in self._txn.cursor(db=state):
            kind = bytes(key[:1])
            if kind == records.DESTINATION:
                row = records.read_destination(raw)
                self._names[row.number] = row
            elif kind == records.CURSOR:
                cursor = records.read_cursor(raw)
                self._cursors[cursor.destination] = cursor
            elif kind == records.PAST:
                past = records.read_past(raw)
        self._past = past_of(past, common_txn)

    def close(self) -> None:
        """Let go of the file."""
        self._txn.abort()
        self._env.close()

    def survey(self) -> Survey:
        """How much there is to hand over."""
        messages: dict[str, int] = {}
        for name, count, _ in self._pieces():
            messages[name] = messages.get(name, 0) + count
        done: dict[str, int] = {}
        for _, name, ranges in self._done():
            done[name] = done.get(name, 0) + sum(end - first for first, end in ranges)
        counts = (QueueCount(name, messages.get(name, 0), done.get(name, 0)) for name in sorted(messages.keys() | done.keys()))
        return Survey(self._common_txn, tuple(counts), tuple(self._differences()))

    def items(self) -> Iterator[Item]:
        """Everything, in pieces that fit one message."""
        return items_of(list(self._differences()), self._done(), ((name, batch) for name, _, batch in self._pieces()))

    def _done(self) -> Iterator[Done]:
        return acknowledged(self._past, self._names.values(), self._cursors)

    def _differences(self) -> Iterator[Difference]:
        return differences(self._past, self._names.values())

    def _pieces(self) -> Iterator[tuple[str, int, bytes]]:
        """(queue, messages, batch) of everything stored after the past and not done."""
        with self._txn.cursor(db=self._log) as cursor:
            found = cursor.set_range(records.log_key(self._past.last_value + 1))
            while found:
                value, raw = records.log_number(cursor.key()), cursor.value()
                for stored in records.read_log_head(value, raw):
                    row = self._names.get(stored.destination)
                    if row is None:
                        continue  # of a queue that was removed
                    for start, stop in undone(stored, self._cursors.get(stored.destination)):
                        batch = raw[stored.position : stored.position + stored.length]
                        yield row.name, stop - start, cut(batch, stored_head(batch), start, stop)
                found = cursor.next()
