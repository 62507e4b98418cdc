"""One random run from a seed: form a pair, inject faults, heal, and look whether everything is as promised."""

from collections import Counter
from typing import NamedTuple

from tests.sim.cluster import Cluster
from tests.sim.faults import Faults
from tests.sim.violation import Violation

STALL_MS = 25_000  # a claim that began on a stalled disk: four syncs
SERVE_MS = 6000  # after healing: exactly one serves (L2, plus what TCP and libzmq need to connect again)
SERVED_MS = 8000  # a client asks again after a pause that doubles up to two seconds, of a server that it must reach first
SYNC_MS = 15_000
OPERATOR_MS = 2000  # for so long a server must ask before somebody comes
CONSUME_MS = 15_000  # what a lost session holds comes back after limits.SESSION_SILENCE_MS


class Ran(NamedTuple):
    """What a run amounted to."""

    simulated_ms: int
    confirmed: int  # messages
    promises: int
    claims: int
    counts: Counter[str]  # faults, by kind


def run_seed(
    seed: int, *, fault_ms: int = 20_000, kinds: dict[str, int] | None = None, rate: float | None = None,
    resume_alone: bool = False, datagrams: bool = True, split: bool = False,
) -> Ran:  # fmt: skip
    """Raises ``cluster.Failed`` with seed and trace."""
    cluster = Cluster(seed, resume_alone=resume_alone, split=split)
    cluster.datagrams = datagrams
    cluster.form()
    faults = Faults(cluster, rate if rate is not None else cluster.random.choice((0.02, 0.03, 0.05)), kinds)
    cluster.run(fault_ms)
    faults.heal()
    settle(cluster)
    checkers = cluster.checkers
    for machine in cluster.machines:
        cluster.counts["stall inside a step"] += machine.speed.steps_stalled
    confirmed = sum(len(producer.confirmed) for producer in cluster.producers)
    return Ran(cluster.clock.now_ms, confirmed, checkers.promises, checkers.claims, cluster.counts)


def settle(cluster: Cluster) -> None:
    """Everything works again: one serves soon, the pair is in sync some time later, stores are equal, all is consumed."""
    checkers = cluster.checkers
    stores = [
        (machine.process.store, machine.process.store.progress) for machine in cluster.machines if machine.process is not None
    ]
    cluster.run_until(
        lambda: all(store.idle or store.dead or store.progress > before for store, before in stores), STALL_MS,
        "what a disk was doing when it was healed ends", step_ms=50,
    )  # fmt: skip
    cluster.run_until(lambda: not _stopping(cluster), STALL_MS, "a server that was told to stop has stopped", step_ms=50)
    cluster.run_until(lambda: not any(machine.frozen for machine in cluster.machines), STALL_MS, "every server runs", step_ms=50)
    for machine in cluster.machines:
        machine.start()
    asked_ms = 0

    def served_or_asks() -> bool:
        nonlocal asked_ms
        asked_ms = asked_ms + 10 if _asks(cluster) else 0
        return len(checkers.serving()) == 1 or asked_ms > OPERATOR_MS

    cluster.run_until(served_or_asks, SERVE_MS, "exactly one server serves (L2), or asks for an operator")
    if not checkers.serving():
        _promote_the_better_store(cluster)
        cluster.run_until(lambda: len(checkers.serving()) == 1, SERVE_MS, "the promoted server serves")
    cluster.run_until(checkers.clients_served, SERVED_MS, "every client has a session (O4)", step_ms=50)
    for producer in cluster.producers:
        producer.stopped = True
    _pair_again(cluster)
    cluster.run_until(lambda: all(p.idle for p in cluster.producers), 8000, "every message is settled", step_ms=50)
    cluster.run_until(lambda: consumed(cluster), CONSUME_MS, "the consumer has every message", step_ms=50)
    cluster.run(1500)
    try:
        checkers.equal_stores()
        _nothing_refused_came(cluster)
        if len(checkers.serving()) != 1:
            raise Violation(f"after quiet {checkers.serving()} serve")
    except Violation as error:
        raise cluster.explain(error) from error


def _stopping(cluster: Cluster) -> bool:
    """Is a server still on its way out? It writes its facts first, and its disk may be slow."""
    leavings = [machine.process.broker.ha.leaving for machine in cluster.machines if machine.process is not None]
    return any(leaving is not None and leaving.exit for leaving in leavings)


def _asks(cluster: Cluster) -> bool:
    """Does a server's status say that nothing will happen by itself: one store is damaged, the other one older."""
    brokers = [(m.process.broker, m.own_ms()) for m in cluster.machines if m.process is not None]
    return any(broker.operator.status(broker, now_ms)["needs_operator"] for broker, now_ms in brokers)


def _promote_the_better_store(cluster: Cluster) -> None:
    """What an operator does then, as operations.md says."""
    best = max(
        cluster.machines, key=lambda m: (m.disk.position.epoch.counter, m.disk.position.txn) if m.disk.position else (0, 0)
    )
    assert best.process is not None
    cluster.tell(best, "promoted by an operator")
    best.process.broker.ha.promote("an operator", "now", best.own_ms())
    best.process.wake()


def _pair_again(cluster: Cluster) -> None:
    """After many flaps pairing waits up to a minute (T_STABLE); a restarted process is taken back after a second."""
    for _ in range(6):
        cluster.run(1000)
        if cluster.checkers.in_sync():
            return
    serving = cluster.serving
    if serving is not None and serving.process is not None and serving.process.broker.ha.stable_need_ms > 5000:
        serving.peer.kill(notice=False)
        serving.peer.start()
    cluster.run_until(cluster.checkers.in_sync, SYNC_MS, "the pair is in sync", step_ms=50)


def consumed(cluster: Cluster) -> bool:
    """The consumer has every message that was confirmed."""
    consumer = cluster.consumer
    return consumer is None or all(
        (producer.number, body) in consumer.bodies for producer in cluster.producers for body in producer.confirmed
    )


def _nothing_refused_came(cluster: Cluster) -> None:
    consumer = cluster.consumer
    came = [
        (producer.number, body)
        for producer in cluster.producers
        for body in sorted(producer.refused)
        if consumer is not None and (producer.number, body) in consumer.bodies
    ]
    if came:
        raise Violation(f"messages that were refused were delivered: {came}")
