"""What was sent, confirmed and delivered, each with its moment, and what that comes to. Pure: the moments are given."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

Key = tuple[int, int]  # producer, number


class Confirmed(NamedTuple):
    """The confirm of one message."""

    time: float
    key: Key
    both_disks: bool


class Delivered(NamedTuple):
    """One delivery of one message; the same may come again."""

    time: float
    key: Key
    offset: int  # where the server has stored it
    redelivered: bool
    intact: bool


class Pause(NamedTuple):
    """Nothing happened for ``seconds`` from ``start`` on."""

    start: float
    seconds: float


@dataclass(frozen=True)
class Count:
    """The result of a run; everything but the first three and ``seen_twice`` should be 0."""

    sent: int
    acknowledged: int
    received: int
    lost: int  # acknowledged, never received
    seen_twice: int  # deliveries beyond the first
    unmarked: int  # of these, not marked redelivered
    stored_twice: int  # the same message at two places of the queue
    damaged: int  # the body is another one
    unanswered: int  # sent, neither acknowledged nor refused when the run ended
    refused: int
    one_disk: int  # acknowledged while one server ran alone
    first_lost: tuple[Key, ...] = ()

    def faults(self) -> list[str]:
        """Why the run has failed; empty if it has not."""
        named = (
            (self.lost, "acknowledged but never received"), (self.stored_twice, "stored twice"), (self.damaged, "changed on the way"),
            (self.unmarked, "seen twice without the mark"), (self.unanswered, "never answered"), (self.refused, "refused"),
        )  # fmt: skip
        faults = [f"{number} {what}" for number, what in named if number]
        return faults or ([] if self.acknowledged else ["nothing was acknowledged"])

    def as_fields(self) -> dict[str, Any]:
        """For the JSON report."""
        return {**asdict(self), "first_lost": [f"{producer}/{number}" for producer, number in self.first_lost]}


class Ledger:
    """Filled by the load's threads (each list by appending only), read by everybody."""

    def __init__(self, producers: int) -> None:
        self.sent = [0] * producers
        self.refused: list[str] = []
        self.confirmed: list[Confirmed] = []
        self.delivered: list[Delivered] = []

    def is_complete(self) -> bool:
        """Every message sent was answered, and as many deliveries came as confirms."""
        answered = len(self.confirmed) + len(self.refused)
        return answered >= sum(self.sent) and len(self.delivered) >= len(self.confirmed) and not self.missing()

    def missing(self) -> set[Key]:
        """Acknowledged and not delivered yet."""
        return {one.key for one in list(self.confirmed)} - {one.key for one in list(self.delivered)}

    def count(self) -> Count:
        """After the run."""
        missing = self.missing()
        places: dict[Key, int] = {}
        again = unmarked = stored_twice = damaged = 0
        for one in self.delivered:
            damaged += not one.intact
            if one.key in places:
                again += 1
                unmarked += not one.redelivered
                stored_twice += places[one.key] != one.offset
            places[one.key] = one.offset
        sent, answered = sum(self.sent), len(self.confirmed) + len(self.refused)
        return Count(
            sent=sent,
            acknowledged=len({one.key for one in self.confirmed}),
            received=len(places),
            lost=len(missing),
            seen_twice=again,
            unmarked=unmarked,
            stored_twice=stored_twice,
            damaged=damaged,
            unanswered=sent - answered,
            refused=len(self.refused),
            one_disk=sum(not one.both_disks for one in self.confirmed),
            first_lost=tuple(sorted(missing)[:10]),
        )


def longest_pause(moments: Iterable[float]) -> Pause:
    """The longest time between two neighbours; none is a pause of 0."""
    ordered = sorted(moments)
    gaps = (Pause(before, after - before) for before, after in pairwise(ordered))
    return max(gaps, key=lambda pause: pause.seconds, default=Pause(ordered[0] if ordered else 0.0, 0.0))


def per_bin(moments: Iterable[float], start: float, seconds: float, bins: int) -> list[int]:
    """How many fall into each bin of so many seconds, from ``start`` on."""
    counts = [0] * bins
    for moment in moments:
        at = int((moment - start) // seconds)
        if 0 <= at < bins:
            counts[at] += 1
    return counts


def first_after(moments: Sequence[float], since: float) -> float | None:
    """The earliest that is not before ``since``."""
    return min((moment for moment in moments if moment >= since), default=None)
