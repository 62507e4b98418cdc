"""``zmqha demo``: a real pair on this machine, real load, and a real ``kill -9`` of the server that serves; then everything is counted."""

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from zmqha.cli import table
from zmqha.cli.invocation import Invocation, command, pass_invocation
from zmqha.errors import OperationFailed

SECONDS, RATE = 9, 2000


@command(
    "demo",
    examples="""
    zmqha demo
    zmqha demo --cut-link
    zmqha demo --keep
    zmqha demo --seed 7 --json | python3 -m json.tool
    """,
)
@click.option("--cut-link", is_flag=True, help="Instead of the kill: cut only the link between the two servers.")
@click.option("--keep", is_flag=True, help="Leave the pair running until Ctrl-C, to be tried by hand.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Same bodies, same message at which it happens.")
@click.option("--rate", type=click.IntRange(100, 10_000), default=RATE, show_default=True, metavar="N", help="Messages/s.")
@click.option(
    "--seconds", type=click.IntRange(5, 15), default=SECONDS, show_default=True, metavar="S", help="How long messages are sent."
)
@click.option(
    "--report", type=click.Path(path_type=Path), default=Path(), metavar="DIR", help="Where the report goes; default: here."
)
@click.option("--no-report", is_flag=True, help="Write no files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text; the same as -f json.")
@pass_invocation
def demo(
    invocation: Invocation,
    cut_link: bool,
    keep: bool,
    seed: int | None,
    rate: int,
    seconds: int,
    report: Path,
    no_report: bool,
    as_json: bool,
) -> None:
    """Two servers on this machine, messages, and the one that serves is killed.

    Takes about 13 s, at most 30 s. Needs no root, no network, no ping; leaves nothing behind but the report. Exit code 1 if an
    acknowledged message was lost, stored twice or damaged, or if the two stores differ at the end.
    """
    from zmqha.cli import demo_keep, demo_report, demo_screen
    from zmqha.cli.demo_acts import perform
    from zmqha.cli.demo_pair import Pair
    from zmqha.cli.demo_stage import Settings, Stage

    as_json = as_json or invocation.format == "json"
    if not no_report:
        demo_report.check_place(report)
    settings = Settings(secrets.randbelow(10_000) if seed is None else seed, rate, seconds, cut_link)
    screen = demo_screen.pick(silent=as_json or invocation.quiet)
    with interruptible(), Pair(cable=cut_link) as pair:
        stage = Stage(settings, pair, screen)
        screen.say(*heading(settings))
        screen.open()
        try:
            perform(stage)
        except OperationFailed as error:
            stage.faults.append(error.what)
            raise
        finally:
            stage.tick(last=True)
            screen.close()
            document = demo_report.document(stage)
            files = () if no_report else demo_report.write(report, document)
        if as_json:
            click.echo(table.as_json(document))
        screen.say(*demo_report.summary(stage, document, files))
        if stage.faults:
            raise failure(stage.faults, document, files)
        if keep:
            demo_keep.keep(pair, screen)
    if not keep:
        screen.say(*farewell(settings))
