"""Time as a number, and what is to happen when. One heap; ties are settled by the order of asking, so a seed repeats exactly."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Clock:
    """Milliseconds since the simulation began."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def at(self, when_ms: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call then; who is called must know by itself whether it still matters."""
        self._asked += 1
        heappush(self._heap, (max(when_ms, self.now_ms), self._asked, call, arguments))

    def after(self, delay_ms: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call so much later."""
        self.at(self.now_ms + delay_ms, call, *arguments)

    def run_until(self, end_ms: int) -> None:
        """Let everything happen that is due up to and including ``end_ms``."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            self.now_ms, _, call, arguments = heappop(heap)
            call(*arguments)
        self.now_ms = end_ms
