"""A machine's disk: what it keeps, and how long it takes.

What survives: a killed process leaves everything that was written, to the kernel; a power cut leaves what was synced, and by chance
more: the transaction that is being flushed, some of a journal's unflushed end. A record of node.state that was being written counts,
or is torn and the older slot counts.
A store is a Position in the ``history``, a flag that says whether a copy was put together wrongly, and one that says whether a bit of
it has flipped.
"""

from random import Random
from types import UnionType

from zmqha.core import actions as act
from zmqha.core import events as ev
from zmqha.core.facts import NodeFacts
from zmqha.core.position import Position

FREE_BYTES = 1 << 40


class Disk:
    """What a machine keeps without power."""

    def __init__(self) -> None:
        self.facts: NodeFacts | None = None
        self.writing: NodeFacts | None = None  # a slot of node.state that is written and not flushed
        self.position: Position | None = None  # of the store, as the kernel sees it; None: there is no store
        self.synced: Position | None = None  # what a power cut leaves
        self.corrupt = False  # a copy was completed without all of its parts, or on top of another store than its source meant
        self.partial = False  # an unfinished copy lies there
        self.rotten = False  # a bit of it has flipped
        self.flips = 0  # so many so far
        self.lies_since: Position | None = None  # it says "synced" and keeps nothing that came after this
        self.tears: bool | None = None  # whether a crash tears the slot that is being written; None: chance decides
        self._image: tuple[NodeFacts | None, Position | None] = (None, None)
        self.kept: tuple[Position, ev.KeptBranch] | None = None  # a store that has a second name
        self.generation = 0  # +1 when the disk was replaced

    def write(self, position: Position, *, synced: bool) -> None:
        """The store moves on; without sync only the transaction before is safe, until ``flush``."""
        self.synced = position if synced else self.position
        self.position = position

    def flush(self) -> None:
        """Everything written is safe."""
        self.synced = self.position

    def lose_power(self, random: Random) -> str:
        """What was not synced may be gone; what went."""
        lost = ""
        if self.lies_since is not None:
            self.position = self.synced = self.lies_since
        if self.position != self.synced and random.random() < 0.5:
            self.position = self.synced
            lost = "unflushed end of the store lost"
        self.synced = self.position
        return lost

    def crash(self, random: Random, *, power: bool) -> str:
        """A slot that was being written: whole, or torn and the older one counts; what became of it."""
        writing, self.writing = self.writing, None
        if writing is None:
            return ""
        if self.tears if self.tears is not None else random.random() < (0.5 if power else 0.1):
            return "torn slot of node.state"
        self.facts = writing
        return "unflushed slot of node.state counts"

    def save(self) -> None:
        """An image of the whole disk."""
        self._image = (self.facts, self.position)

    def restore(self) -> None:
        """Somebody puts the image back."""
        self.facts, self.position = self._image
        self.synced, self.writing = self.position, None

    def rot(self) -> None:
        """A bit of the store flips."""
        self.rotten = True
        self.flips += 1

    def kept_branch(self) -> ev.KeptBranch:
        """What is kept of the present store."""
        return self.kept[1] if self.kept is not None and self.kept[0] == self.position else ev.KeptBranch()

    def replace(self) -> None:
        """A new, empty one."""
        self.facts = self.writing = self.position = self.synced = self.kept = None
        self.corrupt = self.partial = self.rotten = False
        self.generation += 1


class Speed:
    """How long a disk takes, in ms; ``stall_ms`` comes on top of every sync while it lasts, ``step_ms`` once, inside a step."""

    def __init__(self, sync_ms: tuple[int, int] = (1, 6), page_ms: tuple[int, int] = (0, 2)) -> None:
        self._sync_ms = sync_ms
        self._page_ms = page_ms
        self.stall_ms = 0
        self.step_ms = 0
        self.step_kind: type | UnionType = act.Claim  # which step it stalls in
        self.steps_stalled = 0
        self.full = False

    def step_stall(self, action: act.Action) -> int:
        """Asked by each step that writes node.state."""
        if not self.step_ms or not isinstance(action, self.step_kind):
            return 0
        for_ms, self.step_ms = self.step_ms, 0
        self.steps_stalled += 1
        return for_ms

    def sync_ms(self, random: Random) -> int:
        return random.randint(*self._sync_ms) + self.stall_ms

    def page_ms(self, random: Random) -> int:
        return random.randint(*self._page_ms)
