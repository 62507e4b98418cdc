"""Cables and TCP as a toy: two paths between the machines, a LAN port per machine, connections that stall, retry and break.

A connection keeps the order of its frames. While its cable is cut, frames wait and are tried again after 200, 600, 1400 ... ms, like
TCP does, so old frames surface late. When it breaks (process gone, socket thrown away, reset), what was under way is lost: the tail.
A machine without power sends no FIN; its peer holds a half-open connection until something comes back as a reset.

Loss makes TCP retransmit, a slow path delays everything on it, a hole in the MTU lets small frames pass and stalls a connection at the
first large one. A suspended machine takes nothing and answers nothing; what is under way to it is tried again when it is back.

Nothing breaks A1 by itself: the LAN path between the two machines is cut only together with a machine's own way to the gateway;
``blocked`` (both ways, or from one machine) is for stories that say what they break.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from tests.sim.clock import Clock

PEER_LINK, LAN = 0, 1
RETRY_MS = 200  # TCP's first retransmission
RETRY_MS_MAX = 3000
CONNECT_MS = 900  # an unanswered SYN (transport.sockets.CONNECT_MS)
RECONNECT_MS = (25, 100)  # libzmq's pause before it connects again


class Cables:
    """What is cut now. Counters, because cuts may overlap."""

    def __init__(self) -> None:
        self.link: defaultdict[str, int] = defaultdict(int)  # peer link, by sender
        self.lan_out: defaultdict[str, int] = defaultdict(int)
        self.lan_in: defaultdict[str, int] = defaultdict(int)
        self.gateway_down = 0
        self.gateway_mute: defaultdict[str, int] = defaultdict(int)  # the gateway does not answer this machine only
        self.resetting = [0, 0]  # per path: a firewall answers everything between the machines with a reset
        self.blocked: defaultdict[str, int] = defaultdict(int)  # LAN between the two machines only, by sender (both: breaks A1)
        self.loss = [0.0, 0.0]  # per path: this share of all packets
        self.slow_ms = [0, 0]  # per path: this much later
        self.hole = [0, 0]  # per path: packets of full size vanish
        self.bulk_closed = [0, 0]  # per path: nothing listens on the port for pages
        self.client_out: defaultdict[str, int] = defaultdict(int)  # LAN between this machine and clients only

    def between_servers(self, change: int) -> None:
        """Cut the two machines from each other on both paths (1), or mend that (-1). Both keep gateway and clients: A1 is broken."""
        for counter in (self.link, self.blocked):
            for sender in "ab":
                counter[sender] += change

    def pass_frame(self, path: int, sender: str, receiver: str) -> bool:
        """Does a frame get through now."""
        if path == PEER_LINK:
            return not self.link[sender]
        if CLIENT not in (sender, receiver):
            if self.blocked[sender]:
                return False
        elif self.client_out[sender] or self.client_out[receiver]:
            return False
        return not self.lan_out[sender] and not self.lan_in[receiver]

    def lost(self, path: int, random: Random) -> bool:
        """Is this packet lost by chance."""
        return bool(self.loss[path]) and random.random() < self.loss[path]


CLIENT = "client"  # the machine of all clients: on the LAN, never fails


class Host(Protocol):
    """What a connection must know of a machine."""

    name: str
    powered: bool
    suspended: bool

    @property
    def frozen(self) -> bool: ...


class End(Protocol):
    """A socket: one end of a connection."""

    host: Host

    def received(self, connection: "Connection", frame: Any) -> None: ...

    def lost(self, connection: "Connection") -> None: ...


class _Stream:
    """One direction of a connection."""

    __slots__ = ("arrival_ms", "connection", "receiver", "retry_ms", "sender", "unanswered_ms", "waiting")

    def __init__(self, connection: "Connection", sender: End, receiver: End) -> None:
        self.connection = connection
        self.sender = sender
        self.receiver = receiver
        self.waiting: deque[Any] = deque()
        self.retry_ms = 0  # 0: not stalled
        self.arrival_ms = 0
        self.unanswered_ms = 0  # since when acknowledgements do not come back; 0: they do

    def send(self, frame: Any) -> None:
        network = self.connection.network
        if not self.retry_ms and self._passes(frame):
            self._fly(frame)
            return
        self.waiting.append(frame)
        if not self.retry_ms:
            self.retry_ms = RETRY_MS
            network.clock.after(RETRY_MS, self._retry)

    def _passes(self, frame: Any) -> bool:
        """Through now. Without acknowledgements TCP retransmits after RETRY_MS and sends nothing new from then on."""
        receiver, network = self.receiver.host, self.connection.network
        path, cables, sender = self.connection.path, network.cables, self.sender.host.name
        if not receiver.powered or receiver.suspended or not cables.pass_frame(path, sender, receiver.name):
            return False
        if (cables.hole[path] and _is_large(frame)) or cables.lost(path, network.random):
            return False
        if cables.pass_frame(path, receiver.name, sender):
            self.unanswered_ms = 0
            return True
        self.unanswered_ms = self.unanswered_ms or network.clock.now_ms
        return network.clock.now_ms - self.unanswered_ms < RETRY_MS

    def _fly(self, frame: Any) -> None:
        network = self.connection.network
        path = self.connection.path
        self.arrival_ms = max(self.arrival_ms, network.clock.now_ms + network.delay(path) + network.cables.slow_ms[path])
        network.clock.at(self.arrival_ms, self._arrive, frame)

    def _retry(self) -> None:
        connection = self.connection
        if self.sender in connection.gone and self.sender.host.powered and not self.waiting:
            return
        if not self.sender.host.powered or connection.broken:
            return
        if not self._passes(self.waiting[0] if self.waiting else None):
            self.retry_ms = min(2 * self.retry_ms, RETRY_MS_MAX)
            connection.network.clock.after(self.retry_ms, self._retry)
            return
        self.retry_ms = 0
        while self.waiting and self._passes(self.waiting[0]):
            self._fly(self.waiting.popleft())
        if self.waiting:
            self.retry_ms = RETRY_MS
            connection.network.clock.after(RETRY_MS, self._retry)

    def _arrive(self, frame: Any) -> None:
        connection = self.connection
        if not self.receiver.host.powered or self.receiver.host.suspended:
            self.waiting.append(frame)
            if not self.retry_ms:
                self.retry_ms = RETRY_MS
                connection.network.clock.after(RETRY_MS, self._retry)
            return
        if self.receiver in connection.gone:
            if frame is not FIN and self.sender not in connection.gone:  # the kernel answers with a reset
                connection.network.clock.after(connection.network.delay(connection.path), connection.lose, self.sender)
            return
        if frame is FIN:
            connection.lose(self.receiver)
        else:
            self.receiver.received(connection, frame)


FIN = object()
PACKET_BYTES = 1400  # what a hole in the MTU lets pass
PAGES_BYTES = 4096  # shipments carry no pages here; a real one carries at least this


def _is_large(frame: Any) -> bool:
    match frame:
        case bytes():
            return len(frame) > PACKET_BYTES
        case (bytes() as head, tuple() as rest):  # bulk
            return len(head) + (PAGES_BYTES * bool(rest)) > PACKET_BYTES
        case list():
            return sum(map(len, frame)) > PACKET_BYTES
    return False


class Connection:
    """Two ends, a path."""

    def __init__(self, network: "Network", path: int, first: End, second: End) -> None:
        self.network = network
        self.path = path
        self.gone: list[End] = []  # ends that do not know this connection any more
        self.broken = False
        self._streams = {id(first): _Stream(self, first, second), id(second): _Stream(self, second, first)}
        self._ends = (first, second)

    def send(self, end: End, frame: Any) -> None:
        """From this end to the other."""
        if end not in self.gone:
            self._streams[id(end)].send(frame)

    def lose(self, end: End) -> None:
        """This end learns that the connection is over."""
        if end not in self.gone:
            self.gone.append(end)
            end.lost(self)

    def close(self, end: End) -> None:
        """This end lets go (socket closed, process gone): what it had not sent is lost, the other end is told."""
        if end in self.gone:
            return
        self.gone.append(end)
        stream = self._streams[id(end)]
        stream.waiting.clear()
        stream.send(FIN)

    def vanish(self, end: End) -> None:
        """The machine of this end lost its power: nobody is told."""
        if end not in self.gone:
            self.gone.append(end)
            self._streams[id(end)].waiting.clear()

    def reset(self) -> None:
        """Both ends get a (forged) reset."""
        self.broken = True
        for end in self._ends:
            self.lose(end)


class Network:
    """Delays, cables, and all connections between the two servers."""

    def __init__(self, clock: Clock, cables: Cables, random: Random, delays_ms: tuple[tuple[int, int], tuple[int, int]]) -> None:
        self.clock = clock
        self.cables = cables
        self.random = random
        self._delays_ms = delays_ms
        self._peer_connections: list[Connection] = []

    @property
    def slowest_ms(self) -> int:
        """The longest delay of one frame."""
        return max(high for _, high in self._delays_ms)

    def delay(self, path: int) -> int:
        """Of one frame now."""
        return self.random.randint(*self._delays_ms[path])

    def connect(self, path: int, first: End, second: End) -> Connection:
        """A new connection."""
        connection = Connection(self, path, first, second)
        if CLIENT not in (first.host.name, second.host.name):
            self._peer_connections = [each for each in self._peer_connections if len(each.gone) < 2]
            self._peer_connections.append(connection)
        return connection

    def reset_path(self, path: int) -> None:
        """Break every connection between the servers on this path."""
        for connection in list(self._peer_connections):
            if connection.path == path:
                connection.reset()


class Dialler:
    """The connecting side of a socket: tries until it is connected, again and again, as libzmq does."""

    def __init__(
        self, network: Network, path: int, end: End, accept: Callable[[End, int], Connection | None], peer: Host
    ) -> None:
        """``accept`` of the other side: a connection, or None (refused)."""
        self.connection: Connection | None = None
        self._network = network
        self._path = path
        self._end = end
        self._accept = accept
        self._peer = peer
        self._closed = False
        network.clock.after(network.delay(path), self._try)

    def close(self) -> None:
        """Stop trying."""
        self._closed = True

    def again(self) -> None:
        """The connection was lost."""
        self.connection = None
        self._later(self._network.random.randint(*RECONNECT_MS))

    def _later(self, delay_ms: int) -> None:
        self._network.clock.after(delay_ms, self._try)

    def _try(self) -> None:
        network, path, host, peer = self._network, self._path, self._end.host, self._peer
        if self._closed or self.connection is not None:
            return
        cables = network.cables
        through = cables.pass_frame(path, host.name, peer.name) and cables.pass_frame(path, peer.name, host.name)
        through = through and not cables.lost(path, network.random) and not peer.suspended
        if host.frozen or not through or not peer.powered:
            self._later(50 if host.frozen else CONNECT_MS)
            return
        self._network.clock.after(3 * network.delay(path), self._shake)

    def _shake(self) -> None:
        if self._closed or self.connection is not None:
            return
        forged = CLIENT not in (self._end.host.name, self._peer.name) and self._network.cables.resetting[self._path]
        if not forged and not self._peer.frozen and not self._end.host.frozen:
            self.connection = self._accept(self._end, self._path)
        if self.connection is None:
            self._later(self._network.random.randint(*RECONNECT_MS))
