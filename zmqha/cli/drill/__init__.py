"""``zmqha drill``: one fault after the other on a throw-away pair under load; after each one everything is counted."""

import secrets

import click

from zmqha.cli.drill.cases import CASES, Case
from zmqha.cli.invocation import Invocation, command, pass_invocation
from zmqha.cli.table import Column, counted
from zmqha.errors import OperationFailed

RATE = 500
LIST_COLUMNS = (Column("Case"), Column("What"), Column("Gap limit", right=True), Column("Quick"))


@command(
    "drill",
    examples="""
    zmqha drill
    zmqha drill --list
    zmqha drill --cases all
    zmqha drill --cases kill-active,kill-both --repeat 20
    zmqha drill --seed 7 -f json > drill.json
    """,
    takes=("format", "quiet"),
)
@click.option("--cases", "wanted", metavar="A,B", help="Only these, in this order, or: all. Default: the quick ones.")
@click.option("--list", "listing", is_flag=True, help="Show the cases, run none.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Runs of each case.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Same bodies, same moments, same choices.")
@click.option("--rate", type=click.IntRange(50, 5000), default=RATE, show_default=True, metavar="N", help="Messages/s.")
@pass_invocation
def drill(invocation: Invocation, wanted: str | None, listing: bool, repeat: int, seed: int | None, rate: int) -> None:
    """Break a throw-away pair on this machine in every way that needs no root, and count.

    Takes about a minute. Two real servers, real load, real faults; needs no network and leaves nothing behind. A gap is the
    longest time without a confirm, from the fault on; its limits are generous, for busy machines. Exit code 1 if an
    acknowledged message was lost, one was stored twice, the two stores differ, or a gap is longer than its limit.
    """
    chosen = _chosen(wanted)
    if listing:
        cases = chosen if wanted else list(CASES.values())
        rows = [(case.name, case.what, f"{case.gap_limit_s:g} s", "yes" if case.quick else "") for case in cases]
        value = [{"case": case.name, "what": case.what, "gap_limit_s": case.gap_limit_s, "quick": case.quick} for case in cases]
        invocation.show("Cases", LIST_COLUMNS, rows, value)
        return
    from zmqha.cli.drill import matrix
    from zmqha.cli.drill.runs import Runs

    seed = secrets.randbelow(10_000) if seed is None else seed
    with Runs(seed, rate, invocation.say) as runs:
        outcomes = [runs.run(case, number) for case in chosen for number in range(1, repeat + 1)]
    lines = matrix.lines_of(chosen, outcomes)
    document = matrix.document(seed, rate, outcomes, lines)
    invocation.show(f"Drill, seed {seed}", matrix.COLUMNS, [line.cells() for line in lines], document)
    faults = [f"{outcome.case}: {fault}" for outcome in outcomes for fault in outcome.faults]
    if faults:
        raise OperationFailed(
            f"{counted(len(faults), 'promise')} not kept: {'; '.join(faults)}",
            cause="a gap over its limit may be a very busy machine; anything else must not happen and is a bug",
            cure=f"run it again alone: zmqha drill --seed {seed} --cases {faults[0].partition(':')[0]} --repeat 5",
        )


def _chosen(wanted: str | None) -> list[Case]:
    if wanted is None or wanted.strip() == "all":
        return [case for case in CASES.values() if case.quick or wanted]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = [name for name in names if name not in CASES]
    if unknown or not names:
        raise click.BadParameter(f"no case {', '.join(unknown) or 'named'}; there are: {', '.join(CASES)}", param_hint="--cases")
    return [CASES[name] for name in names]
