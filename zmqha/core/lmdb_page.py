"""LMDB's pages, read as bytes: meta pages, the list of free pages, which pages a commit wrote.

Data version 1 (LMDB 0.9), 64 bit, little-endian; page p is at p * page size, pages 0 and 1 are the meta pages::

    page    0        8      10       12       14       16
            | pgno u64 | pad u16 | flags u16 | lower u16 | upper u16 | pointers u16[] -> ... hole ... <- nodes |
            flags 1 branch, 2 leaf, 4 overflow (u32 number of pages @12), 8 meta, 0x22 leaf of fixed-size keys (pad = key size)
            a branch or leaf page is used in [0, lower) and [upper, page size)
    node    u16 lo | u16 hi | u16 flags | u16 key size | key | data
            branch: child = lo + hi << 16 + flags << 32      leaf: data size = lo + hi << 16, flags 1 = data is a page number
            of an overflow run, whose value begins 16 B into its first page
    meta    0..16 page header | u32 magic @16 | u32 version @20 | u64 address @24 |
            body [32,152): u64 map size | free database 48 B | main database 48 B | u64 last page | u64 txn
    database  u32 pad (free database: page size) | u16 flags | u16 depth | u64 branch, leaf, overflow pages, entries | u64 root
    free database record: key u64 txn that freed them; value u64 count, then the page numbers

A commit writes only bytes [32,152) of the meta page txn & 1. Every page in [2, last page] is in use or listed in the free
database, never both; so the pages that a commit wrote are ``(free before + new tail) - free after``, and only leaves of the two
free databases that differ need reading. That holds while nothing reuses pages of the older snapshot: for two transactions, or as
long as a read transaction holds it.

Works on a buffer; opens no file and changes nothing. What cannot be a sound file raises StoreDamaged. Driven by
``store.page_file``.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import xxhash

from zmqha.core.page_sums import Units, units_alike
from zmqha.core.shipment import META_BODY_BYTES, Pages, is_page_size
from zmqha.errors import StoreDamaged

assert sys.byteorder == "little", "LMDB files have the byte order of their machine; only little-endian is supported"

Buffer = memoryview | bytes

META_AT = 32  # of the body in its page
DATA_VERSION = 1
_MAGIC = 0xBEEFC0DE
_FIRST_PAGE_SIZE_AT = 40  # md_pad of the free database in meta page 0
_CHILD_MASK = (1 << 48) - 1
_BRANCH, _LEAF, _OVERFLOW, _META, _LEAF2 = 1, 2, 4, 8, 0x22
_HEADER_BYTES = 16
_FLAGS_AT = 10  # in a page's header
_BIGDATA = 1
_NODE_BYTES = 16  # of a record of the free database before its value: node and key

_header = struct.Struct("<QHHHH").unpack_from
_leaf_node = struct.Struct("<HHHHQ").unpack_from
_u64 = struct.Struct("<Q").unpack_from
_u32 = struct.Struct("<I").unpack_from
_sum_of = xxhash.xxh3_64_intdigest
_STATIC = struct.Struct("<QHHHHIIQ")
_DATABASE = "IHHQQQQQ"
_BODY = struct.Struct("<Q" + _DATABASE + _DATABASE + "QQ")
_TXN_AT = META_BODY_BYTES - 8
_PAGE_SIZE_AT = _FIRST_PAGE_SIZE_AT - META_AT  # in a body


class Meta(NamedTuple):
    """One meta page: the root of one snapshot. ``body`` is what the transaction wrote, bytes [32,152)."""

    psize: int
    mapsize: int
    free_depth: int
    free_root: int
    main_depth: int
    main_root: int
    last_pg: int
    txnid: int
    body: bytes


# --- meta pages -------------------------------------------------------------------------------------------------------------


def read_meta(buf: Buffer, slot: int) -> Meta | None:
    """The meta page in ``slot``; None if there is none. Raises StoreDamaged for a data version not known here."""
    at = _page_size(buf) if slot else 0
    if len(buf) < at + META_AT + META_BODY_BYTES:
        return None
    magic, version = struct.unpack_from("<II", buf, at + _HEADER_BYTES)
    if magic != _MAGIC:
        return None
    if version != DATA_VERSION:
        raise StoreDamaged(f"the store has LMDB data version {version}, not {DATA_VERSION}", cure="use the LMDB that wrote it")
    return parse_body(bytes(buf[at + META_AT : at + META_AT + META_BODY_BYTES]))


def newest_meta(buf: Buffer) -> Meta:
    """The meta page that LMDB would take: the higher transaction number."""
    found = [meta for slot in (0, 1) if (meta := read_meta(buf, slot)) is not None]
    if not found:
        raise StoreDamaged("the store has no LMDB meta page")
    return max(found, key=lambda meta: meta.txnid)


def parse_body(body: bytes) -> Meta:
    """Name the fields of a meta body."""
    if len(body) != META_BODY_BYTES:
        raise StoreDamaged(f"a meta body of {len(body)} bytes")
    fields = _BODY.unpack(body)
    mapsize, psize, _, free_depth, _, _, _, _, free_root = fields[:9]
    _, _, main_depth, _, _, _, _, main_root, last_pg, txnid = fields[9:]
    if not is_page_size(psize):
        raise StoreDamaged(f"a meta page announces pages of {psize} bytes")
    return Meta(psize, mapsize, free_depth, free_root, main_depth, main_root, last_pg, txnid, body)


def page_size_of(body: bytes) -> int:
    """Only that of a meta body which was looked at before."""
    size: int = _u32(body, _PAGE_SIZE_AT)[0]
    return size


def restamp(body: bytes, txnid: int) -> bytes:
    """The same snapshot under another transaction number: what goes into the other slot, so that no older root is left."""
    return body[:_TXN_AT] + txnid.to_bytes(8, "little")


def static_head(slot: int) -> bytes:
    """Bytes [0,32) of a meta page, which LMDB writes once when it creates a file."""
    return _STATIC.pack(slot, 0, _META, 0, 0, _MAGIC, DATA_VERSION, 0)


def _page_size(buf: Buffer) -> int:
    if len(buf) < _FIRST_PAGE_SIZE_AT + 4:
        return 4096
    size: int = _u32(buf, _FIRST_PAGE_SIZE_AT)[0]
    return size if 512 <= size <= 65536 else 4096


# --- free pages -------------------------------------------------------------------------------------------------------------


def free_ids(buf: Buffer, meta: Meta) -> "array[int]":
    """Every page that snapshot ``meta`` does not use, in no order."""
    try:
        return _ids(_value(buf, meta.psize, record) for leaf in _leaves(buf, meta) for record in _records(buf, meta, leaf))
    except (struct.error, IndexError) as error:
        raise _damaged(meta, error) from error


def free_list(buf: Buffer, meta: Meta) -> Iterator[tuple[int, int]]:
    """Where the free database lies, as (first page, number of pages): each is said before it is looked at, for a caller who must see
    first whether it can be read."""
    try:
        level = [meta.free_root] if meta.free_depth else []
        for height in range(meta.free_depth, 0, -1):
            yield from ((page, 1) for page in level)
            if height > 1:
                level = sorted(_children(buf, meta.psize, level))
        for leaf in level:
            for record in _records(buf, meta, leaf):
                low, high, flags, _, _ = _leaf_node(record, 0)
                if flags & _BIGDATA:
                    yield _u64(record, _NODE_BYTES)[0], (_HEADER_BYTES + (low | high << 16) + meta.psize - 1) // meta.psize
    except (struct.error, IndexError) as error:
        raise _damaged(meta, error) from error


def free_count(buf: Buffer, meta: Meta, before_txn: int | None = None) -> int:
    """How many pages that is; reads the heads of the free database's records only. ``before_txn``: only those that were given up
    before that transaction. LMDB takes no others while somebody reads its snapshot."""
    try:
        return sum(_count(buf, meta, leaf, before_txn) for leaf in _leaves(buf, meta))
    except (struct.error, IndexError) as error:
        raise _damaged(meta, error) from error


class Changes(NamedTuple):
    """What the transactions between two snapshots did to pages."""

    written: list[int]  # in use by the newer one and not by the older one, rising
    freed: list[tuple[int, int]]  # the other way round, as runs


def changed_pages(buf: Buffer, old: Meta, new: Meta) -> list[int]:
    """Pages that the transactions between two snapshots wrote, rising. See ``changes``."""
    return changes(buf, old, new).written


def changes(buf: Buffer, old: Meta, new: Meta) -> Changes:
    """Pages that the transactions between two snapshots wrote, and those that they freed.

    Exact only while no page of ``old`` was reused (see above); beyond that the answer is wrong or StoreDamaged.
    """
    assert old.txnid < new.txnid and old.psize == new.psize, "an older and a newer snapshot of one file"
    try:
        gone, come = _differing_leaves(buf, old, new)
        before = {record for leaf in gone for record in _records(buf, old, leaf)}
        after = {record for leaf in come for record in _records(buf, new, leaf)}
        free_before = set(_ids(_value(buf, old.psize, record) for record in before - after))
        free_after = set(_ids(_value(buf, new.psize, record) for record in after - before))
    except (struct.error, IndexError) as error:
        raise _damaged(new, error) from error
    last = old.last_pg
    freed = free_after - free_before
    if new.last_pg > last:
        free_before.update(range(last + 1, new.last_pg + 1))
        freed = {page for page in freed if page <= last}
    return Changes(sorted(free_before - free_after), runs_of(sorted(freed)))


def live_runs(buf: Buffer, meta: Meta) -> list[tuple[int, int]]:
    """Every page in use but the meta pages, as (first page, number of pages)."""
    runs, first = [], 2
    for page in sorted(free_ids(buf, meta)):
        if page > first:
            runs.append((first, page - first))
        first = page + 1
    if first <= meta.last_pg:
        runs.append((first, meta.last_pg + 1 - first))
    return runs


def runs_of(pages: Sequence[int]) -> list[tuple[int, int]]:
    """Join rising page numbers to (first page, number of pages); long runs are found in leaps."""
    runs: list[tuple[int, int]] = []
    total, at = len(pages), 0
    while at < total:
        first, end, leap = pages[at], at + 1, 1
        while leap:
            last = end - 1 + leap
            if last < total and pages[last] - first == last - at:
                end += leap
                leap *= 2
            else:
                leap //= 2
        runs.append((first, end - at))
        at = end
    return runs


def _differing_leaves(buf: Buffer, old: Meta, new: Meta) -> tuple[set[int], set[int]]:
    """Leaves of one free database that are not leaves of the other; descends both level by level, counted from the leaves.

    A page that both trees hold is unchanged, and so is everything below it.
    """
    old_level: set[int] = set()
    new_level: set[int] = set()
    for height in range(max(old.free_depth, new.free_depth), 0, -1):
        if height == old.free_depth:
            old_level = {old.free_root}
        if height == new.free_depth:
            new_level = {new.free_root}
        old_level, new_level = old_level - new_level, new_level - old_level
        if height > 1:
            old_level = _children(buf, old.psize, old_level)
            new_level = _children(buf, new.psize, new_level)
    return old_level, new_level


def _leaves(buf: Buffer, meta: Meta) -> set[int]:
    level = {meta.free_root} if meta.free_depth else set()
    for _ in range(meta.free_depth - 1):
        level = _children(buf, meta.psize, level)
    return level


def _children(buf: Buffer, psize: int, branches: Iterable[int]) -> set[int]:
    found = set()
    for page in branches:
        at = page * psize
        for node in _nodes(buf, page, at, _BRANCH):
            found.add(_u64(buf, at + node)[0] & _CHILD_MASK)
    return found


def _nodes(buf: Buffer, page: int, at: int, kind: int) -> tuple[int, ...]:
    """Offsets of a page's nodes."""
    number, _, flags, lower, _ = _header(buf, at)
    if number != page or flags != kind or lower < _HEADER_BYTES:
        raise StoreDamaged(f"page {page} of the free list is page {number} with flags {flags:#x}")
    return struct.unpack_from(f"<{(lower - _HEADER_BYTES) // 2}H", buf, at + _HEADER_BYTES)


def _records(buf: Buffer, meta: Meta, leaf: int) -> list[bytes]:
    """The records of one leaf of the free database as they lie there, one after the other: a commit leaves most as they were, so they
    are compared before they are read (twice as fast for a leaf of small ones)."""
    psize = meta.psize
    page = bytes(buf[leaf * psize : (leaf + 1) * psize])
    starts = sorted(_nodes(page, leaf, 0, _LEAF))
    return [page[start:end] for start, end in pairwise((*starts, psize))]


def _value(buf: Buffer, psize: int, record: bytes) -> bytes:
    """Raw value of a record: on its leaf, or on pages of its own, which nobody writes as long as a snapshot has them."""
    low, high, flags, _, _ = _leaf_node(record, 0)
    size = low | high << 16
    if not flags & _BIGDATA:
        return record[_NODE_BYTES : _NODE_BYTES + size]
    page = _u64(record, _NODE_BYTES)[0]
    if _header(buf, page * psize)[0:3:2] != (page, _OVERFLOW):
        raise StoreDamaged(f"page {page} of the free list is not an overflow page")
    start = page * psize + _HEADER_BYTES
    return bytes(buf[start : start + size])


def _count(buf: Buffer, meta: Meta, leaf: int, before_txn: int | None) -> int:
    """Page numbers listed in one leaf of the free database. The key of a record is the transaction that gave them up."""
    at, counted = leaf * meta.psize, 0
    for node in _nodes(buf, leaf, at, _LEAF):
        start = at + node + 16
        _, _, flags, _, given_up = _leaf_node(buf, at + node)
        if before_txn is not None and given_up >= before_txn:
            continue
        if flags & _BIGDATA:
            start = _u64(buf, start)[0] * meta.psize + _HEADER_BYTES
        counted += _u64(buf, start)[0]
    return counted


def _ids(values: Iterable[bytes]) -> "array[int]":
    """Page numbers out of raw values, which may be longer than the numbers in them (LMDB reserves room)."""
    found = array("Q")
    for value in values:
        end = 8 + 8 * int.from_bytes(value[:8], "little")
        if not 8 <= end <= len(value):
            raise StoreDamaged("a record of the free list is cut off")
        found.frombytes(memoryview(value)[8:end])
    return found


def _damaged(meta: Meta, error: Exception) -> StoreDamaged:
    return StoreDamaged(f"the free list of transaction {meta.txnid} cannot be read", cause=str(error))


# --- page contents ----------------------------------------------------------------------------------------------------------


def unit_at(buf: memoryview, psize: int, page: int, first: int = 0) -> tuple[int, int]:
    """(pages, sum) of the unit in use that begins at ``page``: a branch or leaf page, or a whole overflow run. ``buf`` begins with
    page ``first``.

    The sum is xxh3_64, seeded with the page number, of what a shipment carries of it: [0, lower) + [upper, page size), or everything.
    So two stores hold the same unit exactly where their sums are equal, whatever stands in the hole. Raises StoreDamaged if the page
    is not what it says; only for pages that are known to be in use and to begin a unit.
    """
    at = (page - first) * psize
    if at + psize > len(buf):
        raise StoreDamaged(f"page {page} lies behind the end of the store file")
    pages, lower, upper = _unit_head(buf, psize, page, at)
    if lower:
        return 1, _sum_of(b"".join((buf[at : at + lower], buf[at + upper : at + psize])), page)
    if pages < 1 or at + pages * psize > len(buf):
        raise StoreDamaged(f"the overflow run of {pages} pages at {page} is not whole")
    return pages, _sum_of(buf[at : at + pages * psize], page)


def _unit_head(buf: memoryview, psize: int, page: int, at: int) -> tuple[int, int, int]:
    """(pages, lower, upper) of the unit at ``at`` that should begin with ``page``: a branch or leaf page with the hole [lower, upper),
    or what has none: (pages, 0, 0). Raises StoreDamaged if it is neither."""
    number, _, flags, lower, upper = _header(buf, at)
    if number != page:
        raise StoreDamaged(f"page {page} says it is page {number}")
    if flags in (_LEAF, _BRANCH):
        if not _HEADER_BYTES <= lower <= upper <= psize:
            raise StoreDamaged(f"page {page} has the hole [{lower}, {upper})")
        return 1, lower, upper
    if flags not in (_OVERFLOW, _LEAF2):
        raise StoreDamaged(f"page {page} has flags {flags:#x}")
    return lower | upper << 16 if flags == _OVERFLOW else 1, 0, 0


def spoilt_copies(buf: memoryview, psize: int, units: Units) -> list[int]:
    """Pages of a snapshot that do not have the sums they must have. Overflow runs are passed over: LMDB copies none to another page."""
    found = []
    for page, total in units:
        at = page * psize
        if buf[at + _FLAGS_AT] == _OVERFLOW and not buf[at + _FLAGS_AT + 1]:  # nearly all of what a drained queue frees
            continue
        _, _, flags, lower, upper = _header(buf, at)
        if flags in (_LEAF, _BRANCH):  # asked for with every commit: half the time of ``unit_at``
            held = _sum_of(b"".join((buf[at : at + lower], buf[at + upper : at + psize])), page)
            if held != total:
                found.append(page)
        elif flags != _OVERFLOW and not _is_unit(buf, psize, page, total):
            found.append(page)
    return found


def _is_unit(buf: memoryview, psize: int, page: int, total: int) -> bool:
    try:
        return unit_at(buf, psize, page) == (1, total)
    except StoreDamaged:
        return False


def unit_pages(head: memoryview) -> int:
    """How many pages long the unit is, by the beginning of its first page."""
    if len(head) < _HEADER_BYTES:
        return 1
    _, _, flags, lower, upper = _header(head, 0)
    return lower | upper << 16 if flags == _OVERFLOW else 1


def collect(buf: memoryview, psize: int, pages: Sequence[int]) -> Pages:
    """Copy out pages in use (rising), without the holes of branch and leaf pages; overflow runs and LEAF2 pages whole.

    Every page is checked to be what it says: a continuation page of an overflow run, or a dead page, read as a page with a
    header would corrupt the copy silently.
    """
    runs: list[tuple[int, int]] = []
    compact: list[tuple[int, int, int]] = []
    pieces: list[memoryview] = []
    if pages and (pages[-1] + 1) * psize > len(buf):
        raise StoreDamaged(f"page {pages[-1]} lies behind the end of the store file")
    for begin, together in runs_of(pages):
        page, end = begin, begin + together
        first = page  # of the run being joined
        while page < end:
            at = page * psize
            count, lower, upper = _unit_head(buf, psize, page, at)
            if lower:
                compact.append((page, lower, upper))
                pieces.append(buf[at : at + lower])
                pieces.append(buf[at + upper : at + psize])
                if page > first:
                    runs.append((first, page - first))
                page = first = page + 1
                continue
            if not 1 <= count <= end - page:
                raise StoreDamaged(f"the overflow run of {count} pages at {page} is not whole")
            page += count * units_alike(buf, at, psize, page, count, (end - page) // count)
        if page > first:
            runs.append((first, page - first))
    whole = [buf[page * psize : (page + count) * psize] for page, count in runs]
    return Pages(runs, compact, b"".join(whole + pieces))
