"""A server comes back to a pair with a large store under load: how soon both are in sync, what is sent, and what clients notice.

The store is filled with --megabytes first. Then, at --rate messages per second, each of these --repeat times:
passive   kill -9 of the passive, back after --away seconds: gets the pages written meanwhile (way: delta)
active    kill -9 of the active, likewise: what it had and nobody else is rolled back by comparison (way: delta)
empty     kill -9 of the passive, back with an empty disk: a full copy (way: whole)

rejoin_ms: from the start of the process until its grant is accepted. sent_MB: what the copy sent. p99_ms: confirm latency of the load
while the server was coming back, against normal_p99_ms before the fault, both from the moment at which a send was due.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from disk import Disk
from load import Done, Paced, Pipelined, Worker, soon, workers
from pair import Pair, other, pair
from report import Report, parser, percentile

QUEUE, BALLAST = "bench/rejoin", "bench/ballast"
BODY_BYTES = 16 * 1024
NORMAL_S = 5.0
TINY_S = 0.5
LIMIT_S = 90.0  # the load ends by itself, should the bench not
Figures = dict[str, list[float]]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=3)
    made.add_argument("--megabytes", type=int, default=1024, help="size of the store (default %(default)s)")
    made.add_argument("--away", type=float, default=10.0, help="seconds until the server is back (default %(default)s)")
    made.add_argument("--rate", type=float, default=1000, help="messages per second (default %(default)s)")
    made.add_argument("--size", type=int, default=1024, help="bytes of a body (default %(default)s)")
    made.add_argument("--cases", default="passive,active,empty", help="which of them (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.megabytes, arguments.away, arguments.cases = 1, 16, TINY_S, "passive"
    disk = Disk(arguments.directory)
    report = Report("rejoin", arguments, disk)
    with (
        tempfile.TemporaryDirectory() as place,
        pair(disk.directory, curve=arguments.curve) as servers,
        workers(servers.url, 1) as (producer,),
    ):
        producer.begin(Pipelined(BALLAST, BODY_BYTES, soon(), count=arguments.megabytes * 64))
        producer.end()
        bench = Bench(servers, producer, Path(place), arguments.rate, arguments.size, arguments.away)
        for case in arguments.cases.split(","):
            figures: Figures = {}
            ways = set()
            for _ in range(arguments.repeat):
                disk.measure()
                ways.add(bench.run(case, figures))
            report.add({"case": case, "way": "/".join(sorted(ways))}, figures)
    report.finish()


class Bench:
    """One pair, one producer, one return after the other."""

    def __init__(self, servers: Pair, producer: Worker, place: Path, rate: float, size: int, away_s: float) -> None:
        self._servers = servers
        self._place = place
        self._producer = producer
        self._rate = rate
        self._size = size
        self._away_s = away_s

    def run(self, case: str, figures: Figures) -> str:
        """One absence; the way of the copy."""
        servers = self._servers
        servers.wait_in_sync()
        normal = self._loaded(lambda: time.sleep(min(NORMAL_S, self._away_s)))
        gone = servers.active() if case == "active" else other(servers.active())
        servers[gone].note_watcher()
        servers[gone].kill()
        servers[gone].make_sure(1.0)
        if case == "empty":
            shutil.rmtree(servers.data(gone))
        self._loaded(lambda: time.sleep(self._away_s))
        servers.new_events()
        begun = time.time()

        def back() -> None:
            servers[gone].start()
            servers.wait_in_sync()

        busy = self._loaded(back)
        events = servers.new_events()
        granted = max(event.time for event in events if event.name == "ha.granted")
        copied = [event.fields for event in events if event.name == "copy.done"][-1]
        for name, value in (
            ("rejoin_ms", (granted - begun) * 1000), ("sent_MB", int(copied["bytes"]) / 1e6), ("p99_ms", percentile(busy, 0.99)),
            ("normal_p99_ms", percentile(normal, 0.99)), ("p99_ratio", percentile(busy, 0.99) / percentile(normal, 0.99)),
        ):  # fmt: skip
            figures.setdefault(name, []).append(value)
        return str(copied["way"])

    def _loaded(self, meanwhile: Callable[[], None]) -> list[float]:
        """Milliseconds from when each send was due until its confirm, of those that were confirmed while something went on."""
        enough = self._place / "enough"
        enough.unlink(missing_ok=True)
        count = int(self._rate * (self._away_s + LIMIT_S))
        self._producer.begin(Paced(QUEUE, self._size, self._rate, count, soon(), until=str(enough)))
        meanwhile()
        enough.touch()
        return _latencies(self._producer.end(), self._rate)


def _latencies(done: Done, rate: float) -> list[float]:
    begun_ns = done.begun * 1e9
    return [(at - begun_ns - number * 1e9 / rate) / 1e6 for number, at in enumerate(done.times_ns)]


if __name__ == "__main__":
    main()
