"""``zmqha version``: what runs here, and on the servers if asked."""

import platform
from importlib import import_module
from typing import Any

import click

from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.cli.table import Column
from zmqha.errors import ZmqhaError

COLUMNS = (Column("Where"), Column("zmqha"), Column("Protocol", right=True), Column("Details"))


@command(
    "version",
    examples="""
    zmqha version
    zmqha version --servers
    """,
)
@click.option("--servers", "ask", is_flag=True, help="Ask the servers too.")
@pass_invocation
def version(invocation: Invocation, ask: bool) -> None:
    """Versions here, and with --servers on both servers."""
    answers: dict[str, Any] = {"here": here()}
    if ask:
        with open_servers(invocation) as servers:
            answers |= servers.ask_all("version")
    shown = {where: {"error": answer.what} if isinstance(answer, ZmqhaError) else answer for where, answer in answers.items()}
    rows = [
        (where, answer.get("version"), answer.get("protocol"), _details(answer)) for where, answer in shown.items()
    ]  # fmt: skip
    invocation.show("Versions", COLUMNS, rows, shown)


def here() -> dict[str, Any]:
    """This installation."""
    import lmdb
    import zmq

    from zmqha.core import client_protocol

    return {
        "version": getattr(import_module("zmqha"), "__version__", "unknown"),
        "protocol": client_protocol.VERSION,
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "lmdb": ".".join(map(str, lmdb.version())),
    }


def _details(answer: dict[str, Any]) -> str:
    known = ("version", "protocol", "wall_ms")
    return ", ".join(f"{key} {value}" for key, value in answer.items() if key not in known)
