"""Clients that make load: each in a process of its own, with one client that stays connected, doing one job after the other.

A job is a value with ``run(client)``; it waits until ``start`` (a moment of the monotonic clock, the same for all processes), so
several begin together. What it returns says when it began and ended, so the parent computes rates over all of them. How a process
connects is its recipe: ``ToPair`` here; ``bench/compare`` has recipes for other servers, whose clients do the same jobs.
"""

import contextlib
import itertools
import multiprocessing
import os
import random
import struct
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import zmqha
from zmqha.client.handle import Handle

SEND_BURST = 64  # between two looks at the clock
PATIENCE_S = 30.0
CLOSE_S = 10.0
MIXED_BYTES = (100, 500, 2000, 6000, 16_000)
LEAD_S = 0.05  # from handing out a job until it begins
STAMP = struct.Struct("<QQ")  # number, monotonic ns of the moment at which it was due


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

    def gap(self, fault: float) -> tuple[float, float]:
        """The longest pause between two of its moments that ended after the fault, and when it ended: monotonic seconds."""
        pauses = ((after - before, after) for before, after in itertools.pairwise(self.times_ns) if after >= fault * 1e9)
        pause, end = max(pauses)
        return pause / 1e9, end / 1e9


class Job(Protocol):
    """What a worker can do."""

    def run(self, client: zmqha.Client) -> Done: ...


class Recipe(Protocol):
    """How a load process connects; it goes to another process as a pickle."""

    def connect(self) -> AbstractContextManager[Callable[[Any], Done]]:
        """Connected as long as the context lasts; its value does a job."""
        ...


@dataclass(frozen=True)
class ToPair:
    """A client of a pair."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def connect(self) -> Iterator[Callable[[Job], Done]]:
        with zmqha.connect(self.url, **self.options) as client:
            yield lambda job: job.run(client)


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
        begun, cpu = wait_until(self.start), time.process_time()
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
        begun, cpu = wait_until(self.start), time.process_time()
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
        begun, cpu = wait_until(self.start), time.process_time()
        for number in range(self.count):
            send(names[number % self.queues], body)
        client.flush(PATIENCE_S)
        return Done(self.count, begun, time.monotonic(), time.process_time() - cpu)


@dataclass(frozen=True)
class Paced:
    """``count`` numbered messages at ``rate`` per second, each stamped with the moment at which it was due (a client that keeps its
    caller waiting cannot hide that); ``times_ns`` are the moments at which the confirms were seen."""

    queue: str
    size: int
    rate: float
    count: int
    start: float
    first: int = 0  # number of the first message
    until: str = ""  # a file: once it is there, that was enough

    def due(self, number: int, begun: float) -> float:
        """When the so-many-th message is to be sent, counted from 0."""
        return begun + number / self.rate

    def body(self, number: int, begun: float) -> bytes:
        """What is in it."""
        return STAMP.pack(self.first + number, int(self.due(number, begun) * 1e9)) + bytes(max(0, self.size - STAMP.size))

    def run(self, client: zmqha.Client) -> Done:
        waiting: deque[Handle | None] = deque()
        there = threading.Semaphore(0)
        confirmed = array("Q")
        collector = threading.Thread(target=_collect, args=(waiting, there, confirmed))
        begun, cpu = wait_until(self.start), time.process_time()
        collector.start()
        for number in range(self.count):
            if self.until and number % 100 == 0 and os.path.exists(self.until):
                break
            pause = self.due(number, begun) - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            waiting.append(client.send_nowait(self.queue, self.body(number, begun)))
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
        begun, cpu = wait_until(self.start), time.process_time()
        for number in range(self.count):
            time.sleep(max(0.0, begun + number / self.rate - time.monotonic()))
            client.send_nowait(self.queue, content[: sizes.choice(MIXED_BYTES)])
        client.flush(PATIENCE_S)
        return Done(self.count, begun, time.monotonic(), time.process_time() - cpu)


@dataclass(frozen=True)
class Consume:
    """Receive ``count`` messages, acknowledging each; counted from the first one. ``stamped``: ``times_ns`` are the times from when
    it was due until here, ``numbers`` the messages' numbers. Ends early after ``quiet`` seconds without a message. ``rate``: not
    faster than so many per second."""

    queue: str
    count: int
    start: float
    stamped: bool = False
    quiet: float = PATIENCE_S
    rate: float = 0.0

    def run(self, client: zmqha.Client) -> Done:
        times, numbers = array("Q"), array("Q")
        received, begun, cpu = 0, wait_until(self.start), time.process_time()
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

    recipe: Recipe

    def __post_init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(theirs, self.recipe), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def begin(self, job: Any) -> None:
        """Start it; ``end`` must follow."""
        self._pipe.send(job)

    def end(self, patience_s: float | None = None) -> Done:
        """Wait for the job's result. EOFError: the process has ended instead, its own words are on stderr."""
        if not self._pipe.poll(patience_s):
            raise TimeoutError(f"a load process has not done its job within {patience_s:g} s")
        done: Done = self._pipe.recv()
        return done

    def close(self) -> None:
        """It ends, also if it is stuck in a job or gone already."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(CLOSE_S)
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextlib.contextmanager
def workers(to: str | Recipe, count: int) -> Iterator[list[Worker]]:
    """Some load processes, connected (to a pair's URL, or as the recipe says); ended afterwards."""
    made = [Worker(ToPair(to) if isinstance(to, str) else to) for _ in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            worker.close()


def soon() -> float:
    """A moment at which jobs handed out now can begin together."""
    return time.monotonic() + LEAD_S


def wait_until(start: float) -> float:
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


def _work(pipe: Connection, recipe: Recipe) -> None:
    with recipe.connect() as do:
        pipe.send("ready")
        while (job := pipe.recv()) is not None:
            pipe.send(do(job))
