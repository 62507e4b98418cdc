"""The passive's redo journal: what is acknowledged before it is applied to the store's file.

Two segments, prewritten with zeros and used in turn, so a flush never has to make the file longer::

    generation   g                      g+1                           g+2 (the file of g again)
                 RESET chunks...  -->   SWITCH chunks... CHECKPOINTED --> SWITCH chunks...

Rules. A shipment is applied only after its records are flushed. Every segment begins with a baseline.
A segment is overwritten only when all its shipments are applied and the store's file is flushed (``checkpointed``), and when the
next segment says so durably. Recovery replays the newest generation, after the one before it unless that one is known to be
checkpointed; it drops an incomplete shipment at the end and refuses anything that was flushed and cannot be read any more.

Applies nothing and flushes no store file; knows nothing of pages. Driven by ``replica``. One thread.
"""

import mmap
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from zmqha.core import shipment
from zmqha.core.limits import MIB
from zmqha.core.position import Position
from zmqha.core.shipment import Chunk, Shipment
from zmqha.errors import ProtocolError, StoreDamaged
from zmqha.store import journal_record
from zmqha.store.crash import crash_point
from zmqha.store.journal_record import Baseline, Kind, Log, Record
from zmqha.store.node_state import sync_directory
from zmqha.store.page_file import write_all

SEGMENT_BYTES = 64 * MIB  # eight full windows; a checkpoint writes back at most this
SEGMENT_FILES = ("journal.0", "journal.1")
_ZEROS = memoryview(bytes(MIB))


class Recovered(NamedTuple):
    """What a journal says after a start."""

    position: Position  # after the last whole shipment
    base: Baseline  # what ``shipments`` apply on
    settled: bool  # nothing to replay: the store's file is the baseline, or LMDB wrote it since
    shipments: Iterator[Shipment]  # whole ones, in order


class Journal:
    """Two segments; the one being written is ``generation``."""

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._fds: list[int] = []
        self._sizes = [0, 0]
        self._current = 1  # segment being written
        self._journal = 0  # drawn at each reset
        self.generation = 0
        self.checkpoint_needed: int | None = None  # generation whose shipments the store's file may lack
        self._continues = False  # the other segment's shipments count, as far as this segment says
        self._at = 0
        self._sequence = 0
        self._flushed = 0  # records of this segment
        self._mark = (0, 0)  # (at, sequence) before the shipment being appended

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def prepare(self) -> None:
        """Make the files, full of zeros, if they are not there: slow, so not while somebody waits for an acknowledgement."""
        self._open()
        self.close()

    # --- start ----------------------------------------------------------------------------------------------------------------

    def recover(self) -> Recovered | None:
        """What the files say; None if there never was a journal. ``reset`` must follow before anything is appended."""
        segments = [_read(self._directory / name) for name in SEGMENT_FILES]
        logs = [journal_record.read_log(segment) for segment in segments]
        found = sorted((log for log in logs if log is not None), key=lambda log: log.generation)
        if not found:
            if any(any(segment[:4096]) for segment in segments):
                raise StoreDamaged("neither segment of the journal begins with a baseline", cure="copy the store from the peer")
            return None
        newest = found[-1]
        self.generation, self._current = newest.generation, logs.index(newest)
        if any(journal_record.proven_loss(segment, log, newest) for segment, log in zip(segments, logs, strict=True)):
            raise StoreDamaged("a record of the journal that was durable cannot be read", cure="copy the store from the peer")
        chain = [newest] if newest.checkpointed else [_before(newest, found), newest]
        settled = newest.kind == Kind.RESET and not newest.shipments
        self._continue(newest)
        return Recovered(newest.end, chain[0].baseline, settled, _shipments(chain))

    def start_over(self) -> None:
        """Instead of ``recover``, when the content does not matter any more, whatever state it is in."""
        generations = [journal_record.generation_of(_read(self._directory / name)) for name in SEGMENT_FILES]
        self.generation = max(generations)
        self._current = generations.index(self.generation)

    def reset(self, baseline: Baseline) -> None:
        """Forget everything: the store's file is exactly ``baseline``, durably. The old content counts until this is durable."""
        self._open()
        if self._continues:
            self._say_checkpointed(baseline.position)  # the other segment is overwritten now, and this one must do alone
        self._journal = secrets.randbits(64)
        self._begin(Kind.RESET, baseline)
        self.flush()
        self.checkpoint_needed = None
        # Should the new baseline rot, the old generation must not pass for the present one.
        write_all(self._fds[1 - self._current], [_ZEROS[: journal_record.ALIGN]], 0)

    # --- running --------------------------------------------------------------------------------------------------------------

    def append(self, chunk: Chunk) -> None:
        """Write one record; flushes nothing. Pieces of a shipment come in order."""
        assert self._sequence > 0, "the segment begins with its baseline"
        if chunk.index == 0:
            self._mark = (self._at, self._sequence)
        self._write(Kind.CHUNK, chunk.position, chunk.index, chunk.count, chunk.head, chunk.piece)
        if chunk.index == chunk.count - 1:
            self._mark = (self._at, self._sequence)

    def rewind(self) -> None:
        """Forget the pieces of the shipment that was not finished."""
        self._at, self._sequence = self._mark
        self._flushed = min(self._flushed, self._sequence)

    def flush(self) -> None:
        """Everything appended is durable when this returns. No OSError is StoreFull here: see ``PageWriter.sync``."""
        if self._flushed == self._sequence:
            return
        crash_point("before_journal_sync")
        os.fdatasync(self._fds[self._current])
        crash_point("after_journal_sync")
        self._flushed = self._sequence

    def room_for(self, size: int) -> bool:
        """Is there room for records of ``size`` bytes (``journal_record.space``) and the closing one?"""
        return self._at + size + journal_record.ALIGN <= self._sizes[self._current]

    def switch(self, baseline: Baseline) -> None:
        """Go on in the other segment, whose own content must be checkpointed. ``baseline`` is the end of this one."""
        assert self.checkpoint_needed is None, "the other segment's shipments are not yet durable in the store's file"
        assert self._mark == (self._at, self._sequence), "no shipment is half written"
        self._say_checkpointed(baseline.position)
        crash_point("before_journal_switch")
        self.checkpoint_needed = self.generation
        self._begin(Kind.SWITCH, baseline)
        crash_point("after_journal_switch")

    def make_room(self, size: int) -> None:
        """Lengthen the segment for one shipment that is larger than all of it: slow, but rare."""
        need = self._at + size + journal_record.ALIGN
        if need > self._sizes[self._current]:
            self._lengthen(self._current, need)

    def checkpointed(self, generation: int) -> None:
        """The caller flushed the store's file after applying all of ``generation``."""
        assert generation == self.checkpoint_needed
        self.checkpoint_needed = None

    # --- files ----------------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._fds:
            return
        try:
            for index, name in enumerate(SEGMENT_FILES):
                fd = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._fds.append(fd)
                self._sizes[index] = os.fstat(fd).st_size
                if self._sizes[index] < self._segment_bytes:
                    self._lengthen(index, self._segment_bytes)
            sync_directory(self._directory)
        except BaseException:
            self.close()
            raise

    def _lengthen(self, index: int, size: int) -> None:
        for at in range(self._sizes[index], size, MIB):
            write_all(self._fds[index], [_ZEROS[: size - at]], at)
        os.fdatasync(self._fds[index])
        self._sizes[index] = size

    def _continue(self, log: Log) -> None:
        """Where the segment being written ends, for what ``reset`` must still say in it."""
        self._journal, self._continues = log.journal, not log.checkpointed
        self._at, self._sequence = self._mark = (log.end_at, log.records)
        self._flushed = log.records

    def _say_checkpointed(self, position: Position) -> None:
        self._write(Kind.CHECKPOINTED, position, 0, 1, b"", b"")
        self._mark = (self._at, self._sequence)
        self.flush()
        self._continues = False

    def _begin(self, kind: Kind, baseline: Baseline) -> None:
        self._current = 1 - self._current
        self.generation += 1
        self._continues = kind == Kind.SWITCH
        self._at = self._sequence = self._flushed = 0
        self._mark = (0, 0)
        self._write(kind, baseline.position, 0, 1, journal_record.encode_baseline(baseline), b"")
        self._mark = (self._at, self._sequence)

    def _write(self, kind: Kind, position: Position, index: int, count: int, head: bytes, piece: bytes) -> None:
        durable = min(self._flushed, self._mark[1])  # a shipment that may be taken back never counts
        record = Record(kind, self._journal, self.generation, self._sequence, durable, position, index, count, head, piece)
        size = journal_record.space(len(head) + len(piece))
        assert self._at + size <= self._sizes[self._current], "room_for or make_room comes first"
        write_all(self._fds[self._current], journal_record.encode(record), self._at)
        self._at += size
        self._sequence += 1


def _read(path: Path) -> memoryview:
    """A segment's bytes; empty if there is none. Flushed first: after a kill the page cache holds records that no flush covered,
    and what is not durable here must not be applied to the store's file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return memoryview(b"")
    try:
        if os.fstat(fd).st_size == 0:
            return memoryview(b"")
        os.fdatasync(fd)
        return memoryview(mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))
    finally:
        os.close(fd)


def _before(newest: Log, found: list[Log]) -> Log:
    """The segment that ``newest`` continues."""
    older = found[0]
    if (
        older is newest
        or (older.journal, older.generation + 1) != (newest.journal, newest.generation)
        or older.end != newest.baseline.position
    ):
        raise StoreDamaged(
            f"generation {newest.generation} of the journal continues one that cannot be read",
            cure="copy the store from the peer",
        )
    return older


def _shipments(chain: Iterable[Log]) -> Iterator[Shipment]:
    for log in chain:
        base = log.baseline.position
        for records in log.shipments:
            ship = _shipment(records, base)
            base = ship.position
            yield ship


def _shipment(records: list[Record], base: Position) -> Shipment:
    """Put a shipment together; it must lead from ``base`` to where its records say."""
    try:
        ship = shipment.decode(bytes(records[0].head), b"".join(record.piece for record in records), base.chain)
    except ProtocolError as error:
        raise StoreDamaged("the journal holds what is not a shipment", cause=error.what) from error
    if ship.position != records[0].position or ship.from_txn != base.txn:
        raise StoreDamaged(f"the journal's transaction {records[0].position} does not follow {base}")
    return ship
