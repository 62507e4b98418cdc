"""Pages and shipments between the servers, away from the heartbeats.

Every server binds a ``BulkSource`` (ROUTER) for its whole life; the one that follows connects a ``BulkFollower`` (DEALER) to it,
on the path it chooses. How much may be under way is decided in ``core.source``; the queues here only bound the rest.
"""

from collections.abc import Iterable

import zmq

from zmqha.transport import security, sockets
from zmqha.transport.security import Keys
from zmqha.transport.sockets import Context, Frames, Inbox, Listener, Socket

FRAMES_MAX = 3  # Piece: message, head, bytes


class BulkSource:
    """The sending end. A follower is named by its routing id, new with each connection."""

    def __init__(self, context: Context, endpoints: Iterable[str], keys: Keys | None = None) -> None:
        """Binds every own address, for life. Raises ConfigError if one is taken."""
        wanted = tuple(endpoints)
        ipv6 = any(sockets.needs_ipv6(endpoint) for endpoint in wanted)
        self.socket: Socket = sockets.open_socket(context, zmq.ROUTER, sockets.BULK, ipv6=ipv6)
        security.serve(self.socket, keys, security.PEER_DOMAIN)
        self._listener = Listener(self.socket, wanted)
        self._inbox = Inbox(self.socket, 1 + FRAMES_MAX)

    @property
    def waiting(self) -> list[str]:
        """Endpoints whose address this machine does not have now."""
        return self._listener.waiting

    def receive(self, budget: int) -> list[tuple[bytes, Frames]]:
        """Up to ``budget`` messages as (routing id, frames)."""
        return [(frames[0], frames[1:]) for frames in self._inbox.receive(budget)]

    def send(self, routing_id: bytes, frames: Frames) -> bool:
        """False if that follower is gone or takes nothing more now: try again, or forget it when contact is lost."""
        try:
            sockets.send(self.socket, [routing_id, *frames])
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def tick(self, now_ms: int) -> None:
        """Binds what could not be bound yet."""
        self._listener.tick(now_ms)

    def close(self) -> None:
        """At the end of the process."""
        self.socket.close(0)


class BulkFollower:
    """The receiving end. ``socket`` is None until ``connect``, and another object after each."""

    def __init__(self, context: Context, keys: Keys | None = None, peer_key: bytes | None = None) -> None:
        self.socket: Socket | None = None
        self._context = context
        self._keys = keys
        self._peer_key = peer_key
        self._inbox: Inbox | None = None

    def connect(self, endpoint: str) -> None:
        """A new connection, in place of the old one and all that was queued on it. Raises zmq.ZMQError for a bad endpoint."""
        self.close()
        socket = sockets.open_socket(self._context, zmq.DEALER, sockets.BULK, ipv6=sockets.needs_ipv6(endpoint))
        security.join(socket, self._keys, self._peer_key)
        socket.connect(endpoint)
        self.socket = socket
        self._inbox = Inbox(socket, FRAMES_MAX)

    def receive(self, budget: int) -> list[Frames]:
        """Up to ``budget`` messages."""
        return self._inbox.receive(budget) if self._inbox is not None else []

    def send(self, frames: Frames) -> bool:
        """False while there is no connection or the queue is full."""
        if self.socket is None:
            return False
        try:
            sockets.send(self.socket, frames)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Stops following. ``connect`` starts again."""
        self._inbox = None
        if self.socket is not None:
            self.socket.close(0)
            self.socket = None
