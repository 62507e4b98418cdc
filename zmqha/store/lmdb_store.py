"""The store while this server serves: LMDB transactions, and after each the pages it wrote as a shipment.

LMDB is opened with ``sync=False``: a commit writes and does not wait, so its shipment leaves for the peer while ``flush`` makes it
durable here: one fdatasync, sealed (``seal``), so that after a power cut the file stands at the last flushed transaction or the one
after it. The map is as large as the file system and never grows. Never opened on a passive. Driven by the store thread, decides
nothing.
"""

import errno
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from zmqha.core import limits
from zmqha.core.branch import NO_PAST
from zmqha.core.lmdb_page import Meta
from zmqha.core.merge_report import MergeReport
from zmqha.core.page_sums import PageSums
from zmqha.core.position import GENESIS, Epoch, Lineage, LineageEntry, Mode, Position, bounded
from zmqha.core.shipment import Shipment
from zmqha.core.work import CursorRow, DestinationRow, StoreImage, Work
from zmqha.errors import StoreDamaged, StoreFull, ZmqhaError
from zmqha.store import records
from zmqha.store.absence import Absence
from zmqha.store.alive import nobody_waits, rows
from zmqha.store.census import Census
from zmqha.store.crash import crash_point
from zmqha.store.log_values import LOG, PARTS, LogValues
from zmqha.store.node_state import sync_directory
from zmqha.store.page_file import STORE_FILE, PageReader, reserve_lock_file
from zmqha.store.seal import Sealer
from zmqha.store.shared_past import SharedPast

MAP_BYTES_MAX = 16 << 40  # address space only; opening takes 1 ms
LENGTHEN_BYTES = 64 * limits.MIB  # sparse: costs address space, no disk
DATABASES = 3
SNAPSHOTS_KEPT = 3  # the newest, the one that a lost meta page leaves, and the one before that
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (lmdb.CorruptedError, lmdb.PageNotFoundError)  # what LMDB says of pages that are not what they say
_UNREADABLE = (  # and of what it reads for the first time; BadTxn: an error before this one was passed over
    *_DAMAGED, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.NotFoundError, lmdb.IncompatibleError, lmdb.BadTxnError,
    lmdb.BadValsizeError, lmdb.CursorFullError, lmdb.ProblemError, struct.error, ValueError, IndexError,
)  # fmt: skip


class LmdbStore:
    """An open store. ``position`` is where it stands, chain digest included."""

    def __init__(self, directory: Path, position: Position | None, sums: PageSums | None = None) -> None:
        """Open ``directory``'s store; create it if ``position`` is None. ``sums``: those of its pages, if the passive that it was
        kept them. Raises StoreDamaged if it is not what it must be."""
        self._path = path = directory / STORE_FILE
        self._env = open_environment(path, map_bytes=_map_bytes(directory))
        self._reader = PageReader(path)
        self._meta = self._reader.newest()
        self._length = 0  # of the file, as far as it was lengthened ahead
        self._lengthen()
        self.position = position or Position(Epoch(0, 0), 0, GENESIS)
        self.absence = Absence(self.position)  # since the peer is known to hold everything; it may hold all that is here
        with self._env.begin() as txn:
            # A bystander holding the file open makes LMDB trust its lock file's stale transaction number, and overwrite live pages.
            if not (txn.id() == self._env.info()["last_txnid"] == self._meta.txnid == self.position.txn):
                raise StoreDamaged(
                    f"{path} stands at transaction {self._meta.txnid}, LMDB believes {txn.id()}, expected was {self.position.txn}",
                    cause="another program has the store open",
                    cure="end it (a monitoring tool?) and start this server again",
                )
        self._log: Any = None
        self._parts: Any = None
        self._state: Any = None
        self._sealer = Sealer(path)
        self._sealer.seal(self._meta, self.position.chain)  # what the next transaction builds on
        self._flushed = True
        self._peer_high = 0
        self._pins: deque[lmdb.Transaction] = deque()  # the last SNAPSHOTS_KEPT, oldest first
        self._copied: list[lmdb.Transaction] = []  # held for a copy
        self._number = 0  # the highest a destination ever had
        self.past = SharedPast()
        self.lineage: Lineage = ()
        if position is not None:
            self._log, self._state = self._env.open_db(LOG, create=False), self._env.open_db(b"state", create=False)
            head, self.lineage = read_head(self._env, self._state)
            self._peer_high = head.peer_high
        self.census = Census(self._reader, self._meta, sums)

    def close(self) -> None:
        """Flush, and let go of the file."""
        self.flush()
        self._sealer.retire(self._meta)
        self._sealer.close()
        self.census.close()
        while self._pins:
            self._pins.popleft().abort()
        self._reader.close()
        self._env.close()

    # --- writing ------------------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: Epoch, mode: Mode, writer: str, reason: str, outage_ms: int, peer_high: int) -> Shipment:
        """Commit the lineage record that every epoch begins with; the first one of a new store also makes its file's name durable."""
        entry = LineageEntry(
            epoch, mode, self._meta.txnid + 1, self.position.chain, writer, self._meta.body, int(time.time() * 1000), reason[:200],
            outage_ms,
        )  # fmt: skip
        self._peer_high = max(self._peer_high, peer_high)
        self.past.peer_holds(peer_high)
        past = self.past.settle()
        lineage = bounded((*self.lineage, entry), limits.LINEAGE_ENTRIES, past.txn)
        with self._transaction() as txn:
            log, parts = self._env.open_db(LOG, txn=txn), self._env.open_db(PARTS, txn=txn)
            state = self._env.open_db(b"state", txn=txn)
            txn.put(records.HEAD, self._head(epoch), db=state)
            txn.put(records.LINEAGE, records.encode_row(lineage), db=state)
            txn.put(records.PAST, records.encode_row(past), db=state)
        if self._state is None:
            sync_directory(self._path.parent)
        self._log, self._parts, self._state, self.lineage = log, parts, state, lineage
        crash_point("after_lineage_commit")
        return self._ship(epoch, peer_high)

    def commit(self, work: Work, epoch: Epoch, peer_high: int) -> Shipment:
        """One Work, one transaction, durable with the next ``flush``. Raises StoreFull, and then nothing of it is stored."""
        self._peer_high = max(self._peer_high, peer_high)
        self.past.peer_holds(peer_high)
        crash_point("before_commit")
        with self._transaction() as txn:
            self._write(txn, work)
            txn.put(records.HEAD, self._head(epoch), db=self._state)
        crash_point("after_commit")
        if work.reports:
            crash_point("after_merge_commit")
        shipment = self._ship(epoch, peer_high)
        self._number = max(self._number, _highest(work))
        self.past.committed(shipment.position.txn, work)
        return shipment

    def flush(self) -> None:
        """Make the newest transaction durable: one fdatasync. Nothing, if it is. Any error ends the process: nobody knows then what is
        on the disk."""
        if self._flushed:
            return
        crash_point("before_flush")
        self._sealer.seal(self._meta, self.position.chain)
        crash_point("after_flush")
        self._flushed = True

    def _write(self, txn: lmdb.Transaction, work: Work) -> None:
        state, values = self._state, LogValues(txn, self._log, self._parts)
        if work.appends:
            values.put(work.value, work.appends)
        for value in work.dropped_values:
            values.delete(value)
        for row in work.destinations:
            txn.put(records.row_key(records.DESTINATION, row.number), records.encode_row(row), db=state)
        if _highest(work) > self._number:
            txn.put(records.NUMBER, records.encode_row(_highest(work)), db=state)
        for report in work.reports:
            txn.put(records.report_key(report.number), records.encode_row(report), db=state)
        for cursor in work.cursors:
            txn.put(records.row_key(records.CURSOR, cursor.destination), records.encode_row(cursor), db=state)
        for producer, destination in work.dropped_producers:
            txn.delete(records.producer_key(destination, producer), db=state)
        for producer, destination, last in work.producers:
            txn.put(records.producer_key(destination, producer), records.producer_value(last, self._meta.txnid + 1), db=state)
        for number in work.dropped_destinations:
            self._drop_destination(txn, number)

    def _drop_destination(self, txn: lmdb.Transaction, number: int) -> None:
        txn.delete(records.row_key(records.DESTINATION, number), db=self._state)
        txn.delete(records.row_key(records.CURSOR, number), db=self._state)
        prefix = records.row_key(records.PRODUCER, number)
        with txn.cursor(db=self._state) as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                found = cursor.delete() and bool(cursor.key())

    @contextmanager
    def _transaction(self) -> Iterator[lmdb.Transaction]:
        self.flush()  # a power cut may leave a part of one transaction, not of two
        txn = self._env.begin(write=True)
        try:
            yield txn
            self._flushed = False
            txn.commit()
        except lmdb.Error as error:
            txn.abort()
            if _is_full(error):
                raise StoreFull("the store is full", cause=str(error), cure="consume or purge, or free disk space") from error
            if isinstance(error, _DAMAGED):
                raise StoreDamaged("LMDB finds its own pages damaged", cause=str(error)) from error
            raise
        except BaseException:
            txn.abort()
            raise

    def _head(self, epoch: Epoch) -> bytes:
        return records.encode_row(records.Head(epoch, self.position.chain, self._peer_high))

    def _ship(self, epoch: Epoch, peer_high: int) -> Shipment:
        new = self._reader.meta_at(self._meta.txnid + 1)
        shipment = self._reader.ship(epoch, self.position, self._meta, new, self.census)
        self._meta, self.position = new, shipment.position
        self.absence.committed(shipment, peer_high)
        self._keep_snapshot()
        self._lengthen()
        return shipment

    def _keep_snapshot(self) -> None:
        """Let the next commits overwrite no page of the last snapshots: to tell which one a power cut left, both are looked at."""
        self._pins.append(self._env.begin())
        if len(self._pins) > SNAPSHOTS_KEPT:
            self._pins.popleft().abort()

    def _lengthen(self) -> None:
        """Keep the file (sparse) longer than it is used: the reader need not map it anew after every commit that grows it."""
        if self.file_bytes + LENGTHEN_BYTES // 2 > self._length:
            self._length = self.file_bytes + LENGTHEN_BYTES
            if self._length > self._path.stat().st_size:
                os.truncate(self._path, self._length)

    # --- reading ------------------------------------------------------------------------------------------------------------

    def image(self, node: str = "", alive: Callable[[], None] = nobody_waits) -> StoreImage:
        """Everything the messaging core keeps in memory. ``node`` reads it to serve: what another one wrote, that one holds."""
        if self._state is None:
            return StoreImage()
        destinations: list[DestinationRow] = []
        cursors: list[CursorRow] = []
        reports: list[MergeReport] = []
        past = NO_PAST
        with self._env.begin(buffers=True) as txn:
            for key, raw in rows(txn.cursor(db=self._state), alive):
                kind = bytes(key[:1])
                if kind == records.DESTINATION:
                    destinations.append(records.read_destination(raw))
                elif kind == records.CURSOR:
                    cursors.append(records.read_cursor(raw))
                elif kind == records.PAST:
                    past = records.read_past(raw)
                elif kind == records.NUMBER:
                    self._number = records.read_number(raw)
                elif kind == records.REPORT:
                    reports.append(records.read_report(raw))
                elif kind == records.PRODUCER:
                    break  # these are the last keys, and there may be many
            with txn.cursor(db=self._state) as cursor:
                many = cursor.set_range(records.PRODUCER)
                producers = records.read_producers(cursor if many else (), alive)
            log = records.read_log(txn.cursor(db=self._log), alive)
        reports.sort(key=lambda report: report.number)
        image = StoreImage(
            tuple(destinations), tuple(cursors), producers, log, past.newest_value(log.value[-1] if log.value else 0),
            self._number, tuple(reports),
        )  # fmt: skip
        by_peer = bool(node) and bool(self.lineage) and self.lineage[-1].writer != node
        self.past.opened(image, self.position.txn, past, written_by_peer=by_peer)
        return image

    def fetch(self, value: int, position: int, length: int) -> bytes:
        """One stored batch."""
        with self._env.begin(buffers=True) as txn:
            return LogValues(txn, self._log, self._parts).read(value, position, length)

    # --- for a full copy ----------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> Meta:
        """Of the newest snapshot."""
        return self._meta

    @property
    def reader(self) -> PageReader:
        """The file as pages."""
        return self._reader

    def pin(self) -> lmdb.Transaction:
        """Hold the newest snapshot: none of its pages is reused until it is let go of with ``unpin``."""
        pin = self._env.begin()
        self._copied.append(pin)
        return pin

    def unpin(self, pin: lmdb.Transaction) -> None:
        """Let go of it."""
        self._copied.remove(pin)
        pin.abort()

    # --- for people ---------------------------------------------------------------------------------------------------------

    @property
    def file_bytes(self) -> int:
        """Size of the file as far as it was ever used; it never shrinks."""
        return (self._meta.last_pg + 1) * self._meta.psize

    def reusable_bytes(self) -> int:
        """Room inside the file: pages that hold nothing any more, not in a snapshot that is held either."""
        oldest = min((pin.id() for pin in (*self._pins, *self._copied)), default=self._meta.txnid)
        return self._reader.free_pages(self._meta, oldest) * self._meta.psize


def open_environment(path: Path, *, map_bytes: int, readonly: bool = False) -> lmdb.Environment:
    """LMDB as zmqha uses it, everywhere: data version 1, no map growth, no flush of its own. Raises StoreFull, lmdb.Error."""
    reserve_lock_file(path)
    return lmdb.open(
        str(path), subdir=False, map_size=map_bytes, max_dbs=DATABASES, sync=False, writemap=False, lock=True, readonly=readonly,
        max_readers=16, lib_version=0, create=not readonly,
    )  # fmt: skip


def open_reading(path: Path) -> lmdb.Environment:
    """A store that nobody writes."""
    return open_environment(path, map_bytes=_map_bytes(path.parent), readonly=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read a store that nobody writes. Raises StoreDamaged for whatever reading other bytes than were written comes to; StoreFull if
    there is no room for LMDB's lock file. Any other lmdb.Error (no memory, no descriptors, a failing disk) says nothing about the
    store: it is passed on, ends the process, and the store stays."""
    try:
        yield
    except ZmqhaError:
        raise
    except _UNREADABLE as error:
        raise StoreDamaged(f"{path} cannot be read", cause=str(error), cure="copy the store from the peer") from error
    except lmdb.Error as error:
        if _is_full(error):
            raise StoreFull("the disk under the store is full", cause=str(error), cure="free space on it") from error
        raise


def inspect(directory: Path) -> tuple[records.Head, Lineage]:
    """What the newest transaction of a settled store says of itself. Nobody may be writing it."""
    path = directory / STORE_FILE
    with reading(path):
        env = open_reading(path)
        try:
            return read_head(env, env.open_db(b"state", create=False))
        finally:
            env.close()


def read_head(env: lmdb.Environment, state: Any) -> tuple[records.Head, Lineage]:
    """Head and lineage rows. Raises StoreDamaged if a store has none."""
    with env.begin() as txn:
        head, lineage = txn.get(records.HEAD, db=state), txn.get(records.LINEAGE, db=state)
    if head is None or lineage is None:
        raise StoreDamaged("the store has no head or no lineage row")
    return records.read_head(head), records.read_lineage(lineage)


def _highest(work: Work) -> int:
    """Of the numbers of new or changed destinations."""
    return max((row.number for row in work.destinations), default=0)


def _map_bytes(directory: Path) -> int:
    place = os.statvfs(directory)
    return min(MAP_BYTES_MAX, place.f_blocks * place.f_frsize) & ~0xFFFFF


def _is_full(error: lmdb.Error) -> bool:
    return isinstance(error, lmdb.MapFullError) or any(os.strerror(code) in str(error) for code in _FULL)
