"""A small server for the client's tests: a ROUTER thread that speaks ZMQHA/1 over a dictionary of queues.

Two of them may share one ``FakeStore`` (a pair whose replication never fails). Faults are switched on by plain attributes.
"""

import socket
import threading
from bisect import bisect_right
from collections import deque

import zmq

from zmqha.client.ranges import Ranges
from zmqha.core.client_protocol import (
    Ack,
    Acked,
    Admin,
    Close,
    Confirm,
    Credit,
    Deliver,
    Durability,
    Nack,
    Open,
    Opened,
    Ping,
    Pong,
    Refused,
    Reply,
    Send,
    Subscribe,
    Unsubscribe,
    decode,
    encode,
    failure,
)  # fmt: skip
from zmqha.core.message import cut, fit, read_head, records
from zmqha.core.position import Epoch
from zmqha.errors import NoSuchDestination, OutOfSequence, WrongState, ZmqhaError


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class FakeQueue:
    """Batches with offsets; what is ready, and what is done."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.batches: list[bytes] = []
        self.tail = 0
        self.ready: deque[tuple[int, int, int]] = deque()  # first, end, deliveries so far
        self.done = Ranges()

    def append(self, batch: bytes) -> None:
        count = read_head(batch).count
        self.firsts.append(self.tail)
        self.batches.append(batch)
        self.ready.append((self.tail, self.tail + count, 0))
        self.tail += count

    def slice(self, first: int, end: int, byte_budget: int) -> tuple[int, bytes]:
        """As much of [first, end) as one batch holds and the budget allows."""
        at = bisect_right(self.firsts, first) - 1
        batch, base = self.batches[at], self.firsts[at]
        head = read_head(batch)
        stop = min(end - base, fit(batch, head, first - base, byte_budget))
        return base + stop, cut(batch, head, first - base, stop)

    def bodies(self) -> list[bytes]:
        """Every message ever stored."""
        return [record.body for batch in self.batches for record in records(batch)]


class FakeStore:
    """What a replicated pair has in common."""

    def __init__(self, *queues: str) -> None:
        self.queues = {name: FakeQueue() for name in queues}
        self.last: dict[tuple[int, str], int] = {}


class FakeSubscription:
    def __init__(self, client: bytes, command: Subscribe, queue: FakeQueue) -> None:
        self.client, self.number, self.queue = client, command.subscription, queue
        self.messages, self.bytes = command.messages, command.bytes
        self.out: dict[int, int] = {}  # offset -> deliveries; tests are small, except where ``fast``
        self.held = Ranges()


class FakeServer:
    """``name`` is what it calls itself; ``active``: serves, else refuses and names ``other``."""

    def __init__(
        self, store: FakeStore, name: str = "a", *, active: bool = True, epoch: int = 1, port: int = 0,
        curve: bytes | None = None, curve_public: bytes | None = None,
    ) -> None:  # fmt: skip
        self.store, self.name, self.active, self.epoch = store, name, active, Epoch(epoch, 7)
        self.port = port or free_port()
        self.other = ""
        self.silent = False  # reads nothing, says nothing
        self.drop_confirms = 0  # store, but do not say so, this many times
        self.drop_acked = 0
        self.refuse_sends: deque[ZmqhaError] = deque()  # one for each of the next sends
        self.refuse_open: ZmqhaError | None = None
        self.durability = Durability.BOTH_DISKS
        self.redelivering = False
        self.opens = 0
        self.sends = 0
        self.seen: list[str] = []  # names of commands
        self._sessions: dict[bytes, dict[int, FakeSubscription]] = {}
        self._stop = False
        self._demote = False
        self._frozen = threading.Event()
        self._context = zmq.Context()
        self._curve, self._curve_public = curve, curve_public
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"fake-{name}")
        self._thread.start()
        assert self._bound.wait(5)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """The process is gone: connections break."""
        self._stop = True
        self._thread.join(5)

    def demote(self) -> None:
        """Stop being active and say so to every session."""
        self._demote = True
        while self._demote:
            threading.Event().wait(0.002)

    def freeze(self) -> None:
        """Read nothing and say nothing from now on."""
        self.silent = True
        self._frozen.wait(5)

    def promote(self, epoch: int) -> None:
        """Become active in this epoch; what was in flight elsewhere is ready again."""
        self.redelivering = True
        for queue in self.store.queues.values():
            queue.ready = deque((first, end, 1) for first, end in queue.done.gaps(0, queue.tail))
        self.epoch = Epoch(epoch, 7)
        self.active = True

    # --- the thread ---------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if self._curve is not None:
            router.curve_server = True
            router.curve_secretkey, router.curve_publickey = self._curve, self._curve_public
        for _ in range(100):
            try:
                router.bind(f"tcp://127.0.0.1:{self.port}")
                break
            except zmq.ZMQError:
                threading.Event().wait(0.01)
        self._router = router
        self._bound.set()
        while not self._stop:
            if self._demote:
                self.active = False
                for client in list(self._sessions):
                    self._send(client, self._refusal())
                self._sessions.clear()
                self._demote = False
            if self.silent:
                self._frozen.set()
                threading.Event().wait(0.01)
                continue
            if router.poll(20):
                for _ in range(64):
                    try:
                        client, *frames = router.recv_multipart(zmq.NOBLOCK)
                    except zmq.Again:
                        break
                    self._receive(client, frames)
                self._deliver()
        router.close(0)
        self._context.term()

    def _send(self, client: bytes, command: object, request: int = 0) -> None:
        try:
            self._router.send_multipart([client, *encode(command, request=request, epoch=self.epoch)])
        except zmq.ZMQError:
            self._end(client)

    def _refusal(self) -> Refused:
        return Refused("PASSIVE", self.other, 50, "ZHA-104", f"{self.name} refuses to serve: it is PASSIVE")

    def _end(self, client: bytes) -> None:
        for subscription in self._sessions.pop(client, {}).values():
            self._leave(subscription)

    def _leave(self, subscription: FakeSubscription) -> None:
        for first, end in reversed(list(subscription.held)):
            subscription.queue.ready.appendleft((first, end, 1))

    def _receive(self, client: bytes, frames: list[bytes]) -> None:
        request, _, command = decode(frames)
        self.seen.append(type(command).__name__)
        if isinstance(command, Admin):
            self._send(client, Reply({"server": self.name, "verb": command.verb, **command.arguments}), request)
            return
        if isinstance(command, Open):
            self.opens += 1
            if self.refuse_open is not None:
                self._send(client, failure(self.refuse_open), request)
            elif self.active:
                self._end(client)
                self._sessions[client] = {}
                self._send(client, Opened(self.name, "test", ("", ""), 8 << 20, 1000, 512 * 1024, 8, 1000), request)
            else:
                self._send(client, self._refusal(), request)
            return
        if client not in self._sessions:
            if not isinstance(command, Close):
                self._send(client, failure(WrongState("no session")), request)
            return
        try:
            self._command(client, request, command)
        except ZmqhaError as error:
            self._send(client, failure(error), request)

    def _command(self, client: bytes, request: int, command: object) -> None:
        subscriptions = self._sessions[client]
        match command:
            case Send(destination, batch):
                self._store(client, request, destination, batch)
            case Subscribe():
                queue = self.store.queues.get(command.destination)
                if queue is None:
                    raise NoSuchDestination(f"there is no queue {command.destination}")
                subscription = subscriptions[command.subscription] = FakeSubscription(client, command, queue)
                self._claim(subscription, command.held)
                self._send(client, Reply({}), request)
            case Credit():
                subscriptions[command.subscription].messages = command.messages
                self._send(client, Reply({}), request)
            case Unsubscribe(number):
                self._leave(subscriptions.pop(number))
                self._send(client, Reply({}), request)
            case Ack(number, ranges):
                subscription = subscriptions[number]
                done = []
                for first, end in ranges:
                    mine = subscription.held.within(first, end)
                    for start, stop in mine:
                        subscription.held.remove(start, stop)
                        subscription.queue.done.add(start, stop)
                    done += subscription.queue.done.within(first, end)
                if self.drop_acked:
                    self.drop_acked -= 1
                else:
                    self._send(client, Acked(number, tuple(done)))
            case Nack(number, _, ranges):
                subscription = subscriptions[number]
                for first, end in ranges:
                    for start, stop in subscription.held.within(first, end):
                        subscription.held.remove(start, stop)
                        subscription.queue.ready.appendleft((start, stop, 1))
            case Ping():
                self._send(client, Pong(), request)
            case Close():
                self._end(client)

    def _claim(self, subscription: FakeSubscription, held: tuple[tuple[int, int], ...]) -> None:
        queue, wanted = subscription.queue, Ranges(held)
        left: deque[tuple[int, int, int]] = deque()
        for first, end, deliveries in queue.ready:
            for start, stop in wanted.within(first, end):
                subscription.held.add(start, stop)
            left += [(start, stop, deliveries) for start, stop in wanted.gaps(first, end)]
        queue.ready = left

    def _store(self, client: bytes, request: int, destination: str, batch: bytes) -> None:
        self.sends += 1
        queue = self.store.queues.get(destination)
        if queue is None:
            raise NoSuchDestination(f"there is no queue {destination}")
        head = read_head(batch)
        last = self.store.last.get((head.producer, destination), 0)
        if head.first > last + 1:
            raise OutOfSequence(f"expected {last + 1}", expected=last + 1)
        if head.first == last + 1:
            if self.refuse_sends:
                raise self.refuse_sends.popleft()
            queue.append(batch)
            last = self.store.last[head.producer, destination] = head.next - 1
        if self.drop_confirms:
            self.drop_confirms -= 1
            return
        self._send(client, Confirm(destination, head.producer, last, self.durability))

    def _deliver(self) -> None:
        for subscriptions in list(self._sessions.values()):
            for subscription in list(subscriptions.values()):
                queue = subscription.queue
                while queue.ready and subscription.held.count() < subscription.messages:
                    first, end, deliveries = queue.ready.popleft()
                    room = subscription.messages - subscription.held.count()
                    stop, batch = queue.slice(first, min(end, first + room), 512 * 1024)
                    if stop < end:
                        queue.ready.appendleft((stop, end, deliveries))
                    subscription.held.add(first, stop)
                    redelivered = deliveries > 0 or self.redelivering
                    command = Deliver(subscription.number, first, deliveries + 1, redelivered, batch)
                    self._send(subscription.client, command)
