"""Runs one bench on several trees by turns, and puts their medians side by side: the only fair way on a shared machine.

    bench/trees.py publish --tree ../before --tree . --rounds 5 -- --producers 1 --sizes 1024

A tree is a directory with the package ``zmqha`` in it. The bench scripts are always these here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import print_table, short, spread

HERE = Path(__file__).parent
Figures = dict[str, list[float]]  # metric -> medians, one per round


def main() -> None:
    """Run it."""
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], epilog="Options of the bench follow after --")
    made.add_argument("bench", help="publish, drain, end_to_end, commit, failover, rejoin, scale, churn, reconnect")
    made.add_argument("--tree", type=Path, action="append", required=True, metavar="DIR", help="give it once per tree")
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="default %(default)s")
    arguments, options = made.parse_known_args()
    options = [option for option in options if option != "--"]
    found: dict[str, list[Figures]] = {}
    for number in range(arguments.rounds):
        order = list(enumerate(arguments.tree))
        for at, tree in order if number % 2 == 0 else reversed(order):
            print(f"round {number + 1} of {arguments.rounds}: {tree}", file=sys.stderr, flush=True)
            for row in _run(arguments.bench, tree, options):
                label = " ".join(f"{name}={value}" for name, value in row["labels"].items())
                figures = found.setdefault(label, [{} for _ in arguments.tree])[at]
                for metric, values in row["metrics"].items():
                    figures.setdefault(metric, []).append(values["median"])
    _show(found, [str(tree) for tree in arguments.tree])


def _run(bench: str, tree: Path, options: list[str]) -> list[dict[str, Any]]:
    """One run; its rows."""
    with tempfile.TemporaryDirectory(prefix="zmqha-trees-") as place:
        target = Path(place) / "result.json"
        command = [sys.executable, str(HERE / f"{bench}.py"), "--repeat", "1", *options, "--json", str(target)]
        environment = {**os.environ, "PYTHONPATH": str(tree.absolute())}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows: list[dict[str, Any]] = json.loads(target.read_text())["rows"]
        return rows


def _show(found: dict[str, list[Figures]], trees: list[str]) -> None:
    """Medians over the rounds; the ratio is of the last tree to the first."""
    rows = []
    for label, figures in found.items():
        for metric in figures[0]:
            spreads = [spread(each[metric]) for each in figures if metric in each]
            ratio = spreads[-1].median / spreads[0].median if spreads[0].median else 1.0
            rows.append([label, metric, *map(str, spreads), short(ratio)])
    print_table(["", "median (quartiles) over the rounds", *trees, "last/first"], rows)


if __name__ == "__main__":
    main()
