"""What a power cut may leave: records every write and flush below a directory, and builds images from them.

An image is what was flushed plus any part of what was not: each 512-byte sector of each unflushed write may be there or not.
A rename counts only with the flush of its directory, or by chance before that.
"""

import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SECTOR = 512


class Write(NamedTuple):
    file: int  # inode
    offset: int
    data: bytes


class Flush(NamedTuple):
    file: int
    since: int  # events before the call began: what it covers


class Name(NamedTuple):
    name: str
    file: int
    old: str | None  # renamed from


class Gone(NamedTuple):
    """A name was deleted."""

    name: str


class Size(NamedTuple):
    """A file was made longer."""

    file: int
    size: int


class Acknowledged(NamedTuple):
    txn: int


Event = Write | Flush | Name | Gone | Size | Acknowledged


class Recording:
    """Events in their order, and what a power cut between two of them may leave. ``root`` is the directory's own inode."""

    def __init__(self, root: int, events: list[Event] | None = None) -> None:
        self._root = root
        self._before: dict[str, tuple[int, bytes]] = {}  # files that were there already: name -> (inode, content)
        self.events: list[Event] = events if events is not None else []

    def cut(self, rng: random.Random) -> int:
        """A moment for the power to go: any, or soon after a segment or a meta page was begun."""
        starts = [at for at, event in enumerate(self.events) if isinstance(event, Write) and event.offset == 0]
        if starts and rng.random() < 0.4:
            return min(len(self.events), rng.choice(starts) + rng.randint(1, 5))
        return rng.randrange(len(self.events) + 1)

    def image(self, cut: int, rng: random.Random, target: Path) -> int:
        """Write into ``target`` what a power cut after ``cut`` events may leave; the last transaction acknowledged by then."""
        durable: dict[int, int] = {}  # file -> events covered
        for event in self.events[:cut]:
            if isinstance(event, Flush):
                durable[event.file] = max(durable.get(event.file, 0), event.since)
        share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))  # of the unflushed sectors that made it
        files = {inode: bytearray(content) for inode, content in self._before.values()}
        names = {name: inode for name, (inode, _) in self._before.items()}
        acknowledged = 0
        for number, event in enumerate(self.events[:cut]):
            match event:
                case Write(file, offset, data):
                    kept = number < durable.get(file, 0)
                    _put(files.setdefault(file, bytearray()), offset, data, 1.0 if kept else share, rng)
                case Name(name, file, old):
                    if number < durable.get(self._root, 0) or rng.random() < share:
                        names[name] = file
                        if old is not None:
                            names.pop(old, None)
                case Gone(name):
                    if number < durable.get(self._root, 0) or rng.random() < share:
                        names.pop(name, None)
                case Size(file, size):
                    content = files.setdefault(file, bytearray())
                    if number < durable.get(file, 0) or rng.random() < share:
                        content.extend(bytes(max(0, size - len(content))))
                case Acknowledged(txn):
                    acknowledged = txn
        for name, file in names.items():
            (target / name).write_bytes(files.get(file, b""))
        return acknowledged


class DiskRecorder(Recording):
    """Wraps the calls of ``os`` that the store makes; they still happen."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory.stat().st_ino)
        self._made: dict[int, int] = {}  # inode -> how often a file was created under it: inodes are used again
        self._before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in directory.iterdir() if path.is_file()}
        self._lock = threading.Lock()
        wrapped = ("pwritev", "fdatasync", "fsync", "ftruncate", "open", "rename", "unlink")
        real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in wrapped}

        def pwritev(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
            written: int = real["pwritev"](fd, buffers, offset)
            self._add(Write(self._file(fd), offset, b"".join(map(bytes, buffers))[:written]))
            return written

        def flush(kind: str) -> Callable[[int], None]:
            def call(fd: int) -> None:
                since = len(self.events)
                real[kind](fd)
                self._add(Flush(self._file(fd), since))

            return call

        def ftruncate(fd: int, size: int) -> None:
            real["ftruncate"](fd, size)
            self._add(Size(self._file(fd), size))

        def opened(path: Any, flags: int, mode: int = 0o777) -> int:
            new = flags & os.O_CREAT and not os.path.exists(path)
            fd: int = real["open"](path, flags, mode)
            if new:
                inode = os.fstat(fd).st_ino
                self._made[inode] = self._made.get(inode, 0) + 1
                self._add(Name(os.path.basename(path), self._file(fd), None))
            return fd

        def rename(old: Any, new: Any) -> None:
            real["rename"](old, new)
            inode = os.stat(new).st_ino
            self._add(Name(os.path.basename(new), inode + (self._made.get(inode, 0) << 48), os.path.basename(old)))

        def unlink(path: Any) -> None:
            real["unlink"](path)
            self._add(Gone(os.path.basename(path)))

        monkeypatch.setattr(os, "unlink", unlink)
        for name, function in (("pwritev", pwritev), ("fdatasync", flush("fdatasync")), ("fsync", flush("fsync"))):
            monkeypatch.setattr(os, name, function)
        monkeypatch.setattr(os, "ftruncate", ftruncate)
        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(Path, "rename", lambda old, new: rename(old, new))

    def left_by_a_kill(self, name: str, flushed: int) -> None:
        """This file's name, and what it holds beyond the first ``flushed`` bytes, are in the page cache only."""
        file, content = self._before.pop(name)
        self._add(Name(name, file, None))
        self._add(Write(file, 0, content[:flushed]))
        self._add(Flush(file, len(self.events)))
        self._add(Write(file, flushed, content[flushed:]))

    def _file(self, fd: int) -> int:
        """Which file that is, over the whole recording."""
        inode = os.fstat(fd).st_ino
        return inode + (self._made.get(inode, 0) << 48)

    def acknowledge(self, txn: int) -> None:
        self._add(Acknowledged(txn))

    def _add(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)


def _put(content: bytearray, offset: int, data: bytes, share: float, rng: random.Random) -> None:
    """A file gets no longer than to the last sector that made it."""
    at = offset
    while at < offset + len(data):
        end = min(offset + len(data), (at // SECTOR + 1) * SECTOR) if share < 1.0 else offset + len(data)
        if share >= 1.0 or rng.random() < share:
            content.extend(bytes(max(0, end - len(content))))
            content[at:end] = data[at - offset : end - offset]
        at = end
