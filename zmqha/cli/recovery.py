"""What only an operator may decide: ``promote`` (the peer is gone for good) and ``resync`` (a server's own branch is given up).

Both go to one server. It is chosen by ``--server``; without it, it must be clear which one is meant.
"""

import getpass
import os
import socket
from typing import Any

import click

from zmqha.cli.admin import Servers, silence
from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.errors import OperationFailed, ZmqhaError


@command(
    "promote",
    examples="""
    zmqha why edge-b
    zmqha promote --accept-loss-of-peer --server edge-b
    zmqha promote --accept-loss-of-peer --server edge-b --yes
    zmqha history
    """,
)
@click.option("--accept-loss-of-peer", is_flag=True, required=True, help="The peer and what only it holds is given up.")
@click.option("--server", metavar="NAME", help="Which server shall serve.")
@pass_invocation
def promote(invocation: Invocation, accept_loss_of_peer: bool, server: str | None) -> None:
    """Let a WAITING server serve although its peer is lost for good.

    The last resort: ask `zmqha why` first. What only the lost peer had confirmed is missing from here on. If it comes back with its
    disk, it has diverged: see `zmqha merge`. Who did it and when is kept: see `zmqha history` and `zmqha why`.
    """
    with open_servers(invocation) as servers:
        name, host = chosen(servers, server)
        invocation.confirm(f"{name} will serve; what only its peer holds is lost")
        answer = servers.ask(host, "promote", {"accept_loss_of_peer": accept_loss_of_peer, "by": somebody()})
    position = f" from position {answer['position']} on" if isinstance(answer, dict) and "position" in answer else ""
    invocation.result(f"{name} serves alone{position}. Who did it and when is kept: zmqha history", answer)


@command(
    "resync",
    examples="""
    zmqha resync --discard-own --server edge-b
    """,
)
@click.option("--discard-own", is_flag=True, required=True, help="The server's own branch is given up (its files are set aside).")
@click.option("--server", metavar="NAME", help="Which server shall copy.")
@pass_invocation
def resync(invocation: Invocation, discard_own: bool, server: str | None) -> None:
    """Set a server's own store aside and copy its peer's."""
    with open_servers(invocation) as servers:
        name, host = chosen(servers, server)
        invocation.confirm(
            f"{name} sets its own store aside and copies its peer's; messages that only it holds are no longer served"
        )
        answer = servers.ask(host, "resync", {"discard_own": discard_own, "by": somebody()})
    invocation.result(f"{name} sets its store aside and copies afresh; see: zmqha status", answer)


def chosen(servers: Servers, wanted: str | None) -> tuple[str, str]:
    """Name and host (as in the URL) of the server that is meant: the one named, or the only one that is WAITING."""
    answers = servers.ask_all("status")
    if all(isinstance(answer, ZmqhaError) for answer in answers.values()):
        raise silence(answers)
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    for host, view in answers.items():
        if not isinstance(view, ZmqhaError):
            rows[view["answering"]] = host, next(row for row in view["servers"] if row["name"] == view["answering"])
    if wanted:
        if wanted not in rows:
            raise OperationFailed(
                f"{wanted} does not answer", cause=f"these do: {', '.join(rows)}", cure="name one of them, or start that server"
            )
        return wanted, rows[wanted][0]
    fitting = [name for name, (_, row) in rows.items() if row["state"] == "WAITING"]
    if len(fitting) != 1:
        raise OperationFailed(
            f"{len(fitting)} servers are WAITING" if fitting else "no server is WAITING",
            cause=", ".join(f"{name} is {row['state']}" for name, (_, row) in rows.items()),
            cure="say which one with --server NAME, if you are sure" if fitting else "nothing is to be done here; ask: zmqha why",
        )
    return fitting[0], rows[fitting[0]][0]


def somebody() -> str:
    """For the record: ``ann@desk-7``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
