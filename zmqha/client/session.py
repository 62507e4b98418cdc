"""What the application's threads share with the I/O thread: streams, subscriptions, questions, one lock, and who waits.

No sockets here. The application adds work and waits; the I/O thread passes in what a server said, takes out the frames to send, and
tells when a session begins or ends. "With the lock held" stands where the caller must hold it.
"""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet

from zmqha.client.consumer import Stage, Subscription
from zmqha.client.elsewhere import Elsewhere
from zmqha.client.producer import Batch, Stream, new_producer
from zmqha.client.request import Request
from zmqha.core import limits
from zmqha.core.client_protocol import (
    Ack,
    Acked,
    Admin,
    Close,
    Command,
    Confirm,
    Deliver,
    Envelope,
    Failure,
    Frames,
    Opened,
    Pong,
    Range,
    Reply,
    Send,
    Subscribe,
    Unsubscribe,
    encode,
)
from zmqha.core.position import Epoch
from zmqha.errors import NotActive, OutcomeUnknown, ProtocolError, WrongState, ZmqhaError

WAITING_MESSAGES_MAX = 20_000  # unconfirmed in one client; above it senders wait (backpressure)
WAITING_BYTES_MAX = 16 * limits.MIB
FAILED_BATCHES_MAX = 1000  # refused ones remembered for flush()

_SESSION_GONE = (WrongState, NotActive)


class Session:
    """See above. ``wake`` makes the I/O thread take a turn; it may be called from any thread and takes no lock."""

    def __init__(self, wake: Callable[[], None]) -> None:
        lock = threading.Lock()
        self.lock: AbstractContextManager[object] = lock
        self.changed = threading.Condition(lock)  # the state, answers, stages of subscriptions
        self.space = threading.Condition(lock)  # sends are settled
        self.arrived = threading.Condition(lock)  # messages
        self.forked = False  # this is a copy in a child; thread and sockets are the parent's
        self.producer = new_producer()  # of every new stream
        self.streams: dict[str, Stream] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.waiting_messages = 0
        self.waiting_bytes = 0
        self.max_message_bytes = limits.MESSAGE_BYTES_MAX
        self.failed: deque[Batch] = deque(maxlen=FAILED_BATCHES_MAX)
        self.requests: dict[int, Request] = {}
        self.dead: ZmqhaError | None = None  # why every call fails
        self._wake = wake
        self._numbers = itertools.count(1)
        self._opened: Opened | None = None
        self._speaking: set[Stream | Subscription] = set()  # may have something to send
        self._sends: dict[int, Batch] = {}  # request number -> what is unanswered, in this session
        self._acks: dict[int, tuple[Subscription, tuple[Range, ...]]] = {}
        self._subscribes: dict[int, Subscription] = {}
        self._unsubscribes: dict[int, Subscription] = {}
        _sessions.add(self)

    # --- the application's side; with the lock held -------------------------------------------------------------------------

    def speak(self, who: Stream | Subscription) -> None:
        """This one has something to send."""
        self._speaking.add(who)
        self._wake()

    def note(self, who: Stream | Subscription) -> None:
        """Likewise, and the caller wakes the I/O thread once it has let the lock go: woken before, that would stop at the lock."""
        self._speaking.add(who)

    def stream(self, destination: str) -> Stream:
        """The stream to this destination, a new one if there is none."""
        stream = self.streams.get(destination)
        if stream is None:
            stream = self.streams[destination] = Stream(destination, self.producer)
            self._apply_limits(stream)
        return stream

    def subscribe(self, destination: str, prefetch: int) -> Subscription:
        """A new subscription."""
        subscription = Subscription(self.number(), destination, prefetch)
        self.subscriptions[subscription.number] = subscription
        self.speak(subscription)
        return subscription

    def ask(self, verb: str, arguments: dict[str, Any], server: int | None, now: int) -> Request:
        """A new ADMIN question."""
        request = Request(self.number(), Admin(verb, arguments), server, now)
        self.requests[request.number] = request
        self._wake()
        return request

    def number(self) -> int:
        """A request or subscription number: 32 bits, not 0, unique for long enough."""
        return next(self._numbers) % 0xFFFFFFFF + 1

    def notify(self) -> None:
        """Everybody who waits looks again."""
        for condition in (self.changed, self.space, self.arrived):
            condition.notify_all()

    def fork(self) -> None:
        """In a forked child: every call is told so, and who iterates over messages, which takes no lock, looks up first."""
        self.forked = True
        self.lock = Elsewhere()
        for subscription in self.subscriptions.values():
            subscription.losses += 1

    # --- the I/O thread's side ----------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """The server owes an answer."""
        return bool(self._sends or self._acks or self._subscribes or self._unsubscribes or self.requests)

    @property
    def speaking(self) -> bool:
        """``frames`` may return something."""
        return bool(self._speaking)

    def begin(self, opened: Opened) -> None:
        """A session is open: everybody says again what is in doubt."""
        with self.lock:
            self._opened = opened
            self.max_message_bytes = min(limits.MESSAGE_BYTES_MAX, opened.max_message_bytes)
            for stream in self.streams.values():
                self._apply_limits(stream)
                stream.reopen()
            self._speaking.update(self.streams.values(), self.subscriptions.values())

    def end(self) -> None:
        """The session is over: no answer will come."""
        with self.lock:
            self._sends.clear()
            self._acks.clear()
            self._subscribes.clear()
            self._unsubscribes.clear()
            for subscription in self.subscriptions.values():
                subscription.lost()

    def frames(self) -> list[Frames]:
        """What there is to say in this session now."""
        with self.lock:
            speaking, self._speaking = self._speaking, set()
            said: list[Frames] = []
            for who in speaking:
                if isinstance(who, Stream):
                    said += [self._send(batch) for batch in who.take()]
                else:
                    said += [self._numbered(who, command) for command in who.take()]
                    self._forget_closed(who)
            return said

    def receive(self, envelope: Envelope) -> str:
        """A command of the session's server. Why the session is broken, "" if it is not. Raises ProtocolError."""
        with self.lock:
            command = envelope.command
            match command:
                case Confirm():
                    self._confirmed(command)
                case Deliver():
                    self._delivered(command, envelope.epoch)
                case Acked(number, ranges):
                    self._acked(envelope.request, number, ranges)
                case Reply(result):
                    self._replied(envelope.request, result)
                case Failure():
                    return self._failed(envelope.request, command)
                case Close():
                    return "the server closed the session"
                case Pong():
                    pass
                case _:
                    raise ProtocolError(f"a server sent {type(command).__name__}")
            return ""

    def die(self, error: ZmqhaError, *, closed: bool) -> None:
        """Nothing happens any more: whoever waits is told. ``closed``: by the application, so that its loops end as they should."""
        what = "the client ended before the confirm came"
        in_doubt = OutcomeUnknown(what, cause=error.what, cure="the message may or may not be stored: look")
        with self.lock:
            self.dead = error
            for stream in self.streams.values():
                self._settled(stream.abandon(in_doubt, error))
            for subscription in self.subscriptions.values():
                if not closed:
                    subscription.error = error
                subscription.forget()
            for request in self.requests.values():
                request.settle(error=again(error))
            self.notify()

    # --- inside, with the lock held -----------------------------------------------------------------------------------------

    def _apply_limits(self, stream: Stream) -> None:
        if self._opened is not None:
            stream.limit_messages = max(1, min(limits.BATCH_MESSAGES_MAX, self._opened.batch_messages))
            stream.limit_bytes = max(1, min(limits.BATCH_BYTES_TARGET, self._opened.batch_bytes))
            stream.limit_in_flight = max(1, min(limits.BATCHES_IN_FLIGHT, self._opened.batches_in_flight))

    def _send(self, batch: Batch) -> Frames:
        batch.request = self.number()
        self._sends[batch.request] = batch
        return encode(Send(batch.stream.destination, batch.data), request=batch.request)

    def _numbered(self, subscription: Subscription, command: Command) -> Frames:
        number = self.number()
        match command:
            case Ack(_, ranges):
                self._acks[number] = (subscription, ranges)
            case Subscribe():
                self._subscribes[number] = subscription
            case Unsubscribe():
                self._unsubscribes[number] = subscription
        return encode(command, request=number)

    def _confirmed(self, command: Confirm) -> None:
        stream = self.streams.get(command.destination)
        if stream is None or command.producer != stream.producer:
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

    def _delivered(self, command: Deliver, epoch: Epoch) -> None:
        subscription = self.subscriptions.get(command.subscription)
        if subscription is None:
            return
        if subscription.deliver(command, epoch):
            self.arrived.notify_all()
        self._speaking.add(subscription)  # what is known already is acknowledged again

    def _acked(self, request: int, number: int, ranges: tuple[Range, ...]) -> None:
        _, asked = self._acks.pop(request, (None, ()))
        subscription = self.subscriptions.get(number)
        if subscription is not None:
            subscription.acked(ranges, asked)
            self._forget_closed(subscription)

    def _replied(self, number: int, result: Any) -> None:
        subscription = self._subscribes.pop(number, None)
        if subscription is not None:
            subscription.subscribed(_held(result), _epochs(result), _queue(result))
            self._speaking.add(subscription)
            self._forget_closed(subscription)
        subscription = self._unsubscribes.pop(number, None)
        if subscription is not None:
            subscription.unsubscribed()
            self._forget_closed(subscription)

    def _failed(self, number: int, failure: Failure) -> str:
        """An ERROR. Why the session is broken, "" if it is not."""
        error = failure.to_error()
        if isinstance(error, _SESSION_GONE):
            return f"{failure.what} ({failure.code})"
        if batch := self._sends.pop(number, None):
            self._settled(batch.stream.refuse(batch, error))
            self._speaking.add(batch.stream)
        elif number in self._acks:
            subscription, asked = self._acks.pop(number)
            subscription.acked((), asked)
            self._forget_closed(subscription)
        elif number:
            for unanswered in (self._subscribes, self._unsubscribes):
                if refused := unanswered.pop(number, None):
                    self._refused(refused, error)
        else:  # not an answer: an operator removed the queue
            for subscription in self._consumers_of(failure.destination):
                self._refused(subscription, error)
        return ""

    def _consumers_of(self, destination: str) -> list[Subscription]:
        """Those that the server may mean: it answers SUBSCRIBE first, and one that is asked yet creates the queue anew."""
        known = [one for one in self.subscriptions.values() if one.stage not in (Stage.WANTED, Stage.ASKED)]
        return [subscription for subscription in known if subscription.destination == destination]

    def _refused(self, subscription: Subscription, error: ZmqhaError) -> None:
        subscription.refused(error)
        self._forget_closed(subscription)

    def _forget_closed(self, subscription: Subscription) -> None:
        if subscription.stage is Stage.CLOSED:
            self.subscriptions.pop(subscription.number, None)
            self.arrived.notify_all()
        self.changed.notify_all()


def _forked() -> None:
    for session in list(_sessions):
        session.fork()


_sessions: WeakSet[Session] = WeakSet()
os.register_at_fork(after_in_child=_forked)


def again(error: ZmqhaError) -> ZmqhaError:
    """Another exception that says the same: one object must not collect the tracebacks of many threads."""
    return type(error)(error.what, cause=error.cause, cure=error.cure)


def _held(result: Any) -> list[Range] | None:
    """What a REPLY to SUBSCRIBE says is in flight again; None if it does not say. Raises ProtocolError."""
    if not isinstance(result, dict) or "held" not in result:
        return None
    try:
        return [(int(first), int(end)) for first, end in result["held"]]
    except (TypeError, ValueError) as error:
        raise ProtocolError("a REPLY to SUBSCRIBE lists held ranges that are none") from error


def _epochs(result: Any) -> list[Epoch] | None:
    """The epochs of the server's store, as a REPLY to SUBSCRIBE lists them; None if it does not. Raises ProtocolError."""
    if not isinstance(result, dict) or "epochs" not in result:
        return None
    try:
        return [Epoch(int(counter), int(nonce)) for counter, nonce in result["epochs"]]
    except (TypeError, ValueError) as error:
        raise ProtocolError("a REPLY to SUBSCRIBE lists epochs that are none") from error


def _queue(result: Any) -> int:
    """The queue's number, as a REPLY to SUBSCRIBE says it; 0 if it does not."""
    number = result.get("queue", 0) if isinstance(result, dict) else 0
    return number if isinstance(number, int) else 0
