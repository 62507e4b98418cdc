"""Load on redis with redis-py and hiredis: streams, one consumer group.

A message is confirmed when ``WAIT 1`` behind it in the same pipeline has answered 1. After a failover there is one server only, so
there its own answer counts, as it does for zmqha's survivor. Messages that a broken connection left without an answer are sent again;
redis does not recognise them.
"""

import contextlib
import os
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from load import PATIENCE_S, STAMP, Consume, Done, OneByOne, Paced, Pipelined, wait_until
from redis.backoff import NoBackoff
from redis.retry import Retry

from compare.contestant import PREFETCH, CannotCompare, doer, window

GROUP = "bench"
WAIT_MS = 1000
AGAIN_S = 0.01
_LOST = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.BusyLoadingError)


def connect(port: int) -> redis.Redis:
    """One server or sentinel; no attempt of its own to repeat anything, which would hide a failover behind pauses."""
    return redis.Redis("127.0.0.1", port, socket_timeout=PATIENCE_S, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


@dataclass(frozen=True)
class ToRedis:
    """The primary, as the sentinels on these ports say."""

    sentinels: tuple[int, ...]
    leader: str

    @contextlib.contextmanager
    def connect(self) -> Iterator[Callable[[Any], Done]]:
        load = RedisLoad(self)
        yield doer(load, load.find_primary)

    def primary(self, patience_s: float) -> tuple[redis.Redis, int]:
        """A connection to a server that says itself that it is primary, and how many replicas it has."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for port in self.sentinels:
                with contextlib.suppress(*_LOST, redis.ResponseError):
                    with connect(port) as sentinel:
                        _, found = sentinel.sentinel_get_master_addr_by_name(self.leader, return_responses=True)[0:2]
                    client = connect(int(found))
                    state = client.info("replication")
                    if state["role"] == "master":
                        return client, int(state["connected_slaves"])
            time.sleep(AGAIN_S)
        raise CannotCompare(f"no primary within {patience_s:g} s")


class RedisLoad:
    """One connection."""

    def __init__(self, to: ToRedis) -> None:
        self._to = to
        self._name = f"consumer{os.getpid()}"
        self.find_primary()

    def find_primary(self) -> None:
        """Before each job: it may be another since the last one."""
        self._client, self._replicas = self._to.primary(PATIENCE_S)

    def one_by_one(self, job: OneByOne) -> Done:
        bodies, clock = [bytes(job.size)], time.perf_counter_ns
        times = array("Q")
        begun, cpu = wait_until(job.start), time.process_time()
        end = clock() + int(job.seconds * 1e9)
        now = clock()
        while now < end:
            self._send(job.queue, bodies)
            later = clock()
            times.append(later - now)
            now = later
        return Done(len(times), begun, time.monotonic(), time.process_time() - cpu, times)

    def pipelined(self, job: Pipelined) -> Done:
        """A pipeline of as many messages as the window takes; the next one when the last is confirmed."""
        bodies = [bytes(job.size)] * window(job.size)
        sent = 0
        begun, cpu = wait_until(job.start), time.process_time()
        end = begun + job.seconds
        while sent < job.count and time.monotonic() < end:
            sent += self._send(job.queue, bodies[: job.count - sent])
        return Done(sent, begun, time.monotonic(), time.process_time() - cpu)

    def paced(self, job: Paced) -> Done:
        """What became due while the last pipeline was on its way goes into the next one."""
        confirmed = array("Q")
        begun, cpu = wait_until(job.start), time.process_time()
        while len(confirmed) < job.count:
            due = min(job.count, int((time.monotonic() - begun) * job.rate) + 1)
            if due == len(confirmed):
                time.sleep(max(0.0, job.due(due, begun) - time.monotonic()))
                continue
            bodies = [job.body(number, begun) for number in range(len(confirmed), min(due, len(confirmed) + window(job.size)))]
            while not self._try(job.queue, bodies):
                self.find_primary()
            confirmed.extend([time.monotonic_ns()] * len(bodies))
        return Done(len(confirmed), begun, time.monotonic(), time.process_time() - cpu, confirmed)

    def consume(self, job: Consume) -> Done:
        """One round trip acknowledges a batch, removes it (a stream keeps what is acknowledged) and reads the next."""
        times, numbers = array("Q"), array("Q")
        received, begun, cpu = 0, wait_until(job.start), time.process_time()
        done: list[bytes] = []
        quiet_ms = max(1, int(job.quiet * 1000) if job.quiet < PATIENCE_S else int(PATIENCE_S * 900))
        while received < job.count:
            batch = self._read(job.queue, done, min(PREFETCH, job.count - received), quiet_ms)
            done = [identity for identity, _ in batch]
            if not batch:
                break
            if not received:
                begun = time.monotonic()
            received += len(batch)
            if job.stamped:
                now = time.monotonic_ns()
                for _, fields in batch:
                    number, sent_ns = STAMP.unpack_from(fields[b"b"])
                    times.append(now - sent_ns)
                    numbers.append(number)
        self._read(job.queue, done, 0, 0)
        return Done(received, begun, time.monotonic(), time.process_time() - cpu, times, numbers)

    def _send(self, queue: str, bodies: list[bytes]) -> int:
        """XADD each and wait for the replica, in one pipeline; how many.

        Within MULTI and EXEC redis flushes its file once; without them, once for every 16 KiB that it reads (half the rate).
        """
        with self._client.pipeline(transaction=False) as pipeline:
            execute: Any = pipeline.execute_command  # without types in redis-py
            execute("MULTI")
            for body in bodies:
                execute("XADD", queue, "*", "b", body)
            execute("EXEC")
            if self._replicas:
                execute("WAIT", 1, WAIT_MS)
            answers = pipeline.execute()
        stored = answers[1 + len(bodies)]
        if not all(isinstance(each, bytes) for each in stored):
            raise CannotCompare(f"a message was refused: {stored[0]}")
        if self._replicas and answers[-1] < 1:
            raise redis.TimeoutError(f"the replica has not answered within {WAIT_MS} ms")
        return len(bodies)

    def _try(self, queue: str, bodies: list[bytes]) -> bool:
        with contextlib.suppress(*_LOST):
            self._send(queue, bodies)
            return True
        return False

    def _read(self, queue: str, done: list[bytes], count: int, quiet_ms: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Acknowledge and remove ``done``, then read up to ``count``; empty after ``quiet_ms`` without a message."""
        with self._client.pipeline(transaction=False) as pipeline:
            if done:
                pipeline.xack(queue, GROUP, *done)
                pipeline.xdel(queue, *done)
            if count:
                pipeline.xreadgroup(GROUP, self._name, {queue: ">"}, count=count, block=quiet_ms)
            answers = pipeline.execute()
        if done and answers[:2] != [len(done)] * 2:
            raise CannotCompare(f"{len(done)} messages: {answers[0]} acknowledged, {answers[1]} removed")
        found: Any = answers[-1] if count else None
        if isinstance(found, dict):  # the newer protocol's way to say it
            found = list(found.items())
        return _flat(found[0][1]) if found else []


def _flat(entries: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The newer protocol nests once more."""
    return entries[0] if entries and isinstance(entries[0], list) else entries
