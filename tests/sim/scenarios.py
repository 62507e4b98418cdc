"""Directed stories that need an eye for the right millisecond."""

from collections.abc import Callable

from tests.sim.cluster import Cluster
from tests.sim.seeds import settle
from tests.sim.violation import Violation
from zmqha.core.peer_protocol import State


def stale_grant() -> None:
    """A grant sits in a frozen server's buffer while its sender goes on alone and dies.

    b holds everything and is stopped just before it reads the grant. a goes STANDALONE, confirms alone and is killed; its notice waits
    for b too. If b obeyed the grant and then the notice, it would serve without what a confirmed.
    """
    cluster = Cluster(1, delays=2)  # a seed in which planted bugs do their harm
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
    cluster.run_until(lambda: _state(cluster) is State.STANDALONE, 1500, "a goes on alone")
    cluster.run(1000)
    a.kill(notice=True)
    cluster.run(6000)
    if b.process is None or b.process.broker.ha.state not in (State.WAITING, State.PASSIVE_SYNC):
        raise cluster.explain(Violation("the frozen server took over"))


def _state(cluster: Cluster) -> State | None:
    return cluster.a.process.broker.ha.state if cluster.a.process is not None else None


def two_branches(seed: int, consumer: int | None, during: Callable[[Cluster], None] = lambda cluster: None) -> Cluster:
    """A1 broken: both serve alone, a producer on each side, until the paths are back; then the two merge. ``consumer``: on which side
    messages are consumed meanwhile. ``during`` happens as the paths come back."""
    cluster = Cluster(seed, delays=0, split=True, producers=3)
    a, b = cluster.a, cluster.b
    cluster.form()
    cluster.run(2000)
    cluster.cables.blocked += 1
    for sender in "ab":
        cluster.cables.link[sender] += 1
    for client, only in zip((*cluster.producers, cluster.consumer), (0, 1, None, consumer), strict=True):
        assert client is not None
        client.only = only

    def both_serve() -> bool:
        states = [m.process.broker.ha.state for m in (a, b) if m.process is not None]
        return states == [State.STANDALONE, State.STANDALONE]

    cluster.run_until(both_serve, 5000, "both serve alone")
    cluster.run(4000)
    cluster.cables.blocked -= 1
    for sender in "ab":
        cluster.cables.link[sender] -= 1
    for client in (*cluster.producers, cluster.consumer):
        assert client is not None
        client.only = None
    during(cluster)
    settle(cluster)
    return cluster
