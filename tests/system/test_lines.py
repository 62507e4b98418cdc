"""A text file through ``zmqha send --lines`` and ``zmqha recv --lines`` while servers are killed: the output is the input."""

import filecmp
import os
import random
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.measure import count
from tests.system.pair import ROOT, Pair, pair

COMMAND = [sys.executable, "-c", "from zmqha.cli import main; main()"]


def start(both: Pair, *arguments: str, **pipes: object) -> "subprocess.Popen[bytes]":
    """One run of the command line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ZMQHA_URL": both.url}
    return subprocess.Popen([*COMMAND, *arguments], env=environment, **pipes)  # type: ignore[call-overload, no-any-return]


def text(target: Path, size: int, lines: int) -> tuple[int, int]:
    """Real text: the Python sources of this installation, one after the other, until there is enough. Bytes and lines."""
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), str(ROOT)]
    written = counted = 0
    with target.open("wb") as out:
        while written < size or counted < lines:
            for place in places:
                for path in sorted(Path(place).rglob("*.py")):
                    body = path.read_bytes()
                    body += b"" if body.endswith(b"\n") else b"\n"
                    out.write(body)
                    written, counted = written + len(body), counted + body.count(b"\n")
                    if written >= size and counted >= lines:
                        return written, counted
    return written, counted


def run(both: Pair, size: int, lines: int, kills: int, spread_s: float) -> str:
    """Send and receive at the same time, with kills; a line of figures."""
    source, result = both.directory / "source.txt", both.directory / "result.txt"
    written, counted = text(source, size, lines)
    begun = time.monotonic()
    with source.open("rb") as given, result.open("wb") as out:
        receiver = start(both, "recv", "lines", "--lines", "--count", str(counted), "--timeout", "30", stdout=out)
        sender = start(both, "send", "lines", "--lines", stdin=given)
        chance = random.Random(size)
        done = 0
        for _ in range(kills):
            time.sleep(spread_s * (0.5 + chance.random()))
            both.wait_in_sync(60)
            if sender.poll() is not None and receiver.poll() is not None:
                break
            name = both.active()
            both[name].kill()
            time.sleep(0.3)
            both[name].start()
            done += 1
        assert sender.wait(300) == 0
        sent = time.monotonic() - begun
        assert receiver.wait(300) == 0
    took = time.monotonic() - begun
    assert done == kills, f"only {done} kills happened before the end"
    assert filecmp.cmp(source, result, shallow=False)
    both.assert_equal_stores()
    return f"{written / 1e6:.1f} MB, {counted} lines, {done} kills: sent in {sent:.1f} s, received in {took:.1f} s, identical"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_large_text_survives_three_kills(record_property: Callable[[str, object], None]) -> None:
    with pair() as both:
        line = run(both, count(35_000_000, 50_000_000), count(350_000, 500_000), 3, 2.0)
    print(line)
    record_property("figures", line)
