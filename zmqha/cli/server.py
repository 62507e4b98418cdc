"""``zmqha server``: run one server in the foreground until it is told to stop."""

from importlib import import_module
from pathlib import Path

import click

from zmqha.cli.invocation import command

DEFAULT_FILE = Path("/etc/zmqha/server.toml")


@command(
    "server",
    examples="""
    zmqha server --config zmqha-pair/server.toml --name edge-a
    """,
    takes=(),
)
@click.option(
    "--config", "path", type=click.Path(path_type=Path), default=DEFAULT_FILE, show_default=True, help="The pair's file."
)
@click.option("--name", default="", metavar="NAME", help="Which [server.NAME] this machine is.")
def server(path: Path, name: str) -> int:
    """Run a server in the foreground.

    SIGTERM stops it (the peer takes over at once), SIGHUP reads the file again. Exit code 78: the configuration is refused.
    """
    from zmqha.server.config import load

    config = load(path, name)  # before the rest is loaded: a wrong file is refused at once
    returned = import_module("zmqha.server.main").main(config)
    return int(returned or 0)
