"""The fault matrix: every fault that the pair must survive, by its id, run by one command and judged in one table.

    python -m tests.system.matrix [CASE ...] [--quick | --full] [--json FILE]

A case is a function in a module ``tests/system/cases_*.py``, declared with ``@case(id, sentence, ...)``. It is handed a ``Run``,
makes its own pair, does its fault in ``run.rounds()``, hands the verdict on the history to ``run.judge`` and its gaps to
``run.gaps``. What it asserts and does not find makes it fail; ``pytest.skip`` says why it cannot run here. The command runs cases one
after the other and exits with 1 if any failed; ``test_matrix.py`` runs the quick selection under pytest.
"""

import argparse
import json
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.system.history import Verdict

DUPLICATES = ("stored-twice", "again-after-ack", "unflagged")
LETTERS = "PNDTCKRSB"  # the order of the table
REASON_CHARS = 300


class Limit(NamedTuple):
    """How long producers may go without a confirm around a fault, in seconds; None: not judged."""

    median_s: float | None = None
    p99_s: float | None = None

    def __str__(self) -> str:
        parts = ((self.median_s, "p50"), (self.p99_s, "p99"))
        return ", ".join(f"{name} < {value:g} s" for value, name in parts if value is not None)


class Case(NamedTuple):
    """One fault, declared."""

    id: str
    sentence: str
    work: Callable[["Run"], None]
    quick: int  # rounds of the quick run
    full: int  # rounds of the full run
    limit: Limit
    mark: str  # of pytest: "lab" for what needs root and namespaces, else "slow"
    timeout_s: int  # of the quick run


CASES: dict[str, Case] = {}


def case(
    id: str,
    sentence: str,
    *,
    quick: int = 1,
    full: int = 1,
    median_s: float | None = None,
    p99_s: float | None = None,
    mark: str = "slow",
    timeout_s: int = 180,
) -> Callable[[Callable[["Run"], None]], Callable[["Run"], None]]:
    """Declare the function below as a case."""

    def declare(work: Callable[["Run"], None]) -> Callable[["Run"], None]:
        assert id not in CASES, f"two cases are called {id}"
        CASES[id] = Case(id, sentence, work, quick, full, Limit(median_s, p99_s), mark, timeout_s)
        return work

    return declare


class Verb(StrEnum):
    """What became of a case."""

    PASS = "pass"
    FAIL = "fail"
    SKIPPED = "skipped"


class Outcome(NamedTuple):
    """One row of the table."""

    id: str
    sentence: str
    verdict: Verb
    reason: str  # of a failure or a skip
    runs: int
    confirmed: int
    lost: int
    duplicates: int
    gap_median_s: float | None
    gap_p99_s: float | None
    limit: str
    seconds: float
    seed: int
    notes: dict[str, Any]


@dataclass
class Run:
    """One run of one case: how often, with which chance, and what was found."""

    case: Case
    full: bool
    seed: int
    runs: int = 0
    confirmed: int = 0
    errors: dict[str, int] = field(default_factory=dict)  # by the names of ``history``
    gaps: list[float] = field(default_factory=list)  # seconds without a confirm, one or more for each fault
    failures: list[str] = field(default_factory=list)
    stalls: list[str] = field(default_factory=list)  # times at which this machine itself stopped a process for too long
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @property
    def count(self) -> int:
        """How many rounds are asked for."""
        return self.case.full if self.full else self.case.quick

    def pick(self, quick: Any, full: Any) -> Any:
        """One of two values, for the quick or the full run."""
        return full if self.full else quick

    def rounds(self) -> Iterator[int]:
        """Number the rounds, and tell people where we are."""
        for number in range(self.count):
            self.say(f"round {number + 1} of {self.count}")
            yield number
            self.runs += 1

    def say(self, words: str) -> None:
        """Progress, for people."""
        print(f"{self.case.id}: {words}", file=sys.stderr, flush=True)

    def note(self, what: str, value: Any) -> None:
        """A figure that belongs to the result; repeated ones become a list."""
        value = round(value, 3) if isinstance(value, float) else value
        self.say(f"{what}: {value}")
        if what not in self.notes:
            self.notes[what] = value
        elif isinstance(self.notes[what], list):
            self.notes[what].append(value)
        else:
            self.notes[what] = [self.notes[what], value]

    def expect(self, holds: bool, what: str) -> None:
        """What does not hold fails the case, which goes on all the same."""
        if not holds:
            self.say(f"FAILED: {what}")
            self.failures.append(what)

    def judge(self, verdict: Verdict) -> None:
        """Take the verdict on a history; one that is not valid fails the case."""
        self.say(verdict.explain().replace("\n", " | "))
        self.confirmed += verdict.counts["sent ok"]
        for kind, found in verdict.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + len(found)
            self.failures.append(f"{kind}: {len(found)}, first {found[0]}")

    def stalled(self, lines: list[str]) -> None:
        """Log lines of own gaps (``ha.gap``): a slow answer in such a run says nothing about the pair."""
        self.stalls += lines

    def finish(self, seconds: float, skipped: str = "") -> Outcome:
        """The row of the table."""
        middle, worst = quantile(self.gaps, 0.5), quantile(self.gaps, 0.99)
        limits = self.case.limit
        for value, bound, name in ((middle, limits.median_s, "median"), (worst, limits.p99_s, "p99")):
            if value is not None and bound is not None and value >= bound:
                if self.stalls:  # a busy machine is not what is judged here, but it is told
                    self.notes[f"gap {name} not judged"] = f"{len(self.stalls)} own gaps of this machine: {self.stalls[0]}"
                else:
                    self.failures.append(f"gap {name} {value:.3f} s, limit {bound:g} s")
        verdict = Verb.SKIPPED if skipped else Verb.FAIL if self.failures else Verb.PASS
        return Outcome(
            self.case.id, self.case.sentence, verdict, skipped or "; ".join(self.failures)[:REASON_CHARS], self.runs, self.confirmed,
            self.errors.get("lost", 0), sum(self.errors.get(kind, 0) for kind in DUPLICATES), middle, worst, str(limits),
            round(seconds, 1), self.seed, self.notes,
        )  # fmt: skip


def quantile(values: list[float], share: float) -> float | None:
    """The smallest value that is not below this share of them; None of none."""
    if not values:
        return None
    return round(sorted(values)[min(len(values) - 1, int(len(values) * share))], 3)


def execute(one: Case, *, full: bool, seed: int = 0) -> Outcome:
    """Run a case to its end, whatever happens in it."""
    run = Run(one, full, seed or random.SystemRandom().randrange(1, 1 << 32))
    run.say(f"{one.sentence} (seed {run.seed})")
    began, skipped = time.monotonic(), ""
    try:
        one.work(run)
    except pytest.skip.Exception as reason:
        skipped = str(reason)
    except Exception as error:  # a case is a top: whatever it raised, the others still run
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        run.failures.append(f"{type(error).__name__}: {lines[0]}")
    return run.finish(time.monotonic() - began, skipped)


def known() -> list[Case]:
    """All cases, in the order of the table."""
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        import_module(f"tests.system.{path.stem}")
    return sorted(CASES.values(), key=_order)


def _order(one: Case) -> tuple[int, int, str]:
    letter, number = one.id[0], re.sub(r"\D", "", one.id)
    return LETTERS.index(letter), int(number or 0), one.id


COLUMNS = ("case", "what", "runs", "confirmed", "lost", "dup", "gap p50", "gap p99", "limit", "verdict")


def table(outcomes: list[Outcome]) -> str:
    """For people; reasons stand below it."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for one in outcomes:
        gaps = ("" if gap is None else f"{gap:.3f} s" for gap in (one.gap_median_s, one.gap_p99_s))
        counts = map(str, (one.runs, one.confirmed, one.lost, one.duplicates))
        rows.append((one.id, one.sentence, *counts, *gaps, one.limit, one.verdict))
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [f"{one.id} {one.verdict}: {one.reason} (seed {one.seed})" for one in outcomes if one.reason]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.matrix", description="Runs the fault matrix on this machine.")
    parser.add_argument("case", nargs="*", help="ids such as P1 N8; none: all")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="few rounds (the default)")
    how.add_argument("--full", action="store_true", help="as many rounds as it takes")
    parser.add_argument("--seed", type=int, default=0, help="of every chance in the cases; 0: drawn anew")
    parser.add_argument("--json", type=Path, help="also write the table, with all figures, to this file")
    parser.add_argument("--list", action="store_true", help="only say which cases there are")
    given = parser.parse_args(arguments)
    cases = known()
    if unknown := set(given.case) - {one.id for one in cases}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {' '.join(one.id for one in cases)}")
    cases = [one for one in cases if not given.case or one.id in given.case]
    if given.list:
        print("\n".join(f"{one.id:4} {one.quick:4} {one.full:4}  {one.sentence}" for one in cases))
        return 0
    outcomes: list[Outcome] = []
    for one in cases:
        outcomes.append(execute(one, full=given.full, seed=given.seed))
        print(f"{one.id}: {outcomes[-1].verdict} after {outcomes[-1].seconds} s", file=sys.stderr, flush=True)
        if given.json:
            given.json.write_text(json.dumps([outcome._asdict() for outcome in outcomes], indent=1) + "\n")
    print(table(outcomes))
    return int(any(one.verdict is Verb.FAIL for one in outcomes))


if __name__ == "__main__":
    from tests.system import matrix  # the cases import that name: there must be one registry, not two

    sys.exit(matrix.main())
