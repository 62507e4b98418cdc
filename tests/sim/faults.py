"""Random faults, within assumption A1: both machines never get every gateway answer of a window in which they cannot meet.

The LAN between the machines is cut only with a machine's own port; forged resets are short and rare; a disk is replaced, or
rots, only while the peer holds everything. Each fault heals by itself.
"""

from collections.abc import Callable

from tests.sim.cluster import Cluster
from tests.sim.network import LAN, PEER_LINK
from tests.sim.server import Machine
from zmqha.core.peer_protocol import State

TICK_MS = 50
CALM_RESET_MS = 2000  # between two forged resets
CALM_LAN_MS = 1000  # between the end of a LAN fault and the next: TCP's retries must not be hit twice in one window

KINDS = {
    "cut_link": 6, "cut_link_one_way": 4, "cut_lan": 4, "cut_lan_one_way": 2, "gateway": 4, "gateway_mute": 2, "isolate": 3,
    "kill": 5, "kill_both": 1, "power": 2, "freeze": 5, "freeze_in_turn": 2, "reset": 3, "stall": 2, "full": 1, "replace": 1, "rot": 1,
    "switchover": 1, "stop": 1, "client": 1,
}  # fmt: skip


class Faults:
    """Injects one with probability ``rate`` each TICK_MS while ``on``."""

    def __init__(self, cluster: Cluster, rate: float, kinds: dict[str, int] | None = None) -> None:
        self.on = True
        self.injected = 0
        self._cluster = cluster
        self._rate = rate
        chosen = kinds or KINDS
        self._names, self._weights = list(chosen), list(chosen.values())
        self._healing: list[Callable[[], None]] = []
        self._last_reset_ms = self._lan_free_ms = 0
        cluster.clock.after(TICK_MS, self._tick)

    def heal(self) -> None:
        """No more faults; every cable works, every machine runs. (Machines come up as they would by themselves.)"""
        self.on = False
        cluster = self._cluster
        for heal in self._healing:
            heal()
        self._healing.clear()
        for machine in cluster.machines:
            machine.speed.stall_ms = 0
            machine.start()
        cluster.world("healed")

    def _tick(self) -> None:
        if not self.on:
            return
        cluster = self._cluster
        if cluster.random.random() < self._rate:
            kind = cluster.random.choices(self._names, self._weights)[0]
            self.injected += 1
            getattr(self, f"_{kind}")(cluster.random.choice(cluster.machines))
        cluster.clock.after(TICK_MS, self._tick)

    # --- cables -------------------------------------------------------------------------------------------------------------

    def _for(self, low_ms: int, high_ms: int, heal: Callable[[], None]) -> int:
        """Heal after a while, or at the end of the faults, once."""
        for_ms = self._cluster.random.randint(low_ms, high_ms)
        done = False

        def once() -> None:
            nonlocal done
            if not done:
                done = True
                heal()

        self._healing.append(once)
        self._cluster.clock.after(for_ms, once)
        return for_ms

    def _count(self, counter: dict[str, int], key: str, low_ms: int, high_ms: int, what: str) -> int:
        counter[key] += 1

        def heal() -> None:
            counter[key] -= 1

        for_ms = self._for(low_ms, high_ms, heal)
        self._cluster.world(f"{what} for {for_ms} ms")
        return for_ms

    def _cut_link(self, machine: Machine) -> None:
        cables = self._cluster.cables
        for sender in "ab":
            cables.link[sender] += 1

        def heal() -> None:
            for sender in "ab":
                cables.link[sender] -= 1

        self._cluster.world(f"peer link cut for {self._for(50, 4000, heal)} ms")

    def _cut_link_one_way(self, machine: Machine) -> None:
        self._count(self._cluster.cables.link, machine.name, 50, 4000, f"peer link cut from {machine.name}")

    def _lan_free(self) -> bool:
        return self._cluster.clock.now_ms >= self._lan_free_ms

    def _lan_busy(self, for_ms: int) -> None:
        self._lan_free_ms = max(self._lan_free_ms, self._cluster.clock.now_ms + for_ms + CALM_LAN_MS)

    def _cut_lan(self, machine: Machine) -> None:
        if self._lan_free():
            self._lan_busy(self._count(self._cluster.cables.lan_out, machine.name, 50, 3000, f"LAN port of {machine.name} down"))

    def _cut_lan_one_way(self, machine: Machine) -> None:
        if self._lan_free():
            self._lan_busy(self._count(self._cluster.cables.lan_in, machine.name, 50, 3000, f"LAN port of {machine.name} deaf"))

    def _gateway(self, machine: Machine) -> None:
        self._cluster.cables.gateway_down += 1

        def heal() -> None:
            self._cluster.cables.gateway_down -= 1

        self._cluster.world(f"gateway down for {self._for(20, 2500, heal)} ms")

    def _gateway_mute(self, machine: Machine) -> None:
        self._count(self._cluster.cables.gateway_mute, machine.name, 20, 2500, f"gateway does not answer {machine.name}")

    def _isolate(self, machine: Machine) -> None:
        if not self._lan_free():
            return
        cables, name = self._cluster.cables, machine.name
        for_ms = self._count(cables.lan_out, name, 100, 4000, f"{name} isolated")
        self._lan_busy(for_ms)
        for sender in "ab":
            cables.link[sender] += 1

        def heal() -> None:
            for sender in "ab":
                cables.link[sender] -= 1

        self._for(for_ms, for_ms + self._cluster.random.choice((0, 0, 500)), heal)

    def _reset(self, machine: Machine) -> None:
        """A firewall answers with resets on one path or both, for 50-300 ms."""
        cluster = self._cluster
        now_ms = cluster.clock.now_ms
        longest_ms = 300 - 6 * cluster.network.slowest_ms  # afterwards a handshake and a Beat must still fit into the window (A1)
        if longest_ms < 50 or now_ms - self._last_reset_ms < CALM_RESET_MS or not self._lan_free():
            return
        self._last_reset_ms = now_ms
        paths = cluster.random.choice(((PEER_LINK,), (LAN,), (PEER_LINK, LAN)))
        for path in paths:
            cluster.cables.resetting[path] += 1
            cluster.network.reset_path(path)

        def heal() -> None:
            for path in paths:
                cluster.cables.resetting[path] -= 1

        for_ms = self._for(50, longest_ms, heal)
        self._lan_busy(for_ms)
        cluster.world(f"forged resets on {paths} for {for_ms} ms")

    def _break_a1(self, machine: Machine) -> None:
        """Neither path between the machines, both reach the gateway and clients: two will serve alone."""
        cluster = self._cluster
        cluster.cables.blocked += 1
        for sender in "ab":
            cluster.cables.link[sender] += 1
        clients = [*cluster.producers, *([cluster.consumer] if cluster.consumer else [])]
        for client in clients:
            client.only = cluster.random.choice((0, 1, None))

        def heal() -> None:
            cluster.cables.blocked -= 1
            for sender in "ab":
                cluster.cables.link[sender] -= 1
            for client in clients:
                client.only = None

        cluster.world(f"A1 broken for {self._for(800, 5000, heal)} ms")

    # --- machines -----------------------------------------------------------------------------------------------------------

    def _restart(self, machine: Machine, low_ms: int, high_ms: int) -> None:
        self._cluster.clock.after(self._cluster.random.randint(low_ms, high_ms), machine.start)

    def _kill(self, machine: Machine) -> None:
        random = self._cluster.random
        machine.kill(notice=random.random() < 0.7)
        self._restart(machine, *random.choice(((5, 50), (100, 800), (800, 4000))))

    def _kill_both(self, machine: Machine) -> None:
        for each in (machine, machine.peer):
            self._kill(each)

    def _power(self, machine: Machine) -> None:
        if machine.peer.disk.position is None:
            return  # its disk is lost: what only this one has may still be in its cache, and that would be a second failure
        machine.cut_power()
        self._restart(machine, 800, 5000)

    def _freeze(self, machine: Machine) -> None:
        machine.freeze(self._cluster.random.randint(100, 3000))

    def _freeze_in_turn(self, machine: Machine) -> None:
        if machine.process is not None:
            self._cluster.freeze_next_turn(machine, self._cluster.random.randint(100, 3000))

    def _stall(self, machine: Machine) -> None:
        """Every sync takes longer for a while."""
        machine.speed.stall_ms = self._cluster.random.choice((30, 200, 1500))
        self._cluster.tell(machine, f"disk stalls {machine.speed.stall_ms} ms per sync")

        def heal() -> None:
            machine.speed.stall_ms = 0

        self._for(200, 2500, heal)

    def _full(self, machine: Machine) -> None:
        """No space for a while."""
        machine.speed.full = True
        self._cluster.tell(machine, "disk full")

        def heal() -> None:
            machine.speed.full = False

        self._for(200, 2500, heal)

    def _replace(self, machine: Machine) -> None:
        """An empty disk, while the peer serves alone, or the pair is in sync."""
        peer = machine.peer
        if peer.process is None or machine.process is None:
            return
        alone = peer.process.broker.ha.state is State.STANDALONE
        if not alone and not (self._cluster.checkers.in_sync() and peer.process.broker.ha.state is State.ACTIVE):
            return
        machine.kill(notice=self._cluster.random.random() < 0.7)
        machine.disk.replace()
        self._cluster.tell(machine, "disk replaced")
        self._restart(machine, 1500, 4000)

    def _rot(self, machine: Machine) -> None:
        """A bit flips on one disk, while the pair is in sync, or on one that is being copied to."""
        cluster, process = self._cluster, machine.process
        copying = process is not None and process.broker.ha.state is State.PASSIVE_SYNC
        if any(each.disk.rotten for each in cluster.machines) or not (copying or cluster.checkers.in_sync()):
            return
        machine.disk.rot()
        cluster.tell(machine, "a bit of the store flips")

    def _switchover(self, machine: Machine) -> None:
        process = machine.process
        if process is not None and not machine.frozen and process.broker.ha.state is State.ACTIVE and process.broker.ha.granted:
            self._cluster.tell(machine, "switchover ordered")
            process.broker.ha.leave("switchover", machine.own_ms(), exit=False)
            process.wake()

    def _stop(self, machine: Machine) -> None:
        process = machine.process
        if process is not None and not machine.frozen:
            self._cluster.tell(machine, "stop ordered")
            process.broker.ha.leave("stopped", machine.own_ms(), exit=True)
            process.wake()
            self._restart(machine, 2500, 6000)

    def _client(self, machine: Machine) -> None:
        """A client's connection breaks."""
        clients = [*self._cluster.producers, *([self._cluster.consumer] if self._cluster.consumer else [])]
        for line in self._cluster.random.choice(clients).lines:
            line.reset()
