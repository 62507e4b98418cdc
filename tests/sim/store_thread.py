"""The store thread of a simulated server: store actions with delays, in order, each in the steps that the real one takes.

A crash may hit between the steps of Claim, PairUp, Follow, StandDown. Whoever has a store open finds a flipped bit within SCRUB_MS, as
long as it knows what was written (a store that is opened after a restart is taken as it is).
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

from tests.core.service_rig import ToyStore
from tests.sim.clock import Clock
from tests.sim.disk import Disk, Speed
from tests.sim.history import ROOT, History, Txn
from tests.sim.violation import Violation
from zmqha.core import actions as act
from zmqha.core import events as ev
from zmqha.core.branch import Difference, Done, Item, QueueCount, Survey, Undone, acknowledged, differences, items_of, past_of
from zmqha.core.facts import NodeFacts
from zmqha.core.limits import MIB
from zmqha.core.message import cut, stored_head
from zmqha.core.peer_protocol import CopyBegin, CopyEnd, CopyPages, CopyRound, Held, Way
from zmqha.core.position import NOWHERE, Mode, Position
from zmqha.core.shipment import Shipment
from zmqha.errors import NoSpace
from zmqha.store.shared_past import SharedPast

PAYLOAD = bytes(MIB)
SCRUB_MS = 300
KEPT = "-"  # in a copy's meta: a flipped bit stays flipped
Step = tuple[int, Callable[[], None]]


class _Copy:
    """A running copy, at its source: rounds of parts, on top of the store with the chain digest ``base`` (b"": of nothing)."""

    def __init__(self, request: act.CopyOut, serial: int, rounds: list[list[int]]) -> None:
        self.number = request.copy
        self.budget = request.budget
        self.serial = serial
        self.rounds = rounds
        self.sent = 0  # parts of this round
        self.base = b""
        self.by_table = False  # this round is what differs from a table of the base; else every page written since it
        self.position = NOWHERE  # pinned
        self.heals = True  # this round replaces whatever differs, a flipped bit too; False: only what was written since
        self.waits = False  # for a table, or for the follower to have taken a round

    @property
    def ready(self) -> bool:
        return self.budget > 0 and not self.waits

    def meta(self, rotten: bool) -> bytes:
        """What the follower must have for this to be a store: all parts of the round, and the right one below them; and whether it is
        damaged then."""
        rot = rotten if self.heals else KEPT
        return f"{self.serial} {len(self.rounds[0])} {self.base.hex() or '-'} {self.by_table:d} {rot}".encode()


class StoreThread:
    """Carries out store actions for one process. ``report`` takes its events; ``held`` says that the process is frozen or gone."""

    def __init__(
        self, clock: Clock, random: Random, disk: Disk, history: History, node: str, speed: Speed, report: Callable[[ev.Event], None],
        frozen_until: Callable[[], int],
    ) -> None:  # fmt: skip
        self.asked = self.progress = 0
        self.dead = False
        self.speed = speed
        self.store: ToyStore | None = None  # open for writing
        self.following = False
        self._target: dict[str, Any] | None = None
        self._taken: Position | None = None  # journalled, maybe not flushed
        self._unflushed: list[Position] = []
        self._copy: _Copy | None = None
        self._past = SharedPast()
        self._items: Iterator[Item] = iter(())
        self._refusals = 0
        self._opened = False  # just now, by a Claim that has not answered yet
        self._clock, self._random, self._disk, self._history, self._node = clock, random, disk, history, node
        self._report = report
        self._frozen_until = frozen_until
        self._inbox: deque[act.Action] = deque()
        self._busy = False
        self._sums = False  # of all pages, handed over from the replica
        self._told_rot = False
        self._counted_rot = False  # the sums of the copy are those of a flipped bit too
        self._halted = False  # a commit came upon a flipped bit
        self._written: Txn | None = None  # by the commit that is to be flushed
        self._as_it_is = False  # an operator promoted this very store
        clock.after(SCRUB_MS, self._scrub)

    @property
    def idle(self) -> bool:
        """Nothing is being done."""
        return not self._busy

    @property
    def pages(self) -> tuple[Position, int]:
        """As a toy: the chain digest stands for what all pages hold."""
        position = self._disk.position
        if position is None or self._unflushed or not (self.following or self.store is not None):
            return NOWHERE, 0
        return position, int.from_bytes(position.chain[:7], "little") * 2 + self._counted_rot + 1

    def put(self, action: act.Action) -> None:
        """Called by the node."""
        self.asked += 1
        self._inbox.append(action)
        self._next()

    def die(self, *, power: bool) -> str:
        """The process is gone; what it had written without flushing is the kernel's, or lost without power; what became of it."""
        self.dead = True
        if not self.following or not self._unflushed:
            return ""
        if self._random.random() >= (0.3 if power else 0.7):
            return "unflushed end of the journal lost"
        reached = self._random.choice(self._unflushed)  # records follow each other: a part of them is a shorter journal
        self._disk.position = reached
        if power:
            self._disk.synced = reached
        return "unflushed journal survives"

    def _scrub(self) -> None:
        """Look at the bytes of the store that is open."""
        if self.dead:
            return
        looks = (self.store is not None or self.following) and self._frozen_until() <= self._clock.now_ms
        if looks and self._disk.rotten and not self._told_rot:
            self._told_rot = True
            self._report(ev.Damaged("page 7 of the store does not hold what was written there"))
        self._clock.after(SCRUB_MS, self._scrub)

    # --- the thread ---------------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._busy or self.dead:
            return
        if self._inbox:
            self._busy = True
            if self._copy is not None and isinstance(self._inbox[0], act.Commit):
                self._copy_step()
            self._run(self._steps(self._inbox.popleft()), 0)
        elif self._copy is not None and self._copy.ready:
            self._busy = True
            self._run([(self.speed.page_ms(self._random), self._copy_step)], 0)

    def _run(self, steps: list[Step], index: int) -> None:
        if index == len(steps):
            self._busy = False
            self.progress += 1
            self._next()
            return
        self._clock.after(steps[index][0], self._step, steps, index)

    def _step(self, steps: list[Step], index: int) -> None:
        if self.dead:
            return
        until = self._frozen_until()
        if until > self._clock.now_ms:
            self._clock.at(until, self._step, steps, index)
            return
        steps[index][1]()
        self._run(steps, index + 1)

    def _steps(self, action: act.Action) -> list[Step]:
        sync, quick = self.speed.sync_ms(self._random), self.speed.page_ms(self._random)
        mirror: Step = (sync, lambda: None)  # the facts go into the other slot too, after the answer
        if isinstance(action, act.Claim | act.PairUp | act.Follow | act.SaveFacts):
            sync += self.speed.step_stall(action)
        if self._halted and isinstance(action, act.Commit | act.Claim | act.PairUp | act.CopyOut):
            return [(0, lambda: None)]
        match action:
            case act.Commit():
                return [(quick, lambda: self._commit(action)), (sync, lambda: self._flush_commit(action))]
            case act.Journal():
                chunks = [action.chunk]
                while self._inbox and isinstance(self._inbox[0], act.Journal):
                    chunks.append(self._inbox.popleft().chunk)  # type: ignore[union-attr]
                    self.progress += 1
                return [(quick, lambda: self._journal(chunks)), (sync, self._flush)]
            case act.SaveFacts(facts):
                return [*self._saving(facts, sync), (0, lambda: self._report(ev.FactsSaved())), mirror]
            case act.Claim() if self.speed.full and self.store is None and self._random.random() < 0.5:
                return [(sync, lambda: self._report(ev.NoRoom("the disk is full, says the simulation")))]
            case act.Claim():
                saving, opening = self._saving(action.facts, sync), (sync, lambda: self._open_for(action))
                first = self.store is None and self._disk.position is None and not self.following
                steps = [opening, *saving] if first else [*saving, opening]
                return [(sync, self._settle), *steps, (sync, lambda: self._claimed(action)), mirror]
            case act.PairUp():
                return [
                    *self._saving(action.facts, sync),
                    (quick, lambda: self._pair_up(action)),
                    (sync, lambda: self._paired()),
                    mirror,
                ]
            case act.StandDown():
                return [(quick, self._close), (sync, self._settle), (quick, lambda: self._inspect(action))]
            case act.Follow(facts):
                return [*self._saving(facts, sync), (quick, self._follow), mirror]
            case act.TakeCopy():
                slow = isinstance(action.message, CopyEnd | CopyRound)
                return [(sync if slow else quick, lambda: self._take_copy(action))]
            case act.Fetch():
                return [(quick, lambda: self._fetch(action))]
            case act.ReadTable():
                return [(quick, lambda: self._read_table(action))]
            case act.TakeTable():
                return [(0, lambda: self._take_table(action))]
            case act.CopyOut():
                return [(quick, lambda: self._copy_out(action))]
            case act.StopCopy():
                return [(0, self._stop_copy)]
            case act.KeepBranch():
                return [(sync, lambda: self._keep_branch(action))]
            case act.ReadBranch():
                return [(quick, lambda: self._read_branch(action))]
            case act.SettleBranch():
                return [(sync, lambda: self._settle_branch(action))]
        raise AssertionError(action)

    # --- serving ------------------------------------------------------------------------------------------------------------

    def _saving(self, facts: NodeFacts, sync_ms: int) -> list[Step]:
        """A slot is written, then flushed."""
        return [(0, lambda: self._write(facts)), (sync_ms, lambda: self._save(facts))]

    def _write(self, facts: NodeFacts) -> None:
        self._disk.writing = facts

    def _save(self, facts: NodeFacts) -> None:
        self._disk.facts, self._disk.writing = facts, None

    def _commit(self, action: act.Commit) -> None:
        if action.attempt < self._refusals:
            return
        assert self.store is not None, "a commit without an open store"
        assert self._disk.position is not None
        if self.speed.full:
            self._refusals += 1
            self._report(ev.CommitRefused(action.work.number, NoSpace("the disk is full", cause="the simulation", cure="wait")))
            return
        self._past.peer_holds(action.peer_high)
        txn = self._history.commit(self._disk.position, action.epoch, action.work, action.peer_high)
        self.store.apply(action.work)
        self._past.committed(txn.position.txn, action.work)
        self._disk.write(txn.position, synced=False)
        if self._comes_upon_rot():
            return
        self._written = txn
        if action.early:
            self._report(ev.Committed(action.work.number, _shipment(txn), None))

    def _flush_commit(self, action: act.Commit) -> None:
        txn, self._written = self._written, None
        if txn is None:
            return
        self._disk.flush()
        self._report(ev.Flushed(txn.position.txn))
        if not action.early:
            self._report(ev.Committed(action.work.number, _shipment(txn), None))

    def _comes_upon_rot(self) -> bool:
        """Did this transaction change the page that has rotted: then it has no other answer, and nothing is done until StandDown."""
        if not self._disk.rotten or self._as_it_is or self._random.random() > 0.3:
            return False
        self._halted = True
        self._stop_copy()
        self._report(ev.Damaged("page 7 of the store did not hold what was written there when a commit changed it", halted=True))
        return True

    def _settle(self) -> None:
        """Flush the journal, all of it; the replica is closed."""
        self._sums = self.following
        self._counted_rot = False
        if self.following:
            assert self._taken is not None
            self._disk.write(self._taken, synced=True)
        self._disk.synced = self._disk.position  # also what an earlier process left to the kernel
        self.following = False
        self._taken = None
        self._unflushed.clear()

    def _open_for(self, action: act.Claim) -> None:
        if self.store is None:
            self._open()
        self._as_it_is = action.as_it_is
        first = self._disk.position is None
        txn = self._begin_epoch(action.epoch, Mode.SOLE, action.reason, action.peer_holds)
        if first:
            self._disk.write(txn.position, synced=True)  # SOLE is written next
        self._comes_upon_rot()

    def _open(self) -> None:
        """LMDB opens the store."""
        disk, position = self._disk, self._disk.position or NOWHERE
        if disk.kept is not None and disk.kept[0] == position:
            disk.kept = None  # what is written again is no salvage list
        if not self._sums:
            disk.rotten = self._told_rot = False  # whatever is there counts as what was written
        self.store = self._history.store(position)
        self._opened = True
        txn = self._history.at(position)
        by_peer = bool(txn.lineage) and txn.lineage[-1].writer != self._node
        self._past.opened(self.store.image(txn.past), position.txn, txn.past, written_by_peer=by_peer)

    def _begin_epoch(self, epoch: Any, mode: Mode, reason: str, peer_holds: int) -> Txn:
        self._past.peer_holds(peer_holds)
        past = self._past.settle()
        txn = self._history.begin_epoch(self._disk.position or NOWHERE, epoch, mode, self._node, reason, past, peer_holds)
        self._disk.write(txn.position, synced=False)
        return txn

    def _claimed(self, action: act.Claim) -> None:
        if self._halted:
            return
        position = self._disk.position
        assert position is not None
        self._disk.write(position, synced=True)
        self._stop_copy()
        self._target = None
        image = None
        if self._disk.corrupt:
            raise Violation(f"{self._node} opens a store whose copy lacks parts")
        assert self.store is not None
        if self._opened:
            self._opened = False
            image = self.store.image(self._history.at(position).past)
        txn = self._history.at(position)
        self._report(ev.Claimed(position, txn.lineage, image))

    def _pair_up(self, action: act.PairUp) -> None:
        assert self.store is not None
        self._as_it_is = False
        self._begin_epoch(action.epoch, Mode.PAIRED, action.reason, action.peer_holds)
        self._comes_upon_rot()

    def _paired(self) -> None:
        if self._halted:
            return
        self._disk.flush()
        assert self._disk.position is not None
        txn = self._history.at(self._disk.position)
        self._report(ev.Committed(act.PAIR_NUMBER, _shipment(txn), txn.lineage))

    def _fetch(self, action: act.Fetch) -> None:
        assert self.store is not None, "a fetch without an open store"
        self._report(ev.Fetched(action.token, self.store.read(action)))

    def _copy_out(self, request: act.CopyOut) -> None:
        assert self.store is not None, "a copy without an open store"
        if request.begin:
            self._stop_copy()
            self._history.copies += 1
            rounds = [
                [self._random.choice((4096, 65536, MIB)) for _ in range(self._random.choice((1, 2, 3, 12)))]
                for _ in range(self._random.choice((1, 1, 2, 3)))
            ]
            self._copy = _Copy(request, self._history.copies, rounds)
            self._find_out(self._copy, request.held)
        elif self._copy is not None and self._copy.number == request.copy:
            self._copy.budget += request.budget
            self._copy.waits = self._copy.waits and not request.next_round

    def _find_out(self, copy: _Copy, held: Held) -> None:
        """By the position where that is one of the own branch, else by a table; what is there is never taken for granted."""
        assert self._disk.position is not None
        known = held.position != NOWHERE and held.trusted and self._history.leads_to(held.position, self._disk.position)
        if known and self._random.random() < 0.7:
            copy.base, copy.heals = held.position.chain, False
            self._begin_copy(copy, Way.DELTA)
        elif held.position != NOWHERE or held.partial:
            copy.waits = True
            self._report(ev.TableNeeded(copy.number, held.position == NOWHERE))
        else:
            self._begin_copy(copy, Way.WHOLE)

    def _begin_copy(self, copy: _Copy, way: Way) -> None:
        assert self._disk.position is not None
        copy.position = self._disk.position
        self._report(ev.CopyBegun(copy.number, 4096, sum(copy.rounds[0]) // 4096, way))

    def _take_table(self, action: act.TakeTable) -> None:
        copy = self._copy
        if copy is None or copy.number != action.copy:
            return
        copy.waits = False
        copy.base, copy.by_table = action.sums, True
        self._begin_copy(copy, Way.DELTA if action.sums else Way.REST)

    def _copy_step(self) -> None:
        copy = self._copy
        if copy is None or not copy.ready:
            return
        assert self._disk.position is not None
        if copy.sent < len(copy.rounds[0]):
            payload = PAYLOAD[: copy.rounds[0][copy.sent]]
            self._report(ev.CopyPart(copy.number, ((copy.serial, copy.sent),), payload, 0))
            copy.sent += 1
            copy.budget -= len(payload)
        elif len(copy.rounds) > 1:
            self._report(ev.RoundDone(copy.number, copy.position, copy.meta(self._disk.rotten)))
            copy.waits = True
            self._history.copies += 1
            copy.serial, copy.sent, copy.base, copy.by_table = self._history.copies, 0, copy.position.chain, False
            copy.heals = False
            copy.position = self._disk.position
            del copy.rounds[0]
        else:
            self._past.copied(self._disk.position.txn)
            self._report(ev.CopyDone(copy.number, self._disk.position, copy.meta(self._disk.rotten)))
            self._stop_copy()

    def _stop_copy(self) -> None:
        self._copy = None

    # --- following ----------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        self._settle()
        self._target = {"copy": 0, "parts": None, "bytes": 0, "rounds": 0, "way": Way.WHOLE}
        self._report(ev.FactsSaved())

    def _read_table(self, action: act.ReadTable) -> None:
        """As a toy: the chain digest stands for what all pages hold."""
        there = self._disk.position is not None and not action.partial
        self._report(ev.TablePart(action.copy, 0, self._disk.position.chain if there and self._disk.position else b"", True))

    def _take_copy(self, action: act.TakeCopy) -> None:
        target, disk = self._target, self._disk
        if target is None:
            return
        match action.message:
            case CopyBegin():
                self._settle()
                target.update(copy=action.message.copy, parts=set(), bytes=0, rounds=0, way=action.message.way)
            case CopyPages(runs=runs):
                if target["parts"] is None:
                    self._report(ev.ShipmentRefused("pages of a copy that has not begun"))
                    return
                target["parts"].add(runs[0])
                target["bytes"] += len(action.payload)
                disk.partial = disk.partial or target["way"] is not Way.DELTA
            case CopyRound(position=position, meta=meta) | CopyEnd(position=position, meta=meta):
                if target["parts"] is None:
                    self._report(ev.ShipmentRefused("the end of a copy that has not begun"))
                    return
                self._adopt(target, position, meta)
                if isinstance(action.message, CopyEnd):
                    target["parts"] = None
                    self.following, self._taken = True, position
                    self._counted_rot = disk.rotten
        at = disk.position if (self.following or target["rounds"]) and disk.position is not None else NOWHERE
        self._report(ev.Journalled(target["copy"], at, target["bytes"], self.following, target["rounds"]))

    def _adopt(self, target: dict[str, Any], position: Position, meta: bytes) -> None:
        """A round is whole: the store is what its source meant, if all parts came and what is below them is what it meant.

        Every page written since the base may also come on top of something later on the same branch: an earlier attempt got that far.
        """
        disk = self._disk
        serial, count, base, by_table, rotten = meta.decode().split()
        complete = target["parts"] >= {(int(serial), index) for index in range(int(count))}
        if target["way"] is not Way.DELTA or disk.position is None:
            fits = base == "-"
        elif by_table == "1":
            fits = base == disk.position.chain.hex()
        else:
            meant = self._history.leads_to
            fits = meant(self._history.position(bytes.fromhex(base)), disk.position) and meant(disk.position, position)
        disk.corrupt = not complete or not fits or (disk.corrupt and target["way"] is Way.DELTA)
        disk.partial = False
        if rotten != KEPT:
            disk.rotten = rotten == "True"
        self._told_rot = False
        target.update(parts=set(), rounds=target["rounds"] + 1, way=Way.DELTA)
        disk.write(position, synced=True)

    def _journal(self, chunks: list[Any]) -> None:
        if not self.following:
            return
        for chunk in chunks:
            assert self._taken is not None
            if chunk.head != self._taken.chain:
                self._report(ev.ShipmentRefused(f"transaction {chunk.position} does not fit on {self._taken}"))
            elif self.speed.full:
                self._report(ev.JournalFull(NoSpace("the disk is full", cause="the simulation", cure="wait")))
            else:
                self._taken = chunk.position
                self._unflushed.append(chunk.position)

    def _flush(self) -> None:
        if not self.following:
            return
        assert self._taken is not None and self._target is not None
        self._disk.write(self._taken, synced=True)
        self._unflushed.clear()
        self._report(ev.Journalled(self._target["copy"], self._taken, self._target["bytes"], True))

    # --- merging after a divergence -----------------------------------------------------------------------------------------

    def _branch(self, position: Position, common_txn: int) -> tuple[list[Difference], list[Done], list[tuple[str, bytes]]]:
        """What ``store.salvage`` reads, from a toy."""
        store = self._history.store(position)
        past = past_of(self._history.at(position).past, common_txn)
        rows, cursors = store.destinations, store.cursors
        pieces = []
        for value in sorted(store.index):
            for stored in store.index[value] if value > past.last_value else ():
                for start, stop in Undone(cursors.get(stored.destination)).of(stored) if stored.destination in rows else ():
                    batch = store.values[value][stored.position : stored.position + stored.length]
                    pieces.append((rows[stored.destination].name, cut(batch, stored_head(batch), start, stop)))
        return list(differences(past, rows.values())), list(acknowledged(past, rows.values(), cursors)), pieces

    def _keep_branch(self, action: act.KeepBranch) -> None:
        disk = self._disk
        if self.store is not None or disk.position is None:
            return
        told, done, pieces = self._branch(disk.position, action.common_txn)
        counts = QueueCount(
            "all", sum(stored_head(batch).count for _, batch in pieces), sum(b - a for each in done for a, b in each.ranges)
        )
        if action.keep and disk.kept_branch().state == "":
            disk.synced = disk.position
            disk.kept = (disk.position, ev.KeptBranch("merging"))
        self._report(ev.Surveyed(Survey(action.common_txn, (counts,), tuple(told)), action.keep))

    def _read_branch(self, action: act.ReadBranch) -> None:
        if action.begin:
            if self._disk.kept is None:
                return
            self._items = items_of(*self._branch(self._disk.kept[0], action.common_txn))
        items = list(islice(self._items, 2))
        self._report(ev.SalvagePart(action.attempt, tuple(items), len(items) < 2))

    def _settle_branch(self, action: act.SettleBranch) -> None:
        disk = self._disk
        if self.store is not None or disk.kept is None or not disk.kept_branch().state:
            return
        if self.speed.full:
            self._report(ev.KeepRefused(NoSpace("the disk is full", cause="the simulation", cure="wait"), action))
            return
        disk.kept = (disk.kept[0], ev.KeptBranch("merged", action.into))
        self._report(ev.SalvageSettled(action.into))

    # --- neither ------------------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        self._stop_copy()
        self.store, self._halted = None, False

    def _inspect(self, action: act.StandDown) -> None:
        disk = self._disk
        self._target = None
        if action.discard and self.speed.full:
            self._report(ev.KeepRefused(NoSpace("the disk is full", cause="the simulation", cure="wait"), action))
        elif action.discard:
            disk.position = disk.synced = None
            disk.rotten = False
        if disk.position is None:
            self._report(ev.Inspected(False, NOWHERE, (), 0, "", disk.partial))
            return
        txn = self._history.at(disk.position)
        assert txn is not ROOT
        if self.speed.full and txn.lineage[-1].writer != self._node and disk.position.txn % 2:
            self._report(ev.NoRoom("the disk is full, says the simulation"))  # the journal cannot be applied
            return
        self._report(ev.Inspected(True, disk.position, txn.lineage, txn.peer_high, "", disk.partial, disk.kept_branch()))


def _shipment(txn: Txn) -> Shipment:
    return Shipment(txn.position, txn.base.txn, 4096, b"", 0, [], [], txn.base.chain, b"")
