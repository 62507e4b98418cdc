"""Records of the passive's journal, and reading a segment back.

::

    segment = baseline *( chunk ) [ checkpointed ]      every record begins at a multiple of 512 B
    record  = u32 magic "ZJRN" | u16 kind | u16 0 | u64 journal | u64 generation | u64 sequence | u64 durable
              u64 epoch counter | u64 epoch nonce | u64 txn | 32 B chain     position of the whole shipment, or of the baseline
              u32 index | u32 count | u32 head length | u32 piece length
              u64 check (xxh3_64 of all before, head and piece) | head | piece

``journal`` is drawn anew at each reset: old records further back in a segment, and bytes of a client that look like a record,
never belong. ``sequence`` counts in the segment.
``durable`` is the number of records of this segment that were flushed when this one was written. A torn tail is normal after a
crash; but a record that cannot be read although a later one says it was durable was damaged afterwards, and that must not pass
for a short journal. Pure: bytes in, records out. Driven by ``journal``.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec
import xxhash

from zmqha.core.position import Epoch, Position
from zmqha.errors import StoreDamaged

ALIGN = 512
_MAGIC = 0x4E524A5A
_MAGIC_BYTES = _MAGIC.to_bytes(4, "little")
_HEADER = struct.Struct("<IHHQQQQ QQQ32s IIII")
_CHECK = struct.Struct("<Q")
_BODY_AT = _HEADER.size + _CHECK.size


class Kind(IntEnum):
    RESET = 1  # baseline: the store's file is exactly this, nothing before it matters
    SWITCH = 2  # baseline: continues the other segment, which must be replayed first unless CHECKPOINTED says otherwise
    CHUNK = 3
    CHECKPOINTED = 4  # everything before this segment is durable in the store's file


class Baseline(NamedTuple):
    """What a segment begins with: where the store stood, so that a passive knows its position without opening LMDB."""

    position: Position
    meta: bytes  # body of the meta page; empty if there is no store


class Record(NamedTuple):
    kind: int  # a Kind, unless another version wrote it
    journal: int
    generation: int
    sequence: int
    durable: int
    position: Position
    index: int  # type: ignore[assignment]  # as in Chunk
    count: int  # type: ignore[assignment]
    head: memoryview | bytes
    piece: memoryview | bytes


class Log(NamedTuple):
    """What one segment holds."""

    journal: int
    generation: int
    kind: int  # of the baseline
    baseline: Baseline
    shipments: list[list[Record]]  # the chunks of each whole shipment
    checkpointed: bool  # the segment before this one is not needed
    records: int  # readable, an incomplete shipment's included
    end_at: int  # behind the last of them

    @property
    def end(self) -> Position:
        return self.shipments[-1][0].position if self.shipments else self.baseline.position


_baseline = msgspec.msgpack.Decoder(Baseline)
_encoder = msgspec.msgpack.Encoder()


def encode_baseline(baseline: Baseline) -> bytes:
    return _encoder.encode(baseline)


def space(body: int) -> int:
    """Bytes that a record with so many bytes of head and piece takes in a segment."""
    return -(-(_BODY_AT + body) // ALIGN) * ALIGN


def encode(record: Record) -> list[memoryview]:
    """The buffers of a record, to be written one after the other."""
    epoch, txn, chain = record.position
    header = _HEADER.pack(
        _MAGIC, record.kind, 0, record.journal, record.generation, record.sequence, record.durable,
        epoch.counter, epoch.nonce, txn, chain, record.index, record.count, len(record.head), len(record.piece),
    )  # fmt: skip
    check = _CHECK.pack(_digest(header, record.head, record.piece))
    return [memoryview(header + check), memoryview(record.head), memoryview(record.piece)]


def decode(segment: memoryview, at: int) -> Record | None:
    """The record at ``at``; None if there is no whole one."""
    if at + _BODY_AT > len(segment):
        return None
    magic, kind, _, journal, generation, sequence, durable, counter, nonce, txn, chain, index, count, head_size, piece_size = (
        _HEADER.unpack_from(segment, at)
    )
    middle = at + _BODY_AT + head_size
    end = middle + piece_size
    if magic != _MAGIC or end > len(segment):
        return None
    head, piece = segment[at + _BODY_AT : middle], segment[middle:end]
    check = _CHECK.unpack_from(segment, at + _HEADER.size)[0]
    if check != _digest(segment[at : at + _HEADER.size], head, piece):
        return None
    position = Position(Epoch(counter, nonce), txn, chain)
    return Record(kind, journal, generation, sequence, durable, position, index, count, head, piece)


def read_log(segment: memoryview) -> Log | None:
    """Everything up to the first record that is not the next one; None if there is no whole record to begin with.

    Raises StoreDamaged for whole records of this journal that say nothing known here.
    """
    first = decode(segment, 0)
    if first is None:
        return None
    baseline = _read_baseline(first)
    checkpointed, records = first.kind == Kind.RESET, 1
    whole: list[list[Record]] = []
    pending: list[Record] = []
    end = space(len(first.head))
    for record in _following(segment, first):
        if record.kind == Kind.CHUNK:
            if not _continues(pending, record):
                break
            pending = [*pending, record] if record.index else [record]
            if record.index == record.count - 1:
                whole.append(pending)
                pending = []
        else:
            checkpointed = True
        records += 1
        end += space(len(record.head) + len(record.piece))
    return Log(first.journal, first.generation, first.kind, baseline, whole, checkpointed, records, end)


def proven_loss(segment: memoryview, log: Log | None, newest: Log) -> bool:
    """Does a later record prove that a flushed one, of ``newest`` or of the generation after it, can no longer be read?"""
    for at in range(0, len(segment), ALIGN):
        if segment[at : at + 4] != _MAGIC_BYTES:
            continue
        record = decode(segment, at)
        if record is None or record.journal != newest.journal or record.generation < newest.generation:
            continue
        readable = log.records if log is not None and log.generation == record.generation else 0
        if record.durable > readable:
            return True
    return False


def generation_of(segment: memoryview) -> int:
    """Of a segment that begins with any whole record; 0 if it does not."""
    first = decode(segment, 0)
    return 0 if first is None else first.generation


def _following(segment: memoryview, first: Record) -> Iterator[Record]:
    at, sequence = space(len(first.head) + len(first.piece)), 1
    while (record := decode(segment, at)) is not None:
        if (record.journal, record.generation) != (first.journal, first.generation) or record.sequence != sequence:
            return
        if record.kind not in (Kind.CHUNK, Kind.CHECKPOINTED):
            raise StoreDamaged(f"a journal segment holds a record of kind {record.kind} in its middle")
        yield record
        at += space(len(record.head) + len(record.piece))
        sequence += 1


def _read_baseline(first: Record) -> Baseline:
    try:
        if first.kind in (Kind.RESET, Kind.SWITCH):
            return _baseline.decode(first.head)
        cause = f"it begins with a record of kind {first.kind}"
    except msgspec.MsgspecError as error:
        cause = str(error)
    raise StoreDamaged("a segment of the journal has no baseline known here", cause=cause, cure="copy the store from the peer")


def _continues(pending: list[Record], record: Record) -> bool:
    if record.index == 0:
        return not pending
    return bool(pending) and record.index == len(pending) and _same(record, pending[0])


def _same(one: Record, other: Record) -> bool:
    return (one.position, one.count) == (other.position, other.count)


def _digest(header: bytes | memoryview, head: bytes | memoryview, piece: bytes | memoryview) -> int:
    digest = xxhash.xxh3_64(header)
    digest.update(head)
    digest.update(piece)
    return digest.intdigest()
