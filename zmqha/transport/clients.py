"""The client port: one ROUTER for all clients, bound in every state of the server.

A client is named by its routing id, which libzmq invents per connection unless the client chose one. Frames pass through unread.
"""

from collections.abc import Iterable
from enum import Enum

import zmq

from zmqha.transport import security, sockets
from zmqha.transport.security import Keys
from zmqha.transport.sockets import Context, Frames, Inbox, Listener, Socket

FRAMES_MAX = 2  # header, batch


class Sent(Enum):
    """What became of a message to a client."""

    OK = "ok"  # queued; delivery is not promised
    FULL = "full"  # the client does not read: its queue is at the high-water mark
    GONE = "gone"  # no such connection any more


class Clients:
    """All client connections."""

    def __init__(self, context: Context, endpoints: Iterable[str], keys: Keys | None = None) -> None:
        """Binds every endpoint, for life. Raises ConfigError if one is taken."""
        wanted = tuple(endpoints)
        ipv6 = any(sockets.needs_ipv6(endpoint) for endpoint in wanted)
        self.socket: Socket = sockets.open_socket(context, zmq.ROUTER, sockets.CLIENT, ipv6=ipv6)
        security.serve(self.socket, keys, security.CLIENT_DOMAIN)
        self._listener = Listener(self.socket, wanted)
        self._inbox = Inbox(self.socket, 1 + FRAMES_MAX)

    @property
    def waiting(self) -> list[str]:
        """Endpoints whose address this machine does not have now."""
        return self._listener.waiting

    @property
    def cut(self) -> int:
        """Messages with too many frames so far."""
        return self._inbox.cut

    def receive(self, budget: int) -> list[tuple[bytes, Frames]]:
        """Up to ``budget`` messages as (client, frames). One with no frames, or more than two, is the decoder's to refuse."""
        return [(frames[0], frames[1:]) for frames in self._inbox.receive(budget)]

    def send(self, client: bytes, frames: Frames) -> Sent:
        """Queues one message, never waits."""
        try:
            sockets.send(self.socket, [client, *frames])
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN:
                return Sent.FULL
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.OK

    def tick(self, now_ms: int) -> None:
        """Binds what could not be bound yet."""
        self._listener.tick(now_ms)

    def close(self) -> None:
        """At the end of the process."""
        self.socket.close(0)
