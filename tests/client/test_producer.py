"""The producer's stream against a model server: whatever happens on the way, each message is stored once and its fate is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqha.client.producer import Stage, Stream
from zmqha.core.client_protocol import Durability
from zmqha.core.message import pack_record, read_head, records
from zmqha.errors import ConnectionLost, OutcomeUnknown, OutOfSequence, QueueFull

BOTH = Durability.BOTH_DISKS


def record(number: int) -> bytes:
    return pack_record(b"%d" % number, sent_ms=0)


def add(stream, *numbers, priority=4):
    return [stream.add(record(number), 0, priority) for number in numbers]


def heads(batches):
    return [(read_head(batch.data).first, read_head(batch.data).count) for batch in batches]


def test_a_lone_message_leaves_at_once_and_others_collect_until_the_confirm():
    stream = Stream("q", 7)
    (first,) = add(stream, 1)
    assert stream.has_work()
    assert heads(stream.take()) == [(1, 1)]
    rest = add(stream, 2, 3, 4)
    assert not stream.has_work()
    assert stream.take() == []
    assert stream.confirm(1, BOTH) == [first]
    assert first.receipt.both_disks
    assert heads(stream.take()) == [(2, 3)]
    assert len(set(rest)) == 1


def test_a_full_batch_leaves_while_others_are_in_flight_up_to_the_window():
    stream = Stream("q", 7)
    stream.limit_messages, stream.limit_in_flight = 2, 3
    add(stream, *range(20))
    assert heads(stream.take()) == [(1, 2), (3, 2), (5, 2)]
    assert stream.take() == []
    stream.confirm(4, BOTH)
    assert heads(stream.take()) == [(7, 2), (9, 2)]


def test_a_batch_is_full_by_bytes_too_and_one_large_message_is_a_batch():
    stream = Stream("q", 7)
    stream.limit_bytes = 100
    big = [stream.add(pack_record(bytes(size), sent_ms=0), 0) for size in (10, 10, 500, 10)]
    assert [len(set(map(id, big[:2]))), len({id(batch) for batch in big})] == [1, 3]


def test_another_priority_begins_another_batch_and_order_stays():
    stream = Stream("q", 7)
    add(stream, 1, 2, priority=4)
    add(stream, 3, priority=9)
    add(stream, 4, priority=4)
    batches = stream.take()
    assert [(read_head(batch.data).first, read_head(batch.data).priority) for batch in batches] == [(1, 4), (3, 9)]
    stream.confirm(3, BOTH)
    assert heads(stream.take()) == [(4, 1)]


def test_a_new_session_sends_again_unchanged_and_in_order():
    stream = Stream("q", 7)
    stream.limit_messages = 1
    add(stream, 1, 2, 3)
    before = [batch.data for batch in stream.take()]
    stream.reopen()
    assert [batch.data for batch in stream.take()] == before
    stream.confirm(3, BOTH)
    assert not stream.busy


def test_a_refusal_hits_its_batch_only_and_the_later_ones_are_numbered_anew():
    stream = Stream("q", 7)
    stream.limit_messages = 1
    add(stream, 1, 2, 3, 4)
    one, two, three, four = stream.take()
    assert stream.refuse(two, QueueFull("full")) == [two]
    assert isinstance(two.error, QueueFull)
    add(stream, 5)
    assert stream.take() == []  # three and four are on their way to be refused
    assert stream.refuse(three, OutOfSequence("", expected=2)) == []
    assert stream.take() == []
    assert stream.refuse(four, OutOfSequence("", expected=2)) == []
    assert heads(stream.take()) == [(2, 1), (3, 1), (4, 1)]
    assert [settled.receipt is not None for settled in stream.confirm(4, BOTH)] == [True] * 4
    assert (one.stage, three.stage) == (Stage.SETTLED, Stage.SETTLED)


def test_what_is_in_doubt_is_never_numbered_anew():
    stream = Stream("q", 7)
    stream.limit_messages = 1
    add(stream, 1, 2, 3)
    _, two, three = stream.take()
    stream.refuse(two, QueueFull("full"))
    stream.reopen()  # the refusal of three was lost with the session
    assert heads(stream.take()) == [(1, 1), (3, 1)]
    stream.confirm(1, BOTH)
    stream.refuse(three, OutOfSequence("", expected=2))
    (again,) = stream.take()  # the server of the earlier session may hold it as 3: that number is never another message's
    assert (heads([again]), again.stream.producer != 7) == ([(1, 1)], True)


def test_a_confirmed_sequence_is_never_given_to_another_message():
    """A server that did not hold what another one confirmed (they served alone at the same time) asks for old numbers."""
    stream = Stream("q", 7, ids=lambda: 8)
    stream.limit_messages = 1
    add(stream, 1, 2, 3)
    stream.take()
    stream.confirm(3, BOTH)
    stream.reopen()
    add(stream, 4, 5)
    four, five = stream.take()
    assert stream.refuse(four, OutOfSequence("", expected=2)) == []
    assert stream.refuse(five, OutOfSequence("", expected=2)) == []
    sent = stream.take()
    assert [(read_head(one.data).producer, read_head(one.data).first) for one in sent] == [(8, 1), (8, 2)]


def test_the_old_id_stays_while_something_before_the_gap_is_in_doubt():
    stream = Stream("q", 7, ids=lambda: 8)
    stream.limit_messages = 1
    add(stream, 1, 2)
    stream.take()
    stream.reopen()
    one, two = stream.take()
    assert stream.refuse(two, QueueFull("full")) == [two]
    (three,) = add(stream, 3)
    assert stream.take() == []
    assert stream.confirm(1, BOTH) == [one]
    assert stream.take() == [three]
    assert (read_head(three.data).producer, three.first) == (8, 1)


def test_a_server_that_forgot_the_producer_gets_numbers_from_its_start():
    stream = Stream("q", 7)
    add(stream, 1)
    stream.take()
    stream.confirm(1, BOTH)
    (later,) = add(stream, 2)
    stream.take()
    stream.refuse(later, OutOfSequence("", expected=1))
    assert heads(stream.take()) == [(1, 1)]


@pytest.mark.parametrize("expected", [1, 5])
def test_a_server_that_contradicts_itself_does_not_make_a_loop(expected):
    stream = Stream("q", 7)
    (batch,) = add(stream, 1)
    stream.take()
    assert stream.refuse(batch, OutOfSequence("", expected=expected)) == [batch]
    assert isinstance(batch.error, OutcomeUnknown)
    assert not stream.busy


def test_at_the_end_what_was_sent_is_unknown_and_what_was_not_is_lost():
    stream = Stream("q", 7)
    (sent,) = add(stream, 1)
    stream.take()
    (kept,) = add(stream, 2)
    stream.abandon(OutcomeUnknown("?"), ConnectionLost("!"))
    assert isinstance(sent.error, OutcomeUnknown)
    assert isinstance(kept.error, ConnectionLost)
    assert not stream.busy


class Model:
    """A pair: takes only the next sequence, sometimes refuses, confirms late; a takeover forgets what was not confirmed."""

    def __init__(self) -> None:
        self.stored: list[tuple[int, bytes]] = []  # (producer, body)
        self.confirmed = 0  # of them

    def last(self, producer: int, within: int | None = None) -> int:
        return sum(1 for one, _ in self.stored[:within] if one == producer)

    def take(self, data: bytes, full: bool):
        head = read_head(data)
        last = self.last(head.producer)
        if head.next - 1 <= last:
            return None
        if head.first > last + 1:
            return OutOfSequence("", expected=last + 1)
        if full:
            return QueueFull("full")
        bodies = [one.body for one in records(data)]
        self.stored += [(head.producer, body) for body in bodies[last + 1 - head.first :]]
        return None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "take", "serve", "serve", "confirm", "answer", "answer", "takeover"]),
        st.integers(1, 5),
        st.booleans(),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_every_message_is_stored_once_in_order_and_its_fate_is_true(steps):
    stream, server = Stream("q", 7), Model()
    stream.limit_messages, stream.limit_in_flight = 3, 4
    wire, answers = [], []  # batches to the server, (batch, error) and confirms back
    fate = []  # batch by message number

    def run(step, amount, flag):
        nonlocal wire, answers
        if step == "add":
            fate.extend(add(stream, *range(len(fate), len(fate) + amount), priority=4 + flag))
        elif step == "take":
            wire += [(batch, batch.data) for batch in stream.take()]
        elif step == "serve" and wire:
            batch, data = wire.pop(0)
            error = server.take(data, flag and amount > 3)
            if error is not None:
                answers.append((batch, error))
            elif read_head(data).next - 1 <= (up_to := server.last(read_head(data).producer, server.confirmed)):
                answers.append((None, (read_head(data).producer, up_to)))
        elif step == "confirm":
            server.confirmed = len(server.stored)
            answers += [(None, (producer, server.last(producer))) for producer in {one for one, _ in server.stored}]
        elif step == "answer" and answers:
            batch, what = answers.pop(0)
            if batch is not None:
                stream.refuse(batch, what)
            elif what[0] == stream.producer:  # as the session looks
                stream.confirm(what[1], BOTH)
        elif step == "takeover":
            if flag:  # the new active has only what was confirmed
                del server.stored[server.confirmed :]
            wire, answers = [], []
            stream.reopen()

    for step in steps:
        run(*step)
    for _ in range(60):  # then all goes well
        if not stream.busy:
            break
        for step in ["take"] + ["serve"] * 10 + ["confirm"] + ["answer"] * 30:
            run(step, 1, False)
    assert not stream.busy
    kept = [b"%d" % number for number, batch in enumerate(fate) if batch.receipt is not None]
    refused = {b"%d" % number for number, batch in enumerate(fate) if batch.error is not None}
    assert [body for _, body in server.stored] == kept
    assert all(isinstance(batch.error, QueueFull) for batch in fate if batch.error is not None)
    assert len(kept) + len(refused) == len(fate)
