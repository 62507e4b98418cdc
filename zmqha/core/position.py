"""Epoch, position, lineage: values that say exactly where a store stands, comparable without asking anybody.

A *position* is (epoch, transaction number, chain digest). The transaction number is LMDB's own; the chain digest
``H(n) = sha256(H(n-1), shipment)`` covers every byte that any transaction ever wrote, so two stores at an equal position are the
same store, and two that differ can be told apart by arithmetic (the idea of LiteFS: position = txid + checksum).

The *lineage* is the list of the last epochs, oldest first, and of the one in which the peer left, however long ago. It lives in the
store, written by the first commit of every epoch, so it is replicated with the data it describes. Comparing two lineages finds the last
common point and whether the branches beyond it could hold anything that a client was told is safe. Pure arithmetic; drives nothing,
driven by ``ha`` and ``store``.
"""

from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

CHAIN_BYTES = 32
GENESIS = bytes(CHAIN_BYTES)  # chain digest of the store that holds nothing


class Epoch(NamedTuple):
    """New at every change of writer or of mode. The nonce tells apart two nodes that picked one counter."""

    counter: int
    nonce: int

    def __str__(self) -> str:
        return str(self.counter)


NO_EPOCH = Epoch(0, 0)


class Position(NamedTuple):
    """Where a store stands: the epoch of its last transaction, that transaction's number, the chain digest after it."""

    epoch: Epoch
    txn: int
    chain: bytes

    def __str__(self) -> str:
        return f"{self.epoch.counter}/{self.txn}/{self.chain[:4].hex()}"


NOWHERE = Position(NO_EPOCH, 0, GENESIS)


class Mode(StrEnum):
    """How an epoch's commits were confirmed: with the peer's acknowledgement, or alone."""

    PAIRED = "paired"
    SOLE = "sole"


class LineageEntry(NamedTuple):
    """One epoch: who wrote it, how, and from which point it began.

    ``first_txn`` is the transaction that wrote this entry; ``base_chain`` is the chain digest of the one before it and
    ``base_meta`` that one's LMDB meta body (what a roll-back writes back).
    """

    epoch: Epoch
    mode: Mode
    first_txn: int
    base_chain: bytes
    writer: str
    base_meta: bytes = b""
    wall_ms: int = 0  # for `zmqha history`; no decision reads it
    reason: str = ""  # for `zmqha history`
    outage_ms: int = 0  # for `zmqha history`
    dropped: int = 0  # so many entries right before this one are no longer kept


Lineage = tuple[LineageEntry, ...]


def bounded(lineage: Lineage, most: int, peer_txn: int) -> Lineage:
    """At most ``most`` (4 or more) entries: the last ones; the one that holds ``peer_txn``, the last transaction that the peer is known
    to hold; and the one after that, which says where it ends. Without these two a peer that comes back after many lone epochs would
    share nothing with this store, and a clean copy would pass for a divergence.
    """
    while len(lineage) > most:
        holds = max((at for at, entry in enumerate(lineage) if entry.first_txn <= peer_txn), default=0)
        if holds > 0:
            lineage = lineage[1:]
        else:
            left_out, behind = lineage[2:4]
            behind = behind._replace(dropped=behind.dropped + left_out.dropped + 1)
            lineage = (*lineage[:2], behind, *lineage[4:])
    return lineage


def held_whole(lineage: Lineage) -> tuple[Epoch, ...]:
    """The epochs of which this store holds every message that was delivered.

    Of one that a server served alone, and another server began the next, it may hold a part: an operator promoted a server that had
    not copied all of it. Offsets beyond that part were given anew since.
    """
    parts = {entry.epoch for entry, after in pairwise(lineage) if entry.mode is Mode.SOLE and entry.writer != after.writer}
    return tuple(entry.epoch for entry in lineage if entry.epoch not in parts)


class Fork(NamedTuple):
    """How two branches relate beyond their last common point."""

    common_txn: int  # last transaction known to be equal on both; 0 if nothing is
    mine_beyond: int  # transactions that only this side has
    theirs_beyond: int
    diverged: bool  # this side's branch may hold something confirmed that the other lacks
    why: str


def fork(mine: Lineage, my_end: Position, theirs: Lineage, their_end: Position, my_peer_high: int = 0) -> Fork:
    """Compare two branches from the point of view of the side that would give its own up.

    Rule (``docs/guarantees.md``): transactions of a PAIRED epoch beyond the common point lacked the peer's acknowledgement and
    were never confirmed; they may be thrown away. A SOLE entry beyond the common point, or a common point below ``my_peer_high``
    (the peer once held more than it holds now: an old disk), is divergence.
    """
    common = _common_txn(mine, my_end, theirs, their_end)
    mine_beyond, theirs_beyond = my_end.txn - common, their_end.txn - common
    if mine_beyond == 0:
        return Fork(common, 0, theirs_beyond, False, "this store is a prefix of the peer's")
    last_beyond = my_end.txn
    for entry, end in _spans(mine, my_end):
        beyond = end > common
        if beyond and entry.mode is Mode.SOLE:
            why = f"epoch {entry.epoch.counter} was served alone by {entry.writer} up to transaction {end}"
            return Fork(common, mine_beyond, theirs_beyond, True, why)
        if entry.dropped and entry.first_txn - 1 > common:
            why = f"{entry.dropped} epochs before epoch {entry.epoch.counter} are no longer known"
            return Fork(common, mine_beyond, theirs_beyond, True, why)
    if not mine:
        return Fork(common, mine_beyond, theirs_beyond, True, "no lineage says who wrote these transactions")
    if common < my_peer_high:
        why = f"the peer once held transaction {my_peer_high}, now both agree only up to {common}"
        return Fork(common, mine_beyond, theirs_beyond, True, why)
    return Fork(common, mine_beyond, theirs_beyond, False, f"transactions up to {last_beyond} were never confirmed")


def _spans(lineage: Lineage, end: Position) -> list[tuple[LineageEntry, int]]:
    """Each epoch with its last transaction number; where the next one is not known, with its first: that one is certain."""
    if not lineage:
        return []
    ends = [after.first_txn - 1 if not after.dropped else entry.first_txn for entry, after in pairwise(lineage)] + [end.txn]
    return list(zip(lineage, ends, strict=True))


def _common_txn(mine: Lineage, my_end: Position, theirs: Lineage, their_end: Position) -> int:
    if my_end == their_end:
        return my_end.txn
    common = 0
    my_spans, their_spans = _spans(mine, my_end), {entry.epoch: (entry, end) for entry, end in _spans(theirs, their_end)}
    for entry, my_last in my_spans:
        found = their_spans.get(entry.epoch)
        if found is None or found[0].first_txn != entry.first_txn or found[0].base_chain != entry.base_chain:
            continue
        # One writer per epoch: inside one epoch both sides hold a prefix of the same sequence of transactions.
        common = max(common, min(my_last, found[1]))
    return common
