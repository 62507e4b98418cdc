"""Load through the public client: producers at a set rate, consumers that acknowledge; both keep the events that ``history`` judges.

Two facts are read from inside the client, because no public call tells them: the epoch of the newest confirm it took (``Tap``), and
whether an acknowledgement is recorded by a server. Everything else is the public API.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import zmqha
from tests.system.history import Outcome, Received, Sent, Verdict, judge
from zmqha.core.client_protocol import Confirm, Envelope
from zmqha.errors import (
    BadName,
    FailoverTimeout,
    LimitReached,
    MessageTooLarge,
    NoSpace,
    OutcomeUnknown,
    QueueFull,
    ZmqhaError,
)

REFUSALS = (BadName, LimitReached, MessageTooLarge, NoSpace, QueueFull)  # definitely not stored
UNKNOWN = (OutcomeUnknown, FailoverTimeout)
IN_DOUBT_MAX = 8000  # a producer that is this far ahead of its confirms pauses
SWEEP_S = 0.05  # how often a consumer looks which acknowledgements are recorded


class Tap:
    """Notes every confirm that reaches a client: when, from which server, of which epoch, and whether the client took it."""

    def __init__(self, client: zmqha.Client) -> None:
        self.epoch = 0  # of the newest confirm taken
        self.confirms: list[tuple[float, int, int, bool]] = []  # time, server, epoch, taken
        self._failover = client._engine.failover
        self._inner = self._failover.receive
        self._failover.receive = self._receive  # type: ignore[method-assign]

    def _receive(self, server: int, envelope: Envelope, now: int) -> bool:
        known = self._failover.highest.counter
        taken = self._inner(server, envelope, now)
        if isinstance(envelope.command, Confirm):
            epoch = envelope.epoch.counter
            self.confirms.append((time.monotonic(), server, epoch, taken))
            if taken:
                assert epoch >= known, "a client that knows a newer epoch took a confirm of an older one"
                self.epoch = epoch
        return taken


class Producer:
    """Sends numbered messages of its name to one queue, ``rate`` per second, until ``stop``."""

    def __init__(self, url: str, name: str, *, queue: str = "load", rate: float = 1000, size: int = 100, **options: Any) -> None:
        self.name, self.queue = name, queue
        self.sent: list[Sent] = []
        self.failures: list[str] = []
        self.paused = threading.Event()
        self.client = zmqha.connect(url, name=name, **options)
        self.tap = Tap(self.client)
        self._rate, self._filler = rate, b"x" * size
        self._doubt: deque[tuple[int, float, Any]] = deque()
        self._stopping = threading.Event()
        self._sending = True
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for work in (self._send, self._settle)]
        for thread in self._threads:
            thread.start()

    @property
    def confirmed(self) -> int:
        """Messages confirmed so far."""
        return sum(1 for one in self.sent if one.outcome is Outcome.OK)

    def wait_confirmed(self, more: int, timeout_s: float = 20.0) -> None:
        """Until so many more are confirmed than now."""
        want, deadline = len(self.sent) + more, time.monotonic() + timeout_s
        while len(self.sent) < want:
            assert time.monotonic() < deadline, f"{self.name}: {len(self.sent)} settled, {len(self._doubt)} open, {self.failures}"
            time.sleep(0.005)

    def stop(self, timeout_s: float = 60.0) -> list[Sent]:
        """No more sends; wait for what is open. What happened."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), f"{self.name} hangs with {len(self._doubt)} open"
        self.client.close()
        return self.sent

    def abandon(self) -> list[Sent]:
        """Close the client now; what is open ends as unknown."""
        self._stopping.set()
        self._threads[0].join(10)
        self.client.close()
        return self.stop()

    def _send(self) -> None:
        due, seq = time.monotonic(), 0
        try:
            while not self._stopping.is_set():
                due = max(due + 1 / self._rate, time.monotonic() - 0.05)  # what a stall held up is not caught up
                pause = due - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
                if self.paused.is_set() or len(self._doubt) > IN_DOUBT_MAX:
                    continue
                invoked = time.monotonic()
                try:
                    handle = self.client.send_nowait(self.queue, b"%s %d %s" % (self.name.encode(), seq, self._filler))
                except ZmqhaError as error:
                    self.failures.append(error.explain())
                    continue
                self._doubt.append((seq, invoked, handle))
                seq += 1
        finally:
            self._sending = False

    def _settle(self) -> None:
        while self._sending or self._doubt:
            if not self._doubt:
                time.sleep(0.001)
                continue
            seq, invoked, handle = self._doubt[0]
            outcome, disks = Outcome.OK, 0
            try:
                disks = int(handle.result().durability)
            except REFUSALS as error:
                outcome = Outcome.FAIL
                self.failures.append(error.explain())
            except ZmqhaError as error:
                outcome = Outcome.INFO
                self.failures.append(error.explain())
            self.sent.append(Sent(self.queue, self.name, seq, invoked, time.monotonic(), outcome, self.tap.epoch, disks))
            self._doubt.popleft()


class Reader:
    """Consumes one queue with explicit acknowledgements until ``stop``."""

    def __init__(self, url: str, name: str, *, queue: str = "load", prefetch: int = 200, **options: Any) -> None:
        self.name, self.queue = name, queue
        self.errors: list[str] = []
        self._received: list[Received] = []
        self._recorded: dict[int, float] = {}  # offset -> when its acknowledgement was known to be recorded
        self._unknown: set[int] = set()  # acknowledged, not known to be recorded
        self._last = time.monotonic()
        self._stopping = threading.Event()
        self.client = zmqha.connect(url, name=name, prefetch=prefetch, ack="manual", **options)
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """Deliveries so far."""
        return len(self._received)

    def drain(self, quiet_s: float = 1.0, timeout_s: float = 60.0) -> None:
        """Until nothing has come for ``quiet_s``."""
        self._last, deadline = time.monotonic(), time.monotonic() + timeout_s
        while time.monotonic() - self._last < quiet_s:
            assert time.monotonic() < deadline, f"{self.name} is still receiving after {timeout_s} s"
            time.sleep(0.02)

    def stop(self) -> list[Received]:
        """End; what was received, with what is known of each acknowledgement."""
        self._stopping.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), f"{self.name} hangs"
        self.client.close()
        assert not self.errors, self.errors
        return [self._with_outcome(one) for one in self._received]

    def _with_outcome(self, one: Received) -> Received:
        at = self._recorded.get(one.offset)
        return one if at is None else one._replace(acked=Outcome.OK, ack_at=at)

    def _read(self) -> None:
        try:
            with self.client.consume(self.queue, timeout=SWEEP_S) as messages:
                swept = 0.0
                while not self._stopping.is_set():
                    message = next(messages, None)
                    now = time.monotonic()
                    if message is not None:
                        self._take(message, now)
                    if now - swept >= SWEEP_S:
                        swept = now
                        self._sweep(messages)
                subscription = messages._subscription
            self._sweep_in(subscription)
        except ZmqhaError as error:
            self.errors.append(error.explain())

    def _take(self, message: zmqha.Message, now: float) -> None:
        producer, seq, _ = message.body.split(b" ", 2)
        self._last = now
        self._received.append(
            Received(self.queue, self.name, now, producer.decode(), int(seq), message.offset, message.redelivered, Outcome.INFO)
        )
        message.ack()
        self._unknown.add(message.offset)

    def _sweep(self, messages: Any) -> None:
        self._sweep_in(messages._subscription)

    def _sweep_in(self, subscription: Any) -> None:
        """An acknowledgement is recorded when the subscription owes nothing about it any more."""
        with self.client._engine.session.lock:
            subscription._gather()
            owed = [*subscription.held, *subscription.acking, *subscription.finished]
        now = time.monotonic()
        done = {offset for offset in self._unknown if not any(first <= offset < end for first, end in owed)}
        self._unknown -= done
        self._recorded.update((offset, now) for offset in done)


class Load:
    """The load of the fault matrix: four producers of 200 messages of 1 KiB a second, two queues, four consumers."""

    def __init__(self, url: str, *, rate: float = 200, size: int = 1024, **options: Any) -> None:
        queues = ("one", "two")
        self.producers = [
            Producer(url, f"p{number}", queue=queues[number % 2], rate=rate, size=size, **options) for number in range(4)
        ]
        self.readers = [Reader(url, f"r{number}", queue=queues[number % 2], **options) for number in range(4)]

    @property
    def sent(self) -> list[Sent]:
        """What has been settled so far, of all producers."""
        return [one for producer in self.producers for one in list(producer.sent)]

    def wait_confirmed(self, more: int = 20, timeout_s: float = 20.0) -> None:
        """Until each producer has so many more confirms than now."""
        deadline = time.monotonic() + timeout_s
        want = {producer: len(producer.sent) + more for producer in self.producers}
        for producer, settled in want.items():
            producer.wait_confirmed(settled - len(producer.sent), max(0.1, deadline - time.monotonic()))

    def settle(self) -> Verdict:
        """Stop sending, drain, judge everything."""
        return settle(self.producers, self.readers)


def settle(producers: Iterable[Producer], readers: Iterable[Reader]) -> Verdict:
    """Stop the producers, let the readers drain the queues, judge what happened."""
    sent = [one for producer in producers for one in producer.stop()]
    readers = list(readers)
    for reader in readers:
        reader.drain()
    return judge(sent, [one for reader in readers for one in reader.stop()])


def median(values: list[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]
