"""The subscription: what is held, acknowledged and said again after a takeover; and the ranges it counts with."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqha.client.consumer import HELD_RANGES_MAX, Stage, Subscription
from zmqha.client.ranges import Ranges
from zmqha.client.receiver import Consumer, _Desk
from zmqha.client.session import Session
from zmqha.client.window import WINDOW_MIN
from zmqha.core.client_protocol import Ack, Credit, Deliver, Nack, Subscribe, Unsubscribe
from zmqha.core.message import batch_of
from zmqha.core.position import Epoch
from zmqha.errors import NoSuchDestination


def delivery(first: int, count: int, redelivered: bool = False) -> Deliver:
    bodies = [b"%d" % number for number in range(first, first + count)]
    return Deliver(5, first, 1, redelivered, batch_of(bodies, producer=1, first=first + 1))


def buffered(subscription):
    return [offset for one in subscription.buffer for offset in range(one.first + one.at, one.first + one.stop)]


def opened(prefetch=100) -> Subscription:
    subscription = Subscription(5, "q", prefetch)
    (command,) = subscription.take()
    assert command == Subscribe(5, "q", min(prefetch, WINDOW_MIN), command.bytes, ())
    subscription.subscribed([])
    return subscription


def test_acknowledgements_of_a_turn_leave_as_ranges():
    subscription = opened()
    assert subscription.deliver(delivery(0, 10))
    assert subscription.ack(0)
    assert not any(subscription.ack(offset) for offset in (1, 2, 7, 4, 3))
    assert subscription.take() == [Ack(5, ((0, 5), (7, 8)))]
    assert subscription.take() == []
    assert list(subscription.held) == [(5, 7), (8, 10)]
    subscription.acked([(0, 5), (7, 8)], [(0, 5), (7, 8)])
    assert not subscription.acking


def test_messages_given_back_are_grouped_by_delay():
    subscription = opened()
    subscription.deliver(delivery(0, 10))
    for offset, delay in ((0, 0), (1, 0), (5, 250)):
        subscription.nack(offset, delay)
    assert subscription.take() == [Nack(5, 0, ((0, 2),)), Nack(5, 250, ((5, 6),))]
    assert subscription.deliver(delivery(0, 2, redelivered=True))


def test_a_takeover_lists_what_is_held_and_says_acknowledgements_again_after_the_answer():
    subscription = opened(prefetch=10)
    subscription.deliver(delivery(0, 10))
    for offset in range(4):
        subscription.ack(offset)
    assert subscription.take() == [Ack(5, ((0, 4),))]
    subscription.lost()
    subscription.ack(4)  # meanwhile
    subscribe, credit = subscription.take()
    assert (subscribe.held, subscribe.messages) == (((0, 10),), 15)
    assert credit == Credit(5, 10, credit.bytes)
    assert subscription.take() == []
    subscription.subscribed([(0, 10)])
    assert subscription.take() == [Ack(5, ((0, 5),))]
    assert buffered(subscription) == list(range(10))  # what the application has of it, it knows itself


def test_what_the_new_active_did_not_give_us_again_is_dropped():
    subscription = opened()
    subscription.deliver(delivery(0, 10))
    subscription.ack(0)
    subscription.ack(9)
    subscription.take()
    subscription.lost()
    subscription.take()
    subscription.subscribed([(0, 4)])  # 0 was ours still; 4 to 9 are recorded or somebody else's
    assert subscription.take() == [Ack(5, ((0, 1),))]
    assert list(subscription.held) == [(1, 4)]
    assert buffered(subscription) == [0, 1, 2, 3][1:] or buffered(subscription) == [1, 2, 3]
    assert subscription.losses
    assert subscription.deliver(delivery(8, 2, redelivered=True))  # 9 we have done with: again acknowledged, not shown
    assert buffered(subscription) == [1, 2, 3, 8]
    assert subscription.take() == [Ack(5, ((9, 10),))]


def test_what_is_delivered_twice_is_dropped_and_acknowledged_again_if_it_was():
    subscription = opened()
    subscription.deliver(delivery(0, 4))
    subscription.ack(0)
    subscription.take()
    assert subscription.deliver(delivery(0, 6, redelivered=True))
    assert buffered(subscription) == [0, 1, 2, 3, 4, 5]
    assert subscription.take() == [Ack(5, ((0, 1),))]
    assert not subscription.deliver(delivery(0, 6, redelivered=True))


def test_an_acknowledgement_that_is_not_recorded_is_not_owed_for_ever():
    subscription = opened()
    subscription.deliver(delivery(0, 4))
    for offset in range(4):
        subscription.ack(offset)
    (ack,) = subscription.take()
    subscription.acked([(0, 2)], ack.ranges)
    assert not subscription.acking


def test_in_the_store_of_another_branch_known_offsets_are_forgotten_and_shown_again():
    subscription = opened()
    subscription.deliver(delivery(0, 6), Epoch(3, 11))
    for offset in (0, 1, 2):
        subscription.ack(offset)
    subscription.take()
    subscription.acked([(0, 1)], [(0, 3)])  # 1 and 2 were not ours any more: done with
    subscription.lost()
    subscription.take()
    subscription.subscribed([(3, 5)], [Epoch(2, 2), Epoch(3, 33)])
    assert (subscription.branch, list(subscription.held), buffered(subscription)) == (1, [], [])
    assert subscription.take() == [Nack(5, 0, ((3, 5),))], "nobody has seen the messages that the server took for ours"
    assert subscription.deliver(delivery(0, 6, redelivered=True), Epoch(3, 33))
    assert buffered(subscription) == [0, 1, 2, 3, 4, 5]
    assert subscription.take() == []


def test_of_a_queue_that_was_made_again_known_offsets_are_forgotten_and_shown_again():
    subscription = Subscription(5, "q", 100)
    subscription.take()
    subscription.subscribed([], queue=1)
    subscription.deliver(delivery(0, 3))
    subscription.ack(0)
    subscription.lost()
    subscribe, *_ = subscription.take()
    assert (subscribe.held, subscribe.queue) == (((0, 3),), 1)
    subscription.subscribed([], queue=2)
    assert subscription.deliver(delivery(0, 3))
    assert buffered(subscription) == [0, 1, 2]
    assert subscription.take() == []


@pytest.mark.parametrize("epochs", [[Epoch(2, 2), Epoch(3, 11)], None])
def test_in_a_store_that_knows_the_epoch_of_the_last_delivery_offsets_stay(epochs):
    subscription = opened()
    subscription.deliver(delivery(0, 4), Epoch(3, 11))
    subscription.lost()
    subscription.take()
    subscription.subscribed([(0, 4)], epochs)
    assert (subscription.branch, list(subscription.held), buffered(subscription)) == (0, [(0, 4)], [0, 1, 2, 3])


def test_an_acknowledgement_of_a_message_of_another_branch_is_ignored():
    session = Session(lambda: None)
    with session.lock:
        subscription = session.subscribe("q", 10)
    desk = _Desk(session, subscription)
    subscription.take()
    subscription.subscribed([])
    subscription.deliver(delivery(0, 4), Epoch(3, 11))
    subscription.lost()
    subscription.take()
    subscription.subscribed([], [Epoch(3, 33)])
    subscription.deliver(delivery(0, 4), Epoch(3, 33))
    desk.ack(2)
    desk.nack(3, 0)
    assert subscription.take() == []
    _Desk(session, subscription).ack(2)
    assert subscription.take() == [Ack(subscription.number, ((2, 3),))]


class Engine:
    """As far as a consumer needs one. What happens while it waits is given; a second wait ends by its timeout."""

    options = SimpleNamespace(failover_timeout=-1)

    def __init__(self, session, meanwhile):
        self.session, self._meanwhile = session, [meanwhile]

    def wait(self, condition, done, seconds, patience):
        if self._meanwhile:
            self._meanwhile.pop()()
        return done()


def test_a_consumer_that_waits_while_the_branch_changes_gets_all_that_comes_and_acknowledges_it_there():
    session = Session(lambda: None)
    with session.lock:
        subscription = session.subscribe("q", 10)
    subscription.take()
    subscription.subscribed([])
    subscription.deliver(delivery(0, 2), Epoch(3, 11))

    def change_branch():
        subscription.lost()
        subscription.take()
        subscription.subscribed([], [Epoch(3, 33)])
        subscription.deliver(delivery(0, 4), Epoch(3, 33))

    consumer = Consumer(SimpleNamespace(_engine=Engine(session, change_branch)), subscription, auto=True, timeout=None)
    assert [message.offset for message in consumer] == [0, 1, 0, 1, 2, 3]
    assert subscription.take() == [Ack(subscription.number, ((0, 4),))]
    consumer._closed = True


def test_closing_acknowledges_first_and_gives_back_the_rest():
    subscription = opened()
    subscription.deliver(delivery(0, 4))
    subscription.ack(0)
    subscription.close()
    assert subscription.take() == [Ack(5, ((0, 1),)), Unsubscribe(5)]
    assert not subscription.ack(1)  # too late
    subscription.unsubscribed()
    assert subscription.stage is Stage.LEFT
    subscription.acked([(0, 1)], [(0, 1)])
    assert subscription.stage is Stage.CLOSED


def test_closing_across_a_takeover_still_records_the_acknowledgements():
    subscription = opened()
    subscription.deliver(delivery(0, 4))
    subscription.ack(0)
    subscription.close()
    subscription.take()
    subscription.lost()
    subscribe, *_ = subscription.take()
    assert (subscribe.held, subscribe.messages) == (((0, 1),), 1)
    subscription.subscribed([(0, 1)])
    assert subscription.take() == [Ack(5, ((0, 1),)), Unsubscribe(5)]


def test_closing_with_nothing_to_say_after_a_loss_needs_no_server():
    subscription = opened()
    subscription.close()
    subscription.lost()
    assert subscription.take() == []
    assert subscription.stage is Stage.CLOSED


def test_a_refused_subscription_keeps_the_reason():
    subscription = Subscription(5, "q", 1)
    subscription.take()
    subscription.refused(NoSuchDestination("no"))
    assert isinstance(subscription.error, NoSuchDestination)
    assert subscription.take() == []


def test_many_held_ranges_do_not_exceed_a_frame():
    subscription = opened(prefetch=10_000)
    for first in range(0, 3 * HELD_RANGES_MAX, 2):
        subscription.deliver(delivery(first, 1))
    subscription.lost()
    assert len(subscription.take()[0].held) == HELD_RANGES_MAX


def test_an_old_copy_that_is_acknowledged_settles_the_new_one_that_waits():
    subscription = opened()
    subscription.deliver(delivery(0, 2))
    subscription.buffer.popleft()  # both are with the application
    subscription.lost()
    subscription.take()
    subscription.subscribed([(1, 2)])  # 0 is somebody else's now
    subscription.take()
    subscription.deliver(delivery(0, 1))  # and comes back
    losses = subscription.losses
    assert subscription.ack(0)
    assert not subscription.buffer and subscription.losses > losses
    assert subscription.take() == [Ack(5, ((0, 1),))]


class Busy:
    """A consumer of which one acknowledgement is always on its way."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.at = 0
        self._said = Ack(5, ())
        self.work(1)

    def work(self, messages: int) -> list[int]:
        """So many messages come and are finished until the answer to that acknowledgement is there; the windows that are said then."""
        subscription = self.subscription
        subscription.deliver(delivery(self.at, messages))
        for offset in range(self.at, self.at + messages):
            subscription.ack(offset)
        self.at += messages
        subscription.acked(self._said.ranges, self._said.ranges)
        self._said, *credits = subscription.take()
        return [credit.messages for credit in credits]


def test_a_consumer_that_is_quicker_than_a_round_trip_gets_more_up_to_its_prefetch():
    busy = Busy(opened(prefetch=1000))
    assert [busy.work(busy.subscription.window.size // 2) for _ in range(5)] == [[200], [400], [800], [1000], []]
    busy.subscription.lost()
    assert busy.subscription.take()[0].messages >= 1000  # a takeover begins where it was


def test_a_slow_consumer_keeps_little_from_the_others():
    busy = Busy(opened(prefetch=1000))
    assert [busy.work(49) for _ in range(3)] == [[], [], []]
    for _ in range(4):
        busy.work(busy.subscription.window.size)
    assert [busy.work(3) for _ in range(5)] == [[500], [250], [125], [100], []]


def test_an_application_that_holds_all_it_may_and_asks_for_more_gets_more():
    subscription, at, windows = opened(prefetch=500), 0, []
    for _ in range(4):
        subscription.deliver(delivery(at, subscription.window.size - at))
        subscription.buffer.clear()  # the application has them
        at = subscription.window.size
        assert subscription.starves() == (at < 500)
        windows += [credit.messages for credit in subscription.take()]
    assert windows == [200, 400, 500]
    subscription.ack(0)
    (ack,) = subscription.take()
    subscription.acked(ack.ranges, ack.ranges)
    assert subscription.take() == [], "it works on many at once: that is not slow"


def test_who_does_not_hold_all_it_may_does_not_starve():
    subscription = opened()
    subscription.deliver(delivery(0, 100))
    subscription.buffer.clear()
    subscription.ack(0)
    assert not subscription.starves()
    assert opened(prefetch=1).starves() is False


def test_who_collects_large_messages_gets_more_bytes_up_to_a_bound():
    subscription, mebibyte, credits = opened(), bytes(1 << 20), []
    for at in range(70):
        subscription.deliver(Deliver(5, at, 1, False, batch_of([mebibyte], producer=1, first=at + 1)))
        subscription.buffer.clear()  # the application has them
        if subscription.starves():
            credits += [(at + 1, credit) for credit in subscription.take()]
    assert credits == [(15, Credit(5, 100, 32 << 20)), (31, Credit(5, 100, 64 << 20))]
    subscription.lost()
    assert subscription.take()[0].bytes == 64 << 20, "a session later too"


def test_a_takeover_takes_nothing_away_after_the_window_has_shrunk():
    busy = Busy(opened(prefetch=1000))
    for _ in range(4):
        busy.work(busy.subscription.window.size)
    subscription, first = busy.subscription, busy.at
    subscription.deliver(delivery(first, 1000))
    while subscription.window.size > 100:
        busy.work(1)
    subscription.lost()
    subscribe, credit = subscription.take()
    held = subscribe.held[-1]
    assert (first + 900 < held[1], credit.messages) == (True, 100)
    assert subscribe.messages == sum(end - begin for begin, end in subscribe.held)


def test_a_small_prefetch_is_what_is_outstanding():
    busy = Busy(opened(prefetch=7))
    assert busy.work(6) == busy.work(7) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["deliver", "deliver", "next", "next", "ack", "ack", "nack", "talk", "talk", "answer", "takeover", "rival"]
        ),
        st.integers(0, 6),
    ),
    max_size=100,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_nothing_is_shown_twice_while_it_is_ours_and_everything_is_done_in_the_end(steps):
    """A model queue of 30 messages, one subscription under test, and a rival that grabs ready messages after takeovers."""
    total = 30
    subscription = Subscription(5, "q", 8)
    ready, ours, done, rival = list(range(total)), set(), set(), set()
    asked: Subscribe | None = None
    replies: list = []
    hands: list[int] = []  # shown, not settled
    strayed: set[int] = set()  # was the rival's once
    finished: set[int] = set()  # acknowledged by the application

    def expand(ranges):
        return [offset for first, end in ranges for offset in range(first, end)]

    def say(commands):
        nonlocal asked
        for command in commands:
            match command:
                case Subscribe():
                    taken = [offset for offset in expand(command.held) if offset in ready]
                    for offset in taken:
                        ready.remove(offset)
                        ours.add(offset)
                    replies.append(("subscribed", list(Ranges((offset, offset + 1) for offset in taken))))
                case Ack(_, ranges):
                    mine = [offset for offset in expand(ranges) if offset in ours]
                    ours.difference_update(mine)
                    done.update(mine)
                    recorded = [offset for offset in expand(ranges) if offset in done]
                    replies.append(("acked", [(offset, offset + 1) for offset in recorded], ranges))
                case Nack(_, _, ranges):
                    for offset in expand(ranges):
                        if offset in ours:
                            ours.discard(offset)
                            ready.append(offset)
                            ready.sort()

    def run(step, amount):
        nonlocal replies
        if step == "deliver" and ready and subscription.stage is Stage.OPEN and len(ours) < 8:
            offset = ready.pop(0)
            ours.add(offset)
            subscription.deliver(delivery(offset, 1))
        elif step == "next" and subscription.buffer:
            one = subscription.buffer.popleft()
            shown = range(one.first + one.at, one.first + one.stop)
            for offset in shown:
                assert offset not in finished
                assert offset not in hands or offset in strayed  # it was somebody else's meanwhile: shown again, redelivered
                hands.append(offset)
        elif step == "ack" and hands:
            offset = hands.pop(amount % len(hands))
            if offset not in hands:
                finished.add(offset)
            subscription.ack(offset)
        elif step == "nack" and hands:
            offset = hands.pop(amount % len(hands))
            if offset not in hands and offset in subscription.held:
                subscription.nack(offset, 0)
            else:
                hands.append(offset)
        elif step == "talk":
            say(subscription.take())
        elif step == "answer" and replies:
            kind, *what = replies.pop(0)
            subscription.subscribed(*what) if kind == "subscribed" else subscription.acked(*what)
        elif step == "takeover":
            ready.extend(ours)
            ready.sort()
            ours.clear()
            replies = []
            subscription.lost()
        elif step == "rival":
            if amount < 3 and ready:
                rival.add(ready[0])
                strayed.add(ready.pop(0))
            else:
                ready.extend(rival)
                ready.sort()
                rival.clear()

    for step in steps:
        run(*step)
    for _ in range(200):
        for step in ("talk", "answer", "rival", "deliver", "next", "ack", "ack"):
            run(step, 6)
        if len(done) == total:
            break
    assert done == set(range(total))
    for _ in range(5):
        run("talk", 0)
        run("answer", 0)
    assert not subscription.acking


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 12)), max_size=30))
def test_ranges_are_a_set(steps):
    ranges, model = Ranges(), set()
    for adding, first, size in steps:
        if size == 0:
            continue
        (ranges.add if adding else ranges.remove)(first, first + size)
        (model.update if adding else model.difference_update)(range(first, first + size))
        assert [offset for start, end in ranges for offset in range(start, end)] == sorted(model)
        assert ranges.count() == len(model)
