"""A machine and the server process on it: the second interpreter of ``core.actions``, with the turn order of ``zmqha.server.node``.

Frozen (SIGSTOP): the kernel goes on buffering, nothing else moves; a freeze may hit between a decision and its carrying out. Killed:
sockets are closed by the kernel, the watcher sends notices. Power cut: nobody is told anything.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from types import UnionType
from typing import TYPE_CHECKING, Any

from tests.sim.disk import FREE_BYTES, Disk, Speed
from tests.sim.network import LAN, PEER_LINK, Connection, End
from tests.sim.sockets import BulkDealer, BulkRouter, ClientEnd, ControlSocket
from tests.sim.store_thread import StoreThread
from zmqha.core import actions as act
from zmqha.core import events as ev
from zmqha.core import limits
from zmqha.core.broker import Broker
from zmqha.core.facts import NodeFacts
from zmqha.core.ha import HA
from zmqha.core.operator import Operator, Pair
from zmqha.core.peer_protocol import Beat, Control, decode_bulk, decode_control, encode
from zmqha.core.service import Service, ServiceSettings
from zmqha.core.space import Space
from zmqha.core.view import Identity

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

STORE_LOOK_MS = 200
WALL_S = 1_700_000_000
ENDPOINTS = ("tcp://a:7400", "tcp://b:7400")


class Machine:
    """One of the two: power, disk, clock, and perhaps a process."""

    def __init__(self, cluster: "Cluster", name: str, *, primary: bool, clock_offset_ms: int) -> None:
        self.cluster = cluster
        self.name = name
        self.primary = primary
        self.powered = True
        self.suspended = False
        self.frozen_until_ms = 0
        self.wall_jump_s = 0  # somebody set the wall clock
        self.ambush: tuple[type | UnionType, Callable[[], None]] | None = None  # call once, when this step goes to the store
        self.disk = Disk()
        self.speed = Speed()
        self.process: Process | None = None
        self._clock_offset_ms = clock_offset_ms

    @property
    def frozen(self) -> bool:
        """Stopped by SIGSTOP or alike."""
        return self.frozen_until_ms > self.cluster.clock.now_ms

    @property
    def peer(self) -> "Machine":
        """The other machine."""
        return self.cluster.b if self is self.cluster.a else self.cluster.a

    def own_ms(self) -> int:
        """This machine's clock; it has nothing to do with the other's."""
        return self.cluster.clock.now_ms + self._clock_offset_ms

    def wall_ms(self) -> int:
        """What people call the time here."""
        return WALL_S * 1000 + self.cluster.clock.now_ms + self.wall_jump_s * 1000

    def start(self) -> None:
        """Power on if need be, start the process (server.main)."""
        self.powered = True
        if self.process is not None:
            return
        facts = self.disk.facts or NodeFacts("cf", self.name)
        wall_s = self.wall_ms() // 1000
        self.disk.facts = facts._replace(incarnation=max(facts.incarnation + 1, wall_s))
        self.process = Process(self, self.disk.facts)
        self.cluster.tell(
            self, f"start incarnation={self.disk.facts.incarnation} standing={facts.standing} store={self.disk.position}"
        )
        self.process.begin()

    def kill(self, *, notice: bool) -> None:
        """kill -9."""
        process = self.process
        if process is None:
            return
        self.cluster.tell(self, f"kill notice={notice}")
        self._end(process, power=False)
        if notice:
            self.cluster.send_notices(self, process.incarnation)

    def exit(self, reason: str, code: int) -> None:
        """The process ends by itself."""
        assert self.process is not None
        self.cluster.tell(self, f"exit code={code} {reason}")
        self._end(self.process, power=False)

    def cut_power(self) -> None:
        """The machine goes dark."""
        self.cluster.tell(self, "power cut")
        if self.process is not None:
            self._end(self.process, power=True)
        self.powered = False
        self.cluster.happened(self.disk.lose_power(self.cluster.random))

    def freeze(self, for_ms: int) -> None:
        """SIGSTOP, SIGCONT later."""
        if self.process is None:
            return
        self.cluster.tell(self, f"freeze {for_ms} ms")
        self.frozen_until_ms = max(self.frozen_until_ms, self.cluster.clock.now_ms + for_ms)
        self.cluster.clock.at(self.frozen_until_ms, self._thaw, self.process)

    def suspend(self, for_ms: int) -> None:
        """The whole machine stands still (a virtual machine is moved): nothing is buffered, its clock goes on."""
        if self.process is not None and not self.suspended:
            self.cluster.tell(self, "suspended")
            self.suspended = True
            self.freeze(for_ms)
            self.cluster.clock.after(for_ms, self._resume)

    def _resume(self) -> None:
        self.suspended = False

    def _thaw(self, process: "Process") -> None:
        if process is self.process and not self.frozen:
            self.cluster.tell(self, "thaw")
            process.thaw()

    def _end(self, process: "Process", *, power: bool) -> None:
        self.process = None
        self.frozen_until_ms = 0
        process.end(power=power)
        self.cluster.happened(self.disk.crash(self.cluster.random, power=power))


class Process:
    """A running server: a real Broker, toy sockets, a toy store thread."""

    def __init__(self, machine: Machine, facts: NodeFacts) -> None:
        cluster = machine.cluster
        self.machine = machine
        self.cluster = cluster
        self.incarnation = facts.incarnation
        self.alive = True
        identity = Identity(
            "cf",
            machine.name,
            machine.peer.name,
            machine.primary,
            ENDPOINTS[not machine.primary],
            resume_alone=cluster.resume_alone,
        )
        ha = HA(identity, cluster.timers, facts, Random(cluster.random.getrandbits(64)), machine.own_ms(), gateway=True)
        pair = Pair("sim", "cf", False, "0", identity.client_endpoint, ENDPOINTS[machine.primary], "ping", ("gw",))
        service = Service(ServiceSettings(machine.name, "cf", ENDPOINTS, cache_bytes=cluster.cache_bytes))
        self.broker = Broker(ha, service, Operator(pair), Space(reserve_bytes=1))
        self.links = [ControlSocket(self, path) for path in (PEER_LINK, LAN)]
        self.source = BulkRouter(self)
        self.dealer: BulkDealer | None = None
        self.clients: dict[bytes, tuple[End, Connection]] = {}
        self.store = StoreThread(
            cluster.clock, Random(cluster.random.getrandbits(64)), machine.disk, cluster.history, machine.name, machine.speed,
            self._store_event, lambda: machine.frozen_until_ms,
        )  # fmt: skip
        self._datagrams: deque[ev.DeathNotice | ev.ControlIn] = deque()
        self._probes: deque[ev.Probed] = deque()
        self._stored: deque[ev.Event] = deque()
        self._client_frames: deque[tuple[bytes, list[bytes]]] = deque()
        self.knows_flip = 0  # which flip of a bit on its disk its broker was told of last
        self._held: list[act.Action] | None = None  # decided, but frozen before carrying it out
        self._due_ms = -1
        self._store_look_ms = 0
        self._seen: tuple[Any, ...] = ()
        self._routes = 0

    # --- life ---------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The actions of the constructor, then the loop."""
        self._carry_out(self.broker.take_actions())
        for link in self.links:
            link.open()
        self.wake()

    def end(self, *, power: bool) -> None:
        """The kernel cleans up, or the power is gone."""
        self.alive = False
        self.cluster.happened(self.store.die(power=power))
        for link in self.links:
            link.close(power=power)
        self.source.close(power=power)
        if self.dealer is not None:
            self.dealer.close(power=power)
        for end, connection in self.clients.values():
            (connection.vanish if power else connection.close)(end)
        self.clients.clear()

    def thaw(self) -> None:
        """What was being carried out goes on; then the loop."""
        held, self._held = self._held, None
        if held is not None:
            self._carry_out(held)
        if self.alive:
            self.wake()

    def wake(self) -> None:
        """Something is readable: a turn as soon as possible."""
        self._turn_at(self.cluster.clock.now_ms)

    def _turn_at(self, when_ms: int) -> None:
        if self._due_ms < 0 or when_ms < self._due_ms:
            self._due_ms = when_ms
            self.cluster.clock.at(when_ms, self._due, when_ms)

    def _due(self, when_ms: int) -> None:
        if self.alive and when_ms == self._due_ms:
            self._due_ms = -1
            if not self.machine.frozen:
                self.turn()

    # --- one turn -----------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """As node.turn: the clock once; peers, gateway, store, clients; time; actions."""
        machine, broker = self.machine, self.broker
        now_ms = machine.own_ms()
        broker.begin_turn(now_ms, machine.wall_ms())
        self._hear_peer(now_ms)
        while self._probes:
            broker.receive(self._probes.popleft(), now_ms)
        for _ in range(min(len(self._stored), limits.STORE_EVENTS_PER_TURN)):
            event = self._stored.popleft()
            if isinstance(event, ev.Damaged):
                self.knows_flip = machine.disk.flips
            broker.receive(event, now_ms)
        if now_ms - self._store_look_ms >= STORE_LOOK_MS:
            self._store_look_ms = now_ms
            free_bytes = 0 if machine.speed.full else FREE_BYTES
            busy = self.store.progress != self.store.asked
            broker.receive(ev.StoreBeat(self.store.progress, busy, 1.0, free_bytes, 0, pages=self.store.pages), now_ms)
        if broker.reads_clients:
            for _ in range(min(len(self._client_frames), limits.CLIENT_MESSAGES_PER_TURN)):
                broker.receive(ev.ClientIn(*self._client_frames.popleft()), now_ms)
        broker.tick(now_ms)
        actions = broker.take_actions()
        self._watch()
        if self.cluster.freeze_in_turn(machine):
            self._held = actions
            return
        self._carry_out(actions)
        if self.alive:
            after_ms = min(broker.deadline_ms(now_ms) - now_ms, limits.TURN_MS_MAX)
            pending = self._stored or self._client_frames
            self._turn_at(self.cluster.clock.now_ms + (0 if pending and broker.reads_clients else max(1, after_ms)))

    def _hear_peer(self, now_ms: int) -> None:
        broker = self.broker
        for index, link in enumerate(self.links):
            while link.inbox:
                broker.receive(ev.ControlIn(index, decode_control(link.inbox.popleft())), now_ms)
        while self._datagrams:
            broker.receive(self._datagrams.popleft(), now_ms)
        source = self.source
        while source.inbox:
            sender, (frame, rest) = source.inbox.popleft()
            broker.receive(ev.BulkIn(sender, decode_bulk(frame), rest), now_ms)
        while self.dealer is not None and self.dealer.inbox:
            frame, rest = self.dealer.inbox.popleft()
            broker.receive(ev.BulkIn(None, decode_bulk(frame), rest), now_ms)

    def _watch(self) -> None:
        """Trace changes of role; let the checkers look."""
        ha = self.broker.ha
        seen = (ha.state, ha.step, ha.epoch, ha.granted, ha.right)
        if seen != self._seen:
            self._seen = seen
            self.cluster.checkers.role(self)

    # --- events in ----------------------------------------------------------------------------------------------------------

    def notice(self, node: str, incarnation: int) -> None:
        """A death notice arrives."""
        if self.alive and not self.machine.suspended:
            self._datagrams.append(ev.DeathNotice(node, incarnation))
            self.wake()

    def datagram(self, path: int, message: Control) -> None:
        """A Beat arrives by UDP."""
        if self.alive and not self.machine.suspended:
            self._datagrams.append(ev.ControlIn(path, message))
            self.wake()

    def probed(self, sent_ms: int, ok: bool) -> None:
        """A gateway probe ended."""
        if self.alive:
            self._probes.append(ev.Probed(sent_ms, ok))
            self.wake()

    def client_frames(self, client: bytes, frames: list[bytes]) -> None:
        """A client's frames."""
        if self.alive:
            self._client_frames.append((client, frames))
            self.wake()

    def _store_event(self, event: ev.Event) -> None:
        if isinstance(event, ev.Claimed):
            self.cluster.checkers.claimed(self, event.position)
        self._stored.append(event)
        self.wake()

    def accept_client(self, end: End, path: int) -> Connection | None:
        """A client connects."""
        self._routes += 1
        route = b"%d" % self._routes
        own = ClientEnd(self, route)
        connection = self.cluster.network.connect(path, end, own)
        self.clients[route] = (own, connection)
        return connection

    # --- actions out --------------------------------------------------------------------------------------------------------

    def _carry_out(self, actions: list[act.Action]) -> None:
        for action in actions:
            if not self.alive:
                return
            self._do(action)

    def _do(self, action: act.Action) -> None:
        match action:
            case act.SendToClient(client, frames):
                self.cluster.checkers.said(self, frames)
                if client in self.clients:
                    end, connection = self.clients[client]
                    connection.send(end, frames)
                else:
                    self._stored.append(ev.ClientGone(client))
            case act.SendBulk(to, message, frames):
                if to is not None:
                    self.source.send(to, (encode(message), frames))
                elif self.dealer is not None:
                    self.dealer.send((encode(message), frames))
            case act.SendControl(path, message):
                if isinstance(message, Beat):
                    self.cluster.checkers.announced(self, message)
                frame = encode(message)
                for link in self.links if path is None else [self.links[path]]:
                    link.send(frame)
                if isinstance(message, Beat) and not self.broker.ha.fresh(self.machine.own_ms()):
                    self.cluster.send_datagrams(self.machine, message)
            case act.ResetPath(path):
                self.links[path].rebuild()
            case act.ConnectBulk(path):
                if self.dealer is not None:
                    self.dealer.close(power=False)
                self.dealer = BulkDealer(self, path) if path is not None else None
            case act.ProbeGateway(sent_ms):
                self.cluster.gateway.probe(self.machine.name, sent_ms, self.probed)
            case act.Note(event, fields):
                self.cluster.note(self, event, dict(fields))
            case act.Halt(reason, code):
                self.machine.exit(reason, code)
            case _:
                self.store.put(action)
                ambush = self.machine.ambush
                if ambush is not None and isinstance(action, ambush[0]):
                    self.machine.ambush = None
                    ambush[1]()
