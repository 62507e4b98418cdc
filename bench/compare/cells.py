"""The work: every cell does the same with every contestant and looks whether what should be there is there.

Bodies are zeros, 1 KiB unless the cell says otherwise. All load comes from processes of their own; a queue is made for each piece of
work and removed after it. Times are in milliseconds, processor time in microseconds per message over all server processes of the
contestant, memory in MiB over the same.
"""

import random
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from load import LEAD_S, Consume, Done, OneByOne, Paced, Pipelined, Worker, soon
from report import percentile

from compare.contestant import CannotCompare, Contestant, cpu_s, private_mib, wait_for

SIZE = 1024
SIZES = {"100 B": 100, "1 KiB": SIZE, "16 KiB": 16384}
PRODUCERS = 4
CONSUMERS = (1, 4)
LATENCY_RATE = 2000.0
FAULT_RATE = 1000.0
FAULT_LEAD_S = 1.0
FAULT_AFTER_S = 2.0
QUIET_S = 3.0  # without a message: nothing more comes
EMPTY_S = 30.0  # until a queue must be empty after a failover
SETTLE_S = 0.3  # what servers do a moment later belongs to the work
COUNTED_S = 5.0
JOB_S = 100.0  # a job that takes longer has failed
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    lone_s: float = 2.0
    publish_s: float = 1.5
    drained: int = 40_000
    passed: int = 40_000  # end to end
    latency_s: float = 3.0
    failovers: int = 2  # in a round
    stored: int = 100_000

    def part(self, share: float) -> "Scale":
        """Less of what takes time; as much is stored."""
        return Scale(
            self.lone_s * share, self.publish_s * share, int(self.drained * share), int(self.passed * share),
            self.latency_s * share, max(1, round(self.failovers * share)), self.stored,
        )  # fmt: skip


TINY = Scale(lone_s=0.2, publish_s=0.1, drained=400, passed=400, latency_s=0.2, failovers=1, stored=400)


class Cells:
    """One contestant that runs, its load processes (one for each producer and consumer)."""

    def __init__(self, contestant: Contestant, workers: list[Worker], scale: Scale) -> None:
        self._contestant = contestant
        self._workers = workers
        self._scale = scale
        self._number = 0
        self._random = random.Random(7)
        self._empty_mib = private_mib(contestant.pids())

    def lone(self) -> Figures:
        """Send, wait for the acknowledgement, send the next."""
        with _Queue(self) as queue:
            (done,) = self._run(OneByOne(queue, SIZE, self._scale.lone_s, soon()))
            self._expect(queue, done.messages)
        return {f"p{share}_ms": [percentile(done.times_ns, share / 100) / 1e6] for share in (50, 99)}

    def publish(self) -> Figures:
        """One producer, pipelined, as fast as it goes."""
        found: Figures = {}
        for name, size in SIZES.items():
            rate, server_us = self._publish(1, size)
            found[f"{name} msg/s"] = [rate]
            if size == SIZE:
                found["server_us"] = [server_us]
        return found

    def producers(self) -> Figures:
        """Four producers, pipelined, into one queue."""
        return {"msg/s": [self._publish(PRODUCERS, SIZE)[0]]}

    def drain(self) -> Figures:
        """A full queue, one consumer and four: each message acknowledged."""
        found: Figures = {}
        for count in CONSUMERS:
            share = self._scale.drained // count
            with _Queue(self) as queue:
                self._fill(queue, share * count)
                before, start = cpu_s(self._contestant.pids()), soon()
                done = self._run(*(Consume(queue, share, start, quiet=QUIET_S) for _ in range(count)))
                self._expect(queue, 0)
                received = sum(one.messages for one in done)
                if received != share * count:
                    raise CannotCompare(f"{received} of {share * count} messages came")
                found[f"{count} msg/s"] = [received / (max(one.ended for one in done) - min(one.begun for one in done))]
                if count == 1:
                    found["server_us"] = [self._server_us(before, received)]
        return found

    def end_to_end(self) -> Figures:
        """A producer and a consumer at once, as fast as they go: until the last message is received."""
        count = self._scale.passed
        with _Queue(self) as queue:
            before, start = cpu_s(self._contestant.pids()), soon()
            sent, received = self._run(Pipelined(queue, SIZE, start, count=count), Consume(queue, count, start, quiet=QUIET_S))
            self._expect(queue, 0)
        if not sent.messages == received.messages == count:
            raise CannotCompare(f"{sent.messages} of {count} messages sent, {received.messages} received")
        return {"msg/s": [count / (received.ended - sent.begun)], "server_us": [self._server_us(before, count)]}

    def latency(self) -> Figures:
        """From when a message was due until it is received, at a rate that all of them can keep."""
        count = int(LATENCY_RATE * self._scale.latency_s)
        with _Queue(self) as queue:
            start = soon()
            sent, received = self._run(
                Paced(queue, SIZE, LATENCY_RATE, count, start), Consume(queue, count, start, stamped=True, quiet=QUIET_S)
            )
        if sorted(received.numbers) != list(range(count)):
            raise CannotCompare(f"{sent.messages} of {count} messages sent, {len(set(received.numbers))} different ones received")
        return {f"p{share:g}_ms": [percentile(received.times_ns, share / 100) / 1e6] for share in (50, 99, 99.9)}

    def memory(self) -> Figures:
        """Private memory of the servers just after their start, and with many messages in a queue."""
        with _Queue(self) as queue:
            self._fill(queue, self._scale.stored)
            return {"empty_MiB": [self._empty_mib], "stored_MiB": [private_mib(self._contestant.pids())]}

    def failover(self) -> Figures:
        """kill -9 of the leader under load: the longest pause between two confirms; then everything is consumed and counted."""
        found: Figures = {"gap_ms": [], "confirmed": [], "lost": [], "duplicated": []}
        for number in range(self._scale.failovers):
            if number:
                self._contestant.heal()
            with _Queue(self) as queue:
                done = self._strike(queue, found)
                seen = self._take_all(queue)
                lost = set(range(done.messages)) - set(seen)
                found["confirmed"].append(done.messages)
                found["lost"].append(len(lost))
                found["duplicated"].append(len(seen) - len(set(seen)))
        return found

    def make_queue(self) -> str:
        self._number += 1
        name = f"compare{self._number}"
        self._contestant.make(name)
        return name

    def drop_queue(self, name: str) -> None:
        self._contestant.drop(name)

    def _strike(self, queue: str, found: Figures) -> Done:
        """Load, and the kill in the midst of it, at no fixed distance from anybody's heartbeats."""
        lead_s = FAULT_LEAD_S + self._random.random() / 2
        count = int(FAULT_RATE * (lead_s + FAULT_AFTER_S))
        start = soon()
        self._workers[0].begin(Paced(queue, SIZE, FAULT_RATE, count, start))
        time.sleep(max(0.0, start + lead_s - time.monotonic()))
        self._contestant.kill_leader(queue)
        fault = time.monotonic()
        done = self._workers[0].end(JOB_S)
        if done.messages != count:
            raise CannotCompare(f"only {done.messages} of {count} messages were confirmed in the end")
        found["gap_ms"].append(done.gap(fault)[0] * 1000)
        return done

    def _take_all(self, queue: str) -> "array[int]":
        """The numbers of all messages in it, in the order in which they come, until it is empty."""
        seen, deadline = array("Q"), time.monotonic() + EMPTY_S
        while True:
            (done,) = self._run(Consume(queue, 1 << 20, soon(), stamped=True, quiet=QUIET_S))
            seen += done.numbers
            if self._contestant.depth(queue) == 0:
                return seen
            if time.monotonic() > deadline:
                raise CannotCompare(f"{self._contestant.depth(queue)} messages could not be consumed after the failover")

    def _publish(self, producers: int, size: int) -> tuple[float, float]:
        """Messages per second of all, processor time of the servers."""
        with _Queue(self) as queue:
            before, start = cpu_s(self._contestant.pids()), soon()
            done = self._run(*(Pipelined(queue, size, start, seconds=self._scale.publish_s) for _ in range(producers)))
            messages = sum(one.messages for one in done)
            server_us = self._server_us(before, messages)
            self._expect(queue, messages)
        return messages / (max(one.ended for one in done) - min(one.begun for one in done)), server_us

    def _fill(self, queue: str, count: int) -> None:
        self._run(Pipelined(queue, SIZE, soon(), count=count))
        self._expect(queue, count)
        time.sleep(SETTLE_S)

    def _run(self, *jobs: Any) -> list[Done]:
        """One load process for each; the last one begins first, as a consumer should be there before the producer."""
        used = self._workers[: len(jobs)]
        for worker, job in reversed(list(zip(used, jobs, strict=True))):
            worker.begin(job)
        return [worker.end(JOB_S) for worker in used]

    def _server_us(self, before: float, messages: int) -> float:
        time.sleep(SETTLE_S)
        return (cpu_s(self._contestant.pids()) - before) * 1e6 / messages

    def _expect(self, queue: str, count: int) -> None:
        """That many messages are in it, at the latest a moment later: some acknowledgements are told to nobody."""
        wait_for(lambda: self._contestant.depth(queue) == count, f"{count} messages in the queue", seconds=COUNTED_S)


class _Queue:
    """A new queue's name, as long as the context lasts. After a failure the servers are thrown away, so nothing is removed then."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    def __enter__(self) -> str:
        self._name = self._cells.make_queue()
        return self._name

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._cells.drop_queue(self._name)


# In the order in which they are measured. Memory comes first: nothing was stored before. Failover comes last: it leaves a server dead.
CELLS: dict[str, Callable[[Cells], Figures]] = {
    "memory": Cells.memory,
    "lone": Cells.lone,
    "publish": Cells.publish,
    "producers": Cells.producers,
    "drain": Cells.drain,
    "end_to_end": Cells.end_to_end,
    "latency": Cells.latency,
    "failover": Cells.failover,
}
assert LEAD_S < FAULT_LEAD_S
