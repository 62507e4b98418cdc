"""Load on NATS JetStream with nats-py: everything on one asyncio loop, connected to the server that leads the job's stream.

A message is confirmed when its PubAck has come. Paced messages carry a ``Nats-Msg-Id``, as is good practice for whoever sends again
what was not answered: the server recognises them. nats-py's ``fetch`` waits until a whole batch is there, so consumers make their pull
requests themselves, the next one before the last is used up, as the newer clients of other languages do in ``consume``.
"""

import asyncio
import contextlib
import json
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import nats
import nats.errors
from load import PATIENCE_S, STAMP, Consume, Done, OneByOne, Paced, Pipelined, wait_until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError

from compare.contestant import PREFETCH, CannotCompare, doer, window

CONSUMER = "bench"
AGAIN_S = 0.05  # between two looks for what must be sent again
UNANSWERED_S = 0.25
PROBES = 10  # how many are sent again while nothing is confirmed at all
PENDING_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class ToNats:
    """The servers on these ports, n0 on the first."""

    ports: tuple[int, ...]

    @contextlib.contextmanager
    def connect(self) -> Iterator[Callable[[Any], Done]]:
        with asyncio.Runner() as runner:
            load = NatsLoad(self, runner)
            yield doer(load)
            load.close()

    async def client(self, first: int = 0) -> Client:
        """Connected to the server of that number if it runs, else to another; quick to notice and to connect again."""
        order = [*self.ports[first:], *self.ports[:first]]
        return await nats.connect(
            [f"nats://127.0.0.1:{port}" for port in order], dont_randomize=True, max_reconnect_attempts=-1, reconnect_time_wait=0.02,
            connect_timeout=1, error_cb=_quiet, pending_size=1 << 26,
        )  # fmt: skip


class NatsLoad:
    """One connection, one loop that runs while a job does."""

    def __init__(self, to: ToNats, runner: asyncio.Runner) -> None:
        self._to = to
        self._runner = runner
        self._client: Client = runner.run(to.client())

    def close(self) -> None:
        self._runner.run(self._client.close())

    def one_by_one(self, job: OneByOne) -> Done:
        return self._runner.run(self._one_by_one(job))

    def pipelined(self, job: Pipelined) -> Done:
        return self._runner.run(self._pipelined(job))

    def paced(self, job: Paced) -> Done:
        return self._runner.run(self._paced(job))

    def consume(self, job: Consume) -> Done:
        return self._runner.run(self._consume(job))

    async def _to_leader(self, queue: str) -> None:
        """Before each job: it may be another since the last one."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(nats.errors.Error, JetStreamError, OSError):
                await self._client.flush(1)
                cluster = (await self._client.jetstream(timeout=1).stream_info(queue)).cluster
                leader = (cluster and cluster.leader) or ""
                connected = self._client.connected_url
                if leader and connected and connected.port == self._to.ports[int(leader[1:])]:
                    return
                if leader:
                    await self._client.close()
                    self._client = await self._to.client(int(leader[1:]))
            await asyncio.sleep(AGAIN_S)
        raise CannotCompare(f"nobody leads {queue} within {PATIENCE_S:g} s")

    async def _one_by_one(self, job: OneByOne) -> Done:
        await self._to_leader(job.queue)
        body, publish, clock = bytes(job.size), self._client.jetstream(timeout=PATIENCE_S).publish, time.perf_counter_ns
        times = array("Q")
        begun, cpu = wait_until(job.start), time.process_time()
        end = clock() + int(job.seconds * 1e9)
        now = clock()
        while now < end:
            await publish(job.queue, body)
            later = clock()
            times.append(later - now)
            now = later
        return Done(len(times), begun, time.monotonic(), time.process_time() - cpu, times)

    async def _pipelined(self, job: Pipelined) -> Done:
        await self._to_leader(job.queue)
        stream = self._client.jetstream(publish_async_max_pending=window(job.size))
        body, publish, queue = bytes(job.size), stream.publish_async, job.queue
        refused: list[BaseException] = []

        def note(answer: "asyncio.Future[Any]") -> None:
            if (error := answer.exception()) is not None:
                refused.append(error)

        sent = 0
        begun, cpu = wait_until(job.start), time.process_time()
        end = begun + job.seconds
        while sent < job.count and time.monotonic() < end:
            (await publish(queue, body)).add_done_callback(note)
            sent += 1
        await asyncio.wait_for(stream.publish_async_completed(), PATIENCE_S)
        if refused:
            raise CannotCompare(f"{len(refused)} of {sent} messages were refused: {refused[0]}")
        return Done(sent, begun, time.monotonic(), time.process_time() - cpu)

    async def _paced(self, job: Paced) -> Done:
        await self._to_leader(job.queue)
        begun, cpu = wait_until(job.start), time.process_time()
        sender = _Sender(self._client, job, begun)
        resend = asyncio.create_task(sender.send_again())
        for number in range(job.count):
            pause = job.due(number, begun) - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            await sender.room()
            await sender.send(number)
        await asyncio.wait_for(sender.all_confirmed(), PATIENCE_S)
        resend.cancel()
        return Done(len(sender.confirmed), begun, time.monotonic(), time.process_time() - cpu, sender.confirmed)

    async def _consume(self, job: Consume) -> Done:
        await self._to_leader(job.queue)
        client = self._client
        inbox, request = client.new_inbox(), f"$JS.API.CONSUMER.MSG.NEXT.{job.queue}.{CONSUMER}"
        times, numbers = array("Q"), array("Q")
        received = requested = 0
        complete = asyncio.Event()
        begun, cpu = wait_until(job.start), time.process_time()
        last = time.monotonic()

        async def ask(count: int) -> None:
            nonlocal requested
            requested += count
            await client.publish(request, json.dumps({"batch": count}).encode(), reply=inbox)

        async def take(message: Msg) -> None:
            nonlocal begun, last, received
            if message.headers and not message.data and "Status" in message.headers:
                raise CannotCompare(f"a pull request was ended: {message.headers}")
            last = time.monotonic()
            if not received:
                begun = last
            received += 1
            if job.stamped:
                number, sent_ns = STAMP.unpack_from(message.data)
                times.append(time.monotonic_ns() - sent_ns)
                numbers.append(number)
            await message.ack()
            if requested < job.count and requested - received <= PREFETCH // 2:
                await ask(min(PREFETCH // 2, job.count - requested))
            if received == job.count:
                complete.set()

        subscription = await client.subscribe(inbox, cb=take, pending_bytes_limit=PENDING_BYTES_MAX)
        await ask(min(PREFETCH, job.count))
        while not complete.is_set() and time.monotonic() - last < job.quiet:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(complete.wait(), min(0.1, job.quiet))
        await subscription.unsubscribe()
        await client.flush()
        return Done(received, begun, time.monotonic(), time.process_time() - cpu, times, numbers)


class _Sender:
    """Sends numbered messages until each is confirmed."""

    def __init__(self, client: Client, job: Paced, begun: float) -> None:
        self.confirmed = array("Q")
        self._publish = client.jetstream(publish_async_max_pending=1 << 30).publish_async
        self._job = job
        self._begun = begun
        self._window = window(job.size)
        self._unconfirmed: dict[int, float] = {}  # number -> when it was sent last
        self._last = begun

    async def send(self, number: int) -> None:
        self._unconfirmed[number] = time.monotonic()
        identity = {"Nats-Msg-Id": f"{self._job.queue}-{self._job.first + number}"}
        answer = await self._publish(self._job.queue, self._job.body(number, self._begun), headers=identity)
        answer.add_done_callback(lambda answer: self._note(number, answer))

    def _note(self, number: int, answer: "asyncio.Future[Any]") -> None:
        """A refusal (nobody leads) is like no answer: sent again a moment later."""
        if not answer.cancelled() and answer.exception() is None and self._unconfirmed.pop(number, None) is not None:
            self._last = time.monotonic()
            self.confirmed.append(time.monotonic_ns())

    async def room(self) -> None:
        while len(self._unconfirmed) >= self._window:
            await asyncio.sleep(0.001)

    async def all_confirmed(self) -> None:
        while self._unconfirmed:
            await asyncio.sleep(0.001)

    async def send_again(self) -> None:
        """What was not answered in time: a few as long as nothing is confirmed at all, then the rest."""
        while True:
            await asyncio.sleep(AGAIN_S)
            now = time.monotonic()
            late = [number for number, sent in self._unconfirmed.items() if now - sent > UNANSWERED_S]
            for number in late if now - self._last < UNANSWERED_S else sorted(late)[:PROBES]:
                await self.send(number)


async def _quiet(error: Exception) -> None:
    """A lost connection is what some of the jobs are about."""
