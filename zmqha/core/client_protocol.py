"""ZMQHA/1, the protocol between a client (DEALER) and a server (ROUTER). The ABNF with a paragraph per command is docs/protocol.md.

Every message is one or two frames. Frame 1 is a fixed header, then the command's own part; frame 2, of SEND and DELIVER only, is a
batch (``core.message``). Header, little-endian, 24 bytes::

    u8 magic 0x5A | u8 version = 1 | u8 command | u8 flags | u32 request | u64 epoch counter | u64 epoch nonce

``request`` is chosen by the client and comes back in the answer; 0 where nothing is answered. The epoch is the server's in every
reply (a client drops replies of a lower one than it has seen) and 0 from clients. Fixed parts are struct, rare commands MessagePack.

Conversation::

    client: OPEN                                server: OPENED / REFUSED (not active: names the active) / ERROR
    client: SEND batch                          server: CONFIRM (cumulative, with durability) / ERROR
    client: SUBSCRIBE, CREDIT, UNSUBSCRIBE      server: REPLY / ERROR, then DELIVER batch ...
    client: ACK ranges, NACK ranges             server: ACKED ranges (durable)
    client: ADMIN verb                          server: REPLY / ERROR        (also without OPEN, in every state)
    client: PING                                server: PONG
    either: CLOSE

This file turns frames into commands and commands into frames; it decides nothing.
"""

import struct
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from zmqha.core import limits
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.errors import ProtocolError, VersionMismatch, ZmqhaError, by_code

MAGIC = 0x5A
VERSION = 1
HEADER = struct.Struct("<BBBBIQQ")
_CONFIRM = struct.Struct("<QQBH")
_DELIVER = struct.Struct("<IQIB")
_SUBSCRIPTION = struct.Struct("<I")
_NACK = struct.Struct("<IQ")
_RANGE = struct.Struct("<QQ")

Range = tuple[int, int]  # [first, end) of offsets
Frames = list[bytes]


class Code(IntEnum):
    """Command numbers; never reused."""

    OPEN = 1
    OPENED = 2
    REFUSED = 3
    SEND = 4
    CONFIRM = 5
    SUBSCRIBE = 6
    UNSUBSCRIBE = 7
    CREDIT = 8
    DELIVER = 9
    ACK = 10
    ACKED = 11
    NACK = 12
    REJECT = 13  # reserved: dead letter
    BROWSE = 14  # reserved
    LOOKUP = 15  # reserved
    ADMIN = 16
    REPLY = 17
    PING = 18
    PONG = 19
    CLOSE = 20
    ERROR = 21


class Durability(IntEnum):
    """What a confirm promises."""

    ONE_DISK = 1  # the server runs alone (STANDALONE)
    BOTH_DISKS = 2


class Open(msgspec.Struct, frozen=True):
    """Client: begin a session. ``versions`` it speaks, ``client_id`` for logs and limits, ``instance``: in all sessions of a client."""

    versions: tuple[int, int]
    client_id: str
    product: str = ""
    instance: int = 0  # drawn by chance; 0: it does not say


class Opened(msgspec.Struct, frozen=True):
    """Server: here are the rules of this session."""

    server: str
    cluster: str
    endpoints: tuple[str, str]  # client endpoints of primary and secondary
    max_message_bytes: int
    batch_messages: int
    batch_bytes: int
    batches_in_flight: int
    ping_ms: int


class Refused(msgspec.Struct, frozen=True):
    """Server: not here. ``active`` is the endpoint to ask, "" if none is known; ask again after ``retry_ms``."""

    state: str
    active: str
    retry_ms: int
    code: str
    what: str
    cause: str = ""
    cure: str = ""


class Subscribe(msgspec.Struct, frozen=True):
    """Client: deliver from a queue. ``held``: ranges [first, end) that this client still works on after a takeover, of the queue with
    the number ``queue``: another one may have its name by now."""

    subscription: int  # chosen by the client, unique in its session
    destination: str
    messages: int  # most messages out and not acknowledged
    bytes: int  # likewise in bytes; at least one message is always delivered
    held: tuple[Range, ...] = ()
    queue: int = 0  # as the last REPLY said


class Credit(msgspec.Struct, frozen=True):
    """Client: new bounds for a subscription."""

    subscription: int
    messages: int
    bytes: int


class Unsubscribe(msgspec.Struct, frozen=True):
    """Client: stop; what is out and unacknowledged goes back to the queue."""

    subscription: int


class Admin(msgspec.Struct, frozen=True):
    """Client: an operator's verb with arguments, see docs/protocol.md for the list."""

    verb: str
    arguments: dict[str, Any] = {}


class Failure(msgspec.Struct, frozen=True):
    """Server: what an ERROR says. ``expected`` is the next sequence (OutOfSequence), ``destination`` where it matters."""

    code: str
    what: str
    cause: str = ""
    cure: str = ""
    expected: int = 0
    destination: str = ""

    def to_error(self) -> ZmqhaError:
        """The exception a client raises."""
        error = by_code(self.code)(self.what, cause=self.cause, cure=self.cure)
        if hasattr(error, "expected"):
            error.expected = self.expected
        return error


def failure(error: ZmqhaError, destination: str = "") -> Failure:
    """The wire form of an exception."""
    return Failure(error.code, error.what, error.cause, error.cure, getattr(error, "expected", 0), destination)


class Send(NamedTuple):
    """Client: store these messages."""

    destination: str
    batch: bytes


class Confirm(NamedTuple):
    """Server: everything of this producer to this destination up to and including ``up_to`` is as durable as said."""

    destination: str
    producer: int
    up_to: int
    durability: int


class Deliver(NamedTuple):
    """Server: messages from ``first`` on. ``deliveries``: how often handed out now, this time included (what is known)."""

    subscription: int
    first: int
    deliveries: int
    redelivered: bool
    batch: bytes


class Ack(NamedTuple):
    """Client: done with these offsets."""

    subscription: int
    ranges: tuple[Range, ...]


class Acked(NamedTuple):
    """Server: recorded, as durable as the state promises."""

    subscription: int
    ranges: tuple[Range, ...]


class Nack(NamedTuple):
    """Client: give these back; they are delivered again, not before ``delay_ms``."""

    subscription: int
    delay_ms: int
    ranges: tuple[Range, ...]


class Reply(NamedTuple):
    """Server: the result of SUBSCRIBE, UNSUBSCRIBE, CREDIT or ADMIN; any MessagePack value."""

    result: Any


class Ping(NamedTuple):
    """Client: I am alive, are you?"""


class Pong(NamedTuple):
    """Server: yes."""


class Close(NamedTuple):
    """Either: the session ends; everything unacknowledged goes back."""


Command = (
    Open | Opened | Refused | Send | Confirm | Subscribe | Unsubscribe | Credit | Deliver | Ack | Acked | Nack
    | Admin | Reply | Ping | Pong | Close | Failure
)  # fmt: skip


class Envelope(NamedTuple):
    """A decoded message: the command with its header."""

    request: int
    epoch: Epoch
    command: Command


_STRUCTS: dict[int, Any] = {
    Code.OPEN: Open, Code.OPENED: Opened, Code.REFUSED: Refused, Code.SUBSCRIBE: Subscribe, Code.UNSUBSCRIBE: Unsubscribe,
    Code.CREDIT: Credit, Code.ADMIN: Admin, Code.ERROR: Failure,
}  # fmt: skip
_CODE_OF = {kind: code for code, kind in _STRUCTS.items()}
_DECODERS = {code: msgspec.msgpack.Decoder(kind) for code, kind in _STRUCTS.items()}
_EMPTY: dict[int, Command] = {Code.PING: Ping(), Code.PONG: Pong(), Code.CLOSE: Close()}
_EMPTY_CODE = {Ping: Code.PING, Pong: Code.PONG, Close: Code.CLOSE}
_anything = msgspec.msgpack.Decoder()
_encoder = msgspec.msgpack.Encoder()


def encode(command: Command, *, request: int = 0, epoch: Epoch = NO_EPOCH) -> Frames:
    """The frames of a command."""

    def head(code: int) -> bytes:
        return HEADER.pack(MAGIC, VERSION, code, 0, request, epoch.counter, epoch.nonce)

    match command:
        case Send(destination, batch):
            return [head(Code.SEND) + destination.encode(), batch]
        case Confirm(destination, producer, up_to, durability):
            name = destination.encode()
            return [head(Code.CONFIRM) + _CONFIRM.pack(producer, up_to, durability, len(name)) + name]
        case Deliver(subscription, first, deliveries, redelivered, batch):
            return [head(Code.DELIVER) + _DELIVER.pack(subscription, first, deliveries, redelivered), batch]
        case Ack(subscription, ranges):
            return [head(Code.ACK) + _SUBSCRIPTION.pack(subscription) + _pack_ranges(ranges)]
        case Acked(subscription, ranges):
            return [head(Code.ACKED) + _SUBSCRIPTION.pack(subscription) + _pack_ranges(ranges)]
        case Nack(subscription, delay_ms, ranges):
            return [head(Code.NACK) + _NACK.pack(subscription, delay_ms) + _pack_ranges(ranges)]
        case Reply(result):
            return [head(Code.REPLY) + _encoder.encode(result)]
        case Ping() | Pong() | Close():
            return [head(_EMPTY_CODE[type(command)])]
        case _:
            return [head(_CODE_OF[type(command)]) + _encoder.encode(command)]


def decode(frames: Frames) -> Envelope:
    """The command in these frames; raises ProtocolError (VersionMismatch) and reads nothing beyond its checked sizes."""
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(f"{len(frames)} frames, a message has one or two")
    frame = frames[0]
    if len(frame) < HEADER.size:
        raise ProtocolError(f"a first frame of {len(frame)} bytes is too short")
    magic, version, code, _, request, counter, nonce = HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise ProtocolError("not a ZMQHA message")
    if version != VERSION:
        raise VersionMismatch(
            f"protocol version {version} is not spoken here", cause=f"this side speaks {VERSION}", cure="upgrade the older side"
        )
    if (len(frames) == 2) != (code in (Code.SEND, Code.DELIVER)):
        raise ProtocolError(f"command {code} with {len(frames)} frames")
    try:
        return Envelope(request, Epoch(counter, nonce), _body(code, frame, frames))
    except (struct.error, UnicodeDecodeError, msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"command {code} does not hold what it must: {error}") from error


def request_of(frames: Frames) -> int:
    """The request number of a message that could not be decoded, so that it can be answered; 0 if there is none.

    The first eight bytes keep their meaning in every version.
    """
    first = frames[0] if frames else b""
    if len(first) < HEADER.size or first[0] != MAGIC:
        return 0
    return int(HEADER.unpack_from(first)[4])


def _body(code: int, frame: bytes, frames: Frames) -> Command:
    body = memoryview(frame)[HEADER.size :]
    if code == Code.SEND:
        return Send(_name(body), frames[1])
    if code == Code.ACK:
        return Ack(_SUBSCRIPTION.unpack_from(body)[0], _unpack_ranges(body[_SUBSCRIPTION.size :]))
    if code == Code.DELIVER:
        subscription, first, deliveries, redelivered = _DELIVER.unpack_from(body)
        return Deliver(subscription, first, deliveries, bool(redelivered), frames[1])
    if code == Code.CONFIRM:
        producer, up_to, durability, size = _CONFIRM.unpack_from(body)
        return Confirm(_name(body[_CONFIRM.size : _CONFIRM.size + size]), producer, up_to, durability)
    if code == Code.ACKED:
        return Acked(_SUBSCRIPTION.unpack_from(body)[0], _unpack_ranges(body[_SUBSCRIPTION.size :]))
    if code == Code.NACK:
        subscription, delay_ms = _NACK.unpack_from(body)
        return Nack(subscription, delay_ms, _unpack_ranges(body[_NACK.size :]))
    if code == Code.REPLY:
        return Reply(_anything.decode(body))
    if code in _EMPTY:
        return _EMPTY[code]
    if code in _DECODERS:
        if len(body) > limits.ADMIN_BYTES_MAX:
            raise ProtocolError(f"command {code} with {len(body)} bytes, allowed are {limits.ADMIN_BYTES_MAX}")
        command: Command = _DECODERS[code].decode(body)
        return command
    raise ProtocolError(f"command {code} is unknown")


def _name(raw: memoryview) -> str:
    if len(raw) > limits.NAME_BYTES_MAX:
        raise ProtocolError(f"a name of {len(raw)} bytes")
    return str(raw, "utf-8")


def _pack_ranges(ranges: tuple[Range, ...]) -> bytes:
    return b"".join(_RANGE.pack(*pair) for pair in ranges)


def _unpack_ranges(raw: memoryview) -> tuple[Range, ...]:
    if len(raw) > limits.RANGES_PER_FRAME * _RANGE.size:
        raise ProtocolError(f"more than {limits.RANGES_PER_FRAME} ranges")
    return tuple(_RANGE.iter_unpack(raw))
