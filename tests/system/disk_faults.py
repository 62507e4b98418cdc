"""A disk that fails on demand under one server of a pair: drives the preloaded ``disk_faults.c``, which gcc compiles once per run.

A test sets rules and takes them back while the server runs; the shim says which faults happened. Where gcc is missing nothing of this
runs: ``missing`` says so.
"""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.system.pair import Server

SOURCE = Path(__file__).with_name("disk_faults.c")


class Rule(NamedTuple):
    """One line of the control file, as described in ``disk_faults.c``."""

    call: str
    mode: str
    first: int = 1
    last: int = 0
    argument: int = 0


class Hit(NamedTuple):
    """A fault that happened."""

    call: str
    mode: str
    number: int
    path: str


def missing() -> str:
    """Why the shim cannot be used here; empty if it can."""
    return "" if shutil.which("gcc") else "gcc is missing, which compiles the shims for disk and clock"


@functools.cache
def library(source: Path = SOURCE) -> Path:
    """A compiled shim."""
    target = Path(_place().name) / f"{source.stem}.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(target), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return target


@functools.cache
def _place() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="zmqha-shims-")  # kept until this process ends


class DiskFaults:
    """The rules for one server's data directory."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._control = server.pair.directory / f"{server.name}.faults"
        self.clear()

    @property
    def environment(self) -> dict[str, str]:
        """For ``Server.start``."""
        return {
            "LD_PRELOAD": str(library()),
            "DISK_FAULTS": str(self._control),
            "DISK_FAULTS_BELOW": str(self._server.data.resolve()),
        }

    def set(self, *rules: Rule) -> None:
        """These rules from now on, counted anew."""
        draft = self._control.with_suffix(".draft")
        draft.write_text("".join(" ".join(map(str, rule)) + "\n" for rule in rules))
        draft.replace(self._control)

    def clear(self) -> None:
        """The disk works again; what happened is forgotten."""
        self.set()
        self._hits.unlink(missing_ok=True)

    @property
    def hits(self) -> list[Hit]:
        """What happened since ``clear``."""
        if not self._hits.exists():
            return []
        fields = [line.split(" ", 3) for line in self._hits.read_text().splitlines()]
        return [Hit(call, mode, int(number), path) for call, mode, number, path in fields]

    @property
    def _hits(self) -> Path:
        return self._control.with_name(self._control.name + ".hits")
