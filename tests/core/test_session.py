"""Credit arithmetic of a subscription."""

import pytest

from zmqha.core.queues import Queue
from zmqha.core.session import Session, Subscription
from zmqha.core.work import DestinationRow


def subscription(messages: int, size: int) -> Subscription:
    return Subscription(b"c", 1, Queue(DestinationRow(1, "q", 0, 0)), max_messages=messages, max_bytes=size)


@pytest.mark.parametrize(
    ("messages", "size", "out", "out_bytes", "weight", "room"),
    [
        (10, 1000, 0, 0, 100, 10),
        (10, 1000, 4, 400, 100, 6),
        (100, 1000, 4, 400, 100, 6),
        (10, 50, 0, 0, 100, 1),  # at least one message, however large
        (10, 150, 1, 100, 100, 0),
        (0, 1000, 0, 0, 100, 0),  # paused
        (10, 0, 0, 0, 100, 1),
    ],
)
def test_room_is_what_both_bounds_leave(messages: int, size: int, out: int, out_bytes: int, weight: int, room: int) -> None:
    consumer = subscription(messages, size)
    consumer.out_messages, consumer.out_bytes = out, out_bytes
    assert consumer.room(weight) == room


def test_a_consumer_has_credit_until_one_bound_is_reached() -> None:
    consumer = subscription(2, 100)
    assert consumer.has_credit
    consumer.out_messages, consumer.out_bytes = 1, 100
    assert not consumer.has_credit
    consumer.out_bytes = 99
    assert consumer.has_credit
    consumer.out_messages = 2
    assert not consumer.has_credit


def test_a_session_begins_when_it_is_heard() -> None:
    session = Session(b"c", "app", 5)
    assert (session.heard_ms, session.instance, session.subscriptions) == (5, 0, {})
