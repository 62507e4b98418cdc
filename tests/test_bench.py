"""Every bench works: each runs in its tiny mode and writes what ``bench/trees.py`` and people read.

That of ``bench/compare`` is in ``test_compare.py``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CASES = {
    "publish": {"p50_us", "p99_us", "msg/s", "cpu_active_us"},
    "drain": {"msg/s", "cpu_consumer_us"},
    "end_to_end": {"msg/s", "p50_us", "max_us"},
    "commit": {"commit_us", "ship_us", "flush_us"},
    "failover": {"gap_ms", "claim_ms", "rejoin_ms"},
    "rejoin": {"rejoin_ms", "sent_MB", "p99_ratio"},
    "scale": {"private_MB", "standalone_ms", "confirm_ms", "interpreter_ms", "publish msg/s", "drain_ratio"},
    "floor": {"p50_us", "p99_us"},
    "churn": {"publish msg/s", "drain msg/s", "file_MB", "active_MB"},
    "reconnect": {"served_ms", "clients_cpu_s", "not_served"},
}
LONG = {"floor", "drain", "end_to_end", "failover", "scale", "churn", "reconnect"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES])
def test_a_bench_runs_and_writes_medians_with_machine_and_disk(name: str, tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "bench" / f"{name}.py"), "--tiny", "--json", str(target), "--directory", str(tmp_path)]

    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(target.read_text())
    assert found["bench"] == name
    assert found["machine"]["cores"] >= 1
    assert found["disk_us"]["overwrite"]["median"] > 0
    measured = [spread for row in found["rows"] for spread in row["metrics"].values()]
    assert all(spread["least"] <= spread["median"] <= spread["most"] for spread in measured)
    assert CASES[name] <= {metric for row in found["rows"] for metric in row["metrics"]}


@pytest.mark.parametrize("name", [*CASES, "trees"])
def test_a_bench_says_what_it_measures(name: str) -> None:
    command = [sys.executable, str(ROOT / "bench" / f"{name}.py"), "--help"]

    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout and len(done.stdout.splitlines()) > 5
