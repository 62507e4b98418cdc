"""What a node writes down survives torn writes and a full disk; what is damaged is said to be."""

import errno
import os
from pathlib import Path

import msgspec
import pytest
import xxhash

from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import Standing
from zmqha.core.position import Epoch
from zmqha.errors import ConfigError, StoreDamaged
from zmqha.store import node_state
from zmqha.store.node_state import SLOT_BYTES, NodeState

FACTS = NodeFacts("cluster", "node-a", 1, Epoch(1, 2**64 - 1), Standing.SOLE, "first start")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.state"


def saved(path: Path, count: int) -> list[NodeFacts]:
    state = NodeState(path)
    facts = [FACTS._replace(incarnation=number) for number in range(1, count + 1)]
    for each in facts:
        state.save(each)
        state.mirror()
    state.close()
    return facts


def test_no_file_is_a_new_node(path: Path) -> None:
    assert NodeState(path).load() is None


@pytest.mark.parametrize("size", [0, 10, SLOT_BYTES, 2 * SLOT_BYTES])
def test_a_file_that_was_made_and_never_written_to_is_a_new_node(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    state = NodeState(path)
    assert state.load() is None
    state.save(FACTS)
    assert NodeState(path).load() == FACTS and path.stat().st_size == 2 * SLOT_BYTES


def test_the_last_facts_saved_are_loaded(path: Path) -> None:
    for count in (1, 2, 3):
        path.unlink(missing_ok=True)
        assert NodeState(path).load() is None
        facts = saved(path, count)
        assert NodeState(path).load() == facts[-1]
        assert path.stat().st_size == 2 * SLOT_BYTES


def test_saving_goes_on_in_the_other_slot_after_a_restart(path: Path) -> None:
    saved(path, 2)
    state = NodeState(path)
    assert state.load() is not None
    before = path.read_bytes()
    state.save(FACTS._replace(incarnation=3))
    after = path.read_bytes()
    assert after[:SLOT_BYTES] == before[:SLOT_BYTES] and after[SLOT_BYTES:] != before[SLOT_BYTES:]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("slot", [0, 1])
def test_a_flipped_bit_in_either_slot_never_brings_older_facts_back(path: Path, slot: int, count: int) -> None:
    """SOLE, then PAIRED: the older one would let a stale store serve (I3)."""
    facts = saved(path, count)
    whole = path.read_bytes()
    for at in range(len(whole[:SLOT_BYTES].rstrip(b"\0"))):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[slot * SLOT_BYTES + at] ^= 1 << bit
            path.write_bytes(damaged)
            assert NodeState(path).load() == facts[-1]


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("count", [2, 3])
def test_a_save_after_one_slot_was_lost_is_written_there_first(path: Path, count: int, lost: int) -> None:
    facts = saved(path, count)
    whole = bytearray(path.read_bytes())
    whole[lost * SLOT_BYTES : (lost + 1) * SLOT_BYTES] = bytes(SLOT_BYTES)
    path.write_bytes(whole)
    state = NodeState(path)
    assert state.load() == facts[-1]
    state.save(FACTS._replace(incarnation=9))
    before, after = bytes(whole), path.read_bytes()
    kept = slice((1 - lost) * SLOT_BYTES, (2 - lost) * SLOT_BYTES)
    assert after[kept] == before[kept], "torn, it leaves what counts"
    state.mirror()
    assert NodeState(path).load() == FACTS._replace(incarnation=9)


def test_a_mirror_that_was_torn_or_never_written_changes_nothing(path: Path) -> None:
    saved(path, 3)
    state, newest = NodeState(path), FACTS._replace(incarnation=4)
    state.load()
    state.save(newest)
    assert NodeState(path).load() == newest
    before = path.read_bytes()
    state.mirror()
    after = path.read_bytes()
    assert after[:SLOT_BYTES] == after[SLOT_BYTES:] == before[:SLOT_BYTES]
    for kept in range(0, SLOT_BYTES, 512):
        path.write_bytes(before[:SLOT_BYTES] + after[SLOT_BYTES : SLOT_BYTES + kept] + before[SLOT_BYTES + kept :])
        assert NodeState(path).load() == newest
    path.write_bytes(before)
    state.mirror()
    assert path.read_bytes() == before, "once is enough"


@pytest.mark.parametrize("kept", range(0, SLOT_BYTES, 512))
def test_a_torn_save_leaves_the_facts_before_it(path: Path, kept: int) -> None:
    facts = saved(path, 3)
    before, after = path.read_bytes(), None
    state = NodeState(path)
    state.load()
    state.save(FACTS._replace(incarnation=4))
    after = path.read_bytes()
    path.write_bytes(after[:kept] + before[kept:])
    assert NodeState(path).load() in (facts[-1], FACTS._replace(incarnation=4))


def test_every_flipped_bit_in_both_slots_is_found(path: Path) -> None:
    saved(path, 2)
    whole = path.read_bytes()
    used = len(whole[SLOT_BYTES:].rstrip(b"\0"))
    for at in range(used):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        damaged[SLOT_BYTES + at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(StoreDamaged):
            NodeState(path).load()


@pytest.mark.parametrize("size", [10, 60])
def test_a_cut_off_file_is_damaged_and_is_set_aside_not_deleted(path: Path, size: int) -> None:
    saved(path, 1)
    path.write_bytes(path.read_bytes()[:size])
    state = NodeState(path)
    with pytest.raises(StoreDamaged):
        state.load()
    path.with_name("node.state.damaged-1").write_bytes(b"an older one")
    assert state.set_aside() == path.with_name("node.state.damaged-2")
    assert state.load() is None
    state.save(FACTS)
    assert NodeState(path).load() == FACTS


def test_the_largest_texts_fit_a_slot(path: Path) -> None:
    facts = FACTS._replace(reason="ä" * 5000, audit=tuple("ä" * 900 for _ in range(9)))
    NodeState(path).save(facts)
    loaded = NodeState(path).load()
    assert loaded is not None and len(loaded.audit) == 4 and loaded.standing is Standing.SOLE


def foreign_slot(number: int, value: object) -> bytes:
    """A whole slot as another version may write it."""
    raw = msgspec.msgpack.encode(value)
    check = xxhash.xxh3_64_intdigest(number.to_bytes(8, "little") + raw)
    return (node_state._SLOT.pack(node_state._MAGIC, len(raw), number, check) + raw).ljust(SLOT_BYTES, b"\0")


@pytest.mark.parametrize("value", [{"version": 2}, ["c", "n", "not a number"], ["c", "n", 1, [1, 2], "a standing to come"], 7])
def test_a_newer_slot_of_another_version_is_refused_and_the_file_stays(path: Path, value: object) -> None:
    saved(path, 2)
    whole = path.read_bytes()[:SLOT_BYTES] + foreign_slot(3, value)
    path.write_bytes(whole)
    with pytest.raises(ConfigError, match="another version") as caught:
        NodeState(path).load()
    assert caught.value.cause and caught.value.cure
    assert path.read_bytes() == whole and list(path.parent.iterdir()) == [path]


def test_an_older_slot_of_another_version_does_not_matter(path: Path) -> None:
    facts = saved(path, 2)
    path.write_bytes(path.read_bytes()[:SLOT_BYTES] + foreign_slot(1, {"version": 0}))
    assert NodeState(path).load() == facts[-1]


def test_no_space_out_of_a_flush_is_not_a_clean_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    state = NodeState(path)
    state.save(FACTS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", no_space)
        with pytest.raises(OSError, match="No space"):
            state.save(FACTS)
