"""``zmqha context``: save the URLs you use, choose one."""

from pathlib import Path

import click

from zmqha.cli import contexts
from zmqha.cli.invocation import Group, Invocation, pass_invocation
from zmqha.cli.table import Column

COLUMNS = (Column("Context"), Column("Selected"), Column("URL"))


@click.group(
    "context",
    cls=Group,
    examples="zmqha context add plant zmqha://edge-a,edge-b:7400 --select\nzmqha context ls\nzmqha context rm plant",
)
def context() -> None:
    """Save the URLs you use."""


@context.command(
    "add",
    short_help="Save a URL, or a context file, under a name.",
    examples="zmqha context add plant zmqha://edge-a,edge-b:7400\nzmqha context add plant pair/client/context.toml --select",
)
@click.argument("name")
@click.argument("target", metavar="URL_OR_FILE")
@click.option("--select", is_flag=True, help="Use it from now on.")
@pass_invocation
def add(invocation: Invocation, name: str, target: str, select: bool) -> None:
    """Save URL_OR_FILE (a URL, or the context.toml of zmqha init) as NAME."""
    from zmqha.client.url import parse

    resolved = contexts.read(str(Path(target).absolute())).url if target.endswith(".toml") else target
    shown = str(parse(resolved))
    contexts.add(name, resolved)
    if select:
        contexts.select(name)
    invocation.result(f"Context {name} leads to {_short(shown)}.", {"name": name, "url": shown, "selected": select})


@context.command("ls", examples="zmqha context ls")
@pass_invocation
def ls(invocation: Invocation) -> None:
    """List the saved contexts."""
    from zmqha.client.url import masked

    chosen = contexts.selected()
    saved = contexts.every()
    found = [{"name": one.name, "selected": one.name == chosen, "url": masked(one.url)} for one in saved]
    rows = [(one["name"], "*" if one["selected"] else "", _short(str(one["url"]))) for one in found]
    invocation.show(f"Contexts: {len(found)}", COLUMNS, rows, found)
    for one in saved:
        if one.fault:
            invocation.say(f"context {one.name} is broken: {one.fault}; zmqha context rm {one.name}")


@context.command("select", examples="zmqha context select plant")
@click.argument("name")
@pass_invocation
def select(invocation: Invocation, name: str) -> None:
    """Use NAME from now on."""
    contexts.select(name)
    invocation.result(f"Context {name} is selected.", {"name": name, "selected": True})


@context.command("rm", examples="zmqha context rm plant")
@click.argument("name")
@pass_invocation
def rm(invocation: Invocation, name: str) -> None:
    """Forget NAME."""
    contexts.remove(name)
    invocation.result(f"Context {name} is removed.", {"name": name, "removed": True})


def _short(url: str) -> str:
    """Without the options: keys are long."""
    return url.partition("?")[0]
