"""Judges a run: what producers were told against what consumers saw. One pass over the events, no server needed.

Every message body carries (producer, seq), unique per destination, so nothing has to be searched. Times are seconds of one monotonic
clock of one machine. A timeout is ``info`` (unknown), never a failure: such a message may be there or not.

Hard errors, each by the name that ``Verdict.errors`` uses:

    lost                   confirmed, and after the queue was drained nobody has received it
    phantom                received, never sent
    failed-but-delivered   definitely refused, yet received
    time-travel            received before its send was called
    stored-twice           one (producer, seq) at two places of the queue
    again-after-ack        delivered again after its acknowledgement was confirmed
    unflagged              delivered again without the redelivered flag
    order                  first deliveries of a producer to a consumer do not rise
    overlap                confirmed under an old epoch after a newer epoch confirmed, and not received (not in the newer store)
"""

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """What is known about a call."""

    OK = "ok"
    FAIL = "fail"  # definitely not done
    INFO = "info"  # unknown


class Sent(NamedTuple):
    """One message, from the call to what became known of it."""

    destination: str
    producer: str
    seq: int
    invoked: float
    returned: float
    outcome: Outcome
    epoch: int = 0  # of the confirm
    durability: int = 0  # of the confirm: disks


class Received(NamedTuple):
    """One delivery to an application."""

    destination: str
    consumer: str
    at: float
    producer: str
    seq: int
    offset: int  # place in the queue
    redelivered: bool = False
    acked: Outcome | None = None  # None: not acknowledged
    ack_at: float = 0.0  # when the acknowledgement was known to be recorded


@dataclass
class Verdict:
    """What a history proves."""

    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def valid(self) -> bool:
        return not self.errors

    def explain(self) -> str:
        """Counts, then the first of each kind of error."""
        lines = [", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))]
        lines += [f"{kind}: {len(found)}, first: {'; '.join(found[:3])}" for kind, found in self.errors.items()]
        return "\n".join(lines)

    def check(self) -> None:
        """Raises AssertionError with all of it."""
        assert self.valid, self.explain()


_Key = tuple[str, str, int]


def judge(sent: Iterable[Sent], received: Iterable[Received], *, drained: bool = True) -> Verdict:
    """The verdict on a history; ``drained``: everything that was there has been received."""
    sends = list(sent)
    deliveries = sorted(received, key=lambda one: one.at)
    verdict = Verdict()
    by_key: dict[_Key, Sent] = {(one.destination, one.producer, one.seq): one for one in sends}
    assert len(by_key) == len(sends), "the load generator used a (producer, seq) twice"
    first = _judge_deliveries(verdict, by_key, deliveries)
    for key, one in by_key.items():
        verdict.counts[f"sent {one.outcome}"] += 1
        if one.outcome is Outcome.INFO and key in first:
            verdict.counts["recovered"] += 1
        if one.outcome is Outcome.OK and drained and key not in first:
            verdict.errors["lost"].append(f"{key} confirmed in epoch {one.epoch} on {one.durability} disks")
    _judge_epochs(verdict, sends, first)
    return verdict


def _judge_deliveries(verdict: Verdict, sends: dict[_Key, Sent], deliveries: list[Received]) -> dict[_Key, Received]:
    first: dict[_Key, Received] = {}
    acked: dict[_Key, float] = {}
    highest: dict[tuple[str, str, str], int] = {}
    for one in deliveries:
        key = (one.destination, one.producer, one.seq)
        verdict.counts["received"] += 1
        before = first.get(key)
        if before is None:
            first[key] = one
            _judge_first(verdict, key, one, sends.get(key))
            line = (one.producer, one.destination, one.consumer)
            if not one.redelivered:  # one that somebody else held before comes when it comes
                if one.seq < highest.get(line, -1):
                    verdict.errors["order"].append(f"{key} after {highest[line]} at {one.consumer}")
                highest[line] = max(one.seq, highest.get(line, -1))
        elif before.offset != one.offset:
            verdict.errors["stored-twice"].append(f"{key} at {before.offset} and {one.offset}")
        else:
            verdict.counts["redelivered"] += 1
            if not one.redelivered:
                verdict.errors["unflagged"].append(f"{key} at {one.consumer}, {one.at - before.at:.3f} s after {before.consumer}")
            if key in acked and one.at > acked[key]:
                verdict.errors["again-after-ack"].append(f"{key} {one.at - acked[key]:.3f} s after its acknowledgement")
        if one.acked is Outcome.OK:
            acked[key] = min(one.ack_at, acked.get(key, one.ack_at))
    return first


def _judge_first(verdict: Verdict, key: _Key, one: Received, send: Sent | None) -> None:
    if send is None:
        verdict.errors["phantom"].append(str(key))
        return
    if one.at < send.invoked:
        verdict.errors["time-travel"].append(f"{key} {send.invoked - one.at:.3f} s before its send")
    if send.outcome is Outcome.FAIL:
        verdict.errors["failed-but-delivered"].append(str(key))


def _judge_epochs(verdict: Verdict, sends: list[Sent], first: dict[_Key, Received]) -> None:
    """A late confirm of an older epoch is allowed only for what the newer epoch's store holds too (I4)."""
    newest = 0
    for one in sorted((one for one in sends if one.outcome is Outcome.OK), key=lambda one: one.returned):
        if one.epoch >= newest:
            newest = one.epoch
            continue
        verdict.counts["late confirms"] += 1
        key = (one.destination, one.producer, one.seq)
        if key not in first:
            verdict.errors["overlap"].append(f"{key} of epoch {one.epoch} after epoch {newest} confirmed")


def gaps_after(sent: Iterable[Sent], faults: Iterable[float], *, before_s: float = 0.05, within_s: float = 10.0) -> list[float]:
    """For each fault: the longest time between two confirmed sends around and after it, up to the next fault."""
    confirms = sorted(one.returned for one in sent if one.outcome is Outcome.OK)
    times = sorted(faults)
    found = []
    for at, fault in enumerate(times):
        end = min(fault + within_s, times[at + 1] if at + 1 < len(times) else fault + within_s)
        begin = max(0, bisect.bisect_left(confirms, fault - before_s) - 1)
        window = confirms[begin : bisect.bisect_right(confirms, end)]
        found.append(max((later - earlier for earlier, later in itertools.pairwise(window)), default=float("inf")))
    return found


def longest_gap(sent: Iterable[Sent]) -> float:
    """The longest time between two confirmed sends of the whole run."""
    confirms = sorted(one.returned for one in sent if one.outcome is Outcome.OK)
    return max((later - earlier for earlier, later in itertools.pairwise(confirms)), default=float("inf"))
