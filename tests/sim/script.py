"""Stories as text: one order per line, then the changes of role that they must lead to (golden, rafttest style).

::

    # comment
    kill a | kill a silently | power a | start a | freeze a 1500 | cut link | cut link from a | heal link | heal link from a
    cut lan a | heal lan a | mute gateway | answer gateway | mute gateway for a | answer gateway for a
    reset both 200 | switchover | stop a | replace disk a | rot a | promote a
    wait 500                      let time pass
    within 900 b is STANDALONE    must become true in so many ms
    within 900 in sync
    never 2000 b is STANDALONE    must not become true for so many ms
    ----
    node state epoch reason       one line per change of role, in order per node

Times are not part of the golden part, so it changes only where behaviour does. ``ZMQHA_SIM_UPDATE=1`` writes it anew.
"""

from collections.abc import Callable
from pathlib import Path

from tests.sim.cluster import Cluster
from tests.sim.network import LAN, PEER_LINK
from tests.sim.server import Machine
from tests.sim.violation import Violation

RULE = "----"


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
    return "".join(
        f"{node} {state:<12} {epoch:>2}  {reason}\n" for name in "ab" for _, node, state, epoch, reason in roles if node == name
    )


def _carry_out(cluster: Cluster, words: list[str]) -> None:
    cables = cluster.cables
    machine = {"a": cluster.a, "b": cluster.b}
    match words:
        case ["kill", name, *silently]:
            machine[name].kill(notice=not silently)
        case ["power", name]:
            machine[name].cut_power()
        case ["start", name]:
            machine[name].start()
        case ["freeze", name, for_ms]:
            machine[name].freeze(int(for_ms))
        case ["replace", "disk", name]:
            machine[name].kill(notice=True)
            machine[name].disk.replace()
        case ["cut" | "heal" as verb, "link"]:
            for name in "ab":
                cables.link[name] += 1 if verb == "cut" else -1
        case ["cut" | "heal" as verb, "link", "from", name]:
            cables.link[name] += 1 if verb == "cut" else -1
        case ["cut" | "heal" as verb, "lan", name]:
            for port in (cables.lan_in, cables.lan_out):
                port[name] += 1 if verb == "cut" else -1
        case ["cut" | "heal" as verb, "lan", "from", name]:
            cables.lan_out[name] += 1 if verb == "cut" else -1
        case ["mute" | "answer" as verb, "gateway"]:
            cables.gateway_down += 1 if verb == "mute" else -1
        case ["mute" | "answer" as verb, "gateway", "for", name]:
            cables.gateway_mute[name] += 1 if verb == "mute" else -1
        case ["reset", "both", for_ms]:
            for path in (PEER_LINK, LAN):
                cables.resetting[path] += 1
                cluster.network.reset_path(path)
                cluster.clock.after(int(for_ms), _end_reset, cluster, path)
        case ["switchover"]:
            serving = cluster.serving
            assert serving is not None and serving.process is not None
            serving.process.broker.ha.leave("switchover", serving.own_ms(), exit=False)
        case ["stop", name]:
            process = machine[name].process
            assert process is not None
            process.broker.ha.leave("stopped", machine[name].own_ms(), exit=True)
        case ["rot", name]:
            machine[name].disk.rot()
        case ["promote", name]:
            process = machine[name].process
            assert process is not None
            process.broker.ha.promote("an operator", "now", machine[name].own_ms())
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
        case _:
            raise ValueError(f"no such order: {' '.join(words)}")


def _end_reset(cluster: Cluster, path: int) -> None:
    cluster.cables.resetting[path] -= 1


def _condition(cluster: Cluster, machine: dict[str, Machine], words: list[str]) -> Callable[[], bool]:
    match words:
        case ["in", "sync"]:
            return cluster.checkers.in_sync
        case ["equal", "stores"]:
            return lambda: cluster.a.disk.position == cluster.b.disk.position
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
