"""Hours of steady work: do rates, the store's file and memory stay where they are?

A queue with a backlog of --backlog messages; in every interval so many are published at --rate, and as many consumed from its other
end, while a second producer sends bodies of 100 B to 16 KiB to a queue that is drained likewise. At the end of an interval the pair
shows what it can: a burst published, and consumed, as fast as it goes. A row per interval: burst rates, what the store's file takes on
the disk (it holds holes), private memory of both.

Verdict, the last quarter of the intervals against the second (the first fills the file): rates within 10 %, the file no larger by more
than 5 %, memory within its budget.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from disk import Disk
from load import Consume, Mixed, Paced, Pipelined, Worker, soon, workers
from pair import Pair, other, pair, private_bytes
from report import Report, parser

from zmqha.store.page_file import STORE_FILE

STEADY, MIXED, BURST = "bench/steady", "bench/mixed", "bench/burst"
SIZE = 1024
FLAT, GROWTH = 0.9, 1.05
FULL_MB = 150
BURST_MESSAGES = 50_000
MIXED_RATE = 100
ROLE_EVENTS = ("ha.claim", "ha.standalone", "ha.follow", "ha.granted", "store.rotten", "store.failed", "store.stuck")
Figures = dict[str, float]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=1)
    made.add_argument("--minutes", type=float, default=60.0, help="default %(default)s")
    made.add_argument("--interval", type=float, default=60.0, metavar="S", help="of one row (default %(default)s)")
    made.add_argument("--rate", type=int, default=5000, help="messages per second, in and out (default %(default)s)")
    made.add_argument("--backlog", type=int, default=100_000, help="messages always in the queue (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.minutes, arguments.interval, arguments.rate, arguments.backlog = 0.05, 0.7, 1000, 1000
    disk = Disk(arguments.directory)
    report = Report("churn", arguments, disk)
    with pair(disk.directory, curve=arguments.curve) as servers, workers(servers.url, 4) as made_workers:
        churn = Churn(servers, made_workers, arguments)
        found: list[Figures] = []
        ended = time.monotonic() + arguments.minutes * 60
        while time.monotonic() < ended or len(found) < 4:
            disk.measure()
            found.append(churn.interval())
            report.add({"minute": round(churn.minutes, 2)}, {name: [value] for name, value in found[-1].items()})
        for line in (*churn.changes, *verdicts(found)):
            report.note(line)
    report.finish()


class Churn:
    """One pair; four workers: two that send and two that consume."""

    def __init__(self, servers: Pair, made: list[Worker], arguments: argparse.Namespace) -> None:
        self._servers = servers
        self._active = servers.active()
        self._steady_in, self._steady_out, self._mixed_in, self._mixed_out = made
        self._seconds: float = arguments.interval
        self._rate: int = arguments.rate
        self._burst = min(BURST_MESSAGES, 10 * arguments.backlog)
        self._begun = time.monotonic()
        self.changes: list[str] = []  # of roles
        servers.new_events()
        self._steady_in.begin(Pipelined(STEADY, SIZE, soon(), count=arguments.backlog))
        self._steady_in.end()

    @property
    def minutes(self) -> float:
        """Since the beginning."""
        return (time.monotonic() - self._begun) / 60

    def interval(self) -> Figures:
        """Work as on every day, then a burst; the row."""
        start = soon()
        steady, mixed = int(self._rate * self._seconds), int(MIXED_RATE * self._seconds)
        jobs = (
            (self._steady_in, Paced(STEADY, SIZE, self._rate, steady, start)),
            (self._steady_out, Consume(STEADY, steady, start, rate=self._rate)),
            (self._mixed_in, Mixed(MIXED, MIXED_RATE, mixed, start)),
            (self._mixed_out, Consume(MIXED, mixed, start)),
        )
        for worker, job in jobs:
            worker.begin(job)
        done = [worker.end() for worker, _ in jobs]
        self._look_at_roles()
        self._steady_in.begin(Pipelined(BURST, SIZE, soon(), count=self._burst))
        published = self._steady_in.end().rate
        self._steady_out.begin(Consume(BURST, self._burst, soon()))
        drained = self._steady_out.end().rate
        pids = {name: self._servers[name].pid for name in (self._active, other(self._active))}
        return {
            "steady msg/s": done[0].rate,
            "publish msg/s": published,
            "drain msg/s": drained,
            "file_MB": on_disk(self._servers.data(self._active)) / 1e6,
            "passive_file_MB": on_disk(self._servers.data(other(self._active))) / 1e6,
            **{f"{role}_MB": private_bytes(pid) / 1e6 for role, pid in zip(("active", "passive"), pids.values(), strict=True)},
        }

    def _look_at_roles(self) -> None:
        """A machine that others keep busy may make a server take its peer for dead: that is told, and the hour goes on."""
        for event in self._servers.new_events():
            if event.name in ROLE_EVENTS:
                self.changes.append(f"minute {self.minutes:.1f}: {event.server} {event.name} {event.fields}")
                print(self.changes[-1], file=sys.stderr, flush=True)
        self._active = self._servers.active()


def verdicts(found: list[Figures]) -> list[str]:
    """The last quarter against the second."""
    quarter = len(found) // 4
    early, late = found[quarter : 2 * quarter], found[-quarter:]
    lines = []
    for name in ("publish msg/s", "drain msg/s"):
        ratio = _of(late, name) / _of(early, name)
        lines.append(f"budget: {name}: {ratio:.2f} of what it was, at least {FLAT}: {_yes(ratio >= FLAT)}")
    for name in ("file_MB", "passive_file_MB"):
        ratio = _of(late, name) / _of(early, name)
        lines.append(f"budget: {name}: {ratio:.3f} of what it was, at most {GROWTH}: {_yes(ratio <= GROWTH)}")
    for name in ("active_MB", "passive_MB"):
        most = max(each[name] for each in found)
        lines.append(f"budget: {name}: at most {most:.0f} of {FULL_MB}: {_yes(most <= FULL_MB)}")
    return lines


def on_disk(directory: Path) -> int:
    """Bytes that the store's file takes."""
    return (directory / STORE_FILE).stat().st_blocks * 512


def _of(rows: list[Figures], name: str) -> float:
    return median(row[name] for row in rows)


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


if __name__ == "__main__":
    main()
