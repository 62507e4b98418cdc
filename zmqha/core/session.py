"""One client's session and its subscriptions: what is in flight to whom, and how much more may be.

A session lives from OPEN until CLOSE, silence, a second OPEN of the same connection, or the end of this server's being active.
Whatever ends it, its in-flight ranges go back to their queues (``Service`` sees to it). Nothing here talks to anybody.
"""

from typing import TYPE_CHECKING

from zmqha.core.ranges import RangeMap

if TYPE_CHECKING:
    from zmqha.core.queues import Queue


class Subscription:
    """A consumer of one queue. Credit bounds messages and bytes that are out and not acknowledged."""

    __slots__ = ("client", "in_flight", "max_bytes", "max_messages", "number", "out_bytes", "out_messages", "queue", "waiting")

    def __init__(self, client: bytes, number: int, queue: "Queue", *, max_messages: int, max_bytes: int) -> None:
        self.client = client
        self.number = number
        self.queue = queue
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.in_flight = RangeMap()  # tag: deliveries, this one included
        self.out_messages = 0
        self.out_bytes = 0
        self.waiting = False  # it stands in its queue's ring of consumers with credit

    @property
    def has_credit(self) -> bool:
        """Whether it may get a message, of any size if it has none."""
        return self.out_messages < self.max_messages and (self.out_bytes < self.max_bytes or self.out_messages == 0)

    def room(self, weight: int) -> int:
        """How many messages of ``weight`` bytes each it may get now; at least one if it has none."""
        messages = self.max_messages - self.out_messages
        fitting = (self.max_bytes - self.out_bytes) // weight
        if fitting < 1 and self.out_messages == 0:
            fitting = 1
        return min(messages, fitting)


class Session:
    """A client that has said OPEN. ``client``: its connection; ``instance``: the same in all its sessions, 0 if it does not say."""

    __slots__ = ("client", "client_id", "heard_ms", "instance", "subscriptions")

    def __init__(self, client: bytes, client_id: str, now_ms: int, instance: int = 0) -> None:
        self.client = client
        self.client_id = client_id
        self.heard_ms = now_ms
        self.instance = instance
        self.subscriptions: dict[int, Subscription] = {}

    def forget_removed(self) -> None:
        """Let go of the subscriptions to removed queues. Until the room is needed they stay: what their clients still say of them, not
        knowing that the queue is gone, is no breach of the protocol."""
        for number in [number for number, each in self.subscriptions.items() if each.queue.removed]:
            del self.subscriptions[number]
