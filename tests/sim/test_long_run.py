"""The command: its table, its exit code, what it says about a broken promise."""

from pathlib import Path

import pytest

from tests.sim import __main__ as command
from tests.sim.cluster import Failed
from tests.sim.faults import KINDS, SETS, Faults, set_of


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["tests.sim", *arguments])
    return command.main()


def test_a_run_without_a_violation_ends_with_0_and_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--runs", "2", "--seed", "3") == 0
    out = capsys.readouterr().out
    assert "all " in out and "total " in out and "faults: " in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("total")] == ["0"]


def test_a_broken_promise_ends_with_1_and_names_seed_and_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(seed: int, **_: object) -> None:
        raise Failed(f"seed {seed} at 7 ms: Violation: planted\nthe trace")

    monkeypatch.setattr(command, "run_seed", fail)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert call(monkeypatch, "--runs", "1", "--seed", "4711", "--kinds", "disks") == 1
    assert "VIOLATION kinds=disks seed 4711" in capsys.readouterr().out
    assert "the trace" in (tmp_path / "zmqha-sim-disks-4711.txt").read_text()


def test_every_kind_of_fault_can_be_injected_and_every_set_has_its_turn() -> None:
    assert all(callable(getattr(Faults, f"_{kind}")) for kinds in SETS.values() for kind in kinds)
    assert {kind for kinds in SETS.values() for kind in kinds} == set(KINDS)
    assert {set_of(seed) for seed in range(2 * len(SETS))} == set(SETS)
