"""What one group commit writes, and what a store holds when it is opened: values between the messaging core and the store.

One ``Work`` is one LMDB transaction, one value in the global log (if it appends anything) and one shipment. The store carries it
out as it stands and decides nothing.

A log value is laid out like this (little-endian), so that the core knows where a batch is without asking::

    head     u32 number of batches | u32 0
    entries  each u32 destination | u64 offset | u32 count | u32 position | u32 length     position: from the start of the value
    batches  as received, one after the other
"""

import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, compress, pairwise
from operator import ne
from typing import NamedTuple

from zmqha.core.merge_report import MergeReport

VALUE_HEAD = struct.Struct("<II")
VALUE_ENTRY = struct.Struct("<IQIII")
_LONG_RUN = 4  # batches of one destination in a row: from here on a run at a time is faster than a batch at a time


class Append(NamedTuple):
    """A batch, as received, at its place: messages [offset, offset + count) of a destination."""

    destination: int
    offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    batch: bytes


class CursorRow(NamedTuple):
    """Where the shared subscription of a queue stands: everything below ``floor`` is done, and the ranges above it.

    ``done``: [first, end) pairs, rising, disjoint, all above the floor. ``returned``: (first, end, deliveries) of what was handed
    out and came back, rising, so a takeover keeps the count.
    """

    destination: int
    floor: int
    done: tuple[tuple[int, int], ...]
    returned: tuple[tuple[int, int, int], ...]


class ProducerRow(NamedTuple):
    """De-duplication: the last sequence stored of a producer to a destination. The store adds when."""

    producer: int
    destination: int
    last: int


class DestinationRow(NamedTuple):
    """A queue and its limits (0 = the server's default)."""

    number: int
    name: str
    max_messages: int
    max_bytes: int


class Work(NamedTuple):
    """One transaction. ``value`` is the key in the global log, rising; 0 when nothing is appended."""

    number: int  # ticket: rises by one per Work since the store was opened
    value: int
    appends: tuple[Append, ...] = ()
    cursors: tuple[CursorRow, ...] = ()
    producers: tuple[ProducerRow, ...] = ()
    destinations: tuple[DestinationRow, ...] = ()
    dropped_destinations: tuple[int, ...] = ()  # rows, cursor and producers of a removed queue
    dropped_values: tuple[int, ...] = ()  # log values in which every message is done
    size: int = 0  # bytes of the batches
    reports: tuple[MergeReport, ...] = ()  # of merges, new or gone on
    dropped_producers: tuple[
        tuple[int, int], ...
    ] = ()  # (producer, destination) of forgotten rows; ``producers`` has the last word


class Stored(NamedTuple):
    """One batch inside a log value, as the index rebuilt at start knows it."""

    destination: int
    offset: int
    count: int  # type: ignore[assignment]
    value: int
    position: int  # byte offset of the batch inside the value
    length: int


class StoredLog:
    """Many ``Stored``, a column per field: 32 bytes each, and worked on a column at a time. There may be millions when a server takes
    over, and nobody is served until all of them are known."""

    __slots__ = ("count", "destination", "length", "offset", "position", "value")

    def __init__(self) -> None:
        self.destination = array("I")
        self.offset = array("Q")
        self.count = array("H")
        self.value = array("Q")
        self.position = array("I")
        self.length = array("I")

    @classmethod
    def of(cls, rows: "Iterable[Stored] | StoredLog") -> "StoredLog":
        """The same as columns."""
        if isinstance(rows, StoredLog):
            return rows
        made = cls()
        for column, content in zip(made.columns, zip(*rows, strict=True), strict=False):  # no rows: no content
            column.extend(content)
        return made

    @property
    def columns(self) -> "tuple[array[int], ...]":
        """In the order of the fields of a ``Stored``."""
        return self.destination, self.offset, self.count, self.value, self.position, self.length

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Stored]:
        return map(Stored, *self.columns)

    def by_destination(self) -> "Iterator[tuple[int, Sequence[int], StoredLog]]":
        """Each destination: its number, which rows are its own, and those rows alone, in their order."""
        numbers = self.destination
        starts = [0, *compress(range(1, len(numbers)), map(ne, numbers, numbers[1:]))] if numbers else []  # of runs of one
        if len(starts) == 1:
            yield numbers[0], range(len(self)), self
            return
        groups = self._joined(starts) if len(starts) * _LONG_RUN <= len(self) else self._sorted()
        for number, rows in groups.items():
            part = StoredLog()
            for mine, whole in zip(part.columns, self.columns, strict=True):
                for piece in rows:
                    mine.extend(whole[piece.start : piece.stop] if isinstance(piece, range) else map(whole.__getitem__, piece))
            yield number, list(chain.from_iterable(rows)), part

    def _joined(self, starts: list[int]) -> dict[int, list[Sequence[int]]]:
        """The runs of each destination: whole pieces of columns, where many neighbours are of one."""
        groups: dict[int, list[Sequence[int]]] = {}
        for begin, end in pairwise([*starts, len(self)]):
            groups.setdefault(self.destination[begin], []).append(range(begin, end))
        return groups

    def _sorted(self) -> dict[int, list[Sequence[int]]]:
        """The rows of each destination, where they lie one by one among others."""
        order, begin = sorted(range(len(self)), key=self.destination.__getitem__), 0
        groups: dict[int, list[Sequence[int]]] = {}
        for number, count in sorted(Counter(self.destination).items()):
            groups[number] = [order[begin : begin + count]]
            begin += count
        return groups


class StoreImage(NamedTuple):
    """Everything the messaging core keeps in memory, read when the store is opened. No batch is read, only heads of values."""

    destinations: tuple[DestinationRow, ...] = ()
    cursors: tuple[CursorRow, ...] = ()
    producers: tuple[ProducerRow, ...] = ()
    log: StoredLog | tuple[Stored, ...] = ()  # by rising value, then position; the offsets of a destination rise too
    last_value: int = 0
    last_number: int = 0  # the highest a destination ever had
    reports: tuple[MergeReport, ...] = ()  # oldest first


def batch_positions(lengths: list[int]) -> Iterable[int]:
    """Where each batch of a log value begins, given the lengths of all of them."""
    return accumulate(lengths[:-1], initial=VALUE_HEAD.size + len(lengths) * VALUE_ENTRY.size)
