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
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

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
from zmqha.core.events import (
    Claimed,
    CommitRefused,
    Committed,
    CopyDone,
    Damaged,
    Event,
    FactsSaved,
    Fetched,
    Flushed,
    Inspected,
    JournalFull,
    NoRoom,
    Scrubbed,
)
from zmqha.core.facts import NodeFacts
from zmqha.core.page_sums import NOT_KNOWN
from zmqha.core.position import NOWHERE, Mode, Position
from zmqha.errors import NoSpace, StoreDamaged, StoreFull, ZmqhaError
from zmqha.store import lmdb_store
from zmqha.store.copy_source import CopySource
from zmqha.store.crash import crash_point
from zmqha.store.following import Following, Voice
from zmqha.store.gauge import MEASURE_S, NOT_MEASURED, Gauge
from zmqha.store.handover import Handover
from zmqha.store.inspection import inspect, set_store_aside
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.node_state import NodeState
from zmqha.store.page_file import STORE_FILE, reserve_lock_file
from zmqha.store.replica import COPY_FILE
from zmqha.store.scrub import Scrub

log = logging.getLogger("zmqha.store")

QUIET_S = 0.003  # applying waits for this much quiet: it would compete with the acknowledgement that goes out just now
KEPT_LOOK_S = 3600.0  # how often kept stores are looked through for what may go


class StoreThread(threading.Thread):
    """Owns node.state, the store and the journal of one node."""

    def __init__(
        self, directory: Path, state: NodeState, node_id: str, segment_bytes: int, report: Callable[[Event], None],
        scrub_mib_per_s: int = 0, put_aside: Callable[[Event], None] | None = None,
    ) -> None:  # fmt: skip
        """``report`` takes what must be looked at now, ``put_aside`` what may wait for the next such thing."""
        super().__init__(name="zmqha-store", daemon=True)
        self.progress = 0  # actions done; read by the reactor
        self.asked = 0  # actions put; written by the reactor only
        self.moves = 0  # rises while one long action goes on; read by the reactor
        self.space = NOT_MEASURED  # replaced by every look at the disk; read by the reactor
        self.scrubbed = Scrubbed()  # likewise
        self.pages = (NOWHERE, NOT_KNOWN)  # likewise: the digest of all pages, and where the store stood then
        self.scrub = Scrub(directory / STORE_FILE, scrub_mib_per_s)
        self._inbox: SimpleQueue[StoreAction | None] = SimpleQueue()
        self._report = report
        self._put_aside = put_aside or report
        self._directory = directory
        self._node_id = node_id
        self._segment_bytes = segment_bytes
        self._state = state
        self._store: LmdbStore | None = None
        self._following = Following(
            directory, segment_bytes, self.scrub, Voice(report, self._say_full, self._say_damaged, self._live)
        )
        self._handover = Handover(directory, node_id, report, self._live)
        self._kept_look_s = 0.0
        self._copy: CopySource | None = None
        self._position: Position | None = None  # of the store while it is closed
        self._refusals = 0
        self._halted = False  # a commit came upon damage: nothing more is done with the open store
        self._gauge = Gauge(directory)

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
                self._state.mirror()  # after the answer: what is durable once may be acted upon
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
                if self._following.unflushed:
                    self._flush()
                else:
                    self._background()
                    self._look_around()
                continue
            self._look_around()
            if action is None:
                return None
            if self._following.unflushed and (not isinstance(action, Journal) or self._following.must_flush):
                self._flush()
            if self._copy is not None and isinstance(action, Commit):
                self._copy_step()
            if self.scrub.late(time.monotonic()):
                self._scrub_step()
            return action

    def _patience_s(self) -> float:
        """How long to wait for an action before doing what nobody waits for."""
        following = self._following
        if following.unflushed or following.reads_table or following.hurries or (self._copy is not None and self._copy.ready):
            return 0
        if following.applies:
            return QUIET_S
        due_s = self.scrub.due_s
        return MEASURE_S if due_s is None else min(MEASURE_S, max(QUIET_S, due_s - time.monotonic()))

    def _background(self) -> None:
        """A piece of what nobody waits for."""
        if self._copy is not None and self._copy.ready:
            self._copy_step()
        elif self._following.reads_table or self._following.applies:
            self._following.step()
        elif (due_s := self.scrub.due_s) is not None and due_s <= time.monotonic():
            self._scrub_step()

    def _scrub_step(self) -> None:
        """A slice of the store's file is looked at."""
        for why in self.scrub.step(time.monotonic()):
            self._say_damaged(why)

    def _say_damaged(self, why: str) -> None:
        log.error("store.rotten", extra={"fields": (("what", why),)})
        self._report(Damaged(why))

    def _do(self, action: StoreAction) -> None:
        match action:
            case Commit():
                self._commit(action)
            case Journal():
                if not self._following.journal(action):
                    self.progress += 1
            case Fetch(token, value, position, length):
                assert self._store is not None
                self._report(Fetched(token, self._store.fetch(value, position, length)))
            case TakeCopy():
                self._following.take_copy(action)
            case ReadTable():
                self._following.read_table(action)
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
                crash_point("before_follow_state")
                self._save(facts)
                crash_point("after_follow_state")
                self._following.begin()
                self._report(FactsSaved())
            case StandDown():
                self._stand_down(action)
            case KeepBranch():
                if (
                    self._store is None and self._position is not None
                ):  # else served again, or damaged, in the turn that asked for it
                    self._handover.keep(self._position, action)
            case ReadBranch():
                self._handover.read(action)
            case SettleBranch():
                self._handover.settle(action)

    # --- serving ------------------------------------------------------------------------------------------------------------

    def _commit(self, action: Commit) -> None:
        if action.attempt < self._refusals or self._halted:
            return  # built on a Work that was refused; the core has been told and builds anew, or gives the store up
        assert self._store is not None
        try:
            shipment = self._store.commit(action.work, action.epoch, action.peer_high)
        except StoreFull as error:
            self._refusals += 1
            refusal = NoSpace("the active server's disk is full", cause=error.cause, cure=error.cure)
            self._report(CommitRefused(action.work.number, refusal))
            return
        except StoreDamaged as error:
            self._halt(error)
            return
        self._gauge.committed(shipment.size)
        crash_point("after_local_commit")
        done = Committed(action.work.number, shipment, None)
        if action.early:
            self._report(done)  # it leaves for the peer while this disk makes it durable
        self._store.flush()
        self._put_aside(Flushed(shipment.position.txn))
        if not action.early:
            self._report(done)

    def _halt(self, error: StoreDamaged) -> None:
        """What was committed may hold damage, under sums that agree with it: nobody gets it, nobody is told that it is there."""
        self._halted = True
        self.scrub.watch(None)
        self.scrub.count_damaged()
        self._stop_copy()
        log.error("store.rotten", extra={"fields": _explained(error)})
        self._report(Damaged(error.what, halted=True))

    def _claim(self, action: Claim) -> None:
        if self._halted:
            return
        sums = None
        try:
            followed = self._following.become_store()
            reserve_lock_file(self._directory / STORE_FILE)
        except StoreFull as error:
            self._say_no_room(error)
            return
        if followed is not None:
            self._position, sums = followed
        first = self._store is None and self._position is None
        if not first:
            self._say_sole(action.facts)
        self._handover.close()
        (self._directory / COPY_FILE).unlink(missing_ok=True)  # an unfinished copy is of no more use
        opened = self._store is None
        if self._store is None:
            self._handover.kept.release()
            self._store = LmdbStore(self._directory, self._position, sums)
            self.scrub.watch(self._store.census, metas=True)
        self._store.census.as_it_is = action.as_it_is
        self._stop_copy()
        try:
            with lmdb_store.reading(self._directory / STORE_FILE):
                image = self._store.image(self._node_id, self._live) if opened else None
            shipment = self._store.begin_epoch(
                action.epoch, Mode.SOLE, self._node_id, action.reason, action.outage_ms, action.peer_holds
            )
        except StoreDamaged as error:
            self._halt(error)
            return
        self._store.flush()
        if first:  # not before: SOLE without a store would never serve again; nothing is confirmed before the answer (O1)
            self._say_sole(action.facts)
        crash_point("after_claim")
        self._report(Claimed(shipment.position, self._store.lineage, image))

    def _say_sole(self, facts: NodeFacts) -> None:
        crash_point("before_claim_state")
        self._save(facts)
        crash_point("after_claim_state")

    def _pair_up(self, action: PairUp) -> None:
        if self._halted:
            return
        assert self._store is not None
        crash_point("before_pair_state")
        self._save(action.facts)
        crash_point("after_pair_state")
        self._store.census.as_it_is = False
        try:
            shipment = self._store.begin_epoch(action.epoch, Mode.PAIRED, self._node_id, action.reason, 0, action.peer_holds)
        except StoreDamaged as error:
            self._halt(error)
            return
        self._store.flush()
        crash_point("after_pair")
        self._report(Committed(PAIR_NUMBER, shipment, self._store.lineage))

    def _copy_out(self, request: CopyOut) -> None:
        if self._store is None or self._halted:
            return  # the role ended in the turn that asked for it, or ends now
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
        try:
            events = self._copy.step()
        except StoreDamaged as error:
            self._stop_copy()
            self._say_damaged(error.what)
            return
        for event in events:
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

    # --- neither ------------------------------------------------------------------------------------------------------------

    def _stand_down(self, action: StandDown) -> None:
        """Close everything and say what is there."""
        self._stop_copy()
        self._handover.close()
        self._halted = False
        if self._store is not None:
            self.scrub.watch(None)
            self._store.close()
            self._store = None
        refused = self._following.stand_down()
        if refused is not None:
            log.error("store.full", extra={"fields": (("why", refused.cause or refused.what),)})
        if action.discard and self._handover.discard(action):
            set_store_aside(self._directory)
        self._position = None
        try:
            found = self._inspect()
            self._position = found.position if found.present else None
            self._report(found)
        except StoreFull as error:
            self._say_no_room(error)
        except StoreDamaged as error:
            kept = set_store_aside(self._directory)
            log.error("store.damaged", extra={"fields": (*_explained(error), ("kept", kept))})
            self._report(Inspected(False, NOWHERE, (), 0, error.what))

    def _inspect(self) -> Inspected:
        """Where there is no room for what the journal holds, an unfinished copy must go: it can be had again."""
        try:
            return inspect(self._directory, self._segment_bytes, self._handover.kept.present, self._live)
        except StoreFull:
            if not (self._directory / COPY_FILE).exists():
                raise
            (self._directory / COPY_FILE).unlink()
            return inspect(self._directory, self._segment_bytes, self._handover.kept.present, self._live)

    def _say_no_room(self, error: StoreFull) -> None:
        self._report(NoRoom(f"the disk is full and the journal cannot be applied to the store ({error.cause or error.what})"))

    def _flush(self) -> None:
        self.progress += self._following.flush()

    def _live(self) -> None:
        """Something long goes on: the reactor must not take this thread for stuck."""
        self.moves += 1

    def _save(self, facts: NodeFacts) -> None:
        self._state.save(facts)

    def _look_around(self) -> None:
        """At the disk, and at what is told with it."""
        now_s = time.monotonic()
        if not self._gauge.due(now_s):
            return
        if now_s - self._kept_look_s > KEPT_LOOK_S:
            self._kept_look_s = now_s
            if gone := self._handover.kept.expire():
                log.info("kept.expired", extra={"fields": (("names", ", ".join(gone)),)})
        self.scrubbed = self.scrub.counts()
        self.pages = self._following.pages if self._store is None else (self._store.position, self._store.census.digest)
        self.space = self._gauge.measure(self._store, now_s)

    def _say_full(self, error: StoreFull) -> None:
        """With a look of this moment: an older one would say that there is room."""
        self._gauge.spoil()
        self._look_around()
        self._report(JournalFull(error))

    def _close_all(self) -> None:
        self._stop_copy()
        if self._store is not None:
            self._store.close()
        self._handover.close()
        self._following.close()


def _explained(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Fields of a log line: the three parts of an error of ours."""
    if not isinstance(error, ZmqhaError):
        return ()
    parts = (("what", error.what), ("why", error.cause), ("fix", error.cure))
    return tuple((name, text) for name, text in parts if text)
