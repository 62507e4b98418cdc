"""``Session``: what the application's threads and the I/O thread share; frames in and out, no sockets."""

import pytest

from zmqha.client.consumer import Stage
from zmqha.client.session import Session
from zmqha.core.client_protocol import Envelope, Failure, Opened, Reply, Subscribe, decode
from zmqha.core.position import Epoch

EPOCH = Epoch(1, 0)
REMOVED = Failure("ZHA-202", "the queue q was removed", destination="q")


@pytest.fixture
def session():
    """One whose server has just said OPENED."""
    session = Session(lambda: None)
    session.begin(Opened("edge", "c", ("", ""), 8 << 20, 1000, 512 << 10, 8, 1000))
    return session


def subscribed(session):
    """A subscription that the server agreed to."""
    subscription = session.subscribe("q", 10)
    answer(session)
    assert subscription.stage is Stage.OPEN
    return subscription


def answer(session):
    """Say what there is to say; every SUBSCRIBE is agreed to."""
    for request, _, command in map(decode, session.frames()):
        if isinstance(command, Subscribe):
            session.receive(Envelope(request, EPOCH, Reply({})))


def test_the_end_of_a_queue_ends_no_subscription_that_the_server_does_not_know_yet(session):
    old = subscribed(session)
    asked = session.subscribe("q", 10)
    unanswered = [decode(frames) for frames in session.frames()]
    wanted = session.subscribe("q", 10)
    session.receive(Envelope(0, EPOCH, REMOVED))
    assert (old.stage, asked.stage, wanted.stage) == (Stage.CLOSED, Stage.ASKED, Stage.WANTED)
    session.receive(Envelope(unanswered[0].request, EPOCH, Reply({})))  # the queue is there again: SUBSCRIBE created it
    answer(session)
    assert (asked.stage, wanted.stage) == (Stage.OPEN, Stage.OPEN)
