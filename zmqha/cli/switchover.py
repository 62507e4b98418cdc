"""``zmqha switchover``: ask the active to hand over, then watch until the other serves."""

import time
from typing import Any

import click

from zmqha.cli.admin import Servers
from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.cli.status import SERVING, merged, milliseconds
from zmqha.errors import OperationFailed, ZmqhaError

WAIT_S = 10.0
_LOOK_S = 0.02


@command(
    "switchover",
    examples="""
    zmqha switchover
    zmqha switchover --to edge-a --reason "back home"
    zmqha switchover --dry-run
    """,
)
@click.option("--to", metavar="NAME", help="Which server shall serve; default: the other one.")
@click.option("--reason", metavar="TEXT", help="For the history.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, do nothing.")
@pass_invocation
def switchover(invocation: Invocation, to: str | None, reason: str | None, dry_run: bool) -> None:
    """Let the other server serve. Nothing confirmed is lost; clients pause for a moment."""
    with open_servers(invocation) as servers:
        if dry_run:
            _foretell(invocation, servers, to)
            return
        wish = {key: value for key, value in (("to", to), ("reason", reason)) if value}
        begun = time.monotonic()
        answer = servers.ask_active("switchover", wish)
        invocation.detail(f"{answer['from']} hands over to {answer['to']} …")
        _wait(servers, answer)
    took_ms = (time.monotonic() - begun) * 1000
    result = {**answer, "took_ms": round(took_ms, 1)}
    invocation.result(f"{answer['to']} serves, {milliseconds(took_ms)} after the request; {answer['from']} did before.", result)


def _wait(servers: Servers, answer: dict[str, Any]) -> None:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if answer["to"] in _serving(servers):
            return
        time.sleep(_LOOK_S)
    raise OperationFailed(
        f"{answer['to']} does not serve after {WAIT_S:g} s",
        cause="the hand-over was begun and not finished",
        cure="see: zmqha status",
    )


def _serving(servers: Servers) -> list[str]:
    """Who says so of itself; empty while nobody answers."""
    views = [view for view in servers.ask_all("status", timeout_s=0.5).values() if not isinstance(view, ZmqhaError)]
    return [
        row["name"] for view in views for row in view["servers"] if row["name"] == view["answering"] and row["state"] in SERVING
    ]


def _foretell(invocation: Invocation, servers: Servers, to: str | None) -> None:
    view = merged(servers.ask_all("status"))
    active = next((row["name"] for row in view["servers"] if row["state"] in SERVING), None)
    target = to or next((row["name"] for row in view["servers"] if row["name"] != active), None)
    ready = any(row["name"] == target and row["state"] == "PASSIVE" for row in view["servers"])
    if active is None or target == active or not ready:
        why = "no server serves" if active is None else f"{target or 'the peer'} is not PASSIVE, or serves already"
        raise OperationFailed("a switchover would be refused now", cause=why, cure="see: zmqha status")
    invocation.result(f"Would hand over from {active} to {target}.", {"from": active, "to": target, "dry_run": True})
