"""Results as text: a table with its title in the top rule, tab-separated values, or JSON. Knows nothing of what it shows."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A heading; numbers stand right."""

    heading: str
    right: bool = False


Row = Sequence[object]


def table(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Plus, dash and bar; None is an empty cell. Ends without a newline."""
    cells = [[column.heading for column in columns], *([printable(_plain(value)) for value in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    title = printable(title)
    missing = len(title) + 4 - (sum(widths) + 3 * len(widths) + 1)
    widths[-1] += max(0, missing)
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    top = f"+ {title} {rule[len(title) + 3 :]}" if title else rule
    head, *body = [_line(row, widths, columns) for row in cells]
    return "\n".join([top, head, rule, *body, *([rule] if body else [])])


def counted(number: int, noun: str) -> str:
    """``1 round``, ``2 rounds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tsv(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """One line per row, headings first; tabs and line ends inside a cell become spaces."""
    lines = [[column.heading for column in columns], *([_plain(value) for value in row] for row in rows)]
    return "\n".join("\t".join(" ".join(cell.split()) for cell in line) for line in lines)


def as_json(value: Any) -> str:
    """Field names are those of the wire; stable."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _line(row: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    aligned = (
        cell.rjust(width) if column.right else cell.ljust(width) for cell, width, column in zip(row, widths, columns, strict=True)
    )
    return "| " + " | ".join(aligned) + " |"


def _plain(value: object) -> str:
    if value is None:
        return ""
    return value.hex() if isinstance(value, bytes) else str(value)


def printable(text: str) -> str:
    """A server's words must not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
