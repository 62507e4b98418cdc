"""What happened when, in words, and which role each server had: from the servers' log lines, the clients and the demo itself. Pure."""

from dataclasses import dataclass, field
from typing import NamedTuple

from zmqha.cli.demo.server import LogEvent

SETTLE_S = 0.15  # log files are read a little later than clients report; lines are shown in the order of their moments
ROLES = {
    "ha.active": "active", "ha.standalone": "alone", "ha.passive": "passive", "ha.passive_sync": "copying", "ha.waiting": "waiting",
    "server.start": "waiting", "server.exit": "down",
}  # fmt: skip
SHOWN = {
    "active": "ACTIVE", "alone": "STANDALONE", "passive": "PASSIVE", "copying": "PASSIVE_SYNC", "waiting": "WAITING", "down": "down",
}  # fmt: skip


class Moment(NamedTuple):
    """One line of the timeline. ``kind`` says what it is to programs and to the screen's colours."""

    time: float
    who: str  # a server's name, or "" for the clients and the demo
    kind: str
    text: str


@dataclass
class Timeline:
    """Moments in any order, told in order; roles of each server as (time, role)."""

    moments: list[Moment] = field(default_factory=list)
    roles: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    zero: float | None = None  # what the seconds count from; nothing before it is told
    _told: set[Moment] = field(default_factory=set)

    def add(self, time: float, who: str, kind: str, text: str) -> None:
        """A moment."""
        self.moments.append(Moment(time, who, kind, text))

    def set_role(self, time: float, server: str, role: str) -> None:
        """From now on."""
        self.roles.setdefault(server, []).append((time, role))

    def role(self, server: str, at: float | None = None) -> str:
        """The last one, or the one it had then."""
        fitting = [role for time, role in sorted(self.roles.get(server, ())) if at is None or time <= at]
        return fitting[-1] if fitting else "down"

    def since(self, server: str) -> float:
        """When it came into its present role."""
        return max((time for time, _ in self.roles.get(server, ())), default=0.0)

    def find(self, kind: str, who: str = "") -> Moment | None:
        """The first moment of a kind, of a server if one is named."""
        found = [moment for moment in self.moments if moment.kind == kind and who in ("", moment.who)]
        return min(found, default=None)

    def release(self, now: float) -> list[Moment]:
        """What can be told now and was not yet, in order; at the end of the run pass infinity."""
        if self.zero is None:
            return []
        due = sorted(each for each in self.moments if self.zero <= each.time <= now - SETTLE_S and each not in self._told)
        self._told.update(due)
        return due

    def told(self) -> list[Moment]:
        """Everything that was released."""
        return sorted(self._told)

    def hear(self, event: LogEvent) -> None:
        """A server's log line: its role, and a moment if people care."""
        role = ROLES.get(event.name)
        if role:
            self.set_role(event.time, event.server, role)
        line = _words(event, self)
        if line:
            self.add(event.time, event.server, *line)
        epoch = event.fields.get("epoch")
        if isinstance(epoch, int) and event.name.startswith("ha."):
            self.epochs[event.server] = epoch


def _words(event: LogEvent, timeline: Timeline) -> tuple[str, str] | None:
    """Kind and text of a log event."""
    fields = event.fields
    match event.name:
        case "ha.death_notice":
            if timeline.find("notice", event.server):
                return None  # it is sent several times
            return "notice", f"{fields.get('peer')}'s watcher reports its death, asking the gateway (stand-in)"
        case "ha.claim":
            why = "" if timeline.find("notice", event.server) else f": {fields.get('reason')}"
            return "claim", f"takes over, epoch {timeline.epochs.get(event.server, 0)} → {fields.get('epoch')}{why}"
        case "ha.standalone":
            return "standalone", "STANDALONE, serves alone"
        case "ha.active":
            return "active", f"ACTIVE, confirms wait for both disks again: {fields.get('reason')}"
        case "ha.passive":
            return "passive", "PASSIVE, in sync"
        case "ha.passive_sync":
            return "copying", f"PASSIVE_SYNC, {fields.get('reason')}"
        case "ha.waiting":
            return "waiting", f"WAITING: {fields.get('reason')}"
        case "ha.drop_peer" | "ha.gap" | "ha.right_lost":
            return "note", f"{event.name.removeprefix('ha.').replace('_', ' ')} {fields.get('reason', '')}".strip()
    return None
