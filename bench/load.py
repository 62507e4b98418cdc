"""Clients that make load: each in a process of its own, with one client that stays connected, doing one job after the other.

A job is a value with ``run(client)``; it waits until ``start`` (a moment of the monotonic clock, the same for all processes), so
several begin together. What it returns says when it began and ended, so the parent computes rates over all of them.
"""

import contextlib
import multiprocessing
import os
import random
import struct
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import zmqha
from zmqha.client.handle import Handle

SEND_BURST = 64  # between two looks at the clock
PATIENCE_S = 30.0
MIXED_BYTES = (100, 500, 2000, 6000, 16_000)
LEAD_S = 0.05  # from handing out a job until it begins
STAMP = struct.Struct("<QQ")  # number, monotonic ns of the call to send


class Done(NamedTuple):
    """What a job did."""

    messages: int
    begun: float  # monotonic seconds
    ended: float
    cpu_s: float  # of this process, all threads
    times_ns: "array[int]" = array("Q")  # a job's own: latencies, or moments
    numbers: "array[int]" = array("Q")  # of messages, in the order in which they came

    @property
    def rate(self) -> float:
        return self.messages / max(1e-9, self.ended - self.begun)


class Job(Protocol):
    """What a worker can do."""

    def run(self, client: zmqha.Client) -> Done: ...


@dataclass(frozen=True)
class OneByOne:
    """``send`` after ``send``; ``times_ns`` are their latencies."""

    queue: str
    size: int
    seconds: float
    start: float

    def run(self, client: zmqha.Client) -> Done:
        body, send, clock = bytes(self.size), client.send, time.perf_counter_ns
        times = array("Q")
        begun, cpu = _wait_until(self.start), time.process_time()
        end = clock() + int(self.seconds * 1e9)
        now = clock()
        while now < end:
            send(self.queue, body)
            later = clock()
            times.append(later - now)
            now = later
        return Done(len(times), begun, time.monotonic(), time.process_time() - cpu, times)


@dataclass(frozen=True)
class Pipelined:
    """``send_nowait`` as fast as it goes, then ``flush``: for ``seconds``, or ``count`` messages."""

    queue: str
    size: int
    start: float
    seconds: float = 1e9
    count: int = 1 << 60

    def run(self, client: zmqha.Client) -> Done:
        body, send, queue = bytes(self.size), client.send_nowait, self.queue
        sent = 0
        begun, cpu = _wait_until(self.start), time.process_time()
        end = begun + self.seconds
        while sent < self.count and time.monotonic() < end:
            burst = min(SEND_BURST, self.count - sent)
            for _ in range(burst):
                send(queue, body)
            sent += burst
        client.flush(PATIENCE_S)
        return Done(sent, begun, time.monotonic(), time.process_time() - cpu)


@dataclass(frozen=True)
class OverQueues:
    """As ``Pipelined``, by turns to ``queues`` queues, whose names end in a number from 0."""

    queue: str
    queues: int
    size: int
    count: int
    start: float

    def run(self, client: zmqha.Client) -> Done:
        body, send, names = bytes(self.size), client.send_nowait, [f"{self.queue}{number}" for number in range(self.queues)]
        begun, cpu = _wait_until(self.start), time.process_time()
        for number in range(self.count):
            send(names[number % self.queues], body)
        client.flush(PATIENCE_S)
        return Done(self.count, begun, time.monotonic(), time.process_time() - cpu)


@dataclass(frozen=True)
class Paced:
    """``count`` numbered messages at ``rate`` per second, each stamped with the moment of its ``send_nowait``; ``times_ns`` are the
    moments at which the confirms were seen."""

    queue: str
    size: int
    rate: float
    count: int
    start: float
    first: int = 0  # number of the first message
    until: str = ""  # a file: once it is there, that was enough

    def run(self, client: zmqha.Client) -> Done:
        fill = bytes(max(0, self.size - STAMP.size))
        waiting: deque[Handle | None] = deque()
        there = threading.Semaphore(0)
        confirmed = array("Q")
        collector = threading.Thread(target=_collect, args=(waiting, there, confirmed))
        begun, cpu = _wait_until(self.start), time.process_time()
        collector.start()
        for number in range(self.count):
            if self.until and number % 100 == 0 and os.path.exists(self.until):
                break
            pause = begun + number / self.rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            waiting.append(client.send_nowait(self.queue, STAMP.pack(self.first + number, time.monotonic_ns()) + fill))
            there.release()
        waiting.append(None)
        there.release()
        collector.join()
        return Done(len(confirmed), begun, time.monotonic(), time.process_time() - cpu, confirmed)


@dataclass(frozen=True)
class Mixed:
    """``count`` messages at ``rate`` per second, with bodies of 100 B to 16 KiB by chance, the same in every run."""

    queue: str
    rate: float
    count: int
    start: float

    def run(self, client: zmqha.Client) -> Done:
        sizes, content = random.Random(7), bytes(MIXED_BYTES[-1])
        begun, cpu = _wait_until(self.start), time.process_time()
        for number in range(self.count):
            time.sleep(max(0.0, begun + number / self.rate - time.monotonic()))
            client.send_nowait(self.queue, content[: sizes.choice(MIXED_BYTES)])
        client.flush(PATIENCE_S)
        return Done(self.count, begun, time.monotonic(), time.process_time() - cpu)


@dataclass(frozen=True)
class Consume:
    """Receive ``count`` messages, acknowledging each; counted from the first one. ``stamped``: ``times_ns`` are the times from the
    call to ``send`` until here, ``numbers`` the messages' numbers. Ends early after ``quiet`` seconds without a message. ``rate``:
    not faster than so many per second."""

    queue: str
    count: int
    start: float
    stamped: bool = False
    quiet: float = PATIENCE_S
    rate: float = 0.0

    def run(self, client: zmqha.Client) -> Done:
        times, numbers = array("Q"), array("Q")
        received, begun, cpu = 0, _wait_until(self.start), time.process_time()
        with client.consume(self.queue, timeout=self.quiet) as consumer:
            for message in consumer:
                if not received:
                    begun = time.monotonic()
                received += 1
                if self.rate:
                    time.sleep(max(0.0, begun + received / self.rate - time.monotonic()))
                if self.stamped:
                    number, sent_ns = STAMP.unpack_from(message.body)
                    times.append(time.monotonic_ns() - sent_ns)
                    numbers.append(number)
                if received == self.count:
                    break
            ended = time.monotonic()
        return Done(received, begun, ended, time.process_time() - cpu, times, numbers)


@dataclass
class Worker:
    """One load process."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(theirs, self.url, self.options), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def begin(self, job: Job) -> None:
        """Start it; ``end`` must follow."""
        self._pipe.send(job)

    def end(self) -> Done:
        """Wait for the job's result."""
        done: Done = self._pipe.recv()
        return done

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(10)
        self._pipe.close()


@contextlib.contextmanager
def workers(url: str, count: int) -> Iterator[list[Worker]]:
    """Some load processes, connected; ended afterwards."""
    made = [Worker(url) for _ in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            worker.close()


def soon() -> float:
    """A moment at which jobs handed out now can begin together."""
    return time.monotonic() + LEAD_S


def _wait_until(start: float) -> float:
    time.sleep(max(0.0, start - time.monotonic()))
    return time.monotonic()


def _collect(waiting: "deque[Handle | None]", there: threading.Semaphore, confirmed: "array[int]") -> None:
    """Note when each of the handles is confirmed; they are, in this order."""
    while True:
        there.acquire()
        handle = waiting.popleft()
        if handle is None:
            return
        handle.result(PATIENCE_S)
        confirmed.append(time.monotonic_ns())


def _work(pipe: Connection, url: str, options: dict[str, Any]) -> None:
    with zmqha.connect(url, **options) as client:
        pipe.send("ready")
        while (job := pipe.recv()) is not None:
            pipe.send(job.run(client))
