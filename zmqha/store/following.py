"""The passive's half of the store thread: take a copy, journal what follows, apply it when there is time, say what the own pages hold.

Holds the target of a copy, the replica that it becomes, and the table that is being read for the source. One action at a time, and
``step`` for what nobody waits for. Decides nothing. Driven by ``writer``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.actions import Journal, ReadTable, TakeCopy
from zmqha.core.events import Event, Journalled, ShipmentRefused, TablePart
from zmqha.core.page_sums import NOT_KNOWN, PageSums
from zmqha.core.peer_protocol import CopyBegin, CopyEnd, CopyPages, CopyRound
from zmqha.core.position import NOWHERE, Position
from zmqha.errors import ProtocolError, StoreFull
from zmqha.store.copy_target import CopyTarget
from zmqha.store.crash import crash_point
from zmqha.store.page_file import STORE_FILE
from zmqha.store.page_table import read_table
from zmqha.store.replica import Replica
from zmqha.store.scrub import Scrub

APPLY_BYTES = limits.MIB  # applied between two looks at the mailbox
JOURNAL_BYTES_MAX = 4 * limits.MIB  # chunks that share one fdatasync


class Voice(NamedTuple):
    """How a part of the store thread speaks."""

    report: Callable[[Event], None]
    full: Callable[[StoreFull], None]  # there is no space; nothing acknowledged is lost
    damaged: Callable[[str], None]  # the store does not hold what was written
    alive: Callable[[], None]  # something long goes on


class Following:
    """Of one directory."""

    def __init__(self, directory: Path, segment_bytes: int, scrub: Scrub, voice: Voice) -> None:
        self.replica: Replica | None = None
        self.unflushed = 0  # chunks
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._scrub = scrub
        self._voice = voice
        self._target: CopyTarget | None = None
        self._copy = 0  # number of the one that it takes in
        self._table: Iterator[TablePart | None] | None = None  # being read, for the source
        self._unflushed_bytes = 0
        self._applying = False
        self._differs = False  # the copy differs from its source, and this was reported

    # --- taking -------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """BEHIND is durable: a copy may come."""
        self._close_replica()
        self._target = CopyTarget(self._directory, self._segment_bytes, self._voice.alive)

    def read_table(self, action: ReadTable) -> None:
        """Begin to say what the own pages hold."""
        self._table = read_table(self._directory, action.copy, partial=action.partial)

    def take_copy(self, action: TakeCopy) -> None:
        """The next message of a copy."""
        target = self._target
        if target is None:
            return
        message = action.message
        try:
            match message:
                case CopyBegin():
                    self._table, self._copy = None, message.copy
                    self._close_replica()
                    target.begin(message.page_size, message.way)
                case CopyPages():
                    crash_point("copy_target_pages")
                    target.pages(message.runs, action.payload, message.digest)
                case CopyRound():
                    target.adopt(message.position, message.meta, message.copied_bytes).close()
                    target.go_on()
                case CopyEnd():
                    self.replica = target.adopt(message.position, message.meta, message.copied_bytes)
                    self._differs = False
                    self._scrub.watch(self.replica.count(self._directory / STORE_FILE))
        except ProtocolError as error:
            self._voice.report(ShipmentRefused(error.what))
            return
        except StoreFull as error:
            self._voice.full(error)
            return
        whole = self.replica is not None
        self._voice.report(Journalled(self._copy, target.position, target.copied_bytes, whole, target.rounds))

    def journal(self, action: Journal) -> bool:
        """A chunk, not yet flushed; False if there is nothing it could belong to."""
        if self.replica is None:
            return False
        self.unflushed += 1
        self._unflushed_bytes += action.chunk.size
        try:
            self.replica.take(action.chunk)
        except ProtocolError as error:
            self._voice.report(ShipmentRefused(error.what))
        except StoreFull as error:
            self._voice.full(error)
        return True

    @property
    def must_flush(self) -> bool:
        """Enough chunks wait for one flush."""
        return self._unflushed_bytes >= JOURNAL_BYTES_MAX

    def flush(self) -> int:
        """One fdatasync for all chunks taken since the last; how many those were."""
        assert self.replica is not None and self._target is not None
        crash_point("before_acknowledge")
        flushed, self.unflushed, self._unflushed_bytes = self.unflushed, 0, 0
        try:
            position = self.replica.flush()
        except StoreFull as error:
            self._voice.full(error)
            return flushed
        self._applying = True
        self._voice.report(Journalled(self._copy, position, self._target.copied_bytes, True, self._target.rounds))
        return flushed

    @property
    def pages(self) -> tuple[Position, int]:
        """The digest of all pages of the copy, and where it stands with it."""
        return self.replica.pages if self.replica is not None else (NOWHERE, NOT_KNOWN)

    # --- what nobody waits for ----------------------------------------------------------------------------------------------

    @property
    def reads_table(self) -> bool:
        """A table is being read."""
        return self._table is not None

    @property
    def applies(self) -> bool:
        """Something durable is to be applied, or what was applied is being flushed."""
        return self._applying and self.replica is not None

    @property
    def hurries(self) -> bool:
        """Much is to be applied: quiet must not be waited for."""
        return self.applies and self.replica is not None and self.replica.waiting_bytes > APPLY_BYTES

    def step(self) -> None:
        """A piece of the table, or of what is to be applied."""
        if self._table is not None:
            part = next(self._table)
            if part is not None:
                self._voice.report(part)
                self._table = None if part.last else self._table
        elif self.replica is not None:
            try:
                self._applying = self.replica.apply(APPLY_BYTES)
                self._compare_digests()
            except StoreFull as error:  # nothing is lost: what is not applied stays in the journal
                self._applying = False
                self._voice.full(error)

    def _compare_digests(self) -> None:
        """What was applied must be what the active says it is."""
        at = self.replica.differs_at if self.replica is not None else None
        if at is not None and not self._differs:
            self._differs = True
            self._voice.damaged(f"the copy's digest is not the active's after transaction {at}")

    # --- the end ------------------------------------------------------------------------------------------------------------

    def become_store(self) -> tuple[Position, "PageSums | None"] | None:
        """Settle the replica, so that LMDB may open it: where it stands, and its sums if they are known. None: there is none."""
        replica = self.replica
        self._target = None
        if replica is None:
            return None
        crash_point("before_claim_settle")
        replica.settle()
        self._compare_digests()
        position, sums = replica.position, replica.census.sums if replica.census is not None else None
        self._close_replica()
        return position, sums

    def stand_down(self) -> StoreFull | None:
        """Settle, and let go of everything; why the replica could not be settled: the rest of it stays in the journal."""
        refused = None
        self._table = None
        if self.replica is not None:
            try:
                self.replica.settle()
                self._compare_digests()
            except StoreFull as error:
                refused = error
        self._close_replica()
        if self._target is not None:
            self._target.abandon()
            self._target = None
        return refused

    def close(self) -> None:
        """The process ends."""
        self._close_replica()

    def _close_replica(self) -> None:
        if self.replica is not None:
            self._scrub.watch(None)
            self.replica.close()
            self.replica = None
        self._applying = False
