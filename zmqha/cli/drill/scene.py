"""What a case works with: the pair in sync under load, who has which role, and things to do to them."""

import random
import time
from collections.abc import Callable

from zmqha.cli.demo.load import Load
from zmqha.cli.demo.pair import Pair
from zmqha.cli.demo.waiting import wait
from zmqha.cli.status import SERVING

_LOOK_S = 0.1
_END_S = 5.0  # a killed process is gone long before
_STOP_S = 10.0


class Scene:
    """One run of one case; driven by one thread."""

    def __init__(self, pair: Pair, load: Load, rng: random.Random) -> None:
        self.pair = pair
        self.load = load
        self.rng = rng
        self.active = pair.active()  # when the case began
        self.passive = pair.other(self.active)
        self.faults: list[str] = []
        self.zero = time.time()  # the moment of the fault

    def fault(self) -> None:
        """From now on the gap counts."""
        self.zero = time.time()

    def epoch(self) -> object:
        """Changes with every change of the active server, or of the mode; None if the active does not answer."""
        return self.pair.row(self.active).get("epoch")

    def stood_still(self) -> bool:
        """Did the machine keep a server from running for longer than pause_ms: then it gives up its role, whatever else goes on."""
        self.pair.new_events()
        return any(event.name == "ha.gap" and event.time >= self.zero for event in self.pair.log)

    def must(self, holds: bool, otherwise: str) -> None:
        """What does not hold fails the run, which goes on."""
        if not holds:
            self.faults.append(otherwise)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Until it holds; OperationFailed if it does not."""
        wait(condition, what, seconds, self.pair, self.load, self.pair.new_events)

    def pause(self, seconds: float) -> None:
        """Let it run."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end, "time", seconds + 1)

    def wait_serving(self, name: str, seconds: float, *, alone: bool = False) -> None:
        """Until this server says that it serves."""
        states = ("STANDALONE",) if alone else SERVING
        self.wait(lambda: self.pair.row(name).get("state") in states, f"{name} serves{' alone' * alone}", seconds)

    def wait_confirms(self, count: int) -> None:
        """So many more."""
        enough = len(self.load.ledger.confirmed) + count
        self.wait(lambda: len(self.load.ledger.confirmed) >= enough, f"{count} more messages are confirmed", 10.0)

    def watch(self, name: str, seconds: float) -> set[str]:
        """Every state that the server tells in this time; "" where it does not answer."""
        end, seen = time.monotonic() + seconds, set[str]()
        while time.monotonic() < end:
            seen.add(str(self.pair.row(name).get("state", "")))
            self.pause(_LOOK_S)
        return seen

    def kill(self, name: str) -> None:
        """As by kill -9; gone when this returns."""
        server = self.pair[name]
        server.note_watcher()
        server.kill()
        server.wait(_END_S)

    def start(self, name: str) -> None:
        """With the data that it had."""
        self.pair[name].start()

    def stop(self, name: str) -> int | None:
        """SIGTERM; its exit code."""
        self.pair[name].note_watcher()
        self.pair[name].ask_to_stop()
        return self.pair[name].wait(_STOP_S)

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self.pair[name].freeze()

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.pair[name].thaw()

    def mend(self) -> None:
        """Whatever the case has broken, so that the pair can be ended or used again."""
        for server in self.pair.servers.values():
            server.thaw()
        if self.pair.cable is not None:
            self.pair.cable.mend()
