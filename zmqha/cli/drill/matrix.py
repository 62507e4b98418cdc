"""The matrix of the drill: all runs of a case in one line. Pure."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from zmqha.cli.drill.cases import Case
from zmqha.cli.drill.runs import Outcome
from zmqha.cli.status import milliseconds
from zmqha.cli.table import Column

COLUMNS = (
    Column("Case"), Column("What"), Column("Runs", right=True), Column("Confirmed", right=True), Column("Lost", right=True),
    Column("Twice", right=True), Column("Gap median", right=True), Column("Gap p99", right=True), Column("Verdict"),
)  # fmt: skip


class Line(NamedTuple):
    """One case."""

    case: str
    what: str
    runs: int
    confirmed: int
    lost: int
    twice: int
    gap_median_ms: float
    gap_p99_ms: float
    gap_limit_ms: float
    ok: bool

    def cells(self) -> tuple[object, ...]:
        """For the table."""
        return (
            self.case, self.what, self.runs, self.confirmed, self.lost, self.twice, milliseconds(self.gap_median_ms),
            milliseconds(self.gap_p99_ms), "ok" if self.ok else "FAIL",
        )  # fmt: skip


def lines_of(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> list[Line]:
    """In the order of the cases; a case named twice is one line."""
    lines = []
    for case in dict.fromkeys(cases):
        runs = [outcome for outcome in outcomes if outcome.case == case.name]
        gaps = sorted(outcome.gap_s * 1000 for outcome in runs)
        line = Line(
            case=case.name,
            what=case.what,
            runs=len(runs),
            confirmed=sum(run.confirmed for run in runs),
            lost=sum(run.lost for run in runs),
            twice=sum(run.twice for run in runs),
            gap_median_ms=round(share(gaps, 0.5), 1),
            gap_p99_ms=round(share(gaps, 0.99), 1),
            gap_limit_ms=case.gap_limit_s * 1000,
            ok=not any(run.faults for run in runs),
        )
        lines.append(line)
    return lines


def share(ordered: Sequence[float], part: float) -> float:
    """The smallest value that so large a part does not exceed; of few values the p99 is the greatest."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0


def document(seed: int, rate: int, outcomes: Sequence[Outcome], lines: Sequence[Line]) -> dict[str, Any]:
    """For programs."""
    return {
        "seed": seed,
        "rate": rate,
        "ok": all(line.ok for line in lines),
        "cases": [line._asdict() for line in lines],
        "runs": [outcome._asdict() for outcome in outcomes],
    }
