"""The store alone, without sockets and without a second process: what one group commit costs, stage by stage.

commit_us    LmdbStore.commit: transaction, one fdatasync, pages found and packed
ship_us      the last part of it, repeated at once: PageReader.ship (pages that changed, holes left out, checksums, chain digest)
take_us      the passive: Replica.take (checks, one record into the journal, not durable)
flush_us     the passive: Replica.flush (one fdatasync of the journal)
apply_us     the passive, after the acknowledgement: pages into the store's file
serial_us    commit + take + flush: the disks' part of a confirm with one commit under way

Every commit appends one value; the value that is --keep commits old is deleted in the same transaction, as in a queue that is consumed.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash
from disk import Disk
from report import Report, parser, percentile

from zmqha.core import limits, shipment
from zmqha.core.message import batch_of
from zmqha.core.position import Epoch, Mode
from zmqha.core.shipment import Shipment
from zmqha.core.work import Append, CursorRow, DestinationRow, ProducerRow, Work
from zmqha.store.copy_target import CopyTarget
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.page_file import STORE_FILE
from zmqha.store.replica import Replica

EPOCH = Epoch(1, 7)
QUEUE, PRODUCER = 1, 77
SEGMENT_BYTES = 64 * limits.MIB
APPLY_BYTES = limits.MIB
STAGES = ("commit_us", "ship_us", "take_us", "flush_us", "apply_us")


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=3)
    made.add_argument("--batches", type=int, nargs="+", default=[1, 10, 100, 1000], metavar="N", help="messages per commit")
    made.add_argument("--size", type=int, default=1024, help="bytes of a body (default %(default)s)")
    made.add_argument("--commits", type=int, default=200, help="of one repetition (default %(default)s)")
    made.add_argument("--keep", type=int, default=50, help="values in the queue; 0: never delete (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.commits, arguments.batches = 1, 20, [1, 100]
    disk = Disk(arguments.directory)
    report = Report("commit", arguments, disk)
    for count in arguments.batches:
        found: dict[str, list[float]] = {}
        for _ in range(arguments.repeat):
            disk.measure()
            with both_sides(disk.directory) as sides:
                for name, value in measure(sides, count, arguments).items():
                    found.setdefault(name, []).append(value)
        report.add({"messages": count}, found)
    report.finish()


class Sides:
    """An active's store and a passive's replica of it."""

    def __init__(self, directory: Path) -> None:
        here, there = directory / "active", directory / "passive"
        here.mkdir()
        there.mkdir()
        self.store = LmdbStore(here, None)
        self.store.begin_epoch(EPOCH, Mode.PAIRED, "a", "bench", 0, 0)
        self.store.commit(Work(1, 0, destinations=(DestinationRow(QUEUE, "bench", 0, 0),)), EPOCH, 0)
        self.replica = _copied(self.store, there)
        if hasattr(self.store, "census"):  # a tree before it has none
            for census in (self.store.census, self.replica.count(there / STORE_FILE)):
                census.build(1 << 30)

    def close(self) -> None:
        self.replica.close()
        self.store.close()


@contextmanager
def both_sides(directory: Path) -> Iterator[Sides]:
    """Fresh ones; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="zmqha-bench-", dir=directory) as place:
        sides = Sides(Path(place))
        try:
            yield sides
        finally:
            sides.close()


def measure(sides: Sides, count: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Some commits in a row, one under way at a time; medians per stage in microseconds."""
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    body = bytes(arguments.size)
    shipped = 0
    for number in range(arguments.commits):
        batch = batch_of([body] * count, producer=PRODUCER, first=1 + number * count, sent_ms=1)
        ship = _commit(sides.store, _work(number, count, batch, arguments.keep), times)
        shipped += ship.size
        _follow(sides.replica, ship, times)
    medians = {stage: percentile(values, 0.5) for stage, values in times.items()}
    serial = sum(medians[stage] for stage in ("commit_us", "take_us", "flush_us"))
    return {
        **medians,
        "serial_us": serial,
        "serial_msg/s": count * 1e6 / serial,
        "shipped/body": shipped / (arguments.commits * count * arguments.size),
    }


def _commit(store: LmdbStore, work: Work, times: dict[str, list[float]]) -> Shipment:
    old, base = store.meta, store.position
    begun = time.perf_counter_ns()
    ship = store.commit(work, EPOCH, 0)
    committed = time.perf_counter_ns()
    store.reader.ship(EPOCH, base, old, store.meta)  # the same again: a lower bound, its pages are mapped and in the cache
    times["commit_us"].append((committed - begun) / 1000)
    times["ship_us"].append((time.perf_counter_ns() - committed) / 1000)
    return ship


def _follow(replica: Replica, ship: Shipment, times: dict[str, list[float]]) -> None:
    begun = time.perf_counter_ns()
    for chunk in shipment.chunks(ship):
        replica.take(chunk)
    taken = time.perf_counter_ns()
    replica.flush()
    flushed = time.perf_counter_ns()
    while replica.apply(APPLY_BYTES):
        pass
    times["take_us"].append((taken - begun) / 1000)
    times["flush_us"].append((flushed - taken) / 1000)
    times["apply_us"].append((time.perf_counter_ns() - flushed) / 1000)


def _work(number: int, count: int, batch: bytes, keep: int) -> Work:
    """What the broker hands to the store for one batch, with the consumption of an old one."""
    value, first = number + 1, number * count
    dropped = (value - keep,) if keep and value > keep else ()
    cursors = (CursorRow(QUEUE, first - keep * count, (), ()),) if dropped else ()
    return Work(
        number + 2, value, (Append(QUEUE, first, count, batch),), cursors, (ProducerRow(PRODUCER, QUEUE, first + count),),
        dropped_values=dropped, size=len(batch),
    )  # fmt: skip


def _copied(store: LmdbStore, directory: Path) -> Replica:
    """What a returning peer gets."""
    meta = store.meta
    target = CopyTarget(directory, SEGMENT_BYTES)
    target.begin(meta.psize)
    runs = store.reader.live_runs(meta)
    pages = store.reader.read_runs(runs, meta.psize)
    target.pages(runs, pages, xxhash.xxh3_64_intdigest(pages))
    return target.adopt(store.position, meta.body, target.copied_bytes)


if __name__ == "__main__":
    main()
