"""The active's side of replication: what the peer must still make durable, and how a returning peer gets what it lacks.

::

    NONE --Follow(NOWHERE)--> COPYING --CopyDone--> STREAMING         Follow(position) or a new routing id: send again from there
      ^                          |                      |
      +------- the follower falls to WAITING, is too slow, its session ends

What has to be copied is found out by the store (``store.copy_source``), from what the follower says it holds. A copy goes in rounds:
after each the follower has a complete store again, and only then the next one, shorter, begins; so commits do not wait for a copy.
Where rounds do not get shorter commits are spaced (``core.pace``), and a copy that does not end even so is given up.

The window is bounded (limits.WINDOW_*, and COPY_BACKLOG_* while a copy is being closed): above it no commit is started, so memory is
bounded by the follower's pace or, after ``slow_ms``, by dropping the follower. Shipments stay here until acknowledged, because a socket
that reconnects forgets.
"""

from collections import deque
from enum import Enum, auto
from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.actions import Action, CopyOut, Note, SendBulk, StopCopy, TakeTable
from zmqha.core.contact import LONG_AGO
from zmqha.core.events import CopyBegun, CopyDone, CopyPart, RoundDone, TableNeeded
from zmqha.core.outbox import Outbox
from zmqha.core.pace import Pace
from zmqha.core.peer_protocol import (
    NO_SESSION,
    Bulk,
    CopyBegin,
    CopyEnd,
    CopyPages,
    CopyRound,
    Follow,
    Held,
    Piece,
    Session,
    Stored,
    Table,
    TableWanted,
    Way,
)
from zmqha.core.position import NOWHERE, Position
from zmqha.core.shipment import Shipment, chunks
from zmqha.core.timers import COPY_SLOW_MS, TABLE_SLOW_MS


class Phase(Enum):
    """How far the follower is."""

    NONE = auto()
    COPYING = auto()
    STREAMING = auto()


class Outstanding(NamedTuple):
    """A shipment on its way."""

    shipment: Shipment
    sent_ms: int


class Source(Outbox[Action]):
    """Feeds at most one follower."""

    def __init__(self) -> None:
        super().__init__()
        self._copy = 0  # number of the newest copy; what the store still says of an older one is dropped
        self._clear()

    def _clear(self) -> None:
        self.phase = Phase.NONE
        self.acked = NOWHERE  # durable in the follower's journal
        self.whole = False  # the follower has taken the whole copy
        self._session = self._follower_session = NO_SESSION  # own and the follower's, at Follow
        self._asked = (NO_SESSION, NO_SESSION, 0)  # the Follow that is being answered
        self._route: bytes | None = None
        self._window: deque[Outstanding] = deque()
        self._window_bytes = 0
        self._asked_bytes = self._sent_bytes = self._copied_bytes = self._total_bytes = 0
        self._copy_moved_ms = LONG_AGO
        self._table_due = False  # the follower is to say what its pages hold
        self._copy_end = NOWHERE
        self.way: Way | None = None  # of the copy; None before it begins
        self._rounds = 0  # handed out completely
        self._pace = Pace()
        self._between = False  # the next one waits until the follower has made the last one its store

    def reset(self) -> None:
        """No follower any more."""
        self.actions = [action for action in self.actions if not isinstance(action, CopyOut)]
        if self.phase is Phase.COPYING:
            self.actions.append(StopCopy())
        self._clear()

    # --- from the follower --------------------------------------------------------------------------------------------------

    def follow(self, sender: bytes, message: Follow, now_ms: int) -> None:
        """The follower (again) asks to be fed. The caller has checked both sessions."""
        asked = (message.to_session, message.session, message.attempt)
        if asked == self._asked and sender == self._route:
            return
        if asked[:2] == self._asked[:2] and message.attempt < self._asked[2]:
            return  # sat in the kernel of a path that was cut
        if message.position == NOWHERE:
            self._start_copy(sender, asked, message.held, now_ms)
        elif self.phase is Phase.STREAMING and asked[:2] == (self._session, self._follower_session):
            self._asked, self._route = asked, sender
            self._acknowledge(message.position)
            self._send_again(now_ms)

    def _start_copy(self, sender: bytes, asked: tuple[Session, Session, int], held: Held, now_ms: int) -> None:
        self.reset()
        self._asked, self._route = asked, sender
        self._session, self._follower_session, _ = asked
        self.phase = Phase.COPYING
        self._copy_moved_ms = now_ms
        self._asked_bytes = limits.COPY_WINDOW_BYTES
        self._copy += 1
        self.actions.append(CopyOut(self._copy, begin=True, budget=limits.COPY_WINDOW_BYTES, held=held))

    def table(self, sender: bytes, message: Table, sums: bytes, now_ms: int) -> None:
        """A piece of what the follower's pages hold."""
        ours = (message.session, message.to_session) == (self._follower_session, self._session) and message.copy == self._copy
        if ours and sender == self._route:
            self._table_due, self._copy_moved_ms = not message.last, now_ms
            self.actions.append(TakeTable(self._copy, message.first, sums, message.last))

    def stored(self, sender: bytes, message: Stored, now_ms: int) -> None:
        """An acknowledgement, repeated every heartbeat, so that a reconnected socket is noticed by its new routing id."""
        if message.session != self._follower_session or message.to_session != self._session:
            return
        moved = sender != self._route
        self._route = sender
        if self.phase is Phase.STREAMING:
            self._acknowledge(message.position)
        if moved and not self.whole:
            # The old connection took parts of the copy with it. The follower may hold more by now than it says; never less.
            self._start_copy(sender, self._asked, message.held, now_ms)
        elif self.phase is Phase.COPYING:
            if message.copy == self._copy:  # else it has not heard yet that another one begins
                self._go_on(message, now_ms)
        elif moved:
            self._send_again(now_ms)

    def _go_on(self, message: Stored, now_ms: int) -> None:
        """So much of the running copy has arrived: hand out more."""
        if message.copied_bytes > self._copied_bytes:
            self._copied_bytes = message.copied_bytes
            self._copy_moved_ms = now_ms
        if self._between and message.rounds == self._rounds:
            self._between = False
            self._pace.next_round(self._sent_bytes)
            self.actions.append(CopyOut(self._copy, begin=False, budget=0, next_round=True))
        self._ask_for_more()

    # --- from the store -----------------------------------------------------------------------------------------------------

    def committed(self, shipment: Shipment, now_ms: int) -> None:
        """A commit of ours: ship it, unless a running copy will include it."""
        if self.phase is Phase.COPYING:
            self._pace.wrote(shipment.page_bytes)
        if self.phase is not Phase.STREAMING:
            return
        self._window.append(Outstanding(shipment, now_ms))
        self._window_bytes += shipment.size
        self._send(shipment)

    def table_needed(self, event: TableNeeded, now_ms: int) -> None:
        """The store must compare."""
        if self._current(event.copy):
            self._table_due, self._copy_moved_ms = True, now_ms
            self._bulk(TableWanted(self._session, self._follower_session, self._copy, event.partial))

    def copy_begun(self, event: CopyBegun) -> None:
        """The store pinned a snapshot and knows what is to be sent of it."""
        if self._current(event.copy):
            self._total_bytes, self.way = event.page_size * event.pages, event.way
            self.actions.append(Note("copy.begin", (("way", event.way), ("bytes", self._total_bytes))))
            self._bulk(CopyBegin(self._session, self._follower_session, self._copy, event.page_size, event.pages, event.way))

    def copy_part(self, event: CopyPart) -> None:
        """Pages of the copy."""
        if self._current(event.copy):
            self._sent_bytes += len(event.payload)
            self._bulk(CopyPages(self._session, self._follower_session, event.runs, event.digest), event.payload)

    def round_done(self, event: RoundDone) -> None:
        """The follower must make this much its store before the next round."""
        if self._current(event.copy):
            self._rounds += 1
            self._between = True
            if self._pace.round_done(self._sent_bytes):
                fields = (("rounds", self._rounds), ("pause_ms", self._pace.slowest_ms))
                self.actions.append(Note("copy.pace", fields))
            self._bulk(CopyRound(self._session, self._follower_session, event.position, event.meta, self._sent_bytes))

    def copy_done(self, event: CopyDone) -> None:
        """From here on every commit is shipped."""
        if self._current(event.copy):
            fields = (("way", self.way), ("bytes", self._sent_bytes), ("rounds", self._rounds), ("position", str(event.position)))
            self.actions.append(Note("copy.done", fields))
            self.phase = Phase.STREAMING
            self.acked = NOWHERE
            self._copy_end = event.position
            self._bulk(CopyEnd(self._session, self._follower_session, event.position, event.meta, self._sent_bytes))

    # --- what the broker asks -----------------------------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """May another commit be started."""
        if self.whole:
            return len(self._window) < limits.WINDOW_SHIPMENTS and self._window_bytes < limits.WINDOW_BYTES
        return len(self._window) < limits.COPY_BACKLOG_SHIPMENTS and self._window_bytes < limits.COPY_BACKLOG_BYTES

    @property
    def pause_ms(self) -> int:
        """Time from one commit to the next: 0, unless a copy would not end otherwise."""
        return self._pace.pause_ms(self._copied_bytes) if self.phase is Phase.COPYING else 0

    @property
    def endless(self) -> bool:
        """The copy has taken so many rounds that it is to be given up."""
        return self.phase is Phase.COPYING and self._rounds > limits.COPY_ROUNDS_MAX

    @property
    def in_sync(self) -> bool:
        """The follower has the whole copy and keeps up within the window (T14)."""
        return self.phase is Phase.STREAMING and self.whole and self.room

    @property
    def empty(self) -> bool:
        """Nothing is on its way."""
        return not self._window

    @property
    def copied(self) -> float:
        """Share of a running copy that has arrived, 0..1."""
        if self.phase is Phase.STREAMING:
            return 1.0
        return min(0.99, self._copied_bytes / self._total_bytes) if self._total_bytes else 0.0

    def progress(self) -> dict[str, object] | None:
        """The running copy, for people: how, and how far; None without one."""
        if self.phase is not Phase.COPYING:
            return None
        return {
            "way": self.way.value if self.way else "comparing",
            "bytes": self._copied_bytes,
            "first_round_bytes": self._total_bytes,
            "rounds": self._rounds,
        }

    def too_slow(self, now_ms: int, slow_ms: int) -> bool:
        """Is the follower to be dropped (T_SLOW)."""
        patience_ms = 0 if self.whole else TABLE_SLOW_MS if self._table_due else COPY_SLOW_MS
        return self.overdue_ms(now_ms) > max(slow_ms, patience_ms)

    def overdue_ms(self, now_ms: int) -> int:
        """Age of the oldest thing the follower has not acknowledged."""
        if self._window:
            return now_ms - self._window[0].sent_ms
        if self.phase is Phase.COPYING and (self._table_due or self._sent_bytes > self._copied_bytes):
            return now_ms - self._copy_moved_ms
        return 0

    def fed_session(self) -> Session:
        """The follower's session, NO_SESSION without one."""
        return self._follower_session if self.phase is not Phase.NONE else NO_SESSION

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _current(self, copy: int) -> bool:
        return self.phase is Phase.COPYING and copy == self._copy

    def _acknowledge(self, position: Position) -> None:
        """Cumulative. A position we never shipped (another chain at the same txn) is not an acknowledgement."""
        if position == self._copy_end:
            self.whole = True
            self.acked = max(self.acked, position, key=lambda each: each.txn)
            return
        if not any(out.shipment.position == position for out in self._window):
            return
        while self._window:
            done = self._window.popleft()
            self._window_bytes -= done.shipment.size
            self.acked = done.shipment.position
            if self.acked == position:
                break
        self.whole = True

    def _send_again(self, now_ms: int) -> None:
        for out in self._window:
            self._send(out.shipment)

    def _send(self, shipment: Shipment) -> None:
        for chunk in chunks(shipment):
            piece = Piece(self._session, self._follower_session, chunk.position, chunk.index, chunk.count)
            self._bulk(piece, chunk.head, chunk.piece)

    def _ask_for_more(self) -> None:
        """Keep at most COPY_WINDOW_BYTES of the copy between the two disks."""
        budget = self._copied_bytes + limits.COPY_WINDOW_BYTES - self._asked_bytes
        if budget >= limits.CHUNK_BYTES_MAX:
            self._asked_bytes += budget
            self.actions.append(CopyOut(self._copy, begin=False, budget=budget))

    def _bulk(self, message: Bulk, *frames: bytes) -> None:
        assert self._route is not None
        self.actions.append(SendBulk(self._route, message, frames))
