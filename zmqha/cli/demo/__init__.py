"""``zmqha demo``: a real pair on this machine, real load, a real ``kill -9`` of the server that serves; then all is counted."""

import secrets
from pathlib import Path

import click

from zmqha.cli import table
from zmqha.cli.invocation import Invocation, command, pass_invocation
from zmqha.errors import OperationFailed, ZmqhaError

SECONDS, RATE = 9, 2000


@command(
    "demo",
    examples="""
    zmqha demo
    zmqha demo --cut-link
    zmqha demo --keep
    zmqha demo --seed 7 --json --no-report
    """,
    takes=("format", "quiet"),
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
    acknowledged message was lost, one was stored twice or damaged, or the two stores differ at the end.
    """
    from zmqha.cli.demo import keep as keeping
    from zmqha.cli.demo import report as reports
    from zmqha.cli.demo import screen as screens
    from zmqha.cli.demo.acts import perform
    from zmqha.cli.demo.interrupt import interruptible
    from zmqha.cli.demo.pair import Pair
    from zmqha.cli.demo.stage import Settings, Stage

    as_json = as_json or invocation.format == "json"
    if not no_report:
        reports.check_place(report)
    settings = Settings(secrets.randbelow(10_000) if seed is None else seed, rate, seconds, cut_link)
    screen = screens.pick(silent=as_json or invocation.quiet)
    with interruptible(), Pair(cable=cut_link) as pair:
        screen.say(*reports.heading(settings))
        stage = Stage(settings, pair, screen)
        failed: ZmqhaError | None = None
        screen.open()
        try:
            perform(stage)
        except ZmqhaError as error:
            failed = error
            stage.faults.append(error.what)
        finally:
            stage.tick(last=True)
            screen.close()
        document = reports.document(stage)
        files = () if no_report else reports.write(report, document)
        if as_json:
            click.echo(table.as_json(document))
        screen.say(*reports.summary(stage, document, files))
        if stage.faults:
            raise failed or _failure(stage.faults, files)
        if keep:
            keeping.keep(pair, screen, stage.timeline.epochs)
        else:
            screen.say(*reports.farewell(settings))


def _failure(faults: list[str], files: tuple[Path, ...]) -> OperationFailed:
    kept = f"keep {files[0]} and report it with" if files else "run it again without --no-report, and report it with"
    return OperationFailed(
        f"the pair has not kept its promise: {'; '.join(faults)}",
        cause="this must not happen, whatever is killed or cut: it is a bug",
        cure=f"{kept} the output of: zmqha version",
    )
