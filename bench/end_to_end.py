"""A producer and a consumer at once, each a process: what goes through, and how long a message takes.

throughput   the producer pipelines, the consumer acknowledges every message; counted from the first send to the last receipt
latency      at a fixed rate, from when it was due until the consumer has the message; it is delivered only when it is on both disks
"""

import argparse
import time

from disk import Disk
from load import Consume, Done, Job, Paced, Pipelined, Worker, soon, workers
from pair import Pair, cpu_of, other, pair
from report import Report, parser, percentile, repeated

QUEUE = "bench/end_to_end"
SETTLE_S = 0.2


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=5)
    made.add_argument("--sizes", type=int, nargs="+", default=[100, 1024, 16384], metavar="BYTES", help="bodies, for throughput")
    made.add_argument("--messages", type=int, default=150_000, help="of one repetition, for throughput (default %(default)s)")
    made.add_argument("--megabytes", type=int, default=200, help="at most, likewise (default %(default)s)")
    made.add_argument("--rate", type=float, default=2000, help="messages per second, for latency (default %(default)s)")
    made.add_argument("--seconds", type=float, default=3.0, help="of one repetition, for latency (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.messages, arguments.sizes, arguments.seconds = 1, 5000, [1024], 0.3
    disk = Disk(arguments.directory)
    report = Report("end_to_end", arguments, disk)
    with pair(disk.directory, curve=arguments.curve) as servers, workers(servers.url, 2) as (producer, consumer):
        bench = Bench(servers, producer, consumer, disk)
        for size in arguments.sizes:
            count = min(arguments.messages, arguments.megabytes * 1_000_000 // size)
            report.add({"measure": "throughput", "bytes": size, "messages": count}, bench.throughput(size, count, arguments))
        report.add({"measure": "latency", "bytes": 1024, "rate": arguments.rate}, bench.latency(1024, arguments))
    report.finish()


class Bench:
    """One pair, one producer, one consumer."""

    def __init__(self, servers: Pair, producer: Worker, consumer: Worker, disk: Disk) -> None:
        active = servers.active()
        self._pids = [servers[name].pid for name in (active, other(active))]
        self._producer = producer
        self._consumer = consumer
        self._disk = disk

    def throughput(self, size: int, count: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
        """Both as fast as they can."""

        def once() -> dict[str, float]:
            self._disk.measure()
            before = [cpu_of(pid).total for pid in self._pids]
            start = soon()
            sent, received = self._both(Pipelined(QUEUE, size, start, count=count), Consume(QUEUE, count, start))
            time.sleep(SETTLE_S)
            active_us, passive_us = ((cpu_of(pid).total - old) * 1e6 / count for pid, old in zip(self._pids, before, strict=True))
            rate = count / (received.ended - sent.begun)
            return {
                "msg/s": rate,
                "MB/s": rate * size / 1e6,
                "cpu_producer_us": sent.cpu_s * 1e6 / count,
                "cpu_active_us": active_us,
                "cpu_passive_us": passive_us,
                "cpu_consumer_us": received.cpu_s * 1e6 / count,
            }

        return repeated(arguments.repeat, once)

    def latency(self, size: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
        """At a rate that all of them can keep."""
        count = int(arguments.rate * arguments.seconds)

        def once() -> dict[str, float]:
            self._disk.measure()
            start = soon()
            sent, received = self._both(
                Paced(QUEUE, size, arguments.rate, count, start), Consume(QUEUE, count, start, stamped=True)
            )
            assert received.messages == sent.messages == count, "nothing is lost or doubled without a fault"
            figures = {f"p{share:g}_us": percentile(received.times_ns, share / 100) / 1000 for share in (50, 90, 99)}
            return {**figures, "max_us": max(received.times_ns) / 1000, "sent/s": count / (sent.ended - sent.begun)}

        return repeated(arguments.repeat, once)

    def _both(self, send: Job, receive: Job) -> tuple[Done, Done]:
        self._consumer.begin(receive)
        self._producer.begin(send)
        return self._producer.end(), self._consumer.end()


if __name__ == "__main__":
    main()
