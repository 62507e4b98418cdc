"""The long run: ``python -m tests.sim [--hours 100] [--processes 1] [--seed BASE] [--kinds NAME] [--runs N] [--planted NAME|all]``.

Runs one seed after the other until so many hours are simulated, then prints a table. Ends with 1 if any promise was broken; each broken
one is named with its seed and the file that holds its trace. ``--runs 1 --seed N`` runs one seed again. ``--planted all`` breaks the
production code on purpose, one rule after the other, and shows what catches it.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tests.sim.cluster import Failed
from tests.sim.faults import INSIDE, KINDS, SETS, set_of
from tests.sim.planted import PLANTED, catch
from tests.sim.seeds import Ran, run_seed

MS_PER_HOUR = 3_600_000
PROGRESS_S = 60


class Run(NamedTuple):
    """One seed and what became of it."""

    kinds: str
    seed: int
    ran: Ran | None
    failure: str = ""


def run(task: tuple[str, int]) -> Run:
    """In a process of its own, perhaps."""
    kinds, seed = task
    try:
        return Run(kinds, seed, run_seed(seed, kinds=SETS[kinds]))
    except Failed as failed:
        return Run(kinds, seed, None, str(failed))


class Total:
    """A row of the table."""

    def __init__(self) -> None:
        self.runs = self.simulated_ms = self.confirmed = self.claims = self.violations = 0
        self.counts: Counter[str] = Counter()

    def add(self, ran: Ran | None) -> None:
        """One more run."""
        self.runs += 1
        if ran is None:
            self.violations += 1
            return
        self.simulated_ms += ran.simulated_ms
        self.confirmed += ran.confirmed
        self.claims += ran.claims
        self.counts += ran.counts

    def row(self, name: str) -> str:
        """As text."""
        hours = self.simulated_ms / MS_PER_HOUR
        return (
            f"{name:<10} {self.runs:>7} {hours:>8.2f} {self.confirmed:>10} {self.claims:>8} {self.counts.total():>8} "
            f"{self.violations:>10}"
        )


HEAD = f"{'kinds':<10} {'runs':>7} {'hours':>8} {'confirmed':>10} {'claims':>8} {'faults':>8} {'violations':>10}"


def long_run(hours: float, runs: int, processes: int, seed: int, kinds: str) -> int:
    """The number of violations."""
    print(f"seed {seed}: up to {hours:g} simulated hours in {processes} process(es)", flush=True)
    rows: dict[str, Total] = {}
    total, begin, told = Total(), time.monotonic(), time.monotonic()
    tasks: Iterator[tuple[str, int]] = ((kinds or set_of(each), each) for each in islice(_from(seed), runs or None))
    with multiprocessing.Pool(processes) as pool:
        results = pool.imap_unordered(run, tasks) if runs else _bounded(pool, tasks, 4 * processes)
        for each in results:
            rows.setdefault(each.kinds, Total()).add(each.ran)
            total.add(each.ran)
            if each.failure:
                _show(each)
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                print(f"{told - begin:6.0f} s  {total.row('so far')}", flush=True)
            if not runs and total.simulated_ms >= hours * MS_PER_HOUR:
                break
        pool.terminate()
    print(HEAD)
    for name in sorted(rows):
        print(rows[name].row(name))
    print(total.row("total"))
    print("faults:", ", ".join(f"{kind} {count}" for kind, count in total.counts.most_common()))
    if never := [kind for kind in (*KINDS, *INSIDE) if not total.counts[kind]]:
        print("never happened:", ", ".join(never))
    print(f"{time.monotonic() - begin:.0f} s")
    return total.violations


def _from(seed: int) -> Iterator[int]:
    while True:
        yield seed
        seed += 1


def _bounded(pool: "multiprocessing.pool.Pool", tasks: Iterator[tuple[str, int]], ahead: int) -> Iterator[Run]:
    """The pool takes a few tasks at a time: they have no end."""
    while True:
        yield from pool.imap_unordered(run, list(islice(tasks, ahead)))


def _show(each: Run) -> None:
    path = Path(tempfile.gettempdir()) / f"zmqha-sim-{each.kinds}-{each.seed}.txt"
    path.write_text(each.failure)
    print(f"VIOLATION kinds={each.kinds} {each.failure.splitlines()[0]}\n  trace: {path}", flush=True)


def planted(names: list[str]) -> int:
    """Break the code on purpose; the number of bugs that nothing caught."""
    print(f"{'planted bug':<46} {'where':<34} {'s':>5}  caught by")
    missed = 0
    for name in names:
        begin = time.monotonic()
        caught = catch(PLANTED[name])
        missed += caught is None
        where, what = caught or ("-", "NOTHING")
        print(f"{name:<46} {where:<34} {time.monotonic() - begin:>5.1f}  {what}", flush=True)
    return missed


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=100)
    parser.add_argument("--runs", type=int, default=0, help="instead of hours")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, help="the first one; drawn anew if it is left out")
    parser.add_argument("--kinds", choices=SETS, default="", help="one set of faults instead of all in turn")
    parser.add_argument("--planted", choices=[*PLANTED, "all"], metavar="NAME", help="a planted bug, or all")
    given = parser.parse_args()
    if given.planted:
        return int(planted(list(PLANTED) if given.planted == "all" else [given.planted]) > 0)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**9)
    return int(long_run(given.hours, given.runs, given.processes, seed, given.kinds) > 0)


if __name__ == "__main__":
    sys.exit(main())
