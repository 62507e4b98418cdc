"""The receiving side of a full copy: whole pages into a new file, which becomes the store in one rename.

No journal while it runs: a crash starts the copy again. The old store, if there is one, stays as it is until the rename; from the
moment the journal speaks of the copy, the copy is the store, and nothing deletes it. Driven by the store thread; who sends what, and
when the copy is whole, is decided by the source.
"""

from collections.abc import Sequence
from pathlib import Path

import xxhash

from zmqha.core.limits import MIB
from zmqha.core.position import Position
from zmqha.errors import ProtocolError
from zmqha.store.crash import crash_point
from zmqha.store.journal import SEGMENT_BYTES, Journal
from zmqha.store.journal_record import Baseline
from zmqha.store.node_state import sync_directory
from zmqha.store.page_file import STORE_FILE, PageWriter
from zmqha.store.replica import COPY_FILE, Replica

_FLUSH_EVERY_BYTES = 64 * MIB  # so the last flush is short and memory does not fill with unwritten pages


class CopyTarget:
    """One copy at a time: ``begin``, ``pages`` for each frame, ``end``."""

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._writer: PageWriter | None = None
        self._psize = 0
        self._unflushed = 0
        self.copied_bytes = 0

    def begin(self, psize: int) -> None:
        """Throw away an unfinished copy and start a new one."""
        self.abandon()
        self._psize, self._unflushed, self.copied_bytes = psize, 0, 0
        path = self._directory / COPY_FILE
        path.unlink(missing_ok=True)
        self._writer = PageWriter(path)
        Journal(self._directory, self._segment_bytes).prepare()

    def pages(self, runs: Sequence[tuple[int, int]], payload: bytes | memoryview, digest: int) -> None:
        """Whole pages, in any order, later ones over earlier ones."""
        if self._writer is None:
            raise ProtocolError("pages of a copy that has not begun")
        if xxhash.xxh3_64_intdigest(payload) != digest:
            raise ProtocolError("the pages of the copy do not match their checksum")
        if len(payload) != self._psize * sum(count for _, count in runs) or any(first < 2 or n < 1 for first, n in runs):
            raise ProtocolError("the pages of the copy do not match their table")
        self._writer.write_runs(runs, payload, self._psize)
        self.copied_bytes += len(payload)
        self._unflushed += len(payload)
        if self._unflushed >= _FLUSH_EVERY_BYTES:
            self._writer.sync()
            self._unflushed = 0

    def end(self, position: Position, meta: bytes, copied_bytes: int) -> Replica:
        """The copy is whole and is ``position``: take it as the store. Any older Replica of the directory must be closed.

        Raises ProtocolError if this is not all that the source sent (``copied_bytes``): a page would be missing in silence.

        The journal speaks of the copy before the rename: should a crash come in between, ``Replica.open`` does the rename.
        """
        if self._writer is None:
            raise ProtocolError("the end of a copy that has not begun")
        if self.copied_bytes != copied_bytes:
            raise ProtocolError(f"the copy lacks parts: {self.copied_bytes} of {copied_bytes} bytes came")
        self._writer.write_metas(meta)
        self._writer.sync()
        self._close()
        baseline = Baseline(position, meta)
        journal = Journal(self._directory, self._segment_bytes)
        journal.start_over()
        crash_point("before_copy_reset")
        try:
            journal.reset(baseline)
            crash_point("before_copy_rename")
            (self._directory / COPY_FILE).rename(self._directory / STORE_FILE)
            sync_directory(self._directory)
            crash_point("after_copy_rename")
            return Replica(self._directory, journal, baseline)
        except BaseException:
            journal.close()
            raise

    def abandon(self) -> None:
        """Delete the unfinished file. One that ``end`` has closed may be the store already: ``Replica.open`` tells."""
        if self._writer is not None:
            self._close()
            (self._directory / COPY_FILE).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
