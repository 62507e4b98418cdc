"""The command line. This file knows the names of the commands and one line about each; a command's module is loaded when it runs.

Global options stand before or after the command. Errors are three lines on stderr, exit codes are in ``failure``.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from zmqha.cli import failure
from zmqha.cli.invocation import Invocation, options
from zmqha.errors import ZmqhaError


class Entry(NamedTuple):
    """Where a command is and what its line in the help says."""

    module: str
    line: str


COMMANDS: dict[str, Entry] = {
    "status": Entry("status", "What each server is doing, and what would be lost now."),
    "why": Entry("why", "Why a server is in its state, and what would change it."),
    "history": Entry("history", "Every change of the active server, with reason and outage."),
    "switchover": Entry("switchover", "Let the other server serve; nothing is lost."),
    "queue": Entry("queue", "Add, list, inspect, empty and remove queues."),
    "send": Entry("send", "Send messages from an argument or from stdin."),
    "recv": Entry("recv", "Receive messages to stdout."),
    "demo": Entry("demo", "Two servers on this machine, and one is killed."),
    "drill": Entry("drill", "Break a throw-away pair on this machine in every way, and count."),
    "doctor": Entry("doctor", "Check network, keys, clock, disk and gateway."),
    "init": Entry("init", "Write configuration and keys of a new pair."),
    "server": Entry("server", "Run a server in the foreground."),
    "config": Entry("config", "Check a configuration file."),
    "context": Entry("context", "Save the URLs you use."),
    "promote": Entry("recovery", "Let a server serve although its peer is lost for good."),
    "resync": Entry("recovery", "Set a server's own store aside and copy the peer's."),
    "merge": Entry("merge", "What a merge after a divergence did, or would do; start one."),
    "version": Entry("version", "Versions here and on the servers."),
    "completion": Entry("completion", "Print shell completion."),
}
EXAMPLES = ("zmqha demo", "zmqha init edge-a edge-b", "zmqha --url zmqha://edge-a,edge-b:7400 status", "zmqha send orders hello")
ALIASES = {"list": "status"}
HELP_WIDTH = 110


class Root(click.Group):
    """Lists commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table above."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        name = ALIASES.get(cmd_name, cmd_name)
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        found: click.Command = getattr(import_module(f"zmqha.cli.{entry.module}"), name)
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a name without importing them all."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and args[0] not in ALIASES:
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and lines from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].line) for name in self.list_commands(ctx)])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples as they are typed."""
        with formatter.section("Examples"):
            for line in EXAMPLES:
                formatter.write(f"  {line}\n")


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"zmqha {import_module('zmqha').__version__}")
        ctx.exit()


_VERSION = click.Option(
    ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)

root = Root(
    "zmqha",
    params=[*options(), _VERSION],
    help="zmqha: highly available messaging for exactly two machines.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
)


def run(arguments: Sequence[str] | None = None, entry: click.Command = root, prog_name: str = "zmqha", **settings: Any) -> int:
    """The exit code of one command line. A reader that leaves (``zmqha recv orders | head``) ends it silently: click exits with 1."""
    try:
        returned = entry.main(args=arguments, prog_name=prog_name, standalone_mode=False, obj=Invocation(), **settings)
    except ZmqhaError as error:
        failure.show(failure.three_lines(error))
        return failure.exit_code(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return failure.USAGE
    except click.UsageError as error:
        failure.show(failure.usage_lines(error))
        return failure.USAGE
    except click.ClickException as error:
        failure.show(f"error: {error.format_message()}\nwhy:  it could not be read or written\nfix:  name another file")
        return failure.FAILED
    except OSError as error:
        failure.show(failure.system_lines(error))
        return failure.FAILED
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return failure.INTERRUPTED
    return returned if isinstance(returned, int) else failure.OK


def main() -> None:
    """The console entry ``zmqha``."""
    sys.exit(run())


def server_main() -> None:
    """The console entry ``zmqha-server``: ``zmqha server``."""
    entry: click.Command = import_module("zmqha.cli.server").server
    sys.exit(run(sys.argv[1:], entry, "zmqha-server", max_content_width=HELP_WIDTH))
