"""Who serves. The state machine of one server of the pair: prose, table, code.

**In one paragraph.** While both are paired the active confirms nothing that its peer has not made durable, so a node cut off or frozen
can confirm nothing by itself: synchronous copying is the fence and needs no clock. The one step that needs a decision is to confirm
*alone*. It takes silence on every path, an unbroken series of gateway answers, a *right* that only an in-sync node holds and that dies
with any doubt, and a durable record (SOLE) before the first lone confirmation. After a restart only a SOLE node may serve without
first meeting its peer.

States::

            T1                  T2                    T15
    start -----> WAITING ---------------> PASSIVE_SYNC ---------> PASSIVE          copy, then in sync
                  ^  |  T3 T5 T19                                    |
                  |  +-------------> STANDALONE <-----T8 T8e T10-----+             serves alone, disk says SOLE
                  |                    |    ^
                  |                T14 v    | T8 T8e T10
                  +--- T9 T12 T13 --- ACTIVE                                       serves, needs the peer's acknowledgements

The rows stand in ``TABLE`` in the order in which they are tried, each with its reason. A row's guard reads only what this node knows:
contact (F1, F4), votes, its durable facts, its store's position, the peer's newest facts. Every row that changes something durable
puts the machine into a *step*; while a step runs no other row fires and a claim is not taken back (O7). A row that ends a role goes
through the step INSPECT, because a WAITING node must know exactly where its store stands before it may be compared with its peer.

The machine records actions and performs nothing; ``broker`` drives it (receive, tick, deadline_ms, take_actions) and learns of changes
of role from ``state`` and ``step``. It knows nothing of messages, pages or sockets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import NamedTuple

from zmqha.core.actions import Action, Claim, Follow, Halt, Note, PairUp, ResetPath, SaveFacts, SendControl, StandDown
from zmqha.core.contact import LONG_AGO, Contact, Path
from zmqha.core.events import Inspected
from zmqha.core.facts import NodeFacts
from zmqha.core.peer_protocol import (
    NO_SESSION,
    VERSION,
    Beat,
    Control,
    Drop,
    Grant,
    Hello,
    Session,
    Standing,
    State,
    Sub,
)
from zmqha.core.position import NOWHERE, Epoch, Fork, Lineage, Position, fork
from zmqha.core.pulse import Pulse
from zmqha.core.timers import CALM_MS, FLAP_MS_MAX, HAND_OVER_MS, T20_PAUSE_MS, Timers
from zmqha.core.vote import Vote
from zmqha.errors import OperationFailed, Unfinished

SERVING = (State.ACTIVE, State.STANDALONE)
PAIRED_ROLES = (State.ACTIVE, State.PASSIVE)
ANSWERS_NEEDED = 3  # gateway answers in the decision window (T8)
PAGE_SIZE = 4096
DATA_VERSION = 1


class Step(Enum):
    """A durable change under way; no row fires meanwhile."""

    NONE = auto()
    INSPECT = auto()  # the store is being closed and looked at
    DOUBT = auto()  # BEHIND is being written, because the store cannot be used or has lost
    FOLLOW = auto()  # BEHIND is being written before a copy (O3)
    CLAIM = auto()  # from the decision to the durable record (O7)
    PAIR = auto()  # PAIRED and the lineage record are being written (O2)
    ACCEPT = auto()  # PAIRED is being written before GRANTED (O3)


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


class Row(NamedTuple):
    """One row of the table."""

    name: str
    states: tuple[State, ...]
    guard: Callable[["HA", int], bool]
    act: Callable[["HA", int], None]
    reason: str


class HA:
    """One server's view of the pair."""

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
        self.epoch = facts.epoch  # served or followed under
        self.position = NOWHERE
        self.lineage: Lineage = ()
        self.peer_high = 0
        self.right = False
        self.granted = False  # ACTIVE: the peer has accepted this epoch
        self.diverged: Fork | None = None
        self.store_present = False
        self.store_fault = ""
        self.leaving: Leaving | None = None
        self.contact = Contact(
            identity.cluster_id, identity.peer_id, Session(facts.incarnation, 1), [Path() for _ in range(identity.paths)]
        )
        self.contact.opened_ms = now_ms
        self.vote = Vote(configured=gateway)
        self.pulse = Pulse(timers, self.contact, self.vote)
        # Told by the broker before each tick; facts of the data path that rows read.
        self.in_sync = False  # PASSIVE_SYNC peer streams within the window (T14) / nothing is unacknowledged (T12)
        self.drained = True  # no accepted work is unconfirmed (T12)
        self.copied = 0.0
        self.progress, self.busy, self.free, self.store_full = 0, False, 1.0, False
        self._turn_ms = now_ms
        self._gap = False
        self._dead_since_ms: int | None = None
        self._accepting: Position | None = None
        self._accept_session = NO_SESSION
        self._lost_session = NO_SESSION  # the peer's session at the last loss of contact: a flap if it is heard again
        self._flap_need_ms = timers.flap_stable_ms
        self._stable_need_ms = timers.stable_ms
        self._flapped_ms = LONG_AGO
        self._was_lost = True
        self._handed_over_ms = LONG_AGO
        self._hello_number = 1
        self._hello_of: tuple[object, ...] = ()
        self._announced: tuple[object, ...] = ()
        self._actions: list[Action] = []
        self._inspect(now_ms)

    # --- the four verbs -----------------------------------------------------------------------------------------------------

    def begin_turn(self, now_ms: int) -> None:
        """Top of the loop, before anything is read: an own gap ends the session and with it every promise made in it (F3)."""
        gap_ms = now_ms - self._turn_ms
        self._turn_ms = now_ms
        if gap_ms <= self.timers.pause_ms:
            return
        self._note("ha.gap", gap_ms=gap_ms)
        self._gap = True
        self.right = False
        self._renew(now_ms)
        self._actions += [ResetPath(index) for index in range(len(self.contact.paths))]

    def hear(self, path: int, message: Control, now_ms: int) -> None:
        """A control message of the peer."""
        peer_before = self.contact.peer_session
        self.pulse.hear(path, message, now_ms)
        if self.contact.peer_session != peer_before:
            self._dead_since_ms = None
            self._stable_need_ms = self.timers.stable_ms
            self._lost_session = NO_SESSION
            self._note("ha.session", peer=str(tuple(self.contact.peer_session)))
            self._announced = ()
        match message:
            case Grant():
                self._hear_grant(message, now_ms)
            case Drop() if message.to_session == self.contact.session and message.session == self.contact.peer_session:
                if self.fresh(now_ms) and self.state in (State.PASSIVE, State.PASSIVE_SYNC) and self.step is Step.NONE:
                    self._fall(now_ms, f"dropped by the active: {message.reason}")

    def hear_death(self, node_id: str, incarnation: int, now_ms: int) -> None:
        """An authentic death notice; counts only for the incarnation now in session (T8e)."""
        if node_id != self.identity.peer_id or incarnation != self.contact.peer_session.incarnation:
            return
        if self._dead_since_ms is None:
            self._dead_since_ms = now_ms
            self._note("ha.death_notice", peer=node_id, incarnation=incarnation)
            self.pulse.probe_now(now_ms)

    def probed(self, sent_ms: int, ok: bool) -> None:
        """A gateway probe ended."""
        self.vote.record(sent_ms, ok)

    def tick(self, now_ms: int) -> None:
        """Evaluate the table until nothing changes, then send what is due."""
        self._watch_contact(now_ms)
        for _ in range(8):
            if self.step is not Step.NONE or not self._fire(now_ms):
                break
        self._end_leaving(now_ms)
        if self.identity.peer_id:
            self.pulse.tick(now_ms)
            if self._announcement(now_ms) != self._announced or self.pulse.beat_due(now_ms):
                self.beat(now_ms)

    def deadline_ms(self, now_ms: int) -> int:
        """When ``tick`` is needed next at the latest."""
        return self.pulse.deadline_ms(now_ms) if self.identity.peer_id else now_ms + 1000

    def take_actions(self) -> list[Action]:
        """Ordered work, handed over once."""
        taken = self._actions + self.pulse.take_actions()
        self._actions = []
        return taken

    # --- answers of the store -----------------------------------------------------------------------------------------------

    def inspected(self, event: Inspected, now_ms: int) -> None:
        """The store is closed and known: the node may be compared with its peer."""
        assert self.step is Step.INSPECT, self.step
        self.position, self.lineage, self.peer_high = event.position, event.lineage, event.peer_high
        self.store_present, self.store_fault = event.present, event.fault
        self.step = Step.NONE
        if self.facts.standing is Standing.NEW and event.present:
            self._doubt("there is a store, but no node.state that belongs to it", now_ms)
        elif self.facts.standing in (Standing.PAIRED, Standing.SOLE) and (not event.present or event.fault):
            self._doubt(event.fault or "node.state says there is a store, but there is none", now_ms)

    def facts_saved(self, now_ms: int) -> None:
        """node.state is durable."""
        self.durable = self.facts
        if self.step not in (Step.FOLLOW, Step.ACCEPT, Step.DOUBT):
            return  # written on the way into another step
        step, self.step = self.step, Step.NONE
        if step is Step.FOLLOW:
            if self._gap or self._peer_state() is not State.STANDALONE:
                self._fall(now_ms, "the active was lost before the copy began")
            else:
                self._enter(State.PASSIVE_SYNC, "copying from the active", now_ms)
        elif step is Step.ACCEPT:
            assert self._accepting is not None
            self.epoch, self.position = self._accepting.epoch, self._accepting
            still = not self._gap and self._accept_session == self.contact.session and self.contact.peer_session != NO_SESSION
            if still and self.fresh(now_ms):
                self.right = True
                self._enter(State.PASSIVE, "in sync", now_ms)
            else:
                self._fall(now_ms, "contact was lost while the grant was being written")

    def claimed(self, position: Position, lineage: Lineage, now_ms: int) -> None:
        """SOLE and the lineage record are durable: serve."""
        assert self.step is Step.CLAIM, self.step
        self.step = Step.NONE
        self.durable = self.facts
        self.position, self.lineage, self.epoch = position, lineage, position.epoch
        self.store_present, self.store_fault, self.diverged = True, "", None
        self.right = self.granted = self._gap = False
        self._dead_since_ms = None
        self._enter(State.STANDALONE, self.facts.reason, now_ms)

    def paired(self, position: Position, lineage: Lineage, now_ms: int) -> None:
        """PAIRED and the lineage record of the new epoch are durable; the grant may go out."""
        assert self.step is Step.PAIR, self.step
        self.step = Step.NONE
        self.durable = self.facts
        self.position, self.lineage, self.epoch = position, lineage, position.epoch
        # The right, as before any grant: this node holds everything; the peer may hold it too from the grant on.
        self.right = True
        self._announced = ()

    def advanced(self, position: Position, peer_high: int) -> None:
        """The own store (or journal) moved on."""
        self.position, self.peer_high = position, max(self.peer_high, peer_high)

    def give_up_copy(self, reason: str, now_ms: int) -> None:
        """The store cannot go on as a copy (full, or what came does not fit): WAITING (T11)."""
        if self.state in (State.PASSIVE, State.PASSIVE_SYNC) and self.step is Step.NONE:
            self._fall(now_ms, reason)

    # --- operators ----------------------------------------------------------------------------------------------------------

    def leave(self, reason: str, now_ms: int, *, exit: bool) -> None:
        """Stop, or hand over to the peer (T11, T12). Raises OperationFailed where there is nobody to hand over to."""
        if not exit:
            if self.state is not State.ACTIVE or not self.granted:
                raise OperationFailed(
                    f"no switchover: this server is {self.state}",
                    cause="only an active server whose peer is in sync can hand over",
                    cure="wait until `zmqha status` shows the other server in sync",
                )
        if self.leaving is None or exit:
            self.leaving = Leaving(reason, exit, now_ms)

    def promote(self, who: str, wall: str, now_ms: int) -> None:
        """The operator's way round T6, audited: serve although the peer may hold newer messages."""
        if self.state is not State.WAITING or self.step is not Step.NONE:
            raise Unfinished(f"this server is {self.state}, not waiting", cause="only a waiting server can be promoted")
        if self.contact.best_path(now_ms, self.timers.lost_ms) is not None and self._peer_state() in SERVING:
            raise OperationFailed(
                "the peer is serving", cause="promoting this server would make two actives", cure="use `zmqha switchover`"
            )
        if self.store_fault:
            raise OperationFailed(
                f"the store cannot be used: {self.store_fault}", cure="start the other server; this one will copy"
            )
        act = f"{wall} promoted by {who} at {self.position}, peer lost"
        self.facts = self.facts._replace(audit=(*self.facts.audit, act))
        self._claim(now_ms, f"promoted by {who}")

    def resync(self, now_ms: int) -> None:
        """The operator's cure for divergence: set the own store aside and copy the peer's."""
        if self.state is not State.WAITING or self.step is not Step.NONE:
            raise Unfinished(f"this server is {self.state}, not waiting", cause="only a waiting server can discard its store")
        if self.facts.standing is not Standing.BEHIND:
            raise OperationFailed(
                f"this store is not the loser of a divergence (it is {self.facts.standing})",
                cause="discarding it could lose confirmed messages",
                cure="nothing is to be done: it copies by itself when the peer serves",
            )
        self._note("ha.discard", position=str(self.position))
        self._inspect(now_ms, discard=True)

    # --- what others read ---------------------------------------------------------------------------------------------------

    def fresh(self, now_ms: int) -> bool:
        """Is contact young enough to rest a one-shot decision on (F2)."""
        return not self.pulse.stale(now_ms)

    def sub(self, now_ms: int) -> Sub:
        """The sub-state, for the wire and for people."""
        if self.step is Step.CLAIM:
            return Sub.CLAIMING
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

    def beat(self, now_ms: int) -> None:
        """Send the own facts now."""
        self._announced = self._announcement(now_ms)
        beat = Beat(
            session=self.contact.session,
            seq=self.contact.next_seq(),
            sent_ms=now_ms,
            state=self.state,
            sub=self.sub(now_ms),
            reason=self.reason,
            standing=self.durable.standing,
            epoch=max(self.durable.epoch, self.epoch),
            position=self.position,
            right=self.right,
            hears=now_ms - self.contact.heard_ms <= self.timers.silent_ms,
            gateway=self.vote.answers(),
            progress=self.progress,
            busy=self.busy,
            knows=(self.contact.peer_session, self.contact.hello.number if self.contact.hello else 0),
            follows=self.contact.peer_session if self.state in (State.PASSIVE, State.PASSIVE_SYNC) else NO_SESSION,
            copied=self.copied,
            free=self.free,
            store_full=self.store_full,
        )
        self.pulse.beat(beat, self._hello(), now_ms)
        self.grant(now_ms)

    def grant(self, now_ms: int) -> None:
        """ACTIVE: say (again) that the peer holds everything, if PAIRED is durable (O2), it is due, and contact is fresh (F2)."""
        due = self.state is State.ACTIVE and self.step is Step.NONE and not self.granted
        if due and self.fresh(now_ms):
            grant = Grant(self.contact.session, self.contact.peer_session, self.position)
            self._actions.append(SendControl(None, grant))

    def drop_peer(self, reason: str) -> None:
        """ACTIVE or STANDALONE: the peer is too slow; ask it to give up its right (T_SLOW)."""
        self._note("ha.drop_peer", reason=reason)
        self._actions.append(SendControl(None, Drop(self.contact.session, self.contact.peer_session, reason)))

    # --- guards -------------------------------------------------------------------------------------------------------------

    def _peer_state(self) -> State | None:
        return self.contact.beat.state if self.contact.beat else None

    def _age(self, now_ms: int) -> int:
        return now_ms - self.contact.since_ms

    def _silent(self, now_ms: int) -> bool:
        return now_ms - self.contact.heard_ms > self.timers.silent_ms

    def _peer_leads(self, now_ms: int) -> bool:
        """T13: the peer serves (or, to an ACTIVE node, claims) under a higher epoch."""
        peer = self.contact.beat
        if peer is None or now_ms - self.contact.heard_ms > self.timers.lost_ms:
            return False
        if peer.state in SERVING and peer.epoch > self.epoch:
            return True
        return self.state is State.ACTIVE and peer.sub is Sub.CLAIMING

    def _master_gone_solo(self, now_ms: int) -> bool:
        """The node this one is PASSIVE to is no longer ACTIVE, nor WAITING (T10): the pairing is over."""
        peer = self.contact.beat
        return peer is not None and peer.state not in (State.ACTIVE, State.WAITING)

    def _had_gap(self, now_ms: int) -> bool:
        return self._gap

    def _peer_gave_up(self, now_ms: int) -> bool:
        """T10: the peer itself says, in fresh contact, that it has no role."""
        peer = self.contact.beat
        return peer is not None and self.fresh(now_ms) and self._gives_up(peer) and not self.leaving

    def _gives_up(self, peer: Beat) -> bool:
        return peer.state is State.WAITING or (self.state is State.ACTIVE and self.granted and peer.state is State.PASSIVE_SYNC)

    def _may_follow_on(self, now_ms: int) -> bool:
        """T10's condition for claiming: nothing the peer knows is above what this node knows."""
        peer = self.contact.beat
        assert peer is not None
        return peer.epoch.counter <= max(self.epoch.counter, self.facts.epoch.counter) and peer.standing is not Standing.SOLE

    def _t10_claim(self, now_ms: int) -> bool:
        return self._peer_gave_up(now_ms) and self._may_follow_on(now_ms)

    def _t10_yield(self, now_ms: int) -> bool:
        return self._peer_gave_up(now_ms) and not self._may_follow_on(now_ms)

    def _deaf_peer(self, now_ms: int) -> bool:
        """F6: the newest message of a PASSIVE or ACTIVE peer says it does not hear this node."""
        peer = self.contact.beat
        return peer is not None and peer.state in PAIRED_ROLES and not peer.hears and not self._silent(now_ms)

    def _doubtful(self, now_ms: int) -> bool:
        """T9: DECIDING without the right, or hearing the peer without an echo for too long."""
        age = self._age(now_ms)
        if age > self.timers.decide_ms + self.timers.silent_ms and not self._silent(now_ms):
            return True
        return age > self.timers.lost_ms and not self.right

    def _window_complete(self, now_ms: int) -> bool:
        """T8."""
        return (
            self.right
            and self.leaving is None
            and self._age(now_ms) > self.timers.decide_ms
            and self._silent(now_ms)
            and self.vote.answers_since(self.contact.since_ms) >= ANSWERS_NEEDED
        )

    def _death_proven(self, now_ms: int) -> bool:
        """T8e."""
        dead_ms = self._dead_since_ms
        return dead_ms is not None and self.right and self.leaving is None and self.vote.answers_since(dead_ms - 1) >= 1

    def _elected(self, now_ms: int) -> bool:
        """T3: both wait, this store is the better one."""
        peer = self.contact.beat
        if peer is None or not self.fresh(now_ms) or self.leaving or peer.state is not State.WAITING:
            return False
        if peer.sub is Sub.STARTING or self.facts.standing not in (Standing.PAIRED, Standing.SOLE):
            return False
        mine = _rank(self.facts.standing, self.facts.epoch, self.position, self.identity.primary)
        return mine > _rank(peer.standing, peer.epoch, peer.position, not self.identity.primary)

    def _first_start(self, now_ms: int) -> bool:
        """T19: both are new, this is the primary."""
        peer = self.contact.beat
        both_new = self.facts.standing is Standing.NEW and peer is not None and peer.standing is Standing.NEW
        return (
            both_new
            and peer is not None
            and peer.state is State.WAITING
            and peer.sub is not Sub.STARTING
            and self.fresh(now_ms)
            and self.identity.primary
            and not self.leaving
        )

    def _resumes_alone(self, now_ms: int) -> bool:
        """T5: SOLE, nobody heard, the gateway answers without a break."""
        allowed = (Standing.SOLE, Standing.PAIRED) if self.identity.resume_alone else (Standing.SOLE,)
        if self.facts.standing not in allowed or self.leaving:
            return False
        since = max(self.started_ms, self.vote.last_failed_ms or LONG_AGO, self.contact.opened_ms)
        return (
            now_ms - self.contact.heard_ms > self.timers.decide_ms
            and now_ms - since > self.timers.decide_ms
            and self.vote.answers_since(since) >= ANSWERS_NEEDED
        )

    def _needs_no_peer(self, now_ms: int) -> bool:
        """No peer is configured: one server, no gateway asked."""
        return not self.identity.peer_id and not self.leaving and self.facts.standing is not Standing.BEHIND

    def _can_copy(self, now_ms: int) -> bool:
        """T2: the peer serves alone, fits, and this store holds nothing confirmed that the peer lacks."""
        peer, hello = self.contact.beat, self.contact.hello
        if peer is None or hello is None or not self.fresh(now_ms) or peer.state is not State.STANDALONE or self.leaving:
            return False
        if self.store_full or self.mismatch() or not hello.lineage or hello.lineage[-1].epoch != peer.epoch:
            return False
        if not self.store_present or self.store_fault:
            return True
        self.diverged = None
        found = fork(self.lineage, self.position, hello.lineage, peer.position, self.peer_high)
        if found.diverged:
            self.diverged = found
        return not found.diverged

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

    def _lost_against_peer(self, now_ms: int) -> bool:
        """WAITING, diverged from the serving peer, and the disk does not say so yet."""
        return self.diverged is not None and self.facts.standing is not Standing.BEHIND

    def _source_lost(self, now_ms: int) -> bool:
        """T16."""
        if self._age(now_ms) > self.timers.decide_ms + self.timers.silent_ms:
            return True
        peer = self.contact.beat
        return peer is not None and peer.state not in SERVING

    def _pair_ready(self, now_ms: int) -> bool:
        """T14: the peer streams within the window and the link has been stable."""
        peer = self.contact.beat
        return (
            peer is not None
            and self.leaving is None
            and self.in_sync
            and peer.state is State.PASSIVE_SYNC
            and peer.follows == self.contact.session
            and self._link_stable(now_ms)
        )

    def _right_curable(self, now_ms: int) -> bool:
        """T14 again, from ACTIVE: somebody's right died of a doubt that is over; a new grant restores it."""
        peer = self.contact.beat
        return (
            peer is not None
            and self.granted
            and self.leaving is None
            and self.in_sync
            and peer.state is State.PASSIVE
            and not (self.right and peer.right)
            and self.vote.answers() is True
            and peer.gateway is True
            and self._link_stable(now_ms)
        )

    def _link_stable(self, now_ms: int) -> bool:
        return self.fresh(now_ms) and now_ms - self.contact.unbroken_since_ms >= self._stable_need_ms

    def _isolated(self, now_ms: int) -> bool:
        """T17."""
        t_iso = self.timers.isolated_ms
        gone = now_ms - max(self.contact.heard_ms, self.started_ms) > t_iso
        return bool(self.identity.peer_id) and gone and self.vote.silent_for(now_ms, self.started_ms) > t_iso

    def _cut_off_from_clients(self, now_ms: int) -> bool:
        """T20."""
        peer = self.contact.beat
        return (
            self.leaving is None
            and self.granted
            and peer is not None
            and peer.gateway is True
            and self.fresh(now_ms)
            and self.vote.silent_for(now_ms, self.started_ms) > self.timers.isolated_ms
            and now_ms - self._handed_over_ms > T20_PAUSE_MS
        )

    def _active_may_leave(self, now_ms: int) -> bool:
        """T12."""
        return self.leaving is not None and (self.drained or now_ms - self.leaving.since_ms > HAND_OVER_MS)

    def _wants_to_leave(self, now_ms: int) -> bool:
        return self.leaving is not None

    # --- acts ---------------------------------------------------------------------------------------------------------------

    def _claim(self, now_ms: int, reason: str) -> None:
        """Serve alone: SOLE(e+1) durable before the first lone confirmation (O1)."""
        peer_counter = self.contact.beat.epoch.counter if self.contact.beat else 0
        epoch = Epoch(max(self.facts.epoch.counter, self.epoch.counter, peer_counter) + 1, self.random.getrandbits(64))
        self.facts = self.facts._replace(epoch=epoch, standing=Standing.SOLE, reason=reason)
        # Since when nobody served, as far as this node knows: an active server never stopped for its own clients.
        since = max(self.contact.contact_ms, self.started_ms)
        outage_ms = 0 if self.state is State.WAITING and not self.lineage else now_ms - since
        self.step = Step.CLAIM
        self._note("ha.claim", epoch=epoch.counter, reason=reason, state=self.state)
        self._actions.append(Claim(self.facts, epoch, reason, outage_ms))

    def _pair(self, now_ms: int, reason: str) -> None:
        """ACTIVE: confirms are held from here on until the peer has accepted (O2)."""
        epoch = Epoch(max(self.facts.epoch.counter, self.epoch.counter) + 1, self.random.getrandbits(64))
        self.facts = self.facts._replace(epoch=epoch, standing=Standing.PAIRED, reason=reason)
        self.granted = self.right = False
        self.step = Step.PAIR
        self._enter(State.ACTIVE, reason, now_ms)
        self._actions.append(PairUp(self.facts, epoch, reason))

    def _follow(self, now_ms: int) -> None:
        self.facts = self.facts._replace(standing=Standing.BEHIND, reason="copying from the active")
        self.step = Step.FOLLOW
        self._actions.append(Follow(self.facts))

    def _doubt(self, reason: str, now_ms: int) -> None:
        self.facts = self.facts._replace(standing=Standing.BEHIND, reason=reason)
        self.step = Step.DOUBT
        self._note("ha.behind", reason=reason)
        self._actions.append(SaveFacts(self.facts))

    def _fall(self, now_ms: int, reason: str) -> None:
        """WAITING: no role, no right; a new session, so nothing said in the old one can take effect."""
        if self.leaving is not None:
            self.leaving.left_ms = now_ms
        self.right = self.granted = self._gap = False
        self._dead_since_ms = None
        self._enter(State.WAITING, reason, now_ms)
        self._renew(now_ms)
        self._inspect(now_ms)

    def _yield_store(self, now_ms: int, reason: str) -> None:
        """T13 of a STANDALONE node: the disk must say that this store has lost before anything else happens."""
        self.facts = self.facts._replace(standing=Standing.BEHIND, reason=reason)
        self._actions.append(SaveFacts(self.facts))
        self._fall(now_ms, reason)

    def _inspect(self, now_ms: int, *, discard: bool = False) -> None:
        self.step = Step.INSPECT
        self.diverged = None
        self._actions.append(StandDown(discard))

    def _renew(self, now_ms: int) -> None:
        self.contact.renew(now_ms)
        self._announced = ()

    def _enter(self, state: State, reason: str, now_ms: int) -> None:
        if state is not self.state or reason != self.reason:
            peer = self.contact.beat
            self._note(
                f"ha.{state.value.lower()}", was=self.state.value, reason=reason, epoch=self.epoch.counter, position=str(self.position),
                peer=peer.state.value if peer else "unseen",
            )  # fmt: skip
        self.state, self.reason = state, reason

    # --- the rest -----------------------------------------------------------------------------------------------------------

    def _fire(self, now_ms: int) -> bool:
        for row in TABLE:
            if self.state in row.states and row.guard(self, now_ms):
                row.act(self, now_ms)
                self._check_invariants()
                return True
        return False

    def _check_invariants(self) -> None:
        if self.state is State.STANDALONE and self.step is Step.NONE:
            assert self.durable.standing is Standing.SOLE, "STANDALONE without SOLE on disk (O1)"
        if self.state in PAIRED_ROLES and self.step is Step.NONE:
            assert self.durable.standing is Standing.PAIRED, "a paired role without PAIRED on disk (O2, O3)"
        if self.right:
            assert self.state in PAIRED_ROLES, "only a paired node holds the right"

    def _watch_contact(self, now_ms: int) -> None:
        """Notice losses (flaps) and kill the right on doubt (F7); see that a grant was accepted."""
        lost = now_ms - self.contact.contact_ms > self.timers.lost_ms
        if lost and not self._was_lost:
            self._lost_session = self.contact.peer_session
        if self._was_lost and not lost and self._lost_session == self.contact.peer_session:
            self._flap_need_ms = (
                self.timers.flap_stable_ms if now_ms - self._flapped_ms > CALM_MS else min(2 * self._flap_need_ms, FLAP_MS_MAX)
            )
            self._stable_need_ms, self._flapped_ms = self._flap_need_ms, now_ms
            self._note("ha.flap", stable_ms=self._stable_need_ms)
        self._was_lost = lost
        doubt_ms = self.contact.since_ms
        if self.right and now_ms - doubt_ms > self.timers.fresh_ms and self.vote.failed_since(doubt_ms):
            self.right = False
            self._note("ha.right_lost", reason="a gateway probe failed while the peer was silent")
        peer = self.contact.beat
        if (
            self.state is State.ACTIVE
            and self.step is Step.NONE
            and not self.granted
            and peer is not None
            and peer.state is State.PASSIVE
            and peer.epoch == self.epoch
        ):
            self.granted = True
            self._note("ha.granted", epoch=self.epoch.counter)

    def _hear_grant(self, grant: Grant, now_ms: int) -> None:
        """T15: everything must fit exactly; otherwise the grant comes again or never."""
        addressed = grant.to_session == self.contact.session and grant.session == self.contact.peer_session
        if not addressed or not self.fresh(now_ms) or self.step is not Step.NONE or self._gap or self.leaving:
            return
        if self.state not in (State.PASSIVE_SYNC, State.PASSIVE) or grant.position != self.position:
            return
        if self.state is State.PASSIVE and grant.position.epoch == self.epoch:
            return
        self._accepting, self._accept_session = grant.position, self.contact.session
        self.facts = self.facts._replace(epoch=grant.position.epoch, standing=Standing.PAIRED, reason="in sync")
        self.step = Step.ACCEPT
        self._actions.append(SaveFacts(self.facts))

    def _end_leaving(self, now_ms: int) -> None:
        """A stopping node exits when it hears that the other serves, or after HAND_OVER_MS."""
        leaving = self.leaving
        if leaving is None or self.state is not State.WAITING or self.step is not Step.NONE:
            return
        if leaving.left_ms is None:
            leaving.left_ms = now_ms
        alone = now_ms - self.contact.heard_ms > self.timers.lost_ms or self.durable.standing is Standing.SOLE
        if self._peer_state() is not State.STANDALONE and not alone and now_ms - leaving.left_ms <= HAND_OVER_MS:
            return
        self.leaving = None
        if leaving.exit:
            self._actions.append(Halt(leaving.reason, 0))

    def _hello(self) -> Hello:
        now_of = (self.contact.session, self.lineage, self.peer_high)
        if now_of != self._hello_of:
            self._hello_of = now_of
            self._hello_number += 1
        return Hello(
            session=self.contact.session,
            number=self._hello_number,
            version=VERSION,
            cluster_id=self.identity.cluster_id,
            node_id=self.identity.node_id,
            primary=self.identity.primary,
            page_size=PAGE_SIZE,
            data_version=DATA_VERSION,
            little_endian=True,
            lineage=self.lineage,
            peer_high=self.peer_high,
            client_endpoint=self.identity.client_endpoint,
        )

    def _announcement(self, now_ms: int) -> tuple[object, ...]:
        """The facts whose change is told at once."""
        return (self.state, self.sub(now_ms), self.durable, self.epoch, self.right, self.contact.session, self.store_full)

    def _note(self, event: str, **fields: object) -> None:
        self._actions.append(Note(event, tuple(fields.items())))


def _rank(standing: Standing, epoch: Epoch, position: Position, primary: bool) -> tuple[int, bool, int, bool]:
    """Whose store is the better one (T3); NEW and BEHIND rank below all."""
    if standing in (Standing.NEW, Standing.BEHIND):
        return (-1, False, 0, primary)
    return (epoch.counter, standing is Standing.SOLE, position.txn, primary)


def _claims(reason: str) -> Callable[[HA, int], None]:
    return lambda ha, now_ms: ha._claim(now_ms, reason)


def _falls(reason: str) -> Callable[[HA, int], None]:
    return lambda ha, now_ms: ha._fall(now_ms, reason)


def _hands_over(ha: HA, now_ms: int) -> None:
    ha._handed_over_ms = now_ms
    ha.leaving = Leaving("cut off from clients: the own gateway is silent, the peer's answers", False, now_ms)


def _forget_gap(ha: HA, now_ms: int) -> None:
    ha._gap = False


def _records_loss(ha: HA, now_ms: int) -> None:
    assert ha.diverged is not None
    ha._doubt(f"diverged: {ha.diverged.why}", now_ms)


_W, _S, _P, _A, _L = State.WAITING, State.PASSIVE_SYNC, State.PASSIVE, State.ACTIVE, State.STANDALONE

TABLE: tuple[Row, ...] = (
    Row(
        "T9 gap",
        (_S, _P, _A),
        HA._had_gap,
        _falls("an own gap: others may have acted meanwhile"),
        "F3: what was heard before is stale",
    ),
    Row("gap", (_W, _L), HA._had_gap, _forget_gap, "STANDALONE needs nobody's leave; WAITING has no role to lose"),
    Row(
        "T13",
        (_L,),
        HA._peer_leads,
        lambda ha, now: ha._yield_store(now, "the peer serves under a higher epoch"),
        "two served alone: the lower epoch stops, its data is kept",
    ),
    Row(
        "T13",
        (_A,),
        HA._peer_leads,
        _falls("the peer serves or claims under a higher epoch"),
        "it confirmed nothing the peer lacks",
    ),
    Row(
        "T12 stop",
        (_A, _L),
        HA._active_may_leave,
        _falls("handing over"),
        "all that was accepted is confirmed, the peer's T10 does the rest",
    ),
    Row("T11", (_P, _S), HA._wants_to_leave, _falls("leaving"), "the active's T10 does the rest"),
    Row(
        "T10",
        (_A, _P),
        HA._t10_claim,
        _claims("the peer gave up its role"),
        "it said so itself in fresh contact: no window is needed",
    ),
    Row(
        "T10", (_A, _P), HA._t10_yield, _falls("the waiting peer knows a higher epoch"), "T3 decides with all facts on the table"
    ),
    Row(
        "T16 solo",
        (_P,),
        HA._master_gone_solo,
        _falls("the active went on without this server"),
        "no longer in sync: copy again (T2)",
    ),
    Row(
        "T9 deaf",
        (_A, _P),
        HA._deaf_peer,
        _falls("the peer does not hear this server"),
        "F6: the hearing node yields to the deaf one",
    ),
    Row(
        "T8e",
        (_A, _P),
        HA._death_proven,
        _claims("the peer's watcher reports its death"),
        "nothing more can leave a dead process (A6)",
    ),
    Row(
        "T8",
        (_A, _P),
        HA._window_complete,
        _claims("the peer is silent on every path, the gateway answers"),
        "not the isolated one, and under A1 the peer is",
    ),
    Row(
        "T9", (_A, _P), HA._doubtful, _falls("the peer is lost and this server may be the isolated one"), "in doubt nobody serves"
    ),
    Row("T16", (_S,), HA._source_lost, _falls("the active was lost during the copy"), "half a copy is no store: stays BEHIND"),
    Row(
        "T17",
        (_L,),
        HA._isolated,
        _falls("neither gateway nor peer answers"),
        "serves nobody; standing stays SOLE, T5 brings it back",
    ),
    Row("T20", (_A,), HA._cut_off_from_clients, _hands_over, "clients reach the peer, not this server"),
    Row(
        "T14",
        (_L,),
        HA._pair_ready,
        lambda ha, now: ha._pair(now, "the peer is in sync"),
        "from here both disks before every confirm",
    ),
    Row(
        "T14 again",
        (_A,),
        HA._right_curable,
        lambda ha, now: ha._pair(now, "rights restored"),
        "the doubt is over, both hold everything",
    ),
    Row("alone", (_W,), HA._needs_no_peer, _claims("no peer is configured"), "one server: development, or growing later"),
    Row("T2 lost", (_W,), HA._lost_against_peer, _records_loss, "this store has lost; it must never serve by itself again"),
    Row("T2", (_W,), HA._can_copy, lambda ha, now: ha._follow(now), "the peer serves and holds everything confirmed"),
    Row(
        "T3",
        (_W,),
        HA._elected,
        _claims("elected: the better store of two that wait"),
        "both facts are on the table; ranks cannot tie",
    ),
    Row("T19", (_W,), HA._first_start, _claims("first start of a new pair"), "two empty servers, the primary begins"),
    Row(
        "T5",
        (_W,),
        HA._resumes_alone,
        _claims("resumed alone: the disk says SOLE, the gateway answers"),
        "nobody else may hold newer data",
    ),
)
