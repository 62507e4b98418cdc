"""What a merge did: kept in the store of the winner, so that both servers and every later one can tell. Values only.

A report begins with the merge and is written with each of its transactions; a merge that is begun again goes on with the report of the
same branch, so in the end it names every message that came from there.
"""

from typing import NamedTuple

from zmqha.core import limits
from zmqha.core.position import Epoch


class QueueReport(NamedTuple):
    """One queue: inserted here, known here already, acknowledged here because it was there."""

    name: str
    merged: int
    known: int
    acknowledged: int


class MergedRange(NamedTuple):
    """Sequences [first, last] of a producer, inserted into a queue."""

    queue: str
    producer: int
    first: int
    last: int


class MergeReport(NamedTuple):
    """One merge."""

    number: int
    wall_ms: int
    winner: str
    winner_epoch: int
    loser: str
    branch: Epoch  # the last epoch of the loser's branch: one branch, one report
    common_txn: int
    queues: tuple[QueueReport, ...] = ()
    ranges: tuple[MergedRange, ...] = ()
    ranges_left_out: int = 0  # more than MERGED_RANGES_MAX
    audit: tuple[str, ...] = ()  # what an operator may want to do again here
    audit_left_out: int = 0
    finished: bool = False

    @property
    def merged(self) -> int:
        """Messages inserted."""
        return sum(queue.merged for queue in self.queues)

    def with_range(self, new: MergedRange) -> "MergeReport":
        """One more inserted; what continues the newest one is joined to it."""
        last = self.ranges[-1] if self.ranges else None
        if last is not None and (last.queue, last.producer, last.last + 1) == (new.queue, new.producer, new.first):
            return self._replace(ranges=(*self.ranges[:-1], last._replace(last=new.last)))
        if len(self.ranges) >= limits.MERGED_RANGES_MAX:
            return self._replace(ranges_left_out=self.ranges_left_out + 1)
        return self._replace(ranges=(*self.ranges, new))

    def with_audit(self, line: str) -> "MergeReport":
        """One more line, each once."""
        if line in self.audit:
            return self
        if len(self.audit) >= limits.AUDIT_LINES_MAX:
            return self._replace(audit_left_out=self.audit_left_out + 1)
        return self._replace(audit=(*self.audit, line))
