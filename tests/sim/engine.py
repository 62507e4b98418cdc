"""The client library on the toy network: the second interpreter of ``zmqha.client``'s machines, with the turn order of its ``Engine``.

Failover machine, session, streams and subscriptions are the production ones; links, clock and chance are toys. There are no threads:
the locks of the session are taken and never waited for.
"""

from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.network import CLIENT, LAN, Connection, Dialler, End
from zmqha.client.actions import Ask, Begin, Changed, Probe, Reset
from zmqha.client.actions import End as SessionEnd
from zmqha.client.engine import FRAMES_PER_TURN, POLL_MS_MAX
from zmqha.client.failover import Failover
from zmqha.client.session import Session
from zmqha.client.url import Options
from zmqha.core.client_protocol import VERSION, Envelope, Failure, Frames, Open, Ping, decode, encode

if TYPE_CHECKING:
    from tests.sim.clients import Client
    from tests.sim.cluster import Cluster
    from tests.sim.server import Machine


class ClientHost:
    """Where one client runs: on the LAN, its machine never fails; its process may be stopped for a while."""

    name = CLIENT
    powered = True
    suspended = False

    def __init__(self, cluster: "Cluster") -> None:
        self.frozen_until_ms = 0
        self._cluster = cluster

    @property
    def frozen(self) -> bool:
        """Stopped by SIGSTOP or alike."""
        return self.frozen_until_ms > self._cluster.clock.now_ms


class SimLink:
    """A DEALER to one server and its monitor. Thrown away at every loss, as ``client.link``."""

    def __init__(self, engine: "SimEngine", machine: "Machine") -> None:
        self.host = engine.host
        self.inbox: deque[Frames] = deque()
        self.news: deque[bool] = deque()  # connected, or not any more
        self.closed = False
        self._waiting: deque[Frames] = deque()  # what is sent without a connection (IMMEDIATE)
        self._connection: Connection | None = None
        self._engine = engine
        self._machine = machine
        self._dialler = Dialler(engine.cluster.network, LAN, self, self._reach, machine)

    def _reach(self, end: End, path: int) -> Connection | None:
        process, engine = self._machine.process, self._engine
        reached = process is not None and engine.only in (None, engine.cluster.machines.index(self._machine))
        self._connection = process.accept_client(self, path) if process is not None and reached else None
        if self._connection is not None:
            self.news.append(True)
            self._engine.wake()
        return self._connection

    def send(self, frames: Frames) -> None:
        """Now, or with the next ``flush``."""
        self._waiting.append(frames)
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        while self._waiting and self._connection is not None:
            self._connection.send(self, self._waiting.popleft())

    def received(self, connection: Connection, frame: Any) -> None:
        if connection is self._connection:
            self.inbox.append(frame)
            self._engine.wake()

    def lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self.news.append(False)
            self._dialler.again()
            self._engine.wake()

    def break_off(self) -> None:
        """A fault: the connection breaks at both ends."""
        connection = self._connection
        if connection is not None:
            connection.close(self)
            self.lost(connection)

    def close(self) -> None:
        """Throw it away, with everything unread and unsent."""
        self.closed = True
        self.inbox.clear()
        self._dialler.close()
        if self._connection is not None:
            self._connection.close(self)
            self._connection = None


class SimEngine:
    """One client's I/O thread, as turns on the simulation's clock."""

    def __init__(self, cluster: "Cluster", client: "Client", random: Random, options: Options) -> None:
        self.cluster = cluster
        self.host = ClientHost(cluster)
        self.session = Session(self.wake)
        self.links = [SimLink(self, machine) for machine in cluster.machines]
        names = [f"{machine.name}:7400" for machine in cluster.machines]
        self.failover = Failover(names, options, random, cluster.clock.now_ms)
        self.only: int | None = None  # the one server that is reached
        self._client = client
        self._asks: dict[int, int] = {}
        self._due_ms = -1

    def wake(self) -> None:
        """Something is to be read or said: a turn as soon as possible."""
        self._turn_at(self.cluster.clock.now_ms)

    def freeze(self, for_ms: int) -> None:
        """The client's process is stopped; what comes meanwhile waits in buffers."""
        self.host.frozen_until_ms = self.cluster.clock.now_ms + for_ms
        self._turn_at(self.host.frozen_until_ms)

    def _turn_at(self, when_ms: int) -> None:
        when_ms = max(when_ms, self.host.frozen_until_ms)
        if self._due_ms < 0 or when_ms < self._due_ms:
            self._due_ms = when_ms
            self.cluster.clock.at(when_ms, self._due, when_ms)

    def _due(self, when_ms: int) -> None:
        if when_ms == self._due_ms:
            self._due_ms = -1
            if self.host.frozen:
                self._turn_at(when_ms)
            else:
                self._turn()

    def _turn(self) -> None:
        now_ms = self.cluster.clock.now_ms
        for at in range(len(self.links)):
            self._read(at, now_ms)
        self.failover.tick(now_ms, self.session.busy)
        self._carry_out()
        self._send_all(now_ms)
        self.failover.tick(now_ms, self.session.busy)
        self._carry_out()
        self._client.settled()
        unread = any(link.inbox or link.news for link in self.links) or (
            self.session.speaking and self.failover.session is not None
        )
        wait_ms = min(POLL_MS_MAX, max(1, self.failover.deadline() - now_ms))
        self._turn_at(now_ms if unread else now_ms + wait_ms)

    def _read(self, at: int, now_ms: int) -> None:
        """Frames before events, as the production engine does."""
        link = self.links[at]
        for _ in range(min(FRAMES_PER_TURN, len(link.inbox))):
            broken = self._dispatch(at, decode(link.inbox.popleft()), now_ms)
            if broken and self.failover.session == at:
                self.failover.session_broken(now_ms, broken)
            self._carry_out()
            if link.closed:
                return
        while link.news and not link.inbox:
            if link.news.popleft():
                self.failover.connected(at, now_ms)
            else:
                self.failover.disconnected(at, now_ms)
            self._carry_out()
            if link.closed:
                return
        link.flush()

    def _dispatch(self, at: int, envelope: Envelope, now_ms: int) -> str:
        if isinstance(envelope.command, Failure) and envelope.request and self._asks.get(at) == envelope.request:
            self.failover.answered_with_error(at, envelope.command, now_ms)
        elif self.failover.receive(at, envelope, now_ms):
            self._client.heard(envelope.command)
            return self.session.receive(envelope)
        return ""

    def _carry_out(self) -> None:
        while actions := self.failover.take_actions():
            for action in actions:
                match action:
                    case Ask(server):
                        self._asks[server] = self.session.number()
                        self.links[server].send(encode(self._open(), request=self._asks[server]))
                    case Probe(server):
                        self.links[server].send(encode(Ping()))
                    case Reset(server):
                        self.links[server].close()
                        self.links[server] = SimLink(self, self.cluster.machines[server])
                        self._asks.pop(server, None)
                    case Begin(_, opened):
                        self.session.begin(opened)
                        self._client.began()
                    case SessionEnd(_):
                        self.session.end()
                    case Changed(old, new, reason):
                        self.cluster.told_by(self._client.name, f"{old} -> {new}: {reason}")

    def _open(self) -> Open:
        return Open((VERSION, VERSION), self._client.name, instance=self.session.producer)

    def _send_all(self, now_ms: int) -> None:
        server = self.failover.session
        if server is None or not self.session.speaking:
            return
        for frames in self.session.frames():
            self.links[server].send(frames)
            self.failover.sent(now_ms)
