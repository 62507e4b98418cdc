"""The passive's side of replication: ask to be fed, hand pages to the store, acknowledge what is durable.

Acknowledgements are repeated every heartbeat: a DEALER that reconnected by itself has a new routing id, and the source learns it from
the next one. Bulk moves to the other path when contact on the present one is lost, or when nothing comes of a copy though heartbeats
pass (a hole in the MTU, a closed port), and comes back to the peer link when that has been well for a while.
"""

from zmqha.core.actions import Action, ConnectBulk, Journal, ReadTable, SendBulk, TakeCopy
from zmqha.core.contact import LONG_AGO, Contact
from zmqha.core.events import Journalled, TablePart
from zmqha.core.outbox import Outbox
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
from zmqha.core.position import NOWHERE
from zmqha.core.shipment import Chunk
from zmqha.core.timers import COPY_SLOW_MS, FAST_BEAT_MS, TABLE_SLOW_MS, Timers
from zmqha.errors import ProtocolError

HOME_MS = 5000  # contact on the peer link must hold this long before bulk moves back to it


class Follower(Outbox[Action]):
    """Follows one source for one session."""

    def __init__(self, timers: Timers, contact: Contact) -> None:
        super().__init__()
        self._timers = timers
        self._contact = contact
        self._session = self._source = NO_SESSION
        self._path: int | None = None
        self._attempt = 0
        self._answered = False  # something came over the present socket
        self._clear()

    def _clear(self) -> None:
        self.position = NOWHERE  # durable; meaningful once whole
        self.copied_bytes = 0
        self.whole = False
        self._copy = 0  # number of the one that has begun
        self.total_bytes = 0  # of the copy, as the source announced it
        self.way: Way | None = None  # likewise; None before it begins
        self._held = Held()
        self._rounds = 0
        self._adopted_bytes = 0  # of copied_bytes, in these rounds
        self._taken_txn = 0
        self._told_ms = LONG_AGO
        self._home_since_ms: int | None = None
        self._moved_ms = LONG_AGO  # something came, or this node had still to do with what had come
        self._begun = False  # a copy, over the present socket
        self._reading = False  # what the own pages hold
        self._told_pages = False  # the source compares them with its own

    @property
    def following(self) -> bool:
        """Is there a source to hear."""
        return self._source != NO_SESSION

    @property
    def copied(self) -> float:
        """Share of the copy that is written, 0..1."""
        if self.whole:
            return 1.0
        return min(0.99, self.copied_bytes / self.total_bytes) if self.total_bytes else 0.0

    @property
    def missing_bytes(self) -> int:
        """Disk that must be free before a copy that ran out of it is worth another attempt; 0: whatever the reserve is.

        An unfinished new file stays where it is, and only the rest of it comes. A delta is written twice: as a file of its own, then
        over the store, which may grow by all of it; an unfinished one is deleted, so it needs its room again.
        """
        if self.whole:
            return 0
        if self._rounds:  # this round is a delta of unknown size, at least what has come of it
            return 2 * (self.copied_bytes - self._adopted_bytes)
        missing = max(0, self.total_bytes - self.copied_bytes)
        if self.way is not Way.DELTA:
            return missing
        return 2 * self.total_bytes if missing else self.total_bytes

    def start(self, session: Session, source: Session, held: Held, now_ms: int) -> None:
        """Ask for what is missing to become a copy, given what this node holds."""
        self._clear()
        self._held = held
        self._session, self._source = session, source
        self._connect(self._contact.best_path(now_ms, self._timers.lost_ms) or 0, now_ms)

    def stop(self) -> None:
        """Acknowledge nothing any more."""
        if self.following:
            self.actions.append(ConnectBulk(None))
        self._source = NO_SESSION
        self._path = None

    def hear(self, message: Bulk, frames: tuple[bytes, ...], now_ms: int) -> None:
        """Something from the source. Raises ProtocolError for what is not in the grammar."""
        if getattr(message, "to_session", None) != self._session or message.session != self._source:
            return
        self._answered = True
        self._moved_ms = now_ms
        match message:
            case CopyBegin() if not frames:
                self.copied_bytes, self.whole, self.position, self._rounds, self._adopted_bytes = 0, False, NOWHERE, 0, 0
                self._copy, self.way = message.copy, message.way
                self._begun, self._reading, self._told_pages = True, False, False
                self.total_bytes = message.page_size * message.pages
                self.actions.append(TakeCopy(message, b""))
            case CopyPages() if len(frames) == 1:
                self.actions.append(TakeCopy(message, frames[0]))
            case CopyRound() if not frames:
                self.actions.append(TakeCopy(message, b""))
            case TableWanted() if not frames:
                self._reading = True
                self.actions.append(ReadTable(message.copy, message.partial))
            case CopyEnd() if not frames:
                self._taken_txn = message.position.txn
                self.actions.append(TakeCopy(message, b""))
            case Piece() if len(frames) == 2:
                self._take(message, frames)
            case _:
                raise ProtocolError(f"{type(message).__name__} with {len(frames)} byte frames")

    def journalled(self, event: Journalled, now_ms: int) -> None:
        """The store made something durable: say so at once. What it still says of a copy begun before the newest is dropped."""
        if event.copy != self._copy:
            return
        if event.rounds > self._rounds:
            self._adopted_bytes = event.copied_bytes
        self.copied_bytes, self._rounds = event.copied_bytes, event.rounds
        if event.whole:
            self.whole, self.position = True, event.position
        elif event.rounds:
            self._held = Held(event.position)
        elif event.copied_bytes and self.way is not Way.DELTA:
            self._held = Held(self._held.position, self._held.trusted, partial=True)
        self._tell(now_ms)

    def table_part(self, event: TablePart) -> None:
        """A piece of what the own pages hold."""
        self._reading, self._told_pages = not event.last, event.last
        message = Table(self._session, self._source, event.copy, event.first, event.last)
        self.actions.append(SendBulk(None, message, (event.sums,)))

    def tick(self, now_ms: int, *, busy: bool = False) -> None:
        """Keep telling; change the path where contact asks for it, or where nothing comes. ``busy``: the own store has work."""
        if not self.following:
            return
        if now_ms - self._told_ms >= (self._timers.heartbeat_ms if self._answered else FAST_BEAT_MS):
            self._tell(now_ms)
        if busy or self._reading or self.whole:
            self._moved_ms = now_ms
        elif now_ms - self._moved_ms > self._patience_ms and self._path is not None:
            way_round = self._contact.way_round(self._path, now_ms, self._timers.lost_ms)
            if way_round is not None:
                self._connect(way_round, now_ms)
                return
        best = self._contact.best_path(now_ms, self._timers.lost_ms)
        if best is None or best == self._path:
            self._home_since_ms = None
            return
        here_lost = self._path is None or now_ms - self._contact.paths[self._path].contact_ms > self._timers.lost_ms
        if self._home_since_ms is None:
            self._home_since_ms = now_ms
        if here_lost or (self.whole and now_ms - self._home_since_ms > HOME_MS):
            self._connect(best, now_ms)

    @property
    def _patience_ms(self) -> int:
        """How long nothing may come of a copy. Before it begins a busy source finds out what is to be sent."""
        beat = self._contact.beat
        finds_out = not self._begun and beat is not None and beat.busy
        return max(2 * self._timers.slow_ms, TABLE_SLOW_MS if self._told_pages else COPY_SLOW_MS if finds_out else 0)

    def _take(self, piece: Piece, frames: tuple[bytes, ...]) -> None:
        if piece.position.txn <= self._taken_txn or not 0 <= piece.index < piece.count:
            return  # sent again after a reconnect
        if piece.index == piece.count - 1:
            self._taken_txn = piece.position.txn
        self.actions.append(Journal(Chunk(piece.position, piece.index, piece.count, frames[0], frames[1])))

    def _connect(self, path: int, now_ms: int) -> None:
        self._path = path
        self._home_since_ms = None
        self._moved_ms = now_ms
        self._attempt += 1
        self._answered = self._begun = self._reading = self._told_pages = False
        self.actions.append(ConnectBulk(path))
        self._tell(now_ms)

    def _tell(self, now_ms: int) -> None:
        self._told_ms = now_ms
        position = self.position if self.whole else NOWHERE
        message: Follow | Stored
        if self._answered:
            message = Stored(self._session, self._source, self._copy, position, self.copied_bytes, self._rounds, self._held)
        else:
            message = Follow(self._session, self._source, position, self._attempt, self._held)
        self.actions.append(SendBulk(None, message))
