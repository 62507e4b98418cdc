"""The heads of many log values, read in blocks: the same as one by one, and damage is found."""

import random

import pytest

from zmqha.core.work import Append, Stored
from zmqha.errors import StoreDamaged
from zmqha.store import records
from zmqha.store.alive import ROWS, nobody_waits


def a_row(value: int, *batches: tuple[int, int, int, int]) -> tuple[memoryview, memoryview]:
    """Key and value; of each batch destination, offset, count, length."""
    appends = tuple(Append(number, offset, count, bytes(length)) for number, offset, count, length in batches)
    return memoryview(records.log_key(value)), memoryview(records.log_value(appends))


def one_by_one(rows: list[tuple[memoryview, memoryview]]) -> list[Stored]:
    return [stored for key, raw in rows for stored in records.read_log_head(records.log_number(key), raw)]


def a_batch(rng: random.Random) -> tuple[int, int, int, int]:
    return rng.randint(1, 1 << 31), rng.randint(0, 1 << 50), rng.randint(1, 1000), rng.randint(0, 99)


@pytest.mark.parametrize("most", [1, 4])
def test_heads_are_read_as_one_by_one(most: int) -> None:
    rng = random.Random(most)
    rows = [a_row((1 << 40) + 3 * at, *(a_batch(rng) for _ in range(rng.randint(1, most)))) for at in range(2 * ROWS + 7)]
    assert list(records.read_log(iter(rows), nobody_waits)) == one_by_one(rows)


def test_an_empty_log_and_an_empty_value_hold_nothing() -> None:
    assert len(records.read_log(iter([]), nobody_waits)) == 0
    rows = [(memoryview(records.log_key(1)), memoryview(bytes(8))), a_row(2, (1, 0, 5, 9))]
    assert list(records.read_log(iter(rows), nobody_waits)) == one_by_one(rows)


def test_signs_of_life_are_given_meanwhile() -> None:
    signs: list[None] = []
    records.read_log((a_row(1 + at, (1, at, 1, 9)) for at in range(3 * ROWS)), lambda: signs.append(None))
    assert len(signs) == 3


@pytest.mark.parametrize(
    "damaged",
    [
        memoryview(b""),
        memoryview(b"\1\0\0"),
        memoryview(records.log_value((Append(1, 0, 1, b""),)))[:-1],
        memoryview(b"\xff\xff\xff\xff" + bytes(60)),
        memoryview(records.log_value((Append(1, 0, 70_000, b"body"),))),
    ],
    ids=["nothing", "no whole head", "cut entry", "many batches said", "too many messages"],
)
def test_a_value_that_is_not_one_is_damage(damaged: memoryview) -> None:
    rows = [a_row(1, (1, 0, 5, 9)), (memoryview(records.log_key(2)), damaged), a_row(3, (1, 5, 5, 9))]
    with pytest.raises(StoreDamaged):
        records.read_log(iter(rows), nobody_waits)
