"""Waiting: one poller over every socket and descriptor of the server, with signals as just another descriptor.

Sockets come and go (a PAIR is rebuilt on every loss): ``watch`` says anew what to wait for. It only wakes up; who reads what, in which
order, is the node's.
"""

import os
import signal
from collections.abc import Iterable

import zmq

Waitable = zmq.Socket[bytes] | int


class Reactor:
    """Wakes the server's one loop."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._watched: set[Waitable] = set()
        self._signals: list[int] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(())

    def catch(self, *signals: int) -> None:
        """Turn these signals into wake-ups. Main thread only."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda caught, frame: self._signals.append(caught))

    def caught(self) -> list[int]:
        """Signals since the last call."""
        taken, self._signals = self._signals, []
        return taken

    def watch(self, sources: Iterable[Waitable | None]) -> None:
        """From now on wait for these, and for nothing else. One that was closed must be left out before the next ``wait``."""
        wanted: set[Waitable] = {source for source in sources if source is not None}
        wanted.add(self._wake_read)
        for gone in self._watched - wanted:
            self._poller.unregister(gone)
        for new in wanted - self._watched:
            self._poller.register(new, zmq.POLLIN)
        self._watched = wanted

    def wait(self, timeout_ms: int) -> set[Waitable]:
        """What is readable, after at most ``timeout_ms``."""
        ready: set[Waitable] = {source for source, _ in self._poller.poll(max(0, timeout_ms))}
        if self._wake_read in ready:
            os.read(self._wake_read, 512)
        return ready
