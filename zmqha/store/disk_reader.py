"""The bytes of a file as the disk gives them now, not as the kernel remembers them.

The server maps its store, and so does LMDB: what is mapped stays in memory, whatever becomes of it on the disk, and no advice
(POSIX_FADV_DONTNEED) makes the kernel forget it. So it is read past that memory (O_DIRECT); what was written and not flushed yet the
kernel writes first. A file system that cannot do so (tmpfs, which has no disk) is read as any file is.
"""

import errno
import mmap
import os
from pathlib import Path


class DiskReader:
    """One file. What is returned is valid until the next read."""

    def __init__(self, path: Path, usual_bytes: int) -> None:
        """``usual_bytes``: the length of most reads; what is longer gets memory of its own."""
        self._path = path
        self._direct = True
        self._fd = self._open()
        self._memory = mmap.mmap(-1, usual_bytes)  # begins on a page of the machine, as O_DIRECT wants it

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def read(self, at: int, size: int) -> memoryview:
        """As much of it as there is; nothing where it cannot be read. ``at`` and ``size`` are multiples of 4 KiB."""
        memory = self._memory if size <= len(self._memory) else mmap.mmap(-1, size)
        into = memoryview(memory)[:size]
        try:
            return into[: self._read(at, into)]
        except OSError:
            return into[:0]

    def _read(self, at: int, into: memoryview) -> int:
        if not self._direct:
            os.posix_fadvise(self._fd, at, len(into), os.POSIX_FADV_DONTNEED)  # what nobody maps just now is forgotten
        try:
            return os.preadv(self._fd, [into], at)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
        self._direct = False  # this file system opens such a file and then refuses to read it so
        os.close(self._fd)
        self._fd = self._open()
        return self._read(at, into)

    def _open(self) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC
        if self._direct:
            try:
                return os.open(self._path, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False
        return os.open(self._path, flags)
