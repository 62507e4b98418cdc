"""One server: events in, broker, actions carried out. No decisions here; if one appears, it belongs in ``core``.

The one loop of the process. Order in a turn: the clock is read once; peers first, because roles depend on them; then the store; then
clients, within budgets (``core.limits``); then everything the broker wants done. A message costs several turns, each after a sleep and
with cold caches, so what nobody waits for comes last: where it is only time to look at the table of roles again, that is done after
the actions (to the broker it is the next turn), and links, ports and probes are looked at with it.
"""

import logging
import os
import time
from collections.abc import Callable

import zmq

from zmqha.core import beat_notice, death_notice, limits
from zmqha.core.actions import (
    Action,
    Commit,
    ConnectBulk,
    Fetch,
    Halt,
    Journal,
    Note,
    ProbeGateway,
    ResetPath,
    SendBulk,
    SendControl,
    SendToClient,
)
from zmqha.core.broker import Broker
from zmqha.core.events import BulkIn, ClientGone, ClientIn, ControlIn, DeathNotice, Event, Probed, StoreBeat
from zmqha.core.peer_protocol import Beat, decode_bulk, decode_control, encode
from zmqha.core.timers import STORE_STUCK_MS
from zmqha.errors import ProtocolError
from zmqha.server.config import Route
from zmqha.store.gauge import DiskSpace
from zmqha.store.writer import StoreThread
from zmqha.transport.bulk import BulkFollower, BulkSource
from zmqha.transport.clients import Clients, Sent
from zmqha.transport.datagrams import Datagrams
from zmqha.transport.gateway import Prober
from zmqha.transport.mailbox import Mailbox
from zmqha.transport.peer_link import PeerLink
from zmqha.transport.reactor import Reactor, Waitable
from zmqha.transport.security import KeyGate
from zmqha.transport.sockets import Context
from zmqha.transport.watcher import DeathListener

log = logging.getLogger("zmqha")

STORE_LOOK_MS = 200  # how often the store thread's progress is looked at
CLIENTS_AT_ONCE = 16  # messages taken before the bound on accepted work is looked at again
WARNINGS = frozenset({"space.low"})  # notes of the core that somebody should act on
FAULT_LINE_MS = 1000  # at most one log line per second about refused frames


class Network:
    """Every socket of the server."""

    def __init__(
        self,
        gate: KeyGate | None,
        clients: Clients,
        routes: tuple[Route, ...],
        links: list[PeerLink],
        source: BulkSource | None,
        follower: BulkFollower | None,
        listener: DeathListener | None,
        prober: Prober | None,
        datagrams: Datagrams | None = None,
    ) -> None:
        self.gate = gate
        self.clients = clients
        self.routes = routes
        self.links = links
        self.source = source
        self.follower = follower
        self.listener = listener
        self.prober = prober
        self.datagrams = datagrams

    @property
    def absent(self) -> tuple[str, ...]:
        """Endpoints whose address this machine does not have now."""
        bulk = self.source.waiting if self.source is not None else []
        links = [endpoint for link in self.links for endpoint in link.waiting]
        return tuple(endpoint.removeprefix("tcp://") for endpoint in (*self.clients.waiting, *links, *bulk))

    def close(self) -> None:
        """At the end of the process."""
        peer = (*self.links, self.source, self.follower, self.listener, self.datagrams)
        for part in (self.clients, *peer, self.prober, self.gate):
            if part is not None:
                part.close()


class Node:
    """Carries out what the broker says."""

    def __init__(
        self,
        broker: Broker,
        network: Network,
        store: StoreThread,
        mailbox: Mailbox[Event],
        reactor: Reactor,
        secret: bytes,
        on_signal: Callable[["Node", int, int], None],
        on_look: Callable[["Node"], None],
    ) -> None:
        self.broker = broker
        self.network = network
        self.store = store
        self.mailbox = mailbox
        self.reactor = reactor
        self.secret = secret
        self.exit_code: int | None = None
        self._on_signal = on_signal
        self._on_look = on_look
        self._later: list[Event] = []
        self._unreachable: set[bytes] = set()  # clients to whom a send failed, until the broker hears of it
        self._faults_told = 0
        self._fault_line_ms = 0
        self._store_look_ms = 0
        self._space_seen: DiskSpace | None = None
        self._absent_told: tuple[str, ...] = ()
        self._store_seen = (0, clock_ms())  # (what it has done, when that last moved)
        self._links: frozenset[Waitable | None] = frozenset()  # the sockets of the links that the reactor watches
        self._changing: list[object] = []  # see _watch

    def run(self) -> int:
        """Until a Halt; the exit code."""
        self._carry_out(clock_ms())
        while self.exit_code is None:
            self.turn()
        return self.exit_code

    def turn(self) -> None:
        """One turn of the loop."""
        broker = self.broker
        self._watch()
        self.mailbox.awaits(broker.group_commit.awaits_flush)
        ready = self.reactor.wait(self._wait_ms())
        now_ms = clock_ms()
        broker.begin_turn(now_ms, int(time.time() * 1000))
        for number in self.reactor.caught():
            self._on_signal(self, number, now_ms)
        heard = broker.news or not ready.isdisjoint(self._links)
        if heard:
            self._hear_links(now_ms)
        self._hear_bulk(ready, now_ms)
        self._hear_rest(ready, now_ms)
        self._hear_store(ready, now_ms)
        self._hear_clients(ready, now_ms)
        if not broker.news:
            broker.hand_out(now_ms)
            self._carry_out(now_ms)
        if broker.decides(now_ms):
            self._look_around(now_ms, heard=heard)
            broker.tick(now_ms)
            self._carry_out(now_ms)

    # --- events in ----------------------------------------------------------------------------------------------------------

    def _wait_ms(self) -> int:
        if self._later:
            return 0
        now_ms = clock_ms()
        return min(self.broker.deadline_ms(now_ms) - now_ms, limits.TURN_MS_MAX)

    def _watch(self) -> None:
        """Tell the reactor what to wait for, where a socket or the prober was opened, closed or replaced since then."""
        network, reads_clients = self.network, self.broker.reads_clients
        links = [link.socket for link in network.links]
        follower = network.follower.socket if network.follower is not None else None
        changing: list[object] = [reads_clients, follower, network.prober, *links]
        if changing == self._changing:
            return
        self._changing = changing
        self._links = frozenset(links) - {None}
        sources: list[Waitable | None] = [self.mailbox.fd, *links]
        if reads_clients:
            sources.append(network.clients.socket)
        if network.source is not None and network.follower is not None:
            sources += [network.source.socket, network.follower.socket]
        if network.listener is not None:
            sources += network.listener.fds
        if network.prober is not None:
            sources.append(network.prober.fd)
        if network.gate is not None:
            sources.append(network.gate.socket)
        self.reactor.watch(sources)

    def _hear_links(self, now_ms: int) -> None:
        """All readable frames of every link, whatever the poller said before: a decision must not be taken over unread news (F3). So
        this comes before every decision, and whenever the poller says that there is something."""
        for index, link in enumerate(self.network.links):
            link.tick(now_ms)
            for frame in link.receive(limits.PEER_MESSAGES_PER_TURN):
                try:
                    self.broker.receive(ControlIn(index, decode_control(frame)), now_ms)
                except ProtocolError as error:
                    self._peer_fault(error)

    def _hear_bulk(self, ready: set[Waitable], now_ms: int) -> None:
        source, follower = self.network.source, self.network.follower
        if source is not None and source.socket in ready:
            for sender, frames in source.receive(limits.PEER_MESSAGES_PER_TURN):
                self._bulk_in(sender, frames, now_ms)
        if follower is not None and follower.socket in ready:
            for frames in follower.receive(limits.PEER_MESSAGES_PER_TURN):
                self._bulk_in(None, frames, now_ms)

    def _hear_rest(self, ready: set[Waitable], now_ms: int) -> None:
        """Handshakes, death notices, the gateway."""
        gate, listener, prober = self.network.gate, self.network.listener, self.network.prober
        if gate is not None and gate.socket in ready:
            gate.receive()
        if listener is not None and not ready.isdisjoint(listener.fds):
            for datagram in listener.receive():
                self._datagram_in(datagram, now_ms)
        if prober is not None and prober.fd in ready:
            self._hear_gateway(prober, now_ms)

    def _hear_gateway(self, prober: Prober, now_ms: int) -> None:
        prober.tick(now_ms)
        for probe in prober.take():
            self.broker.receive(Probed(probe.sent_ms, probe.ok), now_ms)

    def _look_around(self, now_ms: int, *, heard: bool) -> None:
        """Before a decision: what the peer and the gateway have said by now. With it, what is a matter of milliseconds."""
        network = self.network
        if not heard:
            self._hear_links(now_ms)
        if network.prober is not None:
            self._hear_gateway(network.prober, now_ms)
        network.clients.tick(now_ms)  # ports that could not be opened yet
        if network.source is not None:
            network.source.tick(now_ms)
        self._tell_faults(now_ms)

    def _datagram_in(self, datagram: bytes, now_ms: int) -> None:
        cluster = self.broker.ha.identity.cluster_id
        dead = death_notice.verify(datagram, self.secret, cluster)
        beat = None if dead else beat_notice.verify(datagram, self.secret, cluster)
        if dead is not None:
            self.broker.receive(DeathNotice(*dead), now_ms)
        elif beat is not None and beat[0] < len(self.network.links):
            self.broker.receive(ControlIn(*beat), now_ms)

    def _bulk_in(self, sender: bytes | None, frames: list[bytes], now_ms: int) -> None:
        try:
            if not frames:
                raise ProtocolError("a bulk message without frames")
            self.broker.receive(BulkIn(sender, decode_bulk(frames[0]), tuple(frames[1:])), now_ms)
        except ProtocolError as error:
            self._peer_fault(error)

    def _hear_store(self, ready: set[Waitable], now_ms: int) -> None:
        if self.mailbox.fd in ready or self.mailbox.filled:
            for event in self.mailbox.take(limits.STORE_EVENTS_PER_TURN):
                self.broker.receive(event, now_ms)
        if self._later:
            later, self._later = self._later, []
            for event in later:
                self.broker.receive(event, now_ms)
            self._unreachable.clear()  # the broker knows of them
        if now_ms - self._store_look_ms >= STORE_LOOK_MS or self.store.space is not self._space_seen:
            self._store_look_ms = now_ms
            self._look_at_store(now_ms)
            self._tell_absent()
            self._on_look(self)

    def _look_at_store(self, now_ms: int) -> None:
        progress, asked = self.store.progress, self.store.asked
        busy, moved = progress != asked, progress + self.store.moves
        if not busy or moved != self._store_seen[0]:
            self._store_seen = (moved, now_ms)
        elif now_ms - self._store_seen[1] > STORE_STUCK_MS:
            log.critical("store.stuck", extra={"fields": (("for_ms", now_ms - self._store_seen[1]),)})
            self._end_now(1)
        self._space_seen = self.store.space
        self.broker.receive(StoreBeat(progress, busy, *self._space_seen, self.store.scrubbed, self.store.pages), now_ms)

    def _hear_clients(self, ready: set[Waitable], now_ms: int) -> None:
        clients = self.network.clients
        if clients.socket in ready and self.broker.reads_clients:
            for _ in range(0, limits.CLIENT_MESSAGES_PER_TURN, CLIENTS_AT_ONCE):
                messages = clients.receive(CLIENTS_AT_ONCE)
                for client, frames in messages:
                    self.broker.receive(ClientIn(client, frames), now_ms)
                if len(messages) < CLIENTS_AT_ONCE or not self.broker.reads_clients:
                    break

    # --- actions out --------------------------------------------------------------------------------------------------------

    def _carry_out(self, now_ms: int) -> None:
        for action in self.broker.take_actions():
            self._do(action, now_ms)

    def _do(self, action: Action, now_ms: int) -> None:
        network = self.network
        match action:
            case SendToClient(client, frames):
                # After a message that did not go out, later ones must not either: a client would see a gap in the order.
                if client not in self._unreachable and network.clients.send(client, frames) is not Sent.OK:
                    self._unreachable.add(client)
                    self._later.append(ClientGone(client))
            case SendBulk(to, message, frames):
                wire = [encode(message), *frames]
                if to is not None and network.source is not None:
                    network.source.send(to, wire)
                elif network.follower is not None:
                    network.follower.send(wire)
            case Commit() | Journal() | Fetch():  # with nearly every message, so not at the end
                self.store.put(action)
            case SendControl(path, message):
                frame = encode(message)
                for link in network.links if path is None else [network.links[path]]:
                    link.send(frame)
                if isinstance(message, Beat) and not self.broker.ha.fresh(now_ms):
                    self._send_datagrams(frame)
            case ResetPath(path):
                network.links[path].rebuild(now_ms)
            case ConnectBulk(path):
                assert network.follower is not None
                if path is None:
                    network.follower.close()
                else:
                    network.follower.connect(network.routes[path].there.bulk.tcp)
            case ProbeGateway(sent_ms):
                assert network.prober is not None
                network.prober.start(now_ms, sent_ms)
            case Note(event, fields):
                log.log(logging.WARNING if event in WARNINGS else logging.INFO, "%s", event, extra={"fields": fields})
            case Halt(reason, code):
                log.info("server.exit", extra={"fields": (("reason", reason), ("code", code))})
                self.exit_code = code
            case _:
                self.store.put(action)

    def _send_datagrams(self, frame: bytes) -> None:
        """A Beat on every path without TCP, which may be mute (see ``core.beat_notice``)."""
        datagrams = self.network.datagrams
        if datagrams is None:
            return
        for path in range(len(self.network.links)):
            datagram = beat_notice.encode(self.broker.ha.identity.cluster_id, path, frame, self.secret)
            if datagram is not None:
                datagrams.send(path, datagram)

    # --- the rest -----------------------------------------------------------------------------------------------------------

    def _peer_fault(self, error: ProtocolError) -> None:
        self.broker.protocol_faults += 1
        self.broker.last_fault = f"peer: {error.what}"

    def _tell_absent(self) -> None:
        """A port that cannot be opened since its address is missing: nothing else would show why nobody gets through."""
        absent = self.network.absent
        for port in absent:
            if port not in self._absent_told:
                why = "this machine does not have the address now: nobody can connect there; tried again every 0.5 s"
                log.warning("port.absent", extra={"fields": (("port", port), ("why", why))})
        for port in self._absent_told:
            if port not in absent:
                log.info("port.open", extra={"fields": (("port", port),)})
        self._absent_told = absent

    def _tell_faults(self, now_ms: int) -> None:
        """Refused input is logged once per second at most."""
        if now_ms - self._fault_line_ms < FAULT_LINE_MS:
            return
        broker, gate = self.broker, self.network.gate
        if broker.protocol_faults != self._faults_told:
            fields = (("refused", broker.protocol_faults - self._faults_told), ("last", broker.last_fault))
            log.warning("input.refused", extra={"fields": fields})
            self._faults_told, self._fault_line_ms = broker.protocol_faults, now_ms
        line = gate.line(now_ms) if gate is not None else None
        if line:
            log.warning("key.refused", extra={"fields": (("why", line),)})

    def _end_now(self, code: int) -> None:
        logging.shutdown()
        os._exit(code)


def clock_ms() -> int:
    """Milliseconds of a clock that counts suspend and knows no wall time."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def new_context() -> Context:
    """The one context of a server."""
    context: Context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 4096)
    return context
