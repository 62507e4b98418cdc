"""How many messages a consumer may have outstanding: what it gets through in a round trip, and a little more. Pure.

A consumer that works longer on a message than a round trip takes gains nothing by many, and keeps them from others; one that is quicker
waits for the round trip, unless enough messages are on their way. A round trip lasts from an ACK to its ACKED. What the application has
finished meanwhile is compared with the window, which doubles or halves. (TCP sizes a receiver's window likewise: dynamic right-sizing.)

An application that has all of it in its hands and asks for more, as one that collects before it acknowledges, gets more at once: more
messages, and more bytes, of which there are few at first so that large messages do not fill this process.
"""

from collections.abc import Iterable

from zmqha.core import limits
from zmqha.core.client_protocol import Range

WINDOW_MIN = 100  # messages outstanding at first, and of a slow consumer; less if ``prefetch`` is
BYTES = 16 * limits.MIB  # outstanding at first
BYTES_MAX = limits.CREDIT_BYTES_MAX


class Window:
    """Of one subscription."""

    __slots__ = ("_finished", "_trip", "bytes", "least", "most", "size")

    def __init__(self, most: int, least: int = WINDOW_MIN) -> None:
        self.most = most
        self.least = min(least, most)
        self.size = self.least
        self.bytes = BYTES
        self._finished = 0  # messages, ever
        self._trip: tuple[Range, int] | None = None  # a round trip is on: (a range of its ACK, what was finished by then)

    def finish(self, messages: int) -> None:
        """The application has done with so many."""
        self._finished += messages

    def asked(self, first: Range) -> None:
        """An ACK leaves that begins with this range."""
        if self._trip is None:
            self._trip = first, self._finished

    def answered(self, ranges: Iterable[Range]) -> None:
        """The answer to an ACK of these is there: if it is the one that is waited for, does the window fit."""
        if self._trip is None or self._trip[0] not in ranges:
            return
        finished, self._trip = self._finished - self._trip[1], None
        if 2 * finished >= self.size:
            self.size = min(2 * self.size, self.most)
        elif 8 * finished < self.size:
            self.size = max(self.size // 2, self.least)

    def starve(self, held: int, heaviest: int) -> bool:
        """The application has so many messages in its hands, of at most so many bytes, and asks for more; whether it may get some."""
        before = self.size, self.bytes
        if held >= self.size:
            self.size = min(2 * self.size, self.most)
            self.least = self.size  # as much is at work at once: that it is slow is no sign
        if (held + 1) * heaviest > self.bytes:
            self.bytes = min(2 * self.bytes, BYTES_MAX)
        return (self.size, self.bytes) != before

    def lost(self) -> None:
        """No answer will come."""
        self._trip = None
