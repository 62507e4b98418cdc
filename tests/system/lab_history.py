"""Reads the histories that ``lab_load`` writes, and judges them: nothing confirmed is lost, and no two servers served at once."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

SERVING = ("ACTIVE", "STANDALONE")
STALE_S = 0.3  # between two samples further apart than this nothing is known
ONE_DISK = 1


class Sample(NamedTuple):
    """One answer of one server about itself."""

    asked: float
    answered: float
    row: dict[str, Any]

    @property
    def state(self) -> str:
        return str(self.row["state"])

    @property
    def epoch(self) -> int:
        return int(self.row["epoch"])

    @property
    def serves(self) -> bool:
        return self.state in SERVING


class Confirm(NamedTuple):
    """A CONFIRM as it arrived at a client."""

    at: float
    epoch: tuple[int, int]
    durability: int


class Span(NamedTuple):
    """A time in which a server certainly was in a serving state."""

    begin: float
    end: float
    state: str
    epoch: int


@dataclass
class History:
    """One file, read as it grows."""

    file: Path
    sent: dict[int, float] = field(default_factory=dict)
    confirmed: dict[int, float] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    confirms: list[Confirm] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    received: list[tuple[str, int]] = field(default_factory=list)
    flagged: set[tuple[str, int]] = field(default_factory=set)  # of these: received with the redelivered flag
    unknown: int | None = None  # sends without outcome at the end; None: not at its end yet
    _at: int = 0
    _rest: str = ""

    def read(self) -> "History":
        """Take what is new."""
        if self.file.exists():
            with self.file.open() as file:
                file.seek(self._at)
                text = self._rest + file.read()
                self._at = file.tell()
            *lines, self._rest = text.split("\n")
            for line in lines:
                self._take(line)
        return self

    def _take(self, line: str) -> None:
        kind, *fields = line.split(" ", 3)
        match kind:
            case "S":
                self.sent[int(fields[1])] = float(fields[0])
            case "C":
                self.confirmed[int(fields[1])] = float(fields[0])
            case "X":
                self.failed[int(fields[1])] = fields[2]
            case "E":
                counter, rest = fields[1], fields[2].split()
                self.confirms.append(Confirm(float(fields[0]), (int(counter), int(rest[0])), int(rest[1])))
            case "W":
                self.samples.append(Sample(float(fields[0]), float(fields[1]), json.loads(fields[2])))
            case "R":
                self.received.append((fields[0], int(fields[1])))
                if fields[2] == "1":
                    self.flagged.add(self.received[-1])
            case "Q":
                self.unknown = int(fields[1]) if fields else 0

    def spans(self) -> Iterator[Span]:
        """When the watched server certainly served: from answer to the next question, as long as both say the same."""
        for before, after in pairwise(self.samples):
            same = (before.state, before.epoch) == (after.state, after.epoch)
            if before.serves and same and after.asked - before.answered < STALE_S:
                yield Span(before.answered, after.asked, before.state, before.epoch)

    def longest_gap(self, begin: float, end: float) -> float:
        """Seconds without a confirm between two moments."""
        times = [begin, *(at for at in sorted(self.confirmed.values()) if begin < at < end), end]
        return max(after - before for before, after in pairwise(times))


def both_serve(first: History, second: History) -> list[str]:
    """Moments at which both servers certainly were in a serving state."""
    found, others = [], list(second.spans())
    at = 0
    for one in first.spans():
        while at < len(others) and others[at].end <= one.begin:
            at += 1
        for other in others[at:]:
            if other.begin >= one.end:
                break
            ms = 1000 * (min(one.end, other.end) - max(one.begin, other.begin))
            found.append(f"{one.state}({one.epoch}) and {other.state}({other.epoch}) for {ms:.0f} ms at {one.begin:.3f}")
    return found


def overlapping_epochs(histories: list[History]) -> list[str]:
    """Epochs whose confirms reached clients in overlapping times."""
    times: dict[tuple[int, int], list[float]] = defaultdict(list)
    for history in histories:
        for confirm in history.confirms:
            times[confirm.epoch].append(confirm.at)
    found = []
    for one, other in combinations(sorted(times), 2):
        if max(times[one]) > min(times[other]) and max(times[other]) > min(times[one]):
            found.append(f"epoch {one[0]} until {max(times[one]):.3f}, epoch {other[0]} from {min(times[other]):.3f}")
    return found


class Verdict(NamedTuple):
    """What the drain says about the histories."""

    confirmed: int
    lost: list[str]
    twice: list[str]
    phantom: list[str]
    disordered: list[str]
    recovered: int  # never confirmed, yet stored: the unknown outcomes are real

    @property
    def clean(self) -> bool:
        return not (self.lost or self.twice or self.phantom or self.disordered)


def judge(producers: dict[str, History], drained: History) -> Verdict:
    """Every confirmed message is there exactly once and in order; nothing is there that nobody sent."""
    seen: dict[str, list[int]] = defaultdict(list)
    for name, seq in drained.received:
        seen[name].append(seq)
    lost, twice, phantom, disordered = [], [], [], []
    confirmed = recovered = 0
    for name, history in producers.items():
        numbers = seen.pop(name, [])
        held = set(numbers)
        confirmed += len(history.confirmed)
        lost += [f"{name} {seq}" for seq in sorted(history.confirmed.keys() - held)]
        phantom += [f"{name} {seq}" for seq in sorted(held - history.sent.keys())]
        recovered += len(held - history.confirmed.keys())
        if len(held) != len(numbers):
            twice += [f"{name} {seq}" for seq in sorted({seq for seq in numbers if numbers.count(seq) > 1})]
        firsts = list(dict.fromkeys(numbers))
        disordered += [f"{name} {b} after {a}" for a, b in pairwise(firsts) if b < a]
    phantom += [f"{name} (unknown producer)" for name in seen]
    return Verdict(confirmed, lost, twice, phantom, disordered, recovered)
