"""``zmqha merge``: what a merge after a divergence did, what one would do, and the order to begin where the policy is to wait.

Two servers that served alone at the same time hold messages that the other lacks. The one that lost hands its own over; with
``on_divergence = "merge"`` by itself, with ``"stop"`` when it is told to here.
"""

from datetime import UTC, datetime
from typing import Any

import click

from zmqha.cli.admin import Servers
from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.cli.recovery import chosen, somebody
from zmqha.cli.table import Column
from zmqha.errors import ZmqhaError

REPORTS = (
    Column("Time"), Column("From"), Column("Into"), Column("Branch", right=True), Column("Queue"), Column("Merged", right=True),
    Column("Known", right=True), Column("Acknowledged", right=True),
)  # fmt: skip
BRANCH = (Column("Queue"), Column("Messages", right=True), Column("Acknowledged", right=True))


@command(
    "merge",
    examples="""
    zmqha merge
    zmqha merge --dry-run --server edge-b
    zmqha merge -f json
    """,
)
@click.option("--dry-run", is_flag=True, help="Say what a server that lost would hand over, and do nothing.")
@click.option("--server", metavar="NAME", help="Which server lost; without it, the one that waits for you.")
@pass_invocation
def merge(invocation: Invocation, dry_run: bool, server: str | None) -> None:
    """Let a server that lost a divergence hand over what only it holds; where none waits, list what merges did.

    Messages stored twice are known by their producer and sequence. How messages of the two branches followed each other cannot be
    told any more: merged ones come after the others, marked as redelivered and with the property x-merged.
    """
    with open_servers(invocation) as servers:
        if dry_run:
            _show_branch(invocation, servers.ask(chosen(servers, server)[1], "merge", {"dry_run": True}))
            return
        waits = server or _waits(servers)
        if waits is None:
            _show_reports(invocation, servers.ask_active("merges"))
            return
        name, host = chosen(servers, waits)
        answer = servers.ask(host, "merge", {"by": somebody()})
    invocation.result(f"{name} hands its branch over to {answer['into']}; see: zmqha status", answer)


def _waits(servers: Servers) -> str | None:
    """The server that holds a branch and waits for an operator."""
    for view in servers.ask_all("status").values():
        if isinstance(view, ZmqhaError) or not view.get("needs_operator"):
            continue
        row = next(row for row in view["servers"] if row["name"] == view["answering"])
        if (row["state"], row["standing"]) == ("WAITING", "behind"):
            return str(view["answering"])
    return None


def _show_branch(invocation: Invocation, told: dict[str, Any]) -> None:
    rows = [(queue["name"], queue["messages"], queue["acknowledged"]) for queue in told["queues"]]
    invocation.show(f"{told['server']} would hand over to {told['into']}, branch {told['branch']}", BRANCH, rows, told)
    for each in told["differences"]:
        invocation.say(f"queue {each['name']}: {each['kind']} (an operator's matter, it goes to the report)")
    invocation.say(f"what {told['into']} knows already is skipped there")


def _show_reports(invocation: Invocation, told: dict[str, Any]) -> None:
    rows = [
        (_time(report["wall_ms"]), report["loser"], report["winner"], report["branch"], *_counts(queue))
        for report in told["reports"]
        for queue in report["queues"] or [{"name": "-", "merged": 0, "known": 0, "acknowledged": 0}]
    ]
    invocation.show(f"Merges kept by {told['server']}", REPORTS, rows, told)
    for report in told["reports"]:
        for line in report["audit"]:
            invocation.say(f"branch {report['branch']}: {line}")
        if not report["finished"]:
            invocation.say(f"branch {report['branch']}: not finished; it goes on when {report['loser']} is there")


def _counts(queue: dict[str, Any]) -> tuple[str, int, int, int]:
    return queue["name"], queue["merged"], queue["known"], queue["acknowledged"]


def _time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="seconds")
