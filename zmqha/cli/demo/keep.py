"""``--keep``: the pair stays while the demo waits; what its servers do is shown, and one that is killed by hand comes back."""

import time

from zmqha.cli.demo.pair import Pair
from zmqha.cli.demo.screen import Line, Screen, moment_line
from zmqha.cli.demo.timeline import Timeline

BACK_S = 3.0  # a killed server is started again after this long
_TICK_S = 0.1


def keep(pair: Pair, screen: Screen, epochs: dict[str, int]) -> None:
    """Until KeyboardInterrupt. ``epochs``: each server's, so far."""
    screen.say(*instructions(pair))
    timeline = Timeline(zero=time.time(), epochs=epochs)
    ended: dict[str, float] = {}
    try:
        while True:
            now = time.time()
            for name, server in pair.servers.items():
                if server.running:
                    continue
                if name not in ended:
                    ended[name] = now
                    timeline.add(now, name, "kill", f"has ended; it is started again in {BACK_S:.0f} s")
                elif now - ended[name] >= BACK_S:
                    server.start()
                    del ended[name]
                    timeline.add(now, name, "restart", f"started again, pid {server.pid}")
            for event in pair.new_events():
                timeline.hear(event)
            screen.say(*(moment_line(moment, timeline) for moment in timeline.release(now)))
            time.sleep(_TICK_S)
    except KeyboardInterrupt:
        screen.say(Line(""), Line("stopping both servers, removing their directory"))


def instructions(pair: Pair) -> list[Line]:
    """Where it is and how to end it."""
    names = " ".join(f"{name} {server.pid}" for name, server in pair.servers.items())
    context = f"--context {pair.context}"
    return [
        Line(""),
        Line("The pair stays until you press Ctrl-C here (its gateway is this demo). In another terminal:", "bold"),
        Line(f"  zmqha {context} status"),
        Line(f"  zmqha {context} send orders hello"),
        Line(f"  zmqha {context} recv orders --count 1"),
        Line(f"  kill -9 PID        pids: {names}; it is started again after {BACK_S:.0f} s"),
        Line(f"  url     {pair.url}"),
        Line(f"  config  {pair.config}"),
        Line(""),
    ]
