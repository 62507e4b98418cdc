"""A shipment survives the way there, and nothing else passes for one."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqha.core import limits, shipment
from zmqha.core.lmdb_page import restamp
from zmqha.core.position import NOWHERE, Epoch, Position
from zmqha.core.shipment import Pages, Shipment
from zmqha.errors import ProtocolError

EPOCH = Epoch(5, 2**63 + 1)
BASE = Position(EPOCH, 8, b"\7" * 32)


def meta(txn: int, last_page: int = 1000) -> bytes:
    return restamp(bytes(104) + last_page.to_bytes(8, "little") + bytes(8), txn)


def example(size: int = 3, base: Position = BASE, epoch: Epoch = EPOCH) -> Shipment:
    noise = random.Random(1).randbytes
    run = struct.pack("<QHHI", 10, 0, 4, size) + noise(4096 * size - 16)
    pages = Pages([(10, size)], [(5, 100, 4000), (7, 16, 4096)], run + noise(196 + 16))
    return shipment.build(
        epoch=epoch, base=base, old_meta=meta(8), to_txn=9, new_meta=meta(9), psize=4096, pages=pages, freed=[(4, 1), (20, 3)],
        digest=0x0123456789ABCDEF,
    )  # fmt: skip


def test_encoding_and_decoding_give_the_same_shipment() -> None:
    ship = example()
    assert shipment.decode(ship.head, ship.payload, BASE.chain) == ship
    assert ship.position.txn == 9 and ship.from_txn == 8 and len(ship.position.chain) == 32


def test_an_empty_commit_is_a_shipment_too() -> None:
    ship = shipment.build(
        epoch=EPOCH, base=NOWHERE, old_meta=meta(0), to_txn=1, new_meta=meta(1), psize=4096, pages=Pages([], [], b"")
    )
    assert shipment.decode(ship.head, b"", NOWHERE.chain) == ship
    assert [chunk.count for chunk in shipment.chunks(ship)] == [1]


def test_the_chain_covers_pages_base_and_meta_but_not_the_epoch() -> None:
    assert example(epoch=Epoch(6, 1)).position.chain == example().position.chain
    assert example(base=BASE._replace(chain=b"\1" * 32)).position.chain != example().position.chain
    assert example(size=4).position.chain != example().position.chain


def test_the_base_check_ignores_the_map_size_only() -> None:
    assert shipment.base_check(b"\1" * 8 + meta(3)[8:]) == shipment.base_check(meta(3))
    assert shipment.base_check(meta(3)) != shipment.base_check(meta(4))


@given(st.integers(0, 10**9), st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_is_refused_or_changes_the_position(where: int, bit: int) -> None:
    ship = example()
    whole = bytearray(ship.head + ship.payload)
    whole[where % len(whole)] ^= 1 << bit
    head, payload = bytes(whole[: len(ship.head)]), bytes(whole[len(ship.head) :])
    try:
        got = shipment.decode(head, payload, BASE.chain)
    except ProtocolError:
        return
    assert got.position != ship.position


@pytest.mark.parametrize("cut", [0, 1, 71, 191, 200, 227])
def test_a_short_head_is_refused(cut: int) -> None:
    ship = example()
    assert cut < len(ship.head)
    with pytest.raises(ProtocolError):
        shipment.decode(ship.head[:cut], ship.payload, BASE.chain)


def test_tables_that_do_not_fit_payload_or_file_are_refused() -> None:
    for runs, compact, size in (
        ([(10, 3)], [], 4096 * 2),
        ([(0, 1)], [], 4096),
        ([(999, 3)], [], 4096 * 3),
        ([], [(1001, 16, 4096)], 16),
        ([], [(5, 200, 100)], 4196),
    ):
        pages = Pages(runs, compact, bytes(size))
        ship = shipment.build(
            epoch=EPOCH, base=BASE, old_meta=meta(8), to_txn=9, new_meta=meta(9), psize=4096, pages=pages, units=[]
        )
        with pytest.raises(ProtocolError):
            shipment.decode(ship.head, ship.payload, BASE.chain)


def test_a_meta_page_of_another_transaction_is_refused() -> None:
    ship = shipment.build(
        epoch=EPOCH, base=BASE, old_meta=meta(8), to_txn=9, new_meta=meta(10), psize=4096, pages=Pages([], [], b"")
    )
    with pytest.raises(ProtocolError):
        shipment.decode(ship.head, b"", BASE.chain)


@pytest.mark.parametrize("pages", [1, 255, 256, 257, 600])
def test_chunks_put_together_are_the_shipment(pages: int) -> None:
    ship = example(pages)
    chunks = list(shipment.chunks(ship))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks))) and {chunk.count for chunk in chunks} == {len(chunks)}
    assert all(len(chunk.piece) <= limits.CHUNK_BYTES_MAX for chunk in chunks)
    assert shipment.decode(chunks[0].head, b"".join(chunk.piece for chunk in chunks), BASE.chain) == ship
    assert all(chunk.head == b"" for chunk in chunks[1:])
