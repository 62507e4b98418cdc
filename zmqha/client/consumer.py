"""One subscription: what the server handed out, what of it is acknowledged, and what must be said about it. Pure.

Every offset that came is, here, in one of::

    held       delivered; waits in the buffer or with the application
    acking     acknowledged by the application, not yet recorded by a server (no ACKED)
    (nowhere)  recorded, or given back

After a takeover SUBSCRIBE lists held and acking, so the new active counts them as ours, and ACK says acking again. What is
delivered although it is held here is dropped; what is delivered although it is acknowledged is dropped and acknowledged again.
Acknowledgements are collected and leave as ranges, one command per turn of the I/O thread.

The caller (``Engine``) holds the lock, sends what ``take`` returns and wakes who waits.
"""

from array import array
from collections import deque
from enum import IntEnum

from zmqha.client.ranges import Ranges
from zmqha.core import limits
from zmqha.core.client_protocol import Ack, Command, Credit, Deliver, Nack, Range, Subscribe, Unsubscribe
from zmqha.core.message import HEADER_BYTES, index_of, read_head
from zmqha.errors import ZmqhaError

CREDIT_BYTES = 16 * limits.MIB  # a consumer's outstanding bytes: large messages must not fill this process
HELD_RANGES_MAX = 2000  # in one SUBSCRIBE: 19 bytes each stay below the bound of a control frame
_INDEX_ENTRY = 4


class Stage(IntEnum):
    """What the server knows of the subscription."""

    WANTED = 0  # SUBSCRIBE is to be sent
    ASKED = 1  # and is unanswered
    OPEN = 2
    LEAVING = 3  # UNSUBSCRIBE is unanswered
    LEFT = 4  # and answered, some acknowledgements are not recorded yet
    CLOSED = 5


class Delivery:
    """A batch that came; messages [at, stop) of it are to be handed out. Records are found through the index, when asked for."""

    __slots__ = ("at", "base", "batch", "deliveries", "destination", "ends", "first", "origin", "priority", "redelivered", "stop")

    def __init__(self, destination: str, command: Deliver) -> None:
        head = read_head(command.batch)  # ProtocolError
        self.destination = destination
        self.batch = command.batch
        self.first = command.first
        self.deliveries = command.deliveries
        self.redelivered = command.redelivered
        self.priority = head.priority
        self.base = head.base
        self.ends: array[int] = index_of(command.batch, head.count)
        self.origin = HEADER_BYTES + _INDEX_ENTRY * head.count - head.base  # add to an index entry: position in ``batch``
        self.at = 0
        self.stop = head.count

    def part(self, first: int, end: int) -> "Delivery":
        """Offsets [first, end) of this one."""
        other: Delivery = object.__new__(Delivery)
        for name in Delivery.__slots__:
            setattr(other, name, getattr(self, name))
        other.at, other.stop = first - self.first, end - self.first
        return other


class Subscription:
    """See above. ``number`` is unique in the client."""

    def __init__(self, number: int, destination: str, prefetch: int) -> None:
        self.number = number
        self.destination = destination
        self.prefetch = prefetch
        self.stage = Stage.WANTED
        self.closing = False
        self.error: ZmqhaError | None = None  # why it was refused
        self.buffer: deque[Delivery] = deque()
        self.held = Ranges()
        self.acking = Ranges()
        self._done: list[list[int]] = []  # acknowledged by the application, as [first, end); not yet in ``acking``
        self._unsaid: list[Range] = []  # in ``acking``, not sent in this session
        self._back: list[tuple[int, int]] = []  # (delay ms, offset) to give back

    @property
    def owes(self) -> bool:
        """Something is to be said, or the server owes an answer."""
        if self.stage in (Stage.WANTED, Stage.ASKED, Stage.LEAVING):
            return True
        return self.stage is not Stage.CLOSED and bool(self._done or self._unsaid or self._back or self.acking)

    # --- the application's side ---------------------------------------------------------------------------------------------

    def ack(self, offset: int) -> bool:
        """The application is done with this message; True if it is the first since the last ``take``: wake the I/O thread."""
        done = self._done
        if not done:
            done.append([offset, offset + 1])
            return True
        last = done[-1]
        if last[1] == offset:
            last[1] = offset + 1
        else:
            done.append([offset, offset + 1])
        return False

    def nack(self, offset: int, delay_ms: int) -> None:
        """The application gives this message back, to be delivered again after the delay."""
        self._back.append((delay_ms, offset))

    def close(self) -> None:
        """No more messages: acknowledge what is done, give back the rest."""
        self.closing = True
        self.buffer.clear()

    # --- the server's side --------------------------------------------------------------------------------------------------

    def subscribed(self) -> None:
        """SUBSCRIBE was answered."""
        if self.stage is Stage.ASKED:
            self.stage = Stage.OPEN

    def refused(self, error: ZmqhaError) -> None:
        """SUBSCRIBE was answered with an error, or the queue is gone: it ends here."""
        self.error = error
        self.forget()

    def unsubscribed(self) -> None:
        """UNSUBSCRIBE was answered."""
        if self.stage is Stage.LEAVING:
            self.stage = Stage.LEFT
            self.held.clear()
            self._end_if_recorded()

    def forget(self) -> None:
        """Nothing is said or expected any more."""
        self.stage = Stage.CLOSED
        self.buffer.clear()
        self.held.clear()
        self.acking.clear()
        self._done, self._unsaid, self._back = [], [], []

    def deliver(self, command: Deliver) -> bool:
        """Messages came; whether any of them is new here. Raises ProtocolError."""
        delivery = Delivery(self.destination, command)
        if self.closing or self.stage not in (Stage.ASKED, Stage.OPEN):
            return False
        self._gather()
        first, end = delivery.first, delivery.first + delivery.stop
        again = self.acking.within(first, end)
        if not again and not self.held.within(first, end):
            self.held.add(first, end)
            self.buffer.append(delivery)
            return True
        self._unsaid += again
        fresh = [part for start, stop in self.held.gaps(first, end) for part in Ranges(self.acking.gaps(start, stop))]
        for start, stop in fresh:
            self.held.add(start, stop)
            self.buffer.append(delivery.part(start, stop))
        return bool(fresh)

    def acked(self, ranges: tuple[Range, ...]) -> None:
        """These acknowledgements are recorded."""
        for first, end in ranges:
            self.acking.remove(first, end)
        self._end_if_recorded()

    def lost(self) -> None:
        """The session is over; a new one begins with SUBSCRIBE, unless nothing is left to say."""
        self._gather()
        self._unsaid = []
        if self.stage is not Stage.CLOSED:
            self.stage = Stage.WANTED

    def take(self) -> list[Command]:
        """What to send now, in this order. Only while a session is open."""
        if self.stage is Stage.CLOSED:
            return []
        self._gather()
        commands = self._give_back()
        if self.stage is Stage.WANTED:
            if self.closing and not self.acking:
                self.forget()
                return []
            self.stage = Stage.ASKED
            commands = self._subscribe()  # instead of NACK: in a new session it is enough not to list a message as held
        commands += self._acknowledge()
        if self.closing and self.stage in (Stage.ASKED, Stage.OPEN):
            self.stage = Stage.LEAVING
            commands.append(Unsubscribe(self.number))
        return commands

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """From single acknowledgements to ranges."""
        if not self._done:
            return
        done, self._done = self._done, []
        for first, end in Ranges((first, end) for first, end in done):
            self.held.remove(first, end)
            self.acking.add(first, end)
            self._unsaid.append((first, end))

    def _give_back(self) -> list[Command]:
        """NACK, by delay."""
        if not self._back:
            return []
        by_delay: dict[int, Ranges] = {}
        for delay_ms, offset in self._back:
            by_delay.setdefault(delay_ms, Ranges()).add(offset, offset + 1)
            self.held.remove(offset, offset + 1)
        self._back = []
        return [Nack(self.number, delay_ms, part) for delay_ms, ranges in by_delay.items() for part in _frames(list(ranges))]

    def _subscribe(self) -> list[Command]:
        """SUBSCRIBE, with room for what is acknowledged and not recorded; what is closing takes nothing new."""
        self._unsaid = list(self.acking)
        saying = self.acking.count()
        wanted = max(1, saying) if self.closing else self.prefetch + saying
        held = Ranges(self.acking)
        if not self.closing:
            for first, end in self.held:
                held.add(first, end)
        room = min(limits.CREDIT_MESSAGES_MAX, wanted)
        command = Subscribe(self.number, self.destination, room, CREDIT_BYTES, tuple(held)[:HELD_RANGES_MAX])
        if saying and not self.closing:
            return [command, Credit(self.number, self.prefetch, CREDIT_BYTES)]
        return [command]

    def _acknowledge(self) -> list[Command]:
        unsaid, self._unsaid = self._unsaid, []
        return [Ack(self.number, part) for part in _frames(unsaid)]

    def _end_if_recorded(self) -> None:
        if self.stage is Stage.LEFT and not self.acking:
            self.forget()


def _frames(ranges: list[Range]) -> list[tuple[Range, ...]]:
    """As many ranges as one command takes, in each part."""
    most = limits.RANGES_PER_FRAME
    return [tuple(ranges[at : at + most]) for at in range(0, len(ranges), most)]
