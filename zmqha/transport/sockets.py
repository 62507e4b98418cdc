"""Opening ZeroMQ sockets: every option of every socket of the server is set here and nowhere else.

Refuses: ``ZMQ_HEARTBEAT_*`` (libzmq 4.3.5 aborted the process with them, libzmq #4364, #3937; our own heartbeats decide). Used by
the other files of this room. Nothing here blocks; ``bind`` of an address that is not there yet is retried by ``Listener.tick``.
"""

import errno
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import zmq

from zmqha.core import limits
from zmqha.errors import ConfigError

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]
Frames = list[bytes]

RECONNECT_MS = 25  # first pause before libzmq connects again, so a restarted peer is met at once
RECONNECT_MS_MAX = 100  # and the longest, so a healed cable is noticed at once
CONNECT_MS = 900  # an unanswered SYN is given up and sent anew; the kernel alone would wait 1, 2, 4 ... s. Above 2 x 400 ms delay
PEER_SILENT_MS = 10_000  # unacknowledged TCP data older than this ends a peer connection (ZMQ_TCP_MAXRT)
CLIENT_SILENT_MS = limits.SESSION_SILENCE_MS  # likewise for a client: its session is over by then
BACKLOG = 512  # connections the kernel holds before libzmq accepts them: 1000 clients fail over together
CURVE_BYTES = 33  # what CURVE adds to a frame before libzmq compares it with MAXMSGSIZE (measured)
REBIND_MS = 2  # a closed listener needs 1-2 ms until its port is free
ABSENT_MS = 500  # an address that this machine does not have (interface down) is tried again after this

NON_BLOCKING = int(zmq.NOBLOCK)  # plain ints: an IntFlag costs on every call
NON_BLOCKING_MORE = NON_BLOCKING | int(zmq.SNDMORE)
EVENTS = int(zmq.EVENTS)
READABLE = int(zmq.POLLIN)
ZERO_COPY_BYTES = 64 * limits.KIB  # below, copying is cheaper than bookkeeping (pyzmq #1036)

ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})
PASSING = ABSENT | {errno.EADDRINUSE, errno.EMFILE, errno.ENFILE}


class Profile(NamedTuple):
    """What a kind of socket may hold."""

    frame_bytes_max: int  # a larger frame closes its connection (ZMQ_MAXMSGSIZE)
    send_high: int  # messages queued per connection before a send says no
    receive_high: int  # messages queued per connection before TCP holds the sender back
    silent_ms: int  # unacknowledged TCP data older than this closes the connection


CONTROL = Profile(limits.CONTROL_FRAME_BYTES_MAX, 64, limits.PEER_MESSAGES_PER_TURN, PEER_SILENT_MS)
# In bytes the windows of core.source are the bound; in messages all that it may hold for a follower must fit.
BULK = Profile(limits.BULK_FRAME_BYTES_MAX, limits.COPY_BACKLOG_SHIPMENTS + 256, 256, PEER_SILENT_MS)
# Sending is bounded by credit: a burst of all that one consumer may have outstanding, a batch per message, must fit.
CLIENT_SEND_HIGH = limits.CREDIT_MESSAGES_MAX + 512
# Receiving: 32 is as fast as 1000 (measured), about 256 MiB each.
CLIENT = Profile(limits.CLIENT_FRAME_BYTES_MAX, CLIENT_SEND_HIGH, 32, CLIENT_SILENT_MS)


def open_socket(context: Context, kind: int, profile: Profile, *, ipv6: bool) -> Socket:
    """A socket of this kind with every bound set, neither bound nor connected. Raises zmq.ZMQError (EMFILE)."""
    socket: Socket = context.socket(kind)
    options = {
        zmq.LINGER: 0,
        zmq.IMMEDIATE: 1,
        zmq.MAXMSGSIZE: profile.frame_bytes_max + CURVE_BYTES,
        zmq.SNDHWM: profile.send_high,
        zmq.RCVHWM: profile.receive_high,
        zmq.HANDSHAKE_IVL: limits.HANDSHAKE_MS,
        zmq.CONNECT_TIMEOUT: CONNECT_MS,
        zmq.RECONNECT_IVL: RECONNECT_MS,
        zmq.RECONNECT_IVL_MAX: RECONNECT_MS_MAX,
        zmq.TCP_MAXRT: profile.silent_ms,
        zmq.TCP_KEEPALIVE: 0,
        zmq.BACKLOG: BACKLOG,
        zmq.IPV6: int(ipv6),
    }
    if kind == zmq.ROUTER:
        options |= {zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 1}
    for option, value in options.items():
        socket.setsockopt(option, value)
    return socket


def needs_ipv6(endpoint: str) -> bool:
    """Whether ``tcp://host:port`` names an IPv6 address."""
    return "[" in endpoint


class Listener:
    """Binds one socket to several endpoints, now or, where an address is missing for the moment, as soon as it is there."""

    def __init__(self, socket: Socket, endpoints: Iterable[str]) -> None:
        """Raises ConfigError if an endpoint is taken by somebody else or cannot be understood."""
        self._socket = socket
        self.waiting: list[str] = []  # endpoints not bound yet; the log names them
        self._due_ms = 0
        for endpoint in endpoints:
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                if error.errno not in PASSING - {errno.EADDRINUSE}:
                    raise cannot_bind(endpoint, error) from error
                self.waiting.append(endpoint)

    def tick(self, now_ms: int) -> None:
        """Tries what is still waiting, at most every ABSENT_MS."""
        if not self.waiting or now_ms < self._due_ms:
            return
        self._due_ms = now_ms + ABSENT_MS
        self.waiting = [endpoint for endpoint in self.waiting if not self._bound(endpoint)]

    def _bound(self, endpoint: str) -> bool:
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno not in PASSING:
                raise
            return False
        return True


def cannot_bind(endpoint: str, error: zmq.ZMQError) -> ConfigError:
    """What a refused start says."""
    return ConfigError(
        f"cannot listen on {endpoint}",
        cause=str(error),
        cure="is another server running here? See `ss -ltnp`; otherwise correct the address in the configuration",
    )


def send(socket: Socket, frames: Frames) -> None:
    """All frames of one message, never waiting; a large last frame is not copied. Raises zmq.ZMQError.

    Frame by frame, as ``send_multipart`` costs 3.5 us for three frames and this 1.3 us.
    """
    for frame in frames[:-1]:
        socket.send(frame, NON_BLOCKING_MORE)
    last = frames[-1]
    socket.send(last, NON_BLOCKING, len(last) < ZERO_COPY_BYTES)


class Inbox:
    """Takes whole messages from a ROUTER or DEALER without ``recv_multipart`` (8 us for two frames; this is 3 us).

    What costs is every question to the socket: pyzmq makes an enum of the option (2 to 3 us, a frame 0.5). So more frames are asked
    of the frame object, which knows, and the first message is taken without asking: the poller has said that it is there.

    A message of more frames than any of ours has is cut: its first ``frames_max + 1`` frames are handed over, so the decoder
    refuses it, and the others are thrown away. They count against the budget, so that 10,000 empty frames do not hold a turn.
    """

    def __init__(self, socket: Socket, frames_max: int) -> None:
        self._recv: Callable[..., Any] = socket.recv
        self._get = socket.get
        self._keep = frames_max + 1
        self._named = socket.getsockopt(zmq.TYPE) == zmq.ROUTER  # the first frame is a routing id: another one always follows
        self._skipping = False
        self.cut = 0  # messages with too many frames so far

    def receive(self, budget: int) -> list[Frames]:
        """Up to ``budget`` messages of a socket that is readable; an empty list if it is not."""
        recv, keep = self._recv, self._keep
        taken: list[Frames] = []
        try:
            if self._skipping and not self._skip(budget):
                return taken
            while len(taken) < budget:
                if taken and not int(self._get(EVENTS)) & READABLE:
                    break  # an exception for every empty queue would cost twice as much
                frames: Frames = [recv(NON_BLOCKING)] if self._named else []
                frame = recv(NON_BLOCKING, False)
                frames.append(frame.bytes)
                while frame.more:
                    if len(frames) == keep:
                        self.cut += 1
                        self._skipping = True
                        break
                    frame = recv(NON_BLOCKING, False)
                    frames.append(frame.bytes)
                taken.append(frames)
                if self._skipping and not self._skip(budget):
                    break
        except zmq.Again:
            pass
        return taken

    def _skip(self, budget: int) -> bool:
        """Throws away the rest of a message that is too long; False if it goes on beyond ``budget`` frames."""
        for _ in range(budget):
            if not self._recv(NON_BLOCKING, False).more:
                self._skipping = False
                return True
        return False
