"""Cursor, log index, value table, producers, cache and the queue that keeps them in step."""

import pytest

from zmqha.core import cursor as cursor_module
from zmqha.core import limits
from zmqha.core.batch_cache import BatchCache
from zmqha.core.cursor import Cursor
from zmqha.core.log_index import LogIndex, Place, ValueTable
from zmqha.core.producers import Producers, Sequence
from zmqha.core.queues import Queue, Queues
from zmqha.core.session import Subscription
from zmqha.core.work import CursorRow, DestinationRow
from zmqha.errors import LimitReached, QueueFull


def a_queue(*counts: int, size: int = 100) -> Queue:
    """A queue whose batches, one value each, hold this many messages."""
    queue = Queue(DestinationRow(1, "q", 0, 0))
    for value, count in enumerate(counts, 1):
        queue.expect(count, size)
        queue.stored(Place(queue.tail, count, value, 0, size))
        queue.tail += count
    return queue


def a_consumer(queue: Queue, messages: int = 100, size: int = 100_000, held: tuple[tuple[int, int], ...] = ()) -> Subscription:
    consumer = Subscription(b"c", 1, queue, max_messages=messages, max_bytes=size)
    queue.join(consumer, held)
    return consumer


def hand_out(queue: Queue, consumer: Subscription, end: int) -> None:
    front = queue.cursor.front()
    assert front is not None
    queue.cursor.hand_out(front, end)
    consumer.in_flight.add(front.first, end, front.deliveries + 1)
    consumer.out_messages += end - front.first
    consumer.out_bytes += queue.log.weight(front.first, end)


def test_acknowledged_ranges_lie_above_the_floor_until_it_reaches_them() -> None:
    queue = a_queue(10)
    consumer = a_consumer(queue)
    hand_out(queue, consumer, 10)
    queue.acknowledge(consumer, [(2, 4), (6, 8)])
    assert queue.cursor.row(1) == CursorRow(1, 0, ((2, 4), (6, 8)), ())
    queue.acknowledge(consumer, [(0, 2)])
    assert queue.cursor.row(1) == CursorRow(1, 4, ((6, 8),), ())
    queue.acknowledge(consumer, [(4, 10)])
    assert queue.cursor.row(1) == CursorRow(1, 10, (), ())
    assert (consumer.out_messages, consumer.out_bytes, queue.cursor.messages) == (0, 0, 0)


def test_what_comes_back_goes_first_and_is_counted() -> None:
    queue = a_queue(10)
    consumer = a_consumer(queue)
    hand_out(queue, consumer, 6)
    assert queue.give_back(consumer, [(1, 3)], delayed=False) == [(1, 3)]
    front = queue.cursor.front()
    assert front == (1, 3, 1, True)
    hand_out(queue, consumer, 3)
    assert [tuple(piece) for piece in consumer.in_flight] == [(0, 1, 1), (1, 3, 2), (3, 6, 1)]
    assert queue.cursor.row(1).returned == ((1, 3, 1),), "the count outlives the redelivery, until the message is done"
    queue.acknowledge(consumer, [(0, 6)])
    assert queue.cursor.row(1) == CursorRow(1, 6, (), ())


def test_a_loaded_cursor_offers_everything_not_done_as_redelivered() -> None:
    queue = Queue(DestinationRow(1, "q", 0, 0))
    queue.cursor.load(CursorRow(1, 4, ((6, 8),), ((4, 5, 3),)))
    assert not queue.restore_batch(Place(0, 4, 1, 0, 100)), "done below the floor"
    assert queue.restore_batch(Place(4, 4, 2, 0, 100))
    assert queue.restore_batch(Place(8, 2, 3, 0, 100))
    queue.resume()
    assert queue.tail == 10
    assert queue.cursor.messages == 4
    assert queue.log.left.tolist() == [2, 2]
    consumer = a_consumer(queue)
    handed = []
    while (front := queue.cursor.front()) is not None:
        handed.append(tuple(front))
        hand_out(queue, consumer, front.end)
    assert handed == [(4, 5, 3, True), (5, 6, 0, True), (8, 10, 0, True)]


def test_offsets_are_not_given_twice_after_everything_was_dropped() -> None:
    queue = Queue(DestinationRow(1, "q", 0, 0))
    queue.cursor.load(CursorRow(1, 100, ((102, 110),), ()))
    queue.restore_batch(Place(100, 2, 9, 0, 50))
    queue.resume()
    assert queue.tail == 110


def test_held_ranges_are_claimed_up_to_the_credit_and_only_if_they_were_out() -> None:
    queue = Queue(DestinationRow(1, "q", 0, 0))
    queue.cursor.load(CursorRow(1, 0, ((2, 3),), ()))
    queue.restore_batch(Place(0, 10, 1, 0, 1000))
    queue.resume()
    consumer = Subscription(b"c", 1, queue, max_messages=5, max_bytes=100_000)
    assert queue.join(consumer, [(1, 4), (1, 4), (7, 20)]) == [(1, 2), (3, 4), (7, 10)]
    assert consumer.out_messages == 5
    other = Subscription(b"d", 1, queue, max_messages=5, max_bytes=100_000)
    assert queue.join(other, [(0, 10)]) == [(0, 1), (4, 7)], "what another holds is not given"
    fresh = a_queue(10)
    assert fresh.join(Subscription(b"e", 1, fresh, max_messages=5, max_bytes=9), [(0, 10)]) == []


def test_fresh_messages_wait_while_a_cursor_has_too_many_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursor_module, "RANGES_MAX", 3)
    queue = a_queue(20)
    consumer = a_consumer(queue)
    hand_out(queue, consumer, 10)
    queue.acknowledge(consumer, [(1, 2), (3, 4), (5, 6)])
    assert queue.cursor.front() is None
    queue.give_back(consumer, [(8, 9)], delayed=False)
    assert queue.cursor.front() == (8, 9, 1, True), "what came back still goes out"
    hand_out(queue, consumer, 9)
    queue.acknowledge(consumer, [(0, 10)])
    assert queue.cursor.front() == (10, 20, 0, False)


def test_a_queue_at_its_limit_says_which() -> None:
    queue = a_queue(10)
    with pytest.raises(QueueFull, match="q is full"):
        queue.check_room(1, 1, 10, 1000)
    queue.check_room(1, 1, 11, 101)
    with pytest.raises(QueueFull) as caught:
        queue.check_room(1, 2, 11, 101)
    assert "100 bytes of at most 101" in caught.value.cause
    queue.max_messages = 5
    with pytest.raises(QueueFull):
        queue.check_room(1, 1, 100, 1000)


def test_the_index_forgets_what_is_done_in_the_middle_too() -> None:
    queue = a_queue(*[1] * 1000)
    consumer = a_consumer(queue, messages=1000)
    hand_out(queue, consumer, 1000)
    queue.acknowledge(consumer, [(1, 999)])
    assert queue.log.first.tolist() == [0, 999]
    assert queue.log.bytes == 200
    queue.acknowledge(consumer, [(999, 1000)])
    assert queue.log.weight(0, 1) == 100


def test_a_message_done_twice_is_a_bug_here() -> None:
    index = LogIndex()
    index.append(Place(0, 4, 1, 0, 40), 4)
    assert index.finish(0, 3) == (30, [])
    with pytest.raises(AssertionError):
        index.finish(1, 4)


def test_a_value_goes_with_its_last_batch() -> None:
    values = ValueTable()
    values.add(3, 2)
    values.add(7, 1)
    values.add(8, 0)
    assert values.collect(10) == (8,)
    values.finish(3)
    assert not values.waiting
    values.finish(7)
    values.finish(3)
    assert values.collect(1) == (7,)
    values.put_back((7,))
    assert values.collect(10) == (7, 3)
    assert len(values) == 0


def test_a_purged_index_is_worked_off_in_blocks() -> None:
    values, queue = ValueTable(), a_queue(*[1] * 100)
    for value in range(1, 101):
        values.add(value, 1)
    removed, index = queue.finish_all()
    values.retire(index)
    assert removed == 100
    dropped = []
    while values.waiting:
        dropped.append(values.collect(30))
    assert [len(part) for part in dropped] == [30, 30, 30, 10]
    assert sorted(value for part in dropped for value in part) == list(range(1, 101))


def test_the_table_of_producers_forgets_the_longest_idle() -> None:
    producers = Producers(2)
    for producer in (1, 2):
        producers.keep(producer, 9, Sequence(5))
    assert producers.find(1, 9).accepted == 5
    producers.keep(3, 9, Sequence(1))
    assert (len(producers), producers.find(2, 9).accepted, producers.find(1, 9).accepted) == (2, 0, 5)
    producers.forget(9)
    assert len(producers) == 0


def test_the_cache_keeps_the_newest_whatever_its_size() -> None:
    cache = BatchCache(10)
    cache.put((1, 0), b"aaaa")
    cache.put((1, 1), b"bbbbbb")
    cache.put((1, 2), b"c")
    assert (cache.get((1, 0)), cache.bytes) == (None, 7)
    cache.put((1, 3), b"d" * 50)
    assert (cache.get((1, 2)), cache.get((1, 3)), cache.bytes) == (None, b"d" * 50, 50)
    cache.drop((1, 3))
    cache.drop((1, 3))
    assert cache.bytes == 0


def test_the_cache_holds_no_more_small_batches_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CACHE_BATCHES", 3)
    cache = BatchCache(1000)
    for offset in range(5):
        cache.put((1, offset), b"ab")
    assert [cache.get((1, offset)) for offset in range(5)] == [None, None, b"ab", b"ab", b"ab"]
    assert cache.bytes == 6


def test_numbers_of_queues_are_not_used_again_while_seen() -> None:
    queues = Queues(2)
    queues.seen(7)
    first = queues.create("a")
    assert first.number == 8
    queues.remove(first)
    assert queues.create("a").number == 9
    queues.create("b")
    with pytest.raises(LimitReached):
        queues.create("c")


def test_an_empty_cursor_has_nothing_to_give() -> None:
    assert Cursor().front() is None
