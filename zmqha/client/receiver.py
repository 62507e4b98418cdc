"""The consuming loop: ``for message in client.consume(...)``. Blocks; the state is in ``consumer.Subscription``."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from zmqha.client.consumer import Delivery, Stage, Subscription
from zmqha.client.engine import Owner
from zmqha.client.message import Message
from zmqha.client.session import Session, again
from zmqha.errors import ZmqhaError

LEAVE_S = 1.0  # closing waits this long until the last acknowledgements are recorded


class _Desk:
    """Where the messages of one subscription are acknowledged, from any thread; those of an earlier branch are not any more."""

    __slots__ = ("branch", "session", "subscription")

    def __init__(self, session: Session, subscription: Subscription) -> None:
        self.session = session
        self.subscription = subscription
        self.branch = subscription.branch

    def ack(self, offset: int) -> None:
        """Collected; the I/O thread says it with its next turn."""
        session = self.session
        with session.lock:
            if self.branch == self.subscription.branch and self.subscription.ack(offset):
                session.speak(self.subscription)

    def nack(self, offset: int, delay: float) -> None:
        """Likewise. ``delay`` in seconds."""
        session = self.session
        with session.lock:
            if self.branch == self.subscription.branch:
                self.subscription.nack(offset, max(0, round(delay * 1000)))
                session.speak(self.subscription)


class Consumer:
    """An iterator over the messages of one queue, and a context manager. One thread iterates; messages go anywhere.

    With ``ack="auto"`` a message is acknowledged when the loop asks for the next one, when the iteration ends by ``timeout``, or
    when a ``with`` block around it is left without an exception. Everything else is given back: after an exception, and also
    after ``break`` out of a bare loop, as Python does not tell the two apart. So with ``break``, use ``with`` or
    ``message.ack()``.
    """

    def __init__(self, owner: Owner, subscription: Subscription, *, auto: bool, timeout: float | None) -> None:
        self._owner = owner
        self._engine = owner._engine
        self._subscription = subscription
        self._desk = _Desk(self._engine.session, subscription)
        self._auto = auto
        self._timeout = timeout
        self._current: Message | None = None
        self._delivery: Delivery | None = None
        self._at = 0
        self._stop = 0
        self._losses = 0
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        current = self._current
        if current is not None:
            self._current = None
            if not current.settled:
                current.ack()
        if self._subscription.losses != self._losses:
            self._look_again()
        at = self._at
        delivery = self._delivery
        if at >= self._stop or delivery is None:
            delivery = self._load()
            at = self._at
        self._at = at + 1
        message = Message(self._desk, delivery, at)
        if self._auto:
            self._current = message
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._current is not None:
            self._current.ack()
        self._current = None
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not self._engine.session.forked:  # no lock here: the collector may run anywhere
            self._engine.abandoned.append(self._subscription)
            self._engine.wake()

    def close(self) -> None:
        """End the subscription: acknowledge what is done, give back the rest. Waits briefly until the server has recorded it."""
        if self._closed or self._engine.session.forked:
            return
        self._delivery, self._at, self._stop = None, 0, 0
        engine, subscription = self._engine, self._subscription
        with engine.session.lock:
            self._leave()
            if engine.session.dead is not None or engine.is_own_thread():
                return
            try:
                engine.wait(engine.session.changed, lambda: subscription.stage is Stage.CLOSED, LEAVE_S, 0.0)
            except ZmqhaError:  # no server: its session, and so this subscription, is over anyway
                pass

    def _leave(self) -> None:
        """With the lock held: nothing more is taken; the I/O thread says so."""
        self._closed = True
        self._subscription.close()
        self._engine.session.speak(self._subscription)

    def _look_again(self) -> None:
        """A takeover gave some of our messages to others: hand out only what is left."""
        subscription, delivery = self._subscription, self._delivery
        with self._engine.session.lock:
            if delivery is not None and self._desk.branch == subscription.branch:
                delivery.at = self._at
                subscription.buffer.extendleft(reversed(subscription.still_held(delivery)))
            self._catch_up()
        self._delivery, self._at, self._stop = None, 0, 0

    def _catch_up(self) -> None:
        """With the lock held and nothing of an earlier delivery left: what comes now is as the subscription is now."""
        subscription = self._subscription
        self._losses = subscription.losses
        if self._desk.branch != subscription.branch:
            self._desk = _Desk(self._engine.session, subscription)

    def _load(self) -> Delivery:
        """The next delivery; StopIteration after the timeout or when closed. Raises what ended the subscription."""
        self._delivery, self._at, self._stop = None, 0, 0
        engine, subscription = self._engine, self._subscription

        def ready() -> bool:
            if subscription.buffer or subscription.stage is Stage.CLOSED or subscription.closing:
                return True
            if subscription.starves():
                engine.session.speak(subscription)
            return False

        with engine.session.lock:
            if not ready() and not engine.wait(engine.session.arrived, ready, self._timeout, engine.options.failover_timeout):
                raise StopIteration
            if not subscription.buffer:
                if subscription.error is not None:
                    raise again(subscription.error)
                raise StopIteration
            self._catch_up()  # a takeover may have come while this waited
            delivery = subscription.buffer.popleft()
        self._delivery, self._at, self._stop = delivery, delivery.at, delivery.stop
        return delivery


def open_consumer(owner: Owner, destination: str, prefetch: int, *, auto: bool, timeout: float | None) -> Consumer:
    """Subscribe and wait until the server agrees. Raises NoSuchDestination, LimitReached, FailoverTimeout."""
    engine = owner._engine
    with engine.session.lock:
        if engine.session.dead is not None:
            raise again(engine.session.dead)
        subscription = engine.session.subscribe(destination, prefetch)
    consumer = Consumer(owner, subscription, auto=auto, timeout=timeout)
    waiting: Callable[[], bool] = lambda: subscription.stage not in (Stage.WANTED, Stage.ASKED)  # noqa: E731
    with engine.session.lock:
        try:
            engine.wait(engine.session.changed, waiting, None, engine.options.failover_timeout)
            if subscription.error is not None:
                raise again(subscription.error)
        except BaseException:  # nobody will iterate: a server that is there again must not hand messages out to it
            consumer._leave()
            raise
    return consumer
