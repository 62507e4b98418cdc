"""Which server to talk to: a machine without sockets or clock. The I/O thread drives it and carries out its actions in order.

::

    connecting ---- OPENED, epoch not below the highest seen ----> connected
    connected  ---- disconnected / REFUSED / silent / WrongState --> lost          ask every server at once
    connected  ---- OPENED elsewhere with a higher epoch ---------> connected      the old session is a zombie's; asked while silent
    lost       ---- OPENED, epoch not below the highest seen ----> connected      re-send, subscribe again
    any        ---- close ----------------------------------------> closed

Every server keeps one connection at all times. Without a session each connected server is asked (OPEN) and, when it refuses,
asked again after 25 to 50 ms during the first two seconds, later after a pause that doubles up to ``reconnect_max``. A server
that refuses and names the active makes that one be asked at once. Times are milliseconds of any clock that never goes back.

Silence need not be death: PING and PONG wait behind a large message on a slow line, which would never get through if the session ended
meanwhile. So silence is judged by what the other server says, which is asked as soon as there is doubt. If it serves, its epoch is
higher, and it gets the session at once: no failover waits for silence to end. If it says that the silent one is active, that one is
given more time (BUSY_MS). If it says nothing, or knows of nobody, the silent one is given up (SILENT_MS).
"""

import random

from zmqha.client.actions import Action, Ask, Begin, Changed, End, Probe, Reset, State
from zmqha.client.answers import BROKEN, NO_ACCESS, Server, no_answer, no_session
from zmqha.client.url import FOREVER, Options
from zmqha.core.client_protocol import Envelope, Failure, Opened, Refused
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.errors import ZmqhaError

SILENT_MS = 1200  # a server that is silent for this long is given up; longer than T_DECIDE (750 ms) of the servers
BUSY_MS = 5000  # likewise where nobody else serves: a message of 8 MiB gets through at 14 Mbit/s
SUSPECT_MS = 600  # after this much silence the other servers are asked too: whoever serves in a higher epoch gets the session
PROBE_MS = 400  # while an answer is due, ping after this much silence, so that silence means something
PING_MS = 1000  # at rest, until the server says otherwise
HANDSHAKE_PAUSE_MS = 1000  # after a failed handshake: keys do not change by the second
FAST_MS = 2000  # after a loss, ask at the fast pace for this long
OWN_GAP_MS = 300  # if this thread ran later than it wanted by this much, silence proves nothing about the server


class Failover:
    """The machine. ``names``: the servers as host:port, in the URL's order; ``rng`` spreads the questions of many clients."""

    def __init__(self, names: list[str], options: Options, rng: random.Random, now: int) -> None:
        self.state = State.CONNECTING
        self.session: int | None = None
        self.highest: Epoch = NO_EPOCH
        self.since = now  # when the search began (no session), or the session (connected)
        self._servers = [Server(name) for name in names]
        self._minimum = max(1, round(options.reconnect_min * 1000))
        self._maximum = max(self._minimum, round(options.reconnect_max * 1000))
        self._keys = bool(options.curve_server_key)
        self._heartbeat = round(options.heartbeat * 1000)
        self._ping = self._heartbeat or PING_MS
        self._rng = rng
        self._heard = now
        self._sent = now
        self._probed: int | None = None
        self._due = now
        self._actions: list[Action] = []

    # --- events -------------------------------------------------------------------------------------------------------------

    def connected(self, server: int, now: int) -> None:
        """The transport reached a server."""
        known = self._servers[server]
        known.connected = True
        known.asked = None
        known.ask_at = now
        known.retry_at = None  # libzmq was quicker than the new connection that was due
        known.answer = "connected"
        self._search(now)

    def disconnected(self, server: int, now: int, why: str = BROKEN) -> None:
        """The transport lost a server, or its handshake failed."""
        if self.state is State.CLOSED:
            return
        known = self._servers[server]
        had, known.connected = known.connected, False
        known.asked = None
        if known.answer != NO_ACCESS or why != BROKEN:  # after a refused key the connection breaks as well; the key is the reason
            known.answer = why
        if had:
            self._actions.append(Reset(server))
        else:  # a handshake that failed will fail again, and libzmq gives up on a refused key: try anew, but not in a circle
            known.retry_at = now + HANDSHAKE_PAUSE_MS
        if self.session == server:
            self._lose(now, f"{known.name}: {why}")
        self._search(now)

    def cannot_connect(self, server: int, now: int, why: str) -> None:
        """After ``Reset``: no new connection could be made here (no file descriptor is free)."""
        known = self._servers[server]
        known.answer = why
        known.retry_at = now + HANDSHAKE_PAUSE_MS

    def receive(self, server: int, envelope: Envelope, now: int) -> bool:
        """A frame came; True if it belongs to the session and is the caller's to handle."""
        command = envelope.command
        match command:
            case Opened():
                self._opened(server, envelope.epoch, command, now)
                return False
            case Refused():
                self._refused(server, envelope.epoch, command, now)
                return False
            case _:
                return self._other(server, envelope.epoch, now)

    def answered_with_error(self, server: int, failure: Failure, now: int) -> None:
        """OPEN was answered with ERROR (denied, wrong version, a limit)."""
        known = self._servers[server]
        known.failure, known.refused, known.asked = failure, None, None
        known.answer = f"{failure.what} ({failure.code})"
        known.ask_at = now + self._maximum

    def session_broken(self, now: int, reason: str) -> None:
        """The server does not know the session any more, or breaks the protocol."""
        if self.session is None:
            return
        server = self.session
        self._forget_connection(server)
        self._lose(now, f"{self._servers[server].name}: {reason}")
        self._search(now)

    def sent(self, now: int) -> None:
        """Something was sent to the session's server: it knows that this client lives."""
        self._sent = now

    def tick(self, now: int, busy: bool = False) -> None:
        """Time passed, and every frame that could be read was read. ``busy``: the server owes an answer."""
        if self.state is State.CLOSED:
            return
        if now - self._due > OWN_GAP_MS:
            self._excuse(now)
        if self.session is not None:
            self._watch(self.session, now, busy)
        self._retry(now)
        self._search(now)
        self._due = self._next(now, busy)

    def close(self) -> None:
        """The user closed the client."""
        if self.state is State.CLOSED:
            return
        if self.session is not None:
            self._actions.append(End(self.session))
        self.session = None
        self._change(State.CLOSED, "closed")

    # --- what to do ---------------------------------------------------------------------------------------------------------

    def take_actions(self) -> list[Action]:
        """What the events since the last call demand, in order."""
        actions, self._actions = self._actions, []
        return actions

    def deadline(self) -> int:
        """When ``tick`` is next needed, as of the last ``tick``."""
        return self._due

    # --- what people read ---------------------------------------------------------------------------------------------------

    @property
    def active(self) -> str:
        """host:port of the server of this session, "" without one."""
        return "" if self.session is None else self._servers[self.session].name

    def reachable(self) -> list[int]:
        """The servers with a connection, the session's first."""
        return sorted((at for at, known in enumerate(self._servers) if known.connected), key=lambda at: at != self.session)

    def all_answered(self) -> bool:
        """Every server has answered since the search began: waiting for a better one is of no use."""
        return all(known.refused or known.failure for known in self._servers)

    def hopeless(self) -> bool:
        """No server that was named can become right by waiting a little."""
        if self.session is not None:
            return False
        only = self._servers[0] if len(self._servers) == 1 else None
        if only is not None and only.refused and only.refused.active:
            return True
        return all(known.failure for known in self._servers)

    def expired(self, now: int, start: int, timeout: float) -> bool:
        """A call that began at ``start`` has waited ``timeout`` seconds without any session (-1: never expires)."""
        if self.session is not None or timeout == FOREVER:
            return False
        return now - max(start, self.since) >= timeout * 1000

    def error(self, seconds: float) -> ZmqhaError:
        """Why there is no session, as an exception that names each server's answer."""
        return no_session(self._servers, seconds, connecting=self.state is State.CONNECTING, keys=self._keys)

    def unanswered(self, verb: str, server: int | None, seconds: float) -> ZmqhaError:
        """Why an operator's verb to ``server`` (None: to any) got no answer."""
        asked = self._servers if server is None else [self._servers[server]]
        return no_answer(verb, asked, seconds, self.error(seconds).cause, keys=self._keys)

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _opened(self, server: int, epoch: Epoch, opened: Opened, now: int) -> None:
        known = self._servers[server]
        known.asked = None
        known.refused = known.failure = None
        if epoch < self.highest:
            known.answer = f"claims to be active in epoch {epoch}, but epoch {self.highest} was seen"
            known.ask_at = now + self._pause(known, now)
            return
        if self.session == server or (self.session is not None and epoch == self.highest):
            return
        if self.session is not None:
            old = self.session
            self._actions.append(End(old))
            self._forget_connection(old)
        self.highest = epoch
        self.session, self.since = server, now
        self._heard = self._sent = now
        self._probed = None
        self._ping = self._heartbeat or max(100, opened.ping_ms)
        known.answer = f"active in epoch {epoch}"
        for other in self._servers:
            other.pause, other.asked = 0, None
        self._actions.append(Begin(server, opened))
        self._change(State.CONNECTED, f"{opened.server} at {known.name} is active, epoch {epoch}")

    def _refused(self, server: int, epoch: Epoch, refused: Refused, now: int) -> None:
        known = self._servers[server]
        known.asked = None
        where = f", active is {refused.active}" if refused.active else ""
        known.answer = f"refuses: {refused.state}{where}"
        if self.session == server:
            self._lose(now, f"{known.name} {known.answer}")
        known.refused, known.failure = refused, None
        pause = self._pause(known, now)
        known.ask_at = now + (pause if now - self.since < FAST_MS else max(pause, refused.retry_ms))
        # Two servers that name each other for long must not be asked for ever at the fast pace: then only a new hint hurries.
        hurry = now - self.since < FAST_MS or known.hint != refused.active
        known.hint = refused.active
        named = self._named(refused.active, server)
        if named is not None and hurry and epoch >= self.highest:
            other = self._servers[named]
            other.ask_at = min(other.ask_at, max(now, other.asked_last + self._minimum))
        self._search(now)

    def _named(self, active: str, but: int) -> int | None:
        """The server that a refusal means; with two servers, whatever the name resolves to, it is the other one."""
        if not active:
            return None
        for at, known in enumerate(self._servers):
            if known.name == active and at != but:
                return at
        return 1 - but if len(self._servers) == 2 else None

    def _other(self, server: int, epoch: Epoch, now: int) -> bool:
        if server != self.session or epoch < self.highest:
            return False
        self.highest = epoch
        self._heard = now
        self._probed = None
        return True

    def _watch(self, server: int, now: int, busy: bool) -> None:
        quiet = now - self._heard
        if self._probed is not None and now >= self._end_of_patience(server, self._probed):
            self._forget_connection(server)
            self._servers[server].answer = f"silent for {quiet} ms"
            self._lose(now, f"{self._servers[server].name}: silent for {quiet} ms")
            return
        if self._probed is not None and quiet >= SUSPECT_MS:
            self._ask(now, but=server)
        at_rest = now - min(self._heard, self._sent) >= self._ping
        if self._probed is None and (at_rest or (busy and quiet >= PROBE_MS)):
            self._probed = self._sent = now
            self._actions.append(Probe(server))
            for known in self._servers:
                known.refused = None  # what it says from now on counts

    def _end_of_patience(self, server: int, probed: int) -> int:
        """When the session is given up if nothing is heard of its server."""
        others = [at for at, known in enumerate(self._servers) if at != server]
        patience = BUSY_MS if all(self._vouches(at, server) for at in others) else SILENT_MS
        return max(probed + patience - PROBE_MS, self._heard + patience)

    def _vouches(self, other: int, server: int) -> bool:
        """``other`` has said, since there is doubt, that ``server`` is active."""
        known = self._servers[other]
        return known.connected and known.refused is not None and self._named(known.refused.active, other) == server

    def _retry(self, now: int) -> None:
        for at, known in enumerate(self._servers):
            if known.retry_at is not None and now >= known.retry_at:
                known.retry_at = None
                self._actions.append(Reset(at))

    def _search(self, now: int) -> None:
        if self.session is None and self.state is not State.CLOSED:
            self._ask(now)

    def _ask(self, now: int, but: int | None = None) -> None:
        for at, known in enumerate(self._servers):
            if not known.connected or at == but:
                continue
            if known.asked is not None and now - known.asked >= SILENT_MS:
                self._forget_connection(at)
                known.answer = "connected, but does not answer"
            elif known.asked is None and known.ask_at <= now:
                known.asked = known.asked_last = now
                self._actions.append(Ask(at))

    def _forget_connection(self, server: int) -> None:
        self._servers[server].connected = False
        self._servers[server].asked = None
        self._actions.append(Reset(server))

    def _lose(self, now: int, reason: str) -> None:
        assert self.session is not None
        self._actions.append(End(self.session))
        self.session, self.since = None, now
        self._probed = None
        for known in self._servers:
            known.refused = known.failure = known.asked = None
            known.pause = 0
            known.ask_at = now
        self._change(State.LOST, reason)

    def _next(self, now: int, busy: bool) -> int:
        if self.session is not None and self._probed is None:
            at = min(self._heard, self._sent) + self._ping
            return min(at, self._heard + PROBE_MS) if busy else at
        times = [
            known.asked + SILENT_MS if known.asked is not None else known.ask_at
            for at, known in enumerate(self._servers)
            if known.connected and at != self.session
        ]
        if self.session is None or self._probed is None:
            return max(now, min(times, default=now + PING_MS))
        lost = max(now, self._end_of_patience(self.session, self._probed))
        return min(lost, max(self._heard + SUSPECT_MS, now + 1, min(times))) if times else lost

    def _pause(self, known: Server, now: int) -> int:
        """Milliseconds before this server is asked again."""
        if now - self.since < FAST_MS or self._probed is not None:
            return self._rng.randint(self._minimum, min(2 * self._minimum, self._maximum))
        known.pause = min(self._maximum, max(2 * self._minimum, 2 * known.pause))
        return self._rng.randint((known.pause + 1) // 2, known.pause)

    def _excuse(self, now: int) -> None:
        """This thread slept: whatever it did not hear may be its own fault."""
        self._heard = max(self._heard, now)
        if self._probed is not None:
            self._probed = now
        for known in self._servers:
            if known.asked is not None:
                known.asked = now

    def _change(self, new: State, reason: str) -> None:
        old, self.state = self.state, new
        self._actions.append(Changed(old, new, reason))
