"""The sockets of a simulated server, on the connections of ``network``: heartbeats, pages out, pages in, a client's."""

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.sim.network import Connection, Dialler, End

if TYPE_CHECKING:
    from tests.sim.server import Machine, Process


class ClientEnd:
    """The server's end of a client's connection."""

    def __init__(self, process: "Process", route: bytes) -> None:
        self.host = process.machine
        self._process = process
        self._route = route

    def received(self, connection: Connection, frame: Any) -> None:
        self._process.client_frames(self._route, frame)

    def lost(self, connection: Connection) -> None:
        self._process.clients.pop(self._route, None)


class ControlSocket:
    """A PAIR on one path: the primary binds, the secondary connects. One connection at a time; a second one is refused."""

    def __init__(self, process: "Process", path: int) -> None:
        self.host = process.machine
        self.path = path
        self.inbox: deque[bytes] = deque()
        self.connection: Connection | None = None
        self._process = process
        self._dialler: Dialler | None = None

    def open(self) -> None:
        """Bind or connect."""
        if not self.host.primary:
            self._dialler = Dialler(self._process.cluster.network, self.path, self, self._reach, self.host.peer)

    def _reach(self, end: End, path: int) -> Connection | None:
        process = self.host.peer.process
        self.connection = process.links[path].accept(self) if process is not None else None
        return self.connection

    def accept(self, end: End) -> Connection | None:
        """The peer connects: refused while another connection is thought to be alive."""
        if self.connection is not None:
            return None
        self.connection = self._process.cluster.network.connect(self.path, end, self)
        return self.connection

    def send(self, frame: bytes) -> None:
        """Dropped where nobody is connected."""
        if self.connection is not None:
            self.connection.send(self, frame)

    def rebuild(self) -> None:
        """Throw the socket away, with everything unread and unsent."""
        self.close(power=False)
        self.open()

    def close(self, *, power: bool) -> None:
        """Let go."""
        self.inbox.clear()
        if self._dialler is not None:
            self._dialler.close()
            self._dialler = None
        if self.connection is not None:
            (self.connection.vanish if power else self.connection.close)(self)
            self.connection = None

    def received(self, connection: Connection, frame: Any) -> None:
        if connection is self.connection:
            self.inbox.append(frame)
            self._process.wake()

    def lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.connection = None
            if self._dialler is not None:
                self._dialler.again()


class BulkRouter:
    """The ROUTER bound for the process's whole life; followers are named by routing ids, new with each connection."""

    def __init__(self, process: "Process") -> None:
        self.inbox: deque[tuple[bytes, Any]] = deque()
        self._process = process
        self._ends: dict[bytes, tuple[_RouterEnd, Connection]] = {}
        self._routes = 0

    def accept(self, end: End, path: int) -> Connection:
        """A follower connects."""
        self._routes += 1
        route = b"r%d" % self._routes
        own = _RouterEnd(self._process.machine, self, route)
        connection = self._process.cluster.network.connect(path, end, own)
        self._ends[route] = (own, connection)
        return connection

    def send(self, route: bytes, frame: Any) -> None:
        """Dropped if that follower is gone."""
        if route in self._ends:
            own, connection = self._ends[route]
            connection.send(own, frame)

    def received(self, route: bytes, frame: Any) -> None:
        """From a follower."""
        self.inbox.append((route, frame))
        self._process.wake()

    def lost(self, route: bytes) -> None:
        """A follower's connection is over."""
        self._ends.pop(route, None)

    def close(self, *, power: bool) -> None:
        """The process ends."""
        for own, connection in list(self._ends.values()):
            (connection.vanish if power else connection.close)(own)
        self._ends.clear()


class _RouterEnd:
    """The ROUTER's end of one connection."""

    def __init__(self, machine: "Machine", router: BulkRouter, route: bytes) -> None:
        self.host = machine
        self._router = router
        self._route = route

    def received(self, connection: Connection, frame: Any) -> None:
        self._router.received(self._route, frame)

    def lost(self, connection: Connection) -> None:
        self._router.lost(self._route)


class BulkDealer:
    """The follower's DEALER: connects over one path, and by itself again (IMMEDIATE: what is sent meanwhile is dropped)."""

    def __init__(self, process: "Process", path: int) -> None:
        self.host = process.machine
        self.inbox: deque[Any] = deque()
        self._process = process
        self._connection: Connection | None = None
        self._dialler = Dialler(process.cluster.network, path, self, self._reach, self.host.peer)

    def _reach(self, end: End, path: int) -> Connection | None:
        process = self.host.peer.process
        there = process is not None and not process.cluster.cables.bulk_closed[path]
        self._connection = process.source.accept(self, path) if process is not None and there else None
        return self._connection

    def send(self, frame: Any) -> None:
        """Dropped without a connection."""
        if self._connection is not None:
            self._connection.send(self, frame)

    def close(self, *, power: bool) -> None:
        """Stop following."""
        self._dialler.close()
        self.inbox.clear()
        if self._connection is not None:
            (self._connection.vanish if power else self._connection.close)(self)
            self._connection = None

    def received(self, connection: Connection, frame: Any) -> None:
        if connection is self._connection:
            self.inbox.append(frame)
            self._process.wake()

    def lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self._dialler.again()
