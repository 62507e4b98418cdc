"""Two store threads, one following the other: sums go over at a takeover, damage on either side is found and said."""

import random
import struct
from pathlib import Path

import pytest
from rejoining import Machine, bring_up, followed

from zmqha.core import lmdb_page, shipment
from zmqha.core.actions import Claim, Commit, CopyOut, Follow, Journal, KeepBranch, PairUp, ReadBranch, StandDown, TakeCopy
from zmqha.core.events import Committed as CommittedEvent
from zmqha.core.events import CopyBegun, CopyDone, CopyPart, Damaged, Event, Inspected, KeepRefused, ShipmentRefused, Surveyed
from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import NO_SESSION, CopyBegin, CopyEnd, CopyPages, Held, Standing, Way
from zmqha.core.position import NOWHERE, Epoch, Position
from zmqha.core.shipment import Shipment
from zmqha.core.work import Append, CursorRow, Work
from zmqha.store import records
from zmqha.store.node_state import STATE_FILE, NodeState
from zmqha.store.page_file import STORE_FILE, PageReader
from zmqha.store.writer import StoreThread

SEGMENT = 4 << 20
EPOCH = Epoch(1, 7)
FACTS = NodeFacts("cluster", "a", 1, EPOCH, Standing.SOLE, "first start")


class Side:
    """A store thread that is not started: its actions are done here."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = directory / STORE_FILE
        self.events: list[Event] = []
        self.thread = StoreThread(directory, NodeState(directory / STATE_FILE), "a", SEGMENT, self.events.append, 1000)

    def damage(self) -> list[str]:
        return [event.why for event in self.events if isinstance(event, Damaged)]

    def look(self) -> None:
        """Everything that nobody waits for, for a whole cycle of the scrub."""
        thread, before = self.thread, self.thread.scrub.counts().cycles
        for _ in range(1000):
            while thread._following.applies:
                thread._background()
            thread._scrub_step()
            if thread.scrub.counts().cycles > before and not thread.scrub._census.building:  # type: ignore[union-attr]
                return
        raise AssertionError("the scrub does not come to an end")

    def sums(self) -> dict[int, int]:
        """Of every unit that the file holds now, by a walk (only while LMDB has it open, or after it has settled)."""
        reader = PageReader(self.path)
        meta, found = reader.newest(), {}
        view = reader.view((meta.last_pg + 1) * meta.psize)
        for first, count in reader.live_runs(meta):
            page = first
            while page < first + count:
                pages, found[page] = lmdb_page.unit_at(view, meta.psize, page)
                page += pages
        del view
        reader.close()
        return found


class Pair:
    """``a`` serves, ``b`` follows."""

    def __init__(self, tmp_path: Path) -> None:
        self.a, self.b = Side(tmp_path / "a"), Side(tmp_path / "b")
        self.random = random.Random(5)
        self.number = 0
        self.values: list[int] = []
        self.a.thread._do(Claim(FACTS, EPOCH, "first start", 0))
        for _ in range(40):
            self.commit()
        self.copy()

    def commit(self) -> Shipment:
        self.number += 1
        batch = self.random.randbytes(self.random.choice((100, 3000, 50_000)))
        dropped = tuple(self.values[:2]) if len(self.values) > 30 else ()
        del self.values[: len(dropped)]
        self.values.append(self.number)
        work = Work(
            self.number,
            self.number,
            (Append(1, self.number, 1, batch),),
            (CursorRow(1, self.number, (), ()),),
            dropped_values=dropped,
        )
        self.a.thread._do(Commit(work, EPOCH, True, 0, 0))
        committed = self.a.events[-2]
        assert isinstance(committed, CommittedEvent)
        return committed.shipment

    def copy(self) -> None:
        a, b = self.a.thread, self.b.thread
        b._do(Follow(FACTS._replace(standing=Standing.BEHIND)))
        a._do(CopyOut(1, True, 1 << 40))
        sent = 0
        at = len(self.a.events) - 1
        while not isinstance(self.a.events[-1], CopyDone):
            a._copy_step()
        for event in self.a.events[at:]:
            match event:
                case CopyBegun():
                    b._do(TakeCopy(CopyBegin(NO_SESSION, NO_SESSION, 1, event.page_size, event.pages), b""))
                case CopyPart():
                    sent += len(event.payload)
                    b._do(TakeCopy(CopyPages(NO_SESSION, NO_SESSION, event.runs, event.digest), event.payload))
                case CopyDone():
                    b._do(TakeCopy(CopyEnd(NO_SESSION, NO_SESSION, event.position, event.meta, sent), b""))

    def ship(self, commits: int = 1) -> None:
        for _ in range(commits):
            for chunk in shipment.chunks(self.commit()):
                self.b.thread._do(Journal(chunk))
        self.b.thread._flush()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def flip(path: Path, page: int, at: int = 200) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(page * 4096 + at)
        byte = file.read(1)[0] ^ 1
        file.seek(page * 4096 + at)
        file.write(bytes([byte]))


def a_value(side: Side) -> int:
    """The first page of a stored message."""
    data = side.path.read_bytes()
    return next(page for page in side.sums() if int.from_bytes(data[page * 4096 + 10 : page * 4096 + 12], "little") == 4)


def root_of(path: Path, database: bytes) -> int:
    """The root page of one of LMDB's named databases."""
    reader = PageReader(path)
    try:
        meta = reader.newest()
        return int(_walk_to(reader.page(meta.main_root, meta), database))
    finally:
        reader.close()


def _walk_to(leaf: memoryview, database: bytes) -> int:
    (lower,) = struct.unpack_from("<H", leaf, 12)
    for node in struct.unpack_from(f"<{(lower - 16) // 2}H", leaf, 16):
        (key,) = struct.unpack_from("<H", leaf, node + 6)
        if bytes(leaf[node + 8 : node + 8 + key]) == database:
            return int(struct.unpack_from("<Q", leaf, node + 8 + key + 40)[0])
    raise AssertionError(f"there is no database {database!r}")


def test_a_sound_pair_raises_no_alarm_and_says_how_far_it_is(pair: Pair) -> None:
    for _ in range(5):
        pair.ship(20)
        pair.a.look()
        pair.b.look()
    assert pair.a.damage() == pair.b.damage() == []
    for side in (pair.a, pair.b):
        counts = side.thread.scrub.counts()
        assert counts.digest == 1.0 and counts.cycles >= 5 and counts.bytes > 500_000 and counts.damaged == 0


def test_a_server_that_takes_over_knows_the_sums_from_the_passive_that_it_was(pair: Pair) -> None:
    pair.ship(5)
    pair.b.look()
    pair.ship(20)
    pair.b.thread._do(Claim(FACTS._replace(epoch=Epoch(2, 9)), Epoch(2, 9), "took over", 0))

    store = pair.b.thread._store
    assert store is not None and store.census.complete
    assert store.census.sums is not None
    assert dict(store.census.sums.units(0, len(store.census.sums))) == pair.b.sums()


def test_before_the_sums_are_complete_a_takeover_begins_them_anew(pair: Pair) -> None:
    pair.ship(5)
    pair.b.thread._do(Claim(FACTS._replace(epoch=Epoch(2, 9)), Epoch(2, 9), "took over", 0))
    store = pair.b.thread._store
    assert store is not None and store.census.building
    pair.b.look()
    assert store.census.sums is not None
    assert dict(store.census.sums.units(0, len(store.census.sums))) == pair.b.sums()


def test_a_flipped_bit_on_the_active_is_found_and_the_page_named(pair: Pair) -> None:
    pair.a.look()
    page = a_value(pair.a)
    flip(pair.a.path, page)
    pair.a.look()
    assert pair.a.damage() == [f"page {page} of the store does not hold what was written there"]
    assert pair.a.thread.scrub.counts().damaged == 1


def test_a_flipped_bit_on_the_passive_is_found_and_the_page_named(pair: Pair) -> None:
    pair.ship(3)
    pair.b.look()
    page = a_value(pair.a)
    flip(pair.b.path, page)
    pair.b.look()
    assert pair.b.damage() == [f"page {page} of the store does not hold what was written there"]


def a_row(side: Side) -> tuple[int, int]:
    """(page, where in it) of the last byte of a row that no commit of this test writes: the lineage's."""
    page = root_of(side.path, b"state")
    content = side.path.read_bytes()[page * 4096 : page * 4096 + 4096]
    (lower,) = struct.unpack_from("<H", content, 12)
    for node in struct.unpack_from(f"<{(lower - 16) // 2}H", content, 16):
        size, _, _, key = struct.unpack_from("<HHHH", content, node)
        if content[node + 8 : node + 8 + key] == records.LINEAGE:
            return page, node + 8 + key + size - 1
    raise AssertionError("no lineage on the root page")


def test_a_commit_that_copies_a_damaged_page_is_told_to_nobody(pair: Pair) -> None:
    pair.ship(3)
    pair.a.look()
    pair.b.look()
    replica = pair.b.thread._following.replica
    assert replica is not None
    before, page_and_place = replica.position, a_row(pair.a)
    flip(pair.a.path, *page_and_place)
    said = len(pair.a.events)
    for _ in range(2):  # the second was on its way already
        pair.a.thread._do(Commit(Work(99, 99, (Append(1, 99, 1, b"x"),)), EPOCH, True, 0, 0))

    (damaged,) = pair.a.events[said:]
    assert isinstance(damaged, Damaged) and damaged.halted and f"page {page_and_place[0]} " in damaged.why
    assert replica.position == before and pair.a.thread.scrub.counts().damaged == 1
    pair.a.thread._do(CopyOut(2, True, 1 << 40))
    pair.a.thread._do(StandDown())
    inspected = pair.a.events[-1]
    assert isinstance(inspected, Inspected) and inspected.present
    assert len(pair.a.events) == said + 2


def test_a_damaged_page_is_not_copied_over_a_good_one(pair: Pair) -> None:
    pair.a.look()
    page = a_value(pair.a)
    flip(pair.a.path, page, 300)
    pair.a.events.clear()
    pair.a.thread._do(CopyOut(2, True, 1 << 40))
    for _ in range(100):
        if not pair.a.damage() and pair.a.thread._copy is not None:
            pair.a.thread._copy_step()
    assert any(f"page {page} of the store" in why for why in pair.a.damage())
    sent = [run for event in pair.a.events if isinstance(event, CopyPart) for run in event.runs]
    assert not any(first <= page < first + count for first, count in sent)
    assert not any(isinstance(event, CopyDone) for event in pair.a.events)


@pytest.mark.parametrize("action", ["pair up", "claim"])
def test_a_new_epoch_that_copies_a_damaged_page_is_told_to_nobody(action: str, pair: Pair) -> None:
    pair.a.look()
    flip(pair.a.path, *a_row(pair.a))
    said, epoch = len(pair.a.events), Epoch(2, 9)
    facts = FACTS._replace(epoch=epoch)
    pair.a.thread._do(Claim(facts, epoch, "again", 0) if action == "claim" else PairUp(facts, epoch, "in sync"))
    assert [type(event) for event in pair.a.events[said:]] == [Damaged]


def test_what_an_operator_wants_as_it_is_goes_on_and_damage_is_only_said(pair: Pair) -> None:
    pair.a.look()
    epoch = Epoch(2, 9)
    pair.a.thread._do(Claim(FACTS._replace(epoch=epoch), epoch, "promoted", 0, as_it_is=True))
    flip(pair.a.path, *a_row(pair.a))
    pair.commit()
    pair.a.look()
    (damaged,) = [event for event in pair.a.events if isinstance(event, Damaged)]
    assert not damaged.halted


def test_damage_before_the_passive_has_its_sums_shows_in_the_digest_of_the_next_transaction(pair: Pair) -> None:
    pair.a.look()
    flip(pair.b.path, a_value(pair.a))
    pair.b.look()
    assert pair.b.damage() == []
    pair.ship()
    pair.b.look()
    assert len(pair.b.damage()) == 1 and "digest" in pair.b.damage()[0]


def the_pages(side: Side) -> tuple[Position, int]:
    """As the reactor is told."""
    side.thread._gauge.spoil()
    side.thread._look_around()
    return side.thread.pages


def test_damage_before_the_passive_has_its_sums_shows_at_rest_too(pair: Pair) -> None:
    pair.a.look()
    pair.ship()
    flip(pair.b.path, a_value(pair.a))
    pair.b.look()
    pair.b.look()
    (at_a, a), (at_b, b) = the_pages(pair.a), the_pages(pair.b)
    assert pair.b.damage() == [], "it agrees with itself"
    assert at_a == at_b and 0 not in (a, b) and a != b
    pair.b.thread._do(StandDown())
    assert the_pages(pair.b) == (NOWHERE, 0)


def test_sound_copies_have_one_digest_and_none_while_something_is_to_be_applied(pair: Pair) -> None:
    pair.a.look()
    pair.b.look()
    pair.ship(3)
    assert the_pages(pair.b) == (NOWHERE, 0)
    pair.b.look()
    assert the_pages(pair.a) == the_pages(pair.b)


def test_a_flipped_bit_in_the_newest_meta_page_of_the_active_is_found(pair: Pair) -> None:
    pair.a.look()
    store = pair.a.thread._store
    assert store is not None
    slot = store.meta.txnid & 1
    flip(pair.a.path, slot, 32 + 56 + 30)
    pair.a.look()
    pair.a.look()
    assert pair.a.damage() == [f"page {slot} of the store does not hold what was written there"]


def test_what_a_passive_finds_at_the_very_end_is_said_before_its_store_is_looked_at(pair: Pair) -> None:
    pair.a.look()
    flip(pair.b.path, a_value(pair.a))
    pair.b.look()
    pair.ship()
    pair.b.thread._do(StandDown())
    assert [type(event).__name__ for event in pair.b.events[-2:]] == ["Damaged", "Inspected"]


def test_under_load_a_build_and_a_scrub_get_their_slices(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    thread, now_s = pair.a.thread, [1000.0]
    monkeypatch.setattr("zmqha.store.writer.time.monotonic", lambda: now_s[0])
    thread.scrub._due_s = now_s[0]
    steps: list[float] = []
    step = thread.scrub.step
    monkeypatch.setattr(thread.scrub, "step", lambda at_s: (steps.append(at_s), step(at_s))[1])
    for _ in range(4000):
        now_s[0] += 0.01
        thread.put(Commit(Work(0, 0), EPOCH, True, 0, -1))  # refused by its attempt, if it were done
        assert thread._next() is not None
    assert 4 <= len(steps) <= 50, "never idle, and yet"


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_in_the_stream_is_caught_and_nothing_of_it_is_applied(seed: int, pair: Pair) -> None:
    pair.ship(2)
    rng = random.Random(seed)
    ship = pair.commit()
    (chunk,) = shipment.chunks(ship)
    whole = bytearray(chunk.head + chunk.piece)
    whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    head = len(chunk.head)
    replica = pair.b.thread._following.replica
    assert replica is not None
    before = replica._taken
    pair.b.thread._do(Journal(chunk._replace(head=bytes(whole[:head]), piece=bytes(whole[head:]))))

    assert isinstance(pair.b.events[-1], ShipmentRefused) and replica._taken == before
    pair.b.thread._do(Journal(chunk))
    pair.b.thread._flush()
    pair.b.look()
    assert replica.position == ship.position and pair.b.damage() == []


# --- repair -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine, random.Random]:
    """One that serves, one in sync that has just left; and one bit of its store has flipped."""
    a, b, rng = followed(tmp_path / "a", tmp_path / "b")
    b.inspect()
    return a, b, rng


def the_sums(machine: Machine) -> dict[int, int]:
    side = Side.__new__(Side)
    side.path = machine.directory / STORE_FILE
    return side.sums()


def test_a_store_in_doubt_gets_exactly_the_damaged_unit(machines: tuple[Machine, Machine, random.Random]) -> None:
    a, b, _ = machines
    assert b.position is not None and a.thread._store is not None
    damaged = [page for page, _ in sorted(the_sums(b).items())][::9]
    for page in damaged:
        flip(b.directory / STORE_FILE, page, 4095)  # the last byte of a page in use is never in its hole

    done = bring_up(a, b, Held(b.position, trusted=False), copy=2)

    pages = sum(a.thread._store.reader.unit_at(page, a.thread._store.meta)[0] for page in damaged)
    assert (done.ways, done.asked, done.sent) == ([Way.DELTA], 1, pages * 4096)
    b.inspect()
    assert the_sums(b) == the_sums(a)


def test_a_bit_that_flipped_while_nobody_looked_shows_once_the_copy_follows(
    machines: tuple[Machine, Machine, random.Random],
) -> None:
    a, b, rng = machines
    assert b.position is not None
    while a.thread.scrub.counts().digest < 1:
        a.thread._scrub_step()
    for page in sorted(the_sums(b))[::5]:  # the commit below frees some of them
        flip(b.directory / STORE_FILE, page, 30)

    assert bring_up(a, b, Held(b.position), copy=2).asked == 0
    while b.thread.scrub.counts().digest < 1:
        b.thread._scrub_step()
    said: list[Event] = []
    for chunk in shipment.chunks(a.commit(rng)):
        said += b.do(Journal(chunk))
    while b.thread._following.applies:
        b.thread._background()
    assert any(isinstance(event, Damaged) for event in (*said, *b.events))


# --- a store that cannot be read --------------------------------------------------------------------------------------------


def overwrite(path: Path, page: int, content: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(page * 4096)
        file.write(content)


@pytest.mark.parametrize("database", [b"state", b"log"])  # read by LMDB, and only to tell the position
def test_damage_in_the_newest_transaction_is_set_aside_and_not_a_crash(database: bytes, tmp_path: Path) -> None:
    a, rng = Machine(tmp_path / "a", "a"), random.Random(3)
    a.claim()
    for _ in range(10):
        a.commit(rng)
    store = a.directory / STORE_FILE
    overwrite(store, root_of(store, database), bytes(4096))

    found = a.inspect()
    assert not found.present and found.fault
    assert not store.exists() and store.with_name(f"{STORE_FILE}.damaged-1").exists()


@pytest.fixture
def lost(tmp_path: Path) -> Machine:
    """The loser of a divergence, whose log is damaged on a page that the last transactions did not write."""
    machine, rng = Machine(tmp_path / "a", "a"), random.Random(3)
    machine.claim()
    for _ in range(60):
        machine.commit(rng, size=200)
    machine.inspect()
    return machine


def break_log(machine: Machine) -> None:
    store = machine.directory / STORE_FILE
    root = root_of(store, b"log")
    page = root
    content = store.read_bytes()[root * 4096 : root * 4096 + 4096]
    if content[10] == 1:  # a branch: its first leaf
        (node,) = struct.unpack_from("<H", content, 16)
        page = struct.unpack_from("<Q", content, node)[0] & ((1 << 48) - 1)
    overwrite(store, page, bytes(4096))


def test_a_damaged_branch_that_cannot_be_counted_is_refused_and_not_a_crash(lost: Machine) -> None:
    break_log(lost)
    assert lost.inspect().present
    for keep in (False, True):
        (said,) = lost.do(KeepBranch(0, keep=keep))
        assert isinstance(said, KeepRefused) and "cannot be read" in said.error.what
    assert lost.inspect().kept.state == ""


def test_a_kept_branch_that_is_damaged_before_it_is_read_is_refused(lost: Machine) -> None:
    (said,) = lost.do(KeepBranch(0, keep=True))
    assert isinstance(said, Surveyed)
    break_log(lost)
    (said,) = lost.do(ReadBranch(1, True, 0, 1 << 20))
    assert isinstance(said, KeepRefused)
    assert lost.do(ReadBranch(1, False, 0, 1 << 20)) == [], "nothing is read any more"
