"""Directed stories that need an eye for the right millisecond. Each takes a seed, which decides the smallest delays."""

from collections.abc import Callable

from tests.sim.cluster import Cluster
from tests.sim.network import PEER_LINK
from tests.sim.seeds import SERVED_MS, settle
from tests.sim.violation import Violation
from zmqha.core.peer_protocol import State


def stale_grant(seed: int = 1) -> None:
    """A grant sits in a frozen server's buffer while its sender goes on alone and dies.

    b holds everything and is stopped just before it reads the grant. a goes STANDALONE, confirms alone and is killed; its notice waits
    for b too. If b obeyed the grant and then the notice, it would serve without what a confirmed.
    """
    cluster = Cluster(seed, delays=2)
    a, b = cluster.a, cluster.b
    cluster.datagrams = False  # the Beats that say STANDALONE would give it away
    cluster.start()

    def granted() -> bool:
        process = b.process
        if process is None or a.process is None:
            return False
        mine, theirs = process.broker.ha, a.process.broker.ha
        return (mine.state, theirs.state) == (State.PASSIVE_SYNC, State.ACTIVE) and mine.position == theirs.position

    cluster.run_until(granted, 20_000, "b holds everything", step_ms=1)
    b.freeze(3000)
    cluster.run_until(_is(cluster, "a", State.STANDALONE), 1500, "a goes on alone")
    cluster.run(1000)
    a.kill(notice=True)
    cluster.run(6000)
    if b.process is None or b.process.broker.ha.state not in (State.WAITING, State.PASSIVE_SYNC):
        raise cluster.explain(Violation("the frozen server took over"))


def restart_during_the_copy(seed: int = 1) -> None:
    """b copies from a, both die, and b is back first, told that it may resume alone (O3: its disk must say BEHIND)."""
    cluster = Cluster(seed, delays=0, resume_alone=True)
    cluster.form()
    cluster.run(500)
    cluster.b.kill(notice=True)
    cluster.run_until(_is(cluster, "a", State.STANDALONE), 1500, "a goes on alone")
    cluster.run(1500)
    cluster.b.start()
    cluster.run_until(_is(cluster, "b", State.PASSIVE_SYNC), 3000, "b copies", step_ms=1)
    cluster.b.kill(notice=True)
    cluster.a.kill(notice=True)
    cluster.b.start()
    cluster.run(6000)
    _serves_nobody(cluster)


def the_last_pages_are_on_their_way(seed: int = 1) -> None:
    """The peer link is slow, so the grant comes over the LAN before the last pages; then a is killed (O3).

    Had b accepted the grant, it would serve without what a confirmed alone just before.
    """
    cluster = Cluster(seed, delays=0)
    cluster.form()
    cluster.run(500)
    cluster.b.kill(notice=True)
    cluster.run_until(_is(cluster, "a", State.STANDALONE), 1500, "a goes on alone")
    cluster.b.start()
    cluster.run_until(_is(cluster, "b", State.PASSIVE_SYNC), 3000, "b copies")
    cluster.run(750)
    cluster.cables.slow_ms[PEER_LINK] = 400
    cluster.run_until(_is(cluster, "a", State.ACTIVE), 5000, "a pairs", step_ms=1)
    cluster.run(50)
    cluster.a.kill(notice=True)
    cluster.run(3000)


def the_stale_one_returns_first(seed: int = 1) -> None:
    """a dies, b goes on alone and dies, a comes back alone: its disk must say that b may hold more (O2, I3)."""
    cluster = Cluster(seed, delays=0)
    cluster.form()
    cluster.run(500)
    cluster.a.kill(notice=True)
    cluster.run_until(_is(cluster, "b", State.STANDALONE), 1500, "b goes on alone")
    cluster.run(1000)
    cluster.b.kill(notice=True)
    cluster.a.start()
    cluster.run(5000)
    _serves_nobody(cluster)


def a_failed_probe_between_answers(seed: int = 1) -> None:
    """b is isolated, then only its LAN comes back: the gateway answers at once, TCP to a does not yet (F7).

    a is off the peer link and serves alone. Were b's right alive, b would go on too.
    """
    cluster = Cluster(seed, delays=0)
    cluster.datagrams = False  # they would say that a lives
    cluster.form()
    cluster.run(1000)
    for sender in "ab":
        cluster.cables.link[sender] += 1
    cluster.cables.lan_out["b"] += 1
    cluster.run(cluster.random.randint(450, 700))
    cluster.cables.lan_out["b"] -= 1
    cluster.run(4000)


def lasting_one_way_cut(seed: int = 1) -> None:
    """Nothing from a reaches b, everything from b reaches a, both have their gateway (F6): only the deaf one may go on."""
    cluster = Cluster(seed, delays=0)
    cluster.form()
    cluster.run(1000)
    for counter in (cluster.cables.link, cluster.cables.blocked):
        counter["a"] += 1
    cluster.run(6000)
    if cluster.checkers.serving() != ["b"]:
        raise cluster.explain(Violation(f"{cluster.checkers.serving()} serve, b alone is deaf (F6)"))


def two_that_serve_meet(seed: int = 1) -> None:
    """A1 is broken on purpose, both serve alone, then they meet: the lower of two epochs stops (O4, T13)."""
    cluster = Cluster(seed, delays=0, consumer=False)
    cluster.form()
    cluster.run(1000)
    cluster.split = True
    cluster.cables.between_servers(1)
    cluster.run_until(lambda: len(cluster.checkers.serving()) == 2, 3000, "both serve")
    cluster.run(500)
    for producer in cluster.producers:
        producer.stopped = True
    cluster.cables.between_servers(-1)
    cluster.run_until(lambda: len(cluster.checkers.serving()) == 1, 8000, "one of two epochs stops")


def two_branches(seed: int, consumer: int | None, during: Callable[[Cluster], None] = lambda cluster: None) -> Cluster:
    """A1 broken: both serve alone, a producer on each side, until the paths are back; then the two merge. ``consumer``: on which side
    messages are consumed meanwhile. ``during`` happens as the paths come back."""
    cluster = Cluster(seed, delays=0, split=True, producers=3)
    a, b = cluster.a, cluster.b
    cluster.form()
    cluster.run(2000)
    cluster.cables.between_servers(1)
    for client, only in zip((*cluster.producers, cluster.consumer), (0, 1, None, consumer), strict=True):
        assert client is not None
        client.only = only

    def both_serve() -> bool:
        states = [m.process.broker.ha.state for m in (a, b) if m.process is not None]
        return states == [State.STANDALONE, State.STANDALONE]

    cluster.run_until(both_serve, 5000, "both serve alone")
    cluster.run(4000)
    cluster.cables.between_servers(-1)
    for client in (*cluster.producers, cluster.consumer):
        assert client is not None
        client.only = None
    during(cluster)
    settle(cluster)
    return cluster


def the_loser_has_the_higher_epoch(seed: int = 1) -> None:
    """A1 broken: both serve alone, a under one epoch more (T5), and a dies. Back in contact it waits for an operator, and b, whose disk
    may be slow, serves on: those that a had served must go along (T21)."""
    cluster = Cluster(seed, delays=0, consumer=False, split=True)
    a = cluster.a
    cluster.form()
    cluster.run(1000)
    cluster.cables.between_servers(1)
    for at, producer in enumerate(cluster.producers):
        producer.only = at
    cluster.run_until(lambda: cluster.checkers.serving() == ["a", "b"], 3000, "both serve")
    cluster.run(1000)
    a.kill(notice=False)
    cluster.run(100)
    a.start()
    cluster.run_until(_is(cluster, "a", State.STANDALONE), 5000, "a resumes alone")
    cluster.run(1000)
    a.kill(notice=False)
    cluster.run(100)
    cluster.cables.between_servers(-1)
    for producer in cluster.producers:
        producer.only = None
    a.start()
    assert a.process is not None
    a.process.broker.ha.identity = a.process.broker.ha.identity._replace(merges=False)
    cluster.b.speed.stall_ms = 150 * (seed % 3)
    _serves_every_client(cluster)
    cluster.b.speed.stall_ms = 0
    a.process.broker.ha.merge()
    a.process.wake()
    settle(cluster)


def promoted_after_the_other_served_alone(seed: int = 1) -> None:
    """a served alone, under more epochs than b can know, and is lost; an operator promotes b: clients must go along (O4)."""
    cluster = _served_alone(seed, "a")
    cluster.a.cut_power()
    cluster.run(500)
    cluster.b.start()
    cluster.run(1500)
    _promote(cluster, "b")


def promoted_after_a_copy(seed: int = 1) -> None:
    """Likewise; b has copied all of that, its node.state still names the epoch before, and it may serve only by an operator's word."""
    cluster = _served_alone(seed, "a")
    cluster.b.start()
    process = cluster.b.process
    assert process is not None
    cluster.run_until(lambda: process.broker.follower.whole, 8000, "b has the whole copy", step_ms=1)
    cluster.a.cut_power()
    cluster.b.kill(notice=False)
    cluster.run(300)
    cluster.b.start()
    cluster.run(1500)
    _promote(cluster, "b")


def replaced_after_it_served_alone(seed: int = 1) -> None:
    """b served alone, then its disk is replaced: a begins with what it has, above the epochs that nobody remembers (O4)."""
    cluster = _served_alone(seed, "b")
    cluster.b.kill(notice=False)
    cluster.b.disk.replace()
    cluster.b.start()
    cluster.a.start()
    cluster.run_until(cluster.checkers.in_sync, 15_000, "the pair is in sync")
    _serves_every_client(cluster)


def _served_alone(seed: int, name: str) -> Cluster:
    """The other one is dead, and this one was restarted a few times: an epoch each (T5). What it confirmed will be lost."""
    cluster = Cluster(seed, delays=0, consumer=False, split=True)
    lone = {"a": cluster.a, "b": cluster.b}[name]
    cluster.form()
    cluster.run(1000)
    lone.peer.kill(notice=True)
    cluster.run_until(_is(cluster, name, State.STANDALONE), 3000, f"{name} goes on alone")
    for _ in range(seed % 3):
        cluster.run(500)
        lone.kill(notice=False)
        cluster.run(200)
        lone.start()
        cluster.run_until(_is(cluster, name, State.STANDALONE), 5000, f"{name} resumes alone")
    _serves_every_client(cluster)
    return cluster


def _promote(cluster: Cluster, name: str) -> None:
    machine = {"a": cluster.a, "b": cluster.b}[name]
    assert machine.process is not None
    machine.process.broker.ha.promote("an operator", "now", machine.own_ms())
    machine.process.wake()
    cluster.run_until(_is(cluster, name, State.STANDALONE), 3000, f"{name} serves")
    _serves_every_client(cluster)


def _serves_every_client(cluster: Cluster) -> None:
    cluster.run_until(cluster.checkers.clients_served, SERVED_MS, "every client has a session (O4)")


def _serves_nobody(cluster: Cluster) -> None:
    if cluster.checkers.serving():
        raise cluster.explain(Violation(f"{cluster.checkers.serving()} serves, its disk may be stale"))


def _is(cluster: Cluster, name: str, state: State) -> Callable[[], bool]:
    machine = {"a": cluster.a, "b": cluster.b}[name]
    return lambda: machine.process is not None and machine.process.broker.ha.state is state
