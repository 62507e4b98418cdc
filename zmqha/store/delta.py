"""What is to be written into the passive's complete store, as a file of its own: so the store is whole before, and whole after.

::

    file    *( record ) end
    record  u32 magic "ZDLT" | u32 runs | u64 bytes | u64 check | runs x (u64 first page, u32 pages) | pages
    end     the same with magic "ZEND": no runs, and instead of pages a Baseline (MessagePack): where it leads

Nothing of the store is touched before the end record is durable. From then on the new pages count: whoever finds the whole file
(``finish``, after a crash at any moment) writes it into the store again, makes the journal say so, and deletes it. A file without
its end was never more than an attempt. Pages may come again; later ones count. Driven by ``copy_target`` and ``replica``.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import xxhash

from zmqha.core import lmdb_page
from zmqha.errors import StoreDamaged
from zmqha.store.alive import nobody_waits
from zmqha.store.crash import crash_point
from zmqha.store.journal import Journal
from zmqha.store.journal_record import Baseline, encode_baseline
from zmqha.store.node_state import sync_directory, sync_file
from zmqha.store.page_file import FLUSH_EVERY_BYTES, STORE_FILE, PageWriter, write_all

DELTA_FILE = "store.mdb.delta"
_PAGES, _END = 0x544C445A, 0x444E455A
_HEAD = struct.Struct("<IIQQ")
_RUN = struct.Struct("<QI")
_baseline = msgspec.msgpack.Decoder(Baseline)

Run = tuple[int, int]


class DeltaFile:
    """One being written, in place of an unfinished one; ``finish`` comes first, so that a whole one is never thrown away."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / DELTA_FILE
        self._path.unlink(missing_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._at = 0

    def append(self, runs: Sequence[Run], pages: bytes | memoryview) -> None:
        """Whole pages, not flushed."""
        self._write(_PAGES, b"".join(_RUN.pack(*run) for run in runs), pages, len(runs))

    def sync(self) -> None:
        """What was appended is durable; no OSError is StoreFull here: see ``PageWriter.sync``."""
        os.fdatasync(self._fd)

    def seal(self, baseline: Baseline) -> None:
        """Everything came: from here on it counts."""
        self.sync()
        crash_point("before_delta_end")
        self._write(_END, b"", encode_baseline(baseline), 0)
        crash_point("before_delta_sync")
        self.sync()
        sync_directory(self._path.parent)
        crash_point("after_delta_end")
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def abandon(self) -> None:
        """It came to nothing."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self, magic: int, table: bytes, body: bytes | memoryview, runs: int) -> None:
        head = _HEAD.pack(magic, runs, len(body), _check(magic, runs, table, body))
        write_all(self._fd, [memoryview(head), memoryview(table), memoryview(body)], self._at)
        self._at += len(head) + len(table) + len(body)


def finish(directory: Path, segment_bytes: int, alive: Callable[[], None] = nobody_waits) -> Baseline | None:
    """Lay a whole delta that lies there over the store; where it leads, None if there is none (an unfinished one is deleted).

    ``alive`` is called at each record, as it is summed and as it is written. Raises StoreDamaged if it was whole once and cannot be
    read any more.
    """
    path = directory / DELTA_FILE
    if not path.exists():
        return None
    baseline = _sealed(path, alive)
    if baseline is None or not (directory / STORE_FILE).exists():
        path.unlink()
        return None
    _make_durable(path)
    _apply(path, directory / STORE_FILE, baseline, alive)
    journal = Journal(directory, segment_bytes)
    journal.start_over()
    crash_point("before_delta_reset")
    try:
        journal.reset(baseline)
    finally:
        journal.close()
    crash_point("before_delta_unlink")
    path.unlink()
    # Nothing else is written to the store before this is durable: as long as a delta lies there, it may be laid over it again.
    sync_directory(directory)
    return baseline


def _make_durable(path: Path) -> None:
    """After a kill the page cache holds an end that no flush covered. Once the store is touched, no power cut may take it back."""
    sync_file(path)
    sync_directory(path.parent)


def _apply(path: Path, store: Path, baseline: Baseline, alive: Callable[[], None]) -> None:
    psize = lmdb_page.parse_body(baseline.meta).psize
    writer = PageWriter(store)
    unflushed = 0
    try:
        for runs, pages in _records(path, alive):
            writer.write_runs(runs, pages, psize)
            crash_point("delta_apply")
            unflushed += len(pages)
            if unflushed >= FLUSH_EVERY_BYTES:
                writer.sync()
                unflushed = 0
        writer.write_metas(baseline.meta)
        writer.sync()
    finally:
        writer.close()


def _sealed(path: Path, alive: Callable[[], None]) -> Baseline | None:
    """What the end says; None if there is no end, and so no delta."""
    found = None
    for magic, _, body in _walk(path, alive):
        if magic == _END:
            found = _baseline.decode(body)
    return found


def _records(path: Path, alive: Callable[[], None]) -> Iterator[tuple[list[Run], memoryview]]:
    return ((runs, body) for magic, runs, body in _walk(path, alive) if magic == _PAGES)


def _walk(path: Path, alive: Callable[[], None]) -> Iterator[tuple[int, list[Run], memoryview]]:
    """Every record up to the end; stops at the first that is not whole. Raises StoreDamaged if a whole end comes after that."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    at = 0
    while at + _HEAD.size <= len(view):
        alive()
        magic, runs, size, check = _HEAD.unpack_from(view, at)
        table_at = at + _HEAD.size
        body_at = table_at + runs * _RUN.size
        end = body_at + size
        if magic not in (_PAGES, _END) or end > len(view):
            break
        table, body = view[table_at:body_at], view[body_at:end]
        if check != _check(magic, runs, table, body):
            break
        yield magic, list(_RUN.iter_unpack(table)), body
        if magic == _END:
            return
        at = end
    # A power cut leaves no end after a gap: everything before the end was flushed first. So an end here proves damage.
    if _ends_whole(view):
        raise StoreDamaged(f"{path} was whole and cannot be read any more", cure="copy the store from the peer")


def _ends_whole(view: memoryview) -> bool:
    """Is there a whole end record at the end of the file."""
    tail = bytes(view[-4096:])
    at = tail.rfind(_END.to_bytes(4, "little"))
    if at < 0 or at + _HEAD.size > len(tail):
        return False
    magic, runs, size, check = _HEAD.unpack_from(tail, at)
    body = tail[at + _HEAD.size :]
    return bool(runs == 0 and size == len(body) and check == _check(magic, runs, b"", body))


def _check(magic: int, runs: int, table: bytes | memoryview, body: bytes | memoryview) -> int:
    digest = xxhash.xxh3_64(struct.pack("<IIQ", magic, runs, len(body)))
    digest.update(table)
    digest.update(body)
    return digest.intdigest()
