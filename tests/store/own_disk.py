"""A disk of one's own: ext4 in a file, so that a bit can flip under the file system, where no cache of the kernel sees it."""

import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IMAGE_BYTES = 64 << 20
PAGE = 4096


class OwnDisk:
    """Mounted at ``root``."""

    def __init__(self, image: Path, root: Path) -> None:
        self.root = root
        self._image = image

    def flip(self, path: Path, page: int, at: int) -> None:
        """One bit of a page of a file, on the disk only. The page must have been flushed."""
        held = content(path, page)
        image = self._image.read_bytes()
        place = -PAGE
        while (place := image.find(held, place + PAGE)) >= 0:
            self._flip(place + at)
            if on_disk(path, page) != held:
                assert content(path, page) == held, "the kernel remembers it as it was"
                return
            self._flip(place + at)  # another file holds the same
        raise AssertionError(f"page {page} of {path} is not on the disk")

    def _flip(self, place: int) -> None:
        with self._image.open("r+b", buffering=0) as image:
            image.seek(place)
            byte = image.read(1)[0] ^ 1
            image.seek(place)
            image.write(bytes([byte]))
            os.fsync(image.fileno())


def content(path: Path, page: int) -> bytes:
    """As any reader sees it."""
    with path.open("rb") as file:
        file.seek(page * PAGE)
        return file.read(PAGE)


def on_disk(path: Path, page: int) -> bytes:
    """As the disk has it."""
    into = mmap.mmap(-1, PAGE)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        os.preadv(fd, [into], page * PAGE)
    finally:
        os.close(fd)
    return into[:]


@contextmanager
def own_disk(directory: Path) -> Iterator[OwnDisk]:
    """Skips the test where one may not mount."""
    if os.getuid() != 0 or not all(map(shutil.which, ("mkfs.ext4", "mount", "umount"))):
        pytest.skip("mounting a disk needs root and mkfs.ext4")
    image, root = directory / "disk.image", directory / "disk"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
    # The loop device goes with its mount.
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(root)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no loop mounts here: {mounted.stderr.strip()}")
    try:
        yield OwnDisk(image, root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)  # a test that failed has files of it open
