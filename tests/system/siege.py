"""An honest client at work while others throw things at the servers; and what must hold of both then."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tests.system.history import Outcome, Sent
from tests.system.load import Producer, Reader, settle
from tests.system.matrix import Run, quantile
from tests.system.pair import Pair, pair

RATE = 200
TURN_S = 0.5  # a very long turn
GROWTH_MIB = 50
DESCRIPTORS = 8  # that a server may hold more than before
SLOWER = 10  # times: more than this fails; the figure itself is noted, the goal is 2
FLOOR_S = 0.5  # a p99 below this says nothing on a shared machine


class Measure(NamedTuple):
    """What a server's process holds."""

    rss_mib: float
    descriptors: int


def measure(pid: int) -> Measure:
    """Of a running process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return Measure(rss / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def latency(sent: list[Sent]) -> float:
    """The 99th of 100 confirms."""
    return quantile([one.returned - one.invoked for one in sent if one.outcome is Outcome.OK], 0.99) or 0.0


@contextmanager
def siege(
    run: Run, *, curve: bool, limits: dict[str, int] | None = None, growth_mib: int = GROWTH_MIB, descriptors: int = DESCRIPTORS
) -> Iterator[Pair]:
    """A pair with an honest client. Afterwards: the same processes in the same roles, memory and descriptors back, the client served
    throughout, at most a line a second about refusals, everything confirmed there once."""
    _many_descriptors()
    with pair(curve=curve, limits=limits) as both:
        producer, reader = Producer(both.url, "honest", rate=RATE), Reader(both.url, "reader")
        producer.wait_confirmed(3 * RATE)
        calm, mark = latency(producer.sent), len(producer.sent)
        pids = {name: both[name].pid for name in "ab"}
        before = {name: measure(pids[name]) for name in "ab"}
        active, epoch = both.active(), both.row(both.active())["epoch"]
        yield both
        besieged = latency(producer.sent[mark:])
        producer.wait_confirmed(RATE)
        run.note("p99 of the honest client, calm", calm)
        run.note("p99 under siege", besieged)
        run.expect(besieged < max(SLOWER * calm, FLOOR_S), f"the honest client's p99 went from {calm} to {besieged} s")
        run.expect({name: both[name].pid for name in "ab" if both[name].running} == pids, "a server ended")
        both.wait_in_sync()
        run.expect((both.active(), both.row(active).get("epoch")) == (active, epoch), "the roles changed")
        end = time.monotonic() + 10
        while time.monotonic() < end and any(
            measure(pids[name]).descriptors > before[name].descriptors + descriptors for name in "ab"
        ):
            time.sleep(0.2)
        for name in "ab":
            after, was = measure(pids[name]), before[name]
            grown = after.rss_mib - was.rss_mib
            run.note(f"MiB more in {name}", round(grown, 1))
            run.expect(grown < growth_mib, f"{name} grew by {grown:.0f} MiB")
            more = after.descriptors - was.descriptors
            run.note(f"descriptors more in {name}", more)
            run.expect(more <= descriptors, f"{name} holds {more} descriptors more than before")
        told_sparingly(run, both)
        run.judge(settle([producer], [reader]))
        both.assert_equal_stores()


def told_sparingly(run: Run, both: Pair) -> None:
    """Of each kind of refusal one line a second: n lines take n - 1 seconds. A turn's clock is read at its beginning, its line is
    written at its end, so two lines may be nearer to each other by the length of a turn."""
    for server in both.servers.values():
        run.expect("Traceback" not in server.log_text(), f"{server.name}: {server.log_text()[-500:]}")
        for event in ("input.refused", "key.refused"):
            moments = [datetime.fromisoformat(line.split()[0]) for line in server.events(event)]
            span_s = (moments[-1] - moments[0]).total_seconds() if moments else 0.0
            run.expect(span_s > len(moments) - 1 - TURN_S, f"{server.name} wrote {len(moments)} lines {event} in {span_s:.1f} s")


def _many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
