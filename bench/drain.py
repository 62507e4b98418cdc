"""Consuming a queue that was filled before: messages per second, and CPU per message of each process.

The consumer acknowledges every message (ack="auto"); an acknowledgement is on both disks before it counts. More than the cache holds
is filled in (cache_bytes of the server, 64 MiB by default), so most batches come from the store, as after an outage of the consumers.
"""

import argparse
import time

from disk import Disk
from load import Consume, Pipelined, Worker, soon, workers
from pair import Pair, cpu_of, other, pair
from report import Report, parser, repeated

QUEUE = "bench/drain"
SETTLE_S = 0.3


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=5)
    made.add_argument("--consumers", type=int, nargs="+", default=[1, 4], metavar="N", help="processes (default 1 4)")
    made.add_argument("--sizes", type=int, nargs="+", default=[100, 1024, 16384], metavar="BYTES", help="bodies")
    made.add_argument("--megabytes", type=int, default=128, help="filled in, but at most --messages (default %(default)s)")
    made.add_argument("--messages", type=int, default=200_000, help="at most (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.messages, arguments.consumers, arguments.sizes = 1, 5000, [1], [1024]
    disk = Disk(arguments.directory)
    report = Report("drain", arguments, disk)
    with pair(disk.directory, curve=arguments.curve) as servers, workers(servers.url, max(arguments.consumers)) as consumers:
        for count in arguments.consumers:
            for size in arguments.sizes:
                messages = max(count, min(arguments.messages, arguments.megabytes * 1_000_000 // size)) // count * count
                report.add(
                    {"consumers": count, "bytes": size, "messages": messages},
                    _measure(servers, consumers[:count], size, messages, disk, arguments),
                )
    report.finish()


def _measure(
    servers: Pair, consumers: list[Worker], size: int, messages: int, disk: Disk, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """All repetitions of one case."""
    active = servers.active()
    pids = [servers[name].pid for name in (active, other(active))]

    def once() -> dict[str, float]:
        disk.measure()
        consumers[0].begin(Pipelined(QUEUE, size, soon(), count=messages))
        consumers[0].end()
        time.sleep(SETTLE_S)
        before = [cpu_of(pid).total for pid in pids]
        start = soon()
        for worker in consumers:
            worker.begin(Consume(QUEUE, messages // len(consumers), start))
        done = [worker.end() for worker in consumers]
        time.sleep(SETTLE_S)
        active_us, passive_us = ((cpu_of(pid).total - old) * 1e6 / messages for pid, old in zip(pids, before, strict=True))
        rate = messages / (max(one.ended for one in done) - min(one.begun for one in done))
        return {
            "msg/s": rate,
            "MB/s": rate * size / 1e6,
            "cpu_consumer_us": sum(one.cpu_s for one in done) * 1e6 / messages,
            "cpu_active_us": active_us,
            "cpu_passive_us": passive_us,
        }

    return repeated(arguments.repeat, once)


if __name__ == "__main__":
    main()
