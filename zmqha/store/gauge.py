"""How much room there is: on the file system under the store, and inside the store's file, which never shrinks.

Asked for when it is due: every half second, and after so much was committed that a fast disk may have filled meanwhile.
"""

import os
from pathlib import Path
from typing import NamedTuple

from zmqha.core.limits import MIB
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.page_file import STORE_FILE

MEASURE_S = 0.5
MEASURE_BYTES = 2 * MIB


class DiskSpace(NamedTuple):
    """One look at it."""

    free_share: float  # 0..1, of the file system
    free_bytes: int  # of the file system and inside the store's file
    used_bytes: int  # of the store's file, without what is free inside it


NOT_MEASURED = DiskSpace(1.0, 1 << 62, 0)


class Gauge:
    """Of one directory. Driven by the store thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._measured_s = 0.0
        self._committed_bytes = 0  # since

    def committed(self, size: int) -> None:
        """So many bytes of pages were written."""
        self._committed_bytes += size

    def due(self, now_s: float) -> bool:
        """Is the last look too old."""
        return now_s - self._measured_s >= MEASURE_S or self._committed_bytes >= MEASURE_BYTES

    def spoil(self) -> None:
        """The last look is known to be wrong."""
        self._measured_s = 0.0

    def measure(self, store: LmdbStore | None, now_s: float) -> DiskSpace:
        """Look. ``store``: None while it is closed."""
        self._measured_s, self._committed_bytes = now_s, 0
        place = os.statvfs(self._directory)
        room = store.reusable_bytes() if store is not None else 0
        used = store.file_bytes - room if store is not None else self._closed_bytes()
        free = place.f_bavail * place.f_frsize + room
        return DiskSpace(min(1.0, free / max(1, place.f_blocks * place.f_frsize)), free, used)

    def _closed_bytes(self) -> int:
        """What the store takes on the disk while LMDB does not have it open."""
        try:
            return (self._directory / STORE_FILE).stat().st_blocks * 512
        except FileNotFoundError:
            return 0
