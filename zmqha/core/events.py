"""What happened outside, told to the broker. The counterpart of ``core.actions``."""

from typing import NamedTuple

from zmqha.core.actions import KeepBranch, ReadBranch, SettleBranch, StandDown
from zmqha.core.branch import Item, Survey
from zmqha.core.page_sums import NOT_KNOWN
from zmqha.core.peer_protocol import Bulk, Control, Way
from zmqha.core.position import NO_EPOCH, NOWHERE, Epoch, Lineage, Position
from zmqha.core.shipment import Shipment
from zmqha.core.work import StoreImage
from zmqha.errors import ZmqhaError

# --- from the network -------------------------------------------------------------------------------------------------------


class ControlIn(NamedTuple):
    """A control message of the peer on a path."""

    path: int
    message: Control


class BulkIn(NamedTuple):
    """A bulk message; ``sender`` is the ROUTER's id of a follower, None when it came from the source we follow."""

    sender: bytes | None
    message: Bulk
    frames: tuple[bytes, ...]


class Probed(NamedTuple):
    """A gateway probe ended."""

    sent_ms: int
    ok: bool


class DeathNotice(NamedTuple):
    """An authentic notice: this incarnation of this node has left its kernel (A6)."""

    node_id: str
    incarnation: int


class ClientIn(NamedTuple):
    """Frames of a client."""

    client: bytes
    frames: list[bytes]


class ClientGone(NamedTuple):
    """A client cannot be sent to: it is gone or does not read."""

    client: bytes


# --- from the store thread --------------------------------------------------------------------------------------------------


class KeptBranch(NamedTuple):
    """Whether the store that is there is kept for a merge: ``state`` is "" (no), "merging", "merged" or "discarded"."""

    state: str = ""
    into: Epoch = NO_EPOCH  # merged: under which epoch the winner served


class Inspected(NamedTuple):
    """The store is closed; this is what is there. ``fault``: why it cannot be used ("" = complete or absent); ``partial``: an
    unfinished copy lies beside it."""

    present: bool
    position: Position
    lineage: Lineage
    peer_high: int
    fault: str
    partial: bool = False
    kept: KeptBranch = KeptBranch()


class NoRoom(NamedTuple):
    """The disk is too full to bring the closed store up to date (``StandDown``, ``Claim``). Nothing is lost: it is in the journal."""

    why: str


class FactsSaved(NamedTuple):
    """node.state is durable."""


class Claimed(NamedTuple):
    """SOLE and the lineage record are durable; the store is open. ``image`` is None if it had been open before."""

    position: Position
    lineage: Lineage
    image: StoreImage | None


class Committed(NamedTuple):
    """Work ``number`` is written here and ready for the peer; ``Flushed`` follows, or came before (``Commit.early``). ``lineage`` is
    set when the transaction was a lineage record: that one is flushed."""

    number: int
    shipment: Shipment
    lineage: Lineage | None


class Flushed(NamedTuple):
    """Every transaction up to ``txn`` is durable here."""

    txn: int


class CommitRefused(NamedTuple):
    """A clean "full": nothing of Work ``number``, nor of any later one already handed over, was stored."""

    number: int
    error: ZmqhaError


class Journalled(NamedTuple):
    """Follower: durable up to ``position``; ``copied_bytes`` of the copy ``copy`` are written, ``whole`` once it is complete.

    ``rounds`` of it are done: until it is whole ``position`` is where the store stands after the last of them.
    """

    copy: int
    position: Position
    copied_bytes: int
    whole: bool
    rounds: int = 0


class TablePart(NamedTuple):
    """Follower: sums of the own pages from page ``first`` on (``peer_protocol.Table``)."""

    copy: int
    first: int
    sums: bytes
    last: bool


class ShipmentRefused(NamedTuple):
    """Follower: a shipment does not fit on what this node holds, or was damaged on the way; nothing of it was applied."""

    reason: str


class JournalFull(NamedTuple):
    """Follower: no space on this disk; nothing acknowledged is lost."""

    error: ZmqhaError


class Fetched(NamedTuple):
    """A stored batch."""

    token: int
    batch: bytes


class TableNeeded(NamedTuple):
    """The source must know what the follower's pages hold before it can copy (``peer_protocol.TableWanted``)."""

    copy: int
    partial: bool


class CopyBegun(NamedTuple):
    """The source pinned a snapshot; this many pages of it are to be sent."""

    copy: int
    page_size: int
    pages: int
    way: Way = Way.WHOLE


class CopyPart(NamedTuple):
    """Pages to be sent; ``digest`` is xxh3_64 of the payload."""

    copy: int
    runs: tuple[tuple[int, int], ...]
    payload: bytes
    digest: int


class RoundDone(NamedTuple):
    """Everything up to ``position`` was handed out; the next round begins once the follower has made it its store."""

    copy: int
    position: Position
    meta: bytes


class CopyDone(NamedTuple):
    """Everything up to ``position`` was handed out; the next Committed is the first shipment on top of it."""

    copy: int
    position: Position
    meta: bytes


class Damaged(NamedTuple):
    """The store that is open here, or the copy that this node follows with, does not hold what was written: it must not serve."""

    why: str  # names the page, or the transaction after which the copy differs
    halted: bool = False  # a commit came upon it: what was asked for has no other answer, and until StandDown nothing is done


class Scrubbed(NamedTuple):
    """What the digest and the scrub have come to since the start."""

    digest: float = 0.0  # share of the page sums that is built, 0..1; -1: off, the store is too large
    bytes: int = 0  # read and compared
    cycles: int = 0  # over the whole store
    cycle_ms: int = 0  # how long the last one took
    damaged: int = 0  # pages found wrong


class Surveyed(NamedTuple):
    """What this branch would hand over. ``kept``: and its store is kept, durable (O6)."""

    survey: Survey
    kept: bool


class KeepRefused(NamedTuple):
    """``order`` was not carried out: the store cannot be kept (no room, no hard links), it is damaged and cannot be read (also later,
    while it is handed over), or there is no room to write down that it is settled or discarded. Nothing changed."""

    error: ZmqhaError
    order: KeepBranch | ReadBranch | SettleBranch | StandDown


class SalvagePart(NamedTuple):
    """More of the kept store; ``last``: and that was all."""

    attempt: int
    items: tuple[Item, ...]
    last: bool


class SalvageSettled(NamedTuple):
    """The kept store says ``merged``, durable."""

    into: Epoch


class StoreBeat(NamedTuple):
    """How the store thread does, several times a second: a rising counter, whether work waits, the space left, the scrub."""

    progress: int
    busy: bool
    free_share: float
    free_bytes: int
    used_bytes: int
    scrubbed: Scrubbed = Scrubbed()
    pages: tuple[Position, int] = (NOWHERE, NOT_KNOWN)  # the digest of all pages (``page_sums``), and where the store stood then


Event = (
    ControlIn | BulkIn | Probed | DeathNotice | ClientIn | ClientGone | Inspected | NoRoom | FactsSaved | Claimed | Committed
    | Flushed | CommitRefused | Journalled | TablePart | ShipmentRefused | JournalFull | Fetched | TableNeeded | CopyBegun | CopyPart
    | RoundDone | CopyDone | Surveyed | KeepRefused | SalvagePart | SalvageSettled | Damaged | StoreBeat
)  # fmt: skip
