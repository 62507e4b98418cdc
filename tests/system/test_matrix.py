"""A short selection of the fault matrix (``ZMQHA_FULL=1``: all of it, in full), and the matrix itself."""

import json
import os
from pathlib import Path

import pytest

from tests.system import matrix
from tests.system.history import Verdict
from tests.system.matrix import Case, Limit, Run, Verb, execute, known, table
from tests.system.measure import FULL

FULL_FACTOR = 20
# What every change runs through, about four minutes: a case or two of each kind that no other test has (images
# after a power cut: tests/store). Everything: the command.
SHORT = {"P1", "N5", "N8", "N15", "K1", "R1"}


def parameters() -> list[object]:
    """Each case with its mark and its time."""
    marks = {"lab": pytest.mark.lab, "slow": pytest.mark.slow}
    return [
        pytest.param(one, id=one.id, marks=[marks[one.mark], pytest.mark.timeout(one.timeout_s * (FULL_FACTOR if FULL else 1))])
        for one in known()
        if FULL or one.id in SHORT
    ]


@pytest.mark.parametrize("one", parameters())
def test_case(one: Case) -> None:
    outcome = execute(one, full=FULL, seed=int(os.environ.get("ZMQHA_SEED", "0")))
    print(table([outcome]))
    print(outcome.notes)
    if outcome.verdict is Verb.SKIPPED:
        pytest.skip(outcome.reason)
    assert outcome.verdict is Verb.PASS, outcome


def made(work: object, limit: Limit = Limit(), rounds: int = 1) -> Case:  # noqa: B008
    return Case("P99", "a made-up case", work, rounds, rounds, limit, "slow", 10)  # type: ignore[arg-type]


def test_a_case_fails_by_what_its_history_proves() -> None:
    def loses(run: Run) -> None:
        for _ in run.rounds():
            verdict = Verdict()
            verdict.counts["sent ok"] = 7
            verdict.errors["lost"] += ["x", "y"]
            run.judge(verdict)

    outcome = execute(made(loses, rounds=2), full=False)
    assert (outcome.verdict, outcome.runs, outcome.confirmed, outcome.lost) == (Verb.FAIL, 2, 14, 4)
    assert "lost: 2, first x" in outcome.reason and "P99 fail: lost: 2" in table([outcome])


def test_kinds_of_errors_that_a_case_only_counts_do_not_fail_it() -> None:
    def merges(run: Run) -> None:
        verdict = Verdict()
        verdict.errors["order"] += ["x"]
        run.judge(verdict, ("order",))
        verdict.errors["lost"] += ["y"]
        run.judge(verdict, ("order",))

    outcome = execute(made(merges), full=False)
    assert (outcome.verdict, outcome.lost, outcome.reason) == (Verb.FAIL, 1, "lost: 1, first y")
    assert outcome.notes["order"] == [1, 1]


def test_a_case_fails_by_a_gap_unless_the_machine_itself_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))

    def slow(run: Run) -> None:
        run.gaps += [0.1, 2.0]

    def stalled(run: Run) -> None:
        slow(run)
        run.stalled(["ha.gap"])

    assert execute(made(slow, Limit(p99_s=1.0)), full=False).verdict is Verb.FAIL
    assert execute(made(slow, Limit(p99_s=3.0)), full=False).verdict is Verb.PASS
    outcome = execute(made(stalled, Limit(p99_s=1.0)), full=False)
    assert outcome.verdict is Verb.PASS and "ha.gap" in outcome.notes["not judged"]
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    assert execute(made(slow, Limit(p99_s=1.0)), full=False).verdict is Verb.PASS


def test_whatever_a_case_raises_is_its_verdict() -> None:
    def breaks(run: Run) -> None:
        raise KeyError("mistake")

    def skips(run: Run) -> None:
        pytest.skip("no such thing here")

    assert execute(made(breaks), full=False).reason == "KeyError: 'mistake'"
    outcome = execute(made(skips), full=False)
    assert (outcome.verdict, outcome.reason) == (Verb.SKIPPED, "no such thing here")


def test_the_command_exits_with_1_when_a_case_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = made(lambda run: None)._replace(id="P98")
    bad = made(lambda run: run.expect(False, "never holds"))
    monkeypatch.setattr(matrix, "known", lambda: [good, bad])
    report = tmp_path / "report.json"
    assert matrix.main(["P98"]) == 0
    assert matrix.main(["--json", str(report)]) == 1
    assert [row["verdict"] for row in json.loads(report.read_text())] == ["pass", "fail"]
    with pytest.raises(SystemExit):
        matrix.main(["P97"])
