"""Hypothesis drives a Service and a trivial model side by side: sends, works, releases, full disks, takeovers, acks, nacks, losses."""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core.service_rig import Rig, bodies, check
from zmqha.core.client_protocol import (
    Ack,
    Acked,
    Admin,
    Close,
    Confirm,
    Credit,
    Deliver,
    Failure,
    Nack,
    Opened,
    Reply,
    Send,
    Subscribe,
    Unsubscribe,
)  # fmt: skip
from zmqha.core.message import records

QUEUES = ("a", "b/c")
PRODUCERS = (11, 12)
CLIENTS = (b"x", b"y", b"z")
PICKS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=3)


class Consumer:
    """What a client knows: per subscription its queue and what it holds."""

    def __init__(self) -> None:
        self.is_open = False
        self.queue_of: dict[int, str] = {}
        self.holds: dict[int, set[int]] = {}  # subscription -> offsets
        self.remembers: dict[str, set[int]] = {}  # queue -> offsets held before a takeover or loss


class ServiceModel(RuleBasedStateMachine):
    """The model: per queue the list of stored bodies by offset, and where each message is."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(cache_bytes=400, session_silence_ms=5000)
        self.accepted: dict[tuple[int, str], list[str]] = {(p, q): [] for p in PRODUCERS for q in QUEUES}
        self.confirmed: dict[tuple[int, str], int] = dict.fromkeys(self.accepted, 0)
        self.body_at: dict[tuple[str, int], str] = {}  # of everything ever delivered
        self.acked: set[tuple[str, int]] = set()  # the service said ACKED, or purged durably: never again
        self.done: set[tuple[str, int]] = set()  # acknowledged in this term: not again in this term
        self.out: dict[tuple[str, int], tuple[bytes, int]] = {}  # in flight in this term
        self.times: dict[tuple[str, int], int] = {}  # deliveries in this term
        self.highest: dict[str, int] = {}  # offset of the last first delivery in this term
        self.old_tail: dict[str, int] = dict.fromkeys(QUEUES, 0)
        self.purged: set[str] = set()  # bodies
        self.delivered: set[str] = set()
        self.clients = {client: Consumer() for client in CLIENTS}
        self.persisted: dict[tuple[str, int], int] = {}  # deliveries that the store knew at the last takeover
        self.asked: dict[int, str] = {}  # request of an ACK -> queue
        self.numbers: dict[str, int] = {}  # of queues
        self.serial = 0
        self.seen = 0
        for client in CLIENTS:
            self.open(client)
        for number, client in enumerate(CLIENTS):
            self.subscribe(client, 0, QUEUES[number % 2], 4, 10_000, hold=False)

    # --- what the service said ----------------------------------------------------------------------------------------------

    def listen(self) -> None:
        self.rig.turn()
        for client, envelope in self.rig.got[self.seen :]:
            match envelope.command:
                case Deliver():
                    self.on_deliver(client, envelope.command)
                case Confirm(queue, producer, up_to, _):
                    assert up_to <= len(self.accepted[producer, queue])
                    self.confirmed[producer, queue] = max(self.confirmed[producer, queue], up_to)
                case Acked(_, ranges):
                    queue = self.asked[envelope.request]  # the number of a subscription may be in use for another queue by now
                    self.acked |= {(queue, offset) for first, end in ranges for offset in range(first, end)}
                case Close():
                    self.lost(client)
        self.seen = len(self.rig.got)

    def on_deliver(self, client: bytes, deliver: Deliver) -> None:
        consumer = self.clients[client]
        queue = consumer.queue_of[deliver.subscription]
        for offset, record in enumerate(records(deliver.batch), deliver.first):
            key, body = (queue, offset), record.body.decode()
            assert self.body_at.setdefault(key, body) == body
            assert key not in self.acked and key not in self.done, "delivered after it was done"
            assert key not in self.out, "in flight twice"
            known = self.times.get(key, 0)
            assert deliver.redelivered == (known > 0 or offset < self.old_tail[queue])
            assert deliver.deliveries == known + 1 if known else deliver.deliveries == self.persisted.get(key, 0) + 1
            if not deliver.redelivered:
                assert deliver.deliveries == 1 and offset > self.highest.get(queue, -1), "first deliveries out of order"
                self.highest[queue] = offset
            self.times[key] = deliver.deliveries
            self.out[key] = (client, deliver.subscription)
            consumer.holds[deliver.subscription].add(offset)
            self.delivered.add(body)

    def lost(self, client: bytes) -> None:
        """The client's session is over; the client remembers what it held."""
        consumer = self.clients[client]
        consumer.is_open = False
        for number in list(consumer.queue_of):
            self.forget(client, number)

    def forget(self, client: bytes, number: int) -> None:
        consumer = self.clients[client]
        queue, held = consumer.queue_of.pop(number), consumer.holds.pop(number)
        consumer.remembers.setdefault(queue, set()).update(held)
        for offset in held:
            self.out.pop((queue, offset), None)

    # --- producers ----------------------------------------------------------------------------------------------------------

    @rule(
        client=st.sampled_from(CLIENTS), producer=st.sampled_from(PRODUCERS), queue=st.sampled_from(QUEUES),
        count=st.integers(1, 5), again=st.sampled_from((0, 0, 0, 0, 1, 2, 5)), ahead=st.sampled_from((0, 0, 0, 0, 1)),
        shut=st.sampled_from((False, False, False, True)),
    )  # fmt: skip
    def send(self, client: bytes, producer: int, queue: str, count: int, again: int, ahead: int, shut: bool) -> None:
        if not shut:
            self.opened(client)
        known = self.accepted[producer, queue]
        again = min(again, len(known), 5) if not ahead else 0
        names = known[len(known) - again :]
        for _ in range(count):
            self.serial += 1
            names.append(f"{producer}:{queue}:{self.serial}")
        names = names[:5] if again else names
        first = len(known) - again + 1 + ahead
        heard = self.rig.say(client, Send(queue, bodies(*names, producer=producer, first=first)))
        if not self.clients[client].is_open:
            assert isinstance(heard[0], Failure) and heard[0].code == "ZHA-303"
        elif ahead:
            failure = next(c for c in heard if isinstance(c, Failure))
            assert failure.code == "ZHA-204" and failure.expected == len(known) + 1
        else:
            assert not any(isinstance(c, Failure) for c in heard)
            known += names[again:]
        self.listen()

    @rule(max_bytes=st.sampled_from((1, 200, 1 << 22)))
    def take(self, max_bytes: int) -> None:
        if len(self.rig.works) < 4:
            self.rig.take(max_bytes)

    @precondition(lambda self: self.rig.works)
    @rule(count=st.integers(1, 3))
    def release(self, count: int) -> None:
        self.rig.release(count)
        self.listen()

    @rule()
    def read(self) -> None:
        self.rig.answer_reads()
        self.listen()

    @rule()
    def settle(self) -> None:
        """Afterwards nothing ready is left lying while somebody could take it."""
        self.rig.settle()
        self.listen()
        for queue in self.rig.service._desk.queues.by_name.values():
            idle = [consumer for consumer in queue.consumers if consumer.has_credit and consumer.out_messages == 0]
            assert not (idle and queue.cursor.front()), "a consumer waits beside a ready message"

    @precondition(lambda self: self.rig.works)
    @rule(at=st.integers(0, 3))
    def disk_full(self, at: int) -> None:
        self.rig.fail(at % len(self.rig.works))
        kept = self.last_sequences([work.producers for work in self.rig.works])
        self.forget_beyond(kept)
        self.listen()

    def last_sequences(self, more: list[tuple]) -> dict[tuple[int, str], int]:
        names = {row.number: row.name for row in self.rig.store.destinations.values()}
        names |= {row.number: row.name for work in self.rig.works for row in work.destinations}
        rows = [*self.rig.store.producers.values(), *(row for rows in more for row in rows)]
        return {(row.producer, names[row.destination]): row.last for row in rows}

    def forget_beyond(self, kept: dict[tuple[int, str], int]) -> None:
        for key, known in self.accepted.items():
            assert kept.get(key, 0) >= self.confirmed[key], "a confirmed message is gone"
            del known[kept.get(key, 0) :]

    @rule(survive=st.integers(0, 4))
    def takeover(self, survive: int) -> None:
        self.rig.takeover(survive % (len(self.rig.works) + 1))
        self.listen()
        self.forget_beyond(self.last_sequences([]))
        for client in CLIENTS:
            self.lost(client)
        self.done.clear()
        self.times.clear()
        self.highest.clear()
        names = {row.number: row.name for row in self.rig.store.destinations.values()}
        self.persisted = {
            (names[row.destination], offset): deliveries
            for row in self.rig.store.cursors.values()
            for first, end, deliveries in row.returned
            for offset in range(first, end)
        }
        for key in [key for key in self.body_at if key not in self.acked]:
            del self.body_at[key]  # checked again as it is delivered; unreleased ones may be other messages now
        for queue in self.rig.service._desk.queues.by_name.values():
            self.old_tail[queue.name] = queue.cursor.tail

    # --- consumers ----------------------------------------------------------------------------------------------------------

    @rule(client=st.sampled_from(CLIENTS))
    def open(self, client: bytes) -> None:
        self.rig.open(client)
        if self.clients[client].is_open:
            self.lost(client)
        self.clients[client].is_open = True
        assert any(isinstance(e.command, Opened) for c, e in self.rig.got[self.seen :] if c == client)
        self.listen()

    def opened(self, client: bytes) -> Consumer:
        if not self.clients[client].is_open:
            self.open(client)
        return self.clients[client]

    @rule(
        client=st.sampled_from(CLIENTS), number=st.integers(0, 1), queue=st.sampled_from(QUEUES),
        messages=st.integers(0, 8), size=st.sampled_from((0, 100, 10_000)), hold=st.booleans(),
    )  # fmt: skip
    def subscribe(self, client: bytes, number: int, queue: str, messages: int, size: int, hold: bool) -> None:
        consumer = self.opened(client)
        if number in consumer.queue_of:
            return
        remembered = sorted(consumer.remembers.pop(queue, set())) if hold else []
        consumer.queue_of[number], consumer.holds[number] = queue, set()
        held = tuple((offset, offset + 1) for offset in remembered)
        heard = self.rig.say(client, Subscribe(number, queue, messages, size, held, self.numbers.get(queue, 0)))
        reply = next(c for c in heard if isinstance(c, Reply))
        self.numbers[queue] = reply.result["queue"]  # another one if it was lost with a takeover before it was durable
        taken = {offset for first, end in reply.result["held"] for offset in range(first, end)}
        assert taken <= set(remembered) and len(taken) <= messages
        for offset in taken:
            key = (queue, offset)
            assert key not in self.out and key not in self.done and key not in self.acked
            self.out[key] = (client, number)
            self.times[key] = max(1, self.times.get(key, 0), self.persisted.get(key, 0))
        consumer.holds[number] |= taken
        self.listen()

    @rule(client=st.sampled_from(CLIENTS), number=st.integers(0, 1), messages=st.integers(0, 8))
    def credit(self, client: bytes, number: int, messages: int) -> None:
        if number in self.clients[client].queue_of:
            self.rig.say(client, Credit(number, messages, 1000))
            self.listen()

    @rule(client=st.sampled_from(CLIENTS), number=st.integers(0, 1))
    def unsubscribe(self, client: bytes, number: int) -> None:
        if number in self.clients[client].queue_of:
            self.forget(client, number)
            self.rig.say(client, Unsubscribe(number))
            self.listen()

    def some_ranges(self, client: bytes, number: int, picks: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Mostly what the client holds, and what lies beside it."""
        held = sorted(self.clients[client].holds[number]) or [3]
        return tuple((held[at % len(held)], held[at % len(held)] + length) for at, length in picks)

    @rule(client=st.sampled_from(CLIENTS), number=st.integers(0, 1), picks=PICKS)
    def ack(self, client: bytes, number: int, picks: list[tuple[int, int]]) -> None:
        consumer = self.clients[client]
        if number not in consumer.queue_of:
            return
        ranges = self.some_ranges(client, number, picks)
        queue = consumer.queue_of[number]
        mine = {offset for first, end in ranges for offset in range(first, end)} & consumer.holds[number]
        for offset in mine:
            assert self.out.pop((queue, offset), None) in ((client, number), None)  # None: purged
            self.done.add((queue, offset))
        consumer.holds[number] -= mine
        self.asked[len(self.asked) + 2] = queue
        self.rig.say(client, Ack(number, ranges), len(self.asked) + 1)
        self.listen()

    @rule(client=st.sampled_from(CLIENTS), number=st.integers(0, 1), delay_ms=st.sampled_from((0, 0, 50)), picks=PICKS)
    def nack(self, client: bytes, number: int, delay_ms: int, picks: list[tuple[int, int]]) -> None:
        consumer = self.clients[client]
        if number not in consumer.queue_of:
            return
        ranges = self.some_ranges(client, number, picks)
        mine = {offset for first, end in ranges for offset in range(first, end)} & consumer.holds[number]
        for offset in mine:
            self.out.pop((consumer.queue_of[number], offset), None)
        consumer.holds[number] -= mine
        self.rig.say(client, Nack(number, delay_ms, ranges))
        self.listen()

    @rule(client=st.sampled_from(CLIENTS), polite=st.booleans())
    def leave(self, client: bytes, polite: bool) -> None:
        if not self.clients[client].is_open:
            return
        self.lost(client)
        if polite:
            self.rig.say(client, Close())
        else:
            self.rig.service.unreachable(client)
        self.listen()

    @rule(ms=st.sampled_from((10, 100, 100, 6000)))
    def pass_time(self, ms: int) -> None:
        """Sessions end before anything is delivered again: the model hears every CLOSE first."""
        self.rig.wait(ms)
        self.rig.turn()
        fresh = self.rig.got[self.seen :]
        self.rig.got[self.seen :] = sorted(fresh, key=lambda item: not isinstance(item[1].command, Close))
        self.listen()

    @rule(queue=st.sampled_from(QUEUES), seldom=st.integers(0, 3))
    def purge(self, queue: str, seldom: int) -> None:
        found = self.rig.service._desk.queues.by_name.get(queue)
        if seldom or found is None:
            return
        gone = [(queue, offset) for offset in range(found.cursor.floor, found.cursor.tail)]
        self.rig.say(b"admin", Admin("queue.purge", {"name": queue}), 9)
        self.done.update(gone)
        for key in gone:
            self.out.pop(key, None)
        self.listen()

    # --- always -------------------------------------------------------------------------------------------------------------

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        check(self.rig.service)
        for queue in self.rig.service._desk.queues.by_name.values():
            assert queue.cursor.in_flight == sum(1 for name, _ in self.out if name == queue.name)

    def teardown(self) -> None:
        """Everybody goes, one consumer drains all queues: then nothing is left anywhere, and nothing confirmed was missed."""
        for client in CLIENTS:
            if self.clients[client].is_open:
                self.leave(client, True)
        self.rig.settle()
        self.listen()
        purged_or_taken = {queue: self.rig.service._desk.queues.by_name.get(queue) for queue in QUEUES}
        client = b"x"
        self.open(client)
        self.rig.wait(200)  # every delay is over
        for number, queue in enumerate(QUEUES):
            if purged_or_taken[queue] is not None:
                self.clients[client].queue_of[number], self.clients[client].holds[number] = queue, set()
                self.rig.say(client, Subscribe(number, queue, 5, 10_000))
                self.listen()
        self.rig.settle()
        self.listen()
        while any(self.clients[client].holds.values()):
            for number, held in self.clients[client].holds.items():
                if held:
                    ranges = tuple((offset, offset + 1) for offset in sorted(held))
                    for offset in held:
                        self.out.pop((self.clients[client].queue_of[number], offset))
                    held.clear()
                    self.asked[len(self.asked) + 2] = self.clients[client].queue_of[number]
                    self.rig.say(client, Ack(number, ranges), len(self.asked) + 1)
            self.rig.settle()
            self.listen()
        counts = self.rig.service.counts()
        assert counts["messages"] == counts["unacked"] == 0
        assert not self.rig.store.values, "a log value is never dropped"
        for row in self.rig.store.cursors.values():
            assert row.done == () and row.returned == ()


ServiceModel.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestServiceModel = ServiceModel.TestCase


@pytest.mark.parametrize("seed", range(30))
def test_a_long_random_walk_through_the_same_model(seed: int) -> None:
    dice = random.Random(seed)
    model = ServiceModel()
    for _ in range(400):
        step(model, dice)
        model.every_message_is_in_one_place()
    model.teardown()


def step(model: ServiceModel, dice: random.Random) -> None:
    """One rule with weights: much traffic, few accidents."""
    client, number, queue = dice.choice(CLIENTS), dice.randrange(2), dice.choice(QUEUES)
    picks = [(dice.randrange(10), dice.randint(1, 6)) for _ in range(dice.randint(1, 3))]
    match dice.choices(("send", "work", "consume", "come", "go", "accident"), (30, 30, 30, 8, 3, 2))[0]:
        case "send":
            again, ahead = dice.choice((0, 0, 0, 1, 2, 5)), dice.choice((0, 0, 0, 0, 1))
            model.send(client, dice.choice(PRODUCERS), queue, dice.randint(1, 5), again, ahead, dice.random() < 0.1)
        case "work":
            verb = dice.choice(("take", "take", "release", "read", "settle"))
            if verb == "take":
                model.take(dice.choice((1, 200, 1 << 22)))
            elif verb == "release":
                if model.rig.works:
                    model.release(dice.randint(1, 3))
            else:
                getattr(model, verb)()
        case "consume":
            if dice.random() < 0.7:
                model.ack(client, number, picks)
            else:
                model.nack(client, number, dice.choice((0, 0, 50)), picks)
        case "come":
            if dice.random() < 0.8:
                model.subscribe(client, number, queue, dice.randint(1, 8), dice.choice((100, 10_000)), dice.random() < 0.7)
            else:
                model.credit(client, number, dice.randint(0, 8))
        case "go":
            if dice.random() < 0.5:
                model.unsubscribe(client, number)
            else:
                model.leave(client, dice.random() < 0.5)
        case "accident":
            accident = dice.choice(("full", "takeover", "time", "purge"))
            if accident == "full" and model.rig.works:
                model.disk_full(dice.randrange(4))
            elif accident == "takeover":
                model.takeover(dice.randrange(5))
            elif accident == "time":
                model.pass_time(dice.choice((100, 100, 6000)))
            elif accident == "purge":
                model.purge(queue, 0)
