"""Until when one call may wait, where it waits more than once."""

import time


class Deadline:
    """``seconds`` from now; None: never."""

    __slots__ = ("_at",)

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds, not below 0."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())
