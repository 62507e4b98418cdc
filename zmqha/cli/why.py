"""``zmqha why``: each server explains in its own words why it is in its state, what would change it, and what can be done."""

import shutil
import textwrap
from typing import Any

import click

from zmqha.cli.admin import silence
from zmqha.cli.history import acts_lines
from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.cli.table import printable
from zmqha.errors import OperationFailed, ZmqhaError

ROWS = 8  # that are told; -v and -f json tell all
_WIDTH = 120  # without a terminal


@command(
    "why",
    examples="""
    zmqha why
    zmqha why edge-b
    zmqha why edge-b -v
    zmqha why -f json
    """,
)
@click.argument("server", required=False)
@pass_invocation
def why(invocation: Invocation, server: str | None) -> None:
    """Why a server is in its state, and what would change it.

    SERVER is a name, or host:port as in the URL; without it both are asked. For every row of the transition table that
    may fire now the conditions that do not hold yet are shown, the nearest first; -v shows those that hold as well.
    """
    with open_servers(invocation) as servers:
        answers = servers.ask_all("why")
    if all(isinstance(answer, ZmqhaError) for answer in answers.values()):
        raise silence(answers)
    found = {host: answer for host, answer in answers.items() if server in (None, host) or _name(answer) == server}
    told = {host: answer for host, answer in found.items() if not isinstance(answer, ZmqhaError)}
    if server is not None and not told:
        names = [name for name in map(_name, answers.values()) if name]
        raise OperationFailed(
            f"{server} does not answer", cause=f"these do: {', '.join(names)}", cure="name one of them, or start that server"
        )
    if invocation.format == "json":
        invocation.show("", (), (), list(told.values()))
    elif invocation.format == "tsv":
        for answer in told.values():
            for row in answer["rows"]:
                cells = (answer["server"], answer["state"], row["row"], row["to"], "; ".join(row["missing"]))
                click.echo("\t".join(" ".join(str(cell).split()) for cell in cells))
    else:
        click.echo("\n\n".join(_paragraph(host, answer, invocation.verbose) for host, answer in found.items()))


def _name(answer: Any) -> str:
    return "" if isinstance(answer, ZmqhaError) else str(answer["server"])


def _paragraph(host: str, answer: Any, verbose: bool) -> str:
    if isinstance(answer, ZmqhaError):
        about = [piece.removeprefix(f"{host}: ") for piece in answer.cause.split("; ") if piece.startswith(f"{host}: ")]
        return printable(f"{host} does not answer: {'; '.join(about) or answer.cause or answer.what}")
    lines = [answer["sentence"]]
    rows = answer["rows"] if verbose else answer["rows"][:ROWS]
    if rows:
        lines.append("What would change it, and what is still missing for that (the nearest first):")
    names = max((len(row["row"]) for row in rows), default=0)
    states = max((len(row["to"]) for row in rows), default=0)
    for row in rows:
        head = f"  {row['row']:{names}}  {row['to']:{states}}  "
        lines += _wrapped(head, "; ".join(row["missing"]) or "nothing, it is about to be done")
        if verbose and row["holds"]:
            lines += _wrapped(" " * len(head), f"holds: {'; '.join(row['holds'])}")
    if answer.get("cure"):
        lines += _wrapped("What to do: ", answer["cure"])
    lines += acts_lines(answer["server"], answer.get("acts", []))
    return "\n".join(printable(line) for line in lines)


def _wrapped(head: str, text: str) -> list[str]:
    width = max(60, shutil.get_terminal_size((_WIDTH, 0)).columns)
    return textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
