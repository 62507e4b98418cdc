"""What an application sends and receives: bodies and properties into records, records into ``Message``.

A body is bytes, str or anything JSON can say; the kind travels as the property ``content-type`` so the receiver can ask for
``.text()`` or ``.json()``. Properties are a MessagePack map of simple values. A received message is decoded when it is looked at.
"""

from typing import Any, Protocol

import msgspec
import orjson

from zmqha.client.consumer import Delivery
from zmqha.core import limits
from zmqha.core.message import HAS_PROPERTIES, RECORD
from zmqha.errors import MessageTooLarge

CONTENT_TYPE = "content-type"
JSON = "application/json"
TEXT = "text/plain"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])
_PLAIN = {JSON: _encoder.encode({CONTENT_TYPE: JSON}), TEXT: _encoder.encode({CONTENT_TYPE: TEXT})}
_pack = RECORD.pack
_HEAD = RECORD.size

Properties = dict[str, Any]


def make_record(
    body: object,
    properties: Properties | None,
    now_ms: int,
    most: int,
) -> tuple[bytes, int]:
    """A record and its batch flags.

    ``most``: bytes allowed for body and properties. Raises MessageTooLarge, TypeError (a body or property that cannot be sent).
    """
    if type(body) is bytes and properties is None:
        if len(body) > most:
            raise _too_large(len(body), most)
        return _pack(now_ms, 0, 0) + body, 0
    raw, kind = _encode(body)
    packed = _pack_properties(properties, kind)
    if len(raw) + len(packed) > most:
        raise _too_large(len(raw) + len(packed), most)
    return _pack(now_ms, 0, len(packed)) + packed + raw, HAS_PROPERTIES if packed else 0


def _encode(body: object) -> tuple[bytes, str]:
    if isinstance(body, bytes):
        return body, ""
    if isinstance(body, bytearray | memoryview):
        return bytes(body), ""
    if isinstance(body, str):
        return body.encode(), TEXT
    return orjson.dumps(body), JSON


def _pack_properties(properties: Properties | None, kind: str) -> bytes:
    if not properties:
        return _PLAIN[kind] if kind else b""
    packed = _encoder.encode({CONTENT_TYPE: kind, **properties} if kind else properties)
    if len(packed) > limits.PROPERTIES_BYTES_MAX:
        raise MessageTooLarge(
            f"the properties of a message take {len(packed)} bytes",
            cause=f"allowed are {limits.PROPERTIES_BYTES_MAX}",
            cure="put large values into the body",
        )
    return packed


def _too_large(size: int, most: int) -> MessageTooLarge:
    cure = "split it, or raise limits.max_message_bytes"
    return MessageTooLarge(f"a message of {size} bytes", cause=f"the server accepts {most}", cure=cure)


class Settler(Protocol):
    """Whom a message tells that it is done with."""

    def ack(self, offset: int) -> None: ...

    def nack(self, offset: int, delay: float) -> None: ...


class Message:
    """One received message. Decoded when looked at; ``ack`` and ``nack`` may be called from any thread, the first call counts."""

    __slots__ = ("_delivery", "_index", "_settler", "settled")

    def __init__(self, settler: Settler, delivery: Delivery, index: int) -> None:
        self._settler = settler
        self._delivery = delivery
        self._index = index
        self.settled = False  # acknowledged or given back

    def __repr__(self) -> str:
        return f"<Message {self.id}, {len(self.body)} bytes{', redelivered' if self.redelivered else ''}>"

    @property
    def destination(self) -> str:
        """The queue it came from."""
        return self._delivery.destination

    @property
    def offset(self) -> int:
        """Its place in the destination's log."""
        return self._delivery.first + self._index

    @property
    def id(self) -> str:
        """``destination@offset``, unique as long as the destination exists."""
        return f"{self._delivery.destination}@{self.offset}"

    @property
    def body(self) -> bytes:
        """The body as sent."""
        delivery, index = self._delivery, self._index
        begin = delivery.ends[index - 1] if index else delivery.base
        origin = delivery.origin
        batch = delivery.batch
        properties: int = RECORD.unpack_from(batch, origin + begin)[2]
        return batch[origin + begin + _HEAD + properties : origin + delivery.ends[index]]

    def text(self) -> str:
        """The body as UTF-8 text. Raises UnicodeDecodeError."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return orjson.loads(self.body)

    @property
    def content_type(self) -> str:
        """``text/plain`` for str, ``application/json`` for JSON, "" for bytes, or what the sender wrote."""
        return str(self._properties().get(CONTENT_TYPE, ""))

    @property
    def properties(self) -> Properties:
        """The sender's properties (a new dictionary each time)."""
        found = self._properties()
        found.pop(CONTENT_TYPE, None)
        return found

    @property
    def priority(self) -> int:
        """0 to 9."""
        return self._delivery.priority

    @property
    def timestamp(self) -> float:
        """When it was sent, by the sender's clock: seconds since 1970."""
        return self._head()[0] / 1000

    @property
    def expires(self) -> float | None:
        """When it expires: seconds since 1970; None = never."""
        expires_ms = self._head()[1]
        return expires_ms / 1000 if expires_ms else None

    @property
    def delivery_count(self) -> int:
        """How often it was handed out, this time included, as far as the servers know."""
        return self._delivery.deliveries

    @property
    def redelivered(self) -> bool:
        """Somebody may have seen it before."""
        return self._delivery.redelivered

    def ack(self) -> None:
        """Done with it: it will not come again once a server has recorded that. Does not wait."""
        if not self.settled:
            self.settled = True
            self._settler.ack(self.offset)

    def nack(self, delay: float = 0.0) -> None:
        """Give it back; it is delivered again, not before ``delay`` seconds. Does not wait."""
        if not self.settled:
            self.settled = True
            self._settler.nack(self.offset, delay)

    def _head(self) -> tuple[int, int, int]:
        """Sent and expires in ms, length of the properties."""
        delivery, index = self._delivery, self._index
        begin = delivery.ends[index - 1] if index else delivery.base
        sent_ms, expires_ms, properties = RECORD.unpack_from(delivery.batch, delivery.origin + begin)
        return sent_ms, expires_ms, properties

    def _properties(self) -> Properties:
        delivery, index = self._delivery, self._index
        size = self._head()[2]
        if not size:
            return {}
        begin = delivery.origin + (delivery.ends[index - 1] if index else delivery.base) + _HEAD
        return _decoder.decode(memoryview(delivery.batch)[begin : begin + size])
