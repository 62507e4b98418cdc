"""Publishing to a pair in state ACTIVE: how long a lone send takes, and how much goes through.

one at a time   every producer waits for each confirm (both disks) before its next send
pipelined       send_nowait as fast as the client takes it, then flush

CPU is per message and counts the whole process. The queue is purged after every repetition. The budget (docs/performance.md): at
least 60,000 msg/s with one pipelined producer of 1 KiB; a lone send's median at most 1.1 ms where a flush takes 0.3 ms: the disk's own
fdatasync + 0.8 ms.
"""

import argparse
import time

from disk import Disk
from load import Job, OneByOne, Pipelined, Worker, soon, workers
from pair import Pair, cpu_of, other, pair, private_bytes
from report import Report, parser, percentile, repeated

QUEUE = "bench/publish"
SETTLE_S = 0.15  # the passive applies what it journalled
WARM_UP = 200
BUDGET_MS, BUDGET_RATE = 0.8, 60_000


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=5)
    made.add_argument("--producers", type=int, nargs="+", default=[1, 4], metavar="N", help="processes (default 1 4)")
    made.add_argument("--sizes", type=int, nargs="+", default=[100, 1024, 16384], metavar="BYTES", help="bodies")
    made.add_argument("--modes", nargs="+", default=["one", "pipelined"], choices=["one", "pipelined"], help="default: both")
    made.add_argument("--seconds", type=float, default=1.5, help="of one repetition (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.seconds, arguments.producers, arguments.sizes = 1, 0.2, [1], [1024]
    disk = Disk(arguments.directory)
    report = Report("publish", arguments, disk)
    with pair(disk.directory, curve=arguments.curve) as servers, workers(servers.url, max(arguments.producers)) as producers:
        bench = Bench(servers, producers, disk, arguments)
        for mode in arguments.modes:
            for count in arguments.producers:
                for size in arguments.sizes:
                    labels = {"mode": mode, "producers": count, "bytes": size}
                    report.add(labels, bench.measure(mode, count, size))
        for line in bench.verdicts():
            report.note(line)
        memory = {name: private_bytes(servers[name].pid) / 2**20 for name in (bench.active, other(bench.active))}
        report.note("private memory: " + ", ".join(f"{name} {size:.0f} MiB" for name, size in memory.items()))
    report.finish()


class Bench:
    """One pair, some producers."""

    def __init__(self, servers: Pair, producers: list[Worker], disk: Disk, arguments: argparse.Namespace) -> None:
        self.active = servers.active()
        self._servers = servers
        self._producers = producers
        self._disk = disk
        self._arguments = arguments
        self._lone_us: list[float] = []  # medians of the budget's case
        self._rates: list[float] = []
        self._client = servers.connect()
        for _ in range(WARM_UP):
            self._client.send(QUEUE, b"warm")

    def measure(self, mode: str, count: int, size: int) -> dict[str, list[float]]:
        """All repetitions of one case."""
        once = self._one_by_one if mode == "one" else self._pipelined
        found = repeated(self._arguments.repeat, lambda: once(count, size))
        if (count, size) == (1, 1024):
            (self._lone_us if mode == "one" else self._rates).extend(found["p50_us" if mode == "one" else "msg/s"])
        return found

    def verdicts(self) -> list[str]:
        """The budget, as far as it was measured."""
        lines = []
        if self._lone_us:
            allowed = self._disk.median_us("paced append") + BUDGET_MS * 1000
            lone = percentile(self._lone_us, 0.5)
            lines.append(f"budget: lone send of 1 KiB: median {lone:.0f} us, allowed {allowed:.0f} us: {_yes(lone <= allowed)}")
        if self._rates:
            rate = percentile(self._rates, 0.5)
            kept = _yes(rate >= BUDGET_RATE)
            lines.append(f"budget: one pipelined producer of 1 KiB: {rate:,.0f} msg/s, at least {BUDGET_RATE:,}: {kept}")
        return lines

    def _one_by_one(self, count: int, size: int) -> dict[str, float]:
        self._disk.measure()
        start = soon()
        figures, times = self._run([OneByOne(QUEUE, size, self._arguments.seconds, start) for _ in range(count)])
        return {"p50_us": percentile(times, 0.5) / 1000, "p99_us": percentile(times, 0.99) / 1000, **figures}

    def _pipelined(self, count: int, size: int) -> dict[str, float]:
        self._disk.measure()
        start = soon()
        figures, _ = self._run([Pipelined(QUEUE, size, start, seconds=self._arguments.seconds) for _ in range(count)])
        return {"msg/s": figures["msg/s"], "MB/s": figures["msg/s"] * size / 1e6, **figures}

    def _run(self, jobs: list[Job]) -> tuple[dict[str, float], list[int]]:
        """Rate, CPU per message of each process, and the times that the jobs noted."""
        pids = [self._servers[name].pid for name in (self.active, other(self.active))]
        before = [cpu_of(pid).total for pid in pids]
        used = self._producers[: len(jobs)]
        for worker, job in zip(used, jobs, strict=True):
            worker.begin(job)
        done = [worker.end() for worker in used]
        time.sleep(SETTLE_S)
        servers_us = [(cpu_of(pid).total - old) * 1e6 for pid, old in zip(pids, before, strict=True)]
        self._client.admin("queue.purge", {"name": QUEUE})
        messages = sum(one.messages for one in done)
        seconds = max(one.ended for one in done) - min(one.begun for one in done)
        figures = {
            "msg/s": messages / seconds,
            "cpu_producer_us": sum(one.cpu_s for one in done) * 1e6 / messages,
            "cpu_active_us": servers_us[0] / messages,
            "cpu_passive_us": servers_us[1] / messages,
        }
        return figures, [each for one in done for each in one.times_ns]


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


if __name__ == "__main__":
    main()
