"""Keys and values of the store: two named databases, few pages touched per commit.

::

    log     u64 value number (big-endian, so keys rise)  ->  one log value: head, entries, batches (layout in core/work.py)
    state   "h"                          ->  Head: epoch, chain digest before this transaction, peer_high (written by every commit)
            "l"                          ->  lineage, oldest first
            "d" u32 destination          ->  DestinationRow
            "c" u32 destination          ->  CursorRow
            "p" u32 destination u64 id   ->  i64 last sequence, u32 day it was last used
            "f"                          ->  Past: what the peer is known to hold, written with the lineage
            "m" u32 number mod 16        ->  MergeReport
            "n"                          ->  the highest number a destination ever had: none is used twice

Values are MessagePack unless a layout is given. No DUPSORT and no value written twice in one transaction: the structural verifier
of py-lmdb would report both on sound files.
"""

import struct
from typing import NamedTuple, TypeVar

import msgspec

from zmqha.core.branch import Past
from zmqha.core.limits import MERGE_REPORTS
from zmqha.core.merge_report import MergeReport
from zmqha.core.position import Epoch, Lineage
from zmqha.core.work import VALUE_ENTRY, VALUE_HEAD, Append, CursorRow, DestinationRow, Stored, batch_positions
from zmqha.errors import StoreDamaged

_T = TypeVar("_T")

HEAD = b"h"
LINEAGE = b"l"
DESTINATION = b"d"
CURSOR = b"c"
PRODUCER = b"p"
PAST = b"f"
REPORT = b"m"
NUMBER = b"n"

_LOG_KEY = struct.Struct(">Q")
_DESTINATION_KEY = struct.Struct(">cI")
_PRODUCER_KEY = struct.Struct(">cIQ")
_PRODUCER = struct.Struct("<qI")


class Head(NamedTuple):
    """What every transaction says of itself. ``chain`` is the digest *before* it: a page cannot contain its own."""

    epoch: Epoch
    chain: bytes
    peer_high: int


_encode = msgspec.msgpack.Encoder().encode
_head = msgspec.msgpack.Decoder(Head)
_lineage = msgspec.msgpack.Decoder(Lineage)
_destination = msgspec.msgpack.Decoder(DestinationRow)
_cursor = msgspec.msgpack.Decoder(CursorRow)
_past = msgspec.msgpack.Decoder(Past)
_report = msgspec.msgpack.Decoder(MergeReport)
_number = msgspec.msgpack.Decoder(int)

encode_row = _encode


def log_key(value: int) -> bytes:
    """Key of a log value."""
    return _LOG_KEY.pack(value)


def log_number(key: bytes | memoryview) -> int:
    """The number in a key of the log."""
    return int(_LOG_KEY.unpack(key)[0])


def row_key(kind: bytes, destination: int) -> bytes:
    """Key of a row that exists once per destination."""
    return _DESTINATION_KEY.pack(kind, destination)


def report_key(number: int) -> bytes:
    """Key of a merge's report: a new one takes the place of the oldest."""
    return row_key(REPORT, number % MERGE_REPORTS)


def producer_key(destination: int, producer: int) -> bytes:
    """Key of a de-duplication row."""
    return _PRODUCER_KEY.pack(PRODUCER, destination, producer)


def producer_value(last: int, day: int) -> bytes:
    """Value of a de-duplication row."""
    return _PRODUCER.pack(last, day)


def read_producer(key: bytes | memoryview, value: bytes | memoryview) -> tuple[int, int, int, int]:
    """(producer, destination, last, day)."""
    _, destination, producer = _PRODUCER_KEY.unpack(key)
    last, day = _PRODUCER.unpack(value)
    return producer, destination, last, day


def log_value(appends: tuple[Append, ...]) -> bytes:
    """One group commit's batches."""
    lengths = [len(append.batch) for append in appends]
    entries = [
        VALUE_ENTRY.pack(append.destination, append.offset, append.count, position, length)
        for append, position, length in zip(appends, batch_positions(lengths), lengths, strict=True)
    ]
    return b"".join((VALUE_HEAD.pack(len(appends), 0), *entries, *(append.batch for append in appends)))


def read_log_head(value: int, raw: memoryview) -> list[Stored]:
    """What a log value holds, without reading a batch."""
    batches, _ = VALUE_HEAD.unpack_from(raw)
    end = VALUE_HEAD.size + batches * VALUE_ENTRY.size
    if end > len(raw):
        raise StoreDamaged(f"log value {value} is shorter than its head says")
    return [
        Stored(destination, offset, count, value, position, length)
        for destination, offset, count, position, length in VALUE_ENTRY.iter_unpack(raw[VALUE_HEAD.size : end])
    ]


def read_head(raw: bytes | memoryview) -> Head:
    """Raises StoreDamaged."""
    return _read(_head, raw, "head")


def read_lineage(raw: bytes | memoryview) -> Lineage:
    """Raises StoreDamaged."""
    return _read(_lineage, raw, "lineage")


def read_destination(raw: bytes | memoryview) -> DestinationRow:
    """Raises StoreDamaged."""
    return _read(_destination, raw, "destination")


def read_cursor(raw: bytes | memoryview) -> CursorRow:
    """Raises StoreDamaged."""
    return _read(_cursor, raw, "cursor")


def read_past(raw: bytes | memoryview) -> Past:
    """Raises StoreDamaged."""
    return _read(_past, raw, "past")


def read_report(raw: bytes | memoryview) -> MergeReport:
    """Raises StoreDamaged."""
    return _read(_report, raw, "merge report")


def read_number(raw: bytes | memoryview) -> int:
    """Raises StoreDamaged."""
    return _read(_number, raw, "number")


def _read(decoder: msgspec.msgpack.Decoder[_T], raw: bytes | memoryview, what: str) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # msgspec has none of its own for bad UTF-8
        raise StoreDamaged(f"a {what} row cannot be read", cause=str(error)) from error
