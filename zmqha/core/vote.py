"""The gateway's vote: what its answers prove, and for how long.

A gateway says yes to everybody, so it proves one thing only: *this node is not the isolated one*. What counts is an unbroken series
of answers to probes sent after the last contact with the peer; a single failure breaks it. Pure; the caller sends the probes.
"""

from collections import deque

_KEPT = 64  # probes remembered; the decision window holds fewer than ten


class Vote:
    """Results of gateway probes, dated by when the probe was *sent*."""

    def __init__(self, *, configured: bool) -> None:
        self.configured = configured
        self.last_ok_ms: int | None = None  # when the newest answered probe was sent
        self.last_failed_ms: int | None = None
        self._answered: deque[int] = deque(maxlen=_KEPT)

    def record(self, sent_ms: int, ok: bool) -> None:
        """One probe's result."""
        if ok:
            self._answered.append(sent_ms)
            self.last_ok_ms = max(sent_ms, self.last_ok_ms or sent_ms)
        else:
            self.last_failed_ms = max(sent_ms, self.last_failed_ms or sent_ms)

    def answers(self) -> bool | None:
        """Does the gateway answer now; None while nothing is known."""
        if self.last_ok_ms is None and self.last_failed_ms is None:
            return None
        return (self.last_ok_ms or -1) > (self.last_failed_ms or -1)

    def failed_since(self, since_ms: int) -> bool:
        """Did a probe sent after ``since_ms`` fail."""
        return self.last_failed_ms is not None and self.last_failed_ms > since_ms

    def answers_since(self, since_ms: int) -> int:
        """How many probes sent after ``since_ms`` were answered; 0 if any of them failed."""
        if self.failed_since(since_ms):
            return 0
        return sum(1 for sent in self._answered if sent > since_ms)

    def silent_for(self, now_ms: int, started_ms: int) -> int:
        """Milliseconds since the newest answered probe was sent (since the start if none was)."""
        return now_ms - (self.last_ok_ms if self.last_ok_ms is not None else started_ms)
