"""One path to the peer for control frames: a PAIR that is thrown away and made anew whenever contact is lost.

A bare bound PAIR stays deaf after a half-open cut or a frozen peer: it keeps the dead connection and refuses the new one. Likewise
after a frame that is too large or cannot be decrypted. So both ends rebuild; *when* is the caller's decision. Single frames only;
a message of several frames is dropped and counted.

Driven by the reactor: ``socket`` (may be None, another object after ``rebuild``) in the poller, ``tick`` at ``deadline_ms``.
"""

import zmq

from zmqha.transport import security, sockets
from zmqha.transport.security import Keys
from zmqha.transport.sockets import NON_BLOCKING, Context, Socket


class PeerLink:
    """The control channel over one path. The primary binds, the secondary connects."""

    def __init__(
        self,
        context: Context,
        endpoint: str,
        *,
        binds: bool,
        path_name: str,
        keys: Keys | None = None,
        peer_key: bytes | None = None,
    ) -> None:
        """``endpoint`` is the own address where it binds, the peer's where it connects. Raises ConfigError where it is taken."""
        self.path_name = path_name
        self.endpoint = endpoint
        self.binds = binds
        self.socket: Socket | None = None
        self.deadline_ms: int | None = None  # when tick is next needed; 0: at once
        self.waiting: list[str] = []  # the endpoint, while this machine does not have its address
        self.rebuilds = 0
        self.multipart = 0  # dropped messages of several frames
        self.unsent = 0  # frames that found no peer or a full queue
        self._context = context
        self._keys = keys
        self._peer_key = peer_key
        self._skipping = False
        self._open(0, first=True)

    def receive(self, budget: int) -> list[bytes]:
        """Up to ``budget`` frames, oldest first."""
        frames: list[bytes] = []
        if self.socket is None:
            return frames
        recv, get = self.socket.recv, self.socket.get
        try:
            for _ in range(budget):
                if not int(get(sockets.EVENTS)) & sockets.READABLE:
                    break
                frame = recv(NON_BLOCKING, copy=False)
                if not frame.more and not self._skipping:
                    frames.append(frame.bytes)
                    continue
                self.multipart += not frame.more
                self._skipping = frame.more
        except zmq.Again:
            pass
        return frames

    def send(self, frame: bytes) -> bool:
        """False where nobody is connected or the queue is full: the frame is dropped, the next heartbeat repairs it."""
        if self.socket is not None:
            try:
                self.socket.send(frame, NON_BLOCKING)
                return True
            except zmq.Again:
                pass
        self.unsent += 1
        return False

    def rebuild(self, now_ms: int = 0) -> None:
        """Throws the socket away, with everything unread and unsent, and opens another."""
        self.close()
        self.rebuilds += 1
        self._open(now_ms)

    def tick(self, now_ms: int) -> None:
        """Tries to open again where that was not possible yet."""
        if self.deadline_ms is not None and now_ms >= self.deadline_ms:
            self._open(now_ms)

    def close(self) -> None:
        """Drops the connection. ``rebuild`` opens it again."""
        self.deadline_ms = None
        if self.socket is not None:
            self.socket.close(0)
            self.socket = None

    def _open(self, now_ms: int, *, first: bool = False) -> None:
        self._skipping = False
        self.deadline_ms = None
        socket: Socket | None = None
        try:
            socket = sockets.open_socket(self._context, zmq.PAIR, sockets.CONTROL, ipv6=sockets.needs_ipv6(self.endpoint))
            if self.binds:
                security.serve(socket, self._keys, security.PEER_DOMAIN)
                socket.bind(self.endpoint)
            else:
                security.join(socket, self._keys, self._peer_key)
                socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            if socket is not None:
                socket.close(0)
            if error.errno not in sockets.PASSING:
                raise
            if first and error.errno == zmq.EADDRINUSE:  # later it may be the own one that is still closing
                raise sockets.cannot_bind(self.endpoint, error) from error
            self.waiting = [self.endpoint] if error.errno in sockets.ABSENT else []
            self.deadline_ms = now_ms + (sockets.REBIND_MS if error.errno == zmq.EADDRINUSE else sockets.ABSENT_MS)
            return
        self.socket = socket
        self.waiting = []
