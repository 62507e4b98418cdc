"""ZMQHA/1 frames against the vectors that another language would implement from."""

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqha.core import client_protocol as wire
from zmqha.core import limits
from zmqha.core.client_protocol import Code, Command, Envelope, Failure, Ping, Send, decode, encode, failure
from zmqha.core.position import Epoch
from zmqha.errors import OutOfSequence, ProtocolError, QueueFull, ZmqhaError, by_code

VECTORS = Path(__file__).parent.parent / "vectors"


def load(name: str) -> list:
    return [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / name).read_text())]


def command_of(row: dict[str, Any]) -> Command:
    """The command a vector describes; bytes are hex, ranges lists."""
    kind = Failure if row["command"] == "ERROR" else getattr(wire, row["command"].capitalize())
    fields = dict(row["fields"])
    if "batch" in fields:
        fields["batch"] = bytes.fromhex(fields["batch"])
    for name in ("ranges", "held"):
        if name in fields:
            fields[name] = tuple(map(tuple, fields[name]))
    for name in ("versions", "endpoints"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return kind(**fields)


@pytest.mark.parametrize("row", load("client_protocol.json"))
def test_vectors(row: dict[str, Any]) -> None:
    frames = [bytes.fromhex(frame) for frame in row["frames"]]
    command, epoch = command_of(row), Epoch(*row["epoch"])
    assert decode(frames) == Envelope(row["request"], epoch, command)
    assert encode(command, request=row["request"], epoch=epoch) == frames


@pytest.mark.parametrize("row", load("client_protocol_invalid.json"))
def test_invalid_vectors(row: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode([bytes.fromhex(frame) for frame in row["frames"]])
    assert type(caught.value) is by_code(row["error"])


def test_every_command_in_use_has_a_vector() -> None:
    reserved = {Code.REJECT, Code.BROWSE, Code.LOOKUP}
    rows = json.loads((VECTORS / "client_protocol.json").read_text())
    assert {row["command"] for row in rows} == {code.name for code in Code if code not in reserved}


def test_the_header_is_what_the_docstring_says() -> None:
    (frame,) = encode(Ping(), request=5, epoch=Epoch(2, 3))
    assert frame == struct.pack("<BBBBIQQ", 0x5A, 1, 18, 0, 5, 2, 3)
    assert encode(Send("q", b"batch")) == [struct.pack("<BBBBIQQ", 0x5A, 1, 4, 0, 0, 0, 0) + b"q", b"batch"]


@given(st.lists(st.binary(max_size=100), max_size=3))
def test_any_frames_are_a_command_or_a_protocol_error(frames: list[bytes]) -> None:
    try:
        decode(frames)
    except ProtocolError:
        return


@given(st.sampled_from(sorted(Code)), st.binary(max_size=100), st.booleans())
def test_any_body_behind_a_good_header_is_a_command_or_a_protocol_error(code: Code, body: bytes, second: bool) -> None:
    frame = wire.HEADER.pack(wire.MAGIC, wire.VERSION, code, 0, 1, 0, 0) + body
    try:
        decode([frame, b"batch"] if second else [frame])
    except ProtocolError:
        return


def test_a_rare_command_beyond_its_size_is_not_parsed() -> None:
    big = wire.HEADER.pack(wire.MAGIC, wire.VERSION, Code.ADMIN, 0, 1, 0, 0) + msgspec.msgpack.encode({"verb": "x" * 70_000})
    with pytest.raises(ProtocolError, match="allowed are"):
        decode([big])


def test_more_ranges_than_allowed_are_not_unpacked() -> None:
    most = limits.RANGES_PER_FRAME
    assert decode(encode(wire.Ack(1, ((1, 2),) * most))).command.ranges[-1] == (1, 2)
    with pytest.raises(ProtocolError, match="ranges"):
        decode(encode(wire.Ack(1, ((1, 2),) * (most + 1))))


def test_an_error_travels_whole() -> None:
    full = QueueFull("queue q is full", cause="it holds 5", cure="consume")
    assert failure(full, "q") == Failure("ZHA-202", "queue q is full", "it holds 5", "consume", 0, "q")
    assert failure(OutOfSequence("late", expected=7)).expected == 7
    assert by_code("ZHA-999") is ZmqhaError


def test_a_client_that_knows_no_instance_has_none() -> None:
    frame = wire.HEADER.pack(wire.MAGIC, wire.VERSION, Code.OPEN, 0, 1, 0, 0)
    said = msgspec.msgpack.encode({"versions": (1, 1), "client_id": "old"})
    assert decode([frame + said]).command == wire.Open((1, 1), "old", "", 0)
