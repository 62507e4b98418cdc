"""Hand-over to the reactor from another thread (the store's): objects in a queue, one wake-up per burst.

Only immutable values may cross; nothing else is shared. The wake-up is an eventfd: as fast as an inproc PAIR (1.7 and 1.9 us
with the poll), but any thread may write to it, while a ZeroMQ socket belongs to one.
"""

import os
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Many threads may ``put``, one thread ``take``s. Register ``fd`` for reading in the taker's poller."""

    def __init__(self) -> None:
        """Raises OSError (EMFILE)."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._queue: SimpleQueue[T] = SimpleQueue()
        self._awake = False  # a wake-up is on its way; the order of the steps below makes a lost one impossible
        self._impatient = True

    def fileno(self) -> int:
        """For pollers that ask objects."""
        return self.fd

    def put(self, item: T) -> None:
        """Any thread; never waits."""
        self._queue.put(item)
        self._wake()

    def put_aside(self, item: T) -> None:
        """As ``put``, but it wakes the taker only if that ``awaits`` such objects; else they lie there until it is awake anyway."""
        self._queue.put(item)
        if self._impatient:
            self._wake()

    def awaits(self, impatient: bool) -> None:
        """The taker, before it sleeps: does it wait for what is put aside."""
        self._impatient = impatient  # first, then the look: whatever is put aside in between wakes
        if impatient and not self._queue.empty():
            self._wake()

    @property
    def filled(self) -> bool:
        """The taker: is there anything."""
        return not self._queue.empty()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            os.eventfd_write(self.fd, 1)

    def take(self, budget: int) -> list[T]:
        """Up to ``budget`` objects, oldest first. Leaves the descriptor readable while there are more."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        self._awake = False
        items: list[T] = []
        try:
            for _ in range(budget):
                items.append(self._queue.get_nowait())
        except Empty:
            return items
        if not self._queue.empty():
            self._wake()
        return items

    def close(self) -> None:
        """When no thread will put any more."""
        os.close(self.fd)
