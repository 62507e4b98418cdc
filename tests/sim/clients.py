"""Applications: a producer that numbers its messages and a consumer that acknowledges, on the production client (``engine``).

Each is also a checker of what its client library and the servers tell it. A *body* is (producer, number); the sequence on the wire is
another number, because after a refusal (disk full) the library numbers anew.
"""

import itertools
from random import Random
from typing import TYPE_CHECKING

from tests.sim.engine import SimEngine
from tests.sim.violation import Violation
from zmqha.client.consumer import Delivery, Subscription
from zmqha.client.message import Message, make_record
from zmqha.client.producer import Batch, Stage, Stream
from zmqha.client.url import Options
from zmqha.client.window import Window
from zmqha.core.client_protocol import Acked, Command, Confirm, Deliver, Failure
from zmqha.core.limits import MESSAGE_BYTES_MAX
from zmqha.core.message import read_head
from zmqha.errors import NoSpace

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

QUEUE = "orders"
IDS = 1000  # producer ids of one producer
WINDOW = 8  # messages that a producer leaves unsettled
BURST = 3
PREFETCH = 32
PREFETCH_FIRST = 4  # instead of a hundred: so that windows grow and shrink here too
CONSUME_MS = 100


class Client:
    """An application and its engine."""

    def __init__(self, cluster: "Cluster", name: str, random: Random) -> None:
        self.cluster = cluster
        self.name = name
        self.random = random
        self.engine = SimEngine(cluster, self, Random(random.getrandbits(64)), Options(prefetch=PREFETCH))

    @property
    def only(self) -> int | None:
        """The one server that this client reaches; None: both."""
        return self.engine.only

    @only.setter
    def only(self, server: int | None) -> None:
        self.engine.only = server
        for at, link in enumerate(self.engine.links):
            if server not in (None, at):
                link.break_off()

    def start(self) -> None:
        """Connect, and begin to work."""
        self.engine.wake()
        self._tick()

    def _tick(self) -> None:
        if not self.engine.host.frozen:
            self.work()
        self.cluster.clock.after(self.pause_ms(), self._tick)

    def pause_ms(self) -> int:
        """Until the next work."""
        raise NotImplementedError

    def work(self) -> None:
        """Time passed."""
        raise NotImplementedError

    def heard(self, command: Command) -> None:
        """A command of the session's server, before the library has it."""

    def began(self) -> None:
        """A session is open."""

    def settled(self) -> None:
        """The library had a turn."""


class Producer(Client):
    """Sends one message, or a few, after the other."""

    def __init__(self, cluster: "Cluster", number: int, random: Random, pause_ms: tuple[int, int] = (60, 300)) -> None:
        super().__init__(cluster, f"producer{number}", random)
        self.number = number
        self.sent = 0  # bodies
        self.confirmed: set[int] = set()
        self.refused: set[int] = set()
        self.stopped = False
        self.engine.session.producer = number  # chance, as everything else, comes from the seed
        self.engine.session.stream(QUEUE)._ids = itertools.count(IDS * number).__next__  # and so do the ids of later streams
        self._out: list[tuple[int, Batch]] = []
        self._up_to: dict[int, int] = {}  # producer -> sequences confirmed
        self._pause_ms = pause_ms

    @property
    def idle(self) -> bool:
        """Every message is settled."""
        return not self._out

    def pause_ms(self) -> int:
        return self.random.randint(*self._pause_ms)

    def work(self) -> None:
        for _ in range(self.random.choice((1, 1, 1, BURST))):
            if not self.stopped and len(self._out) < WINDOW:
                self.sent += 1
                self._send(self.sent)

    def _send(self, body: int) -> None:
        session = self.engine.session
        record, flags = make_record(b"%d:%d" % (self.number, body), None, self.cluster.clock.now_ms, MESSAGE_BYTES_MAX)
        with session.lock:
            stream = session.stream(QUEUE)
            self._out.append((body, stream.add(record, flags)))
            session.waiting_messages += 1
            session.waiting_bytes += len(record)
            if stream.has_work():
                session.speak(stream)

    @property
    def _stream(self) -> Stream:
        return self.engine.session.streams[QUEUE]

    def heard(self, command: Command) -> None:
        if self.cluster.split:
            return  # two stores count the sequences of one producer
        match command:
            case Confirm(_, producer, up_to, _) if producer == self._stream.producer:
                if up_to >= self._stream.next:
                    raise Violation(f"{self.name} is told that {up_to} is stored, it sent {self._stream.next - 1}")
                self._up_to[producer] = max(self._up_to.get(producer, 0), up_to)
            case Failure(expected=expected) if expected:
                confirmed = self._up_to.get(self._stream.producer, 0)
                if expected <= confirmed:
                    raise Violation(f"{self.name}: {confirmed} was confirmed, the server now expects {expected}")

    def settled(self) -> None:
        while self._out and self._out[0][1].stage is Stage.SETTLED:
            body, batch = self._out.pop(0)
            if batch.error is None:
                self.confirmed.add(body)
            elif isinstance(batch.error, NoSpace) or self.cluster.split:
                self.refused.add(body)
            else:
                raise Violation(f"{self.name}: message {body} ends with {type(batch.error).__name__}: {batch.error}")


class Consumer(Client):
    """Receives, and acknowledges what it received, sometimes late; now and then it gives a message back.

    Where A1 is broken two stores give one offset to two messages: what belongs to an offset is not looked at then.
    """

    def __init__(self, cluster: "Cluster", random: Random) -> None:
        super().__init__(cluster, "consumer", random)
        self.bodies: set[tuple[int, int]] = set()
        self.acked_wires: set[tuple[int, int]] = set()  # (producer, sequence) of what it acknowledged, recorded or not
        self._recorded: set[int] = set()  # offsets whose ACKED arrived
        self._done: set[int] = set()  # offsets that the application acknowledged
        self._hand: list[tuple[int, tuple[int, int]]] = []  # what it holds: offset, (producer, sequence)
        self._branch = 0
        self._last: dict[int, int] = {}
        with self.engine.session.lock:
            self.subscription: Subscription = self.engine.session.subscribe(QUEUE, PREFETCH)
            self.subscription.window = Window(PREFETCH, PREFETCH_FIRST)

    def began(self) -> None:
        self._last.clear()

    def pause_ms(self) -> int:
        return CONSUME_MS

    def work(self) -> None:
        session, subscription = self.engine.session, self.subscription
        with session.lock:
            if self._branch != subscription.branch:
                self._branch = subscription.branch
                self._hand.clear()
            while subscription.buffer:
                self._take(subscription.buffer.popleft())
            if subscription.starves():
                session.speak(subscription)
            if not self._hand or self.random.random() > 0.7:
                return
            count = self.random.randint(1, len(self._hand))
            taken, self._hand = self._hand[:count], self._hand[count:]
            for offset, wire in taken:
                if self.random.random() < 0.02:
                    subscription.nack(offset, 0)
                else:
                    subscription.ack(offset)
                    self._done.add(offset)
                    self.acked_wires.add(wire)
            session.speak(subscription)

    def heard(self, command: Command) -> None:
        match command:
            case Deliver(_, first, _, _, batch):
                head = read_head(batch)
                again = next((offset for offset in range(first, first + head.count) if offset in self._recorded), None)
                if again is not None and not self.cluster.split:
                    what = f"message {head.producer}:{head.first + again - first} at {again}"
                    raise Violation(f"{what} was acknowledged durably and is delivered again (I8)")
            case Acked(_, ranges):
                for first, end in ranges:
                    self._recorded.update(range(first, end))

    def _take(self, delivery: Delivery) -> None:
        head = read_head(delivery.batch)
        for index in range(delivery.at, delivery.stop):
            message = Message(self, delivery, index)
            producer, body = map(int, message.body.split(b":"))
            offset = message.offset
            if offset in self._done and not self.cluster.split:
                raise Violation(f"message {producer}:{body} at {offset} is shown again to who acknowledged it")
            if not message.redelivered:
                if body <= self._last.get(producer, 0):
                    raise Violation(f"message {producer}:{body} is delivered for the first time after {self._last[producer]}")
                self._last[producer] = body
            self.bodies.add((producer, body))
            self._hand.append((offset, (head.producer, head.first + index)))

    def ack(self, offset: int) -> None:
        """Not asked: ``work`` settles by offset."""
        raise AssertionError

    def nack(self, offset: int, delay: float) -> None:
        """Likewise."""
        raise AssertionError
