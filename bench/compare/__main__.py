"""zmqha beside redis, NATS JetStream and RabbitMQ: the same work, on this machine, on loopback, by turns.

In every round each contestant is started anew, does all cells alone on the machine, and is stopped; the next round begins with another
one. (All at once would be nearer in time, but their heartbeats alone take some 15 % of a core.) The disk's own flush is measured before
every cell, so a contestant's share of a slow moment shows. Servers that are not installed are skipped. A cell that fails is told as
such, and the command then ends with 1. Writes compare.json, compare.md and compare.svg.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from disk import Disk
from load import workers
from report import RESULTS, circumstances, short, spread

from compare import plot, table
from compare.cells import CELLS, PRODUCERS, TINY, Cells, Figures, Scale
from compare.contestant import CannotCompare, Contestant, started

CONTESTANTS = {
    "zmqha": "zmqha_pair:ZmqhaPair",
    "redis-always": "redis_pair:RedisPair",
    "redis-everysec": "redis_pair:RedisEverysec",
    "nats": "nats_cluster:NatsCluster",
    "rabbitmq": "rabbit_cluster:RabbitCluster",
}
FAILURES = (CannotCompare, OSError, EOFError, TimeoutError, SystemExit)  # and those of the contestant's client library


def main() -> None:
    """Run it."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that every server is stopped
    begun, load = time.time(), os.getloadavg()[0]
    made: dict[str, Turns] = {}
    skipped: dict[str, str] = {}
    for key in arguments.only:
        kind = _kind(key)
        if isinstance(kind, str):
            skipped[key] = kind
            _say(f"{key}: skipped: {kind}")
        else:
            made[key] = Turns(kind, arguments)

    def document() -> dict[str, Any]:
        return {
            **circumstances("compare", arguments, begun, load),
            "contestants": [one.document() for one in made.values()],
            "skipped": skipped,
        }

    keys = list(made)
    for number in range(arguments.rounds):
        at = number % max(1, len(keys))
        for key in keys[at:] + keys[:at]:
            made[key].round(f"round {number + 1} of {arguments.rounds}: {key}")
            _write(document(), arguments)  # each time: whoever ends a long run has what there is
    print(_write(document(), arguments))
    _say(f"written to {arguments.json or arguments.output / 'compare.json'} and {arguments.output}/compare.md, compare.svg")
    if not made or any(one.failures for one in made.values()):
        sys.exit(1)


class Turns:
    """One contestant's turns, and what they gave."""

    def __init__(self, kind: type[Any], arguments: argparse.Namespace) -> None:
        self.failures: list[str] = []
        self._kind = kind
        self._arguments = arguments
        self._scale = TINY if arguments.tiny else Scale().part(arguments.work)
        self._disk = Disk(arguments.directory)
        self._found: dict[str, Figures] = {}
        self._versions: dict[str, str] = {}

    def round(self, title: str) -> None:
        """All cells; after one that failed the servers are started anew for the others."""
        waiting = list(self._arguments.cells)
        while waiting:
            with tempfile.TemporaryDirectory(
                prefix="zmqha-compare-", dir=self._disk.directory, ignore_cleanup_errors=True
            ) as place:
                try:
                    self._turn(title, waiting, Path(place))
                except (*FAILURES, *self._kind.errors) as error:
                    if isinstance(error, SystemExit) and not isinstance(error.code, str):
                        raise  # told to end; a text is what the pair says when it does not come up
                    cell = waiting.pop(0)
                    self.failures.append(f"{title}, {cell}: {type(error).__name__}: {error}")
                    _say(f"FAILED {self.failures[-1]}")

    def document(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "name": self._kind.name,
            "versions": self._versions,
            **self._kind.words._asdict(),
            "disk_us": {name: spread(values)._asdict() for name, values in self._disk.times_us.items() if values},
            "cells": {
                cell: {metric: {**spread(values)._asdict(), "values": values} for metric, values in figures.items() if values}
                for cell, figures in self._found.items()
            },
            "failures": self.failures,
        }

    def _turn(self, title: str, waiting: list[str], place: Path) -> None:
        """Takes each cell out of ``waiting`` when it is done."""
        contestant: Contestant = self._kind(place)
        with started(contestant), workers(contestant.recipe(), PRODUCERS) as load:
            self._versions = contestant.versions()
            cells = Cells(contestant, load, self._scale)
            while waiting:
                cell = waiting[0]
                self._disk.measure()
                figures = CELLS[cell](cells)
                for metric, values in figures.items():
                    self._found.setdefault(cell, {}).setdefault(metric, []).extend(values)
                words = ", ".join(f"{metric} {short(value)}" for metric, values in figures.items() for value in values)
                _say(f"{title}, {cell}: {words}")
                waiting.pop(0)


def _kind(key: str) -> type[Any] | str:
    """The contestant's class, or why it cannot take part."""
    module, _, name = CONTESTANTS[key].partition(":")
    try:
        kind: type[Any] = getattr(importlib.import_module(f"compare.{module}"), name)
    except ModuleNotFoundError as error:
        return f"{error}; bench/compare/run makes an environment in which it is (requirements/compare.txt)"
    return kind.missing() or kind


def _write(document: dict[str, Any], arguments: argparse.Namespace) -> str:
    """All three files; the table."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    target: Path = arguments.json or arguments.output / "compare.json"
    target.write_text(json.dumps(document, indent=1) + "\n")
    written = table.markdown(document)
    (arguments.output / "compare.md").write_text(written)
    (arguments.output / "compare.svg").write_text(plot.svg(document))
    return written


def _arguments() -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    made = argparse.ArgumentParser(prog="bench/compare/run", description=summary, epilog=rest)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument(
        "--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME", help=", ".join(CONTESTANTS)
    )
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), metavar="CELL", help=", ".join(CELLS))
    made.add_argument("--rounds", type=int, metavar="N", help="default 3; with --tiny 1")
    made.add_argument(
        "--directory", type=Path, metavar="DIR", help="on the disk to be measured (default: the temporary directory)"
    )
    made.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="for all three files (default bench/results)")
    made.add_argument("--json", type=Path, metavar="FILE", help="the JSON file, if not there")
    made.add_argument(
        "--work", type=float, default=1.0, metavar="SHARE", help="of the work of a round, for a first look (default 1)"
    )
    made.add_argument("--tiny", action="store_true", help="little work and no meaning: does the bench itself work?")
    arguments = made.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.tiny else 3)
    arguments.cells = [cell for cell in CELLS if cell in arguments.cells]  # their order has a reason
    return arguments


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
