"""The stand-in for the gateway: a TCP listener of the demo itself. It notes when it was asked, and answers by accepting.

While it is mute nothing listens, so every question fails at once.
"""

import contextlib
import socket
import threading
import time
from collections import deque

_KEPT = 512  # questions remembered; two servers ask twice a second at rest


class Gateway:
    """Answers as long as the demo runs. Ended by ``close``."""

    def __init__(self) -> None:
        self._answered: deque[float] = deque(maxlen=_KEPT)
        self._listen(0)
        self._port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"

    def mute(self) -> None:
        """Answer nobody until ``speak``."""
        self.close()

    def speak(self) -> None:
        """Answer again."""
        self._listen(self._port)

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._thread = threading.Thread(target=self._answer, name="demo-gateway", daemon=True)
        self._thread.start()

    def first_answer(self, since: float) -> float | None:
        """When it first answered after ``since``; seconds since 1970."""
        return next((moment for moment in list(self._answered) if moment >= since), None)

    def close(self) -> None:
        """Refuse from now on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(1.0)

    def _answer(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                question = self._listener.accept()[0]
                self._answered.append(time.time())
                question.close()
