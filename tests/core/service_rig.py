"""A Service with a toy store around it: Works are applied to dicts, reads come from there, a takeover builds an image from it."""

import copy
from typing import Any

from zmqha.core.actions import Fetch, SendToClient
from zmqha.core.branch import NO_PAST, Past
from zmqha.core.client_protocol import Command, Durability, Envelope, Open, Refused, decode
from zmqha.core.commits import SPACING_MS
from zmqha.core.merge_report import MergeReport
from zmqha.core.message import batch_of
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.core.service import Service, ServiceSettings
from zmqha.core.work import (
    VALUE_ENTRY,
    VALUE_HEAD,
    CursorRow,
    DestinationRow,
    ProducerRow,
    Stored,
    StoreImage,
    Work,
    batch_positions,
)
from zmqha.errors import NoSpace

REFUSED = Refused("PASSIVE", "tcp://b:1", 50, "ZHA-104", "not active")


class ToyStore:
    """What a store holds after some Works: rows by key, values by number."""

    def __init__(self) -> None:
        self.destinations: dict[int, DestinationRow] = {}
        self.cursors: dict[int, CursorRow] = {}
        self.producers: dict[tuple[int, int], ProducerRow] = {}
        self.values: dict[int, bytes] = {}
        self.index: dict[int, list[Stored]] = {}
        self.last_number = 0
        self.reports: dict[int, MergeReport] = {}

    def apply(self, work: Work) -> None:
        for row in work.destinations:
            self.destinations[row.number] = row
            self.last_number = max(self.last_number, row.number)
        for report in work.reports:
            self.reports[report.number] = report
        for cursor in work.cursors:
            self.cursors[cursor.destination] = cursor
        for pair in work.dropped_producers:
            self.producers.pop(pair, None)
        for producer in work.producers:
            pair = producer.producer, producer.destination
            self.producers.pop(pair, None)  # least recently used first
            self.producers[pair] = producer
        if work.value:
            assert work.value > max(self.index, default=0)
            self._append(work)
        for value in work.dropped_values:
            del self.values[value], self.index[value]
        for number in work.dropped_destinations:
            self.destinations.pop(number, None)
            self.cursors.pop(number, None)
            self.producers = {key: row for key, row in self.producers.items() if key[1] != number}

    def _append(self, work: Work) -> None:
        positions = list(batch_positions([len(append.batch) for append in work.appends]))
        self.index[work.value] = [
            Stored(append.destination, append.offset, append.count, work.value, position, len(append.batch))
            for append, position in zip(work.appends, positions, strict=True)
        ]
        head = VALUE_HEAD.pack(len(work.appends), 0)
        entries = [VALUE_ENTRY.pack(s.destination, s.offset, s.count, s.position, s.length) for s in self.index[work.value]]
        self.values[work.value] = b"".join([head, *entries, *(append.batch for append in work.appends)])

    def read(self, fetch: Fetch) -> bytes:
        batch = self.values[fetch.value][fetch.position : fetch.position + fetch.length]
        assert len(batch) == fetch.length
        return batch

    def image(self, past: Past = NO_PAST) -> StoreImage:
        """As ``LmdbStore``: of a log that was emptied no number is left but those that the past remembers."""
        log = [stored for value in sorted(self.index) for stored in self.index[value]]
        rows = tuple(self.destinations.values()), tuple(self.cursors.values()), tuple(self.producers.values())
        reports = tuple(self.reports[number] for number in sorted(self.reports))
        return StoreImage(*rows, tuple(log), past.newest_value(max(self.index, default=0)), self.last_number, reports)


class Rig:
    """Drives a Service as the broker does, one step at a time. ``got`` collects what each client received, decoded."""

    def __init__(self, **settings: Any) -> None:
        self.service = Service(ServiceSettings("edge-a", "cf", ("tcp://a:1", "tcp://b:1"), **settings))
        self.store = ToyStore()
        self.works: list[Work] = []  # taken, not released
        self.reads: list[tuple[int, bytes]] = []
        self.now_ms = 1000
        self._later_ms = 0
        self.counter = 1
        self.got: list[tuple[bytes, Envelope]] = []
        self.service.open(self.store.image(), Epoch(1, 1), self.now_ms)

    def say(self, client: bytes, command: Command, request: int = 1) -> list[Command]:
        """A client's command; what that client receives at once."""
        self.service.receive(client, Envelope(request, NO_EPOCH, command), self.now_ms)
        return [envelope.command for to, envelope in self.turn() if to == client]

    def open(self, *clients: bytes) -> None:
        for client in clients:
            self.say(client, Open((1, 1), client.decode()))

    def turn(self) -> list[tuple[bytes, Envelope]]:
        """Carry out the actions; reads are done now and reported by ``answer_reads``."""
        new = []
        for action in self.service.take_actions():
            if isinstance(action, SendToClient):
                new.append((action.client, decode(action.frames)))
            else:
                self.reads.append((action.token, self.store.read(action)))
        self.got += new
        return new

    def take(self, max_bytes: int = 1 << 22) -> Work | None:
        """What the next transaction writes; acknowledgements wait for no company and for no time here."""
        self._later_ms = max(self._later_ms, self.now_ms) + SPACING_MS
        work = self.service.take_work(max_bytes, self.now_ms) or self.service.take_work(max_bytes, self._later_ms)
        if work is not None:
            self.works.append(work)
        return work

    def release(self, count: int = 1 << 30, durability: Durability = Durability.BOTH_DISKS) -> list[Command]:
        """The first ``count`` Works taken are durable."""
        done, self.works = self.works[:count], self.works[count:]
        for work in done:
            self.store.apply(work)
        if done:
            self.service.released(done[-1].number, durability)
        return [envelope.command for _, envelope in self.turn()]

    def fail(self, at: int = 0) -> list[Command]:
        """The Work at this place among those taken, and all after it, are undone."""
        number = self.works[at].number
        del self.works[at:]
        self.service.failed_full(number, NoSpace("the disk is full", cause="no space", cure="consume"))
        return [envelope.command for _, envelope in self.turn()]

    def answer_reads(self) -> list[Command]:
        heard: list[Command] = []
        while self.reads:
            self.service.fetched(*self.reads.pop(0))
            heard += [envelope.command for _, envelope in self.turn()]
        return heard

    def settle(self) -> list[Command]:
        """Take, release and read until nothing is left to do."""
        heard: list[Command] = []
        while True:
            heard += [envelope.command for _, envelope in self.turn()]
            if self.reads:
                heard += self.answer_reads()
            elif self.take() is not None:
                heard += self.release()
            elif not self.works:
                return heard
            else:
                heard += self.release()

    def takeover(self, survive: int = 0) -> None:
        """Another server opens what is stored: everything released, and the first ``survive`` Works that were not."""
        for work in self.works[:survive]:
            self.store.apply(work)
        self.works.clear()
        self.service.close(REFUSED)
        self.turn()
        self.reads.clear()
        self.counter += 1
        self.service.open(copy.deepcopy(self.store.image()), Epoch(self.counter, 1), self.now_ms)

    def wait(self, ms: int) -> None:
        """Time passes as the reactor sees it: in small steps."""
        end = self.now_ms + ms
        while self.now_ms < end:
            self.now_ms = min(end, self.now_ms + 100)
            self.service.tick(self.now_ms)

    def pass_time(self, ms: int) -> list[Command]:
        self.wait(ms)
        return [envelope.command for _, envelope in self.turn()]


def bodies(*names: str, producer: int = 7, first: int = 1) -> bytes:
    """A batch with these bodies."""
    return batch_of([name.encode() for name in names], producer=producer, first=first)


def check(service: Service) -> None:
    """Guarantee 4 and the bookkeeping around it: every message is in exactly one place, every counter is the sum it claims."""
    open_batches: dict[int, int] = {}
    for queue in service._desk.queues.by_number.values():
        cursor, log = queue.cursor, queue.log
        places: list[tuple[int, int]] = [*cursor.done, (cursor.fresh, cursor.tail)]
        places += [(first, end) for first, end, _ in [*cursor.returned, *cursor.delayed]]
        in_flight = 0
        for subscription in queue.consumers:
            held = [(first, end) for first, end, _ in subscription.in_flight]
            places += held
            count = sum(end - first for first, end in held)
            in_flight += count
            assert subscription.out_messages == count
            assert subscription.out_bytes == sum(log.weight(first, end) for first, end in held)
            assert subscription.waiting == (subscription in queue.ring)
        at = cursor.floor
        for first, end in sorted(place for place in places if place[0] < place[1]):
            assert first == at, f"message {at} of {queue.name} is nowhere, or {first} is twice somewhere"
            at = end
        assert at == cursor.tail
        assert cursor.in_flight == in_flight
        not_done = list(cursor.done.gaps(cursor.floor, cursor.tail))
        assert cursor.messages == sum(end - first for first, end in not_done)
        counted = {offset: count for first, end, count in cursor.counts for offset in range(first, end)}
        for first, end, _ in cursor.counts:
            assert not cursor.done_within(first, end)
        for first, end, count in [*cursor.returned, *cursor.delayed]:
            assert all(counted.get(offset, 0) == count for offset in range(first, end))
        for subscription in queue.consumers:
            for first, end, count in subscription.in_flight:
                assert all(counted.get(offset, count - 1) in (count - 1, count) for offset in range(first, end))
        size = 0
        for i, first in enumerate(log.first):
            left = log.count[i] - sum(b - a for a, b in cursor.done_within(first, first + log.count[i]))
            assert log.left[i] == left
            if left:
                size += log.length[i]
                open_batches[log.value[i]] = open_batches.get(log.value[i], 0) + 1
        assert log.bytes == size
        assert queue.tail >= cursor.tail and queue.incoming_messages >= queue.tail - cursor.tail
    values = service._desk.values
    holding = {value: count for value, count in zip(values._value, values._open, strict=True) if count}
    if not values._retired:
        assert holding == open_batches
    cache = service._desk.delivery.cache
    assert cache.bytes == sum(map(len, cache._batches.values()))
