"""A shipment: the pages that one commit wrote, as bytes, with the position it applies on and the position it leads to.

Layout of an encoded shipment (little-endian), deterministic for given (old meta, new meta, file), because the chain digest covers
it and a restarted node computes it again from its two meta pages::

    head    u32 magic "ZSHP" | u16 version | u16 0 | u32 page size | u32 0 (alignment)
            u64 epoch counter | u64 epoch nonce
            u64 digest        (of the active's whole store after this transaction, ``page_sums``; 0: not known yet)
            u64 digest check  (xxh3_64 of the digest, seeded with the transaction)
            u64 from txn      | u64 to txn
            u64 base check    (xxh3_64 of the old meta body bytes [8:120): both database records, last page, txn)
            u64 payload check (``page_sums.check_of`` the units in the payload, so every byte is summed once for both)
            u32 runs          | u32 compact pages | u32 freed runs
            120 B meta body   (bytes [32,152) of the meta page that the transaction wrote)
            runs x (u64 first page, u32 pages)          whole pages, in the payload one after the other
            compact x (u64 page, u16 lower, u16 upper)  pages whose hole [lower, upper) is left out
            freed x (u64 first page, u32 pages)         pages in use before and not after
    payload the pages of the runs, then [0,lower) + [upper,psize) of each compact page

``H(to) = sha256(H(from) + head without epoch and digest)``; the payload's check is inside the head. Epoch and digest stay outside,
because the node that computes H again after a start knows the pages of one transaction, not under which epoch a transaction without
lineage record ran, nor the sums of the whole store.

A shipment above ``limits.CHUNK_BYTES_MAX`` travels, and is journalled, as several *chunks*; the first carries the head. This file
encodes and decodes; it finds no pages (``lmdb_page``) and writes none (``store.page_file``).
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from zmqha.core import limits, page_sums
from zmqha.core.page_sums import Runs, Units
from zmqha.core.position import Epoch, Position
from zmqha.errors import ProtocolError

META_BODY_BYTES = 120
_MAGIC = 0x5048535A
_VERSION = 2
_FIXED = struct.Struct("<IHHII QQQQ QQ QQ III")
_UNCHAINED = slice(16, 48)  # epoch, digest and its check
_PAYLOAD_CHECK = struct.Struct("<Q")
_PAYLOAD_CHECK_AT = 72
_META_END = struct.Struct("<QQ")  # last page, txn
_RUN = struct.Struct("<QI")
_COMPACT = struct.Struct("<QHH")


class Pages(NamedTuple):
    """What ``lmdb_page`` found: whole runs, pages with holes left out, and their bytes in that order."""

    runs: list[tuple[int, int]]  # (first page, number of pages)
    compact: list[tuple[int, int, int]]  # (page, lower, upper)
    payload: bytes


class Shipment(NamedTuple):
    """One commit, ready to be sent, journalled or applied. ``position`` is where it leads, its chain digest included."""

    position: Position
    from_txn: int
    psize: int
    meta: bytes  # META_BODY_BYTES
    base_check: int
    runs: list[tuple[int, int]]
    compact: list[tuple[int, int, int]]
    head: bytes
    payload: bytes
    freed: Runs = ()
    digest: int = page_sums.NOT_KNOWN  # of the active's store after it
    units: Units = ()  # what the payload holds

    @property
    def size(self) -> int:
        return len(self.head) + len(self.payload)

    @property
    def page_bytes(self) -> int:
        """Of its pages in the store's file, with their holes."""
        return self.psize * (sum(count for _, count in self.runs) + len(self.compact))


_PAYLOAD_FIELD, _UNITS_FIELD = Shipment._fields.index("payload"), Shipment._fields.index("units")


class Chunk(NamedTuple):
    """One piece of a shipment on the wire and in the journal. ``head`` is empty but in piece 0."""

    position: Position  # of the whole shipment
    index: int  # type: ignore[assignment]  # hides tuple.index on purpose: the name of the wire
    count: int  # type: ignore[assignment]
    head: bytes
    piece: bytes

    @property
    def size(self) -> int:
        return len(self.head) + len(self.piece)


def is_page_size(size: int) -> bool:
    """Can a store have pages of so many bytes."""
    return 512 <= size <= 65536 and not size & (size - 1)


def base_check(meta_body: bytes) -> int:
    """Digest of what a shipment must find on the other side before it may be applied."""
    return xxhash.xxh3_64_intdigest(meta_body[8:META_BODY_BYTES])


def build(
    *, epoch: Epoch, base: Position, old_meta: bytes, to_txn: int, new_meta: bytes, psize: int, pages: Pages, freed: Runs = (),
    units: Units | None = None, digest: int = page_sums.NOT_KNOWN,
) -> Shipment:  # fmt: skip
    """Encode one commit on top of ``base`` and compute its chain digest. ``units`` are those of ``pages``, if known already."""
    if units is None:
        units = page_sums.units_of(pages.payload, psize, pages.runs, pages.compact)
    check = base_check(old_meta)
    fixed = _FIXED.pack(
        _MAGIC, _VERSION, 0, psize, 0, epoch.counter, epoch.nonce, digest, _digest_check(digest, to_txn), base.txn, to_txn, check,
        page_sums.check_of(units), len(pages.runs), len(pages.compact), len(freed),
    )  # fmt: skip
    head = b"".join((
        fixed,
        new_meta,
        *[_RUN.pack(*run) for run in pages.runs],
        *[_COMPACT.pack(*page) for page in pages.compact],
        *[_RUN.pack(*run) for run in freed],
    ))  # fmt: skip
    position = Position(epoch, to_txn, _chain(base.chain, head))
    return Shipment(
        position, base.txn, psize, new_meta, check, pages.runs, pages.compact, head, pages.payload, list(freed), digest, units
    )


def decode(head: bytes, payload: bytes, base_chain: bytes) -> Shipment:
    """Rebuild a shipment from its bytes; raises ProtocolError if they are not one. ``base_chain`` is the receiver's digest."""
    return fill(decode_head(head, base_chain), payload)


def decode_head(head: bytes, base_chain: bytes) -> Shipment:
    """A shipment still without its pages: enough to know whether it may be applied, and where it leads."""
    if len(head) < _FIXED.size + META_BODY_BYTES:
        raise ProtocolError(f"a shipment's head of {len(head)} bytes is too short")
    magic, version, _, psize, _, counter, nonce, digest, digest_check, from_txn, to_txn, check, _, runs, compact, freed = (
        _FIXED.unpack_from(head)
    )
    if magic != _MAGIC or version != _VERSION:
        raise ProtocolError("not a shipment of a version known here")
    if not is_page_size(psize):
        raise ProtocolError(f"a shipment with pages of {psize} bytes")
    tables = _FIXED.size + META_BODY_BYTES
    if len(head) != tables + (runs + freed) * _RUN.size + compact * _COMPACT.size:
        raise ProtocolError("a shipment's head does not hold the tables it announces")
    meta = head[_FIXED.size : tables]
    last_page, meta_txn = _META_END.unpack_from(meta, META_BODY_BYTES - _META_END.size)
    if not from_txn < to_txn == meta_txn:
        raise ProtocolError(f"a shipment from {from_txn} to {to_txn} carries the meta page of {meta_txn}")
    if digest_check != _digest_check(digest, to_txn):
        raise ProtocolError(f"the digest of transaction {to_txn} does not match its checksum")
    view = memoryview(head)
    compact_at = tables + runs * _RUN.size
    freed_at = compact_at + compact * _COMPACT.size
    run_table = list(_RUN.iter_unpack(view[tables:compact_at]))
    compact_table = list(_COMPACT.iter_unpack(view[compact_at:freed_at]))
    freed_table = list(_RUN.iter_unpack(view[freed_at:]))
    for page, count in (*run_table, *freed_table):
        if page < 2 or count < 1 or page + count > last_page + 1:
            raise ProtocolError(f"transaction {to_txn} carries pages outside the file")
    for page, lower, upper in compact_table:
        if not (2 <= page <= last_page and 16 <= lower <= upper <= psize):
            raise ProtocolError(f"transaction {to_txn} carries pages outside the file")
    position = Position(Epoch(counter, nonce), to_txn, _chain(base_chain, head))
    return Shipment(position, from_txn, psize, meta, check, run_table, compact_table, head, b"", freed_table, digest)


def payload_size(empty: Shipment) -> int:
    """Bytes of the pages that a head announces."""
    size = empty.psize * len(empty.compact)
    for _, count in empty.runs:
        size += empty.psize * count
    for _, lower, upper in empty.compact:
        size -= upper - lower
    return size


def fill(empty: Shipment, payload: bytes) -> Shipment:
    """Give a shipment out of ``decode_head`` its pages; raises ProtocolError if they are not the ones it announces."""
    announced = _PAYLOAD_CHECK.unpack_from(empty.head, _PAYLOAD_CHECK_AT)[0]
    if len(payload) == payload_size(empty):
        units = page_sums.units_of(payload, empty.psize, empty.runs, empty.compact)
        if page_sums.check_of(units) == announced:
            filled = (*empty[:_PAYLOAD_FIELD], payload, *empty[_PAYLOAD_FIELD + 1 : _UNITS_FIELD], units)
            return Shipment._make(filled)  # a third of the time of _replace, before every acknowledgement
    raise ProtocolError(f"the pages of transaction {empty.position.txn} do not match their checksum")


def chunks(shipment: Shipment) -> Iterator[Chunk]:
    """Cut a shipment for the wire; one chunk unless it is larger than ``limits.CHUNK_BYTES_MAX``."""
    size = limits.CHUNK_BYTES_MAX
    payload = shipment.payload
    count = max(1, -(-len(payload) // size))
    if count == 1:
        yield Chunk(shipment.position, 0, 1, shipment.head, payload)
        return
    for index in range(count):
        piece = payload[index * size : (index + 1) * size]
        yield Chunk(shipment.position, index, count, shipment.head if index == 0 else b"", piece)


def _digest_check(digest: int, txn: int) -> int:
    return xxhash.xxh3_64_intdigest(digest.to_bytes(8, "little"), txn)


def _chain(base: bytes, head: bytes) -> bytes:
    digest = hashlib.sha256(base)
    digest.update(head[: _UNCHAINED.start])
    digest.update(head[_UNCHAINED.stop :])
    return digest.digest()
