"""What reads bytes from outside, one target each: frames of clients and peer, batches, shipments, the journal, datagrams, node.state.

A target may raise what the code under it documents, and nothing else; what it accepts must stand up to being used. Where a checksum
or a MAC stands before the code, every second input (an even first byte) gets it put right, so that what lies behind is reached too.
"""

import hmac
import json
import struct
import tempfile
from pathlib import Path

import xxhash

from tests.fuzz.frames import join, split
from zmqha.core import beat_notice, client_protocol, death_notice, message, peer_protocol, shipment
from zmqha.core.client_protocol import Failure
from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import (
    NO_SESSION,
    Beat,
    Drop,
    Echo,
    Follow,
    Grant,
    Hello,
    Piece,
    Session,
    Standing,
    State,
    Stored,
    Sub,
)
from zmqha.core.position import NOWHERE, Epoch, LineageEntry, Mode, Position
from zmqha.errors import ConfigError, ProtocolError, StoreDamaged, ZmqhaError
from zmqha.store import journal_record
from zmqha.store.journal_record import Baseline, Kind, Record
from zmqha.store.node_state import STATE_FILE, NodeState

VECTORS = Path(__file__).parents[1] / "vectors"
SECRET, CLUSTER = b"s" * 32, "5f2c91ab5f2c91ab"
EPOCH, BASE = Epoch(3, 77), Position(Epoch(3, 77), 8, b"\x07" * 32)
MINE, PEER = Session(9, 1), Session(7, 2)


def vectors(name: str) -> list[dict[str, object]]:
    """The entries of a file of vectors."""
    return list(json.loads((VECTORS / f"{name}.json").read_text()))


# --- clients ----------------------------------------------------------------------------------------------------------------------


def client_seeds() -> list[bytes]:
    found = [*vectors("client_protocol"), *vectors("client_protocol_invalid")]
    return [join([bytes.fromhex(frame) for frame in entry["frames"]]) for entry in found]  # type: ignore[attr-defined]


def client(data: bytes) -> None:
    """A client's or server's frames; what is decoded is encoded to something that decodes to the same."""
    frames = split(data, 4)
    client_protocol.request_of(frames)
    try:
        envelope = client_protocol.decode(frames)
    except ProtocolError:
        return
    again = client_protocol.encode(envelope.command, request=envelope.request, epoch=envelope.epoch)
    once = client_protocol.decode(again)
    assert client_protocol.encode(once.command, request=once.request, epoch=once.epoch) == again
    if isinstance(envelope.command, Failure):
        assert isinstance(envelope.command.to_error(), ZmqhaError)


def batch_seeds() -> list[bytes]:
    return [bytes.fromhex(str(entry["batch"])) for name in ("batches", "batches_invalid") for entry in vectors(name)]


def batch(data: bytes) -> None:
    """A batch: every slice of what is accepted is accepted, and holds the same records."""
    try:
        head = message.read_head(data)
    except ProtocolError:
        return
    message.largest_record(data, head)
    middle = message.fit(data, head, 0, len(data) // 2)
    assert 1 <= middle <= head.count
    parts = [message.cut(data, head, 0, middle)] + ([message.cut(data, head, middle, head.count)] if middle < head.count else [])
    assert [message.read_head(part).count for part in parts] == [middle, head.count - middle][: len(parts)]
    try:
        whole = list(message.records(data))
    except ProtocolError:
        return
    assert [record for part in parts for record in message.records(part)] == whole


# --- the peer ---------------------------------------------------------------------------------------------------------------------


def control_messages() -> list[peer_protocol.Control]:
    """One of each kind."""
    lineage = tuple(LineageEntry(EPOCH, Mode.PAIRED, 3 + n, b"\1" * 32, "a", b"\2" * 120, 5, "why", 9) for n in range(2))
    beat = Beat(
        PEER, 5, 12345, State.STANDALONE, Sub.NONE, "why", Standing.SOLE, EPOCH, BASE, True, True, None, 4, True, (MINE, 1),
        NO_SESSION, 0.5, 0.9, False,
    )  # fmt: skip
    return [
        Hello(PEER, 1, 1, CLUSTER, "b", False, 4096, 1, True, lineage, "tcp://127.0.0.1:1"), beat, Echo(PEER, MINE, 4, 999),
        Grant(PEER, MINE, BASE), Drop(PEER, MINE, "too slow"),
    ]  # fmt: skip


def control_seeds() -> list[bytes]:
    return [flag + peer_protocol.encode(message) for message in control_messages() for flag in (b"\0", b"\1")]


def sealed(data: bytes) -> bytes:
    """A frame of the peer; its sum is put right for an even first byte."""
    frame = data[1:]
    return peer_protocol.sealed(frame[: -peer_protocol.SUM_BYTES]) if data[:1] and not data[0] & 1 else frame


def control(data: bytes) -> None:
    """A control frame."""
    try:
        found = peer_protocol.decode_control(sealed(data))
    except ProtocolError:
        return
    assert repr(peer_protocol.decode_control(peer_protocol.encode(found))) == repr(found)


def bulk_frames() -> list[bytes]:
    """One of each kind."""
    messages: list[peer_protocol.Bulk] = [
        Follow(PEER, MINE, NOWHERE, 1), Stored(PEER, MINE, 1, BASE, 77, 2, peer_protocol.Held(BASE, False, True)),
        peer_protocol.CopyBegin(PEER, MINE, 1, 4096, 9),
        peer_protocol.CopyPages(PEER, MINE, ((2, 3), (9, 1)), 4711), peer_protocol.CopyEnd(PEER, MINE, BASE, b"\1" * 120, 4096),
        Piece(PEER, MINE, BASE, 0, 1), peer_protocol.CopyRound(PEER, MINE, BASE, b"\1" * 120, 4096),
        peer_protocol.TableWanted(PEER, MINE, 1, True), peer_protocol.Table(PEER, MINE, 1, 2, False),
        peer_protocol.CopyBegin(PEER, MINE, 1, 4096, 9, peer_protocol.Way.DELTA),
    ]  # fmt: skip
    return [peer_protocol.encode(message) for message in messages]


def bulk_seeds() -> list[bytes]:
    return [flag + frame for frame in bulk_frames() for flag in (b"\0", b"\1")]


def bulk(data: bytes) -> None:
    """A bulk message's first frame."""
    try:
        found = peer_protocol.decode_bulk(sealed(data))
    except ProtocolError:
        return
    assert repr(peer_protocol.decode_bulk(peer_protocol.encode(found))) == repr(found)


def example_shipment() -> shipment.Shipment:
    """Two runs and two pages with holes."""
    meta = bytes(104) + (1000).to_bytes(8, "little") + (9).to_bytes(8, "little")
    runs, compact = [(10, 1), (12, 2)], [(5, 100, 4000), (7, 16, 4096)]
    whole = b"".join(struct.pack("<QHHI", first, 0, 4, count).ljust(count * 4096, b"p") for first, count in runs)
    parts = b"".join(struct.pack("<QHHHH", page, 0, 2, low, high).ljust(low + 4096 - high, b"c") for page, low, high in compact)
    pages = shipment.Pages(runs, compact, whole + parts)
    return shipment.build(epoch=EPOCH, base=BASE, old_meta=bytes(120), to_txn=9, new_meta=meta, psize=4096, pages=pages)


def shipment_seeds() -> list[bytes]:
    ship = example_shipment()
    return [b"\0" + join([ship.head, ship.payload]), b"\1" + join([ship.head, ship.payload])]


def shipped(data: bytes) -> None:
    """A shipment's head and payload; the payload's check is put right for an even first byte."""
    head, payload = (*split(data[1:], 2), b"", b"")[:2]
    if data[:1] and not data[0] & 1:
        head = head[:56] + xxhash.xxh3_64_intdigest(payload).to_bytes(8, "little") + head[64:]
    try:
        ship = shipment.decode(head, payload, BASE.chain)
    except ProtocolError:
        return
    assert shipment.payload_size(ship) == len(payload)
    again = [shipment.decode(ship.head, b"".join(chunk.piece for chunk in shipment.chunks(ship)), BASE.chain)]
    assert again == [ship]


# --- datagrams --------------------------------------------------------------------------------------------------------------------


def death_seeds() -> list[bytes]:
    notice = death_notice.encode(CLUSTER, "a", 77, SECRET)
    return [b"\0" + notice, b"\1" + notice]


def beat_seeds() -> list[bytes]:
    beats = [peer_protocol.encode(message) for message in control_messages() if isinstance(message, Beat)]
    notices = [beat_notice.encode(CLUSTER, 1, frame, SECRET) for frame in beats]
    return [flag + notice for notice in notices if notice is not None for flag in (b"\0", b"\1")]


def datagram(data: bytes) -> None:
    """A death notice or a Beat; the MAC is put right for an even first byte. Only then it may count."""
    right = bool(data[:1]) and not data[0] & 1
    body = data[1:]
    if right and len(body) > 32:
        body = body[:-32] + hmac.digest(SECRET, body[:-32], "sha256")
    dead = death_notice.verify(body, SECRET, CLUSTER)
    heard = beat_notice.verify(body, SECRET, CLUSTER)
    assert dead is None or heard is None
    assert right or (dead, heard) == (None, None) or b"\1" + body in (*death_seeds(), *beat_seeds())


# --- files ------------------------------------------------------------------------------------------------------------------------

JOURNAL = 4711


def _record(kind: int, sequence: int, ship: shipment.Shipment | None = None, piece: bytes = b"") -> bytes:
    head = ship.head if ship else journal_record.encode_baseline(Baseline(BASE, bytes(120))) if sequence == 0 else b""
    position = ship.position if ship else BASE
    raw = b"".join(journal_record.encode(Record(kind, JOURNAL, 5, sequence, sequence, position, 0, 1, head, piece)))
    return raw.ljust(journal_record.space(len(head) + len(piece)), b"\0")


def journal_seeds() -> list[bytes]:
    ship = example_shipment()
    segments = [
        _record(kind, 0) + _record(Kind.CHUNK, 1, ship, ship.payload[:64]) + _record(Kind.CHECKPOINTED, 2) + bytes(512)
        for kind in (Kind.RESET, Kind.SWITCH)
    ]
    return [flag + segment for segment in segments for flag in (b"\0", b"\1")]


def _with_checks(segment: bytearray) -> None:
    """Make every record of a segment look whole."""
    size = struct.calcsize("<IHHQQQQQQQ32sIIII")
    for at in range(0, len(segment) - size - 8, journal_record.ALIGN):
        head, piece = struct.unpack_from("<II", segment, at + size - 8)
        if segment[at : at + 4] == b"ZJRN" and head + piece <= len(segment) - at - size - 8:
            body = segment[at + size + 8 : at + size + 8 + head + piece]
            check = xxhash.xxh3_64_intdigest(bytes(segment[at : at + size]) + bytes(body))
            segment[at + size : at + size + 8] = check.to_bytes(8, "little")


def journal(data: bytes) -> None:
    """A segment of the journal."""
    segment = bytearray(data[1:])
    if data[:1] and not data[0] & 1:
        _with_checks(segment)
    view = memoryview(bytes(segment))
    journal_record.generation_of(view)
    try:
        log = journal_record.read_log(view)
    except StoreDamaged:
        return
    if log is not None:
        assert log.end_at <= len(view) + journal_record.ALIGN
        journal_record.proven_loss(view, log, log)


_place = tempfile.TemporaryDirectory(prefix="zmqha-fuzz-")
_state_file = Path(_place.name) / STATE_FILE


def state_seeds() -> list[bytes]:
    facts = NodeFacts(CLUSTER, "a", 7, EPOCH, Standing.PAIRED, "why", ("promoted by an operator",))
    _state_file.unlink(missing_ok=True)
    state = NodeState(_state_file)
    for number in range(2):
        state.save(facts._replace(incarnation=number))
    state.close()
    raw = _state_file.read_bytes()
    return [b"\0" + raw, b"\1" + raw]


def node_state(data: bytes) -> None:
    """The two slots of node.state; their checks are put right for an even first byte."""
    raw = bytearray(data[1:])
    for at in (0, 4096):
        length = int.from_bytes(raw[at + 4 : at + 8], "little")
        if data[:1] and not data[0] & 1 and at + 24 + length <= len(raw):
            counted = bytes(raw[at + 8 : at + 16] + raw[at + 24 : at + 24 + length])
            raw[at + 16 : at + 24] = xxhash.xxh3_64_intdigest(counted).to_bytes(8, "little")
    _state_file.write_bytes(raw)
    try:
        facts = NodeState(_state_file).load()
    except (StoreDamaged, ConfigError):
        return
    assert not any(raw) if facts is None else facts.bounded() is not None
