"""The connection to one server: a DEALER and its monitor. Used by the I/O thread only.

A link is thrown away at every loss, with all that waits in it: no frame of an old session reaches a restarted server. libzmq
connects again by itself, and the monitor tells when. ``send`` never blocks: what libzmq does not take now (EAGAIN: no connection,
or its high-water mark) stays in ``waiting``, in order, and goes out with ``flush``.
"""

import itertools
from collections import deque
from typing import NamedTuple

import zmq
import zmq.auth
from zmq.utils.monitor import parse_monitor_message

from zmqha.client.answers import BROKEN, NO_ACCESS
from zmqha.client.url import Host, Options
from zmqha.core import limits
from zmqha.core.client_protocol import Frames
from zmqha.core.curve_key import is_key
from zmqha.errors import UrlError

RECONNECT_MS = 25  # libzmq's own retries; a restarted server is met again within this
RECONNECT_MS_MAX = 100
CONNECT_MS = 900  # an unanswered SYN is sent anew; the kernel alone would wait 1, 2, 4 ... s
QUEUE_FRAMES = 512  # high-water marks: above it frames wait here, bounded by batches in flight and credit
ZERO_COPY_BYTES = 64 * limits.KIB  # below, copying is cheaper than bookkeeping
CLOSE_MS = 200  # the last acknowledgements and CLOSE may take this long

_NOW = int(zmq.NOBLOCK)
_NOW_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS_NOW = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)
_FAILED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "the handshake failed (is the other side zmqha, and CURVE on or off on both?)",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "the handshake failed (CURVE on or off on both? the right curve_server_key?)",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): NO_ACCESS,
}
_EVENTS = int(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED) | sum(_FAILED)

_numbers = itertools.count()

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


class Keys(NamedTuple):
    """CURVE keys in Z85."""

    server: bytes
    public: bytes
    secret: bytes


def load_keys(options: Options) -> Keys | None:
    """The keys that the options name; None = plain. Raises UrlError. Without a key file this client's key is a fresh one."""
    if not options.curve_server_key:
        return None
    server = options.curve_server_key.encode()
    if not options.curve_key_file:
        public, secret = zmq.curve_keypair()
        return Keys(server, public, secret)
    try:
        public, found = zmq.auth.load_certificate(options.curve_key_file)
    except (OSError, ValueError) as error:
        what = f"cannot read the key file {options.curve_key_file}"
        raise UrlError(what, cause=str(error), cure="curve_key_file must name this client's *.key_secret") from error
    if found is None:
        what = f"the key file {options.curve_key_file} holds no secret key"
        raise UrlError(what, cure="curve_key_file must name this client's *.key_secret")
    if not (is_key(public.decode(errors="replace")) and is_key(found.decode(errors="replace"))):
        what = f"the key file {options.curve_key_file} holds a key that is not Z85"
        raise UrlError(what, cause="a key is 40 characters of Z85", cure="copy the file anew, or make new keys")
    return Keys(server, public, found)


class Event(NamedTuple):
    """What the monitor saw: connected, or why not any more."""

    connected: bool
    why: str = ""


class Link:
    """See above."""

    def __init__(self, context: Context, host: Host, keys: Keys | None, affinity: int = 0) -> None:
        """``affinity``: bits of the context's threads that may serve it, 0 = any.

        Raises zmq.ZMQError, with nothing left open, if the process may open no more sockets.
        """
        self.waiting: deque[Frames] = deque()
        self._closed = False
        self.socket: Socket = context.socket(zmq.DEALER)
        try:
            self.socket.setsockopt(zmq.AFFINITY, affinity)
            self._open(context, host, keys)
        except BaseException:
            self.socket.close(0)
            raise

    def _open(self, context: Context, host: Host, keys: Keys | None) -> None:
        options = {
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.MAXMSGSIZE: limits.CLIENT_FRAME_BYTES_MAX,
            zmq.SNDHWM: QUEUE_FRAMES,
            zmq.RCVHWM: QUEUE_FRAMES,
            zmq.RECONNECT_IVL: RECONNECT_MS,
            zmq.RECONNECT_IVL_MAX: RECONNECT_MS_MAX,
            zmq.CONNECT_TIMEOUT: CONNECT_MS,
            zmq.HANDSHAKE_IVL: limits.HANDSHAKE_MS,
            zmq.TCP_MAXRT: limits.SESSION_SILENCE_MS,
            zmq.IPV6: int(":" in host.name),
        }
        if keys is not None:
            self.socket.curve_serverkey = keys.server
            self.socket.curve_publickey = keys.public
            self.socket.curve_secretkey = keys.secret
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        watch = f"inproc://zmqha-client-monitor-{next(_numbers)}"
        self.socket.monitor(watch, _EVENTS)
        self.monitor: Socket = context.socket(zmq.PAIR)
        try:
            self.monitor.connect(watch)
            self.socket.connect(host.endpoint)
        except BaseException:
            self.monitor.close(0)
            raise

    def events(self) -> list[Event]:
        """What happened to the connection since the last call."""
        found = []
        while self.monitor.poll(0):
            event = int(parse_monitor_message(self.monitor.recv_multipart(_NOW))["event"])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                found.append(Event(True))
            elif event == zmq.EVENT_DISCONNECTED:
                found.append(Event(False, BROKEN))
            elif event in _FAILED:
                found.append(Event(False, _FAILED[event]))
        return found

    def receive(self, budget: int) -> list[Frames]:
        """Up to ``budget`` messages.

        Asking the socket costs 3.5 us each time, as much as a frame itself: a frame object knows whether more follow, and the first
        message is taken without asking, since the poller has most likely said that it is there.
        """
        taken: list[Frames] = []
        recv, get = self.socket.recv, self.socket.get
        try:
            while len(taken) < budget and (not taken or int(get(_EVENTS_NOW)) & _READABLE):
                frame = recv(_NOW, copy=False)
                frames = [frame.bytes]
                while frame.more:
                    frame = recv(_NOW, copy=False)
                    frames.append(frame.bytes)
                taken.append(frames)
        except zmq.Again:
            pass
        return taken

    def send(self, frames: Frames) -> None:
        """Send now or, if libzmq does not take it, with the next ``flush``."""
        if self.waiting or not self._take(frames):
            self.waiting.append(frames)

    def try_send(self, frames: Frames) -> bool:
        """Send now or not at all."""
        return not self.waiting and self._take(frames)

    def flush(self) -> None:
        """Send what waits, as far as possible."""
        waiting = self.waiting
        while waiting and self._take(waiting[0]):
            waiting.popleft()

    def is_closed(self) -> bool:
        """Nothing but ``close`` may be called any more."""
        return self._closed

    def close(self, linger_ms: int = 0) -> None:
        """End it; what is queued is lost, or has ``linger_ms`` to leave. A second time is nothing."""
        if self._closed:
            return
        self._closed = True
        self.waiting.clear()
        self.socket.monitor(None, 0)
        self.monitor.close(0)
        self.socket.close(linger_ms)

    def _take(self, frames: Frames) -> bool:
        """Whether libzmq took the message. Only the first frame can be refused: a message is one unit to libzmq."""
        try:
            for frame in frames[:-1]:
                self.socket.send(frame, _NOW_MORE)
            last = frames[-1]
            self.socket.send(last, _NOW, len(last) < ZERO_COPY_BYTES)
        except zmq.Again:
            return False
        return True
