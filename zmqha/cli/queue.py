"""``zmqha queue``: add, list, inspect, empty and remove queues."""

from typing import Any

import click

from zmqha.cli.invocation import Group, Invocation, open_servers, pass_invocation
from zmqha.cli.table import Column

COLUMNS = (
    Column("Queue"), Column("Messages", right=True), Column("Ready", right=True), Column("Unacked", right=True),
    Column("Consumers", right=True), Column("Bytes", right=True), Column("Max messages", right=True),
    Column("Max bytes", right=True),
)  # fmt: skip
_FIELDS = ("name", "messages", "ready", "unacked", "consumers", "bytes", "max_messages", "max_bytes")


@click.group("queue", cls=Group, examples="zmqha queue add orders --max-messages 100000\nzmqha queue ls\nzmqha queue info orders")
def queue() -> None:
    """Add, list, inspect, empty and remove queues."""


@queue.command("ls", examples="zmqha queue ls\nzmqha queue ls -f json")
@pass_invocation
def ls(invocation: Invocation) -> None:
    """List the queues."""
    queues = _ask(invocation, "queue.ls")["queues"]
    rows = [tuple(queue.get(field) for field in _FIELDS) for queue in queues]
    invocation.show(f"Queues: {len(queues)}", COLUMNS, rows, queues)


@queue.command("add", examples="zmqha queue add orders\nzmqha queue add orders --max-messages 100000")
@click.argument("name")
@click.option("--max-messages", type=click.IntRange(min=1), metavar="N", help="Sends beyond this are refused.")
@click.option("--max-bytes", type=click.IntRange(min=1), metavar="N", help="Sends beyond this are refused.")
@pass_invocation
def add(invocation: Invocation, name: str, max_messages: int | None, max_bytes: int | None) -> None:
    """Add a queue; adding it again is no error."""
    wish: dict[str, Any] = {"name": name, "max_messages": max_messages, "max_bytes": max_bytes}
    answer = _ask(invocation, "queue.add", {key: value for key, value in wish.items() if value is not None})
    invocation.result(f"Queue {name} is there.", answer)


@queue.command("info", examples="zmqha queue info orders")
@click.argument("name")
@pass_invocation
def info(invocation: Invocation, name: str) -> None:
    """Everything about one queue."""
    invocation.show_record(f"Queue: {name}", _ask(invocation, "queue.info", {"name": name}))


@queue.command("purge", examples="zmqha queue purge orders --yes")
@click.argument("name")
@pass_invocation
def purge(invocation: Invocation, name: str) -> None:
    """Delete every message of a queue."""
    invocation.confirm(f"every message of queue {name} is deleted, on both servers")
    answer = _ask(invocation, "queue.purge", {"name": name})
    invocation.result(f"Queue {name}: {answer['removed']} messages deleted.", answer)


@queue.command("rm", examples="zmqha queue rm orders\nzmqha queue rm orders --force --yes")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also if it still holds messages.")
@pass_invocation
def rm(invocation: Invocation, name: str, force: bool) -> None:
    """Remove a queue; it must be empty, or use --force."""
    if force:
        invocation.confirm(f"queue {name} is removed with all its messages, on both servers")
    answer = _ask(invocation, "queue.rm", {"name": name, "force": force})
    invocation.result(f"Queue {name} is removed.", answer)


def _ask(invocation: Invocation, verb: str, arguments: dict[str, Any] | None = None) -> Any:
    with open_servers(invocation) as servers:
        return servers.ask_active(verb, arguments)
