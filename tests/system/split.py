"""A lab under both loads, for the network cases of the matrix: what is sent, what was confirmed, who served.

Two loads at once, both judged. That of the matrix: four producers and four consumers in the client's namespace. That of the lab: a
producer and a watcher in each server's own namespace, which would be confirmed what a split pair must not confirm.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.system.history import gaps_after
from tests.system.lab import Lab, lab
from tests.system.load import Load
from tests.system.matrix import Run

RATES = {"client": 20, "a": 20, "b": 20}  # of the lab's own producers, beside the load of the matrix
REJOINED_S = 3.5  # after a failed gateway probe nothing is claimed for REJOIN_MS + decide_ms: both may be coming back
RESTLESS = {
    "flap_stable_ms": 200
}  # each flap of the link doubles the pause before pairing: otherwise most of the time is waiting
SETTLE_S = 90
# Two branches had consumers of their own: what either delivered may come again, elsewhere in the one queue. The queue of the lab has no
# consumer before the end; there only what was in doubt at the split may be twice, with the flag.
MERGED = ("order", "unflagged", "again-after-ack", "stored-twice")
DISK_MIB = 256  # of each server, where disks are filled
SERVING = ("ACTIVE", "STANDALONE")


class Split:
    """What a case works with."""

    def __init__(self, net_lab: Lab, load: Load) -> None:
        self.lab, self.load = net_lab, load
        self.moments: list[float] = []  # of faults whose gap counts
        self.late_confirms = False  # a server stood still and went on
        self.merged = False  # both served on purpose
        self.refused = False  # a disk was full
        self._own_gaps = 0

    def fault(self) -> float:
        """Now, with everything in sync and confirms flowing; own gaps from here on explain what happens."""
        self.lab.wait_in_sync(SETTLE_S)
        self.load.wait_confirmed()
        self.lab.wait_in_sync(SETTLE_S)  # a busy machine may have undone it meanwhile
        self._own_gaps = len(self.lab.gaps_in_logs())
        self.moments.append(time.monotonic())
        return self.moments[-1]

    def own_gaps(self) -> list[str]:
        """How this machine stopped a server since the fault: then a change of roles is right."""
        return self.lab.gaps_in_logs()[self._own_gaps :]

    def confirmed_since(self, moment: float) -> int:
        """By the load of the matrix."""
        return sum(one.returned >= moment and one.outcome == "ok" for one in self.load.sent)

    def wait_confirms(self, moment: float, timeout_s: float = 20.0) -> float:
        """Seconds from a moment until the load is confirmed something."""
        self.lab.wait(lambda: self.confirmed_since(moment) > 0, "confirms", timeout_s)
        return min(one.returned for one in self.load.sent if one.returned >= moment and one.outcome == "ok") - moment


@contextmanager
def split(run: Run, **options: Any) -> Iterator[Split]:
    """A lab in sync under both loads; at the end everything is healed and judged."""
    with lab(rates=RATES, **options) as net_lab:
        net_lab.note = run.note  # type: ignore[method-assign]
        with net_lab.net.inside("client"):
            load = Load(net_lab.url("a", "b"), failover_timeout=-1)
        made = Split(net_lab, load)
        try:
            load.wait_confirmed()
            yield made
            net_lab.net.heal()
            net_lab.wait_in_sync(SETTLE_S)
            load.wait_confirmed()
            run.judge(load.settle(), MERGED if made.merged else ())
        except BaseException:
            load.abandon()
            raise
        run.gaps += gaps_after(load.sent, made.moments, within_s=5)
        run.stalled(net_lab.gaps_in_logs())
        verdict = net_lab.settle(SETTLE_S, frozen=made.late_confirms, merged=made.merged, refused=made.refused)
        run.confirmed += verdict.confirmed
        if run.failures:
            net_lab.keep_logs(run.case.id)


def same_server(run: Run, it: Split, since: float, what: str, changes: int = 0) -> None:
    """The one that served serves on; at most so many changes, unless this machine itself stopped a server."""
    served = it.lab.served_since(since)
    if len(served) - 1 > changes:
        run.stalled(it.own_gaps())
        run.late(f"{what}: at most {changes} changes of roles, seen {served}")
