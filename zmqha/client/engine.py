"""The I/O thread: one link per server and the failover machine, between the servers and ``Session``.

It carries out what the pure machines decide and decides nothing itself. Order of one turn::

    wait for a socket, the wake-up, or the failover machine's deadline
    read events and frames of every link (a budget each)       so that silence is judged after everything was read
    tick the failover machine, carry out its actions
    send what streams, subscriptions and questions have to say
"""

import logging
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import zmq

import zmqha
from zmqha.client.actions import Ask, Begin, Changed, End, Probe, Reset, State
from zmqha.client.consumer import Subscription
from zmqha.client.failover import Failover
from zmqha.client.link import CLOSE_MS, Context, Link, load_keys
from zmqha.client.request import Request
from zmqha.client.session import Session, again
from zmqha.client.url import Url
from zmqha.core.client_protocol import VERSION, Close, Envelope, Failure, Open, Ping, Reply, decode, encode
from zmqha.errors import ConnectionLost, ProtocolError, WrongState, ZmqhaError

FRAMES_PER_TURN = 64  # per link, then the others get their turn
POLL_MS_MAX = 500
WAIT_S_MAX = 0.5  # who waits looks at the clock at least this often
ADMIN_SETTLE_MS = 500  # a question to nobody in particular waits this long for the active server to be found

OnState = Callable[[State, State, str], None]
_log = logging.getLogger("zmqha.client")


def clock_ms() -> int:
    """Milliseconds that never go back."""
    return time.monotonic_ns() // 1_000_000


class Owner(Protocol):
    """The client. It ends its engine when nobody holds it any more, so whoever needs the engine's work holds the client."""

    _engine: "Engine"


class Engine:
    """One client's I/O thread."""

    def __init__(self, url: Url, client_id: str, on_state: OnState | None) -> None:
        self.url = url
        self.options = url.options
        self.session = Session(self.wake)
        self.abandoned: deque[Subscription] = deque()  # filled by the garbage collector, which must not take the lock
        product, instance = f"zmqha-python/{zmqha.__version__}", self.session.producer  # a number that no other client has
        self._open = Open((VERSION, VERSION), client_id, product, instance)
        self._on_state = on_state
        self._asks: dict[int, int] = {}  # server -> request number of its last OPEN
        self._poller: zmq.Poller | None = None
        self._blocked: list[bool] = []
        self._awake = False
        self._stop = False
        self._keys = load_keys(self.options)
        self._links: list[Link] = []
        self._open_sockets()
        self.failover = Failover([str(host) for host in url.hosts], self.options, random.Random(), clock_ms())
        self.thread = threading.Thread(target=self._run, name=f"zmqha-{client_id}", daemon=True)
        self.thread.start()

    def _open_sockets(self) -> None:
        """All or none."""
        self._wake_in, self._wake_out = _pair_of_sockets()
        self._context: Context = zmq.Context(io_threads=len(self.url.hosts))
        try:
            for server in range(len(self.url.hosts)):
                self._links.append(self._link(server))
        except zmq.ZMQError as error:
            self._close_sockets(0)
            raise _no_sockets(error) from error

    def _link(self, server: int) -> Link:
        """Each has a thread of libzmq's for itself: it resolves names there, and must not hold the other server's frames up."""
        return Link(self._context, self.url.hosts[server], self._keys, affinity=1 << server)

    # --- any thread ---------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make the I/O thread take a turn. Takes no lock."""
        if self._awake:
            return
        self._awake = True
        try:
            self._wake_in.send(b"w")
        except OSError:  # full: it wakes anyway; closed: it is gone
            pass

    def stop(self) -> None:
        """Ask the I/O thread to end; never waits and takes no lock."""
        self._stop = True
        self._awake = False
        self.wake()

    def is_own_thread(self) -> bool:
        """The caller is the I/O thread (that is, ``on_state``)."""
        return threading.current_thread() is self.thread

    def wait(self, condition: threading.Condition, done: Callable[[], bool], seconds: float | None, patience: float) -> bool:
        """Wait, with the lock held, until ``done``; False after ``seconds``.

        Raises why the client is dead, and FailoverTimeout if there was no active server for ``patience`` seconds (-1: never).
        """
        if self.is_own_thread():
            raise WrongState("a call that waits cannot be made in on_state", cure="hand it to another thread")
        start = clock_ms()
        while not done():
            if self.session.dead is not None:
                raise again(self.session.dead)
            now = clock_ms()
            if seconds is not None and now - start >= seconds * 1000:
                return False
            if self.failover.expired(now, start, patience):
                raise self.failover.error(patience)
            pause = WAIT_S_MAX if seconds is None else min(WAIT_S_MAX, seconds - (now - start) / 1000)
            if patience >= 0 and self.failover.session is None:
                pause = min(pause, patience - (now - max(start, self.failover.since)) / 1000)
            condition.wait(max(0.001, pause))
        return True

    # --- the I/O thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: ZmqhaError = ConnectionLost("the client broke down", cure="connect again")
        closed = False
        try:
            while not self._stop:
                self._turn()
            self._say_goodbye()
            error, closed = ConnectionLost("the client is closed", cure="connect again"), True
        except Exception as crash:  # the top of the thread: say it, and let no call wait for ever
            _log.exception("the client's I/O thread ended")
            error = ConnectionLost("the client broke down", cause=f"{type(crash).__name__}: {crash}", cure="connect again")
        finally:
            self._end(error, closed)

    def _turn(self) -> None:
        for at, events in self._poll():
            self._read(at, events)
        now = clock_ms()
        self.failover.tick(now, self.session.busy)
        self._carry_out(now)
        if self._send_all(now):
            self.failover.tick(now, self.session.busy)  # an answer is due now
            self._carry_out(now)

    def _poll(self) -> list[tuple[int, bool]]:
        """Wait; the links to read, and whether their monitor has something to say."""
        blocked = [bool(link.waiting) for link in self._links]
        if self._poller is None or blocked != self._blocked:
            self._poller, self._blocked = self._make_poller(blocked), blocked
        timeout = min(POLL_MS_MAX, max(0, self.failover.deadline() - clock_ms()))
        ready = {which for which, _ in self._poller.poll(timeout)}
        if self._wake_out.fileno() in ready:
            self._wake_out.recv(64)
        self._awake = False  # before looking at what there is to do: who wakes us later finds it False
        return [
            (at, link.monitor in ready)
            for at, link in enumerate(self._links)
            if (link.socket in ready or link.monitor in ready) and not link.is_closed()
        ]

    def _make_poller(self, blocked: list[bool]) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._wake_out, zmq.POLLIN)
        for link, full in zip(self._links, blocked, strict=True):
            if link.is_closed():
                continue
            poller.register(link.socket, zmq.POLLIN | zmq.POLLOUT if full else zmq.POLLIN)
            poller.register(link.monitor, zmq.POLLIN)
        return poller

    def _read(self, at: int, events: bool) -> None:
        """Frames before events: what came before a connection broke counts. Stops when the link is closed, replaced or not.

        ``events``: look at the monitor too; a look costs as much as a frame, and it is level-triggered: what comes now is seen next.
        """
        link = self._links[at]
        if link.is_closed():
            return
        for frames in link.receive(FRAMES_PER_TURN):
            self._receive(at, frames)
            if link.is_closed():
                return
        for event in link.events() if events else ():
            now = clock_ms()
            if event.connected:
                self.failover.connected(at, now)
            else:
                self.failover.disconnected(at, now, event.why)
            self._carry_out(now)
            if link.is_closed():
                return
        link.flush()

    def _receive(self, at: int, frames: list[bytes]) -> None:
        now = clock_ms()
        try:
            broken = self._dispatch(at, decode(frames), now)
        except ProtocolError as error:
            broken = f"broke the protocol: {error}"
        if broken and self.failover.session == at:
            self.failover.session_broken(now, broken)
        self._carry_out(now)

    def _dispatch(self, at: int, envelope: Envelope, now: int) -> str:
        """One frame; why the session is broken, "" if it is not."""
        answered = self._answer(at, envelope)
        if isinstance(envelope.command, Failure) and envelope.request and self._asks.get(at) == envelope.request:
            self.failover.answered_with_error(at, envelope.command, now)
        elif self.failover.receive(at, envelope, now) and not answered:
            return self.session.receive(envelope)
        with self.session.lock:
            self.session.changed.notify_all()  # who connects looks at the answers
        return ""

    def _answer(self, at: int, envelope: Envelope) -> bool:
        """Whether it is the answer to an ADMIN question, from the server that was asked."""
        session, command = self.session, envelope.command
        request = session.requests.get(envelope.request)
        if request is None or request.asked != at or not isinstance(command, Reply | Failure):
            return False
        with session.lock:
            session.requests.pop(envelope.request, None)
            if isinstance(command, Reply):
                request.settle(answer=command.result)
            else:
                request.settle(error=command.to_error())
        return True

    # --- carrying out -------------------------------------------------------------------------------------------------------

    def _carry_out(self, now: int) -> None:
        while actions := self.failover.take_actions():
            for action in actions:
                match action:
                    case Ask(server):
                        self._asks[server] = self.session.number()
                        self._links[server].send(encode(self._open, request=self._asks[server]))
                    case Probe(server):
                        self._links[server].send(encode(Ping()))
                    case Reset(server):
                        self._reset(server)
                    case Begin(_, opened):
                        self.session.begin(opened)
                    case End(_):
                        self.session.end()
                    case Changed(old, new, reason):
                        self._announce(old, new, reason)

    def _reset(self, server: int) -> None:
        self._links[server].close()
        try:
            self._links[server] = self._link(server)
        except zmq.ZMQError as error:  # too many open files, as a rule: the closed link stays in its place until a retry succeeds
            self.failover.cannot_connect(server, clock_ms(), f"no connection can be made here: {error.strerror}")
        self._asks.pop(server, None)
        self._poller = None
        session = self.session
        with session.lock:
            for request in [request for request in session.requests.values() if request.asked == server]:
                del session.requests[request.number]
                what = f"the connection to {self.url.hosts[server]} broke before the answer came"
                request.settle(error=ConnectionLost(what, cure="look whether it was done, then ask again"))
            session.changed.notify_all()

    def _announce(self, old: State, new: State, reason: str) -> None:
        with self.session.lock:
            self.session.notify()
        if self._on_state is None:
            return
        try:
            self._on_state(old, new, reason)
        except Exception:  # the application's code: its mistakes must not end the connection
            _log.exception("on_state failed")

    # --- sending ------------------------------------------------------------------------------------------------------------

    def _send_all(self, now: int) -> bool:
        """Say what there is to say; whether there was anything."""
        asking = bool(self.session.requests)
        while self.abandoned:
            with self.session.lock:
                subscription = self.abandoned.popleft()
                subscription.close()
                self.session.speak(subscription)
        if asking:
            self._ask_requests(now)
        server = self.failover.session
        if server is None or not self.session.speaking:
            return asking
        link = self._links[server]
        said = self.session.frames()
        for frames in said:
            link.send(frames)
        if said:
            self.failover.sent(now)
        return asking or bool(said)

    def _ask_requests(self, now: int) -> None:
        with self.session.lock:
            for request in [request for request in self.session.requests.values() if request.asked is None]:
                for server in self._whom(request, now):
                    if self._links[server].try_send(encode(request.command, request=request.number)):
                        request.asked = server
                        break

    def _whom(self, request: Request, now: int) -> list[int]:
        reachable = self.failover.reachable()
        if request.server is not None:
            return [request.server] if request.server in reachable else []
        if self.failover.session is not None:
            return [self.failover.session]
        patient = now - request.start < ADMIN_SETTLE_MS and not self.failover.all_answered()
        return [] if patient else reachable

    # --- the end ------------------------------------------------------------------------------------------------------------

    def _say_goodbye(self) -> None:
        now = clock_ms()
        self._send_all(now)
        server = self.failover.session
        if server is not None:
            self._links[server].send(encode(Close()))
        self.failover.close()
        self._carry_out(now)

    def _end(self, error: ZmqhaError, closed: bool) -> None:
        self.failover.close()
        self.session.die(error, closed=closed)
        self._close_sockets(CLOSE_MS)

    def _close_sockets(self, linger_ms: int) -> None:
        for link in self._links:
            link.close(linger_ms)
        self._wake_in.close()
        self._wake_out.close()
        self._context.term()


def _pair_of_sockets() -> tuple[socket.socket, socket.socket]:
    """What wakes the I/O thread."""
    try:
        pair = socket.socketpair()
    except OSError as error:
        raise _no_sockets(error) from error
    for one in pair:
        one.setblocking(False)
    return pair


def _no_sockets(error: OSError | zmq.ZMQError) -> ConnectionLost:
    return ConnectionLost("cannot open a socket", cause=error.strerror or str(error), cure="allow more open files: ulimit -n")
