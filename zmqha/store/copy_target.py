"""The receiving side of a copy: pages come in, and after each round the store is another complete one.

::

    WHOLE, REST   into a new file (REST: the unfinished one of before), which becomes the store in one rename
    DELTA         into a file of its own (``delta``), which then becomes part of the store; every round after the first is one

No journal while it runs. The old store stays complete until the new one is: an unfinished new file is kept for the next attempt, an
unfinished delta is deleted. From the moment the journal speaks of the copy, the copy is the store, and nothing deletes it. Driven by
the store thread; who sends what, and when a round is whole, is decided by the source.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

from zmqha.core import lmdb_page
from zmqha.core.peer_protocol import Way
from zmqha.core.position import NOWHERE, Position
from zmqha.errors import ProtocolError, StoreDamaged
from zmqha.store import delta
from zmqha.store.alive import nobody_waits
from zmqha.store.crash import crash_point
from zmqha.store.delta import DeltaFile
from zmqha.store.journal import SEGMENT_BYTES, Journal
from zmqha.store.journal_record import Baseline
from zmqha.store.lmdb_store import MAP_BYTES_MAX
from zmqha.store.node_state import sync_directory
from zmqha.store.page_file import FLUSH_EVERY_BYTES, STORE_FILE, PageWriter
from zmqha.store.replica import COPY_FILE, Replica


class CopyTarget:
    """One copy at a time: ``begin``, ``pages`` for each frame, ``adopt`` after each round."""

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES, alive: Callable[[], None] = nobody_waits) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._alive = alive
        self._writer: PageWriter | None = None
        self._delta: DeltaFile | None = None
        self._psize = 0
        self._unflushed = 0
        self.copied_bytes = 0
        self.rounds = 0  # adopted
        self.position = NOWHERE  # of the store that the last of them made

    def begin(self, psize: int, way: Way = Way.WHOLE) -> None:
        """A new copy. A delta that was whole already is made part of the store first. Raises ProtocolError for a page size that no
        store has."""
        self.abandon()
        if not 512 <= psize <= 65536 or psize & (psize - 1):
            raise ProtocolError(f"a copy with pages of {psize} bytes")
        delta.finish(self._directory, self._segment_bytes, self._alive)
        self._psize, self._unflushed, self.copied_bytes, self.rounds, self.position = psize, 0, 0, 0, NOWHERE
        Journal(self._directory, self._segment_bytes).prepare()
        if way is Way.DELTA:
            self._delta = DeltaFile(self._directory)
            return
        path = self._directory / COPY_FILE
        if way is Way.WHOLE:
            path.unlink(missing_ok=True)
        self._writer = PageWriter(path)

    def pages(self, runs: Sequence[tuple[int, int]], payload: bytes | memoryview, digest: int) -> None:
        """Whole pages, in any order, later ones over earlier ones."""
        if self._writer is None and self._delta is None:
            raise ProtocolError("pages of a copy that has not begun")
        if xxhash.xxh3_64_intdigest(payload) != digest:
            raise ProtocolError("the pages of the copy do not match their checksum")
        last = MAP_BYTES_MAX // self._psize
        if any(first < 2 or n < 1 or first + n > last for first, n in runs):
            raise ProtocolError("the copy holds pages outside any file")
        if len(payload) != self._psize * sum(count for _, count in runs):
            raise ProtocolError("the pages of the copy do not match their table")
        if self._delta is not None:
            self._delta.append(runs, payload)
        else:
            assert self._writer is not None
            self._writer.write_runs(runs, payload, self._psize)
        self.copied_bytes += len(payload)
        self._unflushed += len(payload)
        if self._unflushed >= FLUSH_EVERY_BYTES:
            (self._delta or self._writer).sync()  # type: ignore[union-attr]
            self._unflushed = 0

    def adopt(self, position: Position, meta: bytes, copied_bytes: int) -> Replica:
        """A round is whole: what came is ``position``; take it as the store. Any older Replica of the directory must be closed.

        Raises ProtocolError if this is not all that the source sent (``copied_bytes``): a page would be missing in silence; and for a
        meta page that is none, or another's.
        """
        if self._writer is None and self._delta is None:
            raise ProtocolError("the end of a copy that has not begun")
        if self.copied_bytes != copied_bytes:
            raise ProtocolError(f"the copy lacks parts: {self.copied_bytes} of {copied_bytes} bytes came")
        self._check_meta(position, meta)
        baseline = Baseline(position, meta)
        made, self._delta, self._unflushed = self._delta, None, 0
        if made is not None:
            try:
                made.seal(baseline)
            except BaseException:  # a full disk: it will be copied again
                made.abandon()
                raise
            delta.finish(self._directory, self._segment_bytes, self._alive)
            (self._directory / COPY_FILE).unlink(missing_ok=True)  # an unfinished one is of no more use
        else:
            self._rename(baseline)
        self.rounds, self.position = self.rounds + 1, position
        replica = Replica.open(self._directory, self._segment_bytes, self._alive)
        assert replica is not None and replica.position == position, "what was adopted is the store"
        return replica

    def go_on(self) -> None:
        """Another round follows: on top of the store that the last one made, whose Replica is closed."""
        self._delta = DeltaFile(self._directory)

    def abandon(self) -> None:
        """Let go of what is unfinished. The new file stays for the next attempt."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._delta is not None:
            self._delta.abandon()
            self._delta = None

    def _check_meta(self, position: Position, meta: bytes) -> None:
        try:
            found = lmdb_page.parse_body(meta)
        except StoreDamaged as error:
            raise ProtocolError("the copy ends with what is not a meta page", cause=error.what) from error
        if (found.psize, found.txnid) != (self._psize, position.txn) or found.last_pg >= MAP_BYTES_MAX // self._psize:
            raise ProtocolError(f"the copy ends at {position} with the meta page of transaction {found.txnid}")

    def _rename(self, baseline: Baseline) -> None:
        """The journal speaks of the copy before the rename: should a crash come in between, ``Replica.open`` does the rename."""
        assert self._writer is not None
        self._writer.write_metas(baseline.meta)
        self._writer.sync()
        self._writer.close()
        self._writer = None
        journal = Journal(self._directory, self._segment_bytes)
        journal.start_over()
        crash_point("before_copy_reset")
        try:
            journal.reset(baseline)
            crash_point("before_copy_rename")
            (self._directory / COPY_FILE).rename(self._directory / STORE_FILE)
            sync_directory(self._directory)
            crash_point("after_copy_rename")
        finally:
            journal.close()
