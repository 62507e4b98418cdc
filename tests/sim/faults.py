"""Random faults, within assumption A1: both machines never get every gateway answer of a window in which they cannot meet.

The LAN between the machines is cut only with a machine's own port, or from one machine only (the deaf one then takes over, the other
hears that it is deaf); forged resets are short and rare; a disk is replaced, or rots, only while the peer holds everything. Each fault
heals by itself. Every fault that happened is counted in ``cluster.counts``, also those inside others (a notice that came late, a torn
slot).
"""

from collections.abc import Callable
from contextlib import suppress
from types import UnionType
from typing import Any

from tests.sim.cluster import Cluster
from tests.sim.network import LAN, PEER_LINK
from tests.sim.server import Machine
from zmqha.core import actions as act
from zmqha.core.peer_protocol import Standing, State
from zmqha.errors import ZmqhaError

TICK_MS = 50
CALM_RESET_MS = 2000  # between two forged resets
CALM_LAN_MS = 1000  # between the end of a LAN fault and the next: TCP's retries must not be hit twice in one window

KINDS = {
    "cut_link": 6, "cut_link_one_way": 4, "cut_lan": 4, "cut_lan_one_way": 2, "gateway": 4, "gateway_mute": 2, "isolate": 3,
    "deafen": 2, "deafen_peer": 1, "flap_link": 1, "slow_link": 2, "lossy_link": 2, "lossy_lan": 1, "hole": 1, "reset": 3,
    "kill": 5, "kill_both": 1, "power": 2, "freeze": 5, "freeze_in_turn": 2, "suspend": 2, "forged_notice": 2, "wall_jump": 1,
    "stall": 2, "step_stall": 2, "step_ambush": 3, "full": 1, "replace": 1, "rot": 1, "switchover": 1, "stop": 1,
    "client": 1, "client_freeze": 1, "client_cut": 1,
}  # fmt: skip

RESTARTS = {"kill": 6, "reset": 4, "kill_both": 1}
ONE_WAY = {
    "cut_link_one_way": 6, "cut_lan_one_way": 4, "deafen": 4, "deafen_peer": 2, "kill": 1, "freeze": 1, "gateway_mute": 1,
}  # fmt: skip
FREEZES = {"freeze": 5, "freeze_in_turn": 5, "suspend": 3, "cut_link": 2, "kill": 2}
DISKS = {"power": 4, "stall": 3, "step_stall": 3, "step_ambush": 5, "full": 3, "replace": 3, "kill": 2}
CUTS = {"cut_link": 3, "cut_lan": 3, "isolate": 3, "flap_link": 1, "gateway": 3, "gateway_mute": 3}
NOTICES = {"kill": 6, "forged_notice": 4, "freeze": 2, "cut_link": 2, "wall_jump": 1, "replace": 1, "suspend": 1}
WIRES = {"slow_link": 3, "lossy_link": 3, "lossy_lan": 2, "hole": 3, "flap_link": 1, "cut_lan": 2, "client_cut": 2, "kill": 1}
SETS = {
    "restarts": RESTARTS, "one_way": ONE_WAY, "freezes": FREEZES, "disks": DISKS, "cuts": CUTS, "notices": NOTICES, "wires": WIRES,
    "all": KINDS,
}  # fmt: skip
STEPS: tuple[type | UnionType, ...] = (act.Claim, act.Claim, act.Claim | act.PairUp | act.Follow | act.SaveFacts)


INSIDE = (  # what happens inside others
    "notice lost", "notice late", "torn slot of node.state", "unflushed slot of node.state counts", "unflushed end of the store lost",
    "unflushed end of the journal lost", "unflushed journal survives", "stall inside a step", "kill inside a step",
    "power inside a step", "freeze inside a step", "suspend inside a step", "gateway inside a step", "isolate inside a step",
)  # fmt: skip


def set_of(seed: int) -> str:
    """Which kinds of faults a seed stands for, if nobody says otherwise: every other one all of them."""
    return "all" if seed % 2 else list(SETS)[seed // 2 % len(SETS)]


class Faults:
    """Injects one with probability ``rate`` each TICK_MS while ``on``."""

    def __init__(self, cluster: Cluster, rate: float, kinds: dict[str, int] | None = None) -> None:
        self.on = True
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
            machine.speed.stall_ms = machine.speed.step_ms = 0
            machine.ambush = None
            machine.start()
        cluster.world("healed")

    def _tick(self) -> None:
        if not self.on:
            return
        cluster = self._cluster
        if cluster.random.random() < self._rate:
            kind = cluster.random.choices(self._names, self._weights)[0]
            if getattr(self, f"_{kind}")(cluster.random.choice(cluster.machines)) is not False:
                cluster.happened(kind)
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

    def _cut_lan(self, machine: Machine) -> bool:
        if not self._lan_free():
            return False
        self._lan_busy(self._count(self._cluster.cables.lan_out, machine.name, 50, 3000, f"LAN port of {machine.name} down"))
        return True

    def _cut_lan_one_way(self, machine: Machine) -> bool:
        if not self._lan_free():
            return False
        self._lan_busy(self._count(self._cluster.cables.lan_in, machine.name, 50, 3000, f"LAN port of {machine.name} deaf"))
        return True

    def _deafen(self, machine: Machine) -> bool:
        """Nothing from this machine reaches its peer, on both paths; its own port or the peer's is the cause on the LAN."""
        if not self._lan_free():
            return False
        cables, name = self._cluster.cables, machine.name
        counter, port = self._cluster.random.choice(((cables.lan_out, name), (cables.lan_in, machine.peer.name)))
        for_ms = self._count(counter, port, 100, 4000, f"nothing from {name} passes on the LAN")
        self._lan_busy(for_ms)
        self._count(
            cables.link, name, for_ms, for_ms + self._cluster.random.choice((0, 0, 500)), f"nor on the peer link from {name}"
        )
        return True

    def _deafen_peer(self, machine: Machine) -> bool:
        """Nothing from this machine reaches its peer, and both reach gateway and clients (a one-way rule in a switch)."""
        if not self._lan_free():
            return False
        cables, name = self._cluster.cables, machine.name
        for_ms = self._count(cables.blocked, name, 1500, 5000, f"the switch drops what {name} sends its peer")
        self._lan_busy(for_ms)
        self._count(cables.link, name, for_ms, for_ms, f"nothing passes on the peer link from {name}")
        return True

    def _flap_link(self, machine: Machine) -> None:
        """The peer link comes and goes."""
        random = self._cluster.random
        period_ms = random.choice((300, 700, 1200))
        for flap in range(random.randint(3, 6)):
            self._cluster.clock.after(flap * 2 * period_ms, self._flap, period_ms)

    def _flap(self, period_ms: int) -> None:
        if self.on:
            for sender in "ab":
                self._count(self._cluster.cables.link, sender, period_ms, period_ms, f"peer link flaps from {sender}")

    def _share(self, what: list[Any], path: int, bad: Any, good: Any, text: str) -> bool:
        if what[path] != good:
            return False
        what[path] = bad

        def heal() -> None:
            what[path] = good

        self._cluster.world(f"{text} {bad} on path {path} for {self._for(300, 4000, heal)} ms")
        return True

    def _slow_link(self, machine: Machine) -> bool:
        """A queue in front of the peer link: everything arrives, late; old traffic surfaces afterwards."""
        return self._share(self._cluster.cables.slow_ms, PEER_LINK, self._cluster.random.choice((100, 400, 1500)), 0, "ms slower")

    def _lossy_link(self, machine: Machine) -> bool:
        return self._share(self._cluster.cables.loss, PEER_LINK, self._cluster.random.choice((0.1, 0.3)), 0.0, "loss")

    def _lossy_lan(self, machine: Machine) -> bool:
        """Datagrams, which are many, keep A1; TCP alone would not."""
        return self._share(self._cluster.cables.loss, LAN, self._cluster.random.choice((0.1, 0.3)), 0.0, "loss")

    def _hole(self, machine: Machine) -> bool:
        """Large packets vanish on the peer link."""
        return self._share(self._cluster.cables.hole, PEER_LINK, 1, 0, "hole in the MTU")

    def _gateway(self, machine: Machine) -> None:
        self._cluster.cables.gateway_down += 1

        def heal() -> None:
            self._cluster.cables.gateway_down -= 1

        self._cluster.world(f"gateway down for {self._for(20, 2500, heal)} ms")

    def _gateway_mute(self, machine: Machine) -> None:
        self._count(self._cluster.cables.gateway_mute, machine.name, 20, 2500, f"gateway does not answer {machine.name}")

    def _isolate(self, machine: Machine) -> bool:
        if not self._lan_free():
            return False
        cables, name = self._cluster.cables, machine.name
        for_ms = self._count(cables.lan_out, name, 100, 4000, f"{name} isolated")
        self._lan_busy(for_ms)
        for sender in "ab":
            cables.link[sender] += 1

        def heal() -> None:
            for sender in "ab":
                cables.link[sender] -= 1

        self._for(for_ms, for_ms + self._cluster.random.choice((0, 0, 500)), heal)
        return True

    def _reset(self, machine: Machine) -> bool:
        """A firewall answers with resets on one path or both, for 50-300 ms."""
        cluster = self._cluster
        now_ms = cluster.clock.now_ms
        longest_ms = 300 - 6 * cluster.network.slowest_ms  # afterwards a handshake and a Beat must still fit into the window (A1)
        if longest_ms < 50 or now_ms - self._last_reset_ms < CALM_RESET_MS or not self._lan_free():
            return False
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
        return True

    def _break_a1(self, machine: Machine) -> None:
        """Neither path between the machines, both reach the gateway and clients: two will serve alone."""
        cluster = self._cluster
        cluster.cables.between_servers(1)
        clients = [*cluster.producers, *([cluster.consumer] if cluster.consumer else [])]
        for client in clients:
            client.only = cluster.random.choice((0, 1, None))

        def heal() -> None:
            cluster.cables.between_servers(-1)
            for client in clients:
                client.only = None

        cluster.world(f"A1 broken for {self._for(800, 5000, heal)} ms")

    def _promote_stale(self, machine: Machine) -> bool:
        """One that served alone dies, the other comes back without it and an operator promotes it; the dead one lives on, later."""
        cluster, lone = self._cluster, self._cluster.serving
        if lone is None or lone.process is None or lone.process.broker.ha.state is not State.STANDALONE or lone.peer.process:
            return False
        if lone.peer.disk.facts is None or lone.peer.disk.facts.standing not in (Standing.PAIRED, Standing.BEHIND):
            return False
        lone.kill(notice=False)
        lone.peer.start()
        cluster.clock.after(cluster.random.randint(500, 1500), self._promote, lone.peer)
        self._restart(lone, 2000, 6000)
        return True

    def _promote(self, machine: Machine) -> None:
        if machine.process is None or machine.peer.process is not None or machine.frozen:
            return
        with suppress(ZmqhaError):
            machine.process.broker.ha.promote("an operator", "now", machine.own_ms())
            machine.process.wake()
            self._cluster.happened("promoted")

    # --- machines -----------------------------------------------------------------------------------------------------------

    def _restart(self, machine: Machine, low_ms: int, high_ms: int) -> None:
        self._cluster.clock.after(self._cluster.random.randint(low_ms, high_ms), machine.start)

    def _kill(self, machine: Machine) -> bool:
        random, process = self._cluster.random, machine.process
        if process is None:
            return False
        notice = random.choices(("", "notice lost", "notice late"), (6, 3, 2))[0]
        machine.kill(notice=not notice)
        self._cluster.happened(notice)
        if notice == "notice late":  # perhaps its sender is back before it
            self._cluster.send_notices(machine, process.incarnation, late_ms=random.randint(300, 6000))
        self._restart(machine, *random.choice(((5, 50), (100, 800), (800, 4000))))
        return True

    def _kill_both(self, machine: Machine) -> bool:
        first, second = self._kill(machine), self._kill(machine.peer)
        return first or second

    def _power(self, machine: Machine) -> bool:
        if machine.peer.disk.position is None or not machine.powered:
            return False  # its disk is lost: what only this one has may still be in its cache, and that would be a second failure
        machine.cut_power()
        self._restart(machine, 800, 5000)
        return True

    def _freeze(self, machine: Machine) -> None:
        machine.freeze(self._cluster.random.randint(100, 3000))

    def _freeze_in_turn(self, machine: Machine) -> None:
        if machine.process is not None:
            self._cluster.freeze_next_turn(machine, self._cluster.random.randint(100, 3000))

    def _suspend(self, machine: Machine) -> None:
        machine.suspend(self._cluster.random.randint(100, 3000))

    def _forged_notice(self, machine: Machine) -> bool:
        """Somebody has the secret, not the incarnation (a replay); or the notice is of the receiver itself."""
        random, receiver = self._cluster.random, machine.peer.process
        if machine.process is None or receiver is None:
            return False
        wrong = machine.process.incarnation + random.choice((-100_000, -1, 1, 100_000))
        self._cluster.tell(machine, f"forged death notice of incarnation {wrong}")
        receiver.notice(machine.name, wrong)
        receiver.notice(machine.peer.name, receiver.incarnation)
        return True

    def _wall_jump(self, machine: Machine) -> None:
        """Somebody sets the wall clock by hours, either way."""
        machine.wall_jump_s = self._cluster.random.choice((-86_400, -7200, 0, 7200, 86_400))
        self._cluster.tell(machine, f"wall clock set {machine.wall_jump_s} s off")

    def _step_stall(self, machine: Machine) -> None:
        """The disk stalls inside the next claim (or another step that writes node.state) of this machine."""
        machine.speed.step_kind = self._cluster.random.choice(STEPS)
        machine.speed.step_ms = self._cluster.random.choice((50, 300, 1000, 2500))

    def _step_ambush(self, machine: Machine) -> None:
        """The next claim (or other step) of this machine is hit while it is being written."""
        random = self._cluster.random
        name, after_ms = random.choice(("kill", "power", "freeze", "suspend", "gateway", "isolate")), random.randint(0, 20)
        step = random.choice(STEPS)

        def strike() -> None:
            if self.on and getattr(self, f"_{name}")(machine) is not False:
                self._cluster.happened(f"{name} inside a step")

        machine.speed.step_kind, machine.speed.step_ms = step, random.choice((0, 50, 300))
        machine.ambush = (step, lambda: self._cluster.clock.after(after_ms, strike))

    def _stall(self, machine: Machine) -> None:
        """Every sync takes longer for a while."""
        machine.speed.stall_ms = self._cluster.random.choice((30, 200, 1500, 4000))
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

    def _replace(self, machine: Machine) -> bool:
        """An empty disk, while the peer serves alone, or the pair is in sync."""
        peer = machine.peer
        if peer.process is None or machine.process is None:
            return False
        alone = peer.process.broker.ha.state is State.STANDALONE
        if not alone and not (self._cluster.checkers.in_sync() and peer.process.broker.ha.state is State.ACTIVE):
            return False
        machine.kill(notice=self._cluster.random.random() < 0.7)
        machine.disk.replace()
        self._cluster.tell(machine, "disk replaced")
        self._restart(machine, 1500, 4000)
        return True

    def _rot(self, machine: Machine) -> bool:
        """A bit flips on one disk, while the pair is in sync, or on one that is being copied to."""
        cluster, process = self._cluster, machine.process
        copying = process is not None and process.broker.ha.state is State.PASSIVE_SYNC
        if any(each.disk.rotten for each in cluster.machines) or not (copying or cluster.checkers.in_sync()):
            return False
        machine.disk.rot()
        cluster.tell(machine, "a bit of the store flips")
        return True

    def _switchover(self, machine: Machine) -> bool:
        serving = self._cluster.serving
        process = serving.process if serving is not None else None
        if serving is None or process is None or serving.frozen or not process.broker.ha.granted:
            return False
        self._cluster.tell(serving, "switchover ordered")
        process.broker.ha.leave("switchover", serving.own_ms(), exit=False)
        process.wake()
        return True

    def _stop(self, machine: Machine) -> bool:
        process = machine.process
        if process is None or machine.frozen:
            return False
        self._cluster.tell(machine, "stop ordered")
        process.broker.ha.leave("stopped", machine.own_ms(), exit=True)
        process.wake()
        self._restart(machine, 2500, 6000)
        return True

    def _client(self, machine: Machine) -> None:
        """A client's connections break."""
        for link in self._cluster.random.choice(self._cluster.clients).engine.links:
            link.break_off()

    def _client_freeze(self, machine: Machine) -> None:
        """A client is stopped; what it was sent waits in buffers."""
        self._cluster.random.choice(self._cluster.clients).engine.freeze(self._cluster.random.randint(100, 3000))

    def _client_cut(self, machine: Machine) -> None:
        """No client reaches this machine (they do reach the other)."""
        self._count(self._cluster.cables.client_out, machine.name, 100, 3000, f"clients do not reach {machine.name}")
