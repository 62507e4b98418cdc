"""The result as Markdown: a table for each group of cells, a row for each contestant, with what its acknowledgement guarantees.

Medians over the rounds, quartiles in brackets. What failed, was skipped, or is missing is said, not left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from report import Spread, short

MISSING = "–"
NO_VALUES = "failed"


class Column(NamedTuple):
    """Where a figure comes from, and how it is written."""

    head: str
    cell: str
    metric: str
    write: Callable[[Mapping[str, Any]], str]


class Group(NamedTuple):
    """A table."""

    title: str
    note: str
    columns: Sequence[Column]


def spread_of(figure: Mapping[str, Any]) -> Spread:
    """Without the values."""
    return Spread(**{name: figure[name] for name in Spread._fields})


def _milliseconds(figure: Mapping[str, Any]) -> str:
    return str(spread_of(figure))


def _rate(figure: Mapping[str, Any]) -> str:
    median, q1, q3 = (_thousands(figure[name]) for name in ("median", "q1", "q3"))
    return median if figure["count"] < 2 else f"{median} ({q1}..{q3})"


def _most(figure: Mapping[str, Any]) -> str:
    return short(figure["most"])


def _sum(figure: Mapping[str, Any]) -> str:
    return f"{sum(figure['values']):,.0f}"


def _thousands(value: float) -> str:
    """Three digits that count."""
    return f"{float(f'{value:.3g}'):,.0f}"


GROUPS = (
    Group(
        "One message at a time",
        "1 KiB, the acknowledgement awaited before the next; ms.",
        (Column("p50", "lone", "p50_ms", _milliseconds), Column("p99", "lone", "p99_ms", _milliseconds)),
    ),
    Group(
        "Pipelined publish",
        "Acknowledged messages per second.",
        (
            Column("100 B", "publish", "100 B msg/s", _rate),
            Column("1 KiB", "publish", "1 KiB msg/s", _rate),
            Column("16 KiB", "publish", "16 KiB msg/s", _rate),
            Column("1 KiB, 4 producers", "producers", "msg/s", _rate),
        ),
    ),
    Group(
        "Drain, and end to end",
        "1 KiB, each message acknowledged by the consumer; messages per second.",
        (
            Column("1 consumer", "drain", "1 msg/s", _rate),
            Column("4 consumers", "drain", "4 msg/s", _rate),
            Column("end to end", "end_to_end", "msg/s", _rate),
        ),
    ),
    Group(
        "Latency at 2,000 msg/s",
        "1 KiB, from when it was due until it was received; ms.",
        (
            Column("p50", "latency", "p50_ms", _milliseconds),
            Column("p99", "latency", "p99_ms", _milliseconds),
            Column("p99.9", "latency", "p99.9_ms", _milliseconds),
        ),
    ),
    Group(
        "Failover",
        "kill -9 of the leader under 1,000 msg/s: longest pause between two confirms in ms; what was confirmed and is not in the "
        "queue, what is there twice, in all runs.",
        (
            Column("gap", "failover", "gap_ms", _milliseconds),
            Column("worst", "failover", "gap_ms", _most),
            Column("confirmed", "failover", "confirmed", _sum),
            Column("lost", "failover", "lost", _sum),
            Column("duplicated", "failover", "duplicated", _sum),
        ),
    ),
    Group(
        "What the servers take",
        "All server processes together: private memory in MiB (the page cache, where some of them leave bodies, does not count), "
        "processor time in us per message of 1 KiB.",
        (
            Column("empty", "memory", "empty_MiB", _milliseconds),
            Column("100,000 queued", "memory", "stored_MiB", _milliseconds),
            Column("CPU publish", "publish", "server_us", _milliseconds),
            Column("CPU drain", "drain", "server_us", _milliseconds),
            Column("CPU end to end", "end_to_end", "server_us", _milliseconds),
        ),
    ),
)


def markdown(document: Mapping[str, Any]) -> str:
    """All of it."""
    contestants = document["contestants"]
    lines = ["# zmqha and others", "", *_circumstances(document), ""]
    for group in GROUPS:
        lines += _group(group, contestants)
    lines += ["## What an acknowledgement guarantees, and how each was run", ""]
    for one in contestants:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        lines += [
            f"**{one['name']}** ({versions}). Acknowledged is what is {one['acknowledged']}. Set up: {one['settings']}. "
            f"Client: {one['client']}.",
            "",
        ]
    lines += [f"- skipped: {name}: {why}" for name, why in document["skipped"].items()]
    lines += [f"- FAILED (†: the figure is of the other rounds): {failure}" for one in contestants for failure in one["failures"]]
    return "\n".join(lines).rstrip() + "\n"


def _circumstances(document: Mapping[str, Any]) -> list[str]:
    machine, arguments = document["machine"], document["arguments"]
    tiny = " **A tiny run: these figures mean nothing.**" if arguments["tiny"] else ""
    tiny += "" if arguments["work"] == 1 else f" **A first look with {arguments['work']:g} of the work.**"
    measured = [one for one in document["contestants"] if one["disk_us"]]
    disks = ", ".join(f"{one['name']} {one['disk_us']['paced append']['median']:.0f}" for one in measured)
    return [
        f"{document['begun']}, rounds: {arguments['rounds']}, in {document['seconds'] / 60:.0f} minutes; {machine['cores']} cores "
        f"({machine['processor']}), Linux {machine['kernel']}, Python {machine['python']}; load average "
        f"{document['load']['start']:.1f} at the start, {document['load']['end']:.1f} at the end.{tiny} "
        "Servers and clients share this machine. Median (quartiles).",
        "",
        f"The disk's own fdatasync at the end of a growing file, measured between the cells of each, median in us: {disks}.",
    ]


def _group(group: Group, contestants: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["", *(column.head for column in group.columns), "an acknowledgement means"]
    rows = [
        [one["name"], *(_figure(column, one) for column in group.columns), one.get("promise", MISSING)]
        for one in contestants
        if any(column.cell in one["cells"] or _failed(column.cell, one) for column in group.columns)
    ]
    if not rows:
        return []
    ruler = ["---", *("---:" for _ in group.columns), "---"]
    return [f"## {group.title}", "", group.note, "", *("| " + " | ".join(row) + " |" for row in (head, ruler, *rows)), ""]


def _figure(column: Column, one: Mapping[str, Any]) -> str:
    figure = one["cells"].get(column.cell, {}).get(column.metric)
    if figure is None:
        return NO_VALUES if _failed(column.cell, one) else MISSING
    return column.write(figure) + (" †" if _failed(column.cell, one) else "")


def _failed(cell: str, one: Mapping[str, Any]) -> bool:
    """Not in every round: a figure then says less."""
    return any(f", {cell}: " in failure for failure in one["failures"])
