"""What a bench says: medians and spread as a table for people, and the same as JSON for comparisons.

A row has *labels* (what was measured) and *metrics* (a ``Spread`` each, over the repetitions). Machine facts and the disk's own
flush time, measured in the same directory during the run, stand beside them: a figure without them says little.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import zmq
from disk import Disk

import zmqha

RESULTS = Path(__file__).parent / "results"
_SCALES = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


class Spread(NamedTuple):
    """Some values of one thing."""

    median: float
    q1: float
    q3: float
    least: float
    most: float
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs

    def __str__(self) -> str:
        return short(self.median) if self.count < 2 else f"{short(self.median)} ({short(self.q1)}..{short(self.q3)})"


def spread(values: Iterable[float]) -> Spread:
    """Median, quartiles and extremes; there must be a value."""
    found = sorted(values)
    quartiles = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else [found[0]] * 3
    return Spread(statistics.median(found), quartiles[0], quartiles[2], found[0], found[-1], len(found))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0..1) of them lie."""
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))]


def short(value: float) -> str:
    """Three digits and a scale."""
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / (scale if letter != 'k' else 1e3):.3g}{letter}" if letter != "k" else f"{value / 1e3:.0f}k"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Report:
    """Collects the rows of one run, shows and writes them."""

    def __init__(self, name: str, arguments: argparse.Namespace, disk: Disk) -> None:
        self._name = name
        self._arguments = arguments
        self._disk = disk
        self._rows: list[tuple[dict[str, Any], dict[str, Spread]]] = []
        self._notes: list[str] = []
        self._load = os.getloadavg()[0]
        self._begun = time.time()

    def add(self, labels: dict[str, Any], metrics: Mapping[str, Iterable[float]]) -> None:
        """One row: what it is, and the values of each metric over the repetitions (none: left out)."""
        known = {name: list(values) for name, values in metrics.items()}
        row = labels, {name: spread(values) for name, values in known.items() if values}
        self._rows.append(row)
        self._progress(row)

    def note(self, text: str) -> None:
        """A sentence below the table."""
        self._notes.append(text)

    def finish(self) -> None:
        """Print everything and write the JSON file."""
        print(f"\n{self._name}: {machine_line()}")
        print(f"disk {self._disk.line()}; load average {self._load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
        print("median (quartiles) over the repetitions\n")
        self._table()
        for note in self._notes:
            print(note)
        target: Path = self._arguments.json or RESULTS / f"{self._name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(self._document(), indent=1) + "\n")
        print(f"\nwritten to {target}")

    def _document(self) -> dict[str, Any]:
        return {
            **circumstances(self._name, self._arguments, self._begun, self._load),
            "disk_us": {name: spread(values)._asdict() for name, values in self._disk.times_us.items()},
            "rows": [
                {"labels": labels, "metrics": {n: v._asdict() for n, v in metrics.items()}} for labels, metrics in self._rows
            ],
            "notes": self._notes,
        }

    def _table(self) -> None:
        """One table per set of columns."""
        heads: dict[tuple[str, ...], list[list[str]]] = {}
        for labels, metrics in self._rows:
            cells = [*map(str, labels.values()), *map(str, metrics.values())]
            heads.setdefault((*labels, *metrics), []).append(cells)
        for head, rows in heads.items():
            print_table(head, rows)
            print()

    @staticmethod
    def _progress(row: tuple[dict[str, Any], dict[str, Spread]]) -> None:
        labels, metrics = row
        words = [*(f"{name}={value}" for name, value in labels.items()), *(f"{name} {value}" for name, value in metrics.items())]
        print("  ".join(words), file=sys.stderr, flush=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def circumstances(name: str, arguments: argparse.Namespace, begun: float, load: float) -> dict[str, Any]:
    """Of a run that began at that wall time with that load average: the head of a JSON file."""
    return {
        "bench": name,
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        "seconds": round(time.time() - begun, 1),
        "machine": machine(),
        "load": {"start": load, "end": os.getloadavg()[0]},
        "arguments": {name: value for name, value in vars(arguments).items() if name not in ("json", "directory", "output")},
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "lmdb": ".".join(map(str, lmdb.version())),
        "zmqha": zmqha.__version__,
        "tree": str(Path(zmqha.__file__).parents[1]),
    }


def machine_line() -> str:
    """The same in one line."""
    facts = machine()
    return (
        f"{facts['cores']} cores ({facts['processor']}), Linux {facts['kernel']}, Python {facts['python']}, "
        f"libzmq {facts['libzmq']}, LMDB {facts['lmdb']}"
    )


def parser(description: str, *, repeat: int) -> argparse.ArgumentParser:
    """The options that every bench has."""
    made = argparse.ArgumentParser(description=description.split("\n")[0], epilog=description.partition("\n\n")[2] or None)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--repeat", type=int, default=repeat, metavar="N", help="repetitions (default %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="where to write the result (default bench/results/NAME.json)")
    made.add_argument(
        "--directory", type=Path, metavar="DIR", help="on the disk to be measured (default: the temporary directory)"
    )
    made.add_argument("--curve", action="store_true", help="encrypted, with keys, as zmqha init sets it up (default: plain)")
    made.add_argument("--tiny", action="store_true", help="a few seconds and no meaning: does the bench itself work?")
    return made


def repeated(times: int, once: Callable[[], dict[str, float]]) -> dict[str, list[float]]:
    """Measure several times; each metric's values."""
    found: dict[str, list[float]] = {}
    for _ in range(times):
        for name, value in once().items():
            found.setdefault(name, []).append(value)
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
