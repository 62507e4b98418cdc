"""What one group commit writes, and what a store holds when it is opened: values between the messaging core and the store.

One ``Work`` is one LMDB transaction, one value in the global log (if it appends anything) and one shipment. The store carries it
out as it stands and decides nothing.

A log value is laid out like this (little-endian), so that the core knows where a batch is without asking::

    head     u32 number of batches | u32 0
    entries  each u32 destination | u64 offset | u32 count | u32 position | u32 length     position: from the start of the value
    batches  as received, one after the other
"""

import struct
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from zmqha.core.merge_report import MergeReport

VALUE_HEAD = struct.Struct("<II")
VALUE_ENTRY = struct.Struct("<IQIII")


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
    """De-duplication: the last sequence stored of a producer to a destination. The store adds the day, for idle rows."""

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


class Stored(NamedTuple):
    """One batch inside a log value, as the index rebuilt at start knows it."""

    destination: int
    offset: int
    count: int  # type: ignore[assignment]
    value: int
    position: int  # byte offset of the batch inside the value
    length: int


class StoreImage(NamedTuple):
    """Everything the messaging core keeps in memory, read when the store is opened. No batch is read, only heads of values."""

    destinations: tuple[DestinationRow, ...] = ()
    cursors: tuple[CursorRow, ...] = ()
    producers: tuple[ProducerRow, ...] = ()
    log: tuple[Stored, ...] = ()  # by rising value, then position
    last_value: int = 0
    last_number: int = 0  # the highest a destination ever had
    reports: tuple[MergeReport, ...] = ()  # oldest first


def batch_positions(lengths: list[int]) -> Iterable[int]:
    """Where each batch of a log value begins, given the lengths of all of them."""
    return accumulate(lengths[:-1], initial=VALUE_HEAD.size + len(lengths) * VALUE_ENTRY.size)
