"""The timers of the pair, in milliseconds of the own clock, and the relations between them that safety rests on.

Defaults are for a LAN; they may be scaled, but not bent: ``check`` names the broken relation, why it matters and what to set. All
are measured on a clock that counts suspend (CLOCK_BOOTTIME), never on the wall clock.
"""

from dataclasses import dataclass

from zmqha.errors import ConfigError

FAST_BEAT_MS = 50  # heartbeat period while contact is older than fresh_ms: a short block then ends inside the window
SLACK_MS = 300  # three gateway answers must fit between fresh_ms and decide_ms
HAND_OVER_MS = 2000  # T12: how long a leaving server waits for its last acknowledgement and for the other to serve
T20_PAUSE_MS = 60_000  # T20: at most one hand-over for a silent gateway in this time
RESET_PERIOD_MS = (
    1000  # a path without contact is rebuilt this often: both ends must do it, and each rebuild needs time to connect
)
REJOIN_MS = 2000  # until both ends have rebuilt a path after a cut: RESET_PERIOD_MS, an unanswered SYN, a pause
CALM_MS = 600_000  # after this long without a flap the link counts as calm again
FLAP_MS_MAX = 60_000  # cap of the doubling flap_stable_ms
COPY_SLOW_MS = 15_000  # likewise slow_ms while a full copy runs: its flushes are longer, and nobody waits for them
TABLE_SLOW_MS = (
    60_000  # likewise while one says what its pages hold (a piece is 256 MiB read from its disk) or the other compares
)
AVOID_MS = 600_000  # a path on which bulk stood still is not tried again for so long: each time costs a copy that begins anew
STORE_STUCK_MS = 20_000  # a store thread with work and no progress for this long is a broken disk: stop, the peer takes over


@dataclass(frozen=True, slots=True)
class Timers:
    """See docs/operations.md for how they belong together."""

    heartbeat_ms: int = 250  # beat period on every path, each answered at once
    lost_ms: int = 600  # contact older than this: deciding
    silent_ms: int = 500  # nothing received at all for this long: silence (only a deaf node may claim)
    decide_ms: int = 750  # contact older than this, silence, every gateway probe answered: claim
    probe_ms: int = 100  # gateway probe period while in doubt
    probe_idle_ms: int = 500  # and otherwise
    probe_timeout_ms: int = 200  # a probe without answer for this long has failed
    pause_ms: int = 300  # an own gap longer than this: give up the role
    fresh_ms: int = 400  # contact younger than this is fresh: one-shot messages and elections need it
    isolated_ms: int = 800  # neither gateway nor peer for this long: a lone server stops serving
    slow_ms: int = 2000  # oldest unacknowledged shipment: the peer is dropped by agreement
    stable_ms: int = 1000  # contact must hold this long before pairing, after the peer's process restarted
    flap_stable_ms: int = 5000  # and after a flap of the link; doubles up to FLAP_MS_MAX

    @property
    def reset_ms(self) -> int:
        """RESET_PERIOD_MS, where heartbeats come that often: a path that is rebuilt before the next one is never well."""
        return max(RESET_PERIOD_MS, self.lost_ms)

    @property
    def rejoin_ms(self) -> int:
        """REJOIN_MS, likewise."""
        return REJOIN_MS - RESET_PERIOD_MS + self.reset_ms

    def check(self) -> None:
        """Raises ConfigError naming the first broken relation."""
        for name in self.__dataclass_fields__:
            if not 10 <= getattr(self, name) <= 600_000:
                raise ConfigError(
                    f"timers.{name} = {getattr(self, name)} is impossible",
                    cause="every timer lies between 10 ms and 600000 ms",
                    cure="leave the line out to get the default",
                )
        relations = (
            (self.heartbeat_ms < self.fresh_ms, "heartbeat_ms < fresh_ms", "contact would never be fresh between two heartbeats"),
            (
                2 * self.heartbeat_ms < self.lost_ms,
                "2 * heartbeat_ms < lost_ms",
                "one lost heartbeat would look like a lost peer",
            ),
            (self.lost_ms < self.decide_ms, "lost_ms < decide_ms", "the decision needs a window after contact is lost"),
            (self.decide_ms <= self.isolated_ms, "decide_ms <= isolated_ms", "a lone server must not stop before a pair decides"),
            (self.silent_ms <= self.lost_ms, "silent_ms <= lost_ms", "silence must be known when the decision starts"),
            (
                self.fresh_ms + SLACK_MS < self.decide_ms,
                f"fresh_ms + {SLACK_MS} < decide_ms",
                "three gateway answers must fit into the window",
            ),
            (
                self.pause_ms + self.heartbeat_ms + 100 < self.decide_ms,
                "pause_ms + heartbeat_ms + 100 < decide_ms",
                "a server that was stopped must notice it before the other has decided",
            ),
        )
        for holds, relation, why in relations:
            if not holds:
                raise ConfigError(
                    f"impossible timers: {relation} does not hold",
                    cause=why,
                    cure="scale all timers together; the defaults keep every relation",
                )
