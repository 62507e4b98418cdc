"""Frames of the peer: what was sealed comes out, anything else is refused as a ProtocolError."""

import msgspec
import pytest

from zmqha.core.peer_protocol import NO_SESSION, Drop, Echo, Session, Stored, decode_bulk, decode_control, encode, sealed
from zmqha.core.position import Epoch, Position
from zmqha.errors import ProtocolError

ECHO = Echo(Session(7, 1), Session(9, 1), 4, 12345)
STORED = Stored(Session(7, 1), NO_SESSION, 1, Position(Epoch(3, 1 << 63), 9, b"\1" * 32), 77)


def test_a_message_comes_out_as_it_went_in() -> None:
    assert decode_control(encode(ECHO)) == ECHO
    assert decode_bulk(encode(STORED)) == STORED


def test_a_bit_flipped_anywhere_is_refused() -> None:
    for message, decode in ((ECHO, decode_control), (STORED, decode_bulk)):
        frame = encode(message)  # type: ignore[arg-type]
        for bit in range(len(frame) * 8):
            damaged = bytearray(frame)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ProtocolError, match="damaged on the way"):
                decode(bytes(damaged))


@pytest.mark.parametrize("frame", [b"", b"x", bytes(8), sealed(b""), sealed(b"\x93nonsense"), encode(STORED)])
def test_what_is_no_control_message_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_control(frame)


def test_text_that_is_not_utf8_is_refused_like_any_other_nonsense() -> None:
    body = msgspec.msgpack.encode(Drop(NO_SESSION, NO_SESSION, "why")).replace(b"why", b"\xff\xfe!")
    with pytest.raises(ProtocolError, match="utf-8"):
        decode_control(sealed(body))
    with pytest.raises(ProtocolError, match="utf-8"):
        decode_bulk(sealed(body.replace(b"drop", b"\xff\xfe!!")))
