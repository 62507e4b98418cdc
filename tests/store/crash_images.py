"""Lives of a store, recorded write by write, and the judgement over every image that a power cut may leave of them.

The passive's files: copy, journal, applied pages (calls of ``os``, recorded in this process). The active's: LMDB's own writes, which
no Python sees, recorded by the preloaded disk shim in a process of its own. An image must open at the transaction that was last
acknowledged or at a later one, and hold exactly what that transaction held.
"""

import os
import pickle
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import active_life
import pytest
import tree_diff
from disk_recorder import Acknowledged, DiskRecorder, Event, Flush, Name, Recording, Write
from following import copied, reopened
from source_store import Contents, SourceStore, contents, contents_of

from tests.system import disk_faults
from zmqha.core import lmdb_page, shipment
from zmqha.core.events import KeptBranch
from zmqha.errors import StoreDamaged
from zmqha.store.inspection import inspect
from zmqha.store.page_file import STORE_FILE
from zmqha.store.replica import Replica

SEGMENT = 96 * 1024
_HEAD = struct.Struct("<QQQQQ")
SYNC, WRITE = 0, 1  # as in disk_faults.c


# --- the passive -------------------------------------------------------------------------------------------------------------------


def passive_life(place: Path, seed: int) -> tuple[DiskRecorder, dict[int, Contents]]:
    """A passive from its copy on: takes, flushes, applies, switches, settles, restarts; and what each transaction holds."""
    source = SourceStore(place / "source", seed, large=4000)
    for _ in range(5):
        source.commit()
    directory = place / "b"
    directory.mkdir()
    models = {source.meta.txnid: contents(source.env)}
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        recorder = DiskRecorder(directory, patch)
        replica = copied(source, directory, SEGMENT)
        recorder.acknowledge(source.position.txn)
        for _ in range(100):
            for ship in source.commit():
                models[source.meta.txnid] = contents(source.env)
                for chunk in shipment.chunks(ship):
                    replica.take(chunk)
            draw = rng.random()
            if draw < 0.7:
                recorder.acknowledge(replica.flush().txn)
            if draw < 0.4:
                replica.apply(rng.choice((1, 20_000, 1 << 30)))
            if 0.70 < draw < 0.73:
                replica.settle()
                recorder.acknowledge(replica.position.txn)
            if 0.80 < draw < 0.83:
                replica.close()
                replica = reopened(directory, SEGMENT)
                assert replica.position == source.position  # the page cache outlives a process, flushed or not
        replica.close()
    source.close()
    return recorder, models


def growing_life(place: Path, seed: int) -> tuple[DiskRecorder, dict[int, Contents]]:
    """Only this: a passive settles what made its file longer."""
    source = SourceStore(place / "source", seed, large=4000)
    source.commit()
    directory = place / "b"
    replica = copied(source, directory, SEGMENT)
    for _ in range(5):
        for ship in source.commit():
            for chunk in shipment.chunks(ship):
                replica.take(chunk)
    replica.flush()
    with pytest.MonkeyPatch.context() as patch:
        recorder = DiskRecorder(directory, patch)
        recorder.acknowledge(replica.position.txn)
        replica.settle()
    models = {source.meta.txnid: contents(source.env)}
    replica.close()
    source.close()
    return recorder, models


def judge_passive(target: Path, acknowledged: int, models: dict[int, Contents]) -> int | None:
    """How far beyond the last acknowledged transaction an image stands; None if the copy was not whole yet."""
    if not acknowledged:
        return None
    replica = Replica.open(target, SEGMENT)
    assert replica is not None and not replica.ahead
    assert replica.position.txn >= acknowledged
    _walk(target / STORE_FILE)
    assert contents_of(target / STORE_FILE) == models[replica.position.txn]
    replica.close()
    return replica.position.txn - acknowledged


# --- the active --------------------------------------------------------------------------------------------------------------------


def active_recording(place: Path, seed: int) -> tuple[Recording, dict[int, active_life.Model]]:
    """What ``active_life`` wrote, and what each of its transactions holds. Needs gcc."""
    directory, log, models = place / "a", place / "writes", place / "models"
    directory.mkdir()
    environment = {
        **os.environ, "LD_PRELOAD": str(disk_faults.library()), "DISK_FAULTS_BELOW": str(directory.resolve()), "DISK_RECORD": str(log),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    command = [sys.executable, active_life.__file__, str(directory), str(seed), str(models)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    names = {path.stat().st_ino: path.name for path in directory.iterdir()}
    root = directory.stat().st_ino
    events = list(_events(log.read_bytes(), names))
    file = next(inode for inode, name in names.items() if name == STORE_FILE)
    return Recording(root, [Name(STORE_FILE, file, None), Flush(root, 1), *events]), pickle.loads(models.read_bytes())


def _events(raw: bytes, names: dict[int, str]) -> Iterator[Event]:
    """The records of ``disk_faults.c``; two events stand before them."""
    at = 0
    while at < len(raw):
        call, inode, offset, size, before = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        if call == SYNC:
            yield Flush(inode, before + 2)
            continue
        assert call == WRITE
        data = raw[at : at + size]
        at += size
        if names.get(inode) == active_life.ACKNOWLEDGED:
            yield Acknowledged(int.from_bytes(data, "little"))
        else:
            yield Write(inode, offset, data)


def judge_active(target: Path, acknowledged: int, models: dict[int, active_life.Model]) -> int | None:
    """As ``judge_passive``; the position is computed as a start does. Before the first transaction is acknowledged, only that."""
    try:
        found = inspect(target, SEGMENT, KeptBranch, lambda: None)
    except StoreDamaged:
        assert not acknowledged  # LMDB's making of the file was cut short
        return None
    if not acknowledged:
        return None
    _walk(target / STORE_FILE)
    position = found.position
    assert found.present and position.txn >= acknowledged
    expected, holds = models[position.txn]
    assert (position.txn, position.chain) == (expected.txn, expected.chain)
    assert active_life.held_by(target / STORE_FILE) == holds
    return position.txn - acknowledged


# --- images ------------------------------------------------------------------------------------------------------------------------


def some_images(recording: Recording, count: int, seed: int, place: Path) -> Iterator[tuple[Path, int]]:
    """Power cuts at random moments, with random parts of what was not flushed: (directory, last acknowledged transaction)."""
    rng = random.Random(seed)
    for number in range(count):
        yield _image(recording, recording.cut(rng), rng, place / f"image{number}")


def images_at(recording: Recording, cut: int, count: int, seed: int, place: Path) -> Iterator[tuple[Path, int]]:
    """Power cuts after so many events, each with another part of what was not flushed."""
    rng = random.Random(seed)
    for number in range(count):
        yield _image(recording, cut, rng, place / f"image{number}")


def every_prefix(recording: Recording, seed: int, place: Path) -> Iterator[tuple[Path, int]]:
    """A power cut after each event, with a random part of what was not flushed."""
    rng = random.Random(seed)
    for cut in range(len(recording.events) + 1):
        yield _image(recording, cut, rng, place / f"prefix{cut}")


def _image(recording: Recording, cut: int, rng: random.Random, target: Path) -> tuple[Path, int]:
    target.mkdir()
    return target, recording.image(cut, rng, target)


def _walk(path: Path) -> None:
    """LMDB itself may end the process on a broken file; find that out first."""
    image = path.read_bytes()
    tree_diff.live_pages(image, lmdb_page.newest_meta(image))
