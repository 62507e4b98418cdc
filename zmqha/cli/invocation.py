"""One run of the command line: the options that every command takes, the URL they lead to, and how results leave.

Results go to stdout, chatter to stderr. The URL comes from ``--url``, ``--context``, ``ZMQHA_URL``, ``ZMQHA_CONTEXT``, the
selected context, or ``zmqha://127.0.0.1:7400``, in this order.
"""

import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click

from zmqha.cli import contexts, table
from zmqha.errors import OperationFailed

if TYPE_CHECKING:
    from zmqha.cli.admin import Servers

FORMATS = ("table", "json", "tsv")
SHARED = ("url", "context", "format", "quiet", "verbose", "yes")  # the options that every command takes, unless it says which


@dataclass(slots=True)
class Invocation:
    """Filled by click from the options before or after the command's name; the later one counts."""

    url: str | None = None
    context: str | None = None
    format: str = "table"
    quiet: bool = False
    verbose: bool = False
    yes: bool = False

    def resolved_url(self) -> str:
        """Where the servers are."""
        if self.url:
            return self.url
        if self.context:
            return contexts.read(self.context).url
        from_environment = os.environ.get("ZMQHA_URL")
        if from_environment:
            return from_environment
        name = os.environ.get("ZMQHA_CONTEXT") or contexts.selected()
        if name:
            return contexts.read(name).url
        from zmqha.client.url import URL_DEFAULT

        return URL_DEFAULT

    def say(self, text: str) -> None:
        """Chatter."""
        if not self.quiet:
            click.echo(text, err=True)

    def announce(self, old: object, new: object, reason: str) -> None:
        """A change of the connection while a command runs; its beginning and end are no news. Called by the client's thread."""
        if "connected" in (str(old), str(new)) and str(old) != "connecting" and str(new) != "closed":
            self.say(f"{old} -> {new}: {reason}" if reason else f"{old} -> {new}")

    def detail(self, text: str) -> None:
        """Chatter for ``-v``."""
        if self.verbose:
            click.echo(text, err=True)

    def show(self, title: str, columns: Sequence[table.Column], rows: Sequence[table.Row], value: Any) -> None:
        """A result: ``rows`` for people and for tsv, ``value`` for JSON."""
        if self.format == "json":
            click.echo(table.as_json(value))
        elif self.format == "tsv":
            click.echo(table.tsv(columns, rows))
        else:
            click.echo(table.table(title, columns, rows))

    def show_record(self, title: str, record: dict[str, Any]) -> None:
        """A single result, one line per field."""
        columns = (table.Column("Field"), table.Column("Value"))
        self.show(title, columns, [(key, _cell(value)) for key, value in record.items()], record)

    def result(self, sentence: str, value: Any) -> None:
        """The result of an action: a sentence for people, fields for programs."""
        if self.format == "json":
            click.echo(table.as_json(value))
        elif not self.quiet:
            click.echo(sentence)

    def confirm(self, what: str) -> None:
        """Destruction needs ``--yes``, or a yes on a terminal."""
        if self.yes:
            return
        if not is_terminal(sys.stdin):
            raise OperationFailed(
                f"not done: {what}", cause="this destroys something and nobody is there to ask", cure="repeat it with --yes"
            )
        if not click.confirm(f"{what}. Go on?", err=True):
            raise OperationFailed(f"not done: {what}", cause="the answer was no", cure="nothing to do")


def is_terminal(stream: TextIO | None) -> bool:
    """None: it was closed before Python began."""
    return stream is not None and stream.isatty()


def _cell(value: object) -> object:
    return table.as_json(value) if isinstance(value, dict | list) else value


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and value is not False and parameter.name:
        setattr(context.ensure_object(Invocation), parameter.name, value)


def options(names: Collection[str] = SHARED) -> list[click.Option]:
    """New option objects each time: every command owns its parameters."""
    shared: dict[str, Any] = {"expose_value": False, "callback": _keep}
    every = [
        click.Option(["--url"], metavar="URL", help="Servers, zmqha://host,host:port.", **shared),
        click.Option(["--context"], metavar="NAME", help="A saved context, or a context file.", **shared),
        click.Option(["-f", "--format"], type=click.Choice(FORMATS), help="How results are printed.", **shared),
        click.Option(["-q", "--quiet"], is_flag=True, help="Results only.", **shared),
        click.Option(["-v", "--verbose"], is_flag=True, help="More on stderr.", **shared),
        click.Option(["--yes"], is_flag=True, help="Do not ask before destroying.", **shared),
    ]
    return [option for option in every if option.name in names]


class _WithExamples(click.Command):
    """An Examples block under the help."""

    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.context_settings = {"help_option_names": ["-h", "--help"], **self.context_settings}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Some of click's complaints (``--flag=3``) do not know whose usage to show."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples as they are typed."""
        with formatter.section("Examples"):
            for line in self.examples.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")


class Command(_WithExamples):
    """A command with those shared options that mean something for it."""

    def __init__(self, *args: Any, takes: Collection[str] = SHARED, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *options(takes)]


class Group(_WithExamples, click.Group):
    """A noun with its verbs."""

    command_class = Command


def command(name: str, *, examples: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """A top-level command."""
    return click.command(name, cls=Command, examples=examples, **settings)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def open_servers(invocation: Invocation) -> "Servers":
    """The servers of this invocation's URL, for operators' verbs. Imported late: ``--help`` needs no ZeroMQ."""
    from zmqha.cli.admin import Servers

    return Servers(invocation.resolved_url())


def connect(invocation: Invocation, **options: Any) -> Any:
    """A client that follows the active server."""
    import zmqha

    return zmqha.connect(invocation.resolved_url(), **options)
