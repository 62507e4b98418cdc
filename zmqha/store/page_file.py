"""The store's file as pages: ``PageReader`` reads what a commit wrote, ``PageWriter`` puts it into the passive's copy.

Neither opens LMDB. The reader maps the file (shared, read-only) beside the LMDB environment of the same process and copies bytes
out at once, so no page can be reused under a shipment. The writer only writes: when it is safe to write is decided by ``replica``
(the record in the journal is durable), and so is when to flush.

Any OSError is passed on: the thread's top stops the server. Only a "no space" of a write is StoreFull: nothing of it counts yet, and
it can be cured. A flush that failed is never clean, whatever the error says.
"""

import errno
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NoReturn, Protocol

from zmqha.core import lmdb_page, page_sums, shipment
from zmqha.core.limits import MIB
from zmqha.core.lmdb_page import Meta
from zmqha.core.page_sums import Runs, Units
from zmqha.core.position import Epoch, Position
from zmqha.core.shipment import Shipment
from zmqha.errors import StoreDamaged, StoreFull
from zmqha.store.crash import crash_point

STORE_FILE = "store.mdb"
LOCK_FILE = "store.mdb-lock"
SEAL_AT = 160  # of a seal in a meta page (``seal``): behind the 152 bytes that LMDB uses, in the same sector
META_SECTOR_BYTES = 512
LOCK_BYTES = 8192  # 126 readers; more than are ever asked for
FLUSH_EVERY_BYTES = 64 * MIB  # by whoever writes much, so the last flush is short and memory does not fill with unwritten pages
_BUFFERS_MAX = 1000  # per pwritev, and one page more; the kernel's limit is 1024


class Sums(Protocol):
    """Who keeps the sums of a file in step: ``census``."""

    def verify(self, view: memoryview, freed: Runs) -> None: ...

    def advance(self, meta: Meta, freed: Runs, units: Units) -> int: ...


class PageReader:
    """The pages of a store file that LMDB (or a PageWriter) writes. One thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")

    def close(self) -> None:
        self._unmap()
        os.close(self._fd)

    def metas(self) -> tuple[Meta, Meta]:
        """Both meta pages, the older snapshot first."""
        view = self._reaching(0)
        first, second = lmdb_page.read_meta(view, 0), lmdb_page.read_meta(view, 1)
        if first is None or second is None:
            raise StoreDamaged(f"{self._path} is not an LMDB file", cure="copy the store from the peer")
        return (first, second) if first.txnid <= second.txnid else (second, first)

    def newest(self) -> Meta:
        return lmdb_page.newest_meta(self._reaching(0))

    def meta_at(self, txnid: int) -> Meta:
        """The meta page of transaction ``txnid``, which must be one of the last two."""
        meta = lmdb_page.read_meta(self._reaching(0), txnid & 1)
        if meta is None or meta.txnid != txnid:
            raise StoreDamaged(f"the meta page of transaction {txnid} is not in {self._path}")
        return meta

    def check_length(self, meta: Meta, *, all_pages: bool) -> None:
        """Raises StoreDamaged if the file was cut: whoever reads a page behind its end, LMDB too, is ended by the kernel (SIGBUS).

        ``all_pages``: it must reach to the last page of this snapshot; otherwise to the last one in use.
        """
        size = os.fstat(self._fd).st_size
        if (meta.last_pg + 1) * meta.psize <= size:
            return
        end = 0 if all_pages else max((first + count for first, count in self.live_runs(meta)), default=0) * meta.psize
        if all_pages or end > size:
            raise StoreDamaged(f"{self._path} was cut: pages lie behind its end", cure="copy the store from the peer")

    def ship(self, epoch: Epoch, base: Position, old: Meta, new: Meta, sums: Sums | None = None) -> Shipment:
        """What leads from snapshot ``old`` to ``new``. Only for neighbours, or while a read transaction holds ``old``.

        Raises StoreDamaged if pages that the transactions copied did not have the ``sums`` they must have.
        """
        view = self._reaching(new)
        changes = lmdb_page.changes(view, old, new)
        if sums is not None:
            sums.verify(view, changes.freed)
        pages = lmdb_page.collect(view, new.psize, changes.written)
        units = page_sums.units_of(pages.payload, new.psize, pages.runs, pages.compact)
        digest = sums.advance(new, changes.freed, units) if sums is not None else page_sums.NOT_KNOWN
        return shipment.build(
            epoch=epoch, base=base, old_meta=old.body, to_txn=new.txnid, new_meta=new.body, psize=new.psize, pages=pages,
            freed=changes.freed, units=units, digest=digest,
        )  # fmt: skip

    def unit_at(self, page: int, meta: Meta) -> tuple[int, int]:
        """(pages, sum) of the unit of a snapshot that begins there (``lmdb_page.unit_at``)."""
        return lmdb_page.unit_at(self._reaching(meta), meta.psize, page)

    def page(self, page: int, meta: Meta) -> memoryview:
        """One whole page, to be looked at at once."""
        view = self._reaching(meta)
        return view[page * meta.psize : (page + 1) * meta.psize]

    def free_pages(self, meta: Meta, before_txn: int) -> int:
        """How many pages of the file a snapshot does not use, and did not use at ``before_txn`` either."""
        return lmdb_page.free_count(self._reaching(meta), meta, before_txn)

    def live_runs(self, meta: Meta) -> list[tuple[int, int]]:
        """Pages in use by a snapshot, for a full copy."""
        return lmdb_page.live_runs(self._reaching(meta), meta)

    def changed_runs(self, old: Meta, new: Meta) -> list[tuple[int, int]]:
        """Pages in use by ``new`` and not by ``old`` (held by a read transaction), for the next round of a full copy."""
        return lmdb_page.runs_of(lmdb_page.changed_pages(self._reaching(new), old, new))

    def read_runs(self, runs: Iterable[tuple[int, int]], psize: int) -> bytes:
        """Whole pages, for a full copy. The caller holds a read transaction on the snapshot they belong to."""
        runs = list(runs)
        end = max((first + count for first, count in runs), default=0) * psize
        view = self._reaching(end)
        if end > len(view):
            raise StoreDamaged(f"{self._path} ends before page {end // psize - 1}")
        return b"".join([view[first * psize : (first + count) * psize] for first, count in runs])

    def view(self, size: int) -> memoryview:
        """The mapped file, at least so long if the file is. Not to be kept: the next call may map anew."""
        return self._reaching(size)

    def _reaching(self, what: int | Meta) -> memoryview:
        """The mapped file, mapped anew if it may not reach far enough. Pages never written may lie behind its end."""
        need = what if isinstance(what, int) else (what.last_pg + 1) * what.psize
        if self._map is None or need > len(self._view):
            size = os.fstat(self._fd).st_size
            if size > len(self._view):
                self._remap()
        return self._view

    def _remap(self) -> None:
        self._unmap()
        self._map = mmap.mmap(self._fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._view = memoryview(self._map)

    def _unmap(self) -> None:
        """The map is gone with the last slice of it: an error that is on its way holds some."""
        self._view = memoryview(b"")
        self._map = None


class PageWriter:
    """Writes pages into the file of a store that nobody has open. ``sync`` may run in another thread."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)

    def write(self, ship: Shipment) -> None:
        """All pages of a shipment, holes as zeros; pages side by side in one call. Flushes nothing, writes no meta page."""
        psize = ship.psize
        self._grow((lmdb_page.parse_body(ship.meta).last_pg + 1) * psize)
        start = next_page = 0
        buffers: list[memoryview] = []
        for page, count, parts in sorted(_parts(ship), key=itemgetter(0)):
            if page != next_page or len(buffers) > _BUFFERS_MAX:
                write_all(self._fd, buffers, start * psize)
                buffers, start = [], page
            buffers += parts
            next_page = page + count
        write_all(self._fd, buffers, start * psize)

    def write_runs(self, runs: Sequence[tuple[int, int]], pages: bytes | memoryview, psize: int) -> None:
        """Whole pages of a full copy."""
        view, at = memoryview(pages), 0
        for first, count in runs:
            write_all(self._fd, [view[at : at + count * psize]], first * psize)
            self._size = max(self._size, (first + count) * psize)
            at += count * psize

    def write_metas(self, body: bytes, seal: bytes = b"") -> None:
        """Make the file the snapshot of ``body``: in its slot, with this ``seal``, and as the transaction before in the other one.

        Both, because a meta page of an older snapshot would name pages that were written over. The other slot goes first and is
        flushed first: whichever write is torn, one slot stays whole.
        """
        meta = lmdb_page.parse_body(body)
        psize, slot = meta.psize, meta.txnid & 1
        self._grow((meta.last_pg + 1) * psize)
        crash_point("before_meta_write")
        self._write_meta(1 - slot, lmdb_page.restamp(body, max(0, meta.txnid - 1)), psize)
        self.sync()
        crash_point("between_meta_writes")
        self._write_meta(slot, body, psize, seal)
        crash_point("after_meta_write")

    def sync(self) -> None:
        """Everything written is durable when this returns.

        Every OSError, "no space" too, ends the process: after a flush that failed the kernel takes the pages for clean, and the
        next flush would succeed without them.
        """
        os.fdatasync(self._fd)

    def _write_meta(self, slot: int, body: bytes, psize: int, seal: bytes = b"") -> None:
        sector = (lmdb_page.static_head(slot) + body).ljust(SEAL_AT, b"\0") + seal
        write_all(self._fd, [memoryview(sector.ljust(META_SECTOR_BYTES, b"\0"))], slot * psize)

    def _grow(self, size: int) -> None:
        """A reader maps up to the last page; the file never shrinks."""
        if size <= self._size:
            return
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise_full(error)
        self._size = size


def _parts(ship: Shipment) -> Iterator[tuple[int, int, list[memoryview]]]:
    """(first page, pages, their bytes) of everything in a shipment, not in page order."""
    payload, psize, at = memoryview(ship.payload), ship.psize, 0
    zeros = memoryview(bytes(psize))
    for first, count in ship.runs:
        yield first, count, [payload[at : at + count * psize]]
        at += count * psize
    for page, lower, upper in ship.compact:
        tail, end = at + lower, at + lower + psize - upper
        yield page, 1, [payload[at:tail], zeros[: upper - lower], payload[tail:end]]
        at = end
    assert at == len(payload), "shipment.fill compares the tables with the payload"


def write_all(fd: int, buffers: list[memoryview], offset: int) -> None:
    """pwritev, which may write less than it was given."""
    left = sum(map(len, buffers))
    while left:
        try:
            written = os.pwritev(fd, buffers, offset)
        except OSError as error:
            raise_full(error)
        assert written > 0, "a write of nothing would loop for ever"
        left -= written
        offset += written
        if left:
            buffers = _rest(buffers, written)


def reserve_lock_file(store: Path) -> None:
    """Give LMDB's lock file its blocks. LMDB maps it and does not ask: on a full disk the kernel would kill the process (SIGBUS).
    Raises StoreFull."""
    lock = os.open(f"{store}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(lock, 0, LOCK_BYTES)
    except OSError as error:
        raise_full(error)
    finally:
        os.close(lock)


def raise_full(error: OSError) -> NoReturn:
    """Pass on the error of a write; a "no space" as StoreFull. Not for flushes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StoreFull("the disk under the store is full", cause=str(error), cure="free space on it") from error
    raise error


def _rest(buffers: list[memoryview], written: int) -> list[memoryview]:
    for index, buffer in enumerate(buffers):
        if written < len(buffer):
            return [buffer[written:], *buffers[index + 1 :]]
        written -= len(buffer)
    return []
