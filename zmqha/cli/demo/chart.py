"""The chart of a run as SVG, drawn from its JSON document alone: who served, confirms per 100 ms, and the takeover enlarged."""

from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 960, 64, 24
BANDS_TOP, BAND, BAND_STEP = 92, 16, 24
BARS_TOP, BARS_HEIGHT = 168, 170
NEAR_TOP = 400
NEAR_STEP, NEAR_S = 19, 0.35
_TAKEOVER = {
    "kill": "bad", "lost": "bad", "notice": "", "gateway": "", "claim": "", "standalone": "", "acknowledged": "good",
    "delivered": "good",
}  # fmt: skip
_TITLES = {"kill": "The server that serves is killed (kill -9)", "cut-link": "The link between the two servers is cut"}
_ROLE_NAMES = {
    "active": "serves, both disks", "alone": "serves alone", "passive": "follows, in sync", "copying": "copies", "waiting": "waits",
    "down": "killed",
}  # fmt: skip
_MARKS = {"kill": "kill -9", "cut": "link cut", "standalone": "takeover", "mend": "link mended", "sync": "in sync again"}
_LIGHT = {
    "card": "#ffffff", "ink": "#1b1f24", "soft": "#57606a", "line": "#d0d7de", "a": "#2f6fde", "b": "#e07b1a", "bad": "#cf222e",
    "good": "#1a7f37",
}  # fmt: skip
_DARK = {
    "card": "#161b22", "ink": "#e6edf3", "soft": "#9aa4af", "line": "#3b434d", "a": "#5b93f5", "b": "#e8924a", "bad": "#ff7b72",
    "good": "#56d364",
}  # fmt: skip
_FIXED = """
text{font:12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
.title{font-size:18px;font-weight:600} .strong{font-weight:600} .end{text-anchor:end} .mid{text-anchor:middle}
.passive{opacity:.32} .copying{opacity:.2} .waiting{opacity:.1} .down{opacity:.14}
.halo{paint-order:stroke;stroke-width:4px;stroke-linejoin:round}
.mark,.calm{stroke-width:1.5;stroke-dasharray:4 3} .card{stroke-width:1} text.on{fill:#fff}
"""
_COLOURS = """
.card{{fill:{card};stroke:{line}}} text{{fill:{ink}}} .halo{{stroke:{card}}} text.soft,rect.nobody{{fill:{soft}}} .grid{{stroke:{line}}}
.A{{fill:{a}}} .B{{fill:{b}}} .down,.bad,text.bad{{fill:{bad}}} .good,text.good{{fill:{good}}}
.mark{{stroke:{bad}}} .calm{{stroke:{good}}}
"""
_STYLE = f"{_FIXED}{_COLOURS.format(**_LIGHT)}@media (prefers-color-scheme:dark){{{_COLOURS.format(**_DARK)}}}"


def chart(report: dict[str, Any]) -> str:
    """A whole SVG document."""
    steps = len(_steps(report)) if report["story"] == "kill" else 0
    near = list(_near(report)) if steps else []
    height = NEAR_TOP + 92 + NEAR_STEP * steps if near else NEAR_TOP + 6
    body = [*_head(report), *_marks(report), *_bands(report), *_bars(report), *near, *_foot(report, height)]
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    card = f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>'
    title = f"<title>{escape(_TITLES[report['story']])}</title>"
    return "\n".join([opening, f"<style>{_STYLE}</style>", title, card, *body, "</svg>", ""])


class Axis:
    """Seconds to pixels."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, max(end, start + 0.001)

    def x(self, seconds: float) -> float:
        """Inside the frame."""
        inside = min(max(seconds, self.start), self.end)
        return round(LEFT + (inside - self.start) / (self.end - self.start) * (WIDTH - LEFT - RIGHT), 2)


def _axis(report: dict[str, Any]) -> Axis:
    bins = report["per_bin"]
    return Axis(bins["start"], bins["start"] + max(1, len(bins["acknowledged"])) * bins["seconds"])


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(0.0, width):.2f}" height="{max(0.0, height):.2f}" class="{kind}">{inner}</rect>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{kind}"/>'


def _head(report: dict[str, Any]) -> Iterator[str]:
    counts, settings, machine = report["counts"], report["settings"], report["machine"]
    yield _text(24, 34, _TITLES[report["story"]], "title")
    verdict = f"{counts['acknowledged']:,} messages acknowledged, {counts['lost']:,} lost"
    yield _text(WIDTH - RIGHT, 34, verdict, f"title end {'good' if report['ok'] else 'bad'}")
    yield _text(
        24, 58,
        f"zmqha {report['zmqha']}, two servers and {settings['producers']} senders on one machine: {settings['rate']:,} messages/s "
        f"of {settings['body_bytes']:,} B; {machine['cpus']} CPUs, flush {machine['flush_ms']['median']:.1f} ms, "
        f"Python {machine['python']}",
        "soft",
    )  # fmt: skip


def _bands(report: dict[str, Any]) -> Iterator[str]:
    axis = _axis(report)
    for row, (server, roles) in enumerate(report["roles"].items()):
        top = BANDS_TOP + row * BAND_STEP
        yield _text(LEFT - 12, top + 13, server, "end strong")
        ends = [start for start, _ in roles[1:]] + [axis.end]
        for (start, role), end in zip(roles, ends, strict=True):
            if end <= axis.start or start >= axis.end or role not in _ROLE_NAMES:
                continue
            x, width = axis.x(start), axis.x(end) - axis.x(start)
            words = _ROLE_NAMES[role]
            yield _rect(x, top, width, BAND, f"{role} {'' if role == 'down' else server}", f"{server} {words}")
            if width > 7.5 * len(words):
                yield _text(round(x + width / 2, 1), top + 12.5, words, "mid on" if role in ("active", "alone") else "mid")


def _bars(report: dict[str, Any]) -> Iterator[str]:
    axis, bins = _axis(report), report["per_bin"]
    top_count = max([1, *bins["acknowledged"]])
    scale = BARS_HEIGHT / (top_count * 1.12)
    floor = BARS_TOP + BARS_HEIGHT
    step = _round_step(top_count / 3)
    for value in range(0, int(top_count * 1.1) + 1, step):
        y = round(floor - value * scale, 1)
        yield _line(LEFT, y, WIDTH - RIGHT, y, "grid")
        yield _text(LEFT - 8, y + 4, f"{value:,}", "end soft")
    for number, count in enumerate(bins["acknowledged"]):
        start = bins["start"] + number * bins["seconds"]
        server = _who_served(report, start + bins["seconds"] / 2)
        x, width = axis.x(start), axis.x(start + bins["seconds"]) - axis.x(start)
        title = f"{start:.1f} s: {count:,} confirmed"
        yield _rect(x + 0.6, floor - count * scale, width - 1.2, count * scale, server or "nobody", title)
    yield _text(
        LEFT, BARS_TOP - 8, f"messages confirmed per {bins['seconds'] * 1000:.0f} ms, coloured by who served", "soft halo"
    )
    for second in range(int(axis.start) - 1, int(axis.end) + 2):
        if axis.start <= second <= axis.end:
            yield _text(axis.x(second), floor + 18, f"{second} s", "mid soft")


def _who_served(report: dict[str, Any], at: float) -> str:
    for server, roles in report["roles"].items():
        current = [role for time, role in roles if time <= at]
        if current and current[-1] in ("active", "alone"):
            return str(server)
    return ""


def _marks(report: dict[str, Any]) -> Iterator[str]:
    axis, y = _axis(report), BARS_TOP + BARS_HEIGHT + 34
    taken = -1e9
    for moment in sorted(report["timeline"], key=lambda each: each["seconds"]):
        label, at = _MARKS.get(moment["kind"], ""), moment["seconds"]
        if not label or not axis.start <= at <= axis.end:
            continue
        x, bad = axis.x(at), moment["kind"] in ("kill", "cut")
        yield _line(x, BANDS_TOP - 6, x, BARS_TOP + BARS_HEIGHT, "mark" if bad else "calm")
        text = f"{label} {'' if bad else f'{at:.2f} s'}".strip()
        place = max(x - 3.2 * len(text), taken)  # side by side where they are close
        taken = place + 7 * len(text) + 10
        yield _text(round(place, 1), y, text, "strong bad" if bad else "strong good")


def _steps(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What belongs to the takeover itself."""
    return [each for each in report["timeline"] if each["kind"] in _TAKEOVER and each["seconds"] <= NEAR_S]


def _near(report: dict[str, Any]) -> Iterator[str]:
    """Every confirm and every delivery around the kill as a tick, and below what happened when."""
    steps, whole = _steps(report), _axis(report)
    axis = Axis(-0.05, max(0.12, max(moment["seconds"] for moment in steps) * 1.4))
    times = (whole.end - whole.start) / (axis.end - axis.start)
    yield _line(24, NEAR_TOP - 22, WIDTH - RIGHT, NEAR_TOP - 22, "grid")
    yield _text(LEFT, NEAR_TOP, f"the takeover, {times:.0f} times enlarged: every message is a stroke", "soft")
    for row, (name, words) in enumerate((("acknowledged", "confirmed"), ("delivered", "received"))):
        y = NEAR_TOP + 12 + row * 18
        yield _text(24, y + 11, words)
        for moment in report["near"][name]:
            if axis.start <= moment <= axis.end:
                yield _rect(max(axis.x(moment), 92), y, 1.4, 14, _who_served(report, moment) or "nobody")
    places = [(axis.x(moment["seconds"]), NEAR_TOP + 72 + NEAR_STEP * number) for number, moment in enumerate(steps)]
    for x, y in places:
        yield _line(x, NEAR_TOP + 8, x, y - 4, "grid")
    for moment, (x, y) in zip(steps, places, strict=True):
        yield f'<circle cx="{x}" cy="{y - 4}" r="4" class="{_TAKEOVER[moment["kind"]] or moment["server"] or "nobody"}"/>'
        who = f"{moment['server']}: " if moment["server"] else ""
        words = f"{moment['seconds'] * 1000:.0f} ms   {who}{moment['text']}"
        yield _text(x + 10, y, words, "halo") if x < WIDTH * 0.6 else _text(x - 10, y, words, "halo end")


def _foot(report: dict[str, Any], height: int) -> Iterator[str]:
    pauses = report["pauses"]
    yield _text(
        24, height - 16,
        f"longest pause: sender {pauses['sender']['seconds']:.3f} s, receiver {pauses['receiver']['seconds']:.3f} s. "
        f"The gateway is a stand-in; both servers share one machine.",
        "soft",
    )  # fmt: skip
    yield _text(WIDTH - RIGHT, height - 16, f"seconds since the {'kill' if report['story'] == 'kill' else 'cut'}", "soft end")


def _round_step(wanted: float) -> int:
    """1, 2 or 5 times a power of ten, at least 1."""
    power = 1
    while power * 10 <= wanted:
        power *= 10
    return next((factor * power for factor in (1, 2, 5) if factor * power >= wanted), 10 * power)
