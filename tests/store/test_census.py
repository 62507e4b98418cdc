"""The sums of a store's pages: in step with every commit on both sides, built beside commits, compared with the file."""

import random
from pathlib import Path

import pytest
from following import copied, take
from source_store import SourceStore

from zmqha.core import limits, lmdb_page
from zmqha.core.lmdb_page import Meta
from zmqha.store.census import Census
from zmqha.store.page_file import STORE_FILE, PageReader
from zmqha.store.replica import Replica
from zmqha.store.scrub import Scrub

SEGMENT = 1 << 20


def walked(path: Path, meta: Meta) -> list[tuple[int, int]]:
    """Every unit in use, by a walk over the whole file."""
    reader = PageReader(path)
    try:
        view, found = reader.view((meta.last_pg + 1) * meta.psize), []
        for page, count in reader.live_runs(meta):
            end = page + count
            while page < end:
                pages, total = lmdb_page.unit_at(view, meta.psize, page)
                found.append((page, total))
                page += pages
        return found
    finally:
        del view
        reader.close()


def counted(census: Census) -> list[tuple[int, int]]:
    assert census.sums is not None
    assert census.digest == sum(total for _, total in census.sums.units(0, len(census.sums))) % 2**64
    return list(census.sums.units(0, len(census.sums)))


def built(census: Census) -> Census:
    while census.building:
        census.build(1 << 16)
    assert not census.unsound
    return census


def followed(source: SourceStore, directory: Path) -> Replica:
    replica = copied(source, directory, SEGMENT)
    replica.count(directory / STORE_FILE)
    return replica


def feed(replica: Replica, ship: object) -> None:
    take(replica, ship)  # type: ignore[arg-type]
    replica.flush()
    while replica.apply(1 << 30):
        pass


@pytest.mark.parametrize("seed", range(4))
def test_after_every_commit_both_sides_know_the_sum_of_every_page(seed: int, tmp_path: Path) -> None:
    source = SourceStore(tmp_path / "a.mdb", seed)
    for _ in range(20):
        source.commit()
    replica = followed(source, tmp_path / "b")
    assert replica.census is not None
    built(source.count())
    built(replica.census)

    for _ in range(120):
        for ship in source.commit():
            feed(replica, ship)
            assert source.census is not None
            assert ship.digest == source.census.digest == replica.census.digest != 0
            expected = walked(source.path, source.meta)
            assert counted(source.census) == expected
            assert counted(replica.census) == expected == walked(tmp_path / "b" / STORE_FILE, source.meta)
    assert replica.differs_at is None
    replica.close()
    source.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_build_beside_commits_ends_exact(seed: int, tmp_path: Path) -> None:
    source = SourceStore(tmp_path / "a.mdb", seed)
    for _ in range(60):
        source.commit()
    replica = followed(source, tmp_path / "b")
    rng = random.Random(seed)
    source.count()
    assert source.census is not None and replica.census is not None
    during = 0
    while source.census.building or replica.census.building:
        for ship in source.commit():
            during += 1
            assert source.census.building == (ship.digest == 0)
            feed(replica, ship)
        for census in (source.census, replica.census):
            if rng.random() < 0.5:
                census.build(3 * 4096)
        assert not source.census.unsound and not replica.census.unsound

    assert during > 5, "the build took long enough for commits to come in between"
    assert counted(source.census) == counted(replica.census) == walked(source.path, source.meta)
    replica.close()
    source.close()


def test_a_copy_with_one_other_byte_is_noticed_at_the_next_transaction(tmp_path: Path) -> None:
    source = SourceStore(tmp_path / "a.mdb", 1)
    for _ in range(30):
        source.commit()
    built(source.count())
    replica = followed(source, tmp_path / "b")
    flip(tmp_path / "b" / STORE_FILE, in_use(source.meta, source.path)[3], 17)
    assert replica.census is not None
    built(replica.census)
    assert replica.differs_at is None
    ship = next(ship for _ in range(20) for ship in source.commit())
    feed(replica, ship)
    assert replica.differs_at == ship.position
    replica.close()
    source.close()


def test_above_the_bound_there_is_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SourceStore(tmp_path / "a.mdb", 1)
    source.commit()
    monkeypatch.setattr(limits, "DIGEST_PAGES_MAX", source.meta.last_pg + 2)
    built(source.count())
    ships = [ship for _ in range(30) for ship in source.commit()]
    assert source.census is not None
    assert source.census.share is None and source.census.sums is None
    assert ships[-1].digest == 0
    source.close()


# --- scrub ------------------------------------------------------------------------------------------------------------------


def in_use(meta: Meta, path: Path) -> list[int]:
    return [page for page, _ in walked(path, meta)]


def flip(path: Path, page: int, at: int, bit: int = 1) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(page * 4096 + at)
        byte = file.read(1)[0] ^ bit
        file.seek(page * 4096 + at)
        file.write(bytes([byte]))


def cycle(scrub: Scrub) -> list[str]:
    found, before = [], scrub.counts().cycles
    while scrub.counts().cycles == before:
        found += scrub.step(scrub.due_s or 0.0)
    return found


@pytest.fixture
def filled(tmp_path: Path) -> SourceStore:
    source = SourceStore(tmp_path / "a.mdb", 9, large=400_000)
    while source.meta.last_pg < 1500:
        source.commit()
    built(source.count())
    return source


@pytest.mark.parametrize("flips", [1, 10, 100])
def test_the_scrub_finds_exactly_the_pages_with_a_flipped_bit(flips: int, filled: SourceStore) -> None:
    scrub = Scrub(filled.path, 1000)
    scrub.watch(filled.census)
    assert cycle(scrub) == []
    rng = random.Random(flips)
    units = walked(filled.path, filled.meta)
    damaged = sorted(page for page, _ in rng.sample(units, min(flips, len(units) // 2)))
    assert flips == 1 or len(damaged) > 5
    for page in damaged:
        flip(filled.path, page, rng.choice((0, 5, 11, 13, 15, 4095)), 1 << rng.randrange(8))

    named = {int(why.split()[1]) for why in cycle(scrub)}
    assert named <= set(damaged) and scrub.counts().damaged == len(damaged)
    assert named == set(damaged) or len(damaged) > 8, "a report names at most some of a slice"
    assert cycle(scrub) == [], "each is reported once"
    filled.close()


def test_a_flipped_bit_in_a_hole_or_in_a_dead_page_is_no_alarm(filled: SourceStore) -> None:
    scrub = Scrub(filled.path, 1000)
    scrub.watch(filled.census)
    live = filled.reader.live_runs(filled.meta)
    dead = [page for page in range(2, filled.meta.last_pg + 1) if not any(first <= page < first + n for first, n in live)]
    flip(filled.path, dead[0], 100)
    data = filled.path.read_bytes()
    for page, _ in walked(filled.path, filled.meta):
        flags, lower, upper = (int.from_bytes(data[page * 4096 + at : page * 4096 + at + 2], "little") for at in (10, 12, 14))
        if flags in (1, 2) and lower < upper:
            flip(filled.path, page, (lower + upper) // 2)
            break
    else:
        pytest.fail("no page with a hole")
    assert cycle(scrub) == []
    filled.close()


def test_a_file_that_ends_early_is_damage(filled: SourceStore) -> None:
    scrub = Scrub(filled.path, 1000)
    scrub.watch(filled.census)
    copy = filled.path.with_name("short.mdb")
    last = walked(filled.path, filled.meta)[-1][0]
    copy.write_bytes(filled.path.read_bytes()[: last * 4096 + 100])
    shorter = Scrub(copy, 1000)
    shorter.watch(filled.census)
    assert [why.split()[1] for why in cycle(shorter)] == [str(last)]
    assert cycle(scrub) == []
    filled.close()


def test_a_page_that_is_not_what_it_says_ends_no_build_and_is_named(filled: SourceStore) -> None:
    page = walked(filled.path, filled.meta)[7][0]
    flip(filled.path, page, 1)
    reader = PageReader(filled.path)
    anew = Census(reader, filled.meta)
    scrub = Scrub(filled.path, 0)
    scrub.watch(anew)
    found = []
    while anew.building or anew.unsound:
        found += scrub.step(0.0)
    assert len(found) >= 1 and f"page {page} says" in found[0]
    assert scrub.due_s is None, "the scrub itself is off"
    anew.close()
    reader.close()
    filled.close()
