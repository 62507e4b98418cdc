"""Group commits on their way: from what waits in the service, through the store thread and the peer, to the confirm.

What arrives while commits run goes into one transaction together, so a commit is as large as the disks are slow. Here is the one rule
that joins high availability, replication and messaging: ``durable_txn``, which transactions may be confirmed to clients now (O5).
"""

from collections import deque

from zmqha.core import limits
from zmqha.core.actions import Commit
from zmqha.core.client_protocol import Durability
from zmqha.core.contact import LONG_AGO
from zmqha.core.ha import HA
from zmqha.core.peer_protocol import State
from zmqha.core.service import Service
from zmqha.core.source import Phase, Source
from zmqha.core.view import SERVING, Step

FULL_PAUSE_MS = 200  # after a clean "full": acknowledgements are tried again at this pace, not at the disk's


class GroupCommit:
    """Of one server that serves. Driven by ``Broker``."""

    def __init__(self, ha: HA, source: Source, service: Service) -> None:
        self.flushed_txn = 0  # durable here
        self._ha = ha
        self._source = source
        self._service = service
        self._unconfirmed: deque[tuple[int, int]] = deque()  # (number, txn), written here, not yet released
        self._in_store = 0  # commits handed to the store thread
        self._attempt = 0
        self._begun_ms = LONG_AGO  # when the last one was begun
        self._paused_until_ms = LONG_AGO
        self.company_ms: int | None = None  # until then acknowledgements wait for a send to share its commit, or for their time

    # --- what the store thread says -----------------------------------------------------------------------------------------

    def forget(self) -> None:
        """A term of serving begins or is over: nothing is on its way."""
        self._unconfirmed.clear()
        self._in_store = 0

    def committed(self, number: int, txn: int) -> None:
        """One is written here; it may not be durable yet."""
        self._in_store -= 1
        self._unconfirmed.append((number, txn))

    def flushed(self, txn: int) -> None:
        """Everything up to this transaction is durable here."""
        self.flushed_txn = max(self.flushed_txn, txn)

    def refused(self, now_ms: int) -> None:
        """There was no space for one, so neither for what was built on it."""
        self._in_store = 0
        self._attempt += 1
        self._paused_until_ms = now_ms + FULL_PAUSE_MS

    # --- what goes out ------------------------------------------------------------------------------------------------------

    def begin(self, now_ms: int) -> list[Commit]:
        """The next commits: as many as the store thread, the peer and the pace of a copy take now."""
        ha, begun = self._ha, list[Commit]()
        self.company_ms = None
        if ha.state not in SERVING or ha.step is not Step.NONE or (ha.state is State.ACTIVE and not ha.granted):
            return begun
        if now_ms < self._paused_until_ms:
            return begun
        source = self._source
        while self._in_store < limits.COMMITS_IN_STORE and source.room and now_ms - self._begun_ms >= source.pause_ms:
            work = self._service.take_work(limits.COMMIT_BYTES_MAX, now_ms)
            if work is None:
                self.company_ms = self._service.company_ms
                break
            self._in_store += 1
            self._begun_ms = now_ms
            begun.append(Commit(work, ha.epoch, ha.state is State.ACTIVE, source.acked.txn, self._attempt))
        return begun

    def durable_txn(self) -> int:
        """O5: the last transaction that may be confirmed to clients now."""
        ha = self._ha
        if ha.step is not Step.NONE:
            return -1
        if ha.state is State.STANDALONE:
            return self.flushed_txn
        if ha.state is State.ACTIVE and ha.granted and self._source.acked.epoch == ha.epoch:
            return min(self._source.acked.txn, self.flushed_txn)
        return -1

    @property
    def awaits_flush(self) -> bool:
        """Is this server's own flush what the next confirm waits for. Where the peer's acknowledgement is, a ``Flushed`` may lie until
        that comes: it would cost a turn and change nothing."""
        paired = self._ha.state is State.ACTIVE and self._source.phase is Phase.STREAMING
        return bool(self._unconfirmed) and (not paired or self._source.acked.txn > self.flushed_txn)

    def release(self) -> None:
        """Confirm what may be confirmed."""
        if not self._unconfirmed:
            return
        durable, released = self.durable_txn(), None
        while self._unconfirmed and self._unconfirmed[0][1] <= durable:
            released, _ = self._unconfirmed.popleft()
        if released is not None:
            paired = self._ha.state is State.ACTIVE
            self._service.released(released, Durability.BOTH_DISKS if paired else Durability.ONE_DISK)
