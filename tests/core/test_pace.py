"""Commits are slowed only where a copy would not end otherwise, and then it ends."""

import pytest

from zmqha.core.limits import COMMIT_BYTES_MAX, COPY_ROUNDS_MAX, COPY_TAIL_BYTES, COPY_TAIL_BYTES_MAX, MIB, PENDING_BYTES_MAX
from zmqha.core.pace import FREE_BYTES, PAUSE_MS, PAUSE_MS_MAX, Pace

GIB = 1024 * MIB


def after(*rounds: int) -> Pace:
    """So many bytes in each round, the next one begun."""
    pace, sent = Pace(), 0
    for each in rounds:
        sent += each
        pace.round_done(sent)
        pace.next_round(sent)
    return pace


def test_rounds_that_shrink_slow_nobody() -> None:
    pace = after(8 * GIB, 5 * GIB, 3 * GIB)
    pace.wrote(100 * GIB)
    assert pace.pause_ms(16 * GIB) == 0


def test_short_rounds_slow_nobody() -> None:
    assert after(COPY_TAIL_BYTES_MAX, COPY_TAIL_BYTES_MAX).slowest_ms == 0


def test_where_they_do_not_shrink_writers_get_half_of_what_arrives() -> None:
    pace = after(8 * GIB, 8 * GIB)
    pace.wrote(FREE_BYTES)
    assert pace.pause_ms(16 * GIB) == 0
    pace.wrote(4 * MIB)
    assert pace.pause_ms(16 * GIB) == PAUSE_MS
    assert pace.pause_ms(16 * GIB + 8 * MIB) == 0


def test_the_pause_grows_to_its_limit_and_is_said_when_it_does() -> None:
    pace, sent, said = Pace(), 0, []
    for _ in range(6):
        sent += GIB
        said.append((pace.round_done(sent), pace.slowest_ms))
        pace.next_round(sent)
    assert said == [(False, 0), (True, 250), (True, 500), (True, 1000), (False, 1000), (False, 1000)]
    assert PAUSE_MS_MAX == 1000


@pytest.mark.parametrize("write", [20, 80, 500])
@pytest.mark.parametrize("copy", [10, 110, 1000])
@pytest.mark.parametrize("adopt", [30, 400])
def test_a_copy_ends_whatever_is_written(write: int, copy: int, adopt: int) -> None:
    """In MiB/s: what producers would write, what the network takes, how fast the follower makes a round its store."""
    rounds = rounds_of(10 * GIB, write, copy, adopt)
    assert len(rounds) < COPY_ROUNDS_MAX
    assert rounds[-1] <= COPY_TAIL_BYTES_MAX


def rounds_of(store: int, write: int, copy: int, adopt: int) -> list[int]:
    """Bytes of every round; a group commit writes half as much again as it was asked for, a round takes half a second at least."""
    pace, sent, rounds, tail_bytes = Pace(), 0, [store], COPY_TAIL_BYTES
    while len(rounds) < COPY_ROUNDS_MAX:
        travels_ms, adopted_ms = (rounds[-1] * 1000 // (rate * MIB) for rate in (copy, adopt))
        lasts_ms = travels_ms + max(500, adopted_ms)
        waiting = written = 0
        commit_ms, said = -PAUSE_MS_MAX, False
        for now_ms in range(0, lasts_ms, 50):
            waiting = min(waiting + write * MIB // 20, PENDING_BYTES_MAX)
            arrived = min(rounds[-1], now_ms * copy * MIB // 1000)
            if now_ms >= travels_ms and not said:
                said = True
                pace.round_done(sent + rounds[-1])
            while waiting and now_ms - commit_ms >= pace.pause_ms(sent + arrived):
                commit_ms, commit = now_ms, min(waiting, COMMIT_BYTES_MAX)
                waiting -= commit
                written += commit * 3 // 2
                pace.wrote(commit * 3 // 2)
        sent += rounds[-1]
        pace.next_round(sent)
        rounds.append(min(store, written))
        if rounds[-1] <= tail_bytes:
            break
        tail_bytes = min(2 * tail_bytes, COPY_TAIL_BYTES_MAX)
    return rounds
