"""How fast commits may follow each other while a copy runs, so that it ends.

What is written during one round is the next round. Rounds that shrink need nothing. Where they do not, writers get a share of what the
follower takes in, and beyond that a commit now and then: a round is then at most about that share of the one before. The pause grows
while that is not enough, stays short enough for a producer to wait for, and is over with the copy. Driven by ``source``.
"""

from zmqha.core import limits

SHRUNK = 0.75  # of the round before: one above this will not be short soon (from 100 GiB to the last step takes 26 such rounds)
WRITERS_SHARE = 0.5  # of what has arrived in this round may be written meanwhile
FREE_BYTES = limits.COPY_TAIL_BYTES // 2  # likewise whatever has arrived: as much as a short round leaves
PAUSE_MS = 250  # between two group commits, at first
PAUSE_MS_MAX = 1000  # at last: 4 MiB a second are then written, which any network and disk outrun


class Pace:
    """Of the commits during one copy."""

    def __init__(self) -> None:
        self._pause_ms = 0  # where more is written than the share; 0: rounds shrink
        self._from_bytes = 0  # of the copy, when this round began
        self._last_bytes = 0  # of the round before
        self._written_bytes = 0  # pages of the commits since this round was pinned, at most

    def wrote(self, page_bytes: int) -> None:
        """A commit."""
        self._written_bytes += page_bytes

    def round_done(self, sent_bytes: int) -> bool:
        """A round has been handed out, ``sent_bytes`` since the copy began. True if from now on commits are slower than before."""
        this_bytes, last_bytes = sent_bytes - self._from_bytes, self._last_bytes
        self._last_bytes = this_bytes
        stays = last_bytes > 0 and this_bytes > SHRUNK * last_bytes and this_bytes > limits.COPY_TAIL_BYTES_MAX
        before = self._pause_ms
        if stays:
            self._pause_ms = min(max(PAUSE_MS, 2 * before), PAUSE_MS_MAX)
        return self._pause_ms > before

    def next_round(self, sent_bytes: int) -> None:
        """Another one begins."""
        self._from_bytes, self._written_bytes = sent_bytes, 0

    def pause_ms(self, arrived_bytes: int) -> int:
        """Time from one commit to the next, now that so much of the copy has arrived."""
        share = FREE_BYTES + WRITERS_SHARE * (arrived_bytes - self._from_bytes)
        return self._pause_ms if self._written_bytes > share else 0

    @property
    def slowest_ms(self) -> int:
        """The pause where it applies; 0: none."""
        return self._pause_ms
