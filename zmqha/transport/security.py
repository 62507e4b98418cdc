"""Who may talk to this server: CURVE keys, and the gate (ZAP) that admits them.

A server has one key pair. On the peer ports exactly one other key is admitted, on the client port a set of keys; a key of one
side is refused on the other. In plain mode (``keys`` is None) nothing is encrypted and nobody is asked: development only.

The gate answers from the reactor's own poller. pyzmq's ThreadAuthenticator would cost a second Python thread with an asyncio loop
that dies, and with it all handshakes, on the first exception in a callback.

What never reaches the gate: strangers who do not know the server's public key, wrong protocol, garbage, silence. libzmq closes
those by itself, at once or after HANDSHAKE_MS, and tells nobody: a monitor could, but is one more queue to fill.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zmqha.errors import ConfigError
from zmqha.transport.sockets import NON_BLOCKING, Context, Socket

PEER_DOMAIN = "peer"
CLIENT_DOMAIN = "client"

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # fixed by ZeroMQ RFC 27
_ZAP_VERSION = b"1.0"
_LINE_EVERY_MS = 1000


@dataclass(frozen=True, slots=True)
class Keys:
    """A node's own key pair, each half 40 bytes of Z85 text."""

    public: bytes
    secret: bytes = field(repr=False)


def serve(socket: Socket, keys: Keys | None, domain: str) -> None:
    """Before ``bind``: only keys that the gate admits to this domain get in. Without a running gate nobody does."""
    if keys is None:
        return
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # default: no gate, everybody is admitted


def join(socket: Socket, keys: Keys | None, server_key: bytes | None) -> None:
    """Before ``connect``: talk only to the holder of this key."""
    if keys is None:
        return
    if server_key is None:
        raise ConfigError("own keys but no key of the peer", cure="name the peer's `.key` file in the configuration")
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)


class Refusal(NamedTuple):
    """Somebody was not let in."""

    domain: str
    address: str  # IP address, without port
    reason: str


class KeyGate:
    """ZAP (RFC 27): libzmq asks ``socket`` about every CURVE handshake in its context. One per context, before any bind."""

    def __init__(self, context: Context) -> None:
        """Raises zmq.ZMQError (EADDRINUSE) for a second gate in one context."""
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ZAP_ENDPOINT)
        self._admitted: dict[str, frozenset[bytes]] = {}
        self.admissions = 0
        self.refusals = 0
        self.last: Refusal | None = None
        self._told = 0
        self._line_due_ms = 0

    def admit_peer(self, key: bytes) -> None:
        """Exactly this key on the peer ports."""
        self._admit(PEER_DOMAIN, [key])

    def admit_clients(self, keys: Iterable[bytes]) -> None:
        """These keys, and no others any more, on the client port. Open connections stay."""
        self._admit(CLIENT_DOMAIN, keys)

    def _admit(self, domain: str, keys: Iterable[bytes]) -> None:
        self._admitted[domain] = frozenset(z85.decode(key) for key in keys)
        peers, clients = (self._admitted.get(name, frozenset()) for name in (PEER_DOMAIN, CLIENT_DOMAIN))
        if peers & clients:
            raise ConfigError("the peer's key is also a client key", cure="give every client its own key pair")

    def receive(self, budget: int = 64) -> None:
        """Answers up to ``budget`` waiting handshakes."""
        try:
            for _ in range(budget):
                self.socket.send_multipart(self._answer(self.socket.recv_multipart(NON_BLOCKING)), NON_BLOCKING)
        except zmq.Again:
            pass

    def _answer(self, request: list[bytes]) -> list[bytes]:
        # libzmq itself writes the request: version, id, domain, address, identity, mechanism, credentials (CURVE: 32 bytes)
        _, number, domain, address, _, mechanism, *credentials = request
        name = domain.decode(errors="replace")
        if mechanism == b"CURVE" and credentials and credentials[0] in self._admitted.get(name, frozenset()):
            self.admissions += 1
            return [_ZAP_VERSION, number, b"200", b"OK", z85.encode(credentials[0]), b""]
        self.refusals += 1
        reason = "unknown key" if mechanism == b"CURVE" else f"mechanism {mechanism.decode(errors='replace')}"
        self.last = Refusal(name, address.decode(errors="replace"), reason)
        return [_ZAP_VERSION, number, b"400", b"No access", b"", b""]

    def line(self, now_ms: int) -> str | None:
        """What to log about refusals since the last line, at most once per second."""
        if self.last is None or self.refusals == self._told or now_ms < self._line_due_ms:
            return None
        fresh, self._told, self._line_due_ms = self.refusals - self._told, self.refusals, now_ms + _LINE_EVERY_MS
        return (
            f"refused {fresh} connection(s), the last from {self.last.address} on the {self.last.domain} port: {self.last.reason}"
        )

    def close(self) -> None:
        """From now on every handshake fails."""
        self.socket.close(0)
