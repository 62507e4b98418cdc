"""The index of a store that is opened: columns, split by queue, taken over whole. Compared with the same done batch by batch."""

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from zmqha.core.desk import ServiceSettings
from zmqha.core.log_index import Place, ValueTable
from zmqha.core.position import Epoch
from zmqha.core.queues import Queue
from zmqha.core.service import Service
from zmqha.core.work import CursorRow, DestinationRow, Stored, StoredLog, StoreImage

COLUMNS = ("first", "count", "left", "value", "position", "length")


def some_log(rng: random.Random, queues: int, batches: int, run: int) -> list[Stored]:
    """Values of one to three batches; the queue changes about every ``run`` batches."""
    ends, rows, value, number = [0] * (queues + 1), [], 7, 1
    while len(rows) < batches:
        value += rng.randint(1, 2)
        for position in range(rng.choice((1, 1, 3))):
            if rng.random() * run < 1:
                number = rng.randint(1, queues)
            count = rng.randint(1, 9)
            rows.append(Stored(number, ends[number], count, value, 32 + position, rng.randint(50, 500)))
            ends[number] += count
    return rows


def some_cursor(rng: random.Random, rows: list[Stored], number: int) -> CursorRow:
    """A floor anywhere, and some ranges above it."""
    end = max((row.offset + row.count for row in rows if row.destination == number), default=0)
    marks = sorted(rng.sample(range(end + 2), min(end + 2, rng.choice((1, 3, 9)))))
    pairs = list(zip(marks[1::2], marks[2::2], strict=False))
    return CursorRow(number, marks[0], tuple((first, last) for first, last in pairs if marks[0] < first < last), ())


@pytest.mark.parametrize("run", [1, 40])
@pytest.mark.parametrize("seed", range(25))
def test_a_store_is_opened_as_if_batch_by_batch(seed: int, run: int) -> None:
    rng = random.Random(seed)
    queues = rng.choice((1, 2, 5))
    rows = some_log(rng, queues, rng.choice((0, 1, 200)), run)
    known = [number for number in range(1, queues + 1) if rng.random() < 0.8]
    cursors = tuple(some_cursor(rng, rows, number) for number in known if rng.random() < 0.8)
    destinations = tuple(DestinationRow(number, f"q{number}", 0, 0) for number in known)

    service = Service(ServiceSettings("a", "c", ("", "")))
    service.open(StoreImage(destinations, cursors, log=tuple(rows), last_value=rows[-1].value if rows else 0), Epoch(1, 1), 0)

    expected, values = one_by_one(destinations, cursors, rows)
    for number, queue in expected.items():
        opened = service._desk.queues.by_number[number]
        assert [getattr(opened.log, name).tolist() for name in COLUMNS] == [getattr(queue.log, name).tolist() for name in COLUMNS]
        assert (opened.tail, opened.log.bytes, opened.cursor.messages) == (queue.tail, queue.log.bytes, queue.cursor.messages)
    table = service._desk.values
    assert (table._value, table._open, table.droppable) == (values._value, values._open, values.droppable)


def one_by_one(
    destinations: tuple[DestinationRow, ...], cursors: tuple[CursorRow, ...], rows: list[Stored]
) -> tuple[dict[int, Queue], ValueTable]:
    """Queues, and which values hold how many unfinished batches."""
    queues = {row.number: Queue(row) for row in destinations}
    for cursor in cursors:
        queues[cursor.destination].cursor.load(cursor)
    open_batches: dict[int, int] = {}
    for destination, offset, count, value, position, length in rows:
        queue = queues.get(destination)
        unfinished = queue is not None and queue.restore_batch(Place(offset, count, value, position, length))
        open_batches[value] = open_batches.get(value, 0) + unfinished
    values = ValueTable()
    for value, batches in open_batches.items():
        values.add(value, batches)
    for queue in queues.values():
        queue.resume()
    return queues, values


@pytest.mark.parametrize("queues", [1, 3])
def test_opening_a_store_does_not_call_anything_for_every_batch(queues: int) -> None:
    batches = 5000
    rows = [Stored(1 + at % queues, at // queues * 10, 10, 1 + at, 32, 1000) for at in range(batches)]
    destinations = tuple(DestinationRow(number, f"q{number}", 0, 0) for number in range(1, queues + 1))
    image = StoreImage(destinations, log=StoredLog.of(rows), last_value=batches)
    service = Service(ServiceSettings("a", "c", ("", "")))

    calls = python_calls(lambda: service.open(image, Epoch(1, 1), 0))

    assert service.counts()["messages"] == 10 * batches
    assert calls < batches / 10


def python_calls(work: Callable[[], None]) -> int:
    """How many functions written in Python are entered meanwhile."""
    found = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal found
        found += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def test_columns_are_the_rows_that_they_were_made_of() -> None:
    rows = some_log(random.Random(1), 3, 50, 5)
    log = StoredLog.of(rows)
    assert list(log) == rows and len(log) == len(rows)
    assert StoredLog.of(log) is log
    assert list(StoredLog.of(())) == []
    found = {number: (list(at), list(part)) for number, at, part in log.by_destination()}
    assert found == {
        number: (
            [at for at, row in enumerate(rows) if row.destination == number],
            [row for row in rows if row.destination == number],
        )
        for number in {row.destination for row in rows}
    }
