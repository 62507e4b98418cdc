"""What has rotted on the disk only, while the kernel remembers it sound: found, and sent again."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_disk import OwnDisk, content, on_disk, own_disk
from rejoining import Machine, bring_up, followed

from zmqha.core.events import Damaged
from zmqha.core.peer_protocol import Held
from zmqha.core.position import NOWHERE
from zmqha.store.page_file import STORE_FILE, PageReader


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[OwnDisk]:
    with own_disk(tmp_path) as disk:
        yield disk


def paired(a_root: Path, b_root: Path) -> tuple[Machine, Machine, random.Random]:
    """One that serves, one that follows; both have looked at all they hold."""
    a, b, rng = followed(a_root / "a", b_root / "b")
    a.thread.scrub.mib_per_s = b.thread.scrub.mib_per_s = 1000
    assert looked(a) == looked(b) == []
    return a, b, rng


def looked(machine: Machine) -> list[str]:
    """What two cycles of the scrub find."""
    scrub = machine.thread.scrub
    until = scrub.counts().cycles + 2
    while scrub.counts().cycles < until:
        machine.thread._scrub_step()
    found = [event.why for event in machine.events if isinstance(event, Damaged)]
    machine.events.clear()
    return found


def close(machine: Machine) -> None:
    """The process ends."""
    machine.thread._close_all()
    machine.thread._state.close()


def in_use(machine: Machine) -> int:
    """Some page of its newest snapshot."""
    reader = PageReader(machine.directory / STORE_FILE)
    try:
        return reader.live_runs(reader.newest())[0][0]
    finally:
        reader.close()


def test_rot_on_the_disk_of_the_active_is_found(disk: OwnDisk, tmp_path: Path) -> None:
    a, _, _ = paired(disk.root, tmp_path)
    page = in_use(a)
    disk.flip(a.directory / STORE_FILE, page, 4095)

    assert looked(a) == [f"page {page} of the store does not hold what was written there"]
    close(a)


def test_rot_on_the_disk_of_the_passive_is_found_and_sent_again(disk: OwnDisk, tmp_path: Path) -> None:
    a, b, _ = paired(tmp_path, disk.root)
    b.inspect()
    bring_up(a, b, Held(b.position), copy=2)
    looked(b)
    page, store = in_use(b), b.directory / STORE_FILE
    sound = content(store, page)
    disk.flip(store, page, 4095)

    assert looked(b) == [f"page {page} of the store does not hold what was written there"]
    b.inspect()
    done = bring_up(a, b, Held(b.position or NOWHERE, trusted=False), copy=3)
    b.inspect()
    assert (done.asked, done.sent, on_disk(store, page) == sound) == (1, 4096, True)
    close(b)
