"""Batches: packing, checking, cutting; against the vectors that another language would implement from."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqha.core.message import (
    HAS_PROPERTIES,
    HEADER_BYTES,
    MERGED,
    RECORD,
    Record,
    batch_of,
    check_name,
    cut,
    fit,
    index_of,
    largest_record,
    merged,
    pack_batch,
    pack_record,
    read_head,
    records,
    renumber,
    stored_head,
)  # fmt: skip
from zmqha.errors import BadName, ProtocolError, by_code

VECTORS = Path(__file__).parent.parent / "vectors"
bodies = st.lists(st.binary(max_size=40), min_size=1, max_size=30)


def load(name: str) -> list:
    return [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / name).read_text())]


@pytest.mark.parametrize("row", load("batches.json"))
def test_batch_vectors(row: dict) -> None:
    batch = bytes.fromhex(row["batch"])
    head = read_head(batch)
    assert head._asdict() == row["head"]
    found = [
        Record(r["sent_ms"], r["expires_ms"], bytes.fromhex(r["properties"]), bytes.fromhex(r["body"])) for r in row["records"]
    ]
    assert list(records(batch)) == found
    packed = [pack_record(r.body, sent_ms=r.sent_ms, expires_ms=r.expires_ms, properties=r.properties) for r in found]
    if head.base == 0:
        again = pack_batch(
            packed, producer=head.producer, first=head.first, flags=head.flags, priority=head.priority, expiry_ms=head.expiry_ms
        )
        assert again == batch
    assert stored_head(batch) == head
    assert largest_record(batch, head) == max(len(record) for record in packed) - RECORD.size


@pytest.mark.parametrize("row", load("batches_invalid.json"))
def test_invalid_batch_vectors(row: dict) -> None:
    with pytest.raises(by_code(row["error"])):
        read_head(bytes.fromhex(row["batch"]))


def test_the_layout_is_what_the_docstring_says() -> None:
    batch = batch_of([b"ab", b""], producer=3, first=9, sent_ms=5)
    assert batch[:8] == bytes([1, 0, 1, 4, 2, 0, 0, 0])
    assert batch[8:24] == (3).to_bytes(8, "little") + (9).to_bytes(8, "little")
    assert batch[HEADER_BYTES : HEADER_BYTES + 8] == (22).to_bytes(4, "little") + (42).to_bytes(4, "little")
    assert batch[HEADER_BYTES + 8 :] == (5).to_bytes(8, "little") + bytes(12) + b"ab" + (5).to_bytes(8, "little") + bytes(12)


@given(bodies, st.data())
def test_a_slice_of_a_slice_is_a_slice(parts: list[bytes], data: st.DataObject) -> None:
    batch = batch_of(parts, producer=1, first=100)
    low = 0
    for _ in range(3):
        head = read_head(batch)
        start = data.draw(st.integers(0, head.count - 1))
        stop = data.draw(st.integers(start + 1, head.count))
        batch = cut(batch, head, start, stop)
        low += start
        head = read_head(batch)
        assert head.first == 100 + low and head.count == stop - start
        assert [record.body for record in records(batch)] == parts[low : low + head.count]


@given(bodies, st.integers(1, 2000), st.data())
def test_fit_takes_as_many_as_fit_and_at_least_one(parts: list[bytes], budget: int, data: st.DataObject) -> None:
    batch = batch_of([b"first", *parts], producer=1, first=1)
    batch = cut(batch, read_head(batch), 1, len(parts) + 1)
    head = read_head(batch)
    start = data.draw(st.integers(0, head.count - 1))
    stop = fit(batch, head, start, budget)
    sizes = [RECORD.size + len(part) for part in parts]
    assert stop == start + 1 or sum(sizes[start:stop]) <= budget
    assert stop == head.count or sum(sizes[start : stop + 1]) > budget


@given(st.binary(max_size=300))
def test_any_bytes_are_a_batch_or_a_protocol_error(data: bytes) -> None:
    try:
        head = read_head(data)
    except ProtocolError:
        return
    cut(data, head, 0, head.count)


@given(bodies, st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_damaged_batch_never_raises_anything_else(parts: list[bytes], at: int, junk: bytes) -> None:
    batch = batch_of(parts, producer=1, first=1)
    damaged = batch[:at] + junk + batch[at + len(junk) :]
    try:
        list(records(damaged))
    except ProtocolError:
        return


def test_a_record_that_lies_about_its_properties_is_found_by_who_decodes_it() -> None:
    with pytest.raises(ProtocolError):
        list(records(pack_batch([RECORD.pack(0, 0, 5) + b"abc"], producer=1, first=1)))
    with pytest.raises(ProtocolError):
        list(records(pack_batch([b"short"], producer=1, first=1)))


def test_renumbering_changes_producer_and_sequence_only() -> None:
    batch = batch_of([b"a", b"b"], producer=1, first=5)
    assert renumber(batch, 2, 9) == batch_of([b"a", b"b"], producer=9, first=2)
    assert index_of(batch, 2).tolist() == [21, 42]


def test_a_merged_batch_says_so_in_flag_and_properties_and_keeps_the_rest() -> None:
    properties = msgspec.msgpack.encode({"k": 1})
    made = pack_batch(
        [pack_record(b"plain", sent_ms=5), pack_record(b"rich", sent_ms=6, expires_ms=9, properties=properties)],
        producer=1, first=4, flags=HAS_PROPERTIES, priority=7, expiry_ms=9,
    )  # fmt: skip
    told = merged(made, 12)
    head = read_head(told)
    assert head == read_head(made)._replace(flags=HAS_PROPERTIES | MERGED)
    plain, rich = records(told)
    assert (plain.body, plain.sent_ms, msgspec.msgpack.decode(plain.properties)) == (b"plain", 5, {"x-merged": 12})
    assert (rich.body, rich.expires_ms, msgspec.msgpack.decode(rich.properties)) == (b"rich", 9, {"k": 1, "x-merged": 12})


def test_a_slice_can_be_merged_and_so_can_properties_that_are_no_map() -> None:
    made = pack_batch([pack_record(b"%d" % n, sent_ms=0, properties=b"\xc1") for n in range(4)], producer=1, first=1)
    told = merged(cut(made, read_head(made), 1, 3), 12)
    assert (read_head(told).first, [(one.body, one.properties) for one in records(told)]) == (
        2,
        [(b"1", b"\xc1"), (b"2", b"\xc1")],
    )


@pytest.mark.parametrize("name", ["a", "orders/eu", "A-1_2.x", "x" * 200, "..a", "a/b/c"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a b", "a\x00", "a\n", "ü", "x" * 201, "a*", "a\u202e"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(BadName) as caught:
        check_name(name)
    assert caught.value.cause and caught.value.cure and len(caught.value.what) < 300


def test_records_that_are_none_are_merged_as_they_are() -> None:
    made = pack_batch([b"short"], producer=1, first=1)
    told = merged(made, 12)
    assert (read_head(told).flags, told[48:]) == (MERGED, made[48:])


@pytest.mark.parametrize("properties", ["81a161a1ff", "80c1", "93010203", "ff", "9090"])
def test_properties_that_nobody_can_read_travel_as_they_are(properties: str) -> None:
    """No server reads them when they are sent, so anything may be in a store."""
    held = bytes.fromhex(properties)
    told = merged(pack_batch([pack_record(b"body", sent_ms=1, properties=held)], producer=1, first=1), 12)
    assert read_head(told).flags & MERGED
    assert [(one.properties, one.body) for one in records(told)] == [(held, b"body")]
