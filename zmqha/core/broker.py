"""The one machine that the server drives: high availability, replication and messaging put together.

Four verbs: ``begin_turn`` and ``receive`` (something happened), ``tick`` (time passed), ``deadline_ms`` (when is tick needed next) and
``take_actions`` (ordered work). ``decides`` says whether ``tick`` looks at the table of roles now: by then every frame of the peer that
is there must have been received (F3). Where that is only because it is time, and not for ``news``, ``hand_out`` may come first, as in a
turn before. No sockets, files, clock or threads: the node carries the actions out, the simulator is another node.

The rule that joins the parts, what may be confirmed to clients now, is in ``group_commit``.
"""

from typing import Any

from zmqha.core import limits
from zmqha.core.actions import PAIR_NUMBER, Action, Note, SendToClient
from zmqha.core.advice import waits_for
from zmqha.core.client_protocol import (
    Admin,
    Envelope,
    Open,
    Ping,
    Pong,
    Reply,
    decode,
    encode,
    failure,
    request_of,
)
from zmqha.core.client_protocol import Close as CloseCommand
from zmqha.core.contact import LONG_AGO
from zmqha.core.events import (
    BulkIn,
    Claimed,
    ClientGone,
    ClientIn,
    CommitRefused,
    Committed,
    ControlIn,
    CopyBegun,
    CopyDone,
    CopyPart,
    Damaged,
    DeathNotice,
    Event,
    FactsSaved,
    Fetched,
    Flushed,
    Inspected,
    JournalFull,
    Journalled,
    KeepRefused,
    NoRoom,
    Probed,
    RoundDone,
    SalvagePart,
    SalvageSettled,
    Scrubbed,
    ShipmentRefused,
    StoreBeat,
    Surveyed,
    TableNeeded,
    TablePart,
)
from zmqha.core.follower import Follower
from zmqha.core.group_commit import GroupCommit
from zmqha.core.ha import HA
from zmqha.core.lost_branch import LostBranch
from zmqha.core.operator import Operator
from zmqha.core.outbox import Outbox
from zmqha.core.peer_protocol import (
    CopyBegin,
    Follow,
    SalvageBegin,
    Salvaged,
    State,
    Stored,
    Table,
    ToWinner,
)
from zmqha.core.position import NO_EPOCH, held_whole
from zmqha.core.refusal import refusal
from zmqha.core.service import Service
from zmqha.core.source import Source
from zmqha.core.space import Space, no_space
from zmqha.core.view import SERVING, Step
from zmqha.errors import NotActive, ProtocolError, ZmqhaError

HA_PERIOD_MS = 5  # without news the table is looked at this often: its timers are tens of milliseconds, a busy turn is 50 us
WAITS_AFTER_MS = 5000  # both ends had the time to connect and to settle who serves


class Broker:
    """One server of the pair."""

    def __init__(self, ha: HA, service: Service, operator: Operator, space: Space) -> None:
        self.ha = ha
        self.service = service
        self.source = Source()
        self.group_commit = GroupCommit(ha, self.source, service)
        self.follower = Follower(ha.timers, ha.contact)
        self.lost_branch = LostBranch(ha)
        self.operator = operator
        self.wall_ms = 0  # for people only; set by the node each turn
        self.protocol_faults = 0  # refused frames of clients and peer, for the log
        self.last_fault = ""
        self.space = space
        self._dropped_ms = LONG_AGO
        self._held = False
        self._waits_told = False
        self.scrubbed = Scrubbed()
        self._told_epoch = NO_EPOCH  # what clients see
        self._ha_news = True  # something that a row may rest on has happened
        self._ha_ms = LONG_AGO
        self._ha_due_ms = LONG_AGO  # when that is needed next
        self._actions: list[Action] = []
        # In the order of their actions: what changes a role first, then pages.
        self._machines: tuple[Outbox[Any], ...] = (
            ha, ha.pulse, self.source, self.lost_branch.salvager, self.lost_branch, self.follower, service.merge,
        )  # fmt: skip

    # --- the four verbs -----------------------------------------------------------------------------------------------------

    def begin_turn(self, now_ms: int, wall_ms: int) -> None:
        """Top of the loop, before anything is read."""
        self.wall_ms = wall_ms
        self.ha.begin_turn(now_ms)
        self._ha_news = self.ha.gap_seen or self.ha.leaving is not None

    def receive(self, event: Event, now_ms: int) -> None:
        """Something happened."""
        match event:
            case ClientIn(client, frames):
                self._client(client, frames, now_ms)
            case Committed():
                self._committed(event, now_ms)
            case Flushed(txn):
                self.group_commit.flushed(txn)
            case BulkIn():
                self._bulk(event, now_ms)
            case Journalled():
                self._journalled(event, now_ms)
            case Fetched(token, batch):
                self.service.fetched(token, batch)
            case ClientGone(client):
                self.service.unreachable(client)
            case _:
                self._ha_news = True
                self._receive_rare(event, now_ms)

    def _receive_rare(self, event: Event, now_ms: int) -> None:
        match event:
            case ControlIn(path, message):
                self.ha.hear(path, message, now_ms)
            case Probed(sent_ms, ok):
                self.ha.probed(sent_ms, ok)
            case DeathNotice(node_id, incarnation):
                self.ha.hear_death(node_id, incarnation, now_ms)
            case FactsSaved():
                self.ha.facts_saved(now_ms)
            case Inspected():
                self.ha.inspected(event, now_ms)
            case NoRoom(why):
                self.ha.has_no_room(why, now_ms)
            case Claimed():
                self._claimed(event, now_ms)
            case CommitRefused(number, error):
                self.group_commit.refused(now_ms)
                self.service.failed_full(number, error)
            case TablePart():
                if self.follower.following:
                    self.follower.table_part(event)
            case TableNeeded():
                self.source.table_needed(event, now_ms)
            case CopyBegun():
                self.source.copy_begun(event)
            case CopyPart():
                self.source.copy_part(event)
            case RoundDone():
                self.source.round_done(event)
            case CopyDone():
                self.source.copy_done(event)
            case Surveyed() | KeepRefused() | SalvagePart() | SalvageSettled():
                self.lost_branch.receive(event, now_ms)
            case StoreBeat():
                self._store_beat(event)
            case ShipmentRefused(reason):
                self.ha.give_up_copy(f"a shipment was refused: {reason}")
            case Damaged(why, halted):
                self.ha.damaged(why, halted=halted)
            case JournalFull():
                self._follower_full(self.follower.missing_bytes)
            case _:
                raise AssertionError(event)

    @property
    def news(self) -> bool:
        """Has something happened that roles may rest on: nothing is handed out before ``tick`` has looked at it."""
        return self._ha_news

    def decides(self, now_ms: int) -> bool:
        """Will ``tick`` look at the table of roles now."""
        return self._ha_news or now_ms - self._ha_ms >= HA_PERIOD_MS

    def tick(self, now_ms: int) -> None:
        """Time passed, or a turn's events are in: decide, then hand out what may be handed out."""
        if self.decides(now_ms):
            self._ha_news, self._ha_ms = False, now_ms
            self._tick_ha(now_ms)
            self._ha_due_ms = max(self.ha.deadline_ms(now_ms), now_ms + HA_PERIOD_MS)
        self.hand_out(now_ms)

    def hand_out(self, now_ms: int) -> None:
        """The part of ``tick`` that somebody waits for: confirms, deliveries, the next commit, in the role as it stands."""
        self.group_commit.release()
        self.service.tick(now_ms)
        self._actions += self.group_commit.begin(now_ms)

    def _tick_ha(self, now_ms: int) -> None:
        ha = self.ha
        before = ha.state
        # A server without any space cannot write the record of a new epoch: it goes on as it is.
        ha.in_sync = self.source.in_sync and self.source.fed_session() == ha.contact.peer_session and self.space.for_epoch
        ha.room_for_epoch = self.space.for_epoch and not self.space.nearly_full
        ha.drained = self.service.idle
        ha.peer_holds = self.source.acked.txn
        ha.copied = self.follower.copied if self.follower.following else self.source.copied
        leaving = ha.leaving is not None and ha.state in SERVING
        if leaving:
            self.service.stop_taking(refusal(self.ha, now_ms))
        ha.tick(now_ms)
        if leaving and ha.leaving is None and ha.state in SERVING:
            self.service.stop_taking(None)  # the hand-over was called off
        self._follow_role(before, now_ms)
        if ha.state is State.ACTIVE and ha.granted and self._told_epoch != ha.epoch:
            # Not before: an epoch that the peer never heard of must not bar its successor to clients.
            self._told_epoch = ha.epoch
            self.service.new_epoch(ha.epoch)
        if self.follower.following and not self.space.for_epoch:
            self._follower_full(0)  # it could not take over either: better now, while the active lives
        self._watch_follower(now_ms)
        self.follower.tick(now_ms, busy=ha.busy)
        self.service.merge.gone(ha.contact.peer_session)  # a new session of the loser ends what an earlier one began
        self.lost_branch.tick(now_ms)
        if not self._waits_told and now_ms - ha.started_ms >= WAITS_AFTER_MS:
            self._waits_told = True
            self._say_what_for(now_ms)

    def _say_what_for(self, now_ms: int) -> None:
        """Once, a moment after the start: nothing has changed since, so no other line would say why this server does not serve."""
        if self.ha.state is State.WAITING:
            self._actions.append(Note("ha.waits", (("sentence", waits_for(self.ha, self.lost_branch, now_ms)),)))

    def deadline_ms(self, now_ms: int) -> int:
        """When ``tick`` is needed next at the latest, if nothing happens."""
        wanted = (self._ha_due_ms, self.service.deadline_ms(), self.group_commit.company_ms)
        return min(each for each in wanted if each is not None)

    def take_actions(self) -> list[Action]:
        """Everything to be done, in order: what changes a role first, then pages, then clients."""
        taken: list[Action] = []
        for machine in self._machines:
            if machine.actions:
                taken += machine.take_actions()
        taken += self._actions
        self._actions = []
        return taken + self.service.take_actions()

    @property
    def reads_clients(self) -> bool:
        """False while more work is accepted than the store keeps up with: the node stops reading clients."""
        return self.service.waiting_bytes < limits.PENDING_BYTES_MAX

    # --- clients ------------------------------------------------------------------------------------------------------------

    def _client(self, client: bytes, frames: list[bytes], now_ms: int) -> None:
        try:
            envelope = decode(frames)
        except ProtocolError as error:
            self.protocol_faults += 1
            self.last_fault = f"client: {error.what}"
            self._answer(client, encode(failure(error), request=request_of(frames), epoch=self.ha.epoch))
            return
        if isinstance(envelope.command, Admin):
            self._admin(client, envelope, envelope.command, now_ms)
        elif self.serving:
            self.service.receive(client, envelope, now_ms)
        elif isinstance(envelope.command, Open):
            self._answer(client, encode(refusal(self.ha, now_ms), request=envelope.request, epoch=self.ha.epoch))
        elif isinstance(envelope.command, Ping):
            self._answer(client, encode(Pong(), request=envelope.request, epoch=self.ha.epoch))
        elif not isinstance(envelope.command, CloseCommand):
            self._answer(client, encode(refusal(self.ha, now_ms), request=0, epoch=self.ha.epoch))

    @property
    def serving(self) -> bool:
        """Are clients served now."""
        return self.ha.state in SERVING

    def _admin(self, client: bytes, envelope: Envelope, command: Admin, now_ms: int) -> None:
        try:
            if command.verb.startswith("queue."):
                if not self.serving:
                    raise NotActive(refusal(self.ha, now_ms).what, cause=self.ha.reason, cure="ask the active server")
                self.service.admin(client, envelope, now_ms)
                return
            result = self.operator.carry_out(self, command.verb, command.arguments, now_ms)
        except ZmqhaError as error:
            self._answer(client, encode(failure(error), request=envelope.request, epoch=self.ha.epoch))
            return
        self._answer(client, encode(Reply(result), request=envelope.request, epoch=self.ha.epoch))

    def _answer(self, client: bytes, frames: list[bytes]) -> None:
        self._actions.append(SendToClient(client, frames))

    # --- the store ----------------------------------------------------------------------------------------------------------

    def _claimed(self, event: Claimed, now_ms: int) -> None:
        was_open = event.image is None
        self.ha.claimed(event.position, event.lineage, now_ms)
        self.group_commit.flushed_txn = event.position.txn
        if was_open:
            self._told_epoch = event.position.epoch
            self.service.new_epoch(event.position.epoch)
        else:
            assert event.image is not None
            self.group_commit.forget()
            self._told_epoch = event.position.epoch
            self.service.open(event.image, event.position.epoch, now_ms, held_whole(event.lineage))
        self.source.reset()

    def _committed(self, event: Committed, now_ms: int) -> None:
        ha = self.ha
        position = event.shipment.position
        if ha.state not in SERVING:
            return  # a commit that ended while the role was given up
        self.source.committed(event.shipment, now_ms)
        if event.number == PAIR_NUMBER:
            assert event.lineage is not None
            self.group_commit.flushed_txn = position.txn
            self._ha_news = True
            ha.paired(position, event.lineage, now_ms)
            return
        self.group_commit.committed(event.number, position.txn)
        ha.advanced(position)

    def _store_beat(self, event: StoreBeat) -> None:
        """Producers are refused before the disk is full, so that consumers can always acknowledge and drain."""
        ha = self.ha
        self.scrubbed = event.scrubbed
        ha.progress, ha.busy, ha.free = event.progress, event.busy, event.free_share
        ha.pages = event.pages
        self.space.look(event)
        if ha.store_full and self.space.for_copy:
            ha.store_full = False  # a follower that left for want of space may copy again (T2)
        if self.space.nearly_full != self._held:
            self._held = self.space.nearly_full
            self.service.hold_sends(no_space(ha.identity.node_id) if self._held else None)
            self._actions.append(self.space.news(event))

    def _follower_full(self, copy_bytes: int) -> None:
        self.ha.store_full = True
        self.space.missed(copy_bytes)
        self.ha.give_up_copy("this server's disk is full")

    # --- the peer -----------------------------------------------------------------------------------------------------------

    def _bulk(self, event: BulkIn, now_ms: int) -> None:
        ha = self.ha
        message = event.message
        if event.sender is None:
            if isinstance(message, Salvaged):
                self.lost_branch.hear(message, now_ms)
            elif isinstance(message, CopyBegin) and ha.state is State.PASSIVE:
                ha.give_up_copy("the active began another copy")
            elif self.follower.following and ha.step is not Step.CLAIM:
                self.follower.hear(message, event.frames, now_ms)
            return
        if message.session != ha.contact.peer_session or getattr(message, "to_session", None) != ha.contact.session:
            return
        if isinstance(message, Follow) and ha.state in SERVING:
            self.source.follow(event.sender, message, now_ms)
        elif isinstance(message, Stored) and ha.step is not Step.CLAIM:
            self.source.stored(event.sender, message, now_ms)
            if self.source.acked == ha.position:
                ha.grant(now_ms)
        elif isinstance(message, Table):
            if len(event.frames) != 1:
                raise ProtocolError(f"a table with {len(event.frames)} byte frames")
            self.source.table(event.sender, message, event.frames[0], now_ms)
        elif isinstance(message, ToWinner) and ha.state is State.STANDALONE and ha.step is Step.NONE:
            self._take_branch(event.sender, message, event.frames, now_ms)

    def _take_branch(self, sender: bytes, message: ToWinner, frames: tuple[bytes, ...], now_ms: int) -> None:
        """The loser of a divergence hands its branch over."""
        merge = self.service.merge
        if isinstance(message, SalvageBegin):
            merge.begin(sender, message, self.ha.identity.peer_id, now_ms, self.wall_ms)
        else:
            merge.hear(sender, message, frames)

    def _journalled(self, event: Journalled, now_ms: int) -> None:
        if not self.follower.following or self.ha.step is Step.CLAIM:
            return
        self.follower.journalled(event, now_ms)
        if self.follower.whole:
            self.ha.advanced(self.follower.position)

    def _watch_follower(self, now_ms: int) -> None:
        """T_SLOW, and a follower that fell out of its session."""
        ha = self.ha
        fed = self.source.fed_session()
        if ha.state not in SERVING or not fed.incarnation:
            return
        lost = now_ms - ha.contact.since_ms > ha.timers.decide_ms + ha.timers.silent_ms
        if ha.state is State.STANDALONE and (lost or ha.contact.peer_session != fed):
            self.source.reset()
            if lost:
                ha.renew(now_ms)  # should it live after all, it must not take up where nobody feeds it any more (T16)
        elif (why := self._falls_behind(now_ms)) and self._may_drop(now_ms):
            self._dropped_ms = now_ms
            ha.drop_peer(why)

    def _falls_behind(self, now_ms: int) -> str:
        """Why the follower is to be let go; "" if it keeps up."""
        if self.source.too_slow(now_ms, self.ha.timers.slow_ms):
            return f"nothing acknowledged for {self.source.overdue_ms(now_ms)} ms"
        if self.source.endless:
            return f"more is written than can be copied to it: its copy has not ended in {limits.COPY_ROUNDS_MAX} rounds"
        return ""

    def _may_drop(self, now_ms: int) -> bool:
        return self.ha.fresh(now_ms) and now_ms - self._dropped_ms > self.ha.timers.heartbeat_ms

    def _follow_role(self, before: State, now_ms: int) -> None:
        """Carry a change of role over to the parts."""
        after = self.ha.state
        if before in SERVING and after not in SERVING:
            self.service.close(refusal(self.ha, now_ms))
            self.source.reset()
            self.group_commit.forget()
        following = after in (State.PASSIVE_SYNC, State.PASSIVE)
        if following and not self.follower.following:
            self.follower.start(self.ha.contact.session, self.ha.contact.peer_session, self.ha.held, now_ms)
        elif not following and self.follower.following:
            self.follower.stop()
