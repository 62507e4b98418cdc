"""One subscription: what the server handed out, what of it is acknowledged, and what must be said about it. Pure.

Every offset that came is, here, in one of::

    held       delivered; waits in the buffer or with the application
    acking     acknowledged by the application, not yet recorded by a server (no ACKED)
    finished   acknowledged, but a takeover gave it to somebody else meanwhile
    (nowhere)  recorded, or given back

Offsets count in the store that delivered them. If two servers served alone and the session moves to the store of the other one, they
mean other messages there; so they do in a queue that was removed and made again meanwhile. Then all four are forgotten (``branch``
counts that), and what the application still says of them is ignored.

After a takeover SUBSCRIBE lists held and acking, so the new active counts them as ours, and ACK says acking again. What is
delivered although it is held here is dropped; what is delivered although it is acknowledged is dropped and acknowledged again.
Acknowledgements are collected and leave as ranges, one command per turn of the I/O thread.

The caller (``Engine``) holds the lock, sends what ``take`` returns and wakes who waits.
"""

from array import array
from collections import deque
from collections.abc import Collection, Iterable
from enum import IntEnum

from zmqha.client.ranges import Ranges
from zmqha.client.window import Window
from zmqha.core import limits
from zmqha.core.client_protocol import Ack, Command, Credit, Deliver, Nack, Range, Subscribe, Unsubscribe
from zmqha.core.message import HEADER_BYTES, index_of, read_head
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.errors import ZmqhaError

HELD_RANGES_MAX = 2000  # in one SUBSCRIBE: 19 bytes each stay below the bound of a control frame
FINISHED_RANGES_MAX = 1000  # of what a takeover took away, remembered at most; the highest
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
        self.window = Window(prefetch)
        self.stage = Stage.WANTED
        self.closing = False
        self.error: ZmqhaError | None = None  # why it was refused
        self.buffer: deque[Delivery] = deque()
        self.held = Ranges()
        self.acking = Ranges()
        self.finished = Ranges()  # done with here, but in flight to somebody else or nobody since a takeover
        self._strayed = Ranges()  # taken away once: the application may have an older copy of what comes again
        self.branch = 0  # counts changes to a store where the offsets known here mean other messages
        self.losses = 0  # counts times that something held was taken away: who iterates must look again
        self._epoch = NO_EPOCH  # under which something was delivered last
        self._queue = 0  # number of the queue that offsets count in; 0 = not known yet
        self._listed: tuple[Range, ...] = ()  # as held in the SUBSCRIBE that is unanswered
        self._done: list[list[int]] = []  # acknowledged by the application, as [first, end); not yet in ``acking``
        self._unsaid: list[Range] = []  # in ``acking``, not sent in this session
        self._back: list[tuple[int, int]] = []  # (delay ms, offset) to give back
        self._said = (0, 0)  # messages and bytes: what the server knows of the window
        self._heaviest = 0  # bytes of a message that came, on an average of its batch, as the server counts credit

    @property
    def owes(self) -> bool:
        """Something is to be said, or the server owes an answer."""
        if self.stage in (Stage.WANTED, Stage.ASKED, Stage.LEAVING):
            return True
        return self.stage is not Stage.CLOSED and bool(self._done or self._unsaid or self._back or self.acking)

    # --- the application's side ---------------------------------------------------------------------------------------------

    def ack(self, offset: int) -> bool:
        """The application is done with this message; True if it is the first since the last ``take``: wake the I/O thread."""
        if self.stage in (Stage.LEAVING, Stage.LEFT, Stage.CLOSED):
            return False  # too late: it went back to the queue
        done = self._done
        if self._strayed and self._strayed.within(offset, offset + 1):
            done.append([offset, offset + 1])
            self._gather()
            self._keep_held()  # a newer copy, not handed out yet, need not be seen
            return True
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

    def starves(self) -> bool:
        """The application waits while it holds all that may be outstanding; True if more may be from now on: wake the I/O thread."""
        self._gather()
        return self.window.starve(self.held.count(), self._heaviest)

    def close(self) -> None:
        """No more messages: acknowledge what is done, give back the rest."""
        self.closing = True
        self.losses += 1
        self.buffer.clear()

    # --- the server's side --------------------------------------------------------------------------------------------------

    def subscribed(self, taken: Iterable[Range] | None, epochs: Collection[Epoch] | None = None, queue: int = 0) -> None:
        """SUBSCRIBE was answered. ``taken``: what of the listed ranges is in flight to us again (None: all of it).

        The rest is recorded already, or somebody else has it now: it is neither handed out nor acknowledged by us. ``epochs``: of the
        server's store (None: it does not say). ``queue``: number of the queue (0: it does not say).
        """
        if self.stage is not Stage.ASKED:
            return
        self.stage = Stage.OPEN
        self._gather()
        made_again = 0 != queue != self._queue != 0
        self._queue = queue
        if made_again or (epochs is not None and self._epoch != NO_EPOCH and self._epoch not in epochs):
            self._change_branch(taken or ())
        elif taken is not None and self._listed:
            ours = Ranges(taken)
            for listed_first, listed_end in self._listed:
                for first, end in list(ours.gaps(listed_first, listed_end)):
                    self._lose(first, end)
        self._listed = ()
        self._unsaid = list(self.acking)

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
        self.losses += 1
        self.buffer.clear()
        self.held.clear()
        self.acking.clear()
        self.finished.clear()
        self._done, self._unsaid, self._back = [], [], []

    def deliver(self, command: Deliver, epoch: Epoch = NO_EPOCH) -> bool:
        """Messages came; whether any of them is new here. Raises ProtocolError."""
        delivery = Delivery(self.destination, command)
        if self.closing or self.stage not in (Stage.ASKED, Stage.OPEN):
            return False
        self._epoch = epoch
        self._heaviest = max(self._heaviest, len(command.batch) // delivery.stop)
        self._gather()
        first, end = delivery.first, delivery.first + delivery.stop
        if not (self.held.within(first, end) or self.acking.within(first, end) or self.finished.within(first, end)):
            self.held.add(first, end)
            self.buffer.append(delivery)
            return True
        self._again(first, end)
        known = Ranges([*self.held.within(first, end), *self.acking.within(first, end)])
        fresh = list(known.gaps(first, end))
        for start, stop in fresh:
            self.held.add(start, stop)
            self.buffer.append(delivery.part(start, stop))
        return bool(fresh)

    def acked(self, recorded: Iterable[Range], asked: Iterable[Range]) -> None:
        """ACK of the ranges ``asked`` was answered. What is not recorded was not in flight to us: we have done with it."""
        self._gather()  # what is finished by now counts
        self.window.answered(asked)
        for first, end in recorded:
            self.acking.remove(first, end)
        for first, end in asked:
            for start, stop in self.acking.within(first, end):
                self._lose(start, stop)
        self._end_if_recorded()

    def lost(self) -> None:
        """The session is over; a new one begins with SUBSCRIBE, unless nothing is left to say."""
        self._gather()
        self._unsaid, self._listed = [], ()
        self.window.lost()
        if self.stage is not Stage.CLOSED:
            self.stage = Stage.WANTED

    def take(self) -> list[Command]:
        """What to send now, in this order. Only while a session is open."""
        self._gather()
        match self.stage:
            case Stage.WANTED:
                self._give_back()  # instead of NACK: in a new session it is enough not to list a message as held
                if self.closing and not self.acking:
                    self.forget()
                    return []
                return self._subscribe()
            case Stage.OPEN:
                commands = self._give_back() + self._acknowledge() + self._credit()
                if self.closing:
                    self.stage = Stage.LEAVING
                    commands.append(Unsubscribe(self.number))
                return commands
            case _:  # wait for the answer
                return []

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """From single acknowledgements to ranges."""
        if not self._done:
            return
        done, self._done = self._done, []
        for first, end in Ranges((first, end) for first, end in done):
            self.window.finish(end - first)
            for start, stop in self.held.within(first, end):
                self.held.remove(start, stop)
                self.acking.add(start, stop)
                self._unsaid.append((start, stop))
            for start, stop in list(self.acking.gaps(first, end)):
                self._finish(start, stop)

    def _finish(self, first: int, end: int) -> None:
        """The application is done with what somebody else holds now; if it comes here again, it need not see it again."""
        self._bounded_add(self.finished, first, end)

    @staticmethod
    def _bounded_add(ranges: Ranges, first: int, end: int) -> None:
        """Remember; the lowest goes where there are too many."""
        ranges.add(first, end)
        if len(ranges) > FINISHED_RANGES_MAX:
            ranges.remove(ranges.firsts[0], ranges.ends[0])

    def _keep_held(self) -> None:
        """What waits in the buffer, or with who iterates, is only what is held."""
        self.losses += 1
        self.buffer = deque(part for delivery in self.buffer for part in self.still_held(delivery))

    def _again(self, first: int, end: int) -> None:
        """Acknowledge what came although the application is done with it."""
        for start, stop in self.finished.within(first, end):
            self.finished.remove(start, stop)
            self.acking.add(start, stop)
        self._unsaid += self.acking.within(first, end)

    def _lose(self, first: int, end: int) -> None:
        """[first, end) is not in flight to us any more."""
        for start, stop in self.acking.within(first, end):
            self.acking.remove(start, stop)
            self._finish(start, stop)
        if not self.held.within(first, end):
            return
        self.held.remove(first, end)
        self._bounded_add(self._strayed, first, end)
        self._keep_held()

    def _change_branch(self, taken: Iterable[Range]) -> None:
        """Forget every offset; what the server took for ours goes back: nobody has seen those messages."""
        self.branch += 1
        self.losses += 1
        self.buffer.clear()
        self.held.clear()
        self.acking.clear()
        self.finished.clear()
        self._strayed.clear()
        self._done, self._unsaid = [], []
        self._back = [(0, offset) for first, end in taken for offset in range(first, end)]

    def still_held(self, delivery: Delivery) -> list[Delivery]:
        """The parts of a delivery's messages, as far as not handed out, that are still ours."""
        if self.closing:
            return []
        first = delivery.first
        return [delivery.part(*pair) for pair in self.held.within(first + delivery.at, first + delivery.stop)]

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
        self.stage = Stage.ASKED
        saying = self.acking.count()
        wanted = max(1, saying) if self.closing else max(self.window.size, self.held.count()) + saying
        held = Ranges(self.acking)
        if not self.closing:
            for first, end in self.held:
                held.add(first, end)
        room = min(limits.CREDIT_MESSAGES_MAX, wanted)
        self._listed = tuple(held)[:HELD_RANGES_MAX]
        command = Subscribe(self.number, self.destination, room, self.window.bytes, self._listed, self._queue)
        self._said = room, self.window.bytes
        return [command, *self._credit()]

    def _acknowledge(self) -> list[Command]:
        unsaid, self._unsaid = self._unsaid, []
        if unsaid:
            self.window.asked(unsaid[0])
        return [Ack(self.number, part) for part in _frames(unsaid)]

    def _credit(self) -> list[Command]:
        room = self.window.size, self.window.bytes
        if self.closing or self._said == room:
            return []
        self._said = room
        return [Credit(self.number, *room)]

    def _end_if_recorded(self) -> None:
        if self.stage is Stage.LEFT and not self.acking:
            self.forget()


def _frames(ranges: list[Range]) -> list[tuple[Range, ...]]:
    """As many ranges as one command takes, in each part."""
    most = limits.RANGES_PER_FRAME
    return [tuple(ranges[at : at + most]) for at in range(0, len(ranges), most)]
