"""Batches: the unit of work everywhere; a message is the unit of meaning inside one.

A batch is homogeneous (one destination, one producer, one priority) and is stored, shipped and delivered as it was received, or
as a slice of it. Servers never decode a record, but for ``merged``, after a divergence. Layout, little-endian::

    header, 48 bytes
      u8  version = 1 | u8 flags | u8 delivery mode | u8 priority
      u32 count                     messages, 1..BATCH_MESSAGES_MAX
      u64 producer                  id chosen at random by the client
      u64 first sequence            of the first message; the others follow without gaps
      u64 earliest expiry           ms since 1970, 0 = none
      u64 deliver at                ms since 1970, 0 = now
      u32 base                      what to subtract from every index entry (0 in a batch as sent, >0 in a slice)
      u32 0
    index, count x u32              where each record ends, counted from the first record of the batch as sent
    records, each
      u64 sent (ms since 1970) | u64 expires (ms since 1970, 0 = never) | u32 length of properties
      properties                    MessagePack map, or nothing
      body                          the rest

The index lets any stage cut a slice with three byte-copies. (producer, sequence) is the key for de-duplication; the message's own
identity is (destination, offset), given at commit.
"""

import re
import struct
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import sub
from typing import NamedTuple

import msgspec

from zmqha.core import limits
from zmqha.errors import BadName, ProtocolError

VERSION = 1
HEADER = struct.Struct("<BBBBIQQQQII")
HEADER_BYTES = HEADER.size
RECORD = struct.Struct("<QQI")
_INDEX_ENTRY = 4

HAS_PROPERTIES = 1
MERGED = 4  # set by servers: stored by a branch that lost, merged into the other; delivered as redelivered
X_MERGED = "x-merged"  # property of a merged message: the epoch counter of the branch it came from
PERSISTENT = 1
PRIORITY_DEFAULT = 4
PRIORITY_MAX = 9

_NAME = re.compile(rf"[A-Za-z0-9._/-]{{1,{limits.NAME_BYTES_MAX}}}", re.ASCII)
_TRAVERSAL = frozenset({"", ".", ".."})


class BatchHead(NamedTuple):
    """The header, decoded and checked."""

    flags: int
    mode: int
    priority: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    producer: int
    first: int
    expiry_ms: int
    deliver_at_ms: int
    base: int

    @property
    def next(self) -> int:
        """The sequence after this batch."""
        return self.first + self.count


class Record(NamedTuple):
    """One message inside a batch, as clients see it."""

    sent_ms: int
    expires_ms: int
    properties: bytes  # MessagePack map or empty
    body: bytes


def check_name(name: str) -> str:
    """The name, if it is one a destination may have; raises BadName."""
    if not _NAME.fullmatch(name) or any(part in _TRAVERSAL for part in name.split("/")):
        shown = name if len(name) <= 40 else name[:40] + "…"
        raise BadName(
            f"{shown!r} is not a destination name",
            cause="names are 1 to 200 of the characters A-Z a-z 0-9 . _ - and / between non-empty parts",
            cure="choose a name such as orders/eu",
        )
    return name


def pack_record(body: bytes, *, sent_ms: int, expires_ms: int = 0, properties: bytes = b"") -> bytes:
    """One record's bytes."""
    return RECORD.pack(sent_ms, expires_ms, len(properties)) + properties + body


def pack_batch(
    records: list[bytes],
    *,
    producer: int,
    first: int,
    flags: int = 0,
    priority: int = PRIORITY_DEFAULT,
    expiry_ms: int = 0,
) -> bytes:
    """A batch of records made by ``pack_record``."""
    head = HEADER.pack(VERSION, flags, PERSISTENT, priority, len(records), producer, first, expiry_ms, 0, 0, 0)
    index = array("I", accumulate(map(len, records)))
    return b"".join((head, index.tobytes(), *records))


def read_head(batch: bytes | memoryview) -> BatchHead:
    """Decode and check header, index and lengths; raises ProtocolError. A thousand records cost little more than one."""
    size = len(batch)
    if size < HEADER_BYTES + _INDEX_ENTRY:
        raise ProtocolError(f"a batch of {size} bytes is too short")
    version, flags, mode, priority, count, producer, first, expiry_ms, deliver_at_ms, base, _ = HEADER.unpack_from(batch)
    if version != VERSION:
        raise ProtocolError(f"batch version {version} is unknown here")
    if not 1 <= count <= limits.BATCH_MESSAGES_MAX:
        raise ProtocolError(f"a batch announces {count} messages, allowed are 1 to {limits.BATCH_MESSAGES_MAX}")
    if mode != PERSISTENT or priority > PRIORITY_MAX or first < 1 or first + count >= 1 << 63:
        raise ProtocolError("a batch header field is out of range")
    start = HEADER_BYTES + count * _INDEX_ENTRY
    if size < start:
        raise ProtocolError("a batch is shorter than its index")
    ends = index_of(batch, count).tolist()
    if ends[-1] - base != size - start or ends != sorted(ends) or ends[0] < base:
        raise ProtocolError("a batch's index does not describe its records")
    return BatchHead(flags, mode, priority, count, producer, first, expiry_ms, deliver_at_ms, base)


def stored_head(batch: bytes | memoryview) -> BatchHead:
    """The header of a batch that ``read_head`` accepted before; nothing is checked again."""
    _, flags, mode, priority, count, producer, first, expiry_ms, deliver_at_ms, base, _ = HEADER.unpack_from(batch)
    return BatchHead(flags, mode, priority, count, producer, first, expiry_ms, deliver_at_ms, base)


def index_of(batch: bytes | memoryview, count: int) -> "array[int]":
    """Where each record ends (subtract the header's base)."""
    ends = array("I")
    ends.frombytes(memoryview(batch)[HEADER_BYTES : HEADER_BYTES + count * _INDEX_ENTRY])
    return ends


def largest_record(batch: bytes | memoryview, head: BatchHead) -> int:
    """Bytes of the largest message with its properties, without the record's fixed part."""
    ends = index_of(batch, head.count).tolist()
    largest: int = max(map(sub, ends, [head.base, *ends]))
    return largest - RECORD.size


def cut(batch: bytes | memoryview, head: BatchHead, start: int, stop: int) -> bytes:
    """Messages [start, stop) of a batch, as a batch."""
    if start == 0 and stop == head.count:
        return bytes(batch)
    ends = index_of(batch, head.count)
    base = ends[start - 1] if start else head.base
    records = HEADER_BYTES + head.count * _INDEX_ENTRY - head.base
    new_head = HEADER.pack(
        VERSION, head.flags, head.mode, head.priority, stop - start, head.producer, head.first + start,
        head.expiry_ms, head.deliver_at_ms, base, 0,
    )  # fmt: skip
    view = memoryview(batch)
    return b"".join((new_head, ends[start:stop].tobytes(), view[records + base : records + ends[stop - 1]]))


def fit(batch: bytes | memoryview, head: BatchHead, start: int, byte_budget: int) -> int:
    """How far messages from ``start`` on fit into ``byte_budget`` bytes; at least one."""
    ends = index_of(batch, head.count)
    base = ends[start - 1] if start else head.base
    if ends[-1] - base <= byte_budget:
        return head.count
    stop = start + 1
    low, high = start + 1, head.count
    while low <= high:
        middle = (low + high) // 2
        if ends[middle - 1] - base <= byte_budget:
            stop, low = middle, middle + 1
        else:
            high = middle - 1
    return stop


def renumber(batch: bytes, first: int, producer: int) -> bytes:
    """The same messages under other sequences (only for messages that were refused, never for unconfirmed ones)."""
    fields = list(HEADER.unpack_from(batch))
    fields[5:7] = producer, first
    return HEADER.pack(*fields) + batch[HEADER_BYTES:]


def records(batch: bytes | memoryview) -> Iterator[Record]:
    """Every message of a batch; raises ProtocolError if a record does not hold what it announces."""
    head = read_head(batch)
    view = memoryview(batch)
    origin = HEADER_BYTES + head.count * _INDEX_ENTRY - head.base
    begin = head.base
    for end in index_of(batch, head.count):
        if end - begin < RECORD.size:
            raise ProtocolError("a record is too short")
        sent_ms, expires_ms, properties = RECORD.unpack_from(view, origin + begin)
        body = origin + begin + RECORD.size + properties
        if body > origin + end:
            raise ProtocolError("a record is shorter than its properties")
        yield Record(sent_ms, expires_ms, bytes(view[body - properties : body]), bytes(view[body : origin + end]))
        begin = end


def merged(batch: bytes, branch: int) -> bytes:
    """The same messages, marked as merged from the branch of this epoch counter. The one place where a server opens records;
    where a client packed nonsense, only the flag is set."""
    head = read_head(batch)
    try:
        told = [
            pack_record(one.body, sent_ms=one.sent_ms, expires_ms=one.expires_ms, properties=_marked(one.properties, branch))
            for one in records(batch)
        ]
    except ProtocolError:
        return batch[:1] + bytes((head.flags | MERGED,)) + batch[2:]
    return pack_batch(
        told, producer=head.producer, first=head.first, flags=head.flags | HAS_PROPERTIES | MERGED, priority=head.priority,
        expiry_ms=head.expiry_ms,
    )  # fmt: skip


def _marked(properties: bytes, branch: int) -> bytes:
    """With the property of a merged message; what is no map stays as it is: nobody could read the property."""
    try:
        held = _properties.decode(properties) if properties else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return properties
    return msgspec.msgpack.encode({**held, X_MERGED: branch})


_properties: msgspec.msgpack.Decoder[dict[str, object]] = msgspec.msgpack.Decoder(dict[str, object])


def batch_of(bodies: Iterable[bytes], *, producer: int, first: int, sent_ms: int = 0) -> bytes:
    """A batch of plain bodies, for tests and simple senders."""
    return pack_batch([pack_record(body, sent_ms=sent_ms) for body in bodies], producer=producer, first=first)
