"""The I/O thread: sockets, the failover machine, and the streams and subscriptions that the application's threads share with it.

``Engine`` carries out what the pure machines decide and wakes who waits; it decides nothing itself. One lock guards streams,
subscriptions and requests; sockets and the failover machine belong to the I/O thread alone. Order of one turn::

    wait for a socket, the wake-up, or the failover machine's deadline
    read events and frames of every link (a budget each)       so that silence is judged after everything was read
    tick the failover machine, carry out its actions
    send what streams, subscriptions and requests have to say
"""

import itertools
import logging
import random
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from zmqha.client.consumer import Stage, Subscription
from zmqha.client.failover import Ask, Begin, Changed, End, Failover, Probe, Reset, State
from zmqha.client.link import CLOSE_MS, Link, load_keys
from zmqha.client.producer import Batch, Stream
from zmqha.client.request import Request
from zmqha.client.url import Url
from zmqha.core import limits
from zmqha.core.client_protocol import (
    VERSION,
    Acked,
    Admin,
    Close,
    Command,
    Confirm,
    Credit,
    Deliver,
    Envelope,
    Failure,
    Open,
    Opened,
    Ping,
    Pong,
    Reply,
    Send,
    Subscribe,
    Unsubscribe,
    decode,
    encode,
)  # fmt: skip
from zmqha.errors import ConnectionLost, NotActive, OutcomeUnknown, ProtocolError, WrongState, ZmqhaError

WAITING_MESSAGES_MAX = 20_000  # unconfirmed in one client; above it senders wait (backpressure)
WAITING_BYTES_MAX = 16 * limits.MIB
FRAMES_PER_TURN = 64  # per link, then the others get their turn
RECEIVE_MS_MAX = 500  # poll timeout cap
ADMIN_SETTLE_MS = 500  # a question to nobody in particular waits this long for the active server to be found
LEAVE_MS = 1000  # how long closing waits for the last acknowledgements to be recorded
CLOSE_JOIN_S = 5.0

OnState = Callable[[State, State, str], None]
_log = logging.getLogger("zmqha.client")
_SESSION_GONE = (WrongState, NotActive)


def clock_ms() -> int:
    """Milliseconds that never go back."""
    return time.monotonic_ns() // 1_000_000


class Engine:
    """One client's I/O thread and what it shares with the others."""

    def __init__(self, url: Url, client_id: str, on_state: OnState | None) -> None:
        self.url = url
        self.options = url.options
        self.client_id = client_id
        self.producer = secrets.randbits(62) + 1
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # state, requests, subscriptions' stages
        self.space = threading.Condition(self.lock)  # confirms came: room for senders, answers for waiting ones
        self.arrived = threading.Condition(self.lock)  # messages
        self.streams: dict[str, Stream] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.waiting_messages = 0
        self.waiting_bytes = 0
        self.max_message_bytes = limits.MESSAGE_BYTES_MAX
        self.failed: deque[Batch] = deque(maxlen=1000)  # refused, for flush()
        self.abandoned: deque[Subscription] = deque()  # by the garbage collector: it must not take the lock
        self.server = ""  # what the active calls itself
        self.dead: ZmqhaError | None = None  # why every call fails
        self._on_state = on_state
        self._numbers = itertools.count(1)
        self._sends: dict[int, Batch] = {}
        self._subscribes: dict[int, Subscription] = {}
        self._unsubscribes: dict[int, Subscription] = {}
        self._requests: dict[int, Request] = {}
        self._asks: dict[int, int] = {}  # server -> request number of its last OPEN
        self._speaking: set[Stream | Subscription] = set()  # may have something to send
        self._opened: Opened | None = None
        self._poller: zmq.Poller | None = None
        self._blocked: list[bool] = []
        self._awake = False
        self._stop = False
        self._keys = load_keys(self.options)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._links = [Link(self._context, host, self._keys) for host in url.hosts]
        self.failover = Failover([str(host) for host in url.hosts], self.options, random.Random(), clock_ms())
        self.thread = threading.Thread(target=self._run, name=f"zmqha-client-{client_id}", daemon=True)
        self.thread.start()

    # --- any thread ---------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make the I/O thread take a turn."""
        if self._awake:
            return
        self._awake = True
        try:
            self._wake_in.send(b"w")
        except OSError:  # full: it wakes anyway; closed: it is gone
            pass

    def speak(self, who: Stream | Subscription) -> None:
        """This one has something to send. With the lock held."""
        self._speaking.add(who)
        self.wake()

    def stream(self, destination: str) -> Stream:
        """The stream to this destination. With the lock held."""
        stream = self.streams.get(destination)
        if stream is None:
            stream = self.streams[destination] = Stream(destination, self.producer)
            self._apply_limits(stream)
        return stream

    def subscribe(self, destination: str, prefetch: int) -> Subscription:
        """A new subscription. With the lock held."""
        subscription = Subscription(next(self._numbers) & 0xFFFFFFFF, destination, prefetch)
        self.subscriptions[subscription.number] = subscription
        self.speak(subscription)
        return subscription

    def ask(self, verb: str, arguments: dict[str, object], server: int | None) -> Request:
        """A new ADMIN question. With the lock held."""
        request = Request(self._number(), Admin(verb, arguments), server, clock_ms())
        self._requests[request.number] = request
        self.wake()
        return request

    def drop_request(self, request: Request) -> None:
        """Nobody waits for it any more. With the lock held."""
        self._requests.pop(request.number, None)

    def wait(self, condition: threading.Condition, done: Callable[[], bool], seconds: float | None, patience: float) -> bool:
        """Wait, with the lock held, until ``done``; False after ``seconds``.

        Raises what killed the engine, and FailoverTimeout if there is no active server for ``patience`` seconds (-1: never).
        """
        if self.is_own_thread():
            raise WrongState("a call that waits cannot be made in on_state", cure="hand it to another thread")
        start = clock_ms()
        while not done():
            if self.dead is not None:
                raise self._again(self.dead)
            now = clock_ms()
            if seconds is not None and now - start >= seconds * 1000:
                return False
            if self.failover.expired(now, start, patience):
                raise self.failover.error(patience)
            pause = 0.5 if seconds is None else min(0.5, seconds - (now - start) / 1000)
            if patience >= 0 and self.failover.session is None:
                pause = min(pause, max(0.001, patience - (now - max(start, self.failover.since)) / 1000))
            condition.wait(max(0.0005, pause))
        return True

    def is_own_thread(self) -> bool:
        """The caller is the I/O thread (on_state)."""
        return threading.current_thread() is self.thread

    def stop(self) -> None:
        """Ask the I/O thread to end; never waits and takes no lock."""
        self._stop = True
        self._awake = False
        self.wake()

    def _again(self, error: ZmqhaError) -> ZmqhaError:
        """A fresh exception of the same meaning (one object must not collect the tracebacks of many threads)."""
        return type(error)(error.what, cause=error.cause, cure=error.cure)

    def _number(self) -> int:
        """A request number, unique for long enough."""
        return next(self._numbers) % 0xFFFFFFFF + 1

    # --- the I/O thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: ZmqhaError = ConnectionLost("the client is closed", cure="connect again")
        try:
            while not self._stop:
                self._turn()
            self._say_goodbye()
        except Exception as crash:  # the top of the thread: say it, and let no call wait for ever
            _log.exception("the client's I/O thread ended")
            error = ConnectionLost("the client broke down", cause=f"{type(crash).__name__}: {crash}", cure="connect again")
        finally:
            self._end(error)

    def _turn(self) -> None:
        for at in self._poll():
            self._read(at)
        now = clock_ms()
        self.failover.tick(now, self._busy())
        self._carry_out(now)
        self._send_all(now)
        self.failover.tick(now, self._busy())
        self._carry_out(now)

    def _poll(self) -> list[int]:
        """Wait; the links to read."""
        blocked = [bool(link.waiting) for link in self._links]
        if self._poller is None or blocked != self._blocked:
            self._poller, self._blocked = self._make_poller(blocked), blocked
        timeout = min(RECEIVE_MS_MAX, max(0, self.failover.deadline() - clock_ms()))
        ready = {which for which, _ in self._poller.poll(timeout)}
        if self._wake_out.fileno() in ready:
            self._wake_out.recv(64)
        self._awake = False
        return [at for at, link in enumerate(self._links) if link.socket in ready or link.monitor in ready]

    def _make_poller(self, blocked: list[bool]) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._wake_out, zmq.POLLIN)
        for link, full in zip(self._links, blocked, strict=True):
            poller.register(link.socket, zmq.POLLIN | zmq.POLLOUT if full else zmq.POLLIN)
            poller.register(link.monitor, zmq.POLLIN)
        return poller

    def _read(self, at: int) -> None:
        link = self._links[at]
        for frames in link.receive(FRAMES_PER_TURN):
            self._receive(at, frames)
            if self._links[at] is not link:
                return
        now = clock_ms()
        for event in link.events():
            if event.connected:
                self.failover.connected(at, now)
            else:
                self.failover.disconnected(at, now, event.why)
            self._carry_out(now)
            if self._links[at] is not link:
                return
        link.flush()

    def _receive(self, at: int, frames: list[bytes]) -> None:
        now = clock_ms()
        try:
            envelope = decode(frames)
            self._dispatch(at, envelope, now)
        except ProtocolError as error:
            self.failover.session_broken(now, f"broke the protocol: {error}")
        self._carry_out(now)

    def _dispatch(self, at: int, envelope: Envelope, now: int) -> None:
        if self._answers_request(at, envelope):
            self.failover.receive(at, envelope, now)
            return
        command = envelope.command
        if isinstance(command, Failure) and self._asks.get(at) == envelope.request != 0:
            self.failover.answered_with_error(at, command, now)
            with self.lock:
                self.changed.notify_all()
            return
        if not self.failover.receive(at, envelope, now):
            with self.lock:
                self.changed.notify_all()
            return
        with self.lock:
            self._session_command(envelope, now)

    def _answers_request(self, at: int, envelope: Envelope) -> bool:
        """The answer to an ADMIN question, from whichever server it went to."""
        request = self._requests.get(envelope.request)
        if request is None or request.asked != at or not isinstance(envelope.command, Reply | Failure):
            return False
        with self.lock:
            self._requests.pop(envelope.request, None)
            if isinstance(envelope.command, Reply):
                request.settle(answer=envelope.command.result)
            else:
                request.settle(error=envelope.command.to_error())
            self.changed.notify_all()
        return True

    def _session_command(self, envelope: Envelope, now: int) -> None:
        """A frame of the session, with the lock held."""
        command = envelope.command
        match command:
            case Confirm():
                self._confirmed(command)
            case Deliver():
                subscription = self.subscriptions.get(command.subscription)
                if subscription is not None and subscription.deliver(command):
                    self.arrived.notify_all()
                elif subscription is not None:
                    self._speaking.add(subscription)
            case Acked():
                subscription = self.subscriptions.get(command.subscription)
                if subscription is not None:
                    subscription.acked(command.ranges)
                    self._forget_closed(subscription)
            case Reply():
                self._replied(envelope.request, None)
            case Failure():
                self._failed(envelope.request, command, now)
            case Pong():
                pass
            case Close():
                self.failover.session_broken(now, "the server closed the session")
            case _:
                raise ProtocolError(f"a server sent {type(command).__name__}")

    def _confirmed(self, command: Confirm) -> None:
        stream = self.streams.get(command.destination)
        if stream is None or command.producer != self.producer:
            return
        self._settled(stream.confirm(command.up_to, command.durability))
        if stream.busy:
            self._speaking.add(stream)

    def _settled(self, batches: list[Batch]) -> None:
        for batch in batches:
            self._sends.pop(batch.request, None)
            self.waiting_messages -= batch.count
            self.waiting_bytes -= batch.size
            if batch.error is not None:
                self.failed.append(batch)
        if batches:
            self.space.notify_all()

    def _replied(self, number: int, error: ZmqhaError | None) -> None:
        subscription = self._subscribes.pop(number, None)
        if subscription is not None:
            subscription.refused(error) if error else subscription.subscribed()
            self._forget_closed(subscription)
        subscription = self._unsubscribes.pop(number, None)
        if subscription is not None:
            subscription.unsubscribed()
            self._forget_closed(subscription)

    def _failed(self, number: int, failure: Failure, now: int) -> None:
        error = failure.to_error()
        if isinstance(error, _SESSION_GONE):
            self.failover.session_broken(now, f"{failure.what} ({failure.code})")
            return
        batch = self._sends.pop(number, None)
        if batch is None:
            self._replied(number, error)
            return
        self._settled(batch.stream.refuse(batch, error))
        self._speaking.add(batch.stream)

    def _forget_closed(self, subscription: Subscription) -> None:
        if subscription.stage is Stage.CLOSED:
            self.subscriptions.pop(subscription.number, None)
        self.changed.notify_all()
        self.arrived.notify_all()

    # --- carrying out -------------------------------------------------------------------------------------------------------

    def _carry_out(self, now: int) -> None:
        while actions := self.failover.take_actions():
            for action in actions:
                match action:
                    case Ask(server):
                        number = self._number()
                        self._asks[server] = number
                        self._links[server].send(encode(self._open(), request=number))
                    case Probe(server):
                        self._links[server].send(encode(Ping()))
                    case Reset(server):
                        self._reset(server)
                    case Begin(_, opened):
                        self._begin(opened)
                    case End(_):
                        self._end_session()
                    case Changed(old, new, reason):
                        self._announce(old, new, reason)

    def _open(self) -> Open:
        from zmqha import __version__

        return Open((VERSION, VERSION), self.client_id, f"zmqha-python/{__version__}")

    def _reset(self, server: int) -> None:
        self._links[server].close()
        self._links[server] = Link(self._context, self.url.hosts[server], self._keys)
        self._asks.pop(server, None)
        self._poller = None
        with self.lock:
            for request in [request for request in self._requests.values() if request.asked == server]:
                self._requests.pop(request.number)
                what = f"the connection to {self.url.hosts[server]} broke before the answer came"
                request.settle(error=ConnectionLost(what, cure="look whether it was done, then ask again"))
            self.changed.notify_all()

    def _begin(self, opened: Opened) -> None:
        with self.lock:
            self._opened = opened
            self.server = opened.server
            self.max_message_bytes = min(limits.MESSAGE_BYTES_MAX, opened.max_message_bytes)
            self._asks.clear()
            for stream in self.streams.values():
                self._apply_limits(stream)
                stream.reopen()
            self._speaking.update(self.streams.values(), self.subscriptions.values())

    def _apply_limits(self, stream: Stream) -> None:
        if self._opened is not None:
            stream.limit_messages = max(1, min(limits.BATCH_MESSAGES_MAX, self._opened.batch_messages))
            stream.limit_bytes = max(1, min(limits.BATCH_BYTES_TARGET, self._opened.batch_bytes))
            stream.limit_in_flight = max(1, min(limits.BATCHES_IN_FLIGHT, self._opened.batches_in_flight))

    def _end_session(self) -> None:
        with self.lock:
            self.server = ""
            self._sends.clear()
            self._subscribes.clear()
            self._unsubscribes.clear()
            for subscription in self.subscriptions.values():
                subscription.lost()

    def _announce(self, old: State, new: State, reason: str) -> None:
        with self.lock:
            for condition in (self.changed, self.space, self.arrived):
                condition.notify_all()
        if self._on_state is None:
            return
        try:
            self._on_state(old, new, reason)
        except Exception:  # the application's code: its mistakes must not end the connection
            _log.exception("on_state failed")

    # --- sending ------------------------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """The server owes an answer."""
        return bool(self._sends or self._subscribes or self._unsubscribes or self._requests) or any(
            subscription.owes for subscription in list(self.subscriptions.values())
        )

    def _send_all(self, now: int) -> None:
        while self.abandoned:
            with self.lock:
                subscription = self.abandoned.popleft()
                subscription.close()
                self._speaking.add(subscription)
        if self._requests:
            self._send_requests(now)
        server = self.failover.session
        if server is None or not self._speaking:
            return
        link = self._links[server]
        for frames in self._what_to_say():
            link.send(frames)
            self.failover.sent(now)

    def _what_to_say(self) -> list[list[bytes]]:
        said: list[list[bytes]] = []
        with self.lock:
            speaking, self._speaking = self._speaking, set()
            for who in speaking:
                if isinstance(who, Stream):
                    said += [self._send_frames(batch) for batch in who.take()]
                    continue
                said += [self._subscription_frames(who, command) for command in who.take()]
                self._forget_closed(who)
        return said

    def _send_frames(self, batch: Batch) -> list[bytes]:
        batch.request = self._number()
        self._sends[batch.request] = batch
        return encode(Send(batch.stream.destination, batch.data), request=batch.request)

    def _subscription_frames(self, subscription: Subscription, command: Command) -> list[bytes]:
        if not isinstance(command, Subscribe | Unsubscribe | Credit):
            return encode(command)
        number = self._number()
        if isinstance(command, Subscribe):
            self._subscribes[number] = subscription
        elif isinstance(command, Unsubscribe):
            self._unsubscribes[number] = subscription
        return encode(command, request=number)

    def _send_requests(self, now: int) -> None:
        with self.lock:
            for request in [request for request in self._requests.values() if request.asked is None]:
                for server in self._whom_to_ask(request, now):
                    if self._links[server].try_send(encode(request.command, request=request.number)):
                        request.asked = server
                        break

    def _whom_to_ask(self, request: Request, now: int) -> list[int]:
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

    def _end(self, error: ZmqhaError) -> None:
        """Nothing happens any more: whoever waits is told, and sockets go."""
        in_doubt = OutcomeUnknown(
            "the client ended before the confirm came", cause=error.what, cure="the message may or may not be stored: look"
        )
        with self.lock:
            self.dead = error
            self.failover.close()
            for stream in self.streams.values():
                self._settled(stream.abandon(in_doubt, error))
            for subscription in self.subscriptions.values():
                subscription.forget()
            for request in self._requests.values():
                request.settle(error=self._again(error))
            for condition in (self.changed, self.space, self.arrived):
                condition.notify_all()
        for link in self._links:
            link.close(CLOSE_MS)
        self._wake_in.close()
        self._wake_out.close()
        self._context.term()
