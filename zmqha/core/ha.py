"""Who serves. The state machine of one server of the pair: prose here, the table in ``table``, code here.

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

The rows stand in ``table.TABLE`` in the order in which they are tried, each with its reason. A row's guard reads only what this
node knows: contact (F1, F4), votes, its durable facts, its store's position, the peer's newest facts. Every row that changes
something durable puts the machine into a *step*; while a step runs no other row fires and a claim is not taken back (O7). A row
that ends a role goes through the step INSPECT, because a WAITING node must know exactly where its store stands before it may be
compared with its peer.

The machine records actions and performs nothing, and so does its ``pulse``; ``broker`` drives it (receive, tick, deadline_ms), takes
the actions of both and learns of changes of role from ``state`` and ``step``. It knows nothing of messages, pages or sockets.
"""

from zmqha.core.actions import Halt, ResetPath, SaveFacts
from zmqha.core.acts import Acts
from zmqha.core.events import Inspected, KeptBranch
from zmqha.core.peer_protocol import (
    NO_SESSION,
    Control,
    Drop,
    Grant,
    Standing,
    State,
    Sub,
)
from zmqha.core.position import Epoch, Lineage, Position
from zmqha.core.table import TABLE
from zmqha.core.timers import CALM_MS, FLAP_MS_MAX, HAND_OVER_MS
from zmqha.core.view import LOOK_AGAIN_MS, PAIRED_ROLES, Leaving, Step
from zmqha.errors import OperationFailed, Unfinished


class HA(Acts):
    """The machine: drive it by the four verbs, tell it the store's answers and the operators' orders."""

    # --- the four verbs -----------------------------------------------------------------------------------------------------

    def begin_turn(self, now_ms: int) -> None:
        """Top of the loop, before anything is read: an own gap ends the session and with it every promise made in it (F3)."""
        gap_ms = now_ms - self.turn_ms
        self.turn_ms = now_ms
        if gap_ms <= self.timers.pause_ms:
            return
        self.note("ha.gap", gap_ms=gap_ms)
        self.gap_seen = True
        self.right = False
        self.renew(now_ms)
        if self.identity.peer_id:
            self.actions += [ResetPath(index) for index in range(len(self.contact.paths))]

    def hear(self, path: int, message: Control, now_ms: int) -> None:
        """A control message of the peer."""
        peer_before = self.contact.peer_session
        self.pulse.hear(path, message, now_ms)
        if self.contact.peer_session != peer_before:
            self.dead_since_ms = None
            self.was_lost = True  # the contact of a new session begins, nothing was lost by that
            if self.contact.peer_session.incarnation != peer_before.incarnation:
                self.stable_need_ms = self.timers.stable_ms
                self.lost_session = NO_SESSION
            self.note("ha.session", peer=str(tuple(self.contact.peer_session)))
            self.announced = ()
        match message:
            case Grant():
                self._hear_grant(message, now_ms)
            case Drop() if message.to_session == self.contact.session and message.session == self.contact.peer_session:
                if self.fresh(now_ms) and self.state in (State.PASSIVE, State.PASSIVE_SYNC) and self.step is Step.NONE:
                    self.fall(now_ms, f"dropped by the active: {message.reason}")

    def hear_death(self, node_id: str, incarnation: int, now_ms: int) -> None:
        """An authentic death notice; counts only for the incarnation now in session (T8e)."""
        if node_id != self.identity.peer_id or incarnation != self.contact.peer_session.incarnation:
            return
        if self.dead_since_ms is None:
            self.dead_since_ms = now_ms
            self.note("ha.death_notice", peer=node_id, incarnation=incarnation)
            self.pulse.probe_now(now_ms)

    def probed(self, sent_ms: int, ok: bool) -> None:
        """A gateway probe ended."""
        self.vote.record(sent_ms, ok)

    def tick(self, now_ms: int) -> None:
        """Evaluate the table until nothing changes, then send what is due."""
        self._watch_contact(now_ms)
        if self.store_halted and self.step in (Step.CLAIM, Step.PAIR):
            self.step = Step.NONE  # it will not be answered: T18
        for _ in range(8):
            if self.step is not Step.NONE or not self._fire(now_ms):
                break
        self._end_leaving(now_ms)
        if self.no_room and self.step is Step.INSPECT and now_ms - self.no_room_ms >= LOOK_AGAIN_MS:
            self.inspect(now_ms)
        if self.identity.peer_id:
            self.pulse.tick(now_ms)
            if self.announcement(now_ms) != self.announced or self.pulse.beat_due(now_ms):
                self.beat(now_ms)

    def deadline_ms(self, now_ms: int) -> int:
        """When ``tick`` is needed next at the latest."""
        return self.pulse.deadline_ms(now_ms) if self.identity.peer_id else now_ms + 1000

    # --- answers of the store -----------------------------------------------------------------------------------------------

    def inspected(self, event: Inspected, now_ms: int) -> None:
        """The store is closed and known: the node may be compared with its peer."""
        assert self.step is Step.INSPECT, self.step
        self.position, self.lineage, self.peer_high = event.position, event.lineage, event.peer_high
        self.store_present, self.store_fault, self.store_partial = event.present, event.fault, event.partial
        self.kept = event.kept
        self.step, self.no_room, self.store_halted = Step.NONE, "", False
        if self.facts.standing is Standing.NEW and event.position.txn == 1:
            # The very first claim was cut short: SOLE is written once its epoch is in the store, so nothing here was confirmed.
            self.note("ha.discard", position=str(self.position))
            self.inspect(now_ms, discard=True)
        elif self.facts.standing is Standing.NEW and event.present:
            self.doubt("there is a store, but no node.state that belongs to it", now_ms)
        elif self.facts.standing in (Standing.PAIRED, Standing.SOLE) and (not event.present or event.fault):
            self.doubt(event.fault or "node.state says there is a store, but there is none", now_ms)

    def has_no_room(self, why: str, now_ms: int) -> None:
        """The own store is good and cannot be brought up to date: the disk is full. It stays what it is, and is looked at again."""
        if self.step is Step.CLAIM:
            self.facts = self.durable
            self.fall(now_ms, why)  # and looks: what that finds is the next answer
            return
        self.no_room, self.no_room_ms = why, now_ms
        self.enter(State.WAITING, why, now_ms)

    def facts_saved(self, now_ms: int) -> None:
        """node.state is durable."""
        self.durable = self.facts
        if self.step not in (Step.FOLLOW, Step.ACCEPT, Step.DOUBT):
            return  # written on the way into another step
        step, self.step = self.step, Step.NONE
        if step is Step.FOLLOW:
            if self.gap_seen or self.peer_state() is not State.STANDALONE:
                self.fall(now_ms, "the active was lost before the copy began")
            else:
                self.source_session = self.contact.peer_session
                assert self.contact.beat is not None
                self.source_epoch = self.contact.beat.epoch
                self.enter(State.PASSIVE_SYNC, "copying from the active", now_ms)
        elif step is Step.ACCEPT:
            assert self.accepting is not None
            self.kept = KeptBranch()  # the copy is another file
            self.epoch, self.position = self.accepting.epoch, self.accepting
            if not self.gap_seen and self.grant_stands(now_ms):
                self.right = True
                self.enter(State.PASSIVE, "in sync", now_ms)
            else:
                self.fall(now_ms, "the active was lost while its grant was being written")

    def claimed(self, position: Position, lineage: Lineage, now_ms: int) -> None:
        """SOLE and the lineage record are durable: serve."""
        assert self.step is Step.CLAIM, self.step
        self.step = Step.NONE
        self.durable = self.facts
        self.position, self.lineage, self.epoch = position, lineage, position.epoch
        self.store_present, self.store_fault, self.diverged = True, "", None
        self.kept, self.merge_wanted = KeptBranch(), False
        self.right = self.granted = self.gap_seen = False
        self.dead_since_ms = None
        self.enter(State.STANDALONE, self.facts.reason, now_ms)

    def paired(self, position: Position, lineage: Lineage, now_ms: int) -> None:
        """PAIRED and the lineage record of the new epoch are durable; the grant may go out."""
        assert self.step is Step.PAIR, self.step
        self.step = Step.NONE
        self.durable = self.facts
        self.position, self.lineage, self.epoch = position, lineage, position.epoch
        # The right, as before any grant: this node holds everything; the peer may hold it too from the grant on.
        self.right = not self.gap_seen
        self.announced = ()

    def branch_kept(self) -> None:
        """The store has its second name: the branch may be handed over."""
        assert self.step is Step.KEEP, self.step
        self.step = Step.NONE
        self.kept, self.merging, self.keep_refused = KeptBranch("merging"), True, ""

    def keep_failed(self, reason: str, now_ms: int) -> None:
        """The store could not be kept, and nothing of it was handed over; or it is kept and cannot be read (on)."""
        assert self.step is Step.KEEP or self.merging, self.step
        if self.step is Step.KEEP:
            self.step = Step.NONE
        self.merging = False
        self.keep_refused, self.keep_refused_ms = reason, now_ms
        self.note("ha.keep_refused", reason=reason)

    def branch_merged(self, into: Epoch) -> None:
        """The winner holds everything, and the kept store says so: T2 may follow."""
        self.merging = self.merge_wanted = False
        self.kept, self.diverged = KeptBranch("merged", into), None
        self.note("ha.merged", winner_epoch=into.counter)

    def advanced(self, position: Position) -> None:
        """The own store (or journal) moved on."""
        self.position = position

    def give_up_copy(self, reason: str) -> None:
        """The store cannot go on as a copy (full, or what came does not fit); as soon as no step runs: WAITING (T11)."""
        if self.state in (State.PASSIVE, State.PASSIVE_SYNC):
            self.unfit = self.unfit or reason  # the first one: what does not fit after that is only its consequence

    def damaged(self, why: str, *, halted: bool = False) -> None:
        """The open store, or the copy, does not hold what was written (T18). ``halted``: and whatever the store thread was asked to
        write it has not."""
        self.store_halted = self.store_halted or halted
        if self.damage_accepted and not halted:
            self.note("ha.damage_accepted", reason=why)
        else:
            self.damage = self.damage or why

    # --- operators ----------------------------------------------------------------------------------------------------------

    def leave(self, reason: str, now_ms: int, *, exit: bool) -> None:
        """Stop, or hand over to the peer (T11, T12). Raises OperationFailed where there is nobody to hand over to."""
        if not exit and (self.state is not State.ACTIVE or not self.granted):
            raise OperationFailed(
                f"no switchover: this server is {self.state}",
                cause="only an active server whose peer is in sync can hand over",
                cure="wait until `zmqha status` shows the other server in sync",
            )
        if self.leaving is None:
            self.leaving = Leaving(reason, exit, now_ms)
        elif exit:
            self.leaving.exit, self.leaving.reason = True, reason

    def promote(self, who: str, wall: str, now_ms: int) -> None:
        """The operator's way round T6, audited: serve although the peer may hold newer messages."""
        self._only_while_waiting("promoted")
        peer = self.contact.beat
        there = self.fresh(now_ms) or self.heard(now_ms)  # it may serve clients and not hear this server
        if peer is not None and there and (peer.state is not State.WAITING or peer.sub is Sub.CLAIMING):
            raise OperationFailed(
                f"the peer is there and {peer.state}",
                cause="promoting this server could make two actives",
                cure="see `zmqha status`",
            )
        if self.facts.standing is Standing.BEHIND and not self.store_present:
            raise OperationFailed(
                "there is no store to serve from",
                cause=self.store_fault or "it was lost, or its first copy was never finished",
                cure="start the other server; this one copies by itself",
            )
        self.damage_accepted = self.facts.standing is Standing.BEHIND
        act = f"{wall} promoted by {who} at {self.position}, peer lost"
        self.facts = self.facts._replace(audit=(*self.facts.audit, act)).bounded()
        self.claim(now_ms, f"promoted by {who}", unseen=True)

    def _only_while_waiting(self, what: str) -> None:
        if self.state is not State.WAITING:
            raise OperationFailed(
                f"this server is {self.state}", cause=f"only one that is WAITING can be {what}", cure="look at `zmqha status`"
            )
        if self.step is not Step.NONE:
            raise Unfinished(
                "this server is still looking at its own store",
                cause=self.no_room or "it has just started",
                cure="free disk space" if self.no_room else "try again in a second",
            )

    def resync(self, now_ms: int) -> None:
        """The operator's cure for divergence: set the own store aside and copy the peer's."""
        self._only_while_waiting("told to discard its store")
        if self.facts.standing is not Standing.BEHIND:
            raise OperationFailed(
                f"this store is not the loser of a divergence (it is {self.facts.standing})",
                cause="discarding it could lose confirmed messages",
                cure="nothing is to be done: it copies by itself when the peer serves",
            )
        self.note("ha.discard", position=str(self.position))
        self.inspect(now_ms, discard=True)

    def merge(self) -> None:
        """The operator's leave to hand this branch over, where the policy is to wait for it."""
        self._only_while_waiting("told to merge")
        if self.diverged is None:
            raise OperationFailed(
                "there is nothing to merge",
                cause="this store holds nothing that the serving one lacks, or the other server does not serve",
                cure="look at `zmqha status`",
            )
        self.merge_wanted = True
        self.note("ha.merge_wanted")

    # --- the rest -----------------------------------------------------------------------------------------------------------

    def _fire(self, now_ms: int) -> bool:
        state = self.state
        for row in TABLE:
            if state in row.states and row.guard(self, now_ms):
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
        if lost and not self.was_lost:
            self.lost_session = self.contact.peer_session
        if self.was_lost and not lost and self.lost_session.incarnation == self.contact.peer_session.incarnation:
            self.lost_session = NO_SESSION
            self.flap_need_ms = (
                self.timers.flap_stable_ms if now_ms - self.flapped_ms > CALM_MS else min(2 * self.flap_need_ms, FLAP_MS_MAX)
            )
            self.stable_need_ms, self.flapped_ms = self.flap_need_ms, now_ms
            self.note("ha.flap", stable_ms=self.stable_need_ms)
        self.was_lost = lost
        doubt_ms = self.contact.since_ms
        if self.right and now_ms - doubt_ms > self.timers.fresh_ms and self.vote.failed_since(doubt_ms):
            self.right = False
            self.note("ha.right_lost", reason="a gateway probe failed while the peer was silent")
        peer = self.contact.beat
        if peer is None or peer.gateway is not True:
            self.peer_mute_ms = now_ms
        if (
            self.state is State.ACTIVE
            and self.step is Step.NONE
            and not self.granted
            and peer is not None
            and peer.state is State.PASSIVE
            and peer.epoch == self.epoch
        ):
            self.granted = True
            self.note("ha.granted", epoch=self.epoch.counter)

    def _hear_grant(self, grant: Grant, now_ms: int) -> None:
        """T15: everything must fit exactly; otherwise the grant comes again or never."""
        addressed = grant.to_session == self.contact.session and grant.session == self.contact.peer_session
        if not addressed or not self.fresh(now_ms) or self.step is not Step.NONE or self.gap_seen or self.leaving:
            return
        if self.state not in (State.PASSIVE_SYNC, State.PASSIVE) or grant.position != self.position:
            return
        if self.state is State.PASSIVE and grant.position.epoch == self.epoch:
            return
        self.accepting, self.accept_ms = grant.position, now_ms
        self.accept_sessions = self.contact.session, self.contact.peer_session
        self.facts = self.facts._replace(epoch=grant.position.epoch, standing=Standing.PAIRED, reason="in sync", doubted=False)
        self.step = Step.ACCEPT
        self.actions.append(SaveFacts(self.facts))

    def _end_leaving(self, now_ms: int) -> None:
        """A stopping node exits when it hears that the other serves, or after HAND_OVER_MS."""
        leaving = self.leaving
        if leaving is not None and not leaving.exit and self.state is State.ACTIVE and self.age(now_ms) > self.timers.lost_ms:
            self.leaving = None  # nobody is there to take over; T8 may still find that this server goes on alone
            self.note("ha.hand_over_off", reason=leaving.reason)
            return
        if leaving is None or self.state is not State.WAITING or (self.step is not Step.NONE and not self.no_room):
            return
        if leaving.left_ms is None:
            leaving.left_ms = now_ms
        alone = not self.heard(now_ms) or self.durable.standing is Standing.SOLE
        if self.peer_state() is not State.STANDALONE and not alone and now_ms - leaving.left_ms <= HAND_OVER_MS:
            return
        self.leaving = None
        if leaving.exit:
            self.actions.append(Halt(leaving.reason, 0))
