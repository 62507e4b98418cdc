"""The journal gives back what was flushed, drops what was half written, and says so when something is lost."""

import errno
import os
from pathlib import Path

import pytest
from source_store import SourceStore

from zmqha.core import shipment
from zmqha.core.shipment import Shipment
from zmqha.errors import StoreDamaged, StoreFull
from zmqha.store import journal as journal_module
from zmqha.store import journal_record
from zmqha.store.journal import Journal, Recovered
from zmqha.store.journal_record import ALIGN, Baseline, Record, space

SEGMENT = 128 * 1024


@pytest.fixture(scope="module")
def ships(tmp_path_factory: pytest.TempPathFactory) -> list[Shipment]:
    """Thirty shipments in a row."""
    source = SourceStore(tmp_path_factory.mktemp("source") / "store", 11, large=3000)
    found: list[Shipment] = []
    while len(found) < 30:
        found += source.commit()
    source.close()
    return found


def before(ships: list[Shipment], index: int) -> Baseline:
    assert index > 0
    return Baseline(ships[index - 1].position, ships[index - 1].meta)


def append(journal: Journal, ship: Shipment, pieces: int = 1) -> None:
    size = -(-len(ship.payload) // pieces)
    for index in range(pieces):
        piece = ship.payload[index * size : (index + 1) * size]
        journal.append(shipment.Chunk(ship.position, index, pieces, b"" if index else ship.head, piece))


def recover(directory: Path) -> Recovered:
    recovered = Journal(directory, SEGMENT).recover()
    assert recovered is not None
    return recovered


def started(directory: Path, baseline: Baseline) -> Journal:
    journal = Journal(directory, SEGMENT)
    assert journal.recover() is None
    journal.reset(baseline)
    return journal


def test_a_new_journal_is_its_baseline(tmp_path: Path, ships: list[Shipment]) -> None:
    started(tmp_path, before(ships, 1)).close()
    recovered = recover(tmp_path)
    assert recovered.settled and recovered.position == ships[0].position
    assert list(recovered.shipments) == []


def test_shipments_come_back_in_order_also_in_pieces(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    for index, ship in enumerate(ships[1:5]):
        append(journal, ship, pieces=index + 1)
    journal.flush()
    recovered = recover(tmp_path)
    assert recovered.position == ships[4].position and not recovered.settled
    assert list(recovered.shipments) == ships[1:5]


def test_an_incomplete_shipment_is_dropped(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    append(journal, ships[1])
    half = ships[2]
    journal.append(shipment.Chunk(half.position, 0, 2, half.head, half.payload[:100]))
    journal.flush()
    recovered = recover(tmp_path)
    assert recovered.position == ships[1].position
    assert list(recovered.shipments) == [ships[1]]


def test_a_shipment_taken_back_leaves_nothing_behind(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    half = ships[1]
    for index in range(3):
        journal.append(shipment.Chunk(half.position, index, 9, b"" if index else half.head, half.payload[:1000]))
        journal.flush()
    journal.rewind()
    append(journal, ships[1], 2)
    journal.flush()
    assert list(recover(tmp_path).shipments) == [ships[1]]


def test_both_segments_are_replayed_until_the_older_is_checkpointed(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    generation = journal.generation
    append(journal, ships[1])
    journal.switch(before(ships, 2))
    append(journal, ships[2])
    journal.flush()
    assert journal.checkpoint_needed == generation
    recovered = recover(tmp_path)
    assert list(recovered.shipments) == ships[1:3] and recovered.base == before(ships, 1)
    journal.checkpointed(generation)
    journal.switch(before(ships, 3))
    append(journal, ships[3])
    journal.flush()
    recovered = recover(tmp_path)
    assert list(recovered.shipments) == ships[2:4] and recovered.base == before(ships, 2)


def test_a_switch_without_checkpoint_is_our_own_bug(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    journal.switch(before(ships, 1))
    with pytest.raises(AssertionError):
        journal.switch(before(ships, 1))


def test_a_segment_that_is_still_needed_and_unreadable_is_damage(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    older = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    append(journal, ships[1])
    journal.switch(before(ships, 2))
    append(journal, ships[2])
    journal.flush()
    whole = older.read_bytes()
    for at in (20, 700):  # the baseline, the shipment
        older.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreDamaged):
            recover(tmp_path)


def test_the_newer_segment_is_not_silently_replaced_by_the_older(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    append(journal, ships[1])
    journal.switch(before(ships, 2))
    newer = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    for ship in ships[2:4]:
        append(journal, ship)
        journal.flush()
    whole = newer.read_bytes()
    newer.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(StoreDamaged):
        recover(tmp_path)


def test_no_flipped_bit_before_the_last_flush_goes_unnoticed(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    path = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    for ship in ships[1:4]:
        append(journal, ship)
        journal.flush()
    acknowledged = journal._at
    append(journal, ships[4])
    journal.flush()
    whole = path.read_bytes()
    good = list(recover(tmp_path).shipments)
    for at in range(0, acknowledged, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert list(recover(tmp_path).shipments) == good  # padding between records
        except StoreDamaged:
            pass


def test_a_flipped_bit_in_the_last_record_ends_the_journal_there(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    path = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    append(journal, ships[1])
    journal.flush()
    start = journal._at
    append(journal, ships[2])
    journal.flush()
    whole = path.read_bytes()
    for at in range(start, start + 130, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert list(recover(tmp_path).shipments) == [ships[1]]


@pytest.mark.parametrize("size", [0, 100, 5000, SEGMENT // 2])
def test_a_cut_off_segment_never_yields_what_was_not_written(tmp_path: Path, ships: list[Shipment], size: int) -> None:
    journal = started(tmp_path, before(ships, 1))
    path = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    for ship in ships[1:5]:
        append(journal, ship)
    journal.flush()
    path.write_bytes(path.read_bytes()[:size])
    try:
        recovered = Journal(tmp_path, SEGMENT).recover()
    except StoreDamaged:
        return
    if recovered is None:
        assert size < 200
        return
    found = list(recovered.shipments)
    assert found == ships[1 : 1 + len(found)]


def test_records_of_an_earlier_generation_are_never_read(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    for _ in range(4):  # the same bytes at the same places, under other generations
        for ship in ships[1:6]:
            append(journal, ship)
        journal.flush()
        journal.reset(before(ships, 1))
        assert recover(tmp_path).settled


def test_bytes_of_a_client_that_look_like_a_record_are_not_one(tmp_path: Path, ships: list[Shipment]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger = started(other, before(ships, 1))
    for ship in ships[1:4]:
        append(stranger, ship)
        stranger.flush()
    forged = (other / journal_module.SEGMENT_FILES[stranger._current]).read_bytes()
    journal = started(tmp_path, before(ships, 1))
    append(journal, ships[1])
    journal.flush()
    path = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    whole = path.read_bytes()
    at = journal._at + 4 * ALIGN
    path.write_bytes((whole[:at] + forged)[:SEGMENT])
    assert list(recover(tmp_path).shipments) == [ships[1]]


def test_room_is_counted_with_the_closing_record(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    for ship in ships[1:]:
        if not journal.room_for(space(ship.size)):
            journal.switch(before(ships, ships.index(ship)))
            journal.checkpointed(journal.generation - 1)
        append(journal, ship)
    journal.flush()
    assert recover(tmp_path).position == ships[-1].position


def test_starting_over_works_on_any_content(tmp_path: Path, ships: list[Shipment]) -> None:
    started(tmp_path, before(ships, 1)).close()
    for name in journal_module.SEGMENT_FILES:
        (tmp_path / name).write_bytes(b"\xff" * SEGMENT)
    journal = Journal(tmp_path, SEGMENT)
    with pytest.raises(StoreDamaged):
        journal.recover()
    journal.start_over()
    journal.reset(before(ships, 3))
    assert recover(tmp_path).position == ships[2].position


def test_no_space_out_of_a_flush_is_not_a_clean_full(
    tmp_path: Path, ships: list[Shipment], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = started(tmp_path, before(ships, 1))
    append(journal, ships[1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", no_space)
        with pytest.raises(OSError, match="No space"):
            journal.flush()


def test_a_journal_that_could_not_be_opened_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, SEGMENT)
    known = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", no_space)
        with pytest.raises(StoreFull):
            journal.prepare()
    assert len(os.listdir("/proc/self/fd")) == known
    journal.prepare()
    assert [(tmp_path / name).stat().st_size for name in journal_module.SEGMENT_FILES] == [SEGMENT, SEGMENT]


@pytest.mark.parametrize(("kind", "head"), [(9, b""), (1, b"\xc1"), (1, b"\x91\x01"), (3, b"")])
def test_a_baseline_of_another_version_is_damage(tmp_path: Path, ships: list[Shipment], kind: int, head: bytes) -> None:
    journal = started(tmp_path, before(ships, 1))
    path = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    write_record(path, 0, Record(kind, 1, 9, 0, 0, ships[0].position, 0, 1, head, b""))
    with pytest.raises(StoreDamaged):
        recover(tmp_path)


def test_a_record_of_another_version_is_damage(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    path = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    record = Record(77, journal._journal, journal.generation, journal._sequence, 0, ships[0].position, 0, 1, b"", b"")
    write_record(path, journal._at, record)
    with pytest.raises(StoreDamaged):
        recover(tmp_path)


def test_bytes_of_a_client_that_look_like_a_record_of_another_version_are_not_one(tmp_path: Path, ships: list[Shipment]) -> None:
    journal = started(tmp_path, before(ships, 1))
    path = tmp_path / journal_module.SEGMENT_FILES[journal._current]
    write_record(path, journal._at + 4 * ALIGN, Record(77, 1, 99, 5, 5, ships[0].position, 0, 1, b"", b""))
    assert recover(tmp_path).position == ships[0].position


def write_record(path: Path, at: int, record: Record) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.writelines(journal_record.encode(record))


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
