"""How the demo looks: plain lines as they happen, or, on a terminal, a picture that grows. Both show the same text."""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import click

from zmqha.cli.demo.timeline import SHOWN, Moment, Timeline

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

CELLS = 56
GLYPHS = {"active": "█", "alone": "█", "passive": "▒", "copying": "░", "waiting": "·", "down": " "}
LEGEND = "█ serves   ▒ follows, in sync   ░ copies   · waits   ╳ killed"
_SPARKS = " ▁▂▃▄▅▆▇█"
_STYLES = {
    "kill": "bold red", "cut": "bold red", "notice": "yellow", "gateway": "yellow", "claim": "bold yellow", "standalone": "bold green",
    "acknowledged": "green", "delivered": "green", "passive": "bold green", "lost": "red", "mend": "bold",
}  # fmt: skip
_ASCII = str.maketrans({
    "█": "#", "▒": "=", "░": "-", "·": ".", "╳": "X", "→": ">", "▕": "[", "▏": "]", "×": "x", "—": "-", "…": "...",
    **dict(zip("▁▂▃▄▅▆▇", ".,:;+*%", strict=True)),
})  # fmt: skip


class Line(NamedTuple):
    """Text and how a terminal shows it."""

    text: str
    style: str = ""


@dataclass
class Scene:
    """What there is to see now."""

    timeline: Timeline
    header: list[Line] = field(default_factory=list)
    endpoints: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    span: tuple[float, float] | None = None  # of the picture; None: no picture yet
    now: float = 0.0  # the picture is drawn up to here
    killed: tuple[str, float] | None = None
    footer: list[Line] = field(default_factory=list)


class Screen(Protocol):
    """Where a scene is shown. ``draws``: the picture is there already when the run ends."""

    draws: bool

    def open(self) -> None: ...
    def say(self, *lines: Line) -> None: ...
    def introduce(self, scene: Scene) -> None: ...
    def refresh(self, scene: Scene, new: list[Moment]) -> None: ...
    def close(self) -> None: ...


class Silent:
    """For ``--json`` and ``--quiet``."""

    draws = False

    def open(self) -> None:
        """Nothing."""

    def say(self, *lines: Line) -> None:
        """Nothing."""

    def introduce(self, scene: Scene) -> None:
        """Nothing."""

    def refresh(self, scene: Scene, new: list[Moment]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Plain(Silent):
    """Lines, in order, for pipes and files."""

    def say(self, *lines: Line) -> None:
        for line in lines:
            click.echo(printable(line.text.rstrip()))

    def introduce(self, scene: Scene) -> None:
        self.say(*scene.header)

    def refresh(self, scene: Scene, new: list[Moment]) -> None:
        self.say(*(moment_line(moment, scene.timeline) for moment in new))


class Terminal(Silent):
    """The whole scene, drawn again some times a second. rich is loaded here."""

    draws = True

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        self._live: Live | None = None

    def open(self) -> None:
        """Take the lower part of the screen."""
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
        self._live.start()

    def say(self, *lines: Line) -> None:
        for line in lines:
            self._console.print(_rich(line), soft_wrap=True)

    def refresh(self, scene: Scene, new: list[Moment]) -> None:
        if self._live is None:
            self.say(*(moment_line(moment, scene.timeline) for moment in new))
            return
        from rich.console import Group

        told = [moment_line(moment, scene.timeline) for moment in scene.timeline.told()]
        lines = [*(picture(scene) if scene.span else scene.header), Line(""), *told, *scene.footer]
        self._live.update(Group(*(_rich(line) for line in lines)), refresh=True)

    def close(self) -> None:
        """Leave what was drawn last, give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def pick(*, silent: bool) -> Screen:
    """By what stdout is."""
    if silent:
        return Silent()
    return Terminal() if sys.stdout.isatty() and _speaks_utf8() else Plain()


def moment_line(moment: Moment, timeline: Timeline) -> Line:
    """``  0.012 s  B: …``."""
    who = f"{moment.who}: " if moment.who else ""
    return Line(f"{moment.time - (timeline.zero or 0.0):7.3f} s  {who}{moment.text}", _STYLES.get(moment.kind, ""))


def picture(scene: Scene) -> list[Line]:
    """One bar per server: its role over time."""
    lines = []
    for name, endpoint in scene.endpoints.items():
        role = scene.timeline.role(name)
        style = {"active": "green", "alone": "green", "passive": "cyan", "copying": "yellow", "down": "red"}.get(role, "")
        lines.append(Line(f"  {name}  {endpoint}  {bar(scene, name)}  {SHOWN[role]}", style))
    return lines


def bar(scene: Scene, server: str) -> str:
    """The role in the middle of each cell; the cell in which it was killed has a cross."""
    if scene.span is None:
        return " " * CELLS
    start, end = scene.span
    width = (end - start) / CELLS
    roles = sorted(scene.timeline.roles.get(server, ()))
    cells = []
    for cell in range(CELLS):
        begin = start + cell * width
        fitting = [role for time, role in roles if time <= begin + width / 2]
        glyph = GLYPHS[fitting[-1]] if fitting and begin <= scene.now else " "
        if scene.killed and scene.killed[0] == server and begin <= scene.killed[1] < begin + width:
            glyph = "╳"
        cells.append(glyph)
    return "".join(cells)


def progress(share: float, cells: int = 10) -> str:
    """``▕█████     ▏  50 %``."""
    full = max(0, min(cells, round(share * cells)))
    return f"▕{'█' * full}{' ' * (cells - full)}▏ {share:4.0%}".replace("%", " %")


def sparkline(counts: list[int]) -> str:
    """Higher is more."""
    top = max(counts, default=0) or 1
    return "".join(_SPARKS[min(8, -(-8 * count // top))] for count in counts)


def printable(text: str) -> str:
    """What the output's encoding cannot say becomes ASCII."""
    return text if _speaks_utf8() else text.translate(_ASCII).encode("ascii", "replace").decode()


def _speaks_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "") == "utf8"


def _rich(line: Line) -> "Text":
    from rich.text import Text

    return Text(line.text, style=line.style, no_wrap=True, overflow="ellipsis")
