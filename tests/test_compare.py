"""bench/compare: it runs with zmqha alone, skips who is not there, and shows what it has found, also what failed."""

import importlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"
CELLS = {"memory", "lone", "publish", "producers", "drain", "end_to_end", "latency", "failover"}


def run(*words: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(BENCH.parent), str(BENCH)))}
    if path is not None:
        environment["PATH"] = path
    command = [sys.executable, "-m", "compare", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)


@pytest.mark.slow
def test_it_runs_with_zmqha_alone_and_writes_json_table_and_picture(tmp_path: Path) -> None:
    done = run("--tiny", "--only", "zmqha", "--output", tmp_path, "--directory", tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "compare.json").read_text())
    (zmqha,) = found["contestants"]
    assert set(zmqha["cells"]) == CELLS
    assert zmqha["failures"] == []
    assert zmqha["disk_us"]["paced append"]["median"] > 0
    assert zmqha["cells"]["failover"]["lost"]["values"] == [0]
    assert "| zmqha |" in (tmp_path / "compare.md").read_text()
    assert ElementTree.parse(tmp_path / "compare.svg").getroot().tag.endswith("svg")


def test_who_is_not_there_is_skipped_with_a_reason(tmp_path: Path) -> None:
    done = run("--tiny", "--only", "nats", "--output", tmp_path, path=str(tmp_path))

    assert done.returncode == 1
    assert "nats: skipped: " in done.stderr
    assert "nats" in json.loads((tmp_path / "compare.json").read_text())["skipped"]


def test_it_says_what_it_compares() -> None:
    done = run("--help")

    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("--only", "--rounds", "redis", "rabbitmq"))


def figure(*values: float) -> dict[str, Any]:
    low, high = min(values), max(values)
    middle = sorted(values)[len(values) // 2]
    return {"median": middle, "q1": low, "q3": high, "least": low, "most": high, "count": len(values), "values": list(values)}


def contestant(name: str, factor: float, failures: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "name": name, "versions": {name: "1.0"}, "promise": f"{name}'s word", "acknowledged": "all of it", "settings": "defaults",
        "client": "the best", "disk_us": {"paced append": figure(200, 210, 220)}, "failures": list(failures),
        "cells": {
            "lone": {"p50_ms": figure(1.25 * factor, 1.5 * factor, 2 * factor), "p99_ms": figure(3.0 * factor)},
            "failover": {"gap_ms": figure(80, 90 * factor), "confirmed": figure(3000, 3100), "lost": figure(0, 0),
                         "duplicated": figure(1, 3)},
        },
    }  # fmt: skip


def document(*contestants: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "begun": "2026-11-25T12:00:00Z", "seconds": 600.0, "load": {"start": 0.1, "end": 2.0}, "skipped": {},
        "machine": {"cores": 2, "processor": "<any & all>", "kernel": "6", "python": "3.11"},
        "arguments": {"rounds": 3, "tiny": False, "work": 1.0}, "contestants": list(contestants), **others,
    }  # fmt: skip


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"compare.{name}")

    return load


def test_a_row_has_the_figures_and_what_an_acknowledgement_means(part: Any) -> None:
    text = part("table").markdown(document(contestant("zmqha", 1), contestant("other", 10)))

    assert "| zmqha | 1.5 (1.25..2) | 3 | zmqha's word |" in text
    assert "| zmqha | 90 (80..90) | 90 | 6,100 | 0 | 4 | zmqha's word |" in text
    assert text.count("| other |") == 2
    assert "Pipelined publish" not in text, "nobody has a figure there"


def test_what_failed_or_was_skipped_is_said(part: Any) -> None:
    failed = contestant("other", 1, ("round 2 of 3: other, lone: EOFError: gone",))
    failed["cells"].pop("failover")
    failed["failures"].append("round 1 of 3: other, failover: CannotCompare: nobody leads")

    text = part("table").markdown(document(failed, skipped={"nats": "not there"}))

    assert "| other | 1.5 (1.25..2) † | 3 † |" in text
    assert "| other | failed | failed | failed | failed | failed |" in text
    assert "- skipped: nats: not there" in text
    assert text.count("- FAILED ") == 2


def test_the_picture_has_a_bar_for_each_figure_and_a_logarithmic_axis_where_they_are_far_apart(part: Any) -> None:
    missing = contestant("none & nothing", 1)
    missing["cells"] = {}

    root = ElementTree.fromstring(part("plot").svg(document(contestant("zmqha", 1), contestant("other", 100), missing)))

    space = "{http://www.w3.org/2000/svg}"
    bars = [float(bar.attrib["width"]) for bar in root.iter(f"{space}rect")]
    words = [text.text or "" for text in root.iter(f"{space}text")]
    assert len(bars) == 4
    assert bars[0] < bars[1]
    assert "ms, less is better, logarithmic" in words
    assert words.count("no figure") == 2
    assert "none & nothing" in words
