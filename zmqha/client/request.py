"""Questions that have one answer (ADMIN), and who waits for it. Pure data, guarded by the engine's lock."""

from typing import Any

from zmqha.core.client_protocol import Command
from zmqha.errors import ZmqhaError


class Request:
    """One question. ``server``: index of the host to ask, None = the active one, or whoever answers if there is none."""

    __slots__ = ("answer", "asked", "command", "done", "error", "number", "server", "start")

    def __init__(self, number: int, command: Command, server: int | None, start: int) -> None:
        self.number = number
        self.command = command
        self.server = server
        self.start = start  # ms of the engine's clock
        self.asked: int | None = None  # the server it was sent to
        self.done = False
        self.answer: Any = None
        self.error: ZmqhaError | None = None

    def settle(self, answer: Any = None, error: ZmqhaError | None = None) -> None:
        """The outcome."""
        self.done, self.answer, self.error = True, answer, error
