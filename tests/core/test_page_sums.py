"""Sums of units: what a shipment holds, and the running total of a store."""

import random
import struct

import pytest

from zmqha.core.page_sums import PageSums, units_of
from zmqha.errors import ProtocolError

SIZE = 512


def run(page: int, pages: int, flags: int = 4) -> bytes:
    return struct.pack("<QHHI", page, 0, flags, pages) + random.Random(page).randbytes(max(0, SIZE * pages - 16))


def test_a_run_of_units_gives_each_unit_at_its_first_page() -> None:
    payload = run(10, 2) + run(12, 1) + run(13, 3) + b"compact one"
    units = units_of(payload, SIZE, [(10, 6)], [(5, 11, SIZE)])

    assert [page for page, _ in units] == [10, 12, 13, 5]
    assert units_of(run(13, 3), SIZE, [(13, 3)], []) == [units[2]]


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_many_units_alike_are_found_as_if_each_were_looked_at_alone(pages: int) -> None:
    firsts = range(10, 10 + 200 * pages, pages)
    payload = b"".join(run(page, pages) for page in firsts)
    alone = [units_of(run(page, pages), SIZE, [(page, pages)], [])[0] for page in firsts]
    assert units_of(payload, SIZE, [(10, 200 * pages)], []) == alone
    other = 10 + 199 * pages
    units = units_of(payload + run(other + pages, 7) + run(other + pages + 7, 1), SIZE, [(10, 200 * pages + 8)], [])
    assert [page for page, _ in units] == [*firsts, other + pages, other + pages + 7]


@pytest.mark.parametrize("bad", [run(999, 2), run(70, 3), run(70, 2, flags=0x10)], ids=["another page", "longer", "other flags"])
def test_one_that_differs_among_units_alike_is_refused(bad: bytes) -> None:
    payload = bytearray(b"".join(run(page, 2) for page in range(10, 110, 2)))
    payload[60 * SIZE : 62 * SIZE] = bad[: 2 * SIZE]
    with pytest.raises(ProtocolError):
        units_of(bytes(payload), SIZE, [(10, 100)], [])


def test_the_same_bytes_on_another_page_have_another_sum() -> None:
    here, there = units_of(b"x" * 40, SIZE, [], [(5, 20, SIZE - 20)]), units_of(b"x" * 40, SIZE, [], [(6, 20, SIZE - 20)])
    assert here[0][1] != there[0][1]


@pytest.mark.parametrize(
    "payload",
    [run(10, 3)[:-SIZE], run(11, 3), run(10, 4), run(10, 0) + bytes(3 * SIZE), run(10, 3, flags=2), run(10, 2) + bytes(SIZE)],
    ids=["cut off", "another page", "too long", "no length", "a leaf with a hole", "ends in nothing"],
)
def test_a_run_that_is_not_made_of_whole_units_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        units_of(payload, SIZE, [(10, 3)], [])


def test_the_digest_is_that_of_what_is_in_use_in_whatever_order_it_came() -> None:
    rng = random.Random(4)
    kept, sums = {}, PageSums()
    sums.grow(1000)
    for _ in range(3000):
        page = rng.randrange(0, 999, 3)
        if page in kept:
            del kept[page]
            sums.free([(page, rng.choice((1, 3)))])
        else:
            kept[page] = rng.getrandbits(64) | 1
            sums.write([(page, kept[page])])
    assert sums.digest == sum(kept.values()) % 2**64
    assert sums.units(0, 1000) == sorted(kept.items())
    assert PageSums(sums.tobytes()).digest == sums.digest
