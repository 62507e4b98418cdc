"""Why a server is in its state, and what would change it: the answer to ``zmqha why``. Pure, and it changes nothing.

It walks the rows of ``table.TABLE`` that may fire in the present state and asks every condition of each guard, those behind the first
that fails too. So it says what the table itself would decide; there is no second opinion here.
"""

import re
from typing import Any

from zmqha.core.guards import Condition, conditions_of, seconds
from zmqha.core.ha import HA
from zmqha.core.peer_protocol import State
from zmqha.core.table import TABLE, Row
from zmqha.core.timers import Timers
from zmqha.core.view import PAIRED_ROLES, Step

DOING = {
    Step.INSPECT: "it looks at its own store",
    Step.DOUBT: "it writes down that its store may not serve (BEHIND)",
    Step.FOLLOW: "it writes down that it begins to copy (BEHIND)",
    Step.CLAIM: "it writes down that it serves alone (SOLE)",
    Step.PAIR: "it writes down that the peer is in sync (PAIRED)",
    Step.ACCEPT: "it writes down that it is in sync (PAIRED)",
    Step.KEEP: "it counts and keeps what only its store holds, before it hands that over",
}


def why(ha: HA, now_ms: int) -> dict[str, Any]:
    """State, since when, reason; then every row that may fire, the nearest to firing first."""
    rows = [explain(ha, row, now_ms) for row in TABLE if ha.state in row.states and _can_matter(ha, row)]
    if ha.state is State.PASSIVE_SYNC:
        rows.append(_copied(ha))
    rows.sort(key=lambda row: len(row["missing"]) / (len(row["missing"]) + len(row["holds"])))
    return {
        "server": ha.identity.node_id,
        "state": ha.state.value,
        "sub": ha.sub(now_ms).value,
        "standing": ha.durable.standing.value,
        "epoch": ha.epoch.counter,
        "reason": ha.reason,
        "since_ms": now_ms - ha.since_ms,
        "sentence": headline(ha, now_ms),
        "rows": rows,
    }


def _can_matter(ha: HA, row: Row) -> bool:
    return row.to != "unchanged" and not (row.guard is HA.needs_no_peer and ha.identity.peer_id)


def _copied(ha: HA) -> dict[str, Any]:
    """T15 is no row: the active decides it, by its T14, and grants it."""
    done = f"{ha.copied:.0%} copied"
    return {
        "row": "T15",
        "to": "PASSIVE",
        "when": "the active grants that this server has everything",
        "why": "exactly the position that the grant names is in the journal",
        "holds": ["the peer feeds this server"],
        "missing": [f"the active grants that this server has everything ({done})"],
    }


def headline(ha: HA, now_ms: int) -> str:
    """``edge-b has been PASSIVE for 3 min 12 s: in sync.``"""
    said = f"{ha.identity.node_id} has been {ha.state} for {seconds(now_ms - ha.since_ms)}: {ha.reason}."
    if ha.step is not Step.NONE:
        return f"{said} Now {DOING[ha.step]}; nothing else is decided until that is on the disk."
    if ha.leaving is not None:
        return f"{said} It is leaving: {ha.leaving.reason}."
    if ha.state in PAIRED_ROLES and not ha.right:
        return f"{said} It may not take over now: a gateway probe failed while the peer was silent."
    return said


def explain(ha: HA, row: Row, now_ms: int) -> dict[str, Any]:
    """One row: where it leads, and which of its conditions hold."""
    conditions = conditions_of(row.guard) or (Condition(row.when, lambda _, now: row.guard(ha, now)),)
    parted = ha.diverged  # T2's question keeps its finding; being asked about must change nothing
    holds: list[str] = []
    missing: list[str] = []
    for condition in conditions:
        held = condition.holds(ha, now_ms)
        (holds if held else missing).append(_said(condition, ha, now_ms))
    ha.diverged = parted
    return {
        "row": row.name,
        "to": row.to,
        "when": in_seconds(row.when, ha.timers),
        "why": row.reason,
        "holds": holds,
        "missing": missing,
    }


def in_seconds(sentence: str, timers: Timers) -> str:
    """``{decide_ms}`` as 0.75 s."""
    return sentence.format_map({name: seconds(getattr(timers, name)) for name in timers.__dataclass_fields__})


def in_backticks(sentence: str) -> str:
    """``{decide_ms}`` as the setting's name, for the documents."""
    return re.sub(r"{(\w+)}", r"`\1`", sentence)


def _said(condition: Condition, ha: HA, now_ms: int) -> str:
    sentence, figure = in_seconds(condition.sentence, ha.timers), condition.figure(ha, now_ms)
    return f"{sentence} ({figure})" if figure else sentence
