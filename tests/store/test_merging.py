"""What a store remembers of its peer, what is read from a lost branch, and how its file is kept."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from zmqha.core import limits
from zmqha.core.actions import KeepBranch, ReadBranch
from zmqha.core.branch import NO_PAST, Batches, Difference, Done, Survey
from zmqha.core.events import Event, KeptBranch, SalvagePart, Surveyed
from zmqha.core.message import batch_of, records
from zmqha.core.position import Epoch, Mode
from zmqha.core.work import Append, CursorRow, DestinationRow, Work
from zmqha.errors import NoSpace, StoreFull
from zmqha.store import kept, shared_past
from zmqha.store.alive import ROWS
from zmqha.store.handover import Handover
from zmqha.store.kept import Kept
from zmqha.store.lmdb_store import LmdbStore
from zmqha.store.page_file import STORE_FILE
from zmqha.store.records import log_key, log_value
from zmqha.store.salvage import Branch

EPOCH = Epoch(1, 7)
SURVEY = Survey(3, (), ())


def append(value: int, offset: int, *names: str, queue: int = 1) -> Work:
    batch = batch_of([name.encode() for name in names], producer=5, first=offset + 1)
    return Work(value, value, (Append(queue, offset, len(names), batch),))


def made(directory: Path) -> LmdbStore:
    """A store that a begins: two queues, three messages, of which the peer holds everything."""
    store = LmdbStore(directory, None)
    store.image("a")
    store.begin_epoch(EPOCH, Mode.SOLE, "a", "first start", 0, 0)
    rows = (DestinationRow(1, "q", 0, 0), DestinationRow(2, "gone", 0, 0))
    store.commit(Work(1, 0, destinations=rows), EPOCH, 0)
    store.commit(append(1, 0, "0", "1", "2"), EPOCH, 0)
    store.past.copied(store.position.txn)
    return store


def test_the_past_is_what_the_peer_is_known_to_hold_and_stays_there_while_it_is_away(tmp_path: Path) -> None:
    store = made(tmp_path)
    assert store.past.settle() == NO_PAST
    shared = store.position.txn
    store.commit(append(2, 3, "3"), EPOCH, shared)
    assert (store.past.settle().txn, store.past.settle().queues[0].tail) == (shared, 3)
    second = store.position.txn
    store.commit(append(3, 4, "4"), EPOCH, second)
    store.commit(append(4, 5, "5"), EPOCH, 0)  # the peer is gone
    past = store.past.settle()
    assert (past.txn, past.last_value, past.queues[0].tail) == (second, 2, 4)
    store.close()


def test_a_peer_that_lags_too_far_behind_leaves_the_past_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_past, "NOTES_MAX", 3)
    store = made(tmp_path)
    shared = store.position.txn
    store.commit(append(2, 3, "3"), EPOCH, shared)
    for value in range(3, 8):
        store.commit(append(value, value + 1, "x"), EPOCH, shared)
    store.commit(append(8, 9, "x"), EPOCH, store.position.txn)
    assert store.past.settle().txn == shared
    store.past.copied(store.position.txn)  # a new copy
    copied = store.position.txn
    store.commit(append(9, 10, "x"), EPOCH, copied)
    assert store.past.settle().txn == copied
    store.close()


def test_what_the_peer_wrote_it_holds_and_what_this_server_wrote_it_remembers(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.commit(append(2, 3, "3"), EPOCH, store.position.txn)
    store.begin_epoch(Epoch(2, 7), Mode.SOLE, "a", "the peer is gone", 0, 0)
    past, position = store.past.row, store.position
    store.close()
    again = LmdbStore(tmp_path, position)
    again.image("a")
    assert again.past.settle() == past
    again.image("b")
    assert (again.past.settle().txn, again.past.settle().queues[0].tail) == (position.txn, 4)
    again.close()


@pytest.mark.parametrize("heard", [2, 1, 0])
def test_acknowledgements_of_what_the_peer_got_last_are_handed_over_whether_it_was_heard_or_not(
    tmp_path: Path, heard: int
) -> None:
    store = made(tmp_path)
    store.commit(append(2, 3, "3"), EPOCH, store.position.txn)
    heard_txn = store.position.txn - 2 + heard
    store.commit(append(3, 4, "4"), EPOCH, 0)
    common_txn = store.position.txn
    store.commit(append(4, 5, "5"), EPOCH, 0)  # this one did not reach it
    store.begin_epoch(Epoch(2, 7), Mode.SOLE, "a", "the peer is gone", 0, min(heard_txn, common_txn))
    store.commit(Work(9, 0, cursors=(CursorRow(1, 0, ((3, 6),), ()),)), Epoch(2, 7), 0)
    store.begin_epoch(Epoch(3, 7), Mode.SOLE, "a", "resumed alone", 0, 0)
    store.close()
    branch = Branch(tmp_path / STORE_FILE, common_txn)
    assert list(branch.items()) == [Done(1, "q", ((3, 5),))]
    branch.close()


def diverged(directory: Path) -> LmdbStore:
    """On top of what both hold: messages, acknowledgements on both sides of the fork, changes of queues."""
    store = made(directory)
    store.commit(Work(9, 0, cursors=(CursorRow(1, 1, (), ()),)), EPOCH, store.position.txn)  # folded in by the next
    store.commit(append(2, 3, "3"), EPOCH, store.position.txn)
    store.begin_epoch(Epoch(2, 7), Mode.SOLE, "a", "the peer is gone", 0, 0)
    store.commit(append(3, 4, "4", "5", "6"), EPOCH, 0)
    changes = (DestinationRow(1, "q", 9, 0), DestinationRow(3, "new", 0, 0))
    store.commit(
        Work(9, 0, cursors=(CursorRow(1, 2, ((3, 4), (5, 6)), ()),), destinations=changes, dropped_destinations=(2,)), EPOCH, 0
    )
    store.close()
    return store


def test_a_branch_hands_over_what_is_not_done_and_what_was_acknowledged_of_before(tmp_path: Path) -> None:
    store = diverged(tmp_path)
    branch = Branch(tmp_path / STORE_FILE, store.lineage[-1].first_txn - 1)
    survey = branch.survey()
    items = list(branch.items())
    branch.close()
    assert [tuple(each) for each in survey.queues] == [("q", 2, 2)]
    told, done, batches = items
    assert set(told.differences) == {  # type: ignore[union-attr]
        Difference("limits", "q", 9, 0), Difference("created", "new", 0, 0), Difference("removed", "gone", 0, 0),
    }  # fmt: skip
    assert done == Done(1, "q", ((1, 2), (3, 4)))
    assert isinstance(batches, Batches)
    assert [one.body for one in slices(batches)] == [b"4", b"6"]


def test_signs_of_life_are_given_while_a_branch_is_counted_and_read(tmp_path: Path) -> None:
    store = made(tmp_path)
    with store._transaction() as txn:
        for work in (append(value, value + 1, "x") for value in range(2, 3 * ROWS)):
            txn.put(log_key(work.value), log_value(work.appends), db=store._log)
    store.close()
    calls: list[int] = []
    branch = Branch(tmp_path / STORE_FILE, 0, lambda: calls.append(1))
    for read in (branch.survey, lambda: list(branch.items())):
        before = len(calls)
        read()
        assert len(calls) - before >= 3
    branch.close()


def test_what_is_stored_after_a_drain_and_a_restart_is_handed_over(tmp_path: Path) -> None:
    store = made(tmp_path)
    common_txn = store.position.txn
    store.begin_epoch(Epoch(2, 7), Mode.SOLE, "a", "the peer is gone", 0, common_txn)
    store.commit(Work(9, 0, cursors=(CursorRow(1, 3, (), ()),), dropped_values=(1,)), Epoch(2, 7), 0)
    store.close()
    store = LmdbStore(tmp_path, store.position)
    image = store.image("a")
    store.begin_epoch(Epoch(3, 7), Mode.SOLE, "a", "resumed alone", 0, 0)
    store.commit(append(image.last_value + 1, 3, "new"), Epoch(3, 7), 0)
    store.close()
    branch = Branch(tmp_path / STORE_FILE, common_txn)
    (batches,) = [item for item in branch.items() if isinstance(item, Batches)]
    branch.close()
    assert [one.body for one in slices(batches)] == [b"new"]


def slices(batches: Batches) -> list[object]:
    found, at = [], 0
    for _, length in batches.entries:
        found += list(records(batches.data[at : at + length]))
        at += length
    return found


def test_where_both_agree_on_less_than_the_past_says_everything_not_done_is_handed_over(tmp_path: Path) -> None:
    diverged(tmp_path)
    branch = Branch(tmp_path / STORE_FILE, 1)
    items = list(branch.items())
    branch.close()
    assert not any(isinstance(item, Done) for item in items)
    (batches,) = [item for item in items if isinstance(item, Batches)]
    assert [one.body for one in slices(batches)] == [b"2", b"4", b"6"]


def test_a_merge_that_was_interrupted_begins_again(tmp_path: Path) -> None:
    store = diverged(tmp_path)
    said: list[Event] = []
    handover = Handover(tmp_path, "a", said.append)
    for attempt in (1, 2):  # the first stops after one item: the winner is lost
        handover.keep(store.position, KeepBranch(1, keep=True))
        handover.read(ReadBranch(attempt, True, 1, 1))
    handover.close()
    survey, first, again, second = said
    assert isinstance(survey, Surveyed) and again == survey
    assert isinstance(first, SalvagePart) and not first.last
    assert second == first._replace(attempt=2)


def test_numbers_of_queues_are_never_used_again(tmp_path: Path) -> None:
    store = made(tmp_path)
    store.commit(Work(9, 0, destinations=(DestinationRow(7, "last", 0, 0),)), EPOCH, 0)
    store.commit(Work(10, 0, dropped_destinations=(7,)), EPOCH, 0)
    position = store.position
    store.close()
    again = LmdbStore(tmp_path, position)
    assert again.image().last_number == 7
    again.close()


def test_a_kept_store_is_a_second_name_that_says_how_far_its_merge_is(tmp_path: Path) -> None:
    store = diverged(tmp_path)
    keeper = Kept(tmp_path, "a")
    assert keeper.present() == KeptBranch()
    keeper.keep(store.position, store.lineage, SURVEY)
    keeper.keep(store.position, store.lineage, SURVEY)  # after a crash
    path = keeper.path()
    assert path is not None and os.path.samefile(path, tmp_path / STORE_FILE)
    assert keeper.present() == KeptBranch("merging")
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert [each["epoch"] for each in manifest["lineage_beyond"]] == [2]
    keeper.settle(Epoch(9, 9))
    assert Kept(tmp_path, "a").present() == KeptBranch("merged", Epoch(9, 9))
    (tmp_path / STORE_FILE).unlink()
    (tmp_path / STORE_FILE).write_bytes(b"a copy")
    assert keeper.present() == KeptBranch() and path.exists()


def test_a_store_that_is_written_again_is_not_kept_any_more(tmp_path: Path) -> None:
    store = diverged(tmp_path)
    keeper = Kept(tmp_path, "a")
    keeper.keep(store.position, store.lineage, SURVEY)
    keeper.release()
    assert keeper.present() == KeptBranch() and (tmp_path / STORE_FILE).stat().st_nlink == 1


def test_a_file_system_without_hard_links_is_a_refusal_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = diverged(tmp_path)

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kept.os, "link", no_links)
    with pytest.raises(NoSpace, match="cannot be kept"):
        Kept(tmp_path, "a").keep(store.position, store.lineage, SURVEY)
    assert list((tmp_path / "kept").iterdir()) == []


def test_kept_stores_go_by_age_and_size_but_never_before_their_merge_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = int(time.time() * 1000)
    week_ms = limits.KEPT_DAYS * 86_400_000
    for name, state, age_ms in (("old", "merged", week_ms + 1000), ("new", "merged", 1000), ("open", "merging", week_ms * 2)):
        place = tmp_path / "kept" / f"epoch-{name}"
        place.mkdir(parents=True)
        (place / STORE_FILE).write_bytes(bytes(1 << 20))
        (place / "manifest.json").write_text(json.dumps({"state": state, "wall_ms": now_ms - age_ms}))
    keeper = Kept(tmp_path, "a")
    assert keeper.expire() == ["epoch-old"]
    monkeypatch.setattr(kept, "KEPT_BYTES_MAX", 1 << 19)
    assert keeper.expire() == ["epoch-new"]
    assert [place.name for place in (tmp_path / "kept").iterdir()] == ["epoch-open"]


def test_a_full_disk_leaves_what_a_kept_store_says_and_the_next_attempt_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = diverged(tmp_path)
    keeper = Kept(tmp_path, "a")
    keeper.keep(store.position, store.lineage, SURVEY)
    for change in (lambda: keeper.settle(Epoch(9, 9)), keeper.discard):
        before = keeper.present()
        with monkeypatch.context() as patch:
            patch.setattr(kept, "_write", failing(errno.ENOSPC))
            with pytest.raises(StoreFull, match="no room to say what became"):
                change()
            patch.setattr(kept, "_write", failing(errno.EIO))
            with pytest.raises(OSError, match="disk"):
                change()
        assert keeper.present() == before
        change()
        assert keeper.present() != before


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise OSError(code, "disk")

    return fail


class Killed(BaseException):
    """The process ends here."""


def killed_in(action: Callable[[], object], patch: pytest.MonkeyPatch, target: object, name: str) -> None:
    """Do something and die where ``target.name`` is called."""

    def die(*_: object) -> NoReturn:
        raise Killed

    with patch.context() as inner:
        inner.setattr(target, name, die)
        with pytest.raises(Killed):
            action()


def half_kept(directory: Path, patch: pytest.MonkeyPatch) -> Kept:
    """Killed between the link and the manifest."""
    store = diverged(directory)
    keeper = Kept(directory, "a")
    killed_in(lambda: keeper.keep(store.position, store.lineage, SURVEY), patch, kept, "_write")
    assert keeper.present() == KeptBranch() and (directory / STORE_FILE).stat().st_nlink == 2
    return keeper


def test_a_link_without_a_manifest_goes_when_the_store_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = half_kept(tmp_path, monkeypatch)
    keeper.release()
    assert (tmp_path / STORE_FILE).stat().st_nlink == 1 and list((tmp_path / "kept").iterdir()) == []


def test_a_link_without_a_manifest_goes_by_itself_and_an_operators_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = half_kept(tmp_path, monkeypatch)
    (tmp_path / STORE_FILE).unlink()
    (tmp_path / STORE_FILE).write_bytes(b"a copy")
    (tmp_path / "kept" / "mine").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("look at this later")
    assert keeper.expire() == ["epoch-1-0000000000000007"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["mine", "notes.txt"]


def test_a_kill_in_a_release_leaves_nothing_of_the_store_and_its_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = diverged(tmp_path)
    keeper = Kept(tmp_path, "a")
    keeper.keep(store.position, store.lineage, SURVEY)
    killed_in(keeper.release, monkeypatch, kept.shutil, "rmtree")
    assert keeper.present() == KeptBranch() and (tmp_path / STORE_FILE).stat().st_nlink == 1
    assert len(keeper.expire()) == 1 and list((tmp_path / "kept").iterdir()) == []
