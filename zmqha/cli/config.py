"""``zmqha config``: say what is wrong with a configuration before a server has to."""

from pathlib import Path

import click

from zmqha.cli.invocation import Group, Invocation, pass_invocation


@click.group("config", cls=Group, examples="zmqha config check zmqha-pair/server.toml --name edge-a")
def config() -> None:
    """Check a configuration file."""


@config.command(
    "check",
    short_help="Read FILE as a server would, and say what is wrong.",
    examples="zmqha config check zmqha-pair/server.toml\nzmqha config check server.toml --name edge-a",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", default="", metavar="NAME", help="Check it as this server, with its key files.")
@pass_invocation
def check(invocation: Invocation, file: Path, name: str) -> None:
    """Read FILE as a server would; exit code 78 and three lines if it is refused.

    Without --name the file is read as each of its servers; key files and the network are not looked at.
    """
    from zmqha.server.config import SystemNetwork, load, names, not_here
    from zmqha.server.keyring import load_keys

    chosen = (name,) if name else names(file)
    warnings: list[str] = []
    for label in chosen:
        loaded = load(file, label, network=SystemNetwork(here=bool(name)))
        warnings += loaded.warnings
        if name:
            warnings += load_keys(loaded).warnings
            warnings += not_here(loaded)
    warnings = list(dict.fromkeys(warnings))
    for warning in warnings:
        invocation.say(f"warning: {warning}")
    invocation.result(f"{file} is good for {' and '.join(chosen)}.", {"file": str(file), "servers": chosen, "warnings": warnings})
