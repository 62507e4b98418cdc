"""Room on the disk, and what follows from it for producers, for a follower and for a new epoch.

Below the reserve producers are refused by name, so that consumers can always acknowledge and drain. Below what a copy needs a follower
that left for want of space stays away. Below ``EPOCH_BYTES`` no new epoch is begun. All three end by themselves.
"""

from zmqha.core import limits
from zmqha.core.actions import Note
from zmqha.core.events import StoreBeat
from zmqha.errors import NoSpace

EPOCH_BYTES = 4 * limits.MIB  # more than a lineage record and the pages around it can take


class Space:
    """What the last look at the disk said."""

    def __init__(self, reserve_bytes: int = 0, max_bytes: int = 0) -> None:
        self._reserve_bytes = reserve_bytes
        self._max_bytes = max_bytes
        self._copy_bytes = 0
        self.nearly_full = False  # producers are refused
        self.for_epoch = True
        self.for_copy = True  # what did not fit last fits now

    def set_limits(self, reserve_bytes: int, max_bytes: int) -> None:
        """Below ``reserve_bytes`` free, or with ``max_bytes`` (0: no limit) less the reserve used, producers are refused."""
        self._reserve_bytes, self._max_bytes = reserve_bytes, max_bytes

    def missed(self, copy_bytes: int) -> None:
        """A follower ran out of space and needs so many bytes to go on with its copy; 0: the reserve is enough."""
        self._copy_bytes = copy_bytes
        self.for_copy = False

    def news(self, beat: StoreBeat) -> Note:
        """For the log, where ``nearly_full`` has just changed."""
        fields = (
            ("free_bytes", beat.free_bytes), ("used_bytes", beat.used_bytes), ("reserve_bytes", self._reserve_bytes),
            ("max_bytes", self._max_bytes),
        )  # fmt: skip
        return Note("space.low", fields) if self.nearly_full else Note("space.ok", fields)

    def look(self, beat: StoreBeat) -> None:
        """A new look at the disk."""
        over = bool(self._max_bytes) and beat.used_bytes + self._reserve_bytes > self._max_bytes
        enough = beat.free_bytes >= self._reserve_bytes
        self.nearly_full = over or not enough
        self.for_epoch = beat.free_bytes >= EPOCH_BYTES
        self.for_copy = enough and beat.free_bytes >= self._copy_bytes


def no_space(node: str) -> NoSpace:
    """What a producer is told meanwhile."""
    return NoSpace(
        f"{node} takes no more messages: its disk is nearly full",
        cause="the rest is kept so that consumers can acknowledge and drain",
        cure="consume or purge messages, or free disk space; sending works again by itself",
    )
