"""What must hold, looked at from outside: disks, roles and what servers said to clients. Each raises Violation where it breaks.

Where a story breaks assumption A1 on purpose (``Cluster.split``), two may serve at once, and a store may lack what the other confirmed
alone; everything else still holds.

A *promise* is a message that was confirmed to its producer or delivered to a consumer. Who serves must hold every promise (I2, I3);
who makes one must have it where the state says (O5), and nobody under a higher epoch may lack it (I1, I4).
"""

from typing import TYPE_CHECKING

from tests.sim.violation import Violation
from zmqha.core.client_protocol import HEADER, Code, Confirm, Deliver, decode
from zmqha.core.message import read_head
from zmqha.core.peer_protocol import Beat, Standing, State, Sub
from zmqha.core.position import Epoch, Position
from zmqha.core.view import SERVING, Step

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.server import Process

DEATH = "the peer's watcher reports its death"
_LOOKED_AT = (Code.CONFIRM, Code.DELIVER)


class Checkers:
    """All of them; they see everything and touch nothing."""

    def __init__(self, cluster: "Cluster") -> None:
        self.promised: dict[int, int] = {}  # producer -> last sequence
        self.promises = 0
        self.claims = 0
        self.splits = 0  # times that a second one began to serve alone
        self.new_promise_ms = 0  # when the newest one was made
        self.roles: list[tuple[int, str, str, int, str]] = []  # (ms, node, state, epoch, reason), at each change
        self._decided: dict[str, Epoch] = {}  # the newest claim after a death, by node
        self._last_role: dict[str, tuple[str, str, int]] = {}
        self._cluster = cluster
        self._granted = {"a": False, "b": False}

    # --- called by the simulation -------------------------------------------------------------------------------------------

    def said(self, process: "Process", frames: list[bytes]) -> None:
        """Frames that leave for a client."""
        if HEADER.unpack_from(frames[0])[2] not in _LOOKED_AT:
            return
        _, _, command = decode(frames)
        match command:
            case Confirm(_, producer, up_to, _):
                self._promise(process, producer, up_to, "confirms")
            case Deliver(_, _, _, _, batch):
                head = read_head(batch)
                self._promise(process, head.producer, head.next - 1, "delivers")

    def claimed(self, process: "Process", position: Position) -> None:
        """A store is opened for serving: it must hold every promise."""
        self.claims += 1
        if self._cluster.split:
            return
        last = self._cluster.history.last(position)
        for producer, sequence in self.promised.items():
            if last.get(producer, 0) < sequence:
                raise Violation(
                    f"{process.machine.name} serves alone at {position} without message {producer}:{sequence}, "
                    f"it ends at {last.get(producer, 0)} (I2, I3)"
                )

    def role(self, process: "Process") -> None:
        """A role, step, epoch or right changed."""
        ha, disk, other = process.broker.ha, process.machine.disk, process.machine.peer
        if ha.granted and not self._granted[process.machine.name]:
            self._cluster.settled_generation[other.name] = other.disk.generation  # this very disk took the grant
        self._granted[process.machine.name] = ha.granted
        self._cluster.tell(process.machine, f"step={ha.step.name} right={ha.right:d} granted={ha.granted:d} ({ha.reason})")
        if ha.step is Step.CLAIM and ha.facts.reason == DEATH and self._decided.get(process.machine.name) != ha.facts.epoch:
            self._decided[process.machine.name] = ha.facts.epoch  # while it is being written the peer may be back
            living = other.process
            if living is not None and living.incarnation == ha.contact.peer_session.incarnation:
                raise Violation(f"{process.machine.name} goes on for a death that did not happen (T8e)")
        if ha.step is Step.NONE:
            row = (process.machine.name, ha.state.value, ha.epoch.counter)
            if self._last_role.get(row[0]) != row:
                self._last_role[row[0]] = row
                self.roles.append((self._cluster.clock.now_ms, *row, ha.reason))
        if ha.state is State.STANDALONE and ha.step is Step.NONE:
            if disk.facts is None or disk.facts.standing is not Standing.SOLE:
                raise Violation(f"{process.machine.name} is STANDALONE and its disk does not say SOLE (O1)")
            self._alone(process)

    def announced(self, process: "Process", beat: Beat) -> None:
        """A Beat leaves."""
        disk = process.machine.disk
        if beat.state is not State.STANDALONE or beat.sub is Sub.CLAIMING or disk.facts is None:
            return
        if disk.facts.standing is not Standing.SOLE or disk.facts.epoch < beat.epoch:
            facts = f"{disk.facts.standing} in epoch {disk.facts.epoch}"
            raise Violation(
                f"{process.machine.name} announces that it serves alone in epoch {beat.epoch}, its disk says {facts} (O7)"
            )

    # --- rules --------------------------------------------------------------------------------------------------------------

    def _alone(self, process: "Process") -> None:
        other = process.machine.peer.process
        if self._cluster.split:
            self.splits += int(other is not None and other.broker.ha.state is State.STANDALONE)
        elif other is not None and other.broker.ha.state is State.STANDALONE:
            raise Violation(f"both servers are STANDALONE: {process.broker.ha.epoch} and {other.broker.ha.epoch} (I1)")

    def _promise(self, process: "Process", producer: int, sequence: int, verb: str) -> None:
        cluster, machine, ha = self._cluster, process.machine, process.broker.ha
        last = cluster.history.last
        self.promises += 1
        new = sequence > self.promised.get(producer, 0)
        if new:
            self.promised[producer] = sequence
            self.new_promise_ms = cluster.clock.now_ms
        what = f"{machine.name} {verb} {producer}:{sequence} under epoch {ha.epoch}"
        if last(machine.disk.position).get(producer, 0) < sequence:
            raise Violation(f"{what}, its own store does not hold it (O5)")
        if machine.disk.rotten and process.knows_flip == machine.disk.flips and (ha.granted or ha.state is not State.ACTIVE):
            raise Violation(f"{what}, and knows that its store is damaged (T18)")
        other = machine.peer
        held = last(other.disk.synced).get(producer, 0)
        if last(machine.disk.synced).get(producer, 0) < sequence:
            raise Violation(f"{what}, and its own disk does not hold it (O5)")
        if (
            new
            and ha.state is State.ACTIVE
            and held < sequence
            and other.disk.generation == cluster.settled_generation[other.name]
        ):
            raise Violation(f"{what}, paired, and the peer's disk does not hold it (O5)")
        theirs = other.process.broker.ha if other.process is not None else None
        if (
            not cluster.split
            and theirs is not None
            and theirs.state in SERVING
            and theirs.step is Step.NONE
            and theirs.epoch > ha.epoch
            and held < sequence
        ):
            raise Violation(f"{what}, while {other.name} serves under epoch {theirs.epoch} without it (I1, I4)")

    # --- asked by tests -----------------------------------------------------------------------------------------------------

    def serving(self) -> list[str]:
        """Who serves now."""
        return [m.name for m in self._cluster.machines if m.process is not None and m.process.broker.ha.state in SERVING]

    def clients_served(self) -> bool:
        """Every client has a session with the one that serves: none refuses its epoch for a higher one that it has seen (O4)."""
        serving = [at for at, machine in enumerate(self._cluster.machines) if machine.name in self.serving()]
        return all([client.engine.failover.session] == serving for client in self._cluster.clients)

    def in_sync(self) -> bool:
        """One is ACTIVE and granted, the other PASSIVE."""
        states = {m.process.broker.ha.state: m.process.broker.ha for m in self._cluster.machines if m.process is not None}
        return State.PASSIVE in states and State.ACTIVE in states and states[State.ACTIVE].granted

    def equal_stores(self) -> None:
        """After quiet both disks hold the same store, and it holds every promise."""
        a, b = self._cluster.a.disk, self._cluster.b.disk
        if a.position != b.position:
            raise Violation(f"after quiet the stores differ: {a.position} and {b.position}")
        if a.rotten or b.rotten:
            raise Violation("after quiet a store is still damaged")
        if a.corrupt or b.corrupt:
            raise Violation("after quiet a store is a copy without all of its parts")
        history, consumer = self._cluster.history, self._cluster.consumer
        done = consumer.acked_wires if consumer is not None else set()
        missing = {
            producer: lacking
            for producer, sequence in self.promised.items()
            if (lacking := [each for each in history.lacks(a.position, producer, sequence) if (producer, each) not in done])
        }
        if missing:
            raise Violation(f"after quiet the store lacks {missing}")
