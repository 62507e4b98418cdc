"""The messaging core: queues, producers, sessions and what waits for the disks. Pure; the broker drives it.

Verbs::

    open / close            this server becomes active with a store image / stops being active
    receive, admin          a client's command, an operator's verb
    unreachable             a client cannot be sent to
    take_work               what the next transaction writes          -> store thread
    released, failed_full   it is durable as promised / it was undone by a clean "no space"
    fetched                 a batch read back from the store
    tick, deadline_ms       time
    take_actions            SendToClient and Fetch, in order

What is promised here (numbers: ``core/__init__``): no confirm, ACKED or reply leaves before its Work is released (2); a message
is delivered only once its Work is released (2); a message is in exactly one of ready, in flight, done (4); everything kept is
bounded by a name in ``limits`` or in the settings (6). Nothing on the common path loops over messages.
"""

from zmqha.core import client_protocol as wire
from zmqha.core import limits
from zmqha.core.actions import Fetch, SendToClient
from zmqha.core.client_protocol import Ack, Command, Durability, Envelope, Nack, Refused, Send
from zmqha.core.consumers import Consumers
from zmqha.core.desk import Action, Desk, ServiceSettings
from zmqha.core.intake import Intake
from zmqha.core.merge import Merge
from zmqha.core.merge_report import MergeReport
from zmqha.core.position import Epoch
from zmqha.core.queue_admin import QueueAdmin
from zmqha.core.session import Session
from zmqha.core.work import StoredLog, StoreImage, Work
from zmqha.errors import LimitReached, ProtocolError, VersionMismatch, WrongState, ZmqhaError

_PONG, _CLOSE = wire.Pong(), wire.Close()


class Service:
    """See the module. Every method returns at once."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._desk = Desk(settings)
        self._intake = Intake(self._desk)
        self._consumers = Consumers(self._desk)
        self._operators = QueueAdmin(self._desk)
        self.merge = Merge(self._desk)
        self._is_open = False
        self._of_instance: dict[int, list[bytes]] = {}  # instance -> the clients of its sessions, oldest first
        self._sweep_every_ms = max(1, settings.session_silence_ms // 10)
        self._sweep_ms = 0

    # --- being active -------------------------------------------------------------------------------------------------------

    def open(self, image: StoreImage, epoch: Epoch, now_ms: int, epochs: tuple[Epoch, ...] = ()) -> None:
        """This server is active with this store, which came about in these epochs. Reads ``image.log`` once, in order."""
        desk = self._desk
        self._forget(image.last_value)
        self._is_open = True
        self._sweep_ms = now_ms + self._sweep_every_ms
        desk.epoch, desk.epochs = epoch, epochs or (epoch,)
        desk.reports = list(image.reports)
        desk.queues.seen(image.last_number)
        by_number = desk.queues.by_number
        for row in image.destinations:
            desk.queues.restore(row)
        for cursor in image.cursors:
            if cursor.destination in by_number:
                by_number[cursor.destination].cursor.load(cursor)
        desk.producers.restore(image.producers)
        self._restore_log(image)
        for queue in by_number.values():
            queue.resume()

    def _restore_log(self, image: StoreImage) -> None:
        """Nothing here loops over batches, but over those of which something is done already."""
        queues, log = self._desk.queues, StoredLog.of(image.log)
        unfinished = bytearray(b"\1") * len(log)
        for number, rows, part in log.by_destination():
            queue = queues.by_number.get(number)
            if queue is None:
                queues.seen(number)  # a removed queue: its number stays taken while its batches are in the log
            for finished in range(len(rows)) if queue is None else queue.restore_log(part):
                unfinished[rows[finished]] = 0
        self._desk.values.restore(log.value, unfinished)

    def _forget(self, last_value: int) -> None:
        self._desk.clear(last_value)
        self._consumers.clear()
        self._of_instance.clear()
        self.merge.forget()

    def new_epoch(self, epoch: Epoch) -> None:
        """The mode changed while this server stays active: replies carry the new epoch, sessions stay."""
        desk = self._desk
        desk.epoch, desk.epochs = epoch, (*desk.epochs, epoch)[-limits.LINEAGE_ENTRIES :]
        desk.durability = Durability.ONE_DISK

    def close(self, refusal: Refused) -> None:
        """This server is not active any more: every session is told, and everything is forgotten."""
        desk = self._desk
        desk.actions = [action for action in desk.actions if isinstance(action, SendToClient)]
        for session in desk.sessions.values():
            desk.send(session.client, 0, refusal)
        self._is_open = False
        self._forget(0)

    def hold_sends(self, refusal_error: ZmqhaError | None) -> None:
        """While an error is set, SEND and queue.add are refused with it; acknowledgements are taken. Stays over close and open."""
        self._desk.hold = refusal_error

    def reconfigure(self, settings: ServiceSettings) -> None:
        """The configuration was read again. New bounds hold from now on; nobody who is inside an old one is thrown out."""
        self._desk.reconfigure(settings)
        self._sweep_every_ms = max(1, settings.session_silence_ms // 10)

    def stop_taking(self, refusal: Refused | None) -> None:
        """Prepare a switchover: SEND gets this refusal, operators' writing verbs NotActive, nothing is delivered any more;
        acknowledgements are taken. ``idle`` says when everything is durable. None: it was called off."""
        desk = self._desk
        desk.refusal = refusal
        desk.delivery.held = refusal is not None
        if refusal is None:
            for queue in desk.queues.by_number.values():
                desk.delivery.wake(queue)

    @property
    def merge_reports(self) -> list[MergeReport]:
        """Of the last merges, oldest first."""
        return self._desk.reports

    @property
    def waiting_bytes(self) -> int:
        """Batches accepted and not yet in a Work."""
        return self._desk.commits.waiting_bytes

    @property
    def idle(self) -> bool:
        """Nothing waits for a Work or for its release."""
        return self._desk.commits.idle

    def counts(self) -> dict[str, int]:
        """For status. Walks over the queues."""
        desk = self._desk
        queues = desk.queues.by_number.values()
        return {
            "queues": len(queues),
            "messages": sum(queue.cursor.messages for queue in queues),
            "ready": sum(queue.cursor.ready for queue in queues),
            "unacked": sum(queue.cursor.in_flight for queue in queues),
            "sessions": len(desk.sessions),
            "consumers": sum(len(queue.consumers) for queue in queues),
            "producers": len(desk.producers),
            "waiting_bytes": self.waiting_bytes,
            "cache_bytes": desk.delivery.cache.bytes,
        }

    # --- clients ------------------------------------------------------------------------------------------------------------

    def receive(self, client: bytes, envelope: Envelope, now_ms: int) -> None:
        """One command. What is wrong with it is answered with an ERROR; a breach of the grammar also ends the session."""
        assert self._is_open, "the broker answers for a server that is not active"
        request, _, command = envelope
        session = self._desk.sessions.get(client)
        if session is not None:
            session.heard_ms = now_ms
        try:
            self._command(session, client, request, command, now_ms)
        except ZmqhaError as error:
            self._desk.send(client, request, wire.failure(error, getattr(command, "destination", "")))
            breach = isinstance(error, ProtocolError) and not isinstance(error, VersionMismatch | WrongState)
            if breach and session is not None:
                self._desk.send(client, 0, _CLOSE)
                self._end(session)

    def admin(self, client: bytes, envelope: Envelope, now_ms: int) -> None:
        """A queue verb of an operator, with or without a session. One that writes is answered once it is durable."""
        self.receive(client, envelope, now_ms)

    def _command(self, session: Session | None, client: bytes, request: int, command: Command, now_ms: int) -> None:
        match command:
            case wire.Open():
                self._open_session(session, client, request, command, now_ms)
            case wire.Admin():
                self._operators.carry_out(client, request, command)
            case _ if session is None:
                raise WrongState(
                    f"{type(command).__name__.upper()} without a session",
                    cause="OPEN comes first; or the session ended because nothing was heard of it",
                    cure="send OPEN",
                )
            case Send():
                self._intake.take(session, request, command)
            case Ack():
                self._consumers.acknowledge(session, request, command)
            case Nack():
                self._consumers.give_back(session, command, now_ms)
            case wire.Subscribe():
                self._hand_back(session, command.subscription)
                self._consumers.subscribe(session, request, command)
            case wire.Credit():
                self._consumers.credit(session, request, command)
            case wire.Unsubscribe():
                self._consumers.unsubscribe(session, request, command)
            case wire.Ping():
                self._desk.send(client, request, _PONG)
            case wire.Close():
                self._end(session)
            case _:
                raise ProtocolError(f"{type(command).__name__.upper()} is a server's word")

    def unreachable(self, client: bytes) -> None:
        """The client is gone, or does not read; its session ends."""
        session = self._desk.sessions.get(client)
        if session is not None:
            self._end(session)

    def _open_session(self, session: Session | None, client: bytes, request: int, command: wire.Open, now_ms: int) -> None:
        low, high = command.versions
        if not low <= wire.VERSION <= high:
            raise VersionMismatch(
                f"the client speaks protocol versions {low} to {high}",
                cause=f"this server speaks {wire.VERSION}",
                cure="upgrade the older side",
            )
        settings = self._desk.settings
        full = session is None and len(self._desk.sessions) >= settings.sessions
        if session is not None:
            self._end(session)
        earlier = self._of_instance.get(command.instance)
        if full and earlier:
            self._end(self._desk.sessions[earlier[0]])  # no place for both
        elif full:
            raise LimitReached(
                "no more sessions",
                cause=f"{settings.sessions} are open, the most this server keeps",
                cure="close clients that are not needed, or share one between threads",
            )
        self._desk.sessions[client] = Session(client, command.client_id, now_ms, command.instance)
        if command.instance:
            self._of_instance.setdefault(command.instance, []).append(client)
        opened = wire.Opened(
            settings.server, settings.cluster, settings.endpoints, settings.max_message_bytes, limits.BATCH_MESSAGES_MAX,
            limits.BATCH_BYTES_TARGET, limits.BATCHES_IN_FLIGHT, settings.ping_ms,
        )  # fmt: skip
        self._desk.send(client, request, opened)

    def _hand_back(self, session: Session, number: int) -> None:
        """A client subscribes anew after its connection broke, perhaps more than once, and this server need not have noticed: what it
        held under that number is ready now, and SUBSCRIBE claims it before anybody else gets it. (At OPEN it would be too early.)"""
        clients = self._of_instance.get(session.instance, [session.client])
        for client in clients[: clients.index(session.client)]:
            subscription = self._desk.sessions[client].subscriptions.pop(number, None)
            if subscription is not None:
                self._consumers.leave(subscription)

    def _end(self, session: Session) -> None:
        del self._desk.sessions[session.client]
        if session.instance:
            clients = self._of_instance[session.instance]
            clients.remove(session.client)
            if not clients:
                del self._of_instance[session.instance]
        for subscription in session.subscriptions.values():
            self._consumers.leave(subscription)

    # --- the disks ----------------------------------------------------------------------------------------------------------

    def take_work(self, max_bytes: int, now_ms: int) -> Work | None:
        """The next transaction: everything that waits, batches up to ``max_bytes`` (at least one); None if nothing waits, or only
        what waits for a send to share its transaction, or for its time, until ``company_ms``."""
        return self._desk.commits.take(max_bytes, now_ms)

    @property
    def company_ms(self) -> int | None:
        """When ``take_work`` is to be called again although nothing new came; as of its last call."""
        return self._desk.commits.company_ms

    def released(self, number: int, durability: Durability) -> None:
        """Every Work up to ``number`` is as durable as the state promises: answers leave, messages may be delivered."""
        self._desk.durability = durability
        for ticket in self._desk.commits.released(number):
            self._intake.released(ticket)
            for _, mark in ticket.marks:
                self.merge.released(mark)
            for answer in ticket.answers:
                self._desk.send(*answer)

    def failed_full(self, number: int, error: ZmqhaError) -> None:
        """The store had no space and applied no Work from ``number`` on. Their sends, and those that waited behind, are refused
        with this error; acknowledgements and operators' changes wait for the next Work again and stay unanswered until then."""
        sends, duplicates = self._desk.commits.undo(number)
        self.merge.undone()
        self._intake.refused(sends, duplicates, error)
        for answer in self._desk.commits.stranded():
            self._desk.send(*answer)

    def fetched(self, token: int, batch: bytes) -> None:
        """The batch of a Fetch; an answer nobody waits for any more is dropped."""
        self._desk.delivery.fetched(token, batch)

    # --- time and results ---------------------------------------------------------------------------------------------------

    def deadline_ms(self) -> int | None:
        """When ``tick`` is needed next; None if nothing depends on time, 0 if there is more to hand out at once."""
        if self._desk.delivery.pending or self.merge.pending:
            return 0
        delay_ms = self._consumers.deadline_ms()
        if not self._desk.sessions:
            return delay_ms
        return self._sweep_ms if delay_ms is None else min(delay_ms, self._sweep_ms)

    def tick(self, now_ms: int) -> None:
        """Give back what was delayed until now; end sessions of which nothing was heard; go on with a merge."""
        self._consumers.tick(now_ms)
        self.merge.tick(now_ms)
        if now_ms >= self._sweep_ms:
            self._sweep(now_ms)

    def _sweep(self, now_ms: int) -> None:
        """End silent sessions. Time in which this server itself did not look (it was stopped) is nobody's silence."""
        missed_ms = now_ms - self._sweep_ms
        self._sweep_ms = now_ms + self._sweep_every_ms
        sessions = self._desk.sessions.values()
        if missed_ms > self._sweep_every_ms:
            for session in sessions:
                session.heard_ms += missed_ms
        oldest = now_ms - self._desk.settings.session_silence_ms
        for session in [session for session in sessions if session.heard_ms <= oldest]:
            self._desk.send(session.client, 0, _CLOSE)
            self._end(session)

    def take_actions(self) -> list[Action]:
        """What to do now, in order: first the answers, then deliveries and reads."""
        desk = self._desk
        desk.delivery.run(desk.epoch, desk.actions)
        actions, desk.actions = desk.actions, []
        return actions


__all__ = ["Action", "Fetch", "SendToClient", "Service", "ServiceSettings"]
