"""The consumers' side: subscriptions come and go, credit, acknowledgements, what is given back. ``Service`` hands commands in.

An acknowledgement takes effect only on what is in flight to that subscription. What is done already is answered like what becomes
done now; if nothing of an ACK is either, it is refused. Whatever comes back to a queue is written with its count of deliveries.
"""

from heapq import heappop, heappush

from zmqha.core import limits
from zmqha.core.client_protocol import Ack, Acked, Credit, Nack, Reply, Subscribe, Unsubscribe
from zmqha.core.commits import Answer
from zmqha.core.cursor import DELAYED_MAX
from zmqha.core.desk import Desk
from zmqha.core.session import Session, Subscription
from zmqha.errors import LimitReached, ProtocolError, WrongState

NACK_DELAY_MS_MAX = 24 * 3_600_000  # a longer delay is this long


class Consumers:
    """Works at the desk; keeps the delays."""

    __slots__ = ("_delays", "_desk")

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._delays: list[tuple[int, int, int, int]] = []  # heap of (due_ms, queue number, first, end)

    def clear(self) -> None:
        """A term of being active is over; delayed messages are ready at the next one."""
        self._delays.clear()

    def subscribe(self, session: Session, request: int, command: Subscribe) -> None:
        """A new consumer. The reply: its credit, which of the ranges it holds are in flight to it, and what their offsets belong to.

        Offsets that a client knows from any other epoch belong to other messages: two served alone, and this is the other one. So do
        those of a queue with another number: it was removed and made again.
        """
        desk, number = self._desk, command.subscription
        _check_number(session, number)
        messages, size = _check_credit(command.messages, command.bytes)
        if len(command.held) > limits.RANGES_PER_FRAME:
            raise ProtocolError(f"more than {limits.RANGES_PER_FRAME} held ranges")
        queue = desk.queues.by_name.get(command.destination) or desk.create(command.destination)
        subscription = Subscription(session.client, number, queue, max_messages=messages, max_bytes=size)
        session.subscriptions[number] = subscription
        held = queue.join(subscription, command.held if command.queue == queue.number else ())
        result = {
            "queue": queue.number, "epochs": [list(epoch) for epoch in desk.epochs], "held": held, "messages": messages, "bytes": size,
        }  # fmt: skip
        desk.send(session.client, request, Reply(result))
        desk.delivery.wake(queue)

    def unsubscribe(self, session: Session, request: int, command: Unsubscribe) -> None:
        """A consumer goes."""
        self.leave(_find(session, command.subscription))
        del session.subscriptions[command.subscription]
        self._desk.send(session.client, request, Reply({}))

    def leave(self, subscription: Subscription) -> None:
        """Whatever was in flight to this consumer goes back."""
        queue = subscription.queue
        if queue.leave(subscription):
            self._desk.commits.touch(queue)
        self._desk.delivery.wake(queue)

    def credit(self, session: Session, request: int, command: Credit) -> None:
        """New bounds."""
        subscription = _find(session, command.subscription)
        messages, size = _check_credit(command.messages, command.bytes)
        subscription.max_messages, subscription.max_bytes = messages, size
        subscription.queue.turn(subscription)
        self._desk.send(session.client, request, Reply({"messages": messages, "bytes": size}))
        self._desk.delivery.wake(subscription.queue)

    def acknowledge(self, session: Session, request: int, command: Ack) -> None:
        """Done. Answered with the ranges that are, once that is durable."""
        desk, subscription = self._desk, _find(session, command.subscription)
        queue = subscription.queue
        result = queue.acknowledge(subscription, command.ranges)
        if result.changed:
            desk.commits.touch(queue)
            for first, value in result.finished:
                desk.delivery.cache.drop((queue.number, first))
                desk.values.finish(value)
            desk.delivery.wake(queue)
        if not result.done:
            raise WrongState(
                "the acknowledged messages are not in flight to this subscription",
                cause="they were never delivered to it, or they went back to the queue",
                cure="acknowledge only what was delivered; it will be delivered again",
            )
        desk.answer(Answer(session.client, request, Acked(command.subscription, tuple(result.done))))

    def give_back(self, session: Session, command: Nack, now_ms: int) -> None:
        """Not done: ready again, now or later (now, where too many are delayed already). Not answered."""
        subscription = _find(session, command.subscription)
        queue = subscription.queue
        delayed = command.delay_ms > 0 and len(queue.cursor.delayed) + len(command.ranges) <= DELAYED_MAX
        back = queue.give_back(subscription, command.ranges, delayed=delayed)
        if not back:
            return
        self._desk.commits.touch(queue)
        if delayed:
            due_ms = now_ms + min(command.delay_ms, NACK_DELAY_MS_MAX)
            for first, end in back:
                heappush(self._delays, (due_ms, queue.number, first, end))
        self._desk.delivery.wake(queue)

    def deadline_ms(self) -> int | None:
        """When the next delay ends."""
        return self._delays[0][0] if self._delays else None

    def tick(self, now_ms: int) -> None:
        """What was delayed until now is ready."""
        while self._delays and self._delays[0][0] <= now_ms:
            _, number, first, end = heappop(self._delays)
            queue = self._desk.queues.by_number.get(number)
            if queue is not None and queue.cursor.due(first, end):
                self._desk.delivery.wake(queue)


def _find(session: Session, number: int) -> Subscription:
    found = session.subscriptions.get(number)
    if found is None:
        raise WrongState(
            f"subscription {number} is not open",
            cause="this session did not subscribe under that number",
            cure="subscribe again",
        )
    return found


def _check_number(session: Session, number: int) -> None:
    if not 0 <= number < 1 << 32:
        raise ProtocolError(f"subscription {number} is not a number of 32 bits")
    if number in session.subscriptions:
        raise WrongState(
            f"subscription {number} is open already",
            cause="its number is in use in this session",
            cure="unsubscribe first, or choose another number",
        )
    if len(session.subscriptions) >= limits.SUBSCRIPTIONS_PER_SESSION:
        session.forget_removed()
    if len(session.subscriptions) >= limits.SUBSCRIPTIONS_PER_SESSION:
        raise LimitReached(
            "no more subscriptions in this session",
            cause=f"it has {limits.SUBSCRIPTIONS_PER_SESSION}, the most a session may have",
            cure="unsubscribe from what is not needed, or open another client",
        )


def _check_credit(messages: int, size: int) -> tuple[int, int]:
    """The credit asked for, cut down to what is allowed; 0 messages pauses a consumer."""
    if messages < 0 or size < 0:
        raise ProtocolError("credit cannot be negative")
    return min(messages, limits.CREDIT_MESSAGES_MAX), min(size, limits.CREDIT_BYTES_MAX)
