"""What one server knows, and the plain questions that follow from it; those made of several conditions are in ``guards``.

Every question is answered yes or no from contact (F1, F4), the gateway's votes, the durable facts, the own store's position and the
peer's newest facts. Nothing here changes a role or asks for work; ``ha`` does both.
"""

from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import NamedTuple

from zmqha.core.contact import LONG_AGO, Contact, Path
from zmqha.core.events import KeptBranch
from zmqha.core.facts import NodeFacts
from zmqha.core.page_sums import NOT_KNOWN
from zmqha.core.peer_protocol import (
    NO_SESSION,
    VERSION,
    Beat,
    Held,
    Session,
    Standing,
    State,
    Sub,
)
from zmqha.core.position import NO_EPOCH, NOWHERE, Epoch, Fork, Lineage, Position, fork
from zmqha.core.pulse import Pulse
from zmqha.core.timers import Timers
from zmqha.core.vote import Vote

SERVING = (State.ACTIVE, State.STANDALONE)
PAIRED_ROLES = (State.ACTIVE, State.PASSIVE)
ANSWERS_NEEDED = 3  # gateway answers in the decision window (T8)
PAGE_SIZE = 4096
DATA_VERSION = 1
LOOK_AGAIN_MS = 1000  # after the disk had no room for what the journal holds
KEEP_AGAIN_MS = 5000  # after the store could not be kept: the disk may have room again


class Step(Enum):
    """A durable change under way; no row fires meanwhile."""

    NONE = auto()
    INSPECT = auto()  # the store is being closed and looked at
    DOUBT = auto()  # BEHIND is being written, because the store cannot be used or has lost
    FOLLOW = auto()  # BEHIND is being written before a copy (O3)
    CLAIM = auto()  # from the decision to the durable record (O7)
    PAIR = auto()  # PAIRED and the lineage record are being written (O2)
    ACCEPT = auto()  # PAIRED is being written before GRANTED (O3)
    KEEP = auto()  # the store of the loser of a divergence gets its second name before anything of it is handed over (O6)


@dataclass(slots=True)
class Leaving:
    """Stop or switchover wanted."""

    reason: str
    exit: bool
    since_ms: int
    left_ms: int | None = None  # WAITING since


class Identity(NamedTuple):
    """Who this node is and whom it expects."""

    cluster_id: str
    node_id: str
    peer_id: str  # "" = no peer is configured
    primary: bool
    client_endpoint: str
    paths: int = 2
    resume_alone: bool = False  # a PAIRED node may use T5 ("available")
    merges: bool = True  # the loser of a divergence hands its branch over by itself (on_divergence = "merge")


class View:
    """Everything one server knows about itself, its peer and the gateway."""

    def __init__(
        self, identity: Identity, timers: Timers, facts: NodeFacts, random: Random, now_ms: int, *, gateway: bool
    ) -> None:
        """``facts`` as loaded, with the incarnation already raised and durable (T1)."""
        self.identity = identity
        self.timers = timers
        self.facts = facts
        self.durable = facts  # what the disk says; announced instead of ``facts``, which may still be being written (O7)
        self.random = random
        self.started_ms = now_ms
        self.state = State.WAITING
        self.step = Step.NONE
        self.reason = "started"
        self.since_ms = now_ms  # when ``state`` last changed
        self.epoch = facts.epoch  # served or followed under
        self.position = NOWHERE
        self.lineage: Lineage = ()
        self.peer_high = 0
        self.right = False
        self.granted = False  # ACTIVE: the peer has accepted this epoch
        self.diverged: Fork | None = None
        self.store_present = False
        self.store_fault = ""
        self.store_partial = False  # an unfinished copy lies beside it
        self.kept = KeptBranch()  # whether this very store is kept for a merge, and how far that is
        self.merge_wanted = False  # by the operator, where the policy is "stop"
        self.merging = False  # the branch is being handed over
        self.merge_into = NO_EPOCH  # under which the winner serves
        self.merge_sessions = (NO_SESSION, NO_SESSION)  # the own and the winner's then
        self.keep_refused = ""  # why the store could not be kept
        self.keep_refused_ms = LONG_AGO
        self.leaving: Leaving | None = None
        self.contact = Contact(
            identity.cluster_id,
            identity.peer_id,
            Session(facts.incarnation, 1),
            [Path(reset_ms=now_ms) for _ in range(identity.paths)],
        )
        self.contact.opened_ms = now_ms
        self.vote = Vote(configured=gateway)
        self.pulse = Pulse(timers, self.contact, self.vote)
        # Told by the broker before each tick; facts of the data path that rows read.
        self.in_sync = False  # PASSIVE_SYNC peer streams within the window (T14) / nothing is unacknowledged (T12)
        self.room_for_epoch = True  # on the disk (T21)
        self.drained = True  # no accepted work is unconfirmed (T12)
        self.peer_holds = 0  # last transaction that the peer has acknowledged; goes with a new epoch into the store
        self.copied = 0.0
        self.progress, self.busy, self.free, self.store_full = 0, False, 1.0, False
        self.pages = (NOWHERE, NOT_KNOWN)  # the digest of all pages, and where the store stood then
        self.turn_ms = now_ms
        self.gap_seen = False
        self.no_room = ""  # why the store cannot even be looked at: the disk is full
        self.no_room_ms = LONG_AGO
        self.unfit = ""  # why the store cannot go on as a copy
        self.damage = ""  # what is wrong in the store, until the disk says that it is BEHIND
        self.damage_accepted = False  # an operator promoted this very store as it is
        self.store_halted = False  # the store thread does nothing more with the open store: a commit came upon damage
        self.dead_since_ms: int | None = None
        self.accepting: Position | None = None
        self.accept_sessions = (NO_SESSION, NO_SESSION)  # the own and the active's when its grant came
        self.accept_ms = LONG_AGO
        self.source_session = NO_SESSION  # PASSIVE_SYNC: the peer's session that feeds this node
        self.source_epoch = NO_EPOCH  # and the lone epoch in which it began to
        self.lost_session = NO_SESSION  # the peer's session at the last loss of contact: a flap if it is heard again
        self.flap_need_ms = timers.flap_stable_ms
        self.stable_need_ms = timers.stable_ms
        self.flapped_ms = LONG_AGO
        self.was_lost = True
        self.handed_over_ms = LONG_AGO
        self.peer_mute_ms = now_ms  # when the peer's gateway was last not known to answer (T20)

    @property
    def store_doubted(self) -> bool:
        """Was the own store found not to hold what was written: a copy must not build on its position."""
        return self.facts.doubted

    @property
    def digest(self) -> int:
        """Of all pages of the own store as it stands now, where that is known."""
        at, digest = self.pages
        return digest if at == self.position else NOT_KNOWN

    def fresh(self, now_ms: int) -> bool:
        """Is contact young enough to rest a one-shot decision on (F2)."""
        return not self.pulse.stale(now_ms)

    def sub(self, now_ms: int) -> Sub:
        """The sub-state, for the wire and for people."""
        if self.step is Step.CLAIM:
            return Sub.CLAIMING
        if self.merging or self.step is Step.KEEP:
            return Sub.MERGING
        if self.step in (Step.INSPECT, Step.DOUBT):
            return Sub.STARTING
        if self.leaving is not None:
            return Sub.LEAVING
        if self.step is Step.PAIR or (self.state is State.ACTIVE and not self.granted):
            return Sub.GRANTING
        if self.state in PAIRED_ROLES and now_ms - self.contact.since_ms > self.timers.lost_ms:
            return Sub.DECIDING
        return Sub.NONE

    @property
    def peer(self) -> Beat | None:
        """The peer's newest facts."""
        return self.contact.beat

    @property
    def held(self) -> Held:
        """What a copy may build on. A kept store is none: its file must stay as it is."""
        complete = self.store_present and not self.store_fault and not self.whole_copy_only
        return Held(self.position if complete else NOWHERE, partial=self.store_partial, trusted=not self.store_doubted)

    # --- guards -------------------------------------------------------------------------------------------------------------

    def peer_state(self) -> State | None:
        return self.contact.beat.state if self.contact.beat else None

    def age(self, now_ms: int) -> int:
        return now_ms - self.contact.since_ms

    def heard(self, now_ms: int) -> bool:
        """Has anything come from the peer lately, so that what it said of itself may be told on."""
        return now_ms - self.contact.heard_ms <= self.timers.lost_ms

    def silent(self, now_ms: int) -> bool:
        return now_ms - self.contact.heard_ms > self.timers.silent_ms

    def peer_leads(self, now_ms: int) -> bool:
        """T13: the peer serves (or, to an ACTIVE node, claims) under a higher epoch."""
        peer = self.contact.beat
        if peer is None or not self.heard(now_ms):
            return False
        if peer.state in SERVING and peer.epoch > self.epoch:
            return True
        return self.state is State.ACTIVE and peer.sub is Sub.CLAIMING

    def master_gone_solo(self, now_ms: int) -> bool:
        """The node this one is PASSIVE to is no longer ACTIVE, nor WAITING (T10): the pairing is over."""
        peer = self.contact.beat
        return peer is not None and peer.state not in (State.ACTIVE, State.WAITING)

    def had_gap(self, now_ms: int) -> bool:
        return self.gap_seen

    def peer_gave_up(self, now_ms: int) -> bool:
        """T10: the peer itself says, in fresh contact, that it has no role."""
        peer = self.contact.beat
        return peer is not None and self.fresh(now_ms) and self.gives_up(peer) and not self.leaving

    def gives_up(self, peer: Beat) -> bool:
        return peer.state is State.WAITING or (self.state is State.ACTIVE and self.granted and peer.state is State.PASSIVE_SYNC)

    def may_follow_on(self, now_ms: int) -> bool:
        """T10's condition for claiming: nothing the peer knows is above what this node knows."""
        peer = self.contact.beat
        assert peer is not None
        return peer.epoch.counter <= max(self.epoch.counter, self.facts.epoch.counter) and peer.standing is not Standing.SOLE

    def doubtful(self, now_ms: int) -> bool:
        """T9: DECIDING without the right, or hearing the peer without an echo for too long."""
        age = self.age(now_ms)
        if age > self.timers.decide_ms + self.timers.silent_ms and not self.silent(now_ms):
            return True
        return age > self.timers.lost_ms and not self.right

    def lan_settled(self, now_ms: int) -> bool:
        """Have the own answers been unbroken for so long that the LAN path would be connected again if the peer were there.

        Without this A1 is false for a while after every LAN cut: the gateway answers both servers at once, TCP needs seconds.
        """
        failed_ms = self.vote.last_failed_ms
        return failed_ms is None or now_ms - failed_ms > self.timers.rejoin_ms + self.timers.decide_ms

    def peer_lost_newer(self) -> bool:
        """The peer served after this node was in sync, and cannot use its store any more: what it confirmed then is not here (I3)."""
        peer = self.contact.beat
        behind = peer is not None and peer.standing is Standing.BEHIND and peer.epoch.counter > self.facts.epoch.counter
        return behind and self.facts.standing is Standing.PAIRED

    def peer_cannot_tell(self, now_ms: int) -> bool:
        """The peer may have served alone after this server was in sync, and nobody says under which epochs: its disk was replaced, or
        it is not there (``resume_alone`` = "available", or no peer any more in the configuration)."""
        peer = self.contact.beat if self.fresh(now_ms) else None
        return self.facts.standing is Standing.PAIRED and (peer is None or peer.standing is Standing.NEW)

    def neither_may_serve(self) -> bool:
        """Both wait, and neither store may be used by itself: only an operator can end that."""
        peer, unfit = self.contact.beat, (Standing.NEW, Standing.BEHIND)
        waits = peer is not None and peer.state is State.WAITING and peer.sub in (Sub.NONE, Sub.LEAVING)
        return waits and self.facts.standing in unfit and peer.standing in unfit and not self.both_new(0)  # type: ignore[union-attr]

    def both_new(self, now_ms: int) -> bool:
        """T19: neither of the two has ever held data."""
        peer = self.contact.beat
        return self.facts.standing is Standing.NEW and peer is not None and peer.standing is Standing.NEW

    def a_right_is_lost(self, now_ms: int) -> bool:
        """Somebody's right died of a doubt; a new grant restores it."""
        peer = self.contact.beat
        return peer is not None and peer.state is State.PASSIVE and not (self.right and peer.right)

    def needs_no_peer(self, now_ms: int) -> bool:
        """No peer is configured: one server, no gateway asked."""
        return not self.identity.peer_id and not self.leaving and self.facts.standing is not Standing.BEHIND

    def holds_nothing_more(self, now_ms: int) -> bool:
        """T2: this store holds nothing confirmed that the peer lacks. If it does, ``diverged`` keeps where they part."""
        peer, hello = self.contact.beat, self.contact.hello
        if peer is None or hello is None:
            return False
        if not self.store_present or self.store_fault:
            return True
        found = fork(self.lineage, self.position, hello.lineage, peer.position, self.peer_high)
        lost = found.diverged and not self.merged_into(hello.lineage)
        self.diverged = found if lost else None
        return not lost

    def merged_into(self, lineage: Lineage) -> bool:
        """Whether everything that this store holds was handed over to the branch of this lineage."""
        return self.kept.state == "merged" and any(entry.epoch == self.kept.into for entry in lineage)

    @property
    def whole_copy_only(self) -> bool:
        """The store's file is kept under a second name: it must not be written in place."""
        return bool(self.kept.state)

    @property
    def hands_over(self) -> bool:
        """Is this branch handed over without waiting for an operator: the policy, and a store that is not damaged; or his order."""
        return self.merge_wanted or (self.identity.merges and not self.store_doubted)

    def cannot_merge_on(self, now_ms: int) -> bool:
        """A branch is being handed over, and its winner is lost, or not what it was when that began."""
        return self.merging and not (self.state is State.WAITING and self._winner_stays(now_ms))

    def _winner_stays(self, now_ms: int) -> bool:
        peer = self.contact.beat
        same = peer is not None and peer.state is State.STANDALONE and peer.epoch == self.merge_into
        sessions = (self.contact.session, self.contact.peer_session)
        return same and sessions == self.merge_sessions and self.age(now_ms) <= self.timers.decide_ms

    def mismatch(self) -> str:
        """Why the two cannot copy from each other, "" if they can."""
        hello = self.contact.hello
        if hello is None:
            return ""
        if hello.version != VERSION:
            return f"the peer speaks peer protocol {hello.version}, this server {VERSION}"
        if hello.primary == self.identity.primary:
            return "both servers are configured with the same role"
        if (hello.page_size, hello.data_version, hello.little_endian) != (PAGE_SIZE, DATA_VERSION, True):
            return f"the peer's store has pages of {hello.page_size} bytes, LMDB data version {hello.data_version}"
        return ""

    def lost_against_peer(self, now_ms: int) -> bool:
        """WAITING, diverged from the serving peer, and the disk does not say so yet."""
        return self.diverged is not None and self.facts.standing is not Standing.BEHIND

    def source_lost(self, now_ms: int) -> bool:
        """T16."""
        if self.age(now_ms) > self.timers.decide_ms + self.timers.silent_ms:
            return True
        peer = self.contact.beat
        if peer is None or self.contact.peer_session != self.source_session:
            return self.contact.peer_session != self.source_session
        # It gave up pairing and went on alone: it feeds nobody any more.
        went_on = peer.state is State.STANDALONE and peer.epoch != self.source_epoch
        return peer.state not in SERVING or went_on

    def grant_stands(self, now_ms: int) -> bool:
        """Since the grant came the two have heard each other all the time: who granted it could not go on alone meanwhile (I3)."""
        contact = self.contact
        unbroken = self.fresh(now_ms) and contact.unbroken_since_ms <= self.accept_ms
        same = self.accept_sessions == (contact.session, contact.peer_session)
        return unbroken and same and self.peer_state() is State.ACTIVE

    def chain_differs(self, now_ms: int) -> bool:
        """The active stands at the same transaction of the same epoch with other bytes: this copy is not a copy."""
        peer = self.contact.beat
        return (
            peer is not None
            and peer.state is State.ACTIVE
            and (peer.position.epoch, peer.position.txn) == (self.position.epoch, self.position.txn)
            and peer.position.chain != self.position.chain
        )

    def pages_differ(self, now_ms: int) -> bool:
        """The active stands at exactly this position, and its pages hold something else. Whoever has rotted, this is no copy of it."""
        peer = self.contact.beat
        if peer is None or peer.state is not State.ACTIVE or peer.position != self.position:
            return False
        return peer.digest != self.digest and NOT_KNOWN not in (peer.digest, self.digest)

    def is_damaged(self, now_ms: int) -> bool:
        """T18. Not in the middle of a grant: nothing is confirmed then, and the peer may hold everything a moment later."""
        if not self.damage or self.store_halted:
            return bool(self.damage)
        granting = self.state is State.ACTIVE and not self.granted
        return not granting or self.peer_gave_up(now_ms) or self.age(now_ms) > self.timers.lost_ms

    def link_stable(self, now_ms: int) -> bool:
        return self.fresh(now_ms) and now_ms - self.contact.unbroken_since_ms >= self.stable_need_ms

    def is_unfit(self, now_ms: int) -> bool:
        """T11: the store cannot go on as a copy."""
        return bool(self.unfit)

    def wants_to_leave(self, now_ms: int) -> bool:
        return self.leaving is not None


def rank(standing: Standing, epoch: Epoch, position: Position, primary: bool) -> tuple[int, bool, int, bool]:
    """Whose store is the better one (T3); NEW and BEHIND rank below all."""
    if standing in (Standing.NEW, Standing.BEHIND):
        return (-1, False, 0, primary)
    return (epoch.counter, standing is Standing.SOLE, position.txn, primary)
