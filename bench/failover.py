"""Losing the active under load, many times: how long no send is confirmed, where that time goes, and how soon the pair is whole again.

Default: kill -9. --freeze: SIGSTOP, and SIGCONT once the other serves. --switchover: an operator's hand-over.

The load is a producer at --rate with send_nowait, in a process of its own. The gap is the longest pause between two confirms seen by
it in the run. Phases, from the fault on, out of the servers' logs (milliseconds' steps) and the stand-in gateway: death notice heard,
gateway answered, claim decided, standalone (SOLE and lineage durable), first confirm after the gap. Rejoin: from the start (or thaw)
of the lost server until both confirm together again. At the end the queue is consumed: nothing confirmed may be missing or twice.
"""

import argparse
import os
import random
import signal
import time

from disk import Disk
from load import Consume, Done, Paced, Worker, soon, workers
from pair import Pair, other, pair
from report import Report, parser, percentile

import zmqha
from zmqha.cli.demo.server import LogEvent

QUEUE = "bench/failover"
LEAD_S = 0.5  # load before the fault, at least
AFTER_S = 2.0  # load after the fault
QUIET_S = 2.0
PHASES = {"ha.death_notice": "notice_ms", "ha.claim": "claim_ms", "ha.standalone": "standalone_ms"}
Figures = dict[str, list[float]]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=20)
    made.add_argument("--freeze", action="store_true", help="stop the process instead of killing it")
    made.add_argument("--switchover", action="store_true", help="ask for a hand-over instead")
    made.add_argument("--rate", type=float, default=1000, help="messages per second (default %(default)s)")
    made.add_argument("--size", type=int, default=1024, help="bytes of a body (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat = 1
    fault = "switchover" if arguments.switchover else "freeze" if arguments.freeze else "kill"
    disk = Disk(arguments.directory)
    report = Report("failover" if fault == "kill" else f"failover_{fault}", arguments, disk)
    with pair(disk.directory, curve=arguments.curve) as servers, workers(servers.url, 1) as (producer,):
        bench = Bench(servers, producer, fault, arguments)
        for _ in range(arguments.repeat):
            disk.measure()
            bench.run()
        gaps = bench.figures["gap_ms"]
        report.add({"fault": fault, "runs": len(gaps)}, bench.figures)
        worst = ", ".join(f"{name} {value:.0f} ms" for name, value in (("p99", percentile(gaps, 0.99)), ("max", max(gaps))))
        report.note(
            f"gap: median {percentile(gaps, 0.5):.0f} ms, {worst}; {sum(gap < 1000 for gap in gaps)} of {len(gaps)} under 1 s"
        )
        report.note(bench.account())
    report.finish()


class Bench:
    """One pair, one producer, one fault after the other."""

    def __init__(self, servers: Pair, producer: Worker, fault: str, arguments: argparse.Namespace) -> None:
        self.figures: Figures = {}
        self._servers = servers
        self._producer = producer
        self._fault = fault
        self._arguments = arguments
        self._random = random.Random(7)
        self._confirmed = 0

    def run(self) -> None:
        """One fault under load, and the way back."""
        servers, arguments = self._servers, self._arguments
        active = servers.active()
        servers.new_events()
        lead_s = LEAD_S + self._random.random() * 0.5  # at no fixed distance from heartbeats
        start = soon()
        count = int(arguments.rate * (lead_s + AFTER_S))
        self._producer.begin(Paced(QUEUE, arguments.size, arguments.rate, count, start, self._confirmed))
        time.sleep(max(0.0, start + lead_s - time.monotonic()))
        fault = time.time()
        self._strike(active)
        servers.wait(lambda: servers.row(other(active)).get("state") in ("ACTIVE", "STANDALONE"), "the other serves")
        done = self._producer.end()
        self._confirmed += done.messages
        events = servers.new_events()
        self._note_gap(done, events, fault)
        self._rejoin(active)

    def account(self) -> str:
        """Receive everything; a sentence about what is missing or twice."""
        self._producer.begin(Consume(QUEUE, self._confirmed + 1, soon(), stamped=True, quiet=QUIET_S))
        numbers = self._producer.end().numbers
        different = len(set(numbers))
        lost, twice = self._confirmed - different, len(numbers) - different
        return f"{self._confirmed} messages confirmed, {len(numbers)} in the queue: {lost} lost, {twice} stored twice"

    def _strike(self, active: str) -> None:
        if self._fault == "kill":
            self._servers[active].note_watcher()
            self._servers[active].kill()
        elif self._fault == "freeze":
            os.kill(self._servers[active].pid, signal.SIGSTOP)
        else:
            with zmqha.connect(self._servers.url) as client:
                client.admin("switchover", {"reason": "bench"})

    def _rejoin(self, lost: str) -> None:
        servers = self._servers
        begun = time.time()
        if self._fault == "kill":
            servers[lost].make_sure(1.0)
            servers[lost].start()
        elif self._fault == "freeze":
            os.kill(servers[lost].pid, signal.SIGCONT)
        servers.wait_in_sync()
        granted = [event.time for event in servers.new_events() if event.name == "ha.granted" and event.time >= begun]
        if granted:
            self._note("rejoin_ms", (granted[-1] - begun) * 1000)

    def _note_gap(self, done: Done, events: list[LogEvent], fault: float) -> None:
        """Moments of the confirms are monotonic, those of the logs wall time."""
        shift = time.time() - time.monotonic()
        gap, end = done.gap(fault - shift)
        self._note("gap_ms", gap * 1000)
        for name, phase in PHASES.items():
            found = [event.time for event in events if event.name == name and event.time >= fault - 0.002]
            if found:
                self._note(phase, (found[0] - fault) * 1000)
        answered = self._servers.gateway.first_answer(fault)
        if self._fault != "switchover" and answered is not None:
            self._note("gateway_ms", (answered - fault) * 1000)
        self._note("confirm_ms", (end + shift - fault) * 1000)

    def _note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)


if __name__ == "__main__":
    main()
