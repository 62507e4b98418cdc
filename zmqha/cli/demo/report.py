"""The report of a run: one JSON document with everything that was measured, the chart drawn from it, and its summary in words."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmqha
from zmqha.cli import table
from zmqha.cli.demo.chart import chart
from zmqha.cli.demo.ledger import Pause, longest_pause, per_bin
from zmqha.cli.demo.load import BODY_BYTES, PRODUCERS
from zmqha.cli.demo.pair import NAMES
from zmqha.cli.demo.screen import LEGEND, Line, picture
from zmqha.cli.demo.stage import Settings, Stage
from zmqha.cli.doctor import flush_times
from zmqha.errors import OperationFailed

FORMAT = 1  # of the JSON document; raised when a field changes its meaning
BIN_S = 0.1
NEAR_S = (-0.05, 0.35)  # around the kill every single confirm and delivery is kept; the chart enlarges this
JSON_NAME, SVG_NAME = "zmqha-demo.json", "zmqha-demo.svg"


def heading(settings: Settings) -> list[Line]:
    """What is going to happen."""
    act = "cut the link between them" if settings.cut_link else "pull the plug"
    relay = "The peer link runs through a relay of the demo, which can be cut; the servers' second path, the LAN, stays whole."
    return [
        Line(f"zmqha demo — two servers on this machine, {settings.rate:,} messages/s of 1 KiB, then we {act}", "bold"),
        Line("The gateway is a stand-in (this demo listens in its place); two real machines ask their network's router.", "dim"),
        *([Line(relay, "dim")] if settings.cut_link else []),
        Line(""),
    ]


def summary(stage: Stage, document: dict[str, Any], files: Sequence[Path]) -> list[Line]:
    """The picture, where there was none yet, and the counted result."""
    counts, pauses, stores = document["counts"], document["pauses"], document["stores"]
    marked = " (marked redelivered)" if counts["seen_twice"] and not counts["unmarked"] else ""
    drawn = picture(stage.scene) if stage.began and not stage.screen.draws else []
    lines = [Line(""), *drawn, *([Line(f"     {LEGEND}", "dim"), Line("")] if stage.began else [])]
    lines.append(Line(
        f"sent {counts['sent']:,}   acknowledged {counts['acknowledged']:,}   received {counts['received']:,}   "
        f"lost {counts['lost']:,}   seen twice {counts['seen_twice']:,}{marked}",
        "bold green" if document["ok"] else "bold red",
    ))  # fmt: skip
    longest = (f"{who} {pauses[who]['seconds']:.3f} s (at {pauses[who]['start']:.3f} s)" for who in ("sender", "receiver"))
    lines.append(Line(f"longest pause: {', '.join(longest)}"))
    if stores.get("equal"):
        epoch, txn, chain = (stores[NAMES[0]][key] for key in ("epoch", "txn", "chain"))
        lines.append(Line(f"both stores are equal: epoch {epoch}, transaction {txn:,}, chain digest {chain}"))
    if files:
        lines.append(Line(f"report: {', '.join(map(str, files))}   (seed {document['settings']['seed']})"))
    return lines


def farewell(settings: Settings) -> list[Line]:
    """What to do next; only what exists."""
    other = ("zmqha demo", "kill the server that serves") if settings.cut_link else (
        "zmqha demo --cut-link", "cut only the link between the two: nobody takes over, nothing is lost")  # fmt: skip
    steps = (
        ("zmqha demo --keep", "leave the pair running, to be tried by hand"), other,
        ("zmqha init edge-a edge-b", "configuration and keys for your two machines"),
    )  # fmt: skip
    return [Line(""), *(Line(f"{'' if number else 'Next:':7}{what:26}{why}") for number, (what, why) in enumerate(steps))]


def document(stage: Stage) -> dict[str, Any]:
    """Times are seconds since the kill or the cut (if it never came to that: since the load or the servers began)."""
    timeline, ledger, pair, began = stage.timeline, stage.load.ledger, stage.pair, stage.began
    zero = timeline.zero or began or min((event.time for event in pair.log), default=0.0)

    def since(moment: float) -> float:
        return round(moment - zero, 4)

    def pause(moments: list[float]) -> dict[str, float]:
        found: Pause = longest_pause(moments)
        return {"start": since(found.start) if found.start else 0.0, "seconds": round(found.seconds, 4)}

    series = {"acknowledged": [one.time for one in ledger.confirmed], "delivered": [one.time for one in ledger.delivered]}
    bins = int((stage.ended - began) / BIN_S) if stage.ended else 0
    settings = stage.settings
    return {
        "format": FORMAT,
        "story": "cut-link" if settings.cut_link else "kill",
        "ok": not stage.faults,
        "faults": stage.faults,
        "zmqha": zmqha.__version__,
        "settings": {
            "seed": settings.seed, "rate": settings.rate, "seconds": settings.seconds, "body_bytes": BODY_BYTES,
            "producers": PRODUCERS, "curve": True, "gateway": "stand-in",
        },
        "machine": machine(pair.directory),
        "servers": {name: {"endpoint": pair.endpoints[name], "pid": server.pid} for name, server in pair.servers.items()},
        "timeline": [
            {"seconds": since(moment.time), "server": moment.who or None, "kind": moment.kind, "text": moment.text}
            for moment in timeline.told()
        ],
        "roles": {server: [[since(time), role] for time, role in sorted(roles)] for server, roles in sorted(timeline.roles.items())},
        "counts": ledger.count().as_fields(),
        "pauses": {"sender": pause(series["acknowledged"]), "receiver": pause(series["delivered"])},
        "stores": stage.stores,
        "load": {"began": since(began), "ended": since(stage.ended)} if stage.ended else {},
        "per_bin": {
            "start": since(began) if began else 0.0, "seconds": BIN_S,
            **{name: per_bin(moments, began, BIN_S, bins) for name, moments in series.items()},
        },
        "near": {
            name: sorted(since(moment) for moment in moments if NEAR_S[0] <= moment - zero <= NEAR_S[1])
            for name, moments in series.items()
        },
        "log": [{"seconds": since(event.time), "server": event.server, "event": event.name, **event.fields} for event in pair.log],
    }  # fmt: skip


def machine(place: Path) -> dict[str, Any]:
    """Where it was measured; the flush time is that of the disk under the two stores."""
    median_ms, worst_ms = flush_times(place)
    return {
        "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release(), "architecture": platform.machine(),
        "python": platform.python_version(), "flush_ms": {"median": round(median_ms, 3), "worst": round(worst_ms, 3)},
    }  # fmt: skip


def check_place(directory: Path) -> None:
    """Before a run of many seconds: can the report be written there?"""
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise OperationFailed(
            f"cannot write the report into {directory}",
            cause="there is no such directory, or it is not writable",
            cure="--report DIR, or --no-report",
        )


def write(directory: Path, report: dict[str, Any]) -> tuple[Path, ...]:
    """Both files; each appears whole."""
    written = []
    for name, text in ((JSON_NAME, table.as_json(report) + "\n"), (SVG_NAME, chart(report))):
        draft = directory / f".{name}.{os.getpid()}"
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(directory / name)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise OperationFailed(
                f"cannot write {directory / name}", cause=error.strerror or str(error), cure="--report DIR, or --no-report"
            ) from error
        written.append(directory / name)
    return tuple(written)
