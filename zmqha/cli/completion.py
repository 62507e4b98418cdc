"""``zmqha completion``: the shell script that completes commands and options."""

import click
from click.shell_completion import get_completion_class

from zmqha.cli.invocation import command


@command(
    "completion",
    examples="""
    source <(zmqha completion bash)
    zmqha completion fish > ~/.config/fish/completions/zmqha.fish
    """,
    takes=(),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print shell completion for SHELL."""
    found = get_completion_class(shell)
    assert found is not None, "the choice above lists click's own shells"
    click.echo(found(ctx.find_root().command, {}, "zmqha", "_ZMQHA_COMPLETE").source())
