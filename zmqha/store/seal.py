"""The seal of a transaction: what proves, after a power cut, that all of its pages are on the disk.

LMDB writes pages and meta page without a flush; then the seal goes into the meta page's own sector, where LMDB never writes, and
one fdatasync makes all of it durable, in whatever order the disk likes. The next transaction is not begun before. So a power cut can
leave a part of the newest transaction at most, and the one before it is whole: its pages are not written over by the next two, and
its meta page is in the other slot. ``settle`` tells which of the two the file is, before anybody opens it:

======  =====  =====================================================================================================
newest  older
sealed  no     the newest: its flush was over when the other slot was written to (or ``retire`` says so)
sealed  yes    the newest if its pages lead from the older to what the seal says; else back to the older
no      yes    back to the older: the newest was not flushed
no      no     the file is not LMDB's work: what it is, the journal says
======  =====  =====================================================================================================

Layout, at byte 160 of the meta page of the transaction (little-endian)::

    u64 txn | 32 B chain digest of the position | u64 xxh3_64 of these 40 bytes and the meta page's body

A slot is *sealed* if the seal's transaction is that of its meta page and the sum is right: so a torn pair, or a seal of another time,
is none.
"""

import logging
import os
import struct
from pathlib import Path

import xxhash

from zmqha.core import lmdb_page
from zmqha.core.lmdb_page import Meta
from zmqha.core.position import Epoch, Position
from zmqha.errors import StoreDamaged
from zmqha.store.page_file import SEAL_AT, PageReader, PageWriter

log = logging.getLogger("zmqha.store")

_FIELDS = struct.Struct("<Q32s")
_SUM = struct.Struct("<Q")
SEAL_BYTES = _FIELDS.size + _SUM.size
NO_SEAL = bytes(SEAL_BYTES)
_NO_EPOCH = Epoch(0, 0)  # a chain digest does not cover it


def encode(meta: Meta, chain: bytes) -> bytes:
    """The seal of the transaction that wrote ``meta`` and led to ``chain``."""
    fields = _FIELDS.pack(meta.txnid, chain)
    return fields + _SUM.pack(xxhash.xxh3_64_intdigest(fields + meta.body))


def decode(page: bytes | memoryview, meta: Meta) -> bytes | None:
    """The chain digest that a meta page is sealed with; None if it is not sealed."""
    raw = bytes(page[SEAL_AT : SEAL_AT + SEAL_BYTES])
    if len(raw) < SEAL_BYTES:
        return None
    txn, chain = _FIELDS.unpack_from(raw)
    return chain if txn == meta.txnid and raw == encode(meta, chain) else None


class Sealer:
    """Seals and flushes the transactions of an open store. One thread."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def seal(self, meta: Meta, chain: bytes) -> None:
        """Make the transaction of ``meta``, and everything before it, durable. Raises OSError: then nobody knows what is there."""
        os.pwrite(self._fd, encode(meta, chain), (meta.txnid & 1) * meta.psize + SEAL_AT)
        os.fdatasync(self._fd)

    def retire(self, newest: Meta) -> None:
        """The newest transaction is durable and none will follow: it counts, whatever becomes of its pages. Not flushed: without this
        the next start only looks at them."""
        os.pwrite(self._fd, NO_SEAL, (1 - (newest.txnid & 1)) * newest.psize + SEAL_AT)

    def close(self) -> None:
        os.close(self._fd)


def settle(path: Path) -> bool:
    """Undo the newest transaction of a store that nobody has open if a power cut left a part of it; whether it did.

    Must come before anything else looks at the file: LMDB ends the process on pages that are not what they must be.
    """
    reader = PageReader(path)
    try:
        found = _older_that_counts(reader)
    finally:
        reader.close()
    if found is None:
        return False
    older, chain = found
    writer = PageWriter(path)
    try:
        writer.write_metas(older.body, encode(older, chain))
        writer.sync()
    finally:
        writer.close()
    fields = (
        ("txn", older.txnid),
        ("why", "the transaction after it was not flushed when the power went, or its pages are damaged"),
    )
    log.warning("store.undone", extra={"fields": fields})
    return True


def position(path: Path, base: bytes, epoch: Epoch) -> Position:
    """After ``settle``: where LMDB left the file. ``base``: the chain digest of the transaction before. Raises StoreDamaged if nothing
    says so, or if the pages of the newest transaction say something else."""
    reader = PageReader(path)
    try:
        older, newest = reader.metas()
        chain = _sealed(reader, newest)
        if chain is None:
            raise StoreDamaged(f"the position of {path.name} cannot be told", cause="its newest meta page has no seal")
        undone = lmdb_page.restamp(older.body, newest.txnid)[8:] == newest.body[8:]  # by ``settle``: the pages before are gone
        if not undone and _leads_to(reader, older, base, newest) != chain:
            raise StoreDamaged(f"the pages of transaction {newest.txnid} in {path.name} are not what was written")
        return Position(epoch, newest.txnid, chain)
    finally:
        reader.close()


def _older_that_counts(reader: PageReader) -> tuple[Meta, bytes] | None:
    older, newest = reader.metas()
    base, chain = _sealed(reader, older), _sealed(reader, newest)
    if base is None or (chain is not None and _leads_to(reader, older, base, newest) == chain):
        return None
    return older, base


def _sealed(reader: PageReader, meta: Meta) -> bytes | None:
    return decode(reader.page(meta.txnid & 1, meta), meta)


def _leads_to(reader: PageReader, older: Meta, base: bytes, newest: Meta) -> bytes | None:
    """The chain digest that the pages of ``newest`` come to; None if they are no pages."""
    try:
        reader.check_length(newest, all_pages=True)
        return reader.ship(_NO_EPOCH, Position(_NO_EPOCH, older.txnid, base), older, newest).position.chain
    except (StoreDamaged, struct.error, ValueError, IndexError, OverflowError, MemoryError):
        return None
