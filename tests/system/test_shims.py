"""The shims for disk and clock themselves: they do what their rules say, below their directory, and nothing elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.system import disk_faults
from tests.system.cases_time import Clock
from tests.system.disk_faults import DiskFaults, Hit, Rule

pytestmark = pytest.mark.skipif(bool(disk_faults.missing()), reason=disk_faults.missing())

PROGRAM = """
import errno, json, os, sys
def tried(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
inside, outside = (os.open(path, os.O_RDWR | os.O_CREAT) for path in sys.argv[1:3])
found = []
for fd in (inside, outside):
    found.append([tried(os.fdatasync, fd) for _ in range(3)])
    found.append([tried(os.pwritev, fd, [b"x" * 1000, b"y" * 1000], 0) for _ in range(3)])
    found.append(tried(os.ftruncate, fd, 10))
print(json.dumps(found))
"""


def faults(place: Path) -> DiskFaults:
    (place / "a" / "data").mkdir(parents=True)
    return DiskFaults(SimpleNamespace(pair=SimpleNamespace(directory=place), name="a", data=place / "a" / "data"))  # type: ignore[arg-type]


def run(environment: dict[str, str], program: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", program, *arguments]
    return json.loads(subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=True).stdout)


def test_the_nth_call_below_the_directory_fails_and_no_other(tmp_path: Path) -> None:
    made = faults(tmp_path)
    inside = str((tmp_path / "a" / "data" / "file").resolve())
    made.set(Rule("sync", "eio", 2, 2), Rule("write", "enospc", 3, 3), Rule("size", "eio"))
    found = run(made.environment, PROGRAM, inside, str(tmp_path / "elsewhere"))
    assert found == [[None, "EIO", None], [2000, 2000, "ENOSPC"], "EIO", [None] * 3, [2000] * 3, None]
    assert made.hits == [Hit("sync", "eio", 2, inside), Hit("write", "enospc", 3, inside), Hit("size", "eio", 1, inside)]
    made.clear()
    assert run(made.environment, PROGRAM, inside, inside)[0] == [None] * 3 and made.hits == []


def test_half_a_write_and_a_lie(tmp_path: Path) -> None:
    made = faults(tmp_path)
    file = tmp_path / "a" / "data" / "file"
    made.set(Rule("write", "short", 1, 1), Rule("write", "torn", 3, 3), Rule("size", "lie"))
    found = run(made.environment, PROGRAM, str(file), str(tmp_path / "elsewhere"))
    assert found[1] == [512, 2000, "EIO"] and found[2] is None
    assert file.stat().st_size == 2000  # it was not made shorter, whatever was said


def test_clocks_go_wrong_and_only_those_that_are_read(tmp_path: Path) -> None:
    clock = Clock(SimpleNamespace(directory=tmp_path), "a", rate=2.0)  # type: ignore[arg-type]
    clock.ahead(7200)
    program = """
import json, time
def read(): return [time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()]
before = read(); time.sleep(0.2); after = read()
print(json.dumps([b - a for a, b in zip(before, after)] + [before[0]]))
"""
    wall, boot, monotonic, at = run(clock.environment, program)
    assert boot == pytest.approx(2 * monotonic, rel=0.1) and wall == pytest.approx(monotonic, rel=0.1)
    plain = run({}, program)
    assert 7100 < at - plain[3] < 7300
