"""Two store threads without the threads: one serves, the other comes back and is brought up, step by step, with real files."""

import random
from collections.abc import Callable
from pathlib import Path

from zmqha.core import limits, shipment
from zmqha.core.actions import (
    Claim,
    Commit,
    CopyOut,
    Follow,
    Journal,
    ReadTable,
    StandDown,
    StoreAction,
    TakeCopy,
    TakeTable,
)
from zmqha.core.events import (
    Committed,
    CopyBegun,
    CopyDone,
    CopyPart,
    Event,
    Flushed,
    Inspected,
    JournalFull,
    Journalled,
    RoundDone,
    ShipmentRefused,
    TableNeeded,
    TablePart,
)
from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import NO_SESSION, CopyBegin, CopyEnd, CopyPages, CopyRound, Held, Standing, Way
from zmqha.core.position import NOWHERE, Epoch, Position
from zmqha.core.work import Append, ProducerRow, Work
from zmqha.store.node_state import STATE_FILE, NodeState
from zmqha.store.writer import StoreThread

SEGMENT = 256 * 1024
EPOCH = Epoch(1, 7)


class Cut(Exception):
    """The link breaks here."""


class Machine:
    """A store thread whose steps are done here."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.name = name
        self.events: list[Event] = []
        state = NodeState(directory / STATE_FILE)
        state.load()
        self.thread = StoreThread(directory, state, name, SEGMENT, self.events.append)
        self.epoch = EPOCH
        self.number = self.value = 0
        self.position: Position | None = None
        self.taken: list[TakeCopy] = []  # every one, for ``replay``

    def replay(self, actions: list[TakeCopy]) -> list[Event]:
        """A copy again, as another machine took it; what was reported."""
        self.do(Follow(NodeFacts("c", self.name, 1, EPOCH, Standing.BEHIND)))
        return [said for action in actions for said in self.do(action)]

    def do(self, action: StoreAction) -> list[Event]:
        """One action, and what nobody waits for until there is nothing of it left; what it reported."""
        self.thread._do(action)
        if isinstance(action, Journal):
            self.thread._flush()
        while self.thread._patience_s() == 0:
            self.thread._background()
        said, self.events[:] = list(self.events), []
        return said

    def claim(self, epoch: Epoch = EPOCH) -> None:
        self.epoch = epoch
        self.do(StandDown())
        self.do(Claim(NodeFacts("c", self.name, 1, epoch, Standing.SOLE), epoch, "test", 0))

    def inspect(self) -> Inspected:
        """As after a fall to WAITING, or a start."""
        (said,) = self.do(StandDown())
        assert isinstance(said, Inspected)
        return said

    def commit(self, rng: random.Random, peer_high: int = 0, size: int = 3000) -> shipment.Shipment:
        """A Work with some batches of random bytes, sometimes one that drops an older value."""
        self.number += 1
        self.value += 1
        appends = tuple(Append(1, self.value * 10 + n, 1, rng.randbytes(rng.randint(1, size))) for n in range(rng.randint(1, 4)))
        dropped = (self.value - 15,) if self.value > 15 and rng.random() < 0.8 else ()
        rows = (ProducerRow(rng.randrange(200), 1, self.number),)
        work = Work(self.number, self.value, appends, producers=rows, dropped_values=dropped)
        (said,) = [each for each in self.do(Commit(work, self.epoch, True, peer_high, 0)) if isinstance(each, Committed)]
        self.position = said.shipment.position
        return said.shipment


class Copy:
    """What a copy amounted to: its way, the bytes sent, how many rounds."""

    def __init__(self) -> None:
        self.ways: list[Way] = []
        self.sent = 0
        self.rounds = 0
        self.asked = 0  # tables


def bring_up(
    source: Machine, target: Machine, held: Held, *, copy: int = 1, meanwhile: Callable[[], object] = lambda: None,
    cut_after: int = 1 << 60,
) -> Copy:  # fmt: skip
    """From Follow to the last page. ``meanwhile`` is called after each frame; ``cut_after`` bytes the link breaks (Cut)."""
    done = Copy()
    target.do(Follow(NodeFacts("c", target.name, 1, EPOCH, Standing.BEHIND)))
    todo: list[Event] = source.do(CopyOut(copy, True, limits.COPY_WINDOW_BYTES, held))
    while todo:
        event = todo.pop(0)
        match event:
            case TableNeeded(partial=partial):
                done.asked += 1
                for part in target.do(ReadTable(copy, partial)):
                    assert isinstance(part, TablePart)
                    todo += source.do(TakeTable(copy, part.first, part.sums, part.last))
            case CopyBegun(page_size=psize, pages=pages, way=way):
                done.ways.append(way)
                take(target, CopyBegin(NO_SESSION, NO_SESSION, copy, psize, pages, way))
            case CopyPart(runs=runs, payload=payload, digest=digest):
                done.sent += len(payload)
                take(target, CopyPages(NO_SESSION, NO_SESSION, runs, digest), payload)
                if not any(isinstance(each, CopyDone) for each in todo):
                    meanwhile()
                if done.sent >= cut_after:
                    raise Cut
                todo += source.do(CopyOut(copy, False, len(payload)))
            case RoundDone(position=position, meta=meta):
                said = take(target, CopyRound(NO_SESSION, NO_SESSION, position, meta, done.sent))
                done.rounds += 1
                assert (said.position, said.rounds, said.whole) == (position, done.rounds, False)
                meanwhile()
                todo += source.do(CopyOut(copy, False, 0, next_round=True))
            case CopyDone(position=position, meta=meta):
                said = take(target, CopyEnd(NO_SESSION, NO_SESSION, position, meta, done.sent))
                assert said.whole and said.position == position
                target.position = position
            case Committed() | Flushed():
                pass
            case _:
                raise AssertionError(event)
    return done


def followed(a_directory: Path, b_directory: Path) -> tuple[Machine, Machine, random.Random]:
    """One that serves and has committed a little, one that follows and is in sync."""
    a, b, rng = Machine(a_directory, "a"), Machine(b_directory, "b"), random.Random(3)
    a.claim()
    for _ in range(30):
        a.commit(rng)
    bring_up(a, b, Held())
    for _ in range(5):
        stream(a, b, a.commit(rng, peer_high=(b.position or NOWHERE).txn))
    return a, b, rng


def take(target: Machine, message: CopyBegin | CopyPages | CopyRound | CopyEnd, payload: bytes = b"") -> Journalled:
    action = TakeCopy(message, payload)
    target.taken.append(action)
    (said,) = target.do(action)
    assert isinstance(said, Journalled), said
    return said


def stream(source: Machine, target: Machine, ship: shipment.Shipment) -> None:
    """A shipment, taken and durable."""
    for chunk in shipment.chunks(ship):
        said = target.do(Journal(chunk))
        assert not any(isinstance(each, ShipmentRefused | JournalFull) for each in said), said
    target.position = ship.position
