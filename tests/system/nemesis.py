"""The nemesis: faults of processes, network, cable and disk, drawn at random for a lab, one or two at a time, and all of them ended."""

import errno
import random
import signal
from collections.abc import Callable

from tests.system.lab import Lab
from tests.system.wire import write_settings

CABLES = {
    "loss": {"loss": 0.3},
    "delay": {"delay": 150, "jitter": 50},
    "doubles and damage": {"twice": 0.1, "corrupt": 0.02},
}
# Two that must not meet: together no message passes while both reach the gateway, so A1 is broken and two may serve.
NOT_WITH_BETWEEN = ("peer silent", "peer carrier", "peer reset", "deafen a", "deafen b", "deafen a on peer", "deafen b on peer")
CONFLICTS = [{"deafen a", "deafen b"}, *({fault, "between"} for fault in NOT_WITH_BETWEEN)]
BALLAST_LEAVES = 1 << 19  # bytes: less than the reserve, so sends are refused


class Nemesis:
    """The faults of one lab."""

    def __init__(self, lab: Lab, chance: random.Random) -> None:
        self._lab, self._chance = lab, chance
        self._killed: set[str] = set()
        net = lab.net
        self.faults: dict[str, Callable[[], None]] = {
            "peer silent": net.cut_peer_silently,
            "peer carrier": net.cut_peer_carrier,
            "peer reset": net.reset_peer_link,
            "peer thin": lambda: net.slow_peer("1mbit"),
            "large frames": net.swallow_large_frames,
            "between": net.cut_lan_between,
            "gateway": net.mute_gateway,
            "gateway gone": lambda: net.cut_lan("gateway"),
            "clients gone": lambda: net.cut_lan("client"),
        }
        for name in ("a", "b"):
            self._faults_of(name)
        for kind, settings in CABLES.items():
            self.faults[f"cable: {kind}"] = lambda settings=settings: self._cable(settings)  # type: ignore[misc]

    def draw(self) -> list[str]:
        """One or two faults that may meet."""
        while True:
            drawn = self._chance.sample(list(self.faults), self._chance.choice((1, 1, 2)))
            if set(drawn) not in CONFLICTS:
                return drawn

    def revive(self) -> list[str]:
        """End every fault, start what was killed; the servers that ended without being killed."""
        self._lab.net.heal()
        self._cable({})
        died = []
        for name, server in self._lab.servers.items():
            self._lab.ballast(name).unlink(missing_ok=True)
            if server.running:
                server.thaw()
                continue
            if name not in self._killed:
                died.append(name)
            server.start()
        self._killed.clear()
        return died

    def _faults_of(self, name: str) -> None:
        net, server = self._lab.net, self._lab[name]
        self.faults |= {
            f"lan {name}": lambda: net.cut_lan(name),
            f"isolate {name}": lambda: net.isolate(name),
            f"unplug {name}": lambda: net.pull_both(name),
            f"deafen {name}": lambda: net.deafen(name),
            f"deafen {name} on peer": lambda: net.deafen(name, "peer"),
            f"deafen {name} on lan": lambda: net.deafen(name, "lan"),
            f"reset {name}": lambda: net.reset_both_paths(name),
            f"kill {name}": lambda: self._kill(name),
            f"kill watcher, then {name}": lambda: self._kill(name, watcher_first=True),
            f"freeze {name}": server.freeze,
            f"block loop of {name}": lambda: self._signal(name, signal.SIGUSR2),
            f"fill disk of {name}": lambda: self._fill(name),
        }

    def _kill(self, name: str, *, watcher_first: bool = False) -> None:
        self._killed.add(name)
        if watcher_first:
            self._lab[name].kill_watcher()
        self._lab[name].kill()

    def _signal(self, name: str, number: int) -> None:
        if self._lab[name].running:
            self._lab[name].signal(number)

    def _fill(self, name: str) -> None:
        """The disk keeps less than the reserve."""
        ballast = self._lab.ballast(name)
        ballast.touch()
        free = self._lab.free_bytes(name)
        with ballast.open("wb", buffering=0) as file:
            for _ in range(max(0, free - BALLAST_LEAVES) >> 16):
                try:
                    file.write(bytes(1 << 16))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return  # the server has written meanwhile: full sooner

    def _cable(self, settings: dict[str, float]) -> None:
        write_settings(self._lab.wire_settings, left=settings, right=settings)
