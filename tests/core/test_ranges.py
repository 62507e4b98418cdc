"""RangeSet and RangeMap against plain sets and dicts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqha.core.ranges import RangeMap, RangeSet

spans = st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda span: (span[0], span[0] + span[1]))


def expand(ranges: object) -> set[int]:
    return {offset for first, end, *_ in ranges for offset in range(first, end)}  # type: ignore[attr-defined]


@given(st.lists(spans), spans, st.integers(0, 35))
def test_a_range_set_is_a_set(adds: list[tuple[int, int]], window: tuple[int, int], floor: int) -> None:
    ranges = RangeSet(adds)
    model = expand(adds)
    assert expand(ranges) == model
    pairs = list(ranges)
    assert all(a[1] < b[0] for a, b in pairwise(pairs)), "ranges that touch are one"
    assert expand(ranges.within(*window)) == model & set(range(*window))
    assert expand(ranges.gaps(*window)) == set(range(*window)) - model
    new_floor = ranges.absorb(floor)
    while floor in model:
        floor += 1
    assert new_floor == floor
    assert expand(ranges) == {offset for offset in model if offset >= floor}


@given(st.lists(st.tuples(spans, st.integers(0, 2), st.sampled_from(("put", "take")))))
def test_a_range_map_is_a_dict(steps: list[tuple[tuple[int, int], int, str]]) -> None:
    ranges, model = RangeMap(), dict[int, int]()
    for (first, end), tag, verb in steps:
        if verb == "put":
            ranges.put(first, end, tag)
            model |= dict.fromkeys(range(first, end), tag)
        else:
            pieces = ranges.take(first, end)
            assert [(o, p.tag) for p in pieces for o in range(p.first, p.end)] == sorted(
                (offset, kept) for offset, kept in model.items() if first <= offset < end
            )
            model = {offset: kept for offset, kept in model.items() if not first <= offset < end}
        assert {offset: piece.tag for piece in ranges for offset in range(piece.first, piece.end)} == model
        pairs = list(ranges)
        assert all(a.end < b.first or (a.end == b.first and a.tag != b.tag) for a, b in pairwise(pairs))


def test_a_message_cannot_be_added_twice() -> None:
    ranges = RangeMap([(0, 5, 1)])
    with pytest.raises(AssertionError):
        ranges.add(4, 6, 1)
