"""The passive's store: journal first, acknowledge, apply to the file when there is time.

::

    take(chunk)...  ->  flush()  ->  acknowledge  ->  apply(budget)...      checkpoint: fdatasync of the store's file, in a thread

A shipment is taken only on exactly the base it names: transaction, both database roots, chain digest. Never opens LMDB, and the
store's meta pages stay those of the last baseline until ``settle``: until then the file alone is not a store, the journal is half
of it. Decides nothing about roles and talks to nobody. Driven by the store thread.

After ``settle`` LMDB may open the file and write. From then on the file is *ahead* of the journal, and its position comes from
its ``seal``; only a new copy makes it a replica again.
"""

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from zmqha.core import lmdb_page, shipment
from zmqha.core.limits import KIB, MIB
from zmqha.core.page_sums import NOT_KNOWN
from zmqha.core.position import NOWHERE, Position
from zmqha.core.shipment import Chunk, Shipment
from zmqha.errors import ProtocolError, StoreDamaged
from zmqha.store import delta, journal_record, seal
from zmqha.store.alive import nobody_waits
from zmqha.store.census import Census
from zmqha.store.crash import crash_point
from zmqha.store.journal import SEGMENT_BYTES, Journal, Recovered
from zmqha.store.journal_record import Baseline
from zmqha.store.node_state import sync_directory
from zmqha.store.page_file import STORE_FILE, PageReader, PageWriter

COPY_FILE = "store.mdb.copy"
BACKLOG_BYTES_MAX = 32 * MIB  # durable but not applied: kept in memory


class Replica:
    """One directory's store as a follower sees it. Made by ``open``."""

    def __init__(self, directory: Path, journal: Journal, baseline: Baseline, ahead: bool = False) -> None:
        self._journal = journal
        self._writer = PageWriter(directory / STORE_FILE)
        self.ahead = ahead  # LMDB wrote since the baseline, or there is none: only a copy helps
        self.position = baseline.position  # durable
        self._taken = baseline.position  # end of the last whole shipment, flushed or not
        self._meta = baseline.meta  # of _taken
        self._partial: Shipment | None = None
        self._pieces: list[bytes] = []
        self._unflushed: list[tuple[int, Shipment]] = []  # (generation, shipment)
        self._waiting: deque[tuple[int, Shipment]] = deque()  # durable, to be applied
        self._waiting_bytes = 0
        self._checkpoint: _Checkpoint | None = None
        self._settled = True
        self._reader: PageReader | None = None
        self.census: Census | None = None  # once it follows; of what is applied
        self.differs_at: Position | None = None  # the first transaction after which this copy is not what the active says

    @classmethod
    def open(
        cls, directory: Path, segment_bytes: int = SEGMENT_BYTES, alive: Callable[[], None] = nobody_waits
    ) -> "Replica | None":
        """Recover: finish a delta, undo a transaction that was not flushed, replay the journal, write both meta pages, flush. None if
        there is neither store nor journal; a store that holds nothing at all is deleted.

        An unfinished copy stays for the next attempt. Raises StoreDamaged if store and journal do not belong together or cannot be
        read: then only a copy helps.
        """
        delta.finish(directory, segment_bytes, alive)
        store, journal = directory / STORE_FILE, Journal(directory, segment_bytes)
        recovered = journal.recover()
        if recovered is None:
            _remove_empty(store)
        if store.exists() and seal.settle(store) and recovered is None:
            _remove_empty(store)
        if recovered is not None and recovered.settled:
            _finish_copy(directory, recovered.base)
        if not store.exists():
            if recovered is None:
                return None
            raise StoreDamaged(f"there is a journal and no {STORE_FILE} in {directory}", cure="copy the store from the peer")
        newest = _newest_txn(directory, recovered)
        if recovered is None:
            replica = cls(directory, journal, Baseline(NOWHERE, b""), ahead=True)
        else:
            replica = cls(directory, journal, recovered.base, recovered.settled and newest > recovered.position.txn)
            try:
                replica._recover(recovered, alive)
            except BaseException:
                replica.close()
                raise
        return replica

    def close(self) -> None:
        """Let go of the files. What is flushed and not applied is applied by the next ``open``."""
        try:
            self._join_checkpoint()
        finally:
            if self.census is not None:
                self.census.close()
            if self._reader is not None:
                self._reader.close()
            self._journal.close()
            self._writer.close()

    @property
    def waiting_bytes(self) -> int:
        """Durable, not yet applied."""
        return self._waiting_bytes

    # --- following ------------------------------------------------------------------------------------------------------------

    def take(self, chunk: Chunk) -> bool:
        """Write a chunk to the journal, not yet durable; true if its shipment is now whole. Raises ProtocolError if it does not
        apply exactly here. Whatever is raised, the shipment is forgotten then: no later chunk can complete it."""
        assert not self.ahead, "the file is not what the journal says: copy first"
        if chunk.index == 0:
            self._start(chunk)
        ship = self._partial
        if ship is None or (chunk.position, chunk.index) != (ship.position, len(self._pieces)):
            self.forget_partial()
            raise ProtocolError(f"piece {chunk.index} of transaction {chunk.position} is not the next one")
        self._pieces.append(chunk.piece)
        last = chunk.index == chunk.count - 1
        if last or sum(map(len, self._pieces)) > shipment.payload_size(ship):
            ship = self._filled(ship)
        self._settled = False
        try:
            self._journal.append(chunk)
        except BaseException:
            self.forget_partial()
            raise
        if last:
            self._whole(ship)
        return last

    def forget_partial(self) -> None:
        """The rest of a shipment will not come: its session is over."""
        if self._partial is not None:
            self._partial, self._pieces = None, []
            self._journal.rewind()

    def flush(self) -> Position:
        """Make everything taken durable; the position that may be acknowledged."""
        self._journal.flush()
        self.position = self._taken
        self._waiting_bytes += sum(ship.size for _, ship in self._unflushed)
        self._waiting.extend(self._unflushed)
        self._unflushed.clear()
        if self._waiting_bytes > BACKLOG_BYTES_MAX:
            self.apply(self._waiting_bytes - BACKLOG_BYTES_MAX)
        return self.position

    def apply(self, budget_bytes: int) -> bool:
        """Write durable shipments into the store's file, about so many bytes; true if more wait, or if a checkpoint is not over:
        one that failed must not be noticed only at the takeover."""
        while self._waiting and budget_bytes > 0:
            budget_bytes -= self._apply_one()
        self._look_after_checkpoint()
        return bool(self._waiting) or self._checkpoint is not None

    # --- sums ---------------------------------------------------------------------------------------------------------------

    def count(self, path: Path) -> Census:
        """Keep the sums of all pages in step with the file from here on; ``path`` is the file."""
        assert self.census is None and not self._waiting and not self._unflushed, "the file is what was taken"
        self._reader = PageReader(path)
        self.census = Census(self._reader, lmdb_page.parse_body(self._meta))
        return self.census

    @property
    def pages(self) -> tuple[Position, int]:
        """The digest of all pages, and where the store's file stands with it; not known while something is still to be applied."""
        if self.census is None or self._waiting or self._unflushed:
            return NOWHERE, NOT_KNOWN
        return self.position, self.census.digest

    # --- becoming a store ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Apply everything, make the file a store of its own, begin the journal anew. Before promotion and on falling to WAITING.

        An unfinished shipment is forgotten. Nothing happens if nothing was taken since the last time.
        """
        self.forget_partial()
        if self._settled:
            return
        self.flush()
        while self._waiting:
            self._apply_one()
        self._join_checkpoint()
        self._finish()

    # --- taking ---------------------------------------------------------------------------------------------------------------

    def _start(self, chunk: Chunk) -> None:
        self.forget_partial()
        ship = shipment.decode_head(chunk.head, self._taken.chain)
        _check_base(ship, self._taken, self._meta)
        if ship.position != chunk.position:
            raise ProtocolError(f"transaction {chunk.position} arrives with the pages of {ship.position}")
        size = shipment.payload_size(ship)
        if not 1 <= chunk.count <= 1 + size // KIB:
            raise ProtocolError(f"transaction {chunk.position} in {chunk.count} pieces")
        need = journal_record.space(len(chunk.head) + size) + chunk.count * 2 * journal_record.ALIGN
        if not self._journal.room_for(need):
            self._switch()
            self._journal.make_room(need)
        self._partial, self._pieces = ship, []

    def _filled(self, ship: Shipment) -> Shipment:
        try:
            return shipment.fill(ship, b"".join(self._pieces))
        except ProtocolError:
            self.forget_partial()
            raise

    def _whole(self, ship: Shipment) -> None:
        self._unflushed.append((self._journal.generation, ship))
        self._taken, self._meta = ship.position, ship.meta
        self._partial, self._pieces = None, []

    # --- applying -------------------------------------------------------------------------------------------------------------

    def _apply_one(self) -> int:
        _, ship = self._waiting[0]
        crash_point("before_apply")
        self._writer.write(ship)
        self._waiting.popleft()
        self._waiting_bytes -= ship.size
        if self.census is not None:
            self._compare(self.census, ship)
        return ship.size

    def _compare(self, census: Census, ship: Shipment) -> None:
        """Keep the sums in step; where both digests are known, they must be equal."""
        digest = census.advance(lmdb_page.parse_body(ship.meta), ship.freed, ship.units)
        if NOT_KNOWN not in (digest, ship.digest) and digest != ship.digest and self.differs_at is None:
            self.differs_at = ship.position

    def _switch(self) -> None:
        """Go on in the other segment; waits for its checkpoint if that is not done yet."""
        self.flush()
        needed = self._journal.checkpoint_needed
        if needed is not None:
            while self._waiting and self._waiting[0][0] <= needed:
                self._apply_one()
            self._look_after_checkpoint()
            self._join_checkpoint()
        self._journal.switch(Baseline(self._taken, self._meta))

    def _look_after_checkpoint(self) -> None:
        """Start the flush of the store's file once a finished segment is applied; take note when it is done."""
        if self._checkpoint is not None:
            if not self._checkpoint.is_alive():
                self._join_checkpoint()
            return
        needed = self._journal.checkpoint_needed
        if needed is None or (self._waiting and self._waiting[0][0] <= needed):
            return
        self._checkpoint = _Checkpoint(needed, self._writer)
        self._checkpoint.start()

    def _join_checkpoint(self) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            return
        checkpoint.join()
        if checkpoint.error is not None:
            raise checkpoint.error
        self._journal.checkpointed(checkpoint.generation)

    # --- baselines ------------------------------------------------------------------------------------------------------------

    def _recover(self, recovered: Recovered, alive: Callable[[], None]) -> None:
        if self.ahead:
            return
        if recovered.settled:
            self._ready()
            return
        for ship in recovered.shipments:
            alive()
            _check_replay(ship, self._taken, self._meta)
            self._writer.write(ship)
            self._taken, self._meta = ship.position, ship.meta
        assert self._taken == recovered.position
        self.position = self._taken
        self._finish()

    def _ready(self) -> None:
        """A new generation, so that what a crash left behind the baseline is never read again."""
        self._journal.reset(Baseline(self.position, self._meta))

    def _finish(self) -> None:
        """Everything is applied: the file becomes a store, the journal begins anew."""
        self._writer.write_metas(self._meta)
        crash_point("before_checkpoint_sync")
        self._writer.sync()
        crash_point("after_checkpoint_sync")
        self._ready()
        self._settled = True


class _Checkpoint(threading.Thread):
    """One fdatasync of the store's file beside the store thread."""

    def __init__(self, generation: int, writer: PageWriter) -> None:
        super().__init__(name="zmqha-checkpoint", daemon=True)
        self.generation = generation
        self.error: BaseException | None = None  # raised again in the store thread
        self._writer = writer

    def run(self) -> None:
        try:
            crash_point("before_background_sync")
            self._writer.sync()
        except BaseException as error:  # whatever it is, the pages must not count as durable
            self.error = error


def _check_base(ship: Shipment, base: Position, meta: bytes) -> None:
    """A shipment applies only on exactly the base position."""
    if ship.from_txn != base.txn or ship.base_check != shipment.base_check(meta):
        raise ProtocolError(f"transaction {ship.position} was made on {ship.from_txn}; this store stands at {base}")
    if ship.psize != lmdb_page.page_size_of(meta):
        raise ProtocolError(f"transaction {ship.position} has pages of {ship.psize} bytes")


def _check_replay(ship: Shipment, base: Position, meta: bytes) -> None:
    try:
        _check_base(ship, base, meta)
    except ProtocolError as error:
        raise StoreDamaged("the journal does not continue its baseline", cause=error.what) from error


def _remove_empty(store: Path) -> None:
    """A file without a single transaction is no store: LMDB had just made it, or the first one was not flushed and is undone."""
    if not store.exists():
        return
    reader = PageReader(store)
    try:
        empty = all(meta.txnid == 0 for meta in reader.metas())
    finally:
        reader.close()
    if empty:
        store.unlink()
        sync_directory(store.parent)


def _newest(path: Path, check: Callable[[PageReader, lmdb_page.Meta], None] | None = None) -> lmdb_page.Meta:
    """The newest meta page."""
    reader = PageReader(path)
    try:
        newest = reader.newest()
        if check is not None:
            check(reader, newest)
        return newest
    finally:
        reader.close()


def _newest_txn(directory: Path, recovered: Recovered | None) -> int:
    """The file's newest transaction, which must fit the journal: its baseline (LMDB may have written since), or a part of the way
    to its end."""

    def check(reader: PageReader, newest: lmdb_page.Meta) -> None:
        if recovered is None or recovered.settled:
            reader.check_length(newest, all_pages=False)
        else:
            # What lies beyond the baseline the journal brings again, though a meta page that a power cut left alone may name it
            # already. Pages that were free are written over, so the free list does not count.
            reader.check_length(lmdb_page.parse_body(recovered.base.meta), all_pages=True)

    newest = _newest(directory / STORE_FILE, check)
    if recovered is None:
        return newest.txnid
    same = newest.body[8:] == recovered.base.meta[8:]
    fits = same or newest.txnid > recovered.position.txn if recovered.settled else newest.txnid <= recovered.position.txn
    if not fits:
        raise StoreDamaged(
            f"{STORE_FILE} stands at transaction {newest.txnid} and is not what the journal belongs to ({recovered.position})",
            cure="copy the store from the peer",
        )
    return newest.txnid


def _finish_copy(directory: Path, baseline: Baseline) -> None:
    """A copy that the journal already speaks of only lacks its rename."""
    copy = directory / COPY_FILE
    if not copy.exists():
        return
    try:
        newest = _newest(copy)
    except StoreDamaged:
        return  # an unfinished one
    if newest.body == baseline.meta:
        copy.rename(directory / STORE_FILE)
        sync_directory(directory)
