"""A pair with much in it: memory, taking over, starting, and rates beside an empty pair.

memory     of active and passive: empty, with --messages queued, after takeovers and after publishing; private_MB, and mapped_MB:
           pages of the store's file that the kernel takes back when it needs to
takeover   kill -9 of the active: from the claim until STANDALONE (the store is open, its index rebuilt) and until the first confirm
start      kill -9 of both, and both started: the interpreter (until the log says server.start), the peer (until the claim), then so
rates      a producer and then a consumer as fast as they go, by turns: at an empty pair; at a pair with --messages in it, with
           another queue and with the deep one itself; at a pair with 1,000 (--queues) idle queues; and a producer that sends to
           those 1,000 by turns. Ratios to the empty pair in the same turn

Stores: "deep", --messages in full batches through the front door; "small", as many in commits of --each, written into the store of a
server that was down. Budgets: 45 MB empty, 150 MB full; 300 ms from the claim to the first confirm; rates within 10 %.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

import old_store
from disk import Disk
from load import Consume, Done, OverQueues, Paced, Pipelined, Worker, soon, workers
from pair import Memory, Pair, memory_of, other, pair
from report import Report, parser, percentile

DEEP, OTHER, LOOK, WIDE = "bench/deep", "bench/other", "bench/look", "bench/wide/"
SIZE = 1024
EMPTY_MB, FULL_MB = 45, 150
OPEN_MS = 300
FLAT = 0.9
SETTLE_S = 1.0
RATE, LOAD_S = 500, 5.0  # of the load that a takeover interrupts
Figures = dict[str, list[float]]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=5)
    made.add_argument("--messages", type=int, default=1_000_000, help="queued (default %(default)s)")
    made.add_argument("--each", type=int, default=10, help="messages of a small commit (default %(default)s)")
    made.add_argument("--burst", type=int, default=100_000, help="messages of one measurement of rates (default %(default)s)")
    made.add_argument("--queues", type=int, default=1000, help="idle ones (default %(default)s)")
    made.add_argument("--parts", default="deep,small,rates", help="which of them (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.messages, arguments.burst, arguments.queues = 1, 20_000, 2000, 50
        arguments.parts = arguments.parts.replace("small,", "")  # as deep, but for the filling
    disk = Disk(arguments.directory)
    report = Report("scale", arguments, disk)
    for part in arguments.parts.split(","):
        if part == "rates":
            rates(report, disk, arguments)
        else:
            depth(part, report, disk, arguments)
    report.finish()


# --- memory, takeovers, starts ----------------------------------------------------------------------------------------------


def depth(store: str, report: Report, disk: Disk, arguments: argparse.Namespace) -> None:
    """One pair, filled; everything but rates."""
    with filled_pair(store, report, disk, arguments) as servers, workers(servers.url, 1) as (producer,):
        takeovers, starts = Figures(), Figures()
        for _ in range(arguments.repeat):
            disk.measure()
            _note(takeovers, takeover(servers, producer))
        note_memory(report, servers, f"{store}, after a takeover", FULL_MB)
        for _ in range(arguments.repeat):
            disk.measure()
            _note(starts, start(servers, producer))
        note_memory(report, servers, f"{store}, after a start", FULL_MB)
    for what, figures in (("takeover", takeovers), ("start", starts)):
        report.add({"measure": what, "store": store}, figures)
        median = percentile(figures["confirm_ms"], 0.5)
        report.note(f"budget: {what}, {store}: claim to first confirm {median:.0f} ms of {OPEN_MS}: {_yes(median <= OPEN_MS)}")


@contextlib.contextmanager
def filled_pair(store: str, report: Report, disk: Disk, arguments: argparse.Namespace) -> Iterator[Pair]:
    """A pair in sync with a deep queue; its memory before and after that is reported."""
    with pair(disk.directory, curve=arguments.curve) as servers:
        note_memory(report, servers, "empty", EMPTY_MB)
        if store == "deep":
            with workers(servers.url, 1) as (producer,):
                producer.begin(Pipelined(DEEP, SIZE, soon(), count=arguments.messages))
                producer.end()
            note_memory(report, servers, "deep, right after filling", FULL_MB)
        else:
            commits = fill_stopped(servers, arguments.messages, arguments.each)
            report.note(f"small: {commits} commits of {arguments.each} messages")
        time.sleep(SETTLE_S)
        note_memory(report, servers, store, FULL_MB)
        yield servers


def fill_stopped(servers: Pair, messages: int, each: int) -> int:
    """One server alone, ended; its store written to; both started: it serves, and the other one copies. How many commits."""
    last = servers.active()
    kill(servers, other(last))
    servers.wait(lambda: servers.row(last).get("standing") == "sole", "a server alone")
    kill(servers, last)
    commits = old_store.fill(servers.data(last), DEEP, messages=messages, size=SIZE, each=each)
    servers.start()
    return commits


def takeover(servers: Pair, producer: Worker) -> dict[str, float]:
    """One, under a little load, and the way back."""
    active = servers.active()
    servers.new_events()
    producer.begin(_load())
    time.sleep(0.5)
    kill(servers, active)
    found = after_claim(servers, producer.end(), time.time() - LOAD_S)
    servers.start()
    return found


def start(servers: Pair, producer: Worker) -> dict[str, float]:
    """Both at once."""
    for name in ("a", "b"):
        kill(servers, name)
    servers.new_events()
    producer.begin(_load())
    begun = time.time()
    servers.start()
    return after_claim(servers, producer.end(), begun, started=True)


def after_claim(servers: Pair, done: Done, since: float, *, started: bool = False) -> dict[str, float]:
    """What the logs and the producer's confirms say, in milliseconds."""
    events = servers.new_events()
    claim = next(event for event in events if event.name == "ha.claim" and event.time >= since)
    standalone = next(event.time for event in events if event.name == "ha.standalone" and event.time >= claim.time)
    shift = time.time() - time.monotonic()
    confirm = next(at / 1e9 + shift for at in done.times_ns if at / 1e9 + shift >= claim.time)
    found = {"standalone_ms": (standalone - claim.time) * 1000, "confirm_ms": (confirm - claim.time) * 1000}
    if started:
        up = next(event.time for event in events if event.name == "server.start" and event.server == claim.server)
        found = {"interpreter_ms": (up - since) * 1000, "peer_ms": (claim.time - up) * 1000, **found}
    return found


def kill(servers: Pair, name: str) -> None:
    """``kill -9``."""
    servers[name].note_watcher()
    servers[name].kill()
    servers[name].make_sure(1.0)


def note_memory(report: Report, servers: Pair, when: str, budget_mb: int) -> None:
    """A row for each server, and the verdict."""
    active = servers.active()
    for role, name in (("active", active), ("passive", other(active))):
        memory: Memory = memory_of(servers[name].pid)
        report.add(
            {"measure": "memory", "when": when, "server": role},
            {"private_MB": [memory.private / 1e6], "mapped_MB": [memory.mapped / 1e6]},
        )
        kept = memory.private <= budget_mb * 1e6
        report.note(f"budget: memory, {when}, {role}: {memory.private / 1e6:.0f} MB of {budget_mb}: {_yes(kept)}")


def _load() -> Paced:
    return Paced(LOOK, SIZE, RATE, int(RATE * LOAD_S), soon())


# --- rates ------------------------------------------------------------------------------------------------------------------


def rates(report: Report, disk: Disk, arguments: argparse.Namespace) -> None:
    """Three pairs by turns."""
    with (
        pair(disk.directory, curve=arguments.curve) as empty,
        filled_pair("deep", report, disk, arguments) as deep,
        pair(disk.directory, curve=arguments.curve) as wide,
        workers(empty.url, 1) as (at_empty,),
        workers(deep.url, 1) as (at_deep,),
        workers(wide.url, 1) as (at_wide,),
    ):
        many = arguments.queues
        run(at_wide, OverQueues(WIDE, many, SIZE, many, soon()))
        cases: dict[str, Callable[[], dict[str, float]]] = {
            "empty": lambda: through(at_empty, OTHER, arguments.burst),
            "deep, another queue": lambda: through(at_deep, OTHER, arguments.burst),
            "deep, itself": lambda: through(at_deep, DEEP, arguments.burst),
            f"{many:,} idle queues": lambda: through(at_wide, OTHER, arguments.burst),
            f"to {many:,} queues": lambda: spread_out(wide, at_wide, arguments.burst, many),
        }
        for once in cases.values():
            once()  # the first time the store's file grows, or its pages come into memory
        figures: dict[str, Figures] = {name: {} for name in cases}
        for turn in range(arguments.repeat):
            disk.measure()
            for name in cases if turn % 2 == 0 else reversed(cases):
                _note(figures[name], cases[name]())
        for name, found in figures.items():
            ratios = {
                f"{what}_ratio": [each / base for each, base in zip(values, figures["empty"][what], strict=True)]
                for what, values in found.items()
            }
            report.add(
                {"measure": "rates", "case": name}, {**{f"{what} msg/s": values for what, values in found.items()}, **ratios}
            )
            for what, values in ratios.items():
                least = percentile(values, 0.5)
                report.note(f"budget: {what}, {name}: {least:.2f} of at least {FLAT}: {_yes(least >= FLAT)}")
        note_memory(report, deep, "deep, after publishing and draining", FULL_MB)


def through(worker: Worker, queue: str, count: int) -> dict[str, float]:
    """So many messages in, and as many out."""
    sent = run(worker, Pipelined(queue, SIZE, soon(), count=count))
    return {"publish": sent.rate, "drain": run(worker, Consume(queue, count, soon())).rate}


def spread_out(servers: Pair, worker: Worker, count: int, queues: int) -> dict[str, float]:
    """To so many queues by turns; emptied afterwards by hand."""
    sent = run(worker, OverQueues(WIDE, queues, SIZE, count, soon()))
    with servers.connect() as client:
        for number in range(queues):
            client.admin("queue.purge", {"name": f"{WIDE}{number}"})
    return {"publish": sent.rate}


def run(worker: Worker, job: Pipelined | OverQueues | Consume) -> Done:
    """One job to its end."""
    worker.begin(job)
    return worker.end()


def _note(figures: Figures, found: dict[str, float]) -> None:
    for name, value in found.items():
        figures.setdefault(name, []).append(value)


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


if __name__ == "__main__":
    main()
