"""The report of a run: one JSON document with everything that was measured, from which the chart is drawn."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import zmqha
from zmqha.cli import table
from zmqha.cli.demo_chart import chart
from zmqha.cli.demo_ledger import Count, Ledger, Pause, longest_pause, per_bin
from zmqha.cli.demo_load import BODY_BYTES, PRODUCERS
from zmqha.cli.demo_server import LogEvent
from zmqha.cli.demo_timeline import Timeline
from zmqha.cli.doctor import flush_times
from zmqha.errors import OperationFailed

FORMAT = 1  # of the JSON document; raised when a field changes its meaning
BIN_S = 0.1
ENLARGED_S = (-0.1, 0.4)  # what the chart enlarges around the kill
JSON_NAME, SVG_NAME = "zmqha-demo.json", "zmqha-demo.svg"


def document(
    *,
    story: str,
    settings: dict[str, Any],
    place: Path,
    servers: dict[str, Any],
    timeline: Timeline,
    ledger: Ledger,
    began: float,
    ended: float,
    stores: dict[str, Any],
    log: list[LogEvent],
    faults: list[str],
) -> dict[str, Any]:
    """Times are seconds since the kill (or the cut), rounded to 0.1 ms; ``began`` and ``ended`` bound the load."""
    zero = timeline.zero if timeline.zero is not None else began

    def since(moment: float) -> float:
        return round(moment - zero, 4)

    confirmed = [one.time for one in ledger.confirmed]
    delivered = [one.time for one in ledger.delivered]
    bins = max(1, int((ended - began) / BIN_S) + 1)
    near = {
        name: [since(moment) for moment in moments if ENLARGED_S[0] <= moment - zero <= ENLARGED_S[1]]
        for name, moments in (("acknowledged", confirmed), ("delivered", delivered))
    }
    count = ledger.count()
    return {
        "format": FORMAT,
        "story": story,
        "ok": not faults,
        "faults": faults,
        "zmqha": zmqha.__version__,
        "settings": {**settings, "body_bytes": BODY_BYTES, "producers": PRODUCERS, "gateway": "stand-in"},
        "machine": machine(place),
        "servers": servers,
        "timeline": [
            {"seconds": since(moment.time), "server": moment.who or None, "kind": moment.kind, "text": moment.text}
            for moment in timeline.told()
        ],
        "roles": {
            server: [[since(time), role] for time, role in sorted(roles)] for server, roles in sorted(timeline.roles.items())
        },
        "counts": count.as_fields(),
        "pauses": {
            name: {"start": since(pause.start), "seconds": round(pause.seconds, 4)}
            for name, pause in (("sender", longest_pause(confirmed)), ("receiver", longest_pause(delivered)))
        },
        "stores": stores,
        "load": {"began": since(began), "ended": since(ended)},
        "per_bin": {
            "start": since(began), "seconds": BIN_S,
            "acknowledged": per_bin(confirmed, began, BIN_S, bins), "delivered": per_bin(delivered, began, BIN_S, bins),
        },
        "near": near,
        "log": [{"seconds": since(event.time), "server": event.server, "event": event.name, **event.fields} for event in log],
    }  # fmt: skip


def machine(place: Path) -> dict[str, Any]:
    """Where it was measured; the flush time is that of the disk under the two stores."""
    median_ms, worst_ms = flush_times(place)
    return {
        "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release(), "architecture": platform.machine(),
        "python": platform.python_version(), "flush_ms": {"median": round(median_ms, 3), "worst": round(worst_ms, 3)},
        "free_bytes": shutil.disk_usage(place).free,
    }  # fmt: skip


def check_place(directory: Path) -> None:
    """Before a run of many seconds: can the report be written there?"""
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise OperationFailed(
            f"cannot write the report into {directory}", cause="no such directory, or not writable", cure="--report DIR or --no-report"
        )


def write(directory: Path, report: dict[str, Any]) -> tuple[Path, Path]:
    """Both files; each replaces its older one at once."""
    written = []
    for name, text in ((JSON_NAME, table.as_json(report) + "\n"), (SVG_NAME, chart(report))):
        draft = directory / f".{name}.{os.getpid()}"
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(directory / name)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise OperationFailed(
                f"cannot write {directory / name}", cause=error.strerror or str(error), cure="--report DIR or --no-report"
            ) from error
        written.append(directory / name)
    return written[0], written[1]


def sentences(count: Count, sender: Pause, receiver: Pause) -> list[str]:
    """The counted result, for people."""
    return [
        f"sent {count.sent:,}   acknowledged {count.acknowledged:,}   received {count.received:,}   lost {count.lost:,}   "
        f"seen twice {count.seen_twice:,}" + (" (marked redelivered)" if count.seen_twice and not count.unmarked else ""),
        f"longest pause: sender {sender.seconds:.3f} s, receiver {receiver.seconds:.3f} s",
    ]
