"""Who hears whom, since when: sessions, paths, echoes.

F1: contact is dated by the own clock at the own send. Every Beat carries (session, seq, sender's time); the peer answers at once;
``contact`` is the send time of the newest echoed Beat, so buffered old traffic never looks like contact. F4: facts carry a sequence
per session over all paths; older ones are ignored. A foreign cluster or node id counts as no contact at all.
"""

from dataclasses import dataclass

from zmqha.core.peer_protocol import NO_SESSION, Beat, Echo, Hello, Session
from zmqha.core.timers import AVOID_MS

LONG_AGO = -(1 << 60)


@dataclass(slots=True)
class Path:
    """One heartbeat path (0 = peer link, 1 = LAN)."""

    heard_ms: int = LONG_AGO  # anything received
    contact_ms: int = LONG_AGO  # own send time of the newest echoed Beat
    reset_ms: int = LONG_AGO  # last rebuild of the socket
    stuck_ms: int = LONG_AGO  # when bulk last stood still on it, though heartbeats passed
    seq: int = 0  # newest Beat of the peer's session that came on this path


@dataclass(slots=True)
class Contact:
    """The own session, the peer's newest one, and when each path proved what."""

    cluster_id: str
    peer_id: str
    session: Session
    paths: list[Path]
    peer_session: Session = NO_SESSION
    hello: Hello | None = None  # of peer_session
    beat: Beat | None = None  # newest facts of peer_session
    knows: tuple[Session, int] = (NO_SESSION, 0)  # newest Hello of ours that the peer holds
    opened_ms: int = LONG_AGO  # when the newest session, own or the peer's, began
    unbroken_since_ms: int = LONG_AGO  # contact has not been lost since then
    foreign: str = ""  # who else spoke on a path, for the operator
    _seq: int = 0

    @property
    def contact_ms(self) -> int:
        """Newest proven two-way contact on any path."""
        newest = LONG_AGO
        for path in self.paths:  # asked a dozen times per look at the table: max() of a generator takes four times as long
            if path.contact_ms > newest:
                newest = path.contact_ms
        return newest

    @property
    def since_ms(self) -> int:
        """From when a decision window runs: the newest contact, or the beginning of a session that has had none yet."""
        contact_ms = self.contact_ms
        return contact_ms if contact_ms > self.opened_ms else self.opened_ms

    @property
    def heard_ms(self) -> int:
        """When anything was last received on any path."""
        newest = LONG_AGO
        for path in self.paths:
            if path.heard_ms > newest:
                newest = path.heard_ms
        return newest

    def next_seq(self) -> int:
        """The sequence of the next own Beat."""
        self._seq += 1
        return self._seq

    def renew(self, now_ms: int) -> None:
        """Begin a new own session: every message addressed to the old one is void, contact starts from nothing."""
        self.session = Session(self.session.incarnation, self.session.k + 1)
        self.opened_ms = now_ms
        for path in self.paths:
            path.contact_ms = LONG_AGO
        self.knows = (NO_SESSION, 0)
        self.unbroken_since_ms = LONG_AGO

    def hear_hello(self, path: int, hello: Hello, now_ms: int, lost_ms: int) -> bool:
        """Take a Hello; True if it opens a new session of the peer."""
        if hello.cluster_id != self.cluster_id or hello.node_id != self.peer_id:
            self.foreign = f"{hello.node_id} of cluster {hello.cluster_id}"
            return False
        if not self._admit(hello.session, now_ms, lost_ms):
            return False
        opened = hello.session != self.peer_session
        if opened:
            self.peer_session = hello.session
            self.hello = self.beat = None
            self.opened_ms = now_ms
            self.unbroken_since_ms = LONG_AGO
            for each in self.paths:
                each.contact_ms, each.seq = LONG_AGO, 0
        if self.hello is None or hello.number > self.hello.number:
            self.hello = hello
        self.paths[path].heard_ms = now_ms
        return opened

    def hear_beat(self, path: int, beat: Beat, now_ms: int) -> bool:
        """Take a Beat of the known session; True if its facts are news.

        A Beat of a newer session, whose Hello has not come yet, is a sign of life and nothing else: datagrams can be heard before
        the sockets have connected, and whoever hears must not go on alone (T5, T8).
        """
        if beat.session != self.peer_session:
            if beat.session > self.peer_session:
                self.paths[path].heard_ms = now_ms
            return False
        where = self.paths[path]
        if beat.seq <= where.seq:
            return False  # the same by datagram, or an old one again: not a sign of life
        where.seq, where.heard_ms = beat.seq, now_ms
        if self.beat is not None and beat.seq <= self.beat.seq:
            return False
        self.beat = beat
        self.knows = beat.knows
        return True

    def hear_echo(self, path: int, echo: Echo, now_ms: int, lost_ms: int) -> None:
        """Take the answer to an own Beat."""
        if echo.session != self.peer_session or echo.to_session != self.session or echo.sent_ms > now_ms:
            return
        if now_ms - self.contact_ms > lost_ms:
            self.unbroken_since_ms = now_ms
        where = self.paths[path]
        where.heard_ms = now_ms
        where.contact_ms = max(where.contact_ms, echo.sent_ms)

    def best_path(self, now_ms: int, lost_ms: int) -> int | None:
        """For bulk: the first path with contact on which it did not stand still lately, else the first with contact, if any."""
        well = self._well(now_ms, lost_ms)
        return next((index for index in well if not self._avoided(index, now_ms)), well[0] if well else None)

    def way_round(self, stuck: int, now_ms: int, lost_ms: int) -> int | None:
        """Bulk stands still on this path, though heartbeats pass: another one that is well. If there is one, this one is avoided."""
        well = self._well(now_ms, lost_ms)
        others = [index for index in well if index != stuck and not self._avoided(index, now_ms)]
        if stuck not in well or not others:  # one that is lost is seen, and ends, without this
            return None
        self.paths[stuck].stuck_ms = now_ms
        return others[0]

    def _well(self, now_ms: int, lost_ms: int) -> list[int]:
        return [index for index, path in enumerate(self.paths) if now_ms - path.contact_ms <= lost_ms]

    def _avoided(self, index: int, now_ms: int) -> bool:
        return now_ms - self.paths[index].stuck_ms <= AVOID_MS

    def _admit(self, session: Session, now_ms: int, lost_ms: int) -> bool:
        """Newer sessions replace older ones; an older one only where the newer has fallen silent (its disk was replaced)."""
        return session >= self.peer_session or now_ms - self.heard_ms > lost_ms
