"""The gateway: answers whoever reaches it over the LAN. A machine reaches it if its own port and the gateway itself are well."""

from collections.abc import Callable
from random import Random

from tests.sim.clock import Clock
from tests.sim.network import LAN, Cables

TIMEOUT_MS = 200


class Gateway:
    """Ping, as a toy."""

    def __init__(self, clock: Clock, cables: Cables, random: Random) -> None:
        self.cables = cables
        self._clock = clock
        self._random = random

    def answers(self, machine: str) -> bool:
        """Would a probe be answered now."""
        cables = self.cables
        return not (cables.gateway_down or cables.lan_out[machine] or cables.lan_in[machine] or cables.gateway_mute[machine])

    def probe(self, machine: str, sent_ms: int, report: Callable[[int, bool], None]) -> None:
        """Ask once; ``sent_ms`` is handed back."""
        if not self.answers(machine) or self.cables.lost(LAN, self._random):
            self._clock.after(TIMEOUT_MS, report, sent_ms, False)
            return
        took = self._random.randint(1, 12)
        self._clock.after(took, self._back, machine, sent_ms, report, TIMEOUT_MS - took)

    def _back(self, machine: str, sent_ms: int, report: Callable[[int, bool], None], left_ms: int) -> None:
        if self.answers(machine):
            report(sent_ms, True)
        else:
            self._clock.after(left_ms, report, sent_ms, False)
