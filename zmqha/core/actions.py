"""What the broker asks the outside to do, in order. The node carries it out and decides nothing; the simulator is a second node.

Actions that touch a disk go to the store thread, in the order they were taken; each answers with an event (``core.events``). Orders
inside one action are part of its meaning and are written here, because safety rests on them.
"""

from typing import NamedTuple

from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import Bulk, Control, Held
from zmqha.core.position import Epoch
from zmqha.core.shipment import Chunk
from zmqha.core.work import Work

# --- to the peer ------------------------------------------------------------------------------------------------------------


class SendControl(NamedTuple):
    """A control message on one path, or on all (path None). Lost if the socket cannot take it; the next Beat repairs."""

    path: int | None
    message: Control


class ResetPath(NamedTuple):
    """Close and recreate the PAIR of a path (a bare bound PAIR stays deaf after a half-open cut)."""

    path: int


class ConnectBulk(NamedTuple):
    """Follower: a new DEALER to the peer's bulk port over this path; None: no bulk connection."""

    path: int | None


class SendBulk(NamedTuple):
    """A bulk message with its byte frames; ``to`` is the ROUTER's id of the follower, None when this side is the follower."""

    to: bytes | None
    message: Bulk
    frames: tuple[bytes, ...] = ()


class ProbeGateway(NamedTuple):
    """Ask the gateway once; answered by ``events.Probed`` with the same ``sent_ms``."""

    sent_ms: int


# --- to clients -------------------------------------------------------------------------------------------------------------


class SendToClient(NamedTuple):
    """Frames for one client; a client that does not read or is gone comes back as ``events.ClientGone``."""

    client: bytes
    frames: list[bytes]


# --- to the store thread ----------------------------------------------------------------------------------------------------


class SaveFacts(NamedTuple):
    """Write node.state, durable. Answer: ``FactsSaved``."""

    facts: NodeFacts


class Claim(NamedTuple):
    """Take over, in this order (O1, O7): flush and apply the journal, write ``facts`` (SOLE) durable, open the store (create it if
    there is none), commit a lineage record of ``epoch`` on top, sync. Answer: ``Claimed``; or ``NoRoom``, and nothing was written; or
    ``Damaged``, and nothing more."""

    facts: NodeFacts
    epoch: Epoch
    reason: str
    outage_ms: int
    peer_holds: int = 0  # last transaction that the peer is known to hold; 0: it is not known to follow
    as_it_is: bool = False  # an operator wants this very store, damaged or not: damage is said and stops nothing until PairUp


class PairUp(NamedTuple):
    """Give up being SOLE, in this order (O2): write ``facts`` (PAIRED) durable, commit a lineage record of ``epoch``.
    Answer: ``Committed`` of number ``PAIR_NUMBER``, or ``Damaged`` and nothing more."""

    facts: NodeFacts
    epoch: Epoch
    reason: str
    peer_holds: int = 0


class StandDown(NamedTuple):
    """Stop: active: close the store; passive: flush, apply and close the journal. Then look at what is there.
    Answer: ``Inspected`` or ``NoRoom``. ``discard``: set the store aside first (the operator's ``resync --discard-own``, or the rest of
    a first start that was cut short); ``KeepRefused`` before that if it could not be."""

    discard: bool = False


class Follow(NamedTuple):
    """Become a copy (O3): write ``facts`` (BEHIND) durable, then take a copy. Answer: ``FactsSaved``."""

    facts: NodeFacts


class TakeCopy(NamedTuple):
    """A CopyBegin, CopyPages, CopyRound or CopyEnd from the source with its bytes. Answer, in bursts: ``Journalled``."""

    message: Bulk
    payload: bytes


class ReadTable(NamedTuple):
    """Follower: say what the own pages hold (``peer_protocol.TableWanted``). Answers, a piece at a time: ``TablePart``."""

    copy: int
    partial: bool


class Journal(NamedTuple):
    """A chunk of a shipment: append, flush together with what else waits. Answer: ``Journalled``."""

    chunk: Chunk


class Commit(NamedTuple):
    """One transaction. Answer: ``Committed`` and ``Flushed``; or ``CommitRefused``, or ``Damaged`` and nothing more. ``early``: the
    first of them as soon as it is written, so that it is shipped meanwhile. Only while the peer's confirm counts: one that follows a
    server that is alone must not hold what a power cut takes from that one, or it would pass for a branch of its own."""

    work: Work
    epoch: Epoch
    early: bool
    peer_high: int
    attempt: int  # how many CommitRefused the broker has seen; the store drops what was sent before it saw the last one


class Fetch(NamedTuple):
    """Read one stored batch. Answer: ``Fetched``."""

    token: int
    value: int
    position: int
    length: int


class CopyOut(NamedTuple):
    """Source of a copy: ``begin`` one for a follower that has ``held``; then send up to ``budget`` bytes more. Answers, each with the
    number ``copy``: ``TableNeeded`` where what differs must be found out first; ``CopyBegun``; ``CopyPart``; ``RoundDone``, after which
    the next round waits for another CopyOut with ``next_round``; at last ``CopyDone``."""

    copy: int
    begin: bool
    budget: int
    held: Held = Held()
    next_round: bool = False


class TakeTable(NamedTuple):
    """Source: a piece of the follower's table, in order."""

    copy: int
    first: int
    sums: bytes
    last: bool


class StopCopy(NamedTuple):
    """Source: forget the running copy, release its pin."""


class KeepBranch(NamedTuple):
    """Loser of a divergence: count what this branch holds beyond ``common_txn``; ``keep``: give the store a second name first, so that
    nothing can overwrite it, durable (O6). Answer: ``Surveyed`` or ``KeepRefused``."""

    common_txn: int
    keep: bool


class ReadBranch(NamedTuple):
    """Read about ``budget`` bytes more of the kept store, from the start if ``begin``. Answer: ``SalvagePart``."""

    attempt: int
    begin: bool
    common_txn: int
    budget: int


class SettleBranch(NamedTuple):
    """The winner, serving under ``into``, holds all of it durably: write that down. Answer: ``SalvageSettled`` or
    ``KeepRefused``; none if the store is not kept any more."""

    into: Epoch


# --- to the process ---------------------------------------------------------------------------------------------------------


class Note(NamedTuple):
    """One line for the log: a stable event name and its fields."""

    event: str
    fields: tuple[tuple[str, object], ...]


class Halt(NamedTuple):
    """End the process now. ``code`` 0: planned; anything else: our fault or the disk's, the peer takes over."""

    reason: str
    code: int


PAIR_NUMBER = 0  # the commit number of a lineage record; Works count from 1

Action = (
    SendControl | ResetPath | ConnectBulk | SendBulk | ProbeGateway | SendToClient | SaveFacts | Claim | PairUp | StandDown | Follow
    | TakeCopy | ReadTable | Journal | Commit | Fetch | CopyOut | TakeTable | StopCopy | KeepBranch | ReadBranch | SettleBranch | Note
    | Halt
)  # fmt: skip
StoreAction = (
    SaveFacts | Claim | PairUp | StandDown | Follow | TakeCopy | ReadTable | Journal | Commit | Fetch | CopyOut | TakeTable | StopCopy
    | KeepBranch | ReadBranch | SettleBranch
)  # fmt: skip
