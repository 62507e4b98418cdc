"""Stories as text: one order per line, then the changes of role that they must lead to (golden, rafttest style).

::

    # 8: the case (numbers of ``cases``), and what must happen
    kill a | kill a silently | kill a late 3000 (its notice) | power a | start a | freeze a 1500 | suspend a 1500 | stop a
    kill a 4 into PairUp          4 ms after this step went to the store (also power, freeze; Claim, Commit, Journal, ...)
    cut link | cut link from a | cut lan a | cut lan from a | cut switch | cut switch from a | cut clients a       heal ...
    lose link 30 | lose lan 30 | slow link 400 | hole link | reset both 200                 (0, and mend link, end them)
    close bulk link               its port for pages; open bulk link ends it
    mute gateway | answer gateway | mute gateway for a | answer gateway for a
    stall disk a 1500 | stall a 1500 inside Claim | fill disk a | free disk a | lie disk a | replace disk a
    save disk a | restore disk a | tear node.state a
    forge notice of a | jump clock a 7200 | switchover | promote a | resume alone
    rot a                         a bit of its store flips
    break a1                      what follows breaks assumption A1: two may serve at once
    wait 500                      let time pass
    within 900 b is STANDALONE    must become true in so many ms; also: in sync, equal stores, confirms, refused, settled, consumed,
                                  a is gone
    never 2000 b is STANDALONE    must not become true for so many ms
    ----
    node state epoch reason       one line per change of role, in order per node

Times are not part of the golden part, so it changes only where behaviour does. ``ZMQHA_SIM_UPDATE=1`` writes it anew.
"""

import re
from collections.abc import Callable
from pathlib import Path

from tests.sim.cluster import Cluster
from tests.sim.network import LAN, PEER_LINK
from tests.sim.seeds import consumed
from tests.sim.server import Machine
from tests.sim.violation import Violation
from zmqha.core import actions as act

RULE = "----"
PATHS = {"link": PEER_LINK, "lan": LAN}
STEPS = {step.__name__: step for step in (act.Claim, act.PairUp, act.Follow, act.SaveFacts, act.Commit, act.Journal)}


def orders_of(path: Path) -> tuple[list[str], str]:
    """The orders and the golden part of a script."""
    text, _, golden = path.read_text().partition(f"{RULE}\n")
    return text.splitlines(), golden


def play(orders: list[str], seed: int = 1) -> str:
    """Carry the orders out on a pair in sync; what the roles did from then on."""
    cluster = Cluster(seed, delays=0)
    cluster.form()
    cluster.run(1000)
    cluster.checkers.roles.clear()
    for line in orders:
        words = line.split()
        if words and words[0] != "#":
            cluster.world(line)
            _carry_out(cluster, words)
    roles = cluster.checkers.roles
    rows = (
        f"{node} {state:<12} {epoch:>2}  {reason}\n" for name in "ab" for _, node, state, epoch, reason in roles if node == name
    )
    return re.sub(r"\d+ ms", "so many ms", "".join(rows))


def _carry_out(cluster: Cluster, words: list[str]) -> None:
    machine = {"a": cluster.a, "b": cluster.b}
    match words:
        case ["wait", for_ms]:
            cluster.run(int(for_ms))
        case ["within", for_ms, *what]:
            cluster.run_until(_condition(cluster, machine, what), int(for_ms), " ".join(what))
        case ["never", for_ms, *what]:
            holds = _condition(cluster, machine, what)
            end_ms = cluster.clock.now_ms + int(for_ms)
            while cluster.clock.now_ms < end_ms:
                cluster.run(10)
                if holds():
                    raise cluster.explain(Violation("it came to be that " + " ".join(what)))
        case ["break", "a1"]:
            cluster.split = True
        case ["resume", "alone"]:
            cluster.resume_alone = True
        case _:
            if not (_cables(cluster, words) or _disks(machine, words) or _machines(cluster, machine, words)):
                raise ValueError(f"no such order: {' '.join(words)}")


def _cables(cluster: Cluster, words: list[str]) -> bool:
    """Orders about what lies between the machines."""
    cables, number = cluster.cables, {"cut": 1, "mute": 1, "heal": -1, "answer": -1}
    match words:
        case ["cut" | "heal" as verb, "link" | "switch" as what, *sender]:
            for name in sender[1:] or "ab":
                (cables.link if what == "link" else cables.blocked)[name] += number[verb]
        case ["cut" | "heal" as verb, "lan", "from", name]:
            cables.lan_out[name] += number[verb]
        case ["cut" | "heal" as verb, "lan", name]:
            for port in (cables.lan_in, cables.lan_out):
                port[name] += number[verb]
        case ["cut" | "heal" as verb, "clients", name]:
            cables.client_out[name] += number[verb]
        case ["mute" | "answer" as verb, "gateway"]:
            cables.gateway_down += number[verb]
        case ["mute" | "answer" as verb, "gateway", "for", name]:
            cables.gateway_mute[name] += number[verb]
        case ["lose", "link" | "lan" as path, share]:
            cables.loss[PATHS[path]] = int(share) / 100
        case ["slow", "link" | "lan" as path, by_ms]:
            cables.slow_ms[PATHS[path]] = int(by_ms)
        case ["hole" | "mend" as verb, "link"]:
            cables.hole[PEER_LINK] = int(verb == "hole")
        case ["close" | "open" as verb, "bulk", "link"]:
            cables.bulk_closed[PEER_LINK] = int(verb == "close")
        case ["reset", "both", for_ms]:
            for each in (PEER_LINK, LAN):
                cables.resetting[each] += 1
                cluster.network.reset_path(each)
                cluster.clock.after(int(for_ms), _end_reset, cluster, each)
        case _:
            return False
    return True


def _disks(machine: dict[str, Machine], words: list[str]) -> bool:
    """Orders about what the machines keep."""
    match words:
        case ["rot", name]:
            machine[name].disk.rot()
        case ["replace", "disk", name]:
            machine[name].kill(notice=True)
            machine[name].disk.replace()
        case ["stall", "disk", name, for_ms]:
            machine[name].speed.stall_ms = int(for_ms)
        case ["stall", name, for_ms, "inside", step]:
            machine[name].speed.step_ms, machine[name].speed.step_kind = int(for_ms), STEPS[step]
        case ["fill" | "free" as verb, "disk", name]:
            machine[name].speed.full = verb == "fill"
        case ["lie", "disk", name]:
            machine[name].disk.lies_since = machine[name].disk.position
        case ["save", "disk", name]:
            machine[name].disk.save()
        case ["restore", "disk", name]:
            machine[name].disk.restore()
        case ["tear", "node.state", name]:
            machine[name].disk.tears = True
        case _:
            return False
    return True


def _machines(cluster: Cluster, machine: dict[str, Machine], words: list[str]) -> bool:
    """Orders about processes and machines."""
    match words:
        case ["kill", name]:
            machine[name].kill(notice=True)
        case ["kill", name, "silently"]:
            machine[name].kill(notice=False)
        case ["kill", name, "late", by_ms]:
            process = machine[name].process
            assert process is not None
            machine[name].kill(notice=False)
            cluster.send_notices(machine[name], process.incarnation, late_ms=int(by_ms))
        case ["kill" | "power" | "freeze" as what, name, after_ms, "into", step]:
            strike = {"kill": lambda: machine[name].kill(notice=True), "power": machine[name].cut_power}
            call = strike.get(what, lambda: machine[name].freeze(2000))
            machine[name].ambush = (STEPS[step], lambda: cluster.clock.after(int(after_ms), call))
        case ["power", name]:
            machine[name].cut_power()
        case ["start", name]:
            machine[name].start()
        case ["freeze", name, for_ms]:
            machine[name].freeze(int(for_ms))
        case ["suspend", name, for_ms]:
            machine[name].suspend(int(for_ms))
        case ["jump", "clock", name, seconds]:
            machine[name].wall_jump_s = int(seconds)
        case ["forge", "notice", "of", name]:
            process, hearer = machine[name].process, machine[name].peer.process
            assert process is not None and hearer is not None
            for wrong in (-1, 1):
                hearer.notice(name, process.incarnation + wrong)
        case ["switchover"]:
            serving = cluster.serving
            assert serving is not None and serving.process is not None
            serving.process.broker.ha.leave("switchover", serving.own_ms(), exit=False)
        case ["stop", name]:
            process = machine[name].process
            assert process is not None
            process.broker.ha.leave("stopped", machine[name].own_ms(), exit=True)
        case ["promote", name]:
            process = machine[name].process
            assert process is not None
            process.broker.ha.promote("ann", "12:00", machine[name].own_ms())
        case _:
            return False
    return True


def _end_reset(cluster: Cluster, path: int) -> None:
    cluster.cables.resetting[path] -= 1


def _condition(cluster: Cluster, machine: dict[str, Machine], words: list[str]) -> Callable[[], bool]:
    match words:
        case ["in", "sync"]:
            return cluster.checkers.in_sync
        case ["equal", "stores"]:
            return lambda: cluster.a.disk.position == cluster.b.disk.position
        case ["settled"]:
            return lambda: all(producer.idle for producer in cluster.producers)
        case ["consumed"]:
            return lambda: consumed(cluster)
        case ["refused"]:
            return lambda: any(producer.refused for producer in cluster.producers)
        case ["confirms"]:
            since_ms = cluster.clock.now_ms
            return lambda: cluster.checkers.new_promise_ms > since_ms
        case ["sound", "stores"]:
            return lambda: not (cluster.a.disk.rotten or cluster.b.disk.rotten)
        case [name, "needs", "operator"]:
            return lambda: (
                (process := machine[name].process) is not None
                and process.broker.operator.status(process.broker, machine[name].own_ms())["needs_operator"]
            )
        case [name, "is", "gone"]:
            return lambda: machine[name].process is None
        case [name, "is", state]:
            return lambda: (process := machine[name].process) is not None and process.broker.ha.state.value == state
    raise ValueError(f"no such condition: {' '.join(words)}")
