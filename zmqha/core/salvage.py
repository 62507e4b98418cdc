"""The loser's side of a merge: hand over what the kept store holds, item by item, until the winner has all of it on its disk.

::

    start -> SalvageBegin ... first answer -> read, send, read, send ... SalvageEnd -> the winner: durable to the end -> settle

Nothing here is remembered across a loss of contact: a new attempt begins from the start, and the winner skips what it knows. So an item
that is lost on the way, a new routing id, a winner that was restarted are one case: no progress for STALL_MS. A winner that only takes
its time (its disk is nearly full) says so by answering, and is waited for.

The store was kept before (O6); this machine sends and counts, ``HA`` decides when it may run, ``Broker`` drives it.
"""

from collections import deque

import xxhash

from zmqha.core import limits
from zmqha.core.actions import Action, ConnectBulk, ReadBranch, SendBulk, SettleBranch
from zmqha.core.branch import Batches, Differences, Done, Item, salvage_bytes
from zmqha.core.contact import LONG_AGO, Contact
from zmqha.core.events import SalvagePart
from zmqha.core.outbox import Outbox
from zmqha.core.peer_protocol import NO_SESSION, Salvage, SalvageBegin, Salvaged, SalvageEnd, ToWinner
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.core.timers import FAST_BEAT_MS, Timers
from zmqha.core.view import KEEP_AGAIN_MS

STALL_MS = 2000  # without an answer, or with something sent and not taken, for this long: begin again
STALLS_OF_A_PATH = 2  # the first may be the winner's disk


class Salvager(Outbox[Action]):
    """Hands one branch over."""

    def __init__(self, timers: Timers, contact: Contact) -> None:
        super().__init__()
        self._timers = timers
        self._contact = contact
        self._session = self._winner = NO_SESSION
        self._into = self._branch = NO_EPOCH
        self._common_txn = 0
        self._attempt = self._path = self._stalls = 0
        self._clear()

    def _clear(self) -> None:
        self._answered = self._reading = self._settling = False
        self._settle_refused_ms: int | None = None
        self._sent = self._taken = self._durable = 0  # items
        self._end = 0  # index of the end, once it is sent
        self._window: deque[tuple[int, int]] = deque()  # (index, bytes) sent and not durable at the winner
        self._window_bytes = 0
        self._asked_ms = self._heard_ms = self._moved_ms = LONG_AGO

    @property
    def active(self) -> bool:
        """Is there a winner to hear."""
        return self._winner != NO_SESSION

    @property
    def progress(self) -> tuple[int, int]:
        """Items sent, and durable at the winner."""
        return self._sent, self._durable

    def start(self, into: Epoch, branch: Epoch, common_txn: int, now_ms: int) -> None:
        """The store is kept: hand it over to the peer, which serves under ``into``."""
        self._session, self._winner = self._contact.session, self._contact.peer_session
        self._into, self._branch, self._common_txn = into, branch, common_txn
        self._begin(now_ms)

    def stop(self) -> None:
        """Not now: the role, the winner or contact changed."""
        if self.active:
            self.actions.append(ConnectBulk(None))
        self._winner = NO_SESSION
        self._clear()

    def hear(self, message: Salvaged, now_ms: int) -> None:
        """The winner says how far it is."""
        named = (message.session, message.to_session, message.attempt) == (self._winner, self._session, self._attempt)
        if not self.active or not named or not self._durable <= message.durable <= message.taken <= self._sent:
            return
        self._heard_ms = now_ms
        if message.taken > self._taken:
            self._taken, self._moved_ms = message.taken, now_ms
        self._durable = message.durable
        while self._window and self._window[0][0] <= self._durable:
            self._window_bytes -= self._window.popleft()[1]
        if self._end and self._durable == self._end:
            if not self._settling:
                self._settle()
        elif not self._answered:
            self._answered = True
            self._read(begin=True)
        else:
            self._read(begin=False)

    def part(self, event: SalvagePart, now_ms: int) -> None:
        """What the store read."""
        if not self.active or event.attempt != self._attempt:
            return
        self._reading = False
        for item in event.items:
            self._send_item(item)
        if event.last:
            self._sent += 1
            self._end = self._sent
            self._send(SalvageEnd(self._session, self._winner, self._attempt, self._end))
        self._moved_ms = now_ms
        self._read(begin=False)

    def settle_refused(self, now_ms: int) -> None:
        """There was no room to write down that the winner holds everything: not yet."""
        if self._settling:
            self._settle_refused_ms = now_ms

    def tick(self, now_ms: int) -> None:
        """Ask until the winner answers; begin again where nothing moves; settle again where there was no room."""
        if self._settle_refused_ms is not None and now_ms - self._settle_refused_ms > KEEP_AGAIN_MS:
            self._settle()
        if not self.active or self._settling:
            return
        stalled = now_ms - self._heard_ms > STALL_MS or (self._taken < self._sent and now_ms - self._moved_ms > STALL_MS)
        if stalled:
            self._stalls += 1
            if self._stalls % STALLS_OF_A_PATH == 0:
                self._contact.way_round(self._path, now_ms, self._timers.lost_ms)
            self._begin(now_ms)
        elif not self._answered and now_ms - self._asked_ms >= FAST_BEAT_MS:
            self._ask(now_ms)

    def _settle(self) -> None:
        self._settling, self._settle_refused_ms = True, None
        self.actions.append(SettleBranch(self._into))

    def _begin(self, now_ms: int) -> None:
        self._clear()
        self._attempt += 1
        self._heard_ms = self._moved_ms = now_ms
        self._path = self._contact.best_path(now_ms, self._timers.lost_ms) or 0
        self.actions.append(ConnectBulk(self._path))
        self._ask(now_ms)

    def _ask(self, now_ms: int) -> None:
        self._asked_ms = now_ms
        self._send(SalvageBegin(self._session, self._winner, self._attempt, self._branch, self._common_txn))

    def _read(self, *, begin: bool) -> None:
        """Keep the window full: one request at a time, none after the last part."""
        budget = limits.SALVAGE_WINDOW_BYTES - self._window_bytes
        room = budget >= limits.SALVAGE_BYTES_TARGET and len(self._window) < limits.SALVAGE_WINDOW_ITEMS
        if room and self._answered and not self._reading and not self._end:
            self._reading = True
            self.actions.append(ReadBranch(self._attempt, begin, self._common_txn, budget))

    def _send_item(self, item: Item) -> None:
        self._sent += 1
        size = salvage_bytes(item)
        self._window.append((self._sent, size))
        self._window_bytes += size
        data = item.data if isinstance(item, Batches) else b""
        pieces = [data[at : at + limits.CHUNK_BYTES_MAX] for at in range(0, len(data), limits.CHUNK_BYTES_MAX)] or [b""]
        for number, piece in enumerate(pieces):
            message = Salvage(
                self._session, self._winner, self._attempt, self._sent, number, len(pieces), xxhash.xxh3_64_intdigest(piece),
                batches=item.entries if isinstance(item, Batches) else (),
                done=(item.number, item.name, item.ranges) if isinstance(item, Done) else None,
                differences=item.differences if isinstance(item, Differences) else (),
            )  # fmt: skip
            self._send(message, piece)

    def _send(self, message: ToWinner, *frames: bytes) -> None:
        self.actions.append(SendBulk(None, message, frames))
