"""The tables of docs/guarantees.md that are made from the code: every transition, and what a server does in every case.

The truth table is not read off the rows: the production machine is put into each role, the peer and the gateway are made to behave, and
the first row that fires is written down. ``python -m tests.core.truth_table`` writes both tables between their markers;
tests/test_docs.py compares.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.core.ha_rig import E1, E3, LINE, STEP_MS, Rig, at, entry
from zmqha.core import ha
from zmqha.core.peer_protocol import Standing, State
from zmqha.core.position import Mode
from zmqha.core.table import Row
from zmqha.core.why import in_backticks

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
LONG_MS = 8000  # longer than every timer of the table, shorter than a second flap
FAILS_MS = 550  # the probes sent in this time after the change fail

Change = Callable[[Rig], None]


def _older(rig: Rig) -> None:
    rig.say(state=State.WAITING, standing=Standing.PAIRED, epoch=E1, position=at(E1, 4))


def _newer(rig: Rig) -> None:
    rig.say(state=State.WAITING, standing=Standing.SOLE, epoch=E3, position=at(E3, 12))


def _serves(rig: Rig) -> None:
    lineage = (*LINE, entry(E3, Mode.SOLE, 10))
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=E3, position=at(E3, 12), lineage=lineage)


def _deaf(rig: Rig) -> None:
    rig.say(hears=False)
    rig.peer.echoes = False


def _mute(rig: Rig) -> None:
    rig.peer.echoes = False


def _dead(rig: Rig) -> None:
    rig.silence()
    rig.ha.hear_death("b", rig.peer.session.incarnation, rig.now_ms)


def _stays(rig: Rig) -> None:
    """The peer goes on as it was."""


WAITING_PEERS: dict[str, Change] = {
    "heard: it serves alone": _serves,
    "heard: it waits too, with an older store": _older,
    "heard: it waits too, with a newer store": _newer,
    "heard, it does not hear this server": _deaf,
    "silent": Rig.silence,
    "silent, death notice": _dead,
}
PAIRED_PEERS: dict[str, Change] = {
    "heard both ways": _stays,
    "heard, it says that it does not hear this server": _deaf,
    "heard, it answers nothing": _mute,
    "silent": Rig.silence,
    "silent, death notice": _dead,
}
LONE_PEERS: dict[str, Change] = {"heard both ways, it has copied everything": _stays, **dict(list(PAIRED_PEERS.items())[1:])}
ROLES: dict[str, tuple[Callable[[], Rig], dict[str, Change]]] = {
    "WAITING, NEW": (lambda: _waiting(Standing.NEW), WAITING_PEERS),
    "WAITING, PAIRED": (lambda: _waiting(Standing.PAIRED), WAITING_PEERS),
    "WAITING, SOLE": (lambda: _waiting(Standing.SOLE), WAITING_PEERS),
    "WAITING, BEHIND": (lambda: _waiting(Standing.BEHIND), WAITING_PEERS),
    "PASSIVE_SYNC": (lambda: Rig(primary=False).copying(), PAIRED_PEERS),
    "PASSIVE": (lambda: Rig(primary=False).passive(), PAIRED_PEERS),
    "ACTIVE": (lambda: Rig().active(), PAIRED_PEERS),
    "STANDALONE": (lambda: Rig().feeding(), LONE_PEERS),
}
GATEWAYS = ("answers", "failed once, answers again", "silent")


def _waiting(standing: Standing) -> Rig:
    """Just started; its store is known, the peer has not been heard."""
    rig = Rig(standing=standing)
    rig.silence()
    rig.run(20)
    return rig


@contextmanager
def _noted(fired: list[Row]) -> Iterator[None]:
    """Every row that fires is written down."""

    def noting(row: Row) -> Row:
        def act(machine: ha.HA, now_ms: int) -> None:
            fired.append(row)
            row.act(machine, now_ms)

        return row._replace(act=act)

    table = ha.TABLE
    ha.TABLE = tuple(noting(row) for row in table)
    try:
        yield
    finally:
        ha.TABLE = table


def outcome(make: Callable[[], Rig], change: Change, gateway: str) -> str:
    """What the machine does: ``stays``, or state and row."""
    rig, fired = make(), list[Row]()
    with _noted(fired):
        rig.peer.speaks = rig.peer.echoes = True
        change(rig)
        rig.gateway = gateway == GATEWAYS[0]
        for ms in range(0, LONG_MS, STEP_MS):
            if fired:
                break
            if gateway == GATEWAYS[1] and ms == FAILS_MS:
                rig.gateway = True
            rig.step()
    return f"{fired[0].to} ({fired[0].name})" if fired else "stays"


def truth_table() -> str:
    """Role by peer by gateway."""
    lines = [f"| role | peer | gateway {' | gateway '.join(GATEWAYS)} |", "|---|---|---|---|---|"]
    for role, (make, peers) in ROLES.items():
        for peer, change in peers.items():
            lines.append(f"| {role} | {peer} | {' | '.join(outcome(make, change, gateway) for gateway in GATEWAYS)} |")
    return "\n".join(lines)


def transition_table() -> str:
    """The rows of the table in their order."""
    lines = ["| row | from | when | to | why |", "|---|---|---|---|---|"]
    for row in ha.TABLE:
        states = ", ".join(state.value for state in row.states)
        lines.append(f"| {row.name} | {states} | {in_backticks(row.when)} | {row.to} | {row.reason} |")
    return "\n".join(lines)


TABLES = {"transitions": transition_table, "truth": truth_table}


def markers(name: str) -> re.Pattern[str]:
    """What stands between the markers of a table."""
    return re.compile(
        rf"(?<=<!-- {name}: made by python -m tests.core.truth_table; do not edit -->\n).*?(?=\n<!-- end of {name} -->)",
        re.DOTALL,
    )


def main() -> None:
    """Write the tables anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        table = make()
        text, found = markers(name).subn(lambda _, table=table: table, text)
        assert found == 1, f"{found} places for {name} in {PAGE}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
