"""A client that speaks the protocol by hand to one server, so that a test may cut it between any two frames."""

import time

import zmq

from zmqha.core import client_protocol, message
from zmqha.core.client_protocol import (
    Ack,
    Command,
    Deliver,
    Envelope,
    Open,
    Opened,
    Range,
    Refused,
    Send,
    Subscribe,
    decode,
    encode,
)

CREDIT_BYTES = 1 << 24


class RawClient:
    """One DEALER; ``opened`` says whether the server serves."""

    def __init__(self, port: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._say(Open((client_protocol.VERSION, client_protocol.VERSION), "by hand"))
        self.opened = isinstance(self.take(Opened, Refused).command, Opened)

    def send(self, queue: str, producer: int, first: int, bodies: list[bytes]) -> None:
        """One batch."""
        self._say(Send(queue, message.batch_of(bodies, producer=producer, first=first)))

    def subscribe(self, queue: str, messages: int) -> None:
        self._say(Subscribe(1, queue, messages, CREDIT_BYTES))

    def ack(self, *ranges: Range) -> None:
        self._say(Ack(1, ranges))

    def deliveries(self, count: int) -> dict[int, bytes]:
        """So many messages, by offset."""
        found: dict[int, bytes] = {}
        while len(found) < count:
            delivered = self.take(Deliver).command
            assert isinstance(delivered, Deliver)
            for number, record in enumerate(message.records(delivered.batch)):
                found[delivered.first + number] = record.body
        return found

    def take(self, *kinds: type, timeout_s: float = 5.0) -> Envelope:
        """The next command of one of these kinds; others are passed over. TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._socket.poll(max(1, int(left_s * 1000))):
                envelope = decode(self._socket.recv_multipart())
                if isinstance(envelope.command, kinds):
                    return envelope
        raise TimeoutError(f"no {' or '.join(kind.__name__ for kind in kinds)} within {timeout_s} s")

    def cut(self) -> None:
        """Without a word."""
        self._context.destroy(linger=0)

    def _say(self, command: Command) -> None:
        self._socket.send_multipart(encode(command, request=1))
