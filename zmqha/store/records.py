"""Keys and values of the store: two named databases, few pages touched per commit.

::

    log     u64 value number (big-endian, so keys rise)  ->  one log value: head, entries, batches (layout in core/work.py)
    state   "h"                          ->  Head: epoch, chain digest before this transaction, peer_high (written by every commit)
            "l"                          ->  lineage, oldest first
            "d" u32 destination          ->  DestinationRow
            "c" u32 destination          ->  CursorRow
            "p" u32 destination u64 id   ->  i64 last sequence, u64 transaction that wrote it
            "f"                          ->  Past: what the peer is known to hold, written with the lineage
            "m" u32 number mod 16        ->  MergeReport
            "n"                          ->  the highest number a destination ever had: none is used twice

Values are MessagePack unless a layout is given. No DUPSORT and no value written twice in one transaction: the structural verifier
of py-lmdb would report both on sound files.
"""

import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, repeat
from operator import itemgetter
from typing import NamedTuple, TypeVar

import msgspec

from zmqha.core.branch import Past
from zmqha.core.limits import MERGE_REPORTS
from zmqha.core.merge_report import MergeReport
from zmqha.core.position import Epoch, Lineage
from zmqha.core.work import (
    VALUE_ENTRY,
    VALUE_HEAD,
    Append,
    CursorRow,
    DestinationRow,
    ProducerRow,
    Stored,
    StoredLog,
    batch_positions,
)
from zmqha.errors import StoreDamaged
from zmqha.store.alive import ROWS

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
_PRODUCER = struct.Struct("<qQ")
_ONE_BYTES = VALUE_HEAD.size + VALUE_ENTRY.size
_ONE_WORDS = _ONE_BYTES // 4
_ONE_BATCH = itemgetter(slice(0, _ONE_BYTES))  # head and entry of a log value with one batch
_BATCHES = itemgetter(slice(0, 4))  # how many one holds


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


def producer_value(last: int, txn: int) -> bytes:
    """Value of a de-duplication row."""
    return _PRODUCER.pack(last, txn)


def read_producers(found: Iterable[tuple[memoryview, memoryview]], alive: Callable[[], None]) -> tuple[ProducerRow, ...]:
    """De-duplication rows, least recently used first; ``found``: their keys and values. In blocks, as ``read_log``."""
    known: list[ProducerRow] = []
    used: list[int] = []  # when
    rows = iter(found)
    while block := list(islice(rows, ROWS)):
        alive()
        keys, values = zip(*block, strict=True)
        _, destinations, producers = zip(*_PRODUCER_KEY.iter_unpack(b"".join(keys)), strict=True)
        sequences, txns = zip(*_PRODUCER.iter_unpack(b"".join(values)), strict=True)
        known += map(ProducerRow, producers, destinations, sequences)
        used += txns
    return tuple(map(known.__getitem__, sorted(range(len(used)), key=used.__getitem__)))


def log_value(appends: tuple[Append, ...]) -> bytes:
    """One group commit's batches."""
    lengths = [len(append.batch) for append in appends]
    entries = [
        VALUE_ENTRY.pack(append.destination, append.offset, append.count, position, length)
        for append, position, length in zip(appends, batch_positions(lengths), lengths, strict=True)
    ]
    return b"".join((VALUE_HEAD.pack(len(appends), 0), *entries, *(append.batch for append in appends)))


def head_bytes(batches: int) -> int:
    """How much of a log value comes before its batches."""
    return VALUE_HEAD.size + batches * VALUE_ENTRY.size


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


def read_log(found: Iterable[tuple[memoryview, memoryview]], alive: Callable[[], None]) -> StoredLog:
    """What all values of the log hold, without reading a batch; ``found``: keys and values, rising. Raises StoreDamaged.

    In blocks and without a loop over values: there may be a million of them, and nobody is served meanwhile.
    """
    log, rows = StoredLog(), iter(found)
    while block := list(islice(rows, ROWS)):
        alive()
        keys, values = zip(*block, strict=True)
        _read_block(log, keys, values)
    return log


def _read_block(log: StoredLog, keys: Sequence[memoryview], values: Sequence[memoryview]) -> None:
    numbers = array("Q", b"".join(keys))
    numbers.byteswap()
    heads = b"".join(map(_ONE_BATCH, values))
    batches = array("I", heads)[0::_ONE_WORDS] if len(heads) == _ONE_BYTES * len(values) else array("I")
    if batches.count(1) == len(values):  # as lone senders leave it
        words, stride, before = array("I", heads), _ONE_WORDS, VALUE_HEAD.size
    else:
        numbers, heads = _entries(numbers, values)
        words, stride, before = array("I", heads), VALUE_ENTRY.size // 4, 0
    first = before // 4
    # Of an entry: destination, offset in two words, count, position, length. Offsets begin in the middle of eight bytes.
    try:
        log.count.extend(array("H", words[first + 3 :: stride]))
    except OverflowError as error:
        raise StoreDamaged(f"one of the log values {numbers[0]} to {numbers[-1]} has a batch of too many messages") from error
    log.destination.extend(words[first::stride])
    log.offset.extend(array("Q", heads[before + 4 :] + bytes(before + 4))[0 :: stride // 2])
    log.value.extend(numbers)
    log.position.extend(words[first + 4 :: stride])
    log.length.extend(words[first + 5 :: stride])


def _entries(numbers: "array[int]", values: Sequence[memoryview]) -> "tuple[array[int], bytes]":
    """The entries of values with any number of batches, and for each of them the number of its value."""
    counts = b"".join(map(_BATCHES, values))
    if len(counts) < 4 * len(values):
        raise StoreDamaged(f"one of the log values {numbers[0]} to {numbers[-1]} has no head")
    batches = array("I", counts)
    stops = [VALUE_HEAD.size + VALUE_ENTRY.size * count for count in batches]
    entries = b"".join([raw[VALUE_HEAD.size : stop] for raw, stop in zip(values, stops, strict=True)])
    if len(entries) != VALUE_ENTRY.size * sum(batches):
        short = next(number for number, raw, stop in zip(numbers, values, stops, strict=True) if len(raw) < stop)
        raise StoreDamaged(f"log value {short} is shorter than its head says")
    return array("Q", chain.from_iterable(map(repeat, numbers, batches))), entries


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


assert sys.byteorder == "little", "columns of the log are read in the byte order of the machine"
