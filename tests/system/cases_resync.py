"""R: a server whose disk was replaced copies everything under load, and source, target or link fail on the way."""

import os
import shutil
import time

import zmqha
from tests.system.history import Outcome
from tests.system.lab import other
from tests.system.matrix import Run, case, quantile
from tests.system.split import RESTLESS, Split, split

MIB = 1 << 20
BODY_BYTES = 64 * 1024
NORMAL_S = 4
SLOWER = 5  # times the usual latency of a confirm that a copy may cost
FLOOR_S = 0.1  # below it nobody minds, and a shared machine makes such latencies by itself
SHARES = (0.1, 0.5, 0.9)
COPY_S = 120


@case(
    "R1",
    "the whole store copied under load; source, target, link fail at 10, 50, 90 %",
    quick=3,
    full=9,
    mark="lab",
    timeout_s=300,
)
def resync(run: Run) -> None:
    """1 GiB in the full run. First one copy that nothing disturbs, for the price that live producers pay."""
    with split(run, timers=RESTLESS) as it:
        count = run.pick(64, 1024) * MIB // BODY_BYTES
        with it.lab.net.inside("client"):
            client = zmqha.connect(it.lab.url("a", "b"), failover_timeout=-1)
        body = os.urandom(BODY_BYTES)
        for _ in range(count // 16):
            client.send_many("bulk", [body] * 16)
        price(run, it)
        for number in run.rounds():
            what = ("source", "target", "link")[number % 3]
            share = run.pick(run.chance.choice(SHARES), SHARES[number // 3 % 3])
            disturb(run, it, what, share)
        it.lab.wait_in_sync(COPY_S)
        held = client.admin("queue.info", {"name": "bulk"})["messages"]
        run.expect(held == count, f"{count} messages of the store are there, found {held}")
        client.close()


def price(run: Run, it: Split) -> None:
    """Latency of confirms at rest and during a copy."""
    moment = it.fault()
    it.lab.stay(NORMAL_S)
    normal = latency_s(it, moment)
    began, name = replace_disk(it)
    it.lab.wait(lambda: it.lab.state(name) == "PASSIVE_SYNC", "the copy", 20)
    it.lab.wait_in_sync(COPY_S)
    run.note("copied and in sync after, s", time.monotonic() - began)
    during = latency_s(it, began)
    run.note("p99 of a confirm at rest, s", normal)
    run.soon(during, max(SLOWER * normal, FLOOR_S), "p99 of a confirm during the copy")


def latency_s(it: Split, since: float) -> float:
    """The 99th of a hundred confirms since a moment."""
    times = [one.returned - one.invoked for one in it.load.sent if one.invoked >= since and one.outcome is Outcome.OK]
    return quantile(times, 0.99) or 0.0


def replace_disk(it: Split) -> tuple[float, str]:
    """The passive is killed and loses everything; when it started again, and its name."""
    name = other(it.lab.active())
    it.lab[name].kill()
    it.lab.wait_state(other(name), "STANDALONE")
    it.load.wait_confirmed()
    shutil.rmtree(it.lab.data(name))
    began = time.monotonic()
    it.lab[name].start()
    return began, name


def disturb(run: Run, it: Split, what: str, share: float) -> None:
    """At this share of the copy: kill the one or the other, or cut every path between the two, for a second."""
    it.lab.wait_in_sync(COPY_S)
    it.load.wait_confirmed()
    _, name = replace_disk(it)
    it.lab.wait(lambda: it.lab.state(name) == "PASSIVE_SYNC", "the copy", 20)
    it.lab.wait(lambda: float(it.lab.row(name).get("copied", 0)) >= share, f"{share} of the copy", COPY_S)
    seen = it.lab.row(name)
    server = {"source": it.lab[other(name)], "target": it.lab[name]}.get(what)
    if server is not None:
        server.kill()
    else:
        it.lab.net.cut_peer_carrier()
        it.lab.net.cut_lan_between()
    run.note(f"{what} fails at", f"{seen.get('state')} {seen.get('copied')}")
    run.expect(seen.get("state") == "PASSIVE_SYNC", f"the {what} fails during the copy")
    it.lab.stay(1)
    if server is not None:
        server.start()
    it.lab.net.heal()
