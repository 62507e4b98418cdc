"""kill -9 of the active with hundreds of authenticated clients: how long until each of them is served by the other one.

--clients real clients (CURVE, with the key that ``zmqha init`` writes) in --processes processes, all connected and served before. At
the kill each of them is told to send; it is served when that send is confirmed by the new active. Budget: all of them in 5 s.

served_ms: from the kill until the last confirm; half_ms, p95_ms: until so many. standalone_ms: until the other serves. clients_cpu_s,
server_cpu_s: processor time from the kill until the last confirm, of all client processes and of the new active. cores: both together,
divided by the time: near the number of cores of this machine, the clients had no processor to be faster on, and busy_share is 1.
"""

import os
import time

from crowd import Crowd, crowds
from disk import Disk
from pair import Pair, cpu_of, other, pair
from report import Report, parser, percentile

BUDGET_S = 5.0
PAUSE_S = 1.0
Figures = dict[str, list[float]]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=5)
    made.add_argument("--clients", type=int, default=500, help="default %(default)s")
    made.add_argument("--processes", type=int, default=10, help="that hold them (default %(default)s)")
    made.add_argument("--plain", action="store_true", help="without keys")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.clients, arguments.processes = 1, 20, 2
    arguments.curve = not arguments.plain
    disk = Disk(arguments.directory)
    report = Report("reconnect", arguments, disk)
    with (
        pair(disk.directory, curve=arguments.curve) as servers,
        crowds(servers.url, arguments.clients, arguments.processes) as made_crowds,
    ):
        figures: Figures = {}
        for _ in range(arguments.repeat):
            disk.measure()
            for name, value in lose_active(servers, made_crowds, arguments.clients).items():
                figures.setdefault(name, []).append(value)
        report.add({"clients": arguments.clients, "processes": arguments.processes, "curve": arguments.curve}, figures)
        worst, missing = max(figures["served_ms"]), sum(figures["not_served"])
        kept = worst <= BUDGET_S * 1000 and not missing
        report.note(
            f"budget: {arguments.clients} clients served within {BUDGET_S:g} s: {worst / 1000:.2f} s at most, "
            f"{missing:.0f} not served: {'yes' if kept else 'NO'}"
        )
    report.finish()


def lose_active(servers: Pair, made_crowds: list[Crowd], clients: int) -> dict[str, float]:
    """One kill, everybody's send, and the way back."""
    active = servers.active()
    new = other(active)
    servers.new_events()
    before = cpu_of(servers[new].pid)
    crowd_before = [cpu_of(crowd.pid).total for crowd in made_crowds]
    servers[active].note_watcher()
    killed, wall = time.monotonic(), time.time()
    servers[active].kill()
    for crowd in made_crowds:
        crowd.begin()
    seen = [crowd.end() for crowd in made_crowds]
    server_cpu_s = cpu_of(servers[new].pid).total - before.total
    clients_cpu_s = sum(cpu_of(crowd.pid).total - old for crowd, old in zip(made_crowds, crowd_before, strict=True))
    standalone = [event.time for event in servers.new_events() if event.name == "ha.standalone"]
    moments = sorted((moment - killed) * 1000 for one in seen for moment in one.confirmed_s)
    served_ms = moments[-1]
    cores = (server_cpu_s + clients_cpu_s) * 1000 / served_ms
    servers[active].make_sure(1.0)
    servers.start()
    time.sleep(PAUSE_S)  # clients connect to the one that is back
    return {
        "served_ms": served_ms,
        "half_ms": percentile(moments, 0.5),
        "p95_ms": percentile(moments, 0.95),
        "standalone_ms": (standalone[0] - wall) * 1000,
        "not_served": clients - len(moments),
        "clients_cpu_s": clients_cpu_s,
        "server_cpu_s": server_cpu_s,
        "cores": cores,
        "busy_share": min(1.0, cores / len(os.sched_getaffinity(0))),
    }


if __name__ == "__main__":
    main()
