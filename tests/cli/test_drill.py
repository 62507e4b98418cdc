"""The drill: its matrix and options from made-up runs, then real ones that leave nothing behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_pair import Run

from tests.cli.left_behind import left_behind
from zmqha.cli.demo.ledger import Confirmed, Delivered, Ledger
from zmqha.cli.drill import matrix, runs
from zmqha.cli.drill.cases import CASES, Case
from zmqha.cli.drill.runs import Outcome, Runs
from zmqha.cli.drill.scene import Scene

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-P", "-c", "from zmqha.cli import main; main()", "drill"]


def made_up(**of_case: dict[str, Any]) -> Any:
    """``Runs.run`` without a pair: what each case's run comes to."""

    def run(self: Runs, case: Case, number: int) -> Outcome:
        base = Outcome(case.name, number, 1000, 0, 0, 0.2 * number, 5.0, ())
        return base._replace(**of_case.get(case.name.replace("-", "_"), {}))

    return run


def test_the_quick_cases_are_the_default_and_all_means_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "run", made_up())

    quick = json.loads(run("drill", "-f", "json").out)
    every = json.loads(run("drill", "--cases", "all", "-f", "json").out)

    assert [case["case"] for case in every["cases"]] == list(CASES)
    assert [case["case"] for case in quick["cases"]] == [name for name, case in CASES.items() if case.quick]
    assert quick["ok"] and all(case["ok"] for case in quick["cases"])


def test_the_matrix_looks_as_documented(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "run", made_up())

    outcome = run("drill", "--cases", "switchover,kill-active", "--repeat", "3", "--seed", "7")

    assert outcome.out == (
        "+ Drill, seed 7 -------------------------+------+-----------+------+-------+------------+---------+---------+\n"
        "| Case        | What                     | Runs | Confirmed | Lost | Twice | Gap median | Gap p99 | Verdict |\n"
        "+-------------+--------------------------+------+-----------+------+-------+------------+---------+---------+\n"
        "| switchover  | an operator's switchover |    3 |      3000 |    0 |     0 |     400 ms |  600 ms | ok      |\n"
        "| kill-active | kill -9 the active       |    3 |      3000 |    0 |     0 |     400 ms |  600 ms | ok      |\n"
        "+-------------+--------------------------+------+-----------+------+-------+------------+---------+---------+\n"
    )
    assert outcome.code == 0 and "\x1b" not in outcome.out


@pytest.mark.parametrize("broken", [{"lost": 1, "faults": ("1 acknowledged but never received",)}, {"faults": ("too long",)}])
def test_a_broken_promise_fails_the_drill_and_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]) -> None:
    monkeypatch.setattr(Runs, "run", made_up(kill_both=broken))

    outcome = run("drill", "--cases", "kill-both,switchover")

    assert outcome.code == 1
    assert [line[:5] for line in outcome.err.splitlines()] == ["error", "why: ", "fix: "]
    assert f"kill-both: {broken['faults'][0]}" in outcome.err and "--cases kill-both" in outcome.err
    assert [line.split("|")[-2].strip() for line in outcome.out.splitlines()[3:-1]] == ["FAIL", "ok"]


def test_a_gap_over_the_limit_is_a_fault_and_a_lost_message_another() -> None:
    class Pair:
        def active(self) -> str:
            return "A"

        def other(self, name: str) -> str:
            return "B"

    class Load:
        ledger = Ledger(1)

    scene = Scene(Pair(), Load(), random.Random(1))  # type: ignore[arg-type]
    scene.zero = 100.0
    Load.ledger.sent = [3]
    for number, moment in enumerate((99.0, 100.5, 109.0)):
        Load.ledger.confirmed.append(Confirmed(moment, (0, number), True))
    Load.ledger.delivered += [Delivered(101.0, (0, 0), 0, False, True), Delivered(101.0, (0, 1), 1, False, True),
                              Delivered(102.0, (0, 1), 5, True, True)]  # fmt: skip

    outcome = runs._count(CASES["kill-active"], 1, scene, time.monotonic())

    assert (outcome.confirmed, outcome.lost, outcome.twice, outcome.gap_s) == (3, 1, 1, 8.5)
    assert [fault.split(" ", 1)[1] for fault in outcome.faults] == [
        "acknowledged but never received", "stored twice", "confirm for 8.5 s, the limit is 5 s"
    ]  # fmt: skip


@pytest.mark.parametrize(("part", "value"), [(0.5, 5), (0.99, 10), (1.0, 10), (0.0, 1)])
def test_shares_are_taken_from_the_values(part: float, value: float) -> None:
    assert matrix.share(list(range(1, 11)), part) == value


def test_an_unknown_case_is_named_with_those_that_exist(run: Run) -> None:
    outcome = run("drill", "--cases", "kill-active,flood")

    assert outcome.code == 2
    assert "no case flood" in outcome.err and "kill-active" in outcome.err and len(outcome.err.splitlines()) == 3
    assert run("drill", "--cases", " , ").code == 2


def test_the_list_runs_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "Runs", None)

    listed = json.loads(run("drill", "--list", "-f", "json").out)

    assert [case["case"] for case in listed] == list(CASES)
    assert all(case["gap_limit_s"] > 0 for case in listed)
    assert "kill -9 the passive" in run("drill", "--list").out


# --- with a real pair -------------------------------------------------------------------------------------------------------


def start(place: Path, *arguments: str) -> "subprocess.Popen[str]":
    (place / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place / "tmp")}
    return subprocess.Popen(
        [*PROGRAM, *arguments], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_real_kill_is_counted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    drill = start(tmp_path, "--cases", "kill-active", "--rate", "200", "-f", "json", "--seed", "7")
    out, err = drill.communicate(timeout=100)

    assert drill.returncode == 0, out + err
    document = json.loads(out)
    (case,) = document["cases"]
    assert case["confirmed"] > 100 and (case["lost"], case["twice"]) == (0, 0) and document["seed"] == 7
    assert 0 < case["gap_median_ms"] <= case["gap_limit_ms"]
    assert err.startswith("kill-active 1: ok, gap ")
    assert left_behind(tmp_path) == []


def test_an_interrupted_drill_tidies_up_even_a_frozen_server(tmp_path: Path) -> None:
    drill = start(tmp_path, "--cases", "freeze-active", "--rate", "200")
    time.sleep(6)  # about when it is frozen; any other moment must do as well
    drill.send_signal(signal.SIGINT)
    out, err = drill.communicate(timeout=30)

    assert drill.returncode == 130, out + err
    assert left_behind(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_case_keeps_every_promise(tmp_path: Path) -> None:
    drill = start(tmp_path, "--cases", "all", "-f", "json")
    out, err = drill.communicate(timeout=380)

    assert drill.returncode == 0, out + err
    document = json.loads(out)
    assert [case["case"] for case in document["cases"]] == list(CASES)
    assert left_behind(tmp_path) == []
