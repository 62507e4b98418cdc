"""The acts of the demo: form a pair under load, kill the active and take it back, or cut the link and mend it; then count."""

import time
from typing import Any

from zmqha.cli.demo.ledger import first_after
from zmqha.cli.demo.pair import NAMES, position_of
from zmqha.cli.demo.screen import Line, progress
from zmqha.cli.demo.stage import Stage
from zmqha.cli.status import SERVING

FORM_S, TAKEOVER_S, REJOIN_S, DRAIN_S, EQUAL_S = 10.0, 8.0, 10.0, 6.0, 4.0
ALONE_S = 2.5  # from the kill to the restart
CUT_S = 3.0
AFTER_S = 1.5  # of load after everything is in order again
BEFORE_S = (1.6, 2.6)  # of load before it
_RECENT = 5000  # confirms and deliveries that are searched for a first one


def perform(stage: Stage) -> None:
    """All of them. The load is closed in any case; faults are in ``stage.faults`` afterwards."""
    stage.pair.start()
    stage.wait(stage.pair.in_sync, "two new servers become a pair", FORM_S)
    _introduce(stage)
    try:
        stage.load.start()
        stage.began = time.time()
        stage.scene.span = (stage.began, stage.began + stage.settings.seconds)
        enough = int(stage.settings.rate * stage.rng.uniform(*BEFORE_S))
        stage.wait(lambda: sum(stage.load.ledger.sent) >= enough, "messages are sent", FORM_S)
        stage.wait(stage.pair.in_sync, "both are in sync before it begins", FORM_S)
        if stage.settings.cut_link:
            cut(stage)
        else:
            kill(stage)
        stage.pause(max(AFTER_S, stage.began + stage.settings.seconds - time.time()))
        _drain(stage)
    finally:
        stage.load.close()
    _compare(stage)
    stage.faults += stage.load.ledger.count().faults()


def _introduce(stage: Stage) -> None:
    pair, lines = stage.pair, []
    for name, server in pair.servers.items():
        server.note_watcher()
        lines.append(Line(f"  {name}  {pair.endpoints[name]}  {pair.row(name).get('state', ''):8}  pid {server.pid}"))
    stage.scene.header = [*lines, Line("")]
    stage.screen.introduce(stage.scene)


def kill(stage: Stage) -> None:
    """SIGKILL the active; its peer takes over; the killed one comes back as a copy."""
    pair, timeline, ledger = stage.pair, stage.timeline, stage.load.ledger
    victim = pair.active()
    heir, server = pair.other(victim), pair[victim]
    server.note_watcher()
    acknowledged, zero = len(ledger.confirmed), time.time()
    server.kill()
    timeline.zero = zero
    timeline.set_role(zero, victim, "down")
    stage.scene.killed = (victim, zero)
    timeline.add(zero, "", "kill", f"kill -9 server {victim} (pid {server.pid}), {acknowledged:,} messages acknowledged so far")
    stage.wait(lambda: _has_taken_over(stage, victim, heir), f"{heir} takes over and serves", TAKEOVER_S)
    stage.pause(zero + ALONE_S - time.time())
    server.start()
    timeline.add(time.time(), "", "restart", f"{victim} restarted (pid {server.pid})")
    stage.copying = victim
    stage.wait(pair.in_sync, f"{victim} copies and is in sync again", REJOIN_S)
    stage.copying = ""
    server.note_watcher()
    stage.tick()
    back = timeline.since(victim)
    missed = sum(zero <= one.time < back for one in ledger.confirmed)
    text = f"{victim} has caught up {missed:,} messages  {progress(1.0)}  in sync: both disks before every confirm"
    timeline.add(back + 0.001, "", "sync", text)


def _has_taken_over(stage: Stage, victim: str, heir: str) -> bool:
    """The heir serves and clients know it. Adds what the gateway and the clients saw to the timeline."""
    timeline, ledger, zero = stage.timeline, stage.load.ledger, stage.timeline.zero or 0.0
    notice = timeline.find("notice", heir)
    claim = timeline.find("claim", heir)
    if notice and claim and not timeline.find("gateway"):
        answered = stage.pair.gateway.first_answer(notice.time)
        if answered is not None:  # noted after the kernel has answered: the claim, which needs the answer, may be logged before
            timeline.add(min(answered, claim.time - 0.0001), heir, "gateway", "the gateway answers")
    changes = [change for change in list(stage.load.changes) if change.time >= zero]
    lost = min((change.time for change in changes if change.new == "lost"), default=None)
    if lost is not None and not timeline.find("lost"):
        timeline.add(lost, "", "lost", f"clients lose {victim} and ask both servers")
    moments = {
        "acknowledged": ("producer", [one.time for one in ledger.confirmed[-_RECENT:]]),
        "delivered": ("consumer", [one.time for one in ledger.delivered[-_RECENT:]]),
    }
    for kind, (client, known) in moments.items():
        found = [change.time for change in changes if change.new == "connected" and change.client.startswith(client)]
        first = first_after(known, min(found)) if found else None
        if first is not None and not timeline.find(kind):
            timeline.add(first, "", kind, f"first message {kind} by {heir}")
    return timeline.role(heir) in ("alone", "active") and all(timeline.find(kind) for kind in moments)


def cut(stage: Stage) -> None:
    """Nothing passes the peer link for a while; heartbeats still pass on the LAN, so nobody may take over."""
    pair, timeline, ledger = stage.pair, stage.timeline, stage.load.ledger
    assert pair.cable is not None
    active, epochs = pair.active(), {name: row.get("epoch") for name, row in pair.rows().items()}
    zero = timeline.zero = time.time()
    pair.cable.cut()
    timeline.add(zero, "", "cut", f"the peer link is cut, {len(ledger.confirmed):,} messages acknowledged so far")
    looks = both = 0
    while time.time() < zero + CUT_S:
        serving = [name for name, row in pair.rows().items() if row.get("state") in SERVING]
        looks, both = looks + 1, both + (len(serving) > 1)
        stage.pause(0.1)
    mended = time.time()
    pair.cable.mend()
    timeline.add(mended, "", "mend", "the peer link is mended")
    held = [one.time for one in ledger.confirmed if zero <= one.time < mended]
    gaps = sorted(zip([zero, *held], [*held, mended], strict=True), key=lambda gap: gap[0] - gap[1])
    start, end = gaps[0]
    if end < mended:
        timeline.add(start, "", "lost", "confirms wait: the copy is in doubt, the servers hear each other on the LAN path")
        timeline.add(end, "", "acknowledged", f"the copy goes over the LAN path, confirms go on after {end - start:.2f} s")
    stage.wait(pair.in_sync, "both are in sync again", REJOIN_S)
    calm = pair.active() == active and {name: row.get("epoch") for name, row in pair.rows().items()} == epochs
    kept = f"{active} served all the time, epoch {epochs[active]}" if calm else f"now {pair.active()} serves"
    timeline.add(time.time(), "", "sync", f"two servers serving at once: {both} of {looks} looks; {kept}")
    if both:
        stage.faults.append(f"both servers served at once in {both} of {looks} looks")


def _drain(stage: Stage) -> None:
    stage.load.stop_sending()
    stage.ended = time.time()
    end = stage.ended + DRAIN_S
    stage.wait(lambda: stage.load.ledger.is_complete() or time.time() > end, "the rest is confirmed and received", DRAIN_S + 1)


def _compare(stage: Stage) -> None:
    """Both positions, when nothing is sent any more; the chain digest in them covers every change since the first."""
    rows: dict[str, dict[str, Any]] = {}

    def settled() -> bool:
        rows.update(stage.pair.rows())
        return position_of(rows) is not None

    end = time.monotonic() + EQUAL_S
    stage.wait(lambda: settled() or time.monotonic() > end, "both stores stand at one position", EQUAL_S + 1)
    same = position_of(rows)
    keys = ("state", "epoch", "txn", "chain")
    stage.stores = {"equal": same is not None, **{name: {key: rows[name].get(key) for key in keys} for name in NAMES}}
    if same is None:
        stage.faults.append("the two stores do not stand at the same position")
