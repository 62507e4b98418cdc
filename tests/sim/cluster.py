"""The pair, its world and its clients, on one clock, from one seed."""

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.checkers import Checkers
from tests.sim.clients import Client, Consumer, Producer
from tests.sim.clock import Clock
from tests.sim.gateway import Gateway
from tests.sim.history import History
from tests.sim.network import LAN, PEER_LINK, Cables, Network
from tests.sim.server import Machine, Process
from tests.sim.trace import Trace
from tests.sim.violation import Violation
from zmqha.core.peer_protocol import Beat
from zmqha.core.timers import Timers
from zmqha.core.view import Step

if TYPE_CHECKING:
    from collections.abc import Callable

DELAYS_MS = (((1, 2), (1, 3)), ((1, 5), (3, 20)), ((10, 40), (10, 40)), ((50, 100), (50, 100)))
NOTICES = 5
NOTICE_EVERY_MS = 20


class Cluster:
    """Two machines, two cables, a gateway, clients."""

    def __init__(
        self, seed: int, *, producers: int = 2, consumer: bool = True, delays: int | None = None, cache_bytes: int = 1 << 16,
        resume_alone: bool = False, split: bool = False,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.random = Random(seed)
        self.clock = Clock()
        self.cables = Cables()
        self.trace = Trace()
        self.history = History()
        self.timers = Timers()
        self.cache_bytes = cache_bytes
        self.resume_alone = resume_alone
        self.split = split  # A1 is broken on purpose: two may serve alone at once; in the end nothing is lost
        self.datagrams = True  # Beats by UDP while contact is in doubt
        kind = self.random.choice((0, 0, 1, 2, 3)) if delays is None else delays
        self.network = Network(self.clock, self.cables, self.random, DELAYS_MS[kind])
        self.gateway = Gateway(self.clock, self.cables, self.random)
        self.a = Machine(self, "a", primary=True, clock_offset_ms=1_000_000)
        self.b = Machine(self, "b", primary=False, clock_offset_ms=77_000_000)
        self.machines = (self.a, self.b)
        self.settled_generation = {"a": 0, "b": 0}  # which disk of each machine took part in the newest pairing
        self.checkers = Checkers(self)
        self.producers = [Producer(self, number + 1, Random(self.random.getrandbits(64))) for number in range(producers)]
        self.consumer = Consumer(self, Random(self.random.getrandbits(64))) if consumer else None
        self.notes: list[tuple[int, str, str, dict[str, Any]]] = []
        self.counts: Counter[str] = Counter()  # what happened, by kind
        self._freeze_in_turn: dict[str, int] = {}

    # --- running ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Both machines, all clients."""
        for machine in self.machines:
            machine.start()
        for client in self.clients:
            client.start()

    @property
    def clients(self) -> list[Client]:
        """All applications."""
        return [*self.producers, *([self.consumer] if self.consumer else [])]

    def run(self, for_ms: int) -> None:
        """Let time pass. A failure carries seed and trace."""
        try:
            self.clock.run_until(self.clock.now_ms + for_ms)
        except Exception as error:
            raise self.explain(error) from error

    def run_until(self, holds: "Callable[[], bool]", within_ms: int, what: str, step_ms: int = 10) -> int:
        """Let time pass until something holds; the milliseconds it took."""
        begin_ms = self.clock.now_ms
        while not holds():
            if self.clock.now_ms - begin_ms >= within_ms:
                raise self.explain(Violation(f"not within {within_ms} ms: {what}"))
            self.run(step_ms)
        return self.clock.now_ms - begin_ms

    def form(self) -> None:
        """From two empty disks to a pair in sync."""
        self.start()
        self.run_until(self.checkers.in_sync, 20_000, "the pair forms")

    def explain(self, error: Exception) -> "Failed":
        """The error with seed and trace."""
        return Failed(f"seed {self.seed} at {self.clock.now_ms} ms: {type(error).__name__}: {error}\n{self.trace.text()}")

    @property
    def serving(self) -> Machine | None:
        """The one that serves."""
        names = self.checkers.serving()
        return next((machine for machine in self.machines if machine.name in names), None)

    # --- what parts of the simulation ask -------------------------------------------------------------------------------------

    def tell(self, machine: Machine, event: str) -> None:
        """A line of the trace."""
        process = machine.process
        if process is None:
            self.trace.add(self.clock.now_ms, machine.name, "-", 0, 0, event)
            return
        ha = process.broker.ha
        state = ha.state.value + ("*" if ha.step is not Step.NONE else "")
        txn = machine.disk.position.txn if machine.disk.position else 0
        self.trace.add(self.clock.now_ms, machine.name, state, ha.epoch.counter, txn, event)

    def note(self, process: Process, event: str, fields: dict[str, Any]) -> None:
        """A Note of a broker."""
        if event == "ha.keep" and not self.split:
            raise Violation(f"{process.machine.name} has lost a divergence, and A1 holds (I1, I3)")
        self.notes.append((self.clock.now_ms, process.machine.name, event, fields))
        if event != f"ha.{process.broker.ha.state.value.lower()}":
            self.tell(process.machine, f"{event} " + " ".join(f"{key}={value}" for key, value in fields.items()))

    def told_by(self, client: str, event: str) -> None:
        """A change that a client saw, for the trace."""
        self.trace.add(self.clock.now_ms, client, "", 0, 0, event)

    def happened(self, kind: str) -> None:
        """Count it; "" is nothing."""
        if kind:
            self.counts[kind] += 1

    def world(self, event: str) -> None:
        """A fault outside the machines, for the trace."""
        self.trace.add(self.clock.now_ms, "~", "", 0, 0, event)

    def send_notices(self, machine: Machine, incarnation: int, *, late_ms: int = 0) -> None:
        """The watcher's datagrams: five on every path, each may be lost with its cable. Late: the network kept them somewhere."""
        receiver = machine.peer
        for path in (PEER_LINK, LAN):
            for index in range(NOTICES):
                after_ms = late_ms + 4 + index * NOTICE_EVERY_MS
                self.clock.after(after_ms, self._send_notice, machine, receiver, path, incarnation)

    def _send_notice(self, sender: Machine, receiver: Machine, path: int, incarnation: int) -> None:
        if sender.powered and self._passes(path, sender.name, receiver.name):
            self.clock.after(self._delay(path), self._deliver_notice, sender.name, receiver, incarnation)

    def _deliver_notice(self, name: str, receiver: Machine, incarnation: int) -> None:
        if receiver.process is not None:
            receiver.process.notice(name, incarnation)

    def send_datagrams(self, sender: Machine, beat: Beat) -> None:
        """A Beat by UDP on every path (core.beat_notice)."""
        for path in (PEER_LINK, LAN) if self.datagrams else ():
            if self._passes(path, sender.name, sender.peer.name) and sender.peer.process is not None:
                self.clock.after(self._delay(path), self._deliver_datagram, sender.peer.process, path, beat)

    def _passes(self, path: int, sender: str, receiver: str) -> bool:
        return self.cables.pass_frame(path, sender, receiver) and not self.cables.lost(path, self.random)

    def _delay(self, path: int) -> int:
        return self.network.delay(path) + self.cables.slow_ms[path]

    def _deliver_datagram(self, receiver: Process, path: int, beat: Beat) -> None:
        receiver.datagram(path, beat)

    def freeze_next_turn(self, machine: Machine, for_ms: int) -> None:
        """Stop the process in its next turn, between its decisions and their carrying out."""
        self._freeze_in_turn[machine.name] = for_ms

    def freeze_in_turn(self, machine: Machine) -> bool:
        """Asked by the process between decision and action."""
        if not self._freeze_in_turn:
            return False
        for_ms = self._freeze_in_turn.pop(machine.name, 0)
        if for_ms:
            machine.freeze(for_ms)
        return for_ms > 0


class Failed(AssertionError):
    """A run that broke a rule; the text holds everything needed to see it again."""
