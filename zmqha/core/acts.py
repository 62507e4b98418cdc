"""What a row of the HA table does: change the durable facts, ask the store for a step, tell the peer.

Each act leaves the machine in a step or in a state, records the actions for it and performs nothing. Orders that safety rests on
(O1, O2, O3, O7) are inside the store actions (``actions``); here is only which one is asked for. Driven by ``ha``.
"""

from random import Random

from zmqha.core.actions import Action, Claim, Follow, KeepBranch, Note, PairUp, SaveFacts, SendControl, StandDown
from zmqha.core.facts import NodeFacts
from zmqha.core.guards import Guards
from zmqha.core.limits import EPOCH_LEAP
from zmqha.core.outbox import Outbox
from zmqha.core.peer_protocol import (
    NO_SESSION,
    VERSION,
    Beat,
    Drop,
    Grant,
    Hello,
    Standing,
    State,
)
from zmqha.core.position import Epoch
from zmqha.core.timers import Timers
from zmqha.core.view import DATA_VERSION, PAGE_SIZE, Identity, Step


class Acts(Guards, Outbox[Action]):
    """A view that can act."""

    def __init__(
        self, identity: Identity, timers: Timers, facts: NodeFacts, random: Random, now_ms: int, *, gateway: bool
    ) -> None:
        """See ``View``."""
        Guards.__init__(self, identity, timers, facts, random, now_ms, gateway=gateway)
        Outbox.__init__(self)
        self._hello_number = 1
        self._hello_of: tuple[object, ...] = ()
        self.announced: tuple[object, ...] = ()
        self.inspect(now_ms)

    # --- acts ---------------------------------------------------------------------------------------------------------------

    def claim(self, now_ms: int, reason: str, *, unseen: bool = False) -> None:
        """Serve alone: SOLE(e+1) durable before the first lone confirmation (O1). ``unseen``: the peer may have served alone, under
        epochs that nobody here knows."""
        epoch = self._next_epoch(EPOCH_LEAP if unseen else 1)
        self.facts = self.facts._replace(epoch=epoch, standing=Standing.SOLE, reason=reason, doubted=False)
        # Since when nobody served, as far as this node knows: an active server never stopped for its own clients.
        since = max(self.contact.contact_ms, self.started_ms)
        outage_ms = 0 if self.state is State.WAITING and not self.lineage else now_ms - since
        self.step = Step.CLAIM
        self.merging = False
        self.note("ha.claim", epoch=epoch.counter, reason=reason, state=self.state)
        self.actions.append(Claim(self.facts, epoch, reason, outage_ms, self.peer_holds, self.damage_accepted))

    def pair_up(self, now_ms: int, reason: str) -> None:
        """ACTIVE: confirms are held from here on until the peer has accepted (O2)."""
        epoch = self._next_epoch()
        self.facts = self.facts._replace(epoch=epoch, standing=Standing.PAIRED, reason=reason)
        self.granted = self.right = self.damage_accepted = False
        self.step = Step.PAIR
        self.enter(State.ACTIVE, reason, now_ms)
        self.actions.append(PairUp(self.facts, epoch, reason, self.peer_holds))

    def _next_epoch(self, step: int = 1) -> Epoch:
        """Above every one that is known: a client that was served under a higher one would refuse this server for ever.

        A copy brings the epochs of its source, which node.state has not seen; a peer that lost its node.state tells its store's.
        """
        peer = self.contact.beat
        known = (self.facts.epoch, self.epoch, self.position.epoch, *(entry.epoch for entry in self.lineage[-1:]))
        told = (peer.epoch, peer.position.epoch) if peer is not None else ()
        return Epoch(max(known + told).counter + step, self.random.getrandbits(64))

    def follow(self, now_ms: int) -> None:
        self.merging = False
        self.facts = self.facts._replace(standing=Standing.BEHIND, reason="copying from the active")
        self.step = Step.FOLLOW
        self.actions.append(Follow(self.facts))

    def keep(self, now_ms: int) -> None:
        """Before anything of this branch is handed over, its store gets a second name (O6)."""
        assert self.diverged is not None and self.contact.beat is not None
        self.merge_into = self.contact.beat.epoch
        self.merge_sessions = self.contact.session, self.contact.peer_session
        self.step = Step.KEEP
        self.note("ha.keep", common_txn=self.diverged.common_txn, winner_epoch=self.merge_into.counter)
        self.actions.append(KeepBranch(self.diverged.common_txn, keep=True))

    def stop_merging(self, now_ms: int) -> None:
        """Not now. It begins again, from the start, when the winner is there."""
        self.merging = False
        self.note("ha.merge_off")

    def doubt(self, reason: str, now_ms: int) -> None:
        self.facts = self.facts._replace(standing=Standing.BEHIND, reason=reason)
        self.step = Step.DOUBT
        self.note("ha.behind", reason=reason)
        self.actions.append(SaveFacts(self.facts))

    def fall(self, now_ms: int, reason: str) -> None:
        """WAITING: no role, no right; a new session, so nothing said in the old one can take effect."""
        if self.leaving is not None:
            self.leaving.left_ms = now_ms
        self.right = self.granted = self.gap_seen = self.damage_accepted = False
        self.dead_since_ms, self.unfit = None, ""
        self.enter(State.WAITING, reason, now_ms)
        self.renew(now_ms)
        self.inspect(now_ms)

    def yield_store(self, now_ms: int, reason: str) -> None:
        """T13 of a STANDALONE node: the disk must say that this store has lost before anything else happens."""
        self.facts = self.facts._replace(standing=Standing.BEHIND, reason=reason)
        self.actions.append(SaveFacts(self.facts))
        self.fall(now_ms, reason)

    def give_up_store(self, now_ms: int, why: str) -> None:
        """T18: this store must not serve; its bytes come from the peer again."""
        self.damage = ""
        self.facts = self.facts._replace(doubted=True)
        if self.state is State.WAITING and not self.store_halted:
            self.doubt(why, now_ms)
        else:  # the store is open, or is just being opened
            self.yield_store(now_ms, why)

    def inspect(self, now_ms: int, *, discard: bool = False) -> None:
        self.step, self.no_room = Step.INSPECT, ""
        self.diverged = None
        self.merging = False
        self.actions.append(StandDown(discard))

    def renew(self, now_ms: int) -> None:
        self.contact.renew(now_ms)
        self.was_lost = True  # by this node itself; only a loss noticed before counts as a flap
        self.announced = ()

    def enter(self, state: State, reason: str, now_ms: int) -> None:
        if state is not self.state or reason != self.reason:
            peer = self.contact.beat
            self.note(
                f"ha.{state.value.lower()}", was=self.state.value, reason=reason, epoch=self.epoch.counter, position=str(self.position),
                peer=peer.state.value if peer else "unseen",
            )  # fmt: skip
        if state is not self.state:
            self.since_ms = now_ms
        self.state, self.reason = state, reason

    def remember(self, act: str, before: int) -> None:
        """An operator's act goes to the disk before the store's action number ``before``, which answers: no step is begun for it."""
        self._add_act(act)
        self.actions.insert(before, SaveFacts(self.facts))

    def remember_merge(self, act: str) -> None:
        """Likewise before the branch is handed over. Where the disk does not say BEHIND yet, the act goes there with that."""
        self._add_act(act)
        if self.facts.standing is Standing.BEHIND:
            self.step = Step.DOUBT  # until it is written: an answer must not be taken for that of another step
            self.actions.append(SaveFacts(self.facts))

    def _add_act(self, act: str) -> None:
        self.facts = self.facts._replace(audit=(*self.facts.audit, act)).bounded()

    # --- what is said to the peer -------------------------------------------------------------------------------------------

    def beat(self, now_ms: int) -> None:
        """Send the own facts now."""
        self.announced = self.announcement(now_ms)
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
            digest=self.digest,
        )
        self.pulse.beat(beat, self._hello(), now_ms)
        self.grant(now_ms)

    def grant(self, now_ms: int) -> None:
        """ACTIVE: say (again) that the peer holds everything, if PAIRED is durable (O2), it is due, and contact is fresh (F2)."""
        due = self.state is State.ACTIVE and self.step is Step.NONE and not self.granted
        if due and self.fresh(now_ms):
            grant = Grant(self.contact.session, self.contact.peer_session, self.position)
            self.actions.append(SendControl(None, grant))

    def drop_peer(self, reason: str) -> None:
        """ACTIVE or STANDALONE: the peer is too slow; ask it to give up its right (T_SLOW)."""
        self.note("ha.drop_peer", reason=reason)
        self.actions.append(SendControl(None, Drop(self.contact.session, self.contact.peer_session, reason)))

    def _hello(self) -> Hello:
        now_of = (self.contact.session, self.lineage)
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
            client_endpoint=self.identity.client_endpoint,
        )

    def announcement(self, now_ms: int) -> tuple[object, ...]:
        """The facts whose change is told at once."""
        return (self.state, self.sub(now_ms), self.durable, self.epoch, self.right, self.contact.session, self.store_full)

    def note(self, event: str, **fields: object) -> None:
        self.actions.append(Note(event, tuple(fields.items())))
