"""A server that comes back is brought up by what it lacks, and is then the same store, whatever happens on the way."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import tree_diff
from disk_recorder import DiskRecorder
from rejoining import EPOCH, SEGMENT, Cut, Machine, bring_up, stream

from zmqha.core import limits, lmdb_page
from zmqha.core.actions import StandDown
from zmqha.core.events import JournalFull, NoRoom
from zmqha.core.peer_protocol import CopyEnd, CopyRound, Held, Way
from zmqha.core.position import Position
from zmqha.errors import StoreDamaged, StoreFull
from zmqha.store import crash, lmdb_store
from zmqha.store.delta import DELTA_FILE, DeltaFile
from zmqha.store.page_file import STORE_FILE, PageReader, PageWriter
from zmqha.store.replica import COPY_FILE, Replica

Contents = dict[bytes, list[tuple[bytes, bytes]]]


def contents(path: Path) -> Contents:
    """All databases of a store that nobody has open."""
    env = lmdb_store.open_environment(path, map_bytes=1 << 30, readonly=True)
    try:
        found = {}
        for name in (b"log", b"parts", b"state"):
            base = env.open_db(name, create=False)
            with env.begin() as txn:
                found[name] = list(txn.cursor(base))
        return found
    finally:
        env.close()


def live_bytes(machine: Machine) -> int:
    store = machine.thread._store
    assert store is not None
    return sum(count for _, count in store.reader.live_runs(store.meta)) * 4096


class Two:
    """``a`` serves, ``b`` has followed it for a while and is in sync."""

    def __init__(self, directory: Path, seed: int = 1, commits: int = 120) -> None:
        self.rng = random.Random(seed)
        self.directory = directory
        self.a, self.b = Machine(directory / "a", "a"), Machine(directory / "b", "b")
        self.a.claim()
        for _ in range(commits):
            self.a.commit(self.rng)
        assert bring_up(self.a, self.b, Held()).ways == [Way.WHOLE]
        for _ in range(10):
            self.commit_both()

    def commit_both(self) -> None:
        assert self.b.position is not None
        stream(self.a, self.b, self.a.commit(self.rng, self.b.position.txn))

    def assert_equal(self) -> None:
        """Positions, and every record, after both have let go of their files."""
        for _ in range(3):
            self.commit_both()
        assert self.b.inspect().position == self.a.inspect().position
        assert contents(self.b.directory / STORE_FILE) == contents(self.a.directory / STORE_FILE)


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_after_a_short_absence_only_the_pages_written_meanwhile_are_sent(two: Two) -> None:
    held = two.b.inspect()
    for _ in range(5):
        two.a.commit(two.rng)
    done = bring_up(two.a, two.b, Held(held.position), copy=2)
    assert (done.ways, done.asked) == ([Way.DELTA], 0)
    assert 0 < done.sent < live_bytes(two.a) / 2
    two.assert_equal()


def test_who_comes_back_as_it_left_gets_no_more_than_what_it_had_not_acknowledged(two: Two) -> None:
    held = two.b.inspect()
    done = bring_up(two.a, two.b, Held(held.position), copy=2)
    assert (done.ways, done.asked) == ([Way.DELTA], 0)
    assert done.sent < 64 * limits.KIB
    two.assert_equal()


def test_a_source_that_was_restarted_compares_and_sends_what_differs(two: Two) -> None:
    held = two.b.inspect()
    for _ in range(5):
        two.a.commit(two.rng)
    two.a.inspect()
    two.a.claim(EPOCH._replace(counter=2))
    done = bring_up(two.a, two.b, Held(held.position), copy=2)
    assert (done.ways, done.asked) == ([Way.DELTA], 1)
    assert 0 < done.sent < live_bytes(two.a) / 2
    two.assert_equal()


def test_the_unconfirmed_tail_of_an_old_active_is_rolled_back(two: Two) -> None:
    """a was killed with commits that b never had; b took over and went on."""
    tail = [two.a.commit(two.rng) for _ in range(4)]
    held = two.a.inspect()
    assert held.position == tail[-1].position
    two.b.number, two.b.value = two.a.number, two.a.value + 50
    two.b.claim(EPOCH._replace(counter=2))
    for _ in range(6):
        two.b.commit(two.rng)
    assert two.b.thread._store is not None and not two.b.thread._store.absence.covers(held.position)
    done = bring_up(two.b, two.a, Held(held.position), copy=2)
    assert (done.ways, done.asked) == ([Way.DELTA], 1)
    assert 0 < done.sent < live_bytes(two.b) / 2
    two.a, two.b = two.b, two.a
    two.assert_equal()


def test_an_old_active_that_had_nothing_of_its_own_gets_the_pages_written_since_the_takeover(two: Two) -> None:
    held = two.a.inspect()
    two.b.number, two.b.value = two.a.number, two.a.value + 50
    two.b.claim(EPOCH._replace(counter=2))
    two.b.commit(two.rng)
    done = bring_up(two.b, two.a, Held(held.position), copy=2)
    assert (done.ways, done.asked) == ([Way.DELTA], 0)
    two.a, two.b = two.b, two.a
    two.assert_equal()


@pytest.mark.parametrize("flips", [1, 10])
def test_pages_that_rotted_are_found_and_sent_where_the_position_is_not_trusted(two: Two, flips: int) -> None:
    held = two.b.inspect()
    reader = PageReader(two.b.directory / STORE_FILE)
    pages = [page for first, count in reader.live_runs(reader.newest()) for page in range(first, first + count)]
    units = [page for page in pages if _is_head(reader, page)]
    reader.close()
    chosen = two.rng.sample(units, flips)
    with (two.b.directory / STORE_FILE).open("r+b") as file:
        for page in chosen:
            file.seek(page * 4096 + 4095)  # the last byte of a page in use is never in its hole
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 4]))
    done = bring_up(two.a, two.b, Held(held.position, trusted=False), copy=2)
    assert done.asked == 1 and 0 < done.sent < live_bytes(two.a) / 2
    two.assert_equal()


def _is_head(reader: PageReader, page: int) -> bool:
    content = reader.page(page, reader.newest())
    return int.from_bytes(content[:8], "little") == page and content[10] in (1, 2, 4) and content[10] != 4


def test_a_store_that_differs_in_most_pages_is_copied_whole(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COPY_TAIL_BYTES", 64 * limits.KIB)
    held = two.b.inspect()
    for _ in range(150):
        two.a.commit(two.rng, size=9000)
    done = bring_up(two.a, two.b, Held(held.position), copy=2)
    assert done.ways == [Way.WHOLE]
    two.assert_equal()


def test_a_store_too_large_to_compare_is_copied_whole(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TABLE_PAGES_MAX", 10)
    held = two.b.inspect()
    done = bring_up(two.a, two.b, Held(held.position, trusted=False), copy=2)
    assert (done.ways, done.asked) == ([Way.WHOLE], 0)
    two.assert_equal()


def test_commits_go_on_during_a_copy_and_come_in_later_rounds(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COPY_TAIL_BYTES", 64 * limits.KIB)
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 32 * limits.KIB)
    two.b.inspect()
    left = iter(range(40))

    def meanwhile() -> None:
        if next(left, None) is not None:
            two.a.commit(two.rng, size=6000)

    done = bring_up(two.a, two.b, Held(), copy=2, meanwhile=meanwhile)
    assert done.ways == [Way.WHOLE] and done.rounds >= 2
    two.assert_equal()


def test_after_each_round_the_follower_has_a_complete_store_to_come_back_with(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COPY_TAIL_BYTES", 16 * limits.KIB)
    two.b.inspect()
    whole = live_bytes(two.a)
    with pytest.raises(Cut):
        bring_up(two.a, two.b, Held(), copy=2, meanwhile=lambda: two.a.commit(two.rng), cut_after=whole + 4096)
    held = two.b.inspect()
    assert held.present and not held.partial and held.lineage[-1].epoch == EPOCH
    done = bring_up(two.a, two.b, Held(held.position), copy=3)
    assert done.ways == [Way.DELTA] and done.sent < whole / 2
    two.assert_equal()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_full_copy_that_broke_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    monkeypatch.setattr(limits, "CHUNK_BYTES_MAX", 32 * limits.KIB)
    a, b = Machine(tmp_path / "a", "a"), Machine(tmp_path / "b", "b")
    rng = random.Random(3)
    a.claim()
    for _ in range(150):
        a.commit(rng)
    whole = live_bytes(a)
    with pytest.raises(Cut):
        bring_up(a, b, Held(), cut_after=int(whole * 0.7))
    said = b.inspect()
    assert not said.present and said.partial
    if restarted:
        b = Machine(tmp_path / "b", "b")
    done = bring_up(a, b, Held(partial=True), copy=2)
    assert (done.ways, done.asked) == ([Way.REST], 1)
    assert done.sent < whole * 0.4
    stream(a, b, a.commit(rng))
    assert b.inspect().position == a.inspect().position
    assert contents(b.directory / STORE_FILE) == contents(a.directory / STORE_FILE)
    assert not (b.directory / COPY_FILE).exists()


def test_a_damaged_unit_of_the_source_is_not_sent_as_a_page(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source looks at what it compares: a page that is not what it says ends the copy, and with it this server."""
    held = two.b.inspect()
    store = two.a.thread._store
    assert store is not None
    root = store.meta.main_root
    with (two.a.directory / STORE_FILE).open("r+b") as file:
        file.seek(root * 4096)
        file.write(b"\xff")
    with pytest.raises(Exception, match=f"page {root} says"):
        bring_up(two.a, two.b, Held(held.position, trusted=False), copy=2)


# --- crashes ------------------------------------------------------------------------------------------------------------------


class Delta:
    """A delta of several frames and two rounds, as actions of the follower's store, with what the store holds before and after."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 1) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(limits, "CHUNK_BYTES_MAX", 16 * limits.KIB)
            patch.setattr(limits, "COPY_TAIL_BYTES", 32 * limits.KIB)
            two = Two(directory, seed, commits=60)
            held = two.b.inspect()
            self.old = directory / "b"
            scratch = Machine(Path(shutil.copytree(self.old, directory / "scratch")), "b")
            for _ in range(8):
                two.a.commit(two.rng)
            left = iter(range(3))
            done = bring_up(
                two.a,
                scratch,
                Held(held.position),
                copy=2,
                meanwhile=lambda: next(left, None) is not None and two.a.commit(two.rng),
            )
            assert done.ways == [Way.DELTA] and done.rounds >= 1 and len(scratch.taken) > 6
            self.actions = scratch.taken
            ends = [each.message.position for each in self.actions if isinstance(each.message, CopyRound | CopyEnd)]
            scratch.inspect()
            self.stages = {held.position: contents(self.old / STORE_FILE), ends[-1]: contents(scratch.directory / STORE_FILE)}
            self.ends = ends

    def copy(self, directory: Path) -> Machine:
        """The follower before it."""
        return Machine(Path(shutil.copytree(self.old, directory)), "b")

    def killed_at(self, point: str, directory: Path) -> None:
        """A follower that died there; what it left."""
        follower = self.copy(directory)
        child = os.fork()
        if not child:
            crash._NAME, _, times = point.partition(":")
            crash._left = int(times or 1)
            follower.replay(self.actions)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    def assert_whole(self, directory: Path) -> Position:
        """What a restart finds: one of the complete stores, never a mixture."""
        replica = Replica.open(directory, SEGMENT)
        assert replica is not None and not replica.ahead
        position = replica.position
        replica.close()
        assert position in self.stages or position in self.ends
        image = (directory / STORE_FILE).read_bytes()
        tree_diff.live_pages(image, lmdb_page.newest_meta(image))  # before LMDB, which may end the process on a broken file
        found = contents(directory / STORE_FILE)
        assert position not in self.stages or found == self.stages[position]
        return position

    def assert_whole_after_cuts(self, recorder: DiskRecorder, tmp_path: Path, seed: int) -> None:
        """Power cuts at any moment of what was recorded: a restart finds whole stores, and not always the same."""
        rng, found = random.Random(seed), set()
        for number in range(60):
            target = tmp_path / f"image{number}"
            target.mkdir()
            recorder.image(recorder.cut(rng), rng, target)
            found.add(self.assert_whole(target))
            shutil.rmtree(target)
        assert len(found) > 1


POINTS = (
    "copy_target_pages:2", "before_delta_end", "before_delta_sync", "after_delta_end", "delta_apply", "delta_apply:3",
    "before_meta_write", "between_meta_writes", "after_meta_write", "before_delta_reset", "before_delta_unlink", "before_delta_end:2",
    "delta_apply:4", "before_delta_unlink:2",
)  # fmt: skip


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Delta:
    with pytest.MonkeyPatch.context() as patch:
        return Delta(tmp_path_factory.mktemp("delta"), patch)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_a_delta_leaves_a_complete_store(tmp_path: Path, delta: Delta, point: str) -> None:
    delta.killed_at(point, tmp_path / "b")
    position = delta.assert_whole(tmp_path / "b")
    before_it_counts = point in ("copy_target_pages:2", "before_delta_end")
    assert (position not in delta.ends) == before_it_counts
    assert not (tmp_path / "b" / DELTA_FILE).exists()


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_during_a_delta_leaves_a_complete_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delta: Delta, seed: int
) -> None:
    follower = delta.copy(tmp_path / "b")
    with monkeypatch.context() as patch:
        recorder = DiskRecorder(tmp_path / "b", patch)
        follower.replay(delta.actions)
    delta.assert_whole_after_cuts(recorder, tmp_path, seed)


def test_an_end_that_only_the_page_cache_holds_is_flushed_before_the_store_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delta: Delta
) -> None:
    delta.killed_at("before_delta_sync", tmp_path / "b")
    written = (tmp_path / "b" / DELTA_FILE).read_bytes()
    with monkeypatch.context() as patch:
        recorder = DiskRecorder(tmp_path / "b", patch)
        recorder.left_by_a_kill(DELTA_FILE, written.rindex(b"ZEND"))
        delta.assert_whole(tmp_path / "b")
    delta.assert_whole_after_cuts(recorder, tmp_path, 1)


def test_a_restart_gives_a_sign_of_life_at_every_record_and_flushes_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delta: Delta
) -> None:
    delta.killed_at("after_delta_end", tmp_path / "b")
    records = (tmp_path / "b" / DELTA_FILE).read_bytes().count(b"ZDLT")
    assert records > 2
    flushes: list[int] = []
    sync = PageWriter.sync
    monkeypatch.setattr("zmqha.store.delta.FLUSH_EVERY_BYTES", 1)
    monkeypatch.setattr(PageWriter, "sync", lambda self: (flushes.append(1), sync(self)))
    follower = Machine(tmp_path / "b", "b")
    assert follower.inspect().position == delta.ends[0]
    assert follower.thread.moves >= 2 * records and len(flushes) >= records


def test_a_delta_that_was_whole_and_rotted_is_said_to_be_damage(
    tmp_path: Path, delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = delta.copy(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr("zmqha.store.delta._apply", _fail)
        with pytest.raises(Cut):
            follower.replay(delta.actions)
    with (tmp_path / "b" / DELTA_FILE).open("r+b") as file:
        file.seek(9000)
        file.write(b"rot")
    with pytest.raises(StoreDamaged, match="cannot be read any more"):
        Replica.open(tmp_path / "b", SEGMENT)


def _fail(*_: object) -> None:
    raise Cut


def test_no_space_for_a_delta_leaves_the_old_store_and_the_copy_can_begin_again(
    tmp_path: Path, delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = delta.copy(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(DeltaFile, "append", _full)
        said = follower.replay(delta.actions[:2])
    assert isinstance(said[-1], JournalFull)
    follower.inspect()
    delta.assert_whole(tmp_path / "b")
    follower.replay(delta.actions)
    assert follower.inspect().position == delta.ends[-1]


def _full(*_: object) -> None:
    raise StoreFull("the disk under the store is full", cause="no space")


def test_no_space_while_a_whole_delta_is_laid_over_the_store_is_made_up_for_later(
    tmp_path: Path, delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = delta.copy(tmp_path / "b")
    end = next(at for at, action in enumerate(delta.actions) if isinstance(action.message, CopyRound))
    with monkeypatch.context() as patch:
        patch.setattr(PageWriter, "write_metas", _full)
        assert isinstance(follower.replay(delta.actions[: end + 1])[-1], JournalFull)
        (refused,) = follower.do(StandDown())
        assert isinstance(refused, NoRoom) and "disk is full" in refused.why
    found = follower.inspect()
    assert found.position == delta.ends[0] and not found.fault
