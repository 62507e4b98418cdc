"""The disk's own flush time: what every durable figure is compared with.

Two files beside the stores, 4 KiB at a time: over a part of a file that was written before (a journal), and at the end of a growing
one (a store), in a tight loop; and both again with pauses, as lone sends come: a disk that has nothing to do for a millisecond answers
later than one that is kept busy. Only the ``fdatasync`` is timed. ``measure`` is called between the repetitions of a bench, so both see
the same neighbours.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

BLOCK = 4096
PREPARED_BLOCKS = 1024
BURST = 40
PACE_S = 0.0015  # between two paced flushes: a lone send takes about this long


class Disk:
    """The disk under a directory. ``times_us``: every flush so far."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory or Path(tempfile.gettempdir())
        self.times_us: dict[str, list[float]] = {"overwrite": [], "append": [], "paced overwrite": [], "paced append": []}
        self._block = os.urandom(BLOCK)
        self._at = 0

    def measure(self, burst: int = BURST) -> None:
        """A short burst of both kinds."""
        with (
            tempfile.TemporaryFile(dir=self.directory, buffering=0) as prepared,
            tempfile.TemporaryFile(dir=self.directory) as growing,
        ):
            os.write(prepared.fileno(), bytes(BLOCK * PREPARED_BLOCKS))
            os.fsync(prepared.fileno())
            for number in range(burst):
                self._flush("overwrite", prepared.fileno(), (number * 7 % PREPARED_BLOCKS) * BLOCK)
                self._flush("append", growing.fileno(), number * BLOCK)
            for number in range(burst, 2 * burst):
                time.sleep(PACE_S)
                self._flush("paced overwrite", prepared.fileno(), (number * 7 % PREPARED_BLOCKS) * BLOCK)
                time.sleep(PACE_S)
                self._flush("paced append", growing.fileno(), number * BLOCK)

    def median_us(self, kind: str = "overwrite") -> float:
        """Of everything measured so far."""
        return statistics.median(self.times_us[kind])

    def line(self) -> str:
        """For people."""
        kinds = ", ".join(f"{kind} {statistics.median(times):.0f} us" for kind, times in self.times_us.items())
        return f"{self.directory}: fdatasync of 4 KiB, median: {kinds} ({len(self.times_us['append'])} each)"

    def _flush(self, kind: str, fd: int, at: int) -> None:
        os.pwrite(fd, self._block, at)
        begun = time.perf_counter_ns()
        os.fdatasync(fd)
        self.times_us[kind].append((time.perf_counter_ns() - begun) / 1000)
