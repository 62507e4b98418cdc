"""Every transaction that any node ever committed, by its chain digest: who stands at a digest holds exactly this line of ancestors.

So a store is one value, its Position; what it contains is computed from here. A transaction is checked when it is born: a producer's
messages follow each other without gap or repetition (I7, order). Only what is merged from another branch may leave a gap: what is
not there was consumed on that branch, which ``checkers`` looks at in the end.
"""

import hashlib
from typing import NamedTuple

from tests.core.service_rig import ToyStore
from tests.sim.violation import Violation
from zmqha.core.branch import NO_PAST, Past
from zmqha.core.message import MERGED, read_head
from zmqha.core.position import GENESIS, NOWHERE, Epoch, Lineage, LineageEntry, Mode, Position, bounded
from zmqha.core.work import Work

LINEAGE_ENTRIES = 6  # far fewer than the real one keeps, so that runs get beyond them


class Txn(NamedTuple):
    """One transaction on top of another."""

    position: Position
    base: Position
    work: Work | None  # None: a lineage record
    lineage: Lineage
    peer_high: int
    last: dict[int, int]  # producer -> last sequence stored
    past: Past = NO_PAST  # what the store remembers of its peer
    gaps: dict[int, tuple[tuple[int, int], ...]] = {}


ROOT = Txn(NOWHERE, NOWHERE, None, (), 0, {})


class History:
    """The tree of all branches."""

    def __init__(self) -> None:
        self.copies = 0  # full copies begun
        self._txns: dict[bytes, Txn] = {GENESIS: ROOT}

    def at(self, position: Position) -> Txn:
        """The transaction that leads to this position."""
        return self._txns[position.chain]

    def position(self, chain: bytes) -> Position:
        """Of the transaction with this chain digest."""
        return self._txns[chain].position

    def last(self, position: Position | None) -> dict[int, int]:
        """producer -> last sequence in a store that stands here."""
        return self._txns[position.chain].last if position is not None else {}

    def leads_to(self, position: Position, end: Position) -> bool:
        """Is the one an ancestor of the other, or the same."""
        txn = self._txns.get(position.chain)
        at = self.at(end)
        while txn is not None and at.position.txn > position.txn:
            at = self.at(at.base)
        return at is txn

    def lacks(self, position: Position | None, producer: int, up_to: int) -> list[int]:
        """Which of a producer's sequences up to this one were never stored on the way to here."""
        if position is None:
            return list(range(1, up_to + 1))
        txn = self.at(position)
        left_out = {each for first, end in txn.gaps.get(producer, ()) for each in range(first, min(end, up_to + 1))}
        return sorted(left_out | set(range(txn.last.get(producer, 0) + 1, up_to + 1)))

    def begin_epoch(self, base: Position, epoch: Epoch, mode: Mode, writer: str, reason: str, past: Past, peer_high: int) -> Txn:
        """A lineage record."""
        before = self.at(base)
        entry = LineageEntry(epoch, mode, base.txn + 1, base.chain, writer, b"", 0, reason)
        lineage = bounded((*before.lineage, entry), LINEAGE_ENTRIES, past.txn)
        return self._add(
            before, epoch, before._replace(work=None, lineage=lineage, past=past, peer_high=max(before.peer_high, peer_high))
        )

    def commit(self, base: Position, epoch: Epoch, work: Work, peer_high: int) -> Txn:
        """A Work."""
        before = self.at(base)
        last, gaps = dict(before.last), before.gaps
        for append in work.appends:
            head = read_head(append.batch)
            known = last.get(head.producer, 0)
            if head.first > known + 1 and head.flags & MERGED:
                gaps = {**gaps, head.producer: (*gaps.get(head.producer, ()), (known + 1, head.first))}
            elif head.first != known + 1:
                what = "twice" if head.first <= known else "with a gap"
                raise Violation(f"messages of producer {head.producer} stored {what}: {head.first} after {known} at {base}")
            last[head.producer] = head.next - 1
        changed = before._replace(work=work, peer_high=max(before.peer_high, peer_high), last=last, gaps=gaps)
        return self._add(before, epoch, changed)

    def store(self, position: Position) -> ToyStore:
        """What a store that stands here contains."""
        works = []
        txn = self.at(position)
        while txn is not ROOT:
            if txn.work is not None:
                works.append(txn.work)
            txn = self.at(txn.base)
        store = ToyStore()
        for work in reversed(works):
            store.apply(work)
        return store

    def _add(self, before: Txn, epoch: Epoch, changed: Txn) -> Txn:
        serial = len(self._txns)
        chain = hashlib.sha256(before.position.chain + serial.to_bytes(8, "little")).digest()
        position = Position(epoch, before.position.txn + 1, chain)
        txn = changed._replace(position=position, base=before.position)
        self._txns[chain] = txn
        return txn
