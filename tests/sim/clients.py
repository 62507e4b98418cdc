"""Model clients: a producer that follows failover and a consumer that acknowledges. They speak the real client protocol.

Both keep a connection to each server, ask every server that refuses again, obey the highest epoch they have seen and drop replies of
lower ones. The producer sends what is in doubt again, in order, under the same sequences.
"""

from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.network import CLIENT, LAN, Connection, Dialler, End
from tests.sim.violation import Violation
from zmqha.core.client_protocol import (
    Ack,
    Acked,
    Close,
    Command,
    Confirm,
    Deliver,
    Failure,
    Open,
    Opened,
    Ping,
    Refused,
    Send,
    Subscribe,
    decode,
    encode,
)
from zmqha.core.message import batch_of, read_head
from zmqha.core.position import NO_EPOCH, Epoch

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.server import Machine

QUEUE = "orders"
SILENT_MS = 1200  # a server silent for this long is asked again
ASK_MS = 40
WINDOW = 8


class ClientHost:
    """Where the clients run."""

    name = CLIENT
    powered = True
    frozen = False


class Line:
    """A client's connection to one server."""

    def __init__(self, client: "Client", machine: "Machine", number: int) -> None:
        self.host = ClientHost()
        self.number = number
        self.connection: Connection | None = None
        self._client = client
        self._machine = machine
        self._dialler = Dialler(client.cluster.network, LAN, self, self._reach, machine)

    def _reach(self, end: End, path: int) -> Connection | None:
        process = self._machine.process
        self.connection = process.accept_client(self, path) if process is not None else None
        return self.connection

    def send(self, command: Command) -> None:
        if self.connection is not None:
            self.connection.send(self, encode(command, request=1))

    def received(self, connection: Connection, frame: Any) -> None:
        if connection is self.connection:
            self._client.received(self, frame)

    def lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.connection = None
            self._client.line_lost(self)
            self._dialler.again()

    def reset(self) -> None:
        """Throw the socket away."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.close(self)
            self._client.line_lost(self)
            self._dialler.again()


class Client:
    """Finds the active server and stays with it."""

    def __init__(self, cluster: "Cluster", name: str, random: Random) -> None:
        self.cluster = cluster
        self.name = name
        self.random = random
        self.highest: Epoch = NO_EPOCH
        self.session: Line | None = None
        self.lines: list[Line] = []
        self._heard_ms = 0
        self._asked_ms: list[int | None] = [None, None]  # OPEN is out since then
        self.only: int | None = None  # reaches this one of the servers only

    def start(self) -> None:
        """Connect to both."""
        self.lines = [Line(self, machine, number) for number, machine in enumerate((self.cluster.a, self.cluster.b))]
        self._tick()

    def _tick(self) -> None:
        now_ms = self.cluster.clock.now_ms
        if self.session is not None and self.only not in (None, self.session.number):
            self.session.reset()
        if self.session is None:
            for line in self.lines if self.only is None else [self.lines[self.only]]:
                asked_ms = self._asked_ms[line.number]
                if asked_ms is not None and now_ms - asked_ms > SILENT_MS:
                    line.reset()
                    self._asked_ms[line.number] = None
                elif asked_ms is None and line.connection is not None:
                    self._asked_ms[line.number] = now_ms
                    line.send(Open((1, 1), self.name))
        else:
            if now_ms - self._heard_ms > SILENT_MS:
                self.session.reset()
            elif now_ms - self._heard_ms > 400:
                self.session.send(Ping())
            if self.session is not None:
                self.work()
        self.cluster.clock.after(self.pause_ms(), self._tick)

    def received(self, line: Line, frames: list[bytes]) -> None:
        """A reply."""
        _, epoch, command = decode(frames)
        if isinstance(command, Opened | Refused | Failure):
            self._asked_ms[line.number] = None
        if epoch < self.highest and not isinstance(command, Refused):
            return  # a zombie's
        if line is self.session:
            self._heard_ms = self.cluster.clock.now_ms
        match command:
            case Opened():
                if line is not self.session:
                    self.highest = max(self.highest, epoch)
                    self.session = line
                    self._heard_ms = self.cluster.clock.now_ms
                    self.begin()
            case Refused() | Close():
                if line is self.session:
                    self._end()
            case Failure():
                if line is self.session:
                    self.failed(command)
            case _:
                if line is self.session:
                    self.highest = max(self.highest, epoch)
                    self.told(command)

    def line_lost(self, line: Line) -> None:
        """The connection broke."""
        self._asked_ms[line.number] = None
        if line is self.session:
            self._end()

    def _end(self) -> None:
        self.session = None

    def say(self, command: Command) -> None:
        """In the session."""
        if self.session is not None:
            self.session.send(command)

    def pause_ms(self) -> int:
        """Until the next tick."""
        return ASK_MS

    def begin(self) -> None:
        """A session is open."""

    def work(self) -> None:
        """Time passed in a session."""

    def told(self, command: Command) -> None:
        """An answer in the session."""

    def failed(self, failure: Failure) -> None:
        """An ERROR in the session."""
        self._end()


class Producer(Client):
    """Sends one message after the other."""

    def __init__(self, cluster: "Cluster", number: int, random: Random, pause_ms: tuple[int, int] = (40, 200)) -> None:
        super().__init__(cluster, f"producer{number}", random)
        self.number = number
        self.confirmed = 0  # messages
        self.sent = 0
        self.wires = [(0, number)]  # (messages before it, producer id): another id after a divergence
        self.stopped = False
        self._pause_ms = pause_ms

    def pause_ms(self) -> int:
        return self.random.randint(*self._pause_ms) if self.session is not None else ASK_MS

    def begin(self) -> None:
        for sequence in range(self.confirmed + 1, self.sent + 1):
            self._send(sequence)

    def work(self) -> None:
        if self.sent - self.confirmed < WINDOW and not self.stopped:
            self.sent += 1
            self._send(self.sent)

    def wire(self, message: int) -> tuple[int, int]:
        """(producer, sequence) under which a message was sent last."""
        before, producer = next(each for each in reversed(self.wires) if each[0] < message)
        return producer, message - before

    def _send(self, message: int) -> None:
        producer, sequence = self.wire(message)
        self.say(Send(QUEUE, batch_of([b"%d:%d" % (self.number, message)], producer=producer, first=sequence)))

    def told(self, command: Command) -> None:
        match command:
            case Confirm(_, producer, up_to, _):
                before, present = self.wires[-1]
                if producer != present:
                    return
                if before + up_to > self.sent:
                    raise Violation(f"{self.name} is told that {up_to} is stored, it sent {self.sent - before}")
                self.confirmed = max(self.confirmed, before + up_to)

    def failed(self, failure: Failure) -> None:
        if failure.expected and failure.expected <= self.confirmed - self.wires[-1][0]:
            if not self.cluster.split:
                raise Violation(f"{self.name}: {self.confirmed} was confirmed, the server now expects {failure.expected}")
            self.wires.append((self.confirmed, self.number + 100 * len(self.wires)))
        super().failed(failure)


class Consumer(Client):
    """Receives, and acknowledges what it received, sometimes late."""

    def __init__(self, cluster: "Cluster", random: Random) -> None:
        super().__init__(cluster, "consumer", random)
        self.received_bodies: set[tuple[int, int]] = set()
        self.acked: set[int] = set()  # offsets whose ACKED arrived
        self.acked_wires: set[tuple[int, int]] = set()  # (producer, sequence) of what an ACK was sent for
        self._wires: dict[int, tuple[int, int]] = {}  # by offset, in this session
        self._unacked: list[int] = []
        self._last: dict[int, int] = {}

    def begin(self) -> None:
        self._unacked.clear()
        self._wires.clear()
        self._last.clear()
        self.say(Subscribe(1, QUEUE, 32, 1 << 20))

    def work(self) -> None:
        if self._unacked and self.random.random() < 0.7:
            count = self.random.randint(1, len(self._unacked))
            done, self._unacked = sorted(self._unacked[:count]), self._unacked[count:]
            self.acked_wires.update(self._wires[offset] for offset in done)
            self.say(Ack(1, tuple((offset, offset + 1) for offset in done)))

    def pause_ms(self) -> int:
        return 60

    def told(self, command: Command) -> None:
        match command:
            case Deliver(_, first, _, redelivered, batch):
                head = read_head(batch)
                for index in range(head.count):
                    self._take(first + index, head.producer, head.first + index, again=redelivered)
            case Acked(_, ranges):
                for first, end in ranges:
                    self.acked.update(range(first, end))

    def _take(self, offset: int, producer: int, sequence: int, *, again: bool) -> None:
        self._wires[offset] = producer, sequence
        if offset in self.acked and not self.cluster.split:
            raise Violation(f"message {producer}:{sequence} at {offset} was acknowledged durably and is delivered again (I8)")
        if not again:
            if sequence <= self._last.get(producer, 0):
                raise Violation(f"message {producer}:{sequence} is delivered for the first time after {self._last[producer]}")
            self._last[producer] = sequence
        self.received_bodies.add((producer, sequence))
        self._unacked.append(offset)
