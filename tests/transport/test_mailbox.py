"""Hand-over between threads: nothing lost, order kept, one wake-up for a burst."""

import select
import threading
from collections.abc import Iterator

import pytest

from zmqha.transport.mailbox import Mailbox


@pytest.fixture
def mailbox() -> Iterator[Mailbox[tuple[int, int]]]:
    made: Mailbox[tuple[int, int]] = Mailbox()
    yield made
    made.close()


def readable(mailbox: Mailbox[tuple[int, int]], wait_ms: int = 0) -> bool:
    poll = select.poll()
    poll.register(mailbox, select.POLLIN)
    return bool(poll.poll(wait_ms))


def test_a_burst_wakes_once_and_what_exceeds_the_budget_wakes_again(mailbox: Mailbox[tuple[int, int]]) -> None:
    assert not readable(mailbox)
    for number in range(10):
        mailbox.put((0, number))
    assert readable(mailbox)
    assert mailbox.take(6) == [(0, number) for number in range(6)]
    assert readable(mailbox)
    assert mailbox.take(6) == [(0, number) for number in range(6, 10)]
    assert not readable(mailbox)
    assert mailbox.take(6) == []


def test_two_threads_under_load_lose_nothing_and_keep_their_order(mailbox: Mailbox[tuple[int, int]]) -> None:
    count = 50_000

    def work(thread: int) -> None:
        for number in range(count):
            mailbox.put((thread, number))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {0: [], 1: []}
    while sum(map(len, seen.values())) < 2 * count:
        assert readable(mailbox, 2000), "a wake-up was lost"
        for thread_number, number in mailbox.take(64):
            seen[thread_number].append(number)
    for thread in threads:
        thread.join()
    assert seen == {0: list(range(count)), 1: list(range(count))}


def test_single_puts_are_never_slept_over(mailbox: Mailbox[tuple[int, int]]) -> None:
    """Ping-pong: each put meets a taker that may be about to sleep."""
    replies: Mailbox[tuple[int, int]] = Mailbox()

    def answer() -> None:
        for _ in range(5000):
            assert readable(mailbox, 2000)
            for item in mailbox.take(8):
                replies.put(item)

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(5000):
        mailbox.put((0, number))
        assert readable(replies, 2000), "a wake-up was lost"
        assert replies.take(1) == [(0, number)]
    thread.join()
    replies.close()


def test_what_is_put_aside_wakes_only_who_awaits_it(mailbox: Mailbox[tuple[int, int]]) -> None:
    mailbox.awaits(False)
    mailbox.put_aside((0, 1))
    assert mailbox.filled and not readable(mailbox)
    mailbox.put((0, 2))
    assert readable(mailbox)
    assert mailbox.take(5) == [(0, 1), (0, 2)]
    mailbox.put_aside((0, 3))
    assert not readable(mailbox)
    mailbox.awaits(True)
    assert readable(mailbox), "it lay there already"
    assert mailbox.take(5) == [(0, 3)]
    mailbox.put_aside((0, 4))
    assert readable(mailbox)


def test_a_taker_that_awaits_never_misses_what_is_put_aside(mailbox: Mailbox[tuple[int, int]]) -> None:
    count = 20_000
    thread = threading.Thread(target=lambda: [mailbox.put_aside((0, number)) for number in range(count)])
    taken = 0
    thread.start()
    while taken < count:
        mailbox.awaits(True)
        assert readable(mailbox, 5000), taken
        taken += len(mailbox.take(7))
        mailbox.awaits(False)
    thread.join()
