"""The result as an SVG picture: a panel for each thing that is asked most, a bar for each contestant, a line from quartile to quartile.

Written by hand: no library is needed to look at it or to make it. The axis is logarithmic where the contestants are far apart (the
panel says so). Colours are readable on white and on black.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from report import Spread, short

from compare.table import spread_of

WIDTH, PANEL, COLUMNS = 1140, 380, 3
NAMES = 104  # room for the names, left of the bars
VALUES = 62  # room for the figures, right of them
BAR, STEP, HEAD, FOOT = 16, 24, 46, 18
FAR_APART = 20.0
COLOURS = ("#2f7ed8", "#c4792a", "#d9a441", "#5b9a68", "#9a6bb0")
STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:12px;fill:#555}.title{font-weight:600;font-size:13px}.small{font-size:11px}"
    ".axis{stroke:#999;stroke-width:1}.quartiles{stroke:#333;stroke-width:1.5}"
    "@media (prefers-color-scheme:dark){text{fill:#bbb}.quartiles{stroke:#eee}}"
)


class Panel(NamedTuple):
    """One figure of all contestants."""

    title: str
    unit: str
    cell: str
    metric: str
    higher_is_better: bool


PANELS = (
    Panel("One message at a time, p50", "ms", "lone", "p50_ms", False),
    Panel("Publish 1 KiB, 1 producer", "msg/s", "publish", "1 KiB msg/s", True),
    Panel("Publish 1 KiB, 4 producers", "msg/s", "producers", "msg/s", True),
    Panel("Drain, 1 consumer", "msg/s", "drain", "1 msg/s", True),
    Panel("End to end", "msg/s", "end_to_end", "msg/s", True),
    Panel("Latency at 2,000 msg/s, p99", "ms", "latency", "p99_ms", False),
    Panel("Failover, gap", "ms", "failover", "gap_ms", False),
    Panel("Memory with 100,000 queued", "MiB", "memory", "stored_MiB", False),
    Panel("Server CPU per message, end to end", "us", "end_to_end", "server_us", False),
)


def svg(document: Mapping[str, Any]) -> str:
    """The whole picture; panels without a figure are left out."""
    contestants = document["contestants"]
    panels = [panel for panel in PANELS if any(_figure(panel, one) for one in contestants)]
    height = HEAD + len(contestants) * STEP + FOOT
    lines = -(-len(panels) // COLUMNS)
    parts = []
    for at, panel in enumerate(panels):
        x, y = at % COLUMNS * PANEL, at // COLUMNS * height
        parts += [f'<g transform="translate({x},{y})">', *_panel(panel, contestants), "</g>"]
    total = max(1, lines) * height + FOOT
    machine = document["machine"]
    words = f"{document['begun']}, rounds: {document['arguments']['rounds']}, {machine['cores']} cores; median, line: quartiles"
    words += "; a tiny run without meaning" if document["arguments"]["tiny"] else ""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" role="img">',
            f"<title>zmqha and others</title><style>{STYLE}</style>",
            *parts,
            f'<text class="small" x="8" y="{total - 6}">{escape(words)}</text>',
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, contestants: Sequence[Mapping[str, Any]]) -> list[str]:
    figures = [_figure(panel, one) for one in contestants]
    scale = _Scale([figure for figure in figures if figure])
    better = "more is better" if panel.higher_is_better else "less is better"
    kind = ", logarithmic" if scale.logarithmic else ""
    foot = HEAD + len(contestants) * STEP - (STEP - BAR)
    lines = [
        f'<text class="title" x="8" y="18">{escape(panel.title)}</text>',
        f'<text class="small" x="8" y="34">{escape(f"{panel.unit}, {better}{kind}")}</text>',
        f'<line class="axis" x1="{NAMES}" y1="{HEAD - 4}" x2="{NAMES}" y2="{foot + 4}"/>',
    ]
    for at, (one, figure) in enumerate(zip(contestants, figures, strict=True)):
        y = HEAD + at * STEP
        middle = y + BAR / 2
        lines.append(f'<text x="{NAMES - 6}" y="{middle + 4}" text-anchor="end">{escape(one["name"])}</text>')
        if figure is None:
            lines.append(f'<text class="small" x="{NAMES + 6}" y="{middle + 4}">no figure</text>')
            continue
        length, low, high = scale.at(figure.median), scale.at(figure.q1), scale.at(figure.q3)
        lines.append(
            f'<rect x="{NAMES}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{COLOURS[at % len(COLOURS)]}"/>'
        )
        if figure.count > 1:
            lines.append(f'<line class="quartiles" x1="{NAMES + low:.1f}" y1="{middle}" x2="{NAMES + high:.1f}" y2="{middle}"/>')
        lines.append(f'<text x="{NAMES + max(length, high) + 6:.1f}" y="{middle + 4}">{short(figure.median)}</text>')
    return lines


def _figure(panel: Panel, one: Mapping[str, Any]) -> Spread | None:
    found = one["cells"].get(panel.cell, {}).get(panel.metric)
    return spread_of(found) if found else None


class _Scale:
    """From values to lengths."""

    def __init__(self, figures: Sequence[Spread]) -> None:
        ends = [value for figure in figures for value in (figure.median, figure.q1, figure.q3) if value > 0] or [1.0]
        self._most = max(ends)
        self.logarithmic = self._most / min(ends) > FAR_APART
        self._least = 10 ** math.floor(math.log10(min(ends)) - 0.3) if self.logarithmic else 0.0

    def at(self, value: float) -> float:
        """In the picture's units; never less than a hair, so that a bar is seen."""
        if self.logarithmic:
            share = math.log(max(value, self._least) / self._least) / math.log(self._most / self._least)
        else:
            share = value / self._most
        return max(1.0, share * (PANEL - NAMES - VALUES))
