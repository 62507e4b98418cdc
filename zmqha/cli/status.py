"""``zmqha status``: every server asked by itself, each row from that server's own mouth, and what would be lost now.

A server that does not answer here is a row with state ``unreachable``, and what its peer says of it stands below the table: the
two can differ, and that difference is often the answer.
"""

import time
from typing import Any

import click

from zmqha.cli.admin import silence
from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.cli.table import Column, counted
from zmqha.errors import ZmqhaError

COLUMNS = (
    Column("Server"), Column("Endpoint"), Column("Role"), Column("State"), Column("Epoch", right=True),
    Column("Position", right=True), Column("Lag", right=True), Column("Free", right=True),
)  # fmt: skip
UNREACHABLE = "unreachable"
SERVING = ("ACTIVE", "STANDALONE")
WAYS = {  # peer_protocol.Way, in words
    "comparing": "comparing what both hold",
    "delta": "by what it lacks",
    "rest": "by the rest of a full copy",
    "whole": "by a full copy",
}


@command(
    "status",
    examples="""
    zmqha status
    zmqha --url zmqha://edge-a,edge-b:7400 status -f json
    zmqha status -w 1
    """,
)
@click.option("-w", "--watch", type=click.FloatRange(min=0.1), metavar="SECS", help="Show again every SECS seconds.")
@pass_invocation
def status(invocation: Invocation, watch: float | None) -> None:
    """What each server is doing, and what would be lost if either died now.

    Exit code 69 if no server answers at all.
    """
    with open_servers(invocation) as servers:
        while True:
            view = merged(servers.ask_all("status"))
            if watch and invocation.format == "table":
                click.clear()
            show(invocation, view)
            if not watch:
                return
            time.sleep(watch)


def merged(answers: dict[str, Any]) -> dict[str, Any]:
    """One view out of what each server said. Servers that were not named in the URL keep the row their peer gave them."""
    views = {host: answer for host, answer in answers.items() if not isinstance(answer, ZmqhaError)}
    if not views:
        raise silence(answers)
    by_name = {view["answering"]: view for view in views.values()}
    first = next((view for view in by_name.values() if _own_row(view)["state"] in SERVING), next(iter(by_name.values())))
    rows, notes = [], []
    for row in first["servers"]:
        name = row["name"]
        if name in by_name:
            # What it says of itself; how far behind it is, only the one that serves can say.
            lag = {key: row.get(key) for key in ("lag_ms", "lag_txns")} if by_name[name] is not first else {}
            rows.append({**_own_row(by_name[name]), **lag})
            if row["state"] == UNREACHABLE:
                notes.append(f"{first['answering']} does not hear {name}.")
        elif row["state"] == UNREACHABLE:
            rows.append(row)
        elif len(answers) > len(views) or row["endpoint"] in answers:
            rows.append({**row, "state": UNREACHABLE, "seen_as": row["state"]})
            notes.append(f"{name} does not answer here; {first['answering']} sees it {_state(row)}.")
        else:
            rows.append(row)
    serving = [row["name"] for row in rows if row["state"] in SERVING]
    # The one that serves speaks for both, unless the other needs help; where not exactly one serves, each has its own tale.
    others = [(name, view) for name, view in by_name.items() if view is not first]
    notes += [f"{name} says: {view['sentence']}" for name, view in others if len(serving) != 1 or view.get("needs_operator")]
    if len(serving) > 1:
        notes.append(f"ALARM: {' and '.join(serving)} both say that they serve.")
    if _copies_differ(rows):
        notes.append("ALARM: the two stores differ at the same position; stop one of them and see docs/operations.md.")
    notes += [note for row in rows for note in (_space(row), _scrub(row)) if note]
    pairs = sorted({view["cluster"] for view in by_name.values()})
    if len(pairs) > 1:
        notes.append(f"ALARM: these servers belong to different pairs: {', '.join(pairs)}.")
    return {**first, "servers": rows, "notes": notes}


def show(invocation: Invocation, view: dict[str, Any]) -> None:
    """The table and the sentences below it."""
    rows = [_cells(row, view["servers"]) for row in view["servers"]]
    invocation.show(title(view), COLUMNS, rows, view)
    if invocation.format != "table":
        return
    sentences = [_gateway(view.get("gateway")), view["sentence"]]
    click.echo(" ".join(sentence for sentence in sentences if sentence))
    if view.get("copy"):
        click.echo(_copy(view["copy"]))
    for note in view["notes"]:
        click.echo(note)
    if view.get("single_machine"):
        click.echo("Single machine: both servers share its fate; for trying out only.")


def title(view: dict[str, Any]) -> str:
    """``Pair: plant-7 (5f2c91ab)``."""
    return f"Pair: {view['pair']} ({view['cluster'][:8]})"


def milliseconds(value: float | None) -> str | None:
    """Short for people: 0.4 ms, 198 ms, 1.71 s."""
    if value is None:
        return None
    if value < 10:
        return f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def _own_row(view: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in view["servers"] if row["name"] == view["answering"])


def _copies_differ(rows: list[dict[str, Any]]) -> bool:
    """Two that are in sync, at one position, with other digests. Elsewhere equal numbers may be those of two different epochs."""
    paired = [row for row in rows if row["state"] in ("ACTIVE", "PASSIVE")]
    return len({row["chain"] for row in paired}) > len({(row["epoch"], row["txn"]) for row in paired})


def _space(row: dict[str, Any]) -> str:
    """Whether a server that serves refuses sends for want of room."""
    if not row.get("refuses_sends"):
        return ""
    return (
        f"{row['name']} takes no more messages: less than limits.disk_reserve_bytes is free on its disk, or the store is near "
        "limits.store_max_bytes."
    )


def _scrub(row: dict[str, Any]) -> str:
    """What is not clean about a server's own looking after its bytes."""
    scrub = row.get("scrub") or {}
    if scrub.get("damaged"):
        return f"{row['name']} found {counted(scrub['damaged'], 'damaged page')} on its disk since it started; replace that disk."
    if scrub.get("digest", 0) < 0:
        return f"{row['name']} keeps no sums of its pages: its store is too large; damage on its disk would go unnoticed."
    return ""


def _state(row: dict[str, Any], others: list[dict[str, Any]] | None = None) -> str:
    state = row["state"]
    if state == "STANDALONE" and any(other["state"] == "PASSIVE_SYNC" for other in others or ()):
        return "ACTIVE_SYNC"
    if state == "PASSIVE_SYNC":
        return f"{state} {row.get('copied') or 0:.0%}"
    return f"{state} ({row['sub']})" if row.get("sub") else str(state)


def _cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[object, ...]:
    state = _state(row, rows)
    if row["state"] == UNREACHABLE:
        return row["name"], row["endpoint"], row["role"], state, None, None, None, None
    free = row.get("free")
    return (
        row["name"], row["endpoint"], row["role"], state, row["epoch"], row["txn"],
        None if row["state"] in SERVING else milliseconds(row.get("lag_ms")),
        None if free is None else f"{free:.0%}",
    )  # fmt: skip


def _copy(copy: dict[str, Any]) -> str:
    """How the peer is being brought up, and how far that is."""
    way = WAYS.get(copy["way"], copy["way"])
    sent, total = copy["bytes"] / 1e6, copy["first_round_bytes"] / 1e6
    if not total:
        return f"The peer is brought up: {way}."
    done = f", {counted(copy['rounds'], 'round')} done" if copy["rounds"] else ""
    return f"The peer is brought up: {way}, {sent:.1f} of about {max(sent, total):.1f} MB sent{done}."


def _gateway(gateway: dict[str, Any] | None) -> str:
    if not gateway or not gateway.get("addresses"):
        return ""
    who = " and ".join(gateway["addresses"])
    match gateway.get("own"), gateway.get("peer"):
        case True, True:
            return f"Gateway {who} answers both."
        case True, False:
            return f"Gateway {who} answers the server that answered here, not its peer."
        case False, True:
            return f"Gateway {who} answers the peer only."
        case False, _:
            return f"Gateway {who} is silent."
        case True, _:
            return f"Gateway {who} answers here; not known what the peer sees."
        case _:
            return f"Gateway {who}: not known yet."
