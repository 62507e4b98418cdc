"""Load on RabbitMQ with pika: a SelectConnection, whose callbacks all run in the loop of the job.

Why pika: it is kept by RabbitMQ's own team, and its asynchronous connection confirms by delivery tag, many at once, without an object
for each message; aio-pika, as well kept, waits for a future per message, which costs a pipelining producer much of its time. A message
is confirmed when ``basic.ack`` has come; what a broken connection left without one is sent again, and the queue does not recognise it.
"""

import contextlib
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions
from load import PATIENCE_S, STAMP, Consume, Done, OneByOne, Paced, Pipelined, wait_until
from pika.channel import Channel

from compare.contestant import PREFETCH, CannotCompare, doer, window

ACK_EVERY = PREFETCH // 5
AGAIN_S = 0.02
BURST = 50  # messages published between two looks at the sockets
LOOK_S = 0.05
PERSISTENT = pika.BasicProperties(delivery_mode=2)
Step = Callable[[], None]


def parameters(port: int) -> pika.ConnectionParameters:
    """One attempt, no heartbeats: between two jobs nobody would answer them."""
    return pika.ConnectionParameters(
        "127.0.0.1", port, heartbeat=0, connection_attempts=1, socket_timeout=1, blocked_connection_timeout=60
    )


@dataclass(frozen=True)
class ToRabbit:
    """The nodes on these ports; the first that answers leads the queues that were made on it."""

    ports: tuple[int, ...]

    @contextlib.contextmanager
    def connect(self) -> Iterator[Callable[[Any], Done]]:
        load = RabbitLoad(self.ports)
        yield doer(load, load.find_node)
        load.close()


class RabbitLoad:
    """One connection, one channel with confirms. The loop runs while a job does."""

    def __init__(self, ports: tuple[int, ...]) -> None:
        self._ports = ports
        self._connection: pika.SelectConnection | None = None
        self._confirmed: Callable[[int, bool], None] = lambda tag, multiple: None
        self._lost: Step = lambda: None
        self.find_node()

    def find_node(self) -> None:
        """Before each job: the first node that answers, with a new connection, as delivery tags then begin at 1."""
        self.close()
        deadline = time.monotonic() + PATIENCE_S
        for port in self._turns():
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                self._open(port)
                return
            if time.monotonic() > deadline:
                raise CannotCompare(f"no node answers within {PATIENCE_S:g} s")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            connection.add_on_close_callback(lambda *_: connection.ioloop.stop())
            connection.close()
            connection.ioloop.start()
        if connection is not None:
            connection.ioloop.close()

    def one_by_one(self, job: OneByOne) -> Done:
        body, clock, publish = bytes(job.size), time.perf_counter_ns, self._channel.basic_publish
        times = array("Q")
        begun, cpu = wait_until(job.start), time.process_time()
        end = clock() + int(job.seconds * 1e9)
        sent = clock()

        def confirmed(tag: int, multiple: bool) -> None:
            nonlocal sent
            now = clock()
            times.append(now - sent)
            if now >= end:
                self._leave()
            else:
                sent = now
                publish("", job.queue, body, PERSISTENT)

        publish("", job.queue, body, PERSISTENT)
        self._run(confirmed)
        return Done(len(times), begun, time.monotonic(), time.process_time() - cpu, times)

    def pipelined(self, job: Pipelined) -> Done:
        body, publish, queue, most = bytes(job.size), self._channel.basic_publish, job.queue, window(job.size)
        sent = settled = 0
        tags = _Tags()
        begun, cpu = wait_until(job.start), time.process_time()
        end = begun + job.seconds

        def fill() -> None:
            nonlocal sent
            room = min(most - (sent - settled), job.count - sent) if time.monotonic() < end else 0
            for _ in range(min(BURST, room)):
                publish("", queue, body, PERSISTENT)
            sent += max(0, min(BURST, room))
            if room > BURST:
                self._soon(fill)

        def confirmed(tag: int, multiple: bool) -> None:
            nonlocal settled
            settled = tags.settle(tag, multiple)
            if settled == sent and (sent >= job.count or time.monotonic() >= end):
                self._leave()
            elif sent - settled <= most // 2:
                fill()

        self._soon(fill)
        self._run(confirmed)
        return Done(settled, begun, time.monotonic(), time.process_time() - cpu)

    def paced(self, job: Paced) -> Done:
        times = array("Q")
        waiting: deque[int] = deque()  # numbers without a confirm, in the order of this channel's tags
        unsent: deque[int] = deque()  # to be sent again
        fresh = 0  # the next new number
        tags = _Tags()
        most = window(job.size)
        begun, cpu = wait_until(job.start), time.process_time()

        def send() -> None:
            nonlocal fresh
            if not self._channel.is_open:
                return  # lost() goes on
            while unsent and len(waiting) < most:
                publish(unsent.popleft())
            while fresh < job.count and len(waiting) < most and job.due(fresh, begun) <= time.monotonic():
                publish(fresh)
                fresh += 1
            if fresh < job.count or unsent:
                pause = 0.001 if unsent or len(waiting) >= most else max(0.0, job.due(fresh, begun) - time.monotonic())
                self._later(pause, send)

        def publish(number: int) -> None:
            self._channel.basic_publish("", job.queue, job.body(number, begun), PERSISTENT)
            waiting.append(number)

        def confirmed(tag: int, multiple: bool) -> None:
            before = tags.settled
            for _ in range(tags.settle(tag, multiple) - before):
                waiting.popleft()
                times.append(time.monotonic_ns())
            if len(times) == job.count:
                self._leave()

        def lost() -> None:
            nonlocal tags
            unsent.extendleft(reversed(waiting))
            waiting.clear()
            self.find_node()
            tags = _Tags()
            self._soon(send)

        self._soon(send)
        self._run(confirmed, lost)
        return Done(len(times), begun, time.monotonic(), time.process_time() - cpu, times)

    def consume(self, job: Consume) -> Done:
        times, numbers = array("Q"), array("Q")
        received = 0
        begun, cpu = wait_until(job.start), time.process_time()
        last = time.monotonic()

        def take(channel: Channel, method: Any, _: Any, body: bytes) -> None:
            nonlocal begun, last, received
            if received == job.count:
                return  # more than asked for: it goes back to the queue with the channel
            last = time.monotonic()
            if not received:
                begun = last
            received += 1
            if job.stamped:
                number, sent_ns = STAMP.unpack_from(body)
                times.append(time.monotonic_ns() - sent_ns)
                numbers.append(number)
            if received % ACK_EVERY == 0 or received == job.count:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if received == job.count:
                self._leave()

        def look() -> None:
            if self._finished:
                return
            if time.monotonic() - last > job.quiet:
                self._channel.basic_ack(0, multiple=True)
                self._leave()
            else:
                self._later(LOOK_S, look)

        self._channel.basic_qos(prefetch_count=PREFETCH)
        self._channel.basic_consume(job.queue, take)
        self._later(LOOK_S, look)
        self._run(lambda tag, multiple: None)
        ended = time.monotonic()
        self.close()  # what it holds too much must go back now, and the acknowledgements must be out
        return Done(received, begun, ended, time.process_time() - cpu, times, numbers)

    def _turns(self) -> Iterator[int]:
        while True:
            yield from self._ports
            time.sleep(AGAIN_S)

    def _open(self, port: int) -> None:
        """Returns with an open channel in confirm mode, or raises what was the matter."""
        failed: list[BaseException] = []

        def fail(_: Any, reason: BaseException | str) -> None:
            failed.append(reason if isinstance(reason, BaseException) else OSError(reason))
            connection.ioloop.stop()

        def opened(_: Any) -> None:
            connection.channel(on_open_callback=ready)

        def ready(channel: Channel) -> None:
            self._channel = channel
            channel.confirm_delivery(self._note, lambda _: connection.ioloop.stop())

        connection = pika.SelectConnection(parameters(port), opened, fail, self._closed)
        connection.ioloop.start()
        if failed:
            connection.ioloop.close()
            raise failed[0]
        self._connection = connection

    def _run(self, confirmed: Callable[[int, bool], None], lost: Step | None = None) -> None:
        """The loop, until a callback leaves; begun anew when the connection was lost and ``lost`` has got another."""
        self._confirmed, self._finished = confirmed, False
        while not self._finished:
            assert self._connection is not None
            self._connection.ioloop.start()
            if not self._finished:
                if lost is None:
                    raise CannotCompare("the connection to the node was lost")
                lost()

    def _leave(self) -> None:
        self._finished = True
        assert self._connection is not None
        self._connection.ioloop.stop()

    def _closed(self, connection: pika.SelectConnection, _: Any) -> None:
        connection.ioloop.stop()

    def _note(self, frame: Any) -> None:
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise CannotCompare("the node has refused a message")
        self._confirmed(frame.method.delivery_tag, frame.method.multiple)

    def _soon(self, step: Step) -> None:
        assert self._connection is not None
        self._connection.ioloop.add_callback(step)

    def _later(self, seconds: float, step: Step) -> None:
        assert self._connection is not None
        self._connection.ioloop.call_later(seconds, step)


class _Tags:
    """Delivery tags of one channel: confirms of different messages may overtake each other."""

    def __init__(self) -> None:
        self.settled = 0  # this one and all before it
        self._early: set[int] = set()

    def settle(self, tag: int, multiple: bool) -> int:
        if multiple:
            self.settled = max(self.settled, tag)
        elif tag > self.settled:
            self._early.add(tag)
        while self.settled + 1 in self._early:
            self.settled += 1
            self._early.discard(self.settled)
        return self.settled
