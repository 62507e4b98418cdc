"""Ctrl-C, SIGTERM and a closed terminal during the demo: they end it, and never its tidying up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Each of them raises KeyboardInterrupt in the main thread."""
    with _answering(_interrupt):
        yield


@contextmanager
def shielded() -> Iterator[None]:
    """Each of them is ignored."""
    with _answering(signal.SIG_IGN):
        yield


@contextmanager
def _answering(how: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change how signals are answered, and only it is interrupted
        return
    before = {number: signal.signal(number, how) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
