"""The store thread: everything that touches a disk, in the order in which it was asked for.

One mailbox in (``core.actions``), one out (``core.events``). What waits is taken together where that saves a flush: chunks of
shipments share one fdatasync. Between two actions it works on what nobody waits for: a running copy, applying the passive's journal,
looking at the bytes of the store's file (``scrub``).

Any error of the disk but a clean "full" ends the process here and at once: no confirmation, no retry, the peer takes over.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.actions import (
    PAIR_NUMBER,
    Claim,
    Commit,
    CopyOut,
    Fetch,
    Follow,
    Journal,
    KeepBranch,
    PairUp,
    ReadBranch,
    ReadTable,
    SaveFacts,
    SettleBranch,
    StandDown,
    StopCopy,
    StoreAction,
    TakeCopy,
    TakeTable,
)
from zmqha.core.branch import Item, salvage_bytes
from zmqha.core.events import (
    Claimed,
    CommitRefused,
    Committed,
    CopyDone,
    Damaged,
    Event,
    FactsSaved,
    Fetched,
    Inspected,
    JournalFull,
    Journalled,
    KeepRefused,
    SalvagePart,
    SalvageSettled,
    Scrubbed,
    ShipmentRefused,
    Surveyed,
    TablePart,
)
from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import CopyBegin, CopyEnd, CopyPages, CopyRound
from zmqha.core.position import NOWHERE, Mode, Position
from zmqha.errors import NoSpace, ProtocolError, StoreDamaged, StoreFull, ZmqhaError
from zmqha.store import lmdb_store
from zmqha.store.copy_source import CopySource
from zmqha.store.copy_target import CopyTarget
from zmqha.store.crash import crash_point
from zmqha.store.delta import DELTA_FILE
from zmqha.store.journal import SEGMENT_FILES
from zmqha.store.kept import Kept
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.node_state import NodeState, set_aside
from zmqha.store.page_file import LOCK_FILE, STORE_FILE, PageReader
from zmqha.store.page_table import read_table
from zmqha.store.replica import COPY_FILE, Replica
from zmqha.store.salvage import Branch
from zmqha.store.scrub import Scrub

log = logging.getLogger("zmqha.store")

APPLY_BYTES = limits.MIB  # applied between two looks at the mailbox
QUIET_S = 0.003  # applying waits for this much quiet: it would compete with the acknowledgement that goes out just now
KEPT_LOOK_S = 3600.0  # how often kept stores are looked through for what may go
MEASURE_S = 0.5  # how often the free space is asked for
MEASURE_BYTES = 2 * limits.MIB  # and after this much was committed: a fast disk fills quickly
JOURNAL_BYTES_MAX = 4 * limits.MIB  # chunks that share one fdatasync


class Space(NamedTuple):
    """What is left on the disk under the store."""

    free_share: float
    free_bytes: int  # of the file system, and inside the store's file, which never shrinks
    used_bytes: int  # of the store's file, without what is free inside it


class StoreThread(threading.Thread):
    """Owns node.state, the store and the journal of one node."""

    def __init__(
        self, directory: Path, state: NodeState, node_id: str, segment_bytes: int, report: Callable[[Event], None],
        scrub_mib_per_s: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(name="zmqha-store", daemon=True)
        self.progress = 0  # actions done; read by the reactor
        self.asked = 0  # actions put; written by the reactor only
        self.moves = 0  # rises while one long action goes on; read by the reactor
        self.space = Space(1.0, 1 << 62, 0)  # replaced every second; read by the reactor
        self.scrubbed = Scrubbed()  # likewise
        self.scrub = Scrub(directory / STORE_FILE, scrub_mib_per_s)
        self._inbox: SimpleQueue[StoreAction | None] = SimpleQueue()
        self._report = report
        self._directory = directory
        self._node_id = node_id
        self._segment_bytes = segment_bytes
        self._state = state
        self._store: LmdbStore | None = None
        self._replica: Replica | None = None
        self._target: CopyTarget | None = None
        self._table: Iterator[TablePart | None] | None = None  # being read, for the source
        self._copy: CopySource | None = None
        self._kept = Kept(directory, node_id)
        self._kept_look_s = 0.0
        self._branch: Branch | None = None  # being read for a merge
        self._items: Iterator[Item] = iter(())
        self._position: Position | None = None  # of the store while it is closed
        self._refusals = 0
        self._unflushed_bytes = 0
        self._unflushed = 0
        self._applying = False
        self._differs = False  # the copy differs from its source, and this was reported
        self._measured_s = 0.0
        self._unmeasured_bytes = 0  # committed since

    def put(self, action: StoreAction) -> None:
        """Called by the reactor."""
        self.asked += 1
        self._inbox.put(action)

    def stop(self) -> None:
        """Called by the reactor at a planned exit; what was put before is done first."""
        self._inbox.put(None)
        self.join(timeout=10)

    def run(self) -> None:
        """The thread's top: the one place that catches everything, and its answer is to end the process."""
        try:
            while (action := self._next()) is not None:
                self._do(action)
                if not isinstance(action, Journal):
                    self.progress += 1
            self._close_all()
        except BaseException as error:
            log.critical("store.failed", exc_info=True, extra={"fields": _explained(error)})
            logging.shutdown()
            os._exit(1)

    def _next(self) -> StoreAction | None:
        """The next action; meanwhile flush, copy and apply."""
        while True:
            try:
                action = self._inbox.get(timeout=self._patience_s())
            except Empty:
                if self._unflushed:
                    self._flush()
                else:
                    self._background()
                    self._measure_space()
                continue
            self._measure_space()
            if action is None:
                return None
            if self._unflushed and (not isinstance(action, Journal) or self._unflushed_bytes >= JOURNAL_BYTES_MAX):
                self._flush()
            if self._copy is not None and isinstance(action, Commit):
                self._copy_step()
            if self.scrub.late(time.monotonic()):
                self._scrub_step()
            return action

    def _patience_s(self) -> float:
        """How long to wait for an action before doing what nobody waits for."""
        if self._unflushed or self._table is not None or (self._copy is not None and self._copy.ready):
            return 0
        if self._applying and self._replica is not None:
            return 0 if self._replica.waiting_bytes > APPLY_BYTES else QUIET_S
        due_s = self.scrub.due_s
        return MEASURE_S if due_s is None else min(MEASURE_S, max(QUIET_S, due_s - time.monotonic()))

    def _background(self) -> None:
        """A piece of what nobody waits for."""
        if self._copy is not None and self._copy.ready:
            self._copy_step()
        elif self._table is not None:
            self._table_step(self._table)
        elif self._applying and self._replica is not None:
            try:
                self._applying = self._replica.apply(APPLY_BYTES)
                self._compare_digests()
            except StoreFull as error:  # nothing is lost: what is not applied stays in the journal
                self._applying = False
                self._say_full(error)
        elif (due_s := self.scrub.due_s) is not None and due_s <= time.monotonic():
            self._scrub_step()

    def _scrub_step(self) -> None:
        """A slice of the store's file is looked at."""
        for why in self.scrub.step(time.monotonic()):
            self._say_damaged(why)

    def _compare_digests(self) -> None:
        """What the passive applied must be what the active says it is."""
        at = self._replica.differs_at if self._replica is not None else None
        if at is not None and not self._differs:
            self._differs = True
            self._say_damaged(f"the copy's digest is not the active's after transaction {at}")

    def _say_damaged(self, why: str) -> None:
        log.error("store.rotten", extra={"fields": (("what", why),)})
        self._report(Damaged(why))

    def _do(self, action: StoreAction) -> None:
        match action:
            case Commit():
                self._commit(action)
            case Journal():
                self._journal(action)
            case Fetch(token, value, position, length):
                assert self._store is not None
                self._report(Fetched(token, self._store.fetch(value, position, length)))
            case TakeCopy():
                self._take_copy(action)
            case ReadTable(partial):
                self._table = read_table(self._directory, partial=partial)
            case CopyOut():
                self._copy_out(action)
            case TakeTable(copy):
                if self._copy is not None and self._copy.copy == copy:
                    self._copy.take_table(action)
            case StopCopy():
                self._stop_copy()
            case SaveFacts(facts):
                self._save(facts)
                self._report(FactsSaved())
            case Claim():
                self._claim(action)
            case PairUp():
                self._pair_up(action)
            case Follow(facts):
                self._follow(facts)
            case StandDown(discard):
                self._stand_down(discard)
            case KeepBranch(common_txn, keep):
                self._keep_branch(common_txn, keep=keep)
            case ReadBranch():
                self._read_branch(action)
            case SettleBranch(into):
                self._close_branch()
                self._kept.settle(into)
                self._report(SalvageSettled(into))

    # --- serving ------------------------------------------------------------------------------------------------------------

    def _commit(self, action: Commit) -> None:
        if action.attempt < self._refusals:
            return  # built on a Work that was refused; the core has been told and builds anew
        assert self._store is not None
        try:
            shipment = self._store.commit(action.work, action.epoch, action.peer_high)
        except StoreFull as error:
            self._refusals += 1
            refusal = NoSpace("the active server's disk is full", cause=error.cause, cure=error.cure)
            self._report(CommitRefused(action.work.number, refusal))
            return
        if action.solo:
            self._store.sync()
        self._unmeasured_bytes += shipment.size
        crash_point("after_local_commit")
        self._report(Committed(action.work.number, shipment, None))

    def _claim(self, action: Claim) -> None:
        image = sums = None
        if self._replica is not None:
            crash_point("before_claim_settle")
            self._replica.settle()
            self._compare_digests()
            self._position = self._replica.position
            sums = self._replica.census.sums if self._replica.census is not None else None
            self._close_replica()
        crash_point("before_claim_state")
        self._save(action.facts)
        crash_point("after_claim_state")
        self._target = None
        self._close_branch()
        (self._directory / COPY_FILE).unlink(missing_ok=True)  # an unfinished copy is of no more use
        if self._store is None:
            self._kept.release()
            self._store = LmdbStore(self._directory, self._position, sums)
            self.scrub.watch(self._store.census)
            image = self._store.image(self._node_id)
        self._stop_copy()
        shipment = self._store.begin_epoch(action.epoch, Mode.SOLE, self._node_id, action.reason, action.outage_ms, 0)
        self._store.sync()
        crash_point("after_claim")
        self._report(Claimed(shipment.position, self._store.lineage, image))

    def _pair_up(self, action: PairUp) -> None:
        assert self._store is not None
        crash_point("before_pair_state")
        self._save(action.facts)
        crash_point("after_pair_state")
        shipment = self._store.begin_epoch(action.epoch, Mode.PAIRED, self._node_id, action.reason, 0, 0)
        crash_point("after_pair")
        self._report(Committed(PAIR_NUMBER, shipment, self._store.lineage))

    def _copy_out(self, request: CopyOut) -> None:
        if self._store is None:
            return  # the role ended in the turn that asked for it
        if request.begin:
            self._stop_copy()
            self._copy = CopySource(self._store, request)
        elif self._copy is not None and self._copy.copy == request.copy:
            self._copy.budget += request.budget
            if request.next_round:
                self._copy.next_round()

    def _copy_step(self) -> None:
        assert self._copy is not None
        if not self._copy.ready:
            return
        for event in self._copy.step():
            self._report(event)
            crash_point("copy_source_step")
            if isinstance(event, CopyDone):
                assert self._store is not None
                self._store.past.copied(event.position.txn)
                self._stop_copy()

    def _stop_copy(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    # --- following ----------------------------------------------------------------------------------------------------------

    def _follow(self, facts: NodeFacts) -> None:
        crash_point("before_follow_state")
        self._save(facts)
        crash_point("after_follow_state")
        self._close_replica()
        self._target = CopyTarget(self._directory, self._segment_bytes, self._live)
        self._report(FactsSaved())

    def _table_step(self, table: Iterator[TablePart | None]) -> None:
        part = next(table)
        if part is not None:
            self._report(part)
            if part.last:
                self._table = None

    def _live(self) -> None:
        """Something long goes on: the reactor must not take this thread for stuck."""
        self.moves += 1

    def _take_copy(self, action: TakeCopy) -> None:
        target = self._target
        if target is None:
            return
        message = action.message
        try:
            match message:
                case CopyBegin():
                    self._table = None
                    self._close_replica()
                    target.begin(message.page_size, message.way)
                case CopyPages():
                    crash_point("copy_target_pages")
                    target.pages(message.runs, action.payload, message.digest)
                case CopyRound():
                    target.adopt(message.position, message.meta, message.copied_bytes).close()
                    target.go_on()
                case CopyEnd():
                    self._replica = target.adopt(message.position, message.meta, message.copied_bytes)
                    self._differs = False
                    self.scrub.watch(self._replica.count(self._directory / STORE_FILE))
        except ProtocolError as error:
            self._report(ShipmentRefused(error.what))
            return
        except StoreFull as error:
            self._say_full(error)
            return
        self._report(Journalled(target.position, target.copied_bytes, self._replica is not None, target.rounds))

    def _journal(self, action: Journal) -> None:
        if self._replica is None:
            self.progress += 1
            return
        self._unflushed += 1
        self._unflushed_bytes += action.chunk.size
        try:
            self._replica.take(action.chunk)
        except ProtocolError as error:
            self._report(ShipmentRefused(error.what))
        except StoreFull as error:
            self._say_full(error)

    def _flush(self) -> None:
        """One fdatasync for all chunks taken since the last."""
        assert self._replica is not None and self._target is not None
        crash_point("before_acknowledge")
        self.progress += self._unflushed
        self._unflushed = self._unflushed_bytes = 0
        try:
            position = self._replica.flush()
        except StoreFull as error:
            self._say_full(error)
            return
        self._applying = True
        self._report(Journalled(position, self._target.copied_bytes, True, self._target.rounds))

    # --- merging after a divergence -----------------------------------------------------------------------------------------

    def _keep_branch(self, common_txn: int, *, keep: bool) -> None:
        if self._store is not None or self._position is None:
            return  # served again, or damaged, in the turn that asked for it
        branch = Branch(self._directory / STORE_FILE, common_txn)
        try:
            survey = branch.survey()
        finally:
            branch.close()
        try:
            if keep:
                _, lineage = lmdb_store.inspect(self._directory)
                self._kept.keep(self._position, lineage, survey)
        except (StoreFull, NoSpace) as error:
            self._report(KeepRefused(error))
            return
        self._report(Surveyed(survey, keep))

    def _read_branch(self, request: ReadBranch) -> None:
        if request.begin:
            self._close_branch()
            path = self._kept.path()
            if path is None:
                return  # served again in the turn that asked for it
            self._branch = Branch(path, request.common_txn)
            self._items = self._branch.items()
        if self._branch is None:
            return
        items: list[Item] = []
        budget, last = request.budget, False
        while budget > 0 and len(items) < limits.SALVAGE_WINDOW_ITEMS:
            item = next(self._items, None)
            if item is None:
                last = True
                self._close_branch()
                break
            items.append(item)
            budget -= salvage_bytes(item)
        crash_point("salvage_read")
        self._report(SalvagePart(request.attempt, tuple(items), last))

    def _close_branch(self) -> None:
        self._items = iter(())
        if self._branch is not None:
            self._branch.close()
            self._branch = None

    # --- neither ------------------------------------------------------------------------------------------------------------

    def _stand_down(self, discard: bool) -> None:
        """Close everything and say what is there."""
        self._stop_copy()
        self._table = None
        self._close_branch()
        if self._store is not None:
            self.scrub.watch(None)
            self._store.close()
            self._store = None
        if self._replica is not None:
            try:
                self._replica.settle()
                self._compare_digests()
            except StoreFull as error:  # what is durable and not applied stays in the journal
                log.error("store.full", extra={"fields": (("why", error.cause or error.what),)})
            self._close_replica()
        if self._target is not None:
            self._target.abandon()
            self._target = None
        if discard:
            self._kept.discard()
            self._set_store_aside()
        try:
            self._report(self._inspect())
        except StoreFull as error:
            self._position = None
            fault = f"the disk is full and the journal cannot be applied to the store ({error.cause or error.what})"
            self._report(Inspected(True, NOWHERE, (), 0, fault))
        except StoreDamaged as error:
            kept = self._set_store_aside()
            log.error("store.damaged", extra={"fields": (*_explained(error), ("kept", kept))})
            self._position = None
            self._report(Inspected(False, NOWHERE, (), 0, error.what))

    def _inspect(self) -> Inspected:
        replica = Replica.open(self._directory, self._segment_bytes)
        self._position = None
        partial = (self._directory / COPY_FILE).exists()
        if replica is None:
            return Inspected(False, NOWHERE, (), 0, "", partial)
        position, ahead = replica.position, replica.ahead
        replica.close()
        head, lineage = lmdb_store.inspect(self._directory)
        if ahead:
            reader = PageReader(self._directory / STORE_FILE)
            try:
                found = reader.recompute(head.chain, lineage[-1].epoch)
            finally:
                reader.close()
            if found is None:
                raise StoreDamaged(
                    f"the position of {STORE_FILE} cannot be told", cause="its older meta page is not the one before"
                )
            position = found
        self._position = position
        return Inspected(True, position, lineage, head.peer_high, "", partial, self._kept.present())

    def _set_store_aside(self) -> str:
        kept = [
            str(set_aside(path))
            for name in (STORE_FILE, COPY_FILE, DELTA_FILE, *SEGMENT_FILES)  # a copy or a delta may be the store: see CopyTarget
            if (path := self._directory / name).exists()
        ]
        (self._directory / LOCK_FILE).unlink(missing_ok=True)
        return ", ".join(kept)

    def _close_replica(self) -> None:
        if self._replica is not None:
            self.scrub.watch(None)
            self._replica.close()
            self._replica = None
        self._applying = False

    def _save(self, facts: NodeFacts) -> None:
        self._state.save(facts)

    def _measure_space(self) -> None:
        now_s = time.monotonic()
        if now_s - self._measured_s < MEASURE_S and self._unmeasured_bytes < MEASURE_BYTES:
            return
        self._measured_s, self._unmeasured_bytes = now_s, 0
        if now_s - self._kept_look_s > KEPT_LOOK_S:
            self._kept_look_s = now_s
            if gone := self._kept.expire():
                log.info("kept.expired", extra={"fields": (("names", ", ".join(gone)),)})
        place = os.statvfs(self._directory)
        room = self._store.reusable_bytes() if self._store is not None else 0
        used = self._store.file_bytes - room if self._store is not None else self._closed_bytes()
        free = place.f_bavail * place.f_frsize + room
        self.scrubbed = self.scrub.counts()
        self.space = Space(min(1.0, free / max(1, place.f_blocks * place.f_frsize)), free, used)

    def _say_full(self, error: StoreFull) -> None:
        """With a measure of this moment: an older one would say that there is room."""
        self._measured_s = 0.0
        self._measure_space()
        self._report(JournalFull(error))

    def _closed_bytes(self) -> int:
        """What the store takes on the disk while LMDB does not have it open."""
        try:
            return (self._directory / STORE_FILE).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def _close_all(self) -> None:
        if self._store is not None:
            self._store.sync()
        self._stop_copy()
        if self._store is not None:
            self._store.close()
        self._close_branch()
        self._close_replica()


def _explained(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Fields of a log line: the three parts of an error of ours."""
    if not isinstance(error, ZmqhaError):
        return ()
    parts = (("what", error.what), ("why", error.cause), ("fix", error.cure))
    return tuple((name, text) for name, text in parts if text)
