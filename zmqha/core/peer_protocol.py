"""What the two servers say to each other, ZMQHA-PEER/1.

Two kinds of socket, so a large transaction never delays a heartbeat::

    control = *( Hello / Beat / Echo / Grant / Drop )          PAIR, one per path, both directions, one frame each
    bulk    = follower: Follow *( Table / Stored )             DEALER -> the source's ROUTER
              source:   [ TableWanted ] copy *Piece            ROUTER -> DEALER; Piece = one chunk of a shipment
            / loser:    SalvageBegin *Salvage SalvageEnd       DEALER -> the winner's ROUTER, after a divergence
              winner:   *Salvaged                              ROUTER -> DEALER
    copy    = CopyBegin *( *CopyPages CopyRound ) *CopyPages CopyEnd

A message is one frame: MessagePack (a tagged msgspec Struct, checked on decoding), then xxh3_64 of that, u64 little-endian: TCP alone
lets damage through, and half of what is said here is obeyed. Table, CopyPages, Piece and Salvage carry their bytes in further frames,
all but Table (which is compared, not obeyed) under sums of their own. Every message names the sender's session; bulk messages name
both. Facts (state, epoch, position) travel in every Beat, so a lost one is repaired by the next; only Grant and Drop are one-shot, and
both are obeyed only in fresh contact (F2).

A copy has a number, which rises while its source runs: a socket that reconnects by itself makes the source begin another one, and what
the follower still says of the one before must not count for it.

Session = (incarnation, k): incarnation rises at each start (durable), k at each own freeze and each fall to WAITING (volatile).
Times in ms of the *sender's* own clock; nobody but the sender interprets them (F1).
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec
import xxhash

from zmqha.core.branch import Difference
from zmqha.core.page_sums import NOT_KNOWN
from zmqha.core.position import NOWHERE, Epoch, Lineage, Position
from zmqha.errors import ProtocolError

VERSION = 1
SUM_BYTES = 8  # behind every message


class Session(NamedTuple):
    incarnation: int
    k: int


NO_SESSION = Session(0, 0)


class State(StrEnum):
    """The states of a server (FioranoMQ's names)."""

    WAITING = "WAITING"
    PASSIVE_SYNC = "PASSIVE_SYNC"
    PASSIVE = "PASSIVE"
    ACTIVE = "ACTIVE"
    STANDALONE = "STANDALONE"
    FAILED = "FAILED"


class Sub(StrEnum):
    """Sub-states, visible on the wire."""

    NONE = ""
    STARTING = "starting"  # own store not inspected yet: no election facts
    DECIDING = "deciding"  # contact older than T_LOST
    CLAIMING = "claiming"  # from the decision to the durable record (O7)
    GRANTING = "granting"  # PAIRED(e+1) being written, GRANT not yet answered
    LEAVING = "leaving"  # stop or switchover: takes no more sends, claims nothing
    MERGING = "merging"  # the loser of a divergence hands its branch over


class Standing(StrEnum):
    """What the disk says of the own store."""

    NEW = "new"
    PAIRED = "paired"
    SOLE = "sole"
    BEHIND = "behind"


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Opens a session on a path: who I am, what my store is. Sent again whenever a field changes (``number`` rises)."""

    session: Session
    number: int
    version: int
    cluster_id: str
    node_id: str
    primary: bool
    page_size: int
    data_version: int
    little_endian: bool
    lineage: Lineage
    client_endpoint: str  # what a refused client is told


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A heartbeat: every fact that a decision of the peer may rest on."""

    session: Session
    seq: int  # rises over all paths of a session (F4)
    sent_ms: int
    state: State
    sub: Sub
    reason: str  # of the last change of state
    standing: Standing
    epoch: Epoch  # of node.state: what this node serves or follows under
    position: Position
    right: bool  # may I go on alone if you fall silent
    hears: bool  # have I received anything from you within T_SILENT (F6)
    gateway: bool | None  # does my gateway answer; None: not known yet
    progress: int  # rises whenever the store thread finishes something
    busy: bool  # the store thread has work
    knows: tuple[Session, int]  # (session, number) of the newest Hello of yours that I hold
    follows: Session  # session of the source this node copies from, NO_SESSION if none
    copied: float = 0.0  # share of a running copy, 0..1
    free: float = 1.0  # free share of the disk under the store
    store_full: bool = False
    digest: int = NOT_KNOWN  # of all pages at ``position`` (``page_sums``)


class Echo(msgspec.Struct, frozen=True, tag="echo"):
    """The answer to a Beat, at once and on the same path."""

    session: Session
    to_session: Session
    seq: int
    sent_ms: int  # as in the Beat


class Grant(msgspec.Struct, frozen=True, tag="grant"):
    """You hold everything: be PASSIVE under this epoch, if your journal ends exactly here."""

    session: Session
    to_session: Session
    position: Position


class Drop(msgspec.Struct, frozen=True, tag="drop"):
    """You are too slow (T_SLOW): give up your right and say WAITING, so that I may go on alone."""

    session: Session
    to_session: Session
    reason: str


Control = Hello | Beat | Echo | Grant | Drop


class Held(msgspec.Struct, frozen=True):
    """What a follower has on its disk that its new copy may build on."""

    position: Position = NOWHERE  # of a complete store; NOWHERE: it has none that may be used
    trusted: bool = True  # every byte is as the position says; False: compare
    partial: bool = False  # an unfinished whole copy lies beside it


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """Follower: feed me. Repeated until the source answers, since a socket that is not connected yet drops it."""

    session: Session
    to_session: Session
    position: Position  # what the follower holds durably of this stream; NOWHERE asks for a copy
    attempt: int  # rises with each new socket; the same one again is a repetition
    held: Held = Held()


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """Follower: written. ``copied_bytes`` counts CopyPages payload taken in, ``position`` is durable in the journal."""

    session: Session
    to_session: Session
    copy: int  # which the counts are of; 0: none has begun
    position: Position
    copied_bytes: int
    rounds: int = 0  # of this copy, each now the follower's complete store
    held: Held = Held()  # as in Follow, now: should the connection have moved, the next copy builds on it


class Way(StrEnum):
    """How a copy comes about."""

    WHOLE = "whole"  # every page in use, into a new file
    REST = "rest"  # likewise, but the unfinished new file of before has some already
    DELTA = "delta"  # what differs, on top of the follower's complete store


class TableWanted(msgspec.Struct, frozen=True, tag="table_wanted"):
    """Say what your pages hold. ``partial``: of the unfinished copy, page by page; else of the complete store, unit by unit."""

    session: Session
    to_session: Session
    copy: int  # that it is for
    partial: bool


class Table(msgspec.Struct, frozen=True, tag="table"):
    """The follower's sums from page ``first`` on. Frame 2: u64 each, little-endian, 0 where no unit begins (or no page is)."""

    session: Session
    to_session: Session
    copy: int  # as in TableWanted
    first: int
    last: bool  # the table ends here


class CopyBegin(msgspec.Struct, frozen=True, tag="copy_begin"):
    """A copy starts; one that was under way is over."""

    session: Session
    to_session: Session
    copy: int
    page_size: int
    pages: int  # to be sent in the first round, for progress
    way: Way = Way.WHOLE


class CopyPages(msgspec.Struct, frozen=True, tag="copy_pages"):
    """Whole pages of the copy. Frame 2 holds their bytes."""

    session: Session
    to_session: Session
    runs: tuple[tuple[int, int], ...]  # (first page, pages)
    digest: int  # xxh3_64 of frame 2


class CopyRound(msgspec.Struct, frozen=True, tag="copy_round"):
    """Everything up to ``position`` has been sent: take it as the store. What was written meanwhile comes in the next round.

    ``copied_bytes``: payload of all CopyPages since CopyBegin; a target that holds less has lost a frame on the way.
    """

    session: Session
    to_session: Session
    position: Position
    meta: bytes
    copied_bytes: int


class CopyEnd(msgspec.Struct, frozen=True, tag="copy_end"):
    """As CopyRound, for the last time: shipments on top of ``position`` follow."""

    session: Session
    to_session: Session
    position: Position
    meta: bytes
    copied_bytes: int


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """One chunk of a shipment. Frame 2 is the shipment's head (empty but in piece 0), frame 3 its bytes."""

    session: Session
    to_session: Session
    position: Position
    index: int
    count: int


class SalvageBegin(msgspec.Struct, frozen=True, tag="salvage_begin"):
    """Loser: what follows is what my branch holds beyond ``common_txn``. Repeated until the winner answers; a new attempt, on a new
    socket, begins from the start."""

    session: Session
    to_session: Session
    attempt: int
    branch: Epoch  # of my newest transaction
    common_txn: int


class Salvage(msgspec.Struct, frozen=True, tag="salvage"):
    """Item ``index`` (from 1), in pieces: frame 2 holds the bytes of piece ``piece``. One of three fields is set."""

    session: Session
    to_session: Session
    attempt: int
    index: int
    piece: int
    pieces: int
    digest: int  # xxh3_64 of frame 2
    batches: tuple[tuple[str, int], ...] = ()  # (queue, length) of the batches that lie back to back in the bytes
    done: tuple[int, str, tuple[tuple[int, int], ...]] | None = None  # number, queue, acknowledged ranges
    differences: tuple[Difference, ...] = ()


class SalvageEnd(msgspec.Struct, frozen=True, tag="salvage_end"):
    """The item ``index`` says that this was all."""

    session: Session
    to_session: Session
    attempt: int
    index: int


class Salvaged(msgspec.Struct, frozen=True, tag="salvaged"):
    """Winner: items up to ``taken`` have arrived, up to ``durable`` they are in my store. Repeated every heartbeat."""

    session: Session
    to_session: Session
    attempt: int
    taken: int
    durable: int


ToWinner = SalvageBegin | Salvage | SalvageEnd
Bulk = Follow | Stored | TableWanted | Table | CopyBegin | CopyPages | CopyRound | CopyEnd | Piece | ToWinner | Salvaged

_control: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_bulk: msgspec.msgpack.Decoder[Bulk] = msgspec.msgpack.Decoder(Bulk)
_encoder = msgspec.msgpack.Encoder()
# msgspec has no error of its own for text that is not UTF-8.
_WRONG = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)


def encode(message: Control | Bulk) -> bytes:
    """One frame."""
    return sealed(_encoder.encode(message))


def sealed(body: bytes) -> bytes:
    """A body with its sum behind it."""
    return body + xxhash.xxh3_64_intdigest(body).to_bytes(SUM_BYTES, "little")


def decode_control(frame: bytes) -> Control:
    """Raises ProtocolError for anything that is not a control message."""
    try:
        return _control.decode(_opened(frame))
    except _WRONG as error:
        raise ProtocolError(f"not a control message: {error}") from error


def decode_bulk(frame: bytes) -> Bulk:
    """Raises ProtocolError for anything that is not a bulk message."""
    try:
        return _bulk.decode(_opened(frame))
    except _WRONG as error:
        raise ProtocolError(f"not a bulk message: {error}") from error


def _opened(frame: bytes) -> bytes:
    body = frame[:-SUM_BYTES]
    if xxhash.xxh3_64_intdigest(body).to_bytes(SUM_BYTES, "little") != frame[-SUM_BYTES:]:
        raise ProtocolError("a frame does not match its sum: it was damaged on the way, or the peer speaks another version")
    return body
