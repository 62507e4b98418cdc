"""What a machine wants done: recorded in order, handed over once.

Several machines share a turn and most turns concern one of them, so whoever drives them looks at ``actions`` before it asks.
"""

from typing import Generic, TypeVar

A = TypeVar("A")


class Outbox(Generic[A]):
    """Base of a machine without sockets, files, clock or threads."""

    def __init__(self) -> None:
        self.actions: list[A] = []

    def take_actions(self) -> list[A]:
        """Ordered work, handed over once."""
        taken, self.actions = self.actions, []
        return taken
