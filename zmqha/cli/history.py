"""``zmqha history``: every change of the active server, its reason, and how long nobody served."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.cli.status import milliseconds, title
from zmqha.cli.table import Column, printable

COLUMNS = (
    Column("Epoch", right=True), Column("Position", right=True), Column("Reason"), Column("Timestamp"), Column("New active"),
    Column("Outage", right=True),
)  # fmt: skip


@command(
    "history",
    examples="""
    zmqha history
    zmqha history -f tsv | tail -1
    """,
)
@pass_invocation
def history(invocation: Invocation) -> None:
    """Every change of the active server or of the mode, oldest first; below it the last acts of operators on the active."""
    with open_servers(invocation) as servers:
        view = servers.ask_active("history")
    rows = [
        (
            entry["epoch"], entry["txn"], entry["reason"], _timestamp(entry["wall_ms"]), entry["active"],
            milliseconds(entry["outage_ms"]) if entry["outage_ms"] else None,
        )
        for entry in view["entries"]
    ]  # fmt: skip
    invocation.show(title(view), COLUMNS, rows, view)
    if invocation.format == "table":
        for line in acts_lines(view.get("server", ""), view.get("acts", [])):
            click.echo(printable(line))


def acts_lines(server: str, acts: Sequence[dict[str, Any]]) -> list[str]:
    """Operators' acts that the server's disk remembers, as sentences."""
    return [f"{server}, by an operator at {_timestamp(act['wall_ms']) or 'an unknown time'}: {act['act']}" for act in acts]


def _timestamp(wall_ms: int) -> str | None:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds") if wall_ms else None
