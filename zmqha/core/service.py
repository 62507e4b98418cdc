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

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from zmqha.core import client_protocol as wire
from zmqha.core import limits, queue_admin
from zmqha.core.actions import Fetch, SendToClient
from zmqha.core.client_protocol import Ack, Acked, Confirm, Durability, Envelope, Nack, Range, Refused, Reply, Send
from zmqha.core.commits import AcceptedSend, Answer, Commits, Duplicate, Ticket
from zmqha.core.delivery import Delivery
from zmqha.core.log_index import Place, ValueTable
from zmqha.core.message import BatchHead, check_name, cut, largest_record, read_head
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.core.producers import Producers, Sequence
from zmqha.core.queues import Queue, Queues
from zmqha.core.session import Session, Subscription
from zmqha.core.work import StoreImage, Work, batch_positions
from zmqha.errors import (
    DestinationInUse,
    LimitReached,
    MessageTooLarge,
    NoSuchDestination,
    NotActive,
    OutOfSequence,
    ProtocolError,
    VersionMismatch,
    WrongState,
    ZmqhaError,
)  # fmt: skip

Action = SendToClient | Fetch
NACK_DELAY_MS_MAX = 24 * 3_600_000  # a longer delay is this long
_PONG, _CLOSE = wire.Pong(), wire.Close()


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the configuration says about messaging. Sizes in bytes, times in milliseconds."""

    server: str
    cluster: str
    endpoints: tuple[str, str]  # client endpoints of primary and secondary
    max_message_bytes: int = limits.MESSAGE_BYTES_MAX
    queue_messages: int = limits.QUEUE_MESSAGES_MAX  # limit of a queue that has none of its own
    queue_bytes: int = limits.QUEUE_BYTES_MAX
    queues: int = limits.DESTINATIONS_MAX
    sessions: int = limits.SESSIONS_MAX
    producers: int = limits.PRODUCER_ROWS_MAX
    cache_bytes: int = limits.CACHE_BYTES
    session_silence_ms: int = limits.SESSION_SILENCE_MS
    ping_ms: int = 1000


class Service:
    """See the module. Every method returns at once."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._delivery = Delivery(settings.cache_bytes)
        self._actions: list[Action] = []
        self._epoch = NO_EPOCH
        self._is_open = False
        self._hold: ZmqhaError | None = None
        self._empty(0, 0)

    def _empty(self, last_value: int, now_ms: int) -> None:
        self._sessions: dict[bytes, Session] = {}
        self._queues = Queues(self._settings.queues)
        self._values = ValueTable()
        self._producers = Producers(self._settings.producers)
        self._commits = Commits(self._values, last_value)
        self._delivery.reset(self._settings.cache_bytes)
        self._delivery.held = False
        self._delays: list[tuple[int, int, int, int]] = []  # heap of (due_ms, queue number, first, end)
        self._durability = Durability.ONE_DISK  # what a confirm of something released earlier may promise
        self._refusal: Refused | None = None
        self._sweep_ms = now_ms + self._sweep_every_ms

    @property
    def _sweep_every_ms(self) -> int:
        return max(1, self._settings.session_silence_ms // 10)

    # --- being active -------------------------------------------------------------------------------------------------------

    def open(self, image: StoreImage, epoch: Epoch, now_ms: int) -> None:
        """This server is active with this store. Reads ``image.log`` once, in order."""
        self._empty(image.last_value, now_ms)
        self._epoch = epoch
        self._is_open = True
        queues = self._queues
        for row in image.destinations:
            queues.restore(row)
        for cursor in image.cursors:
            if cursor.destination in queues.by_number:
                queues.by_number[cursor.destination].cursor.load(cursor)
        for producer, destination, last in image.producers:
            if destination in queues.by_number:
                self._producers.restore(producer, destination, last)
        self._restore_log(image)
        for queue in queues.by_number.values():
            queue.resume()

    def _restore_log(self, image: StoreImage) -> None:
        current, unfinished = 0, 0
        by_number = self._queues.by_number
        for destination, offset, count, value, position, length in image.log:
            if value != current:
                if current:
                    self._values.add(current, unfinished)
                current, unfinished = value, 0
            queue = by_number.get(destination)
            if queue is None:
                self._queues.seen(destination)  # a removed queue: its number stays taken while its batches are in the log
            elif queue.restore_batch(Place(offset, count, value, position, length)):
                unfinished += 1
        if current:
            self._values.add(current, unfinished)

    def new_epoch(self, epoch: Epoch) -> None:
        """The mode changed while this server stays active: replies carry the new epoch, sessions stay."""
        self._epoch = epoch
        self._durability = Durability.ONE_DISK

    def close(self, refusal: Refused) -> None:
        """This server is not active any more: every session is told, and everything is forgotten."""
        self._actions = [action for action in self._actions if isinstance(action, SendToClient)]
        for session in self._sessions.values():
            self._send(session.client, 0, refusal)
        self._is_open = False
        self._empty(0, 0)

    def reconfigure(self, settings: ServiceSettings) -> None:
        """Other limits from now on; what exists already is kept."""
        self._settings = settings

    def hold_sends(self, refusal_error: ZmqhaError | None) -> None:
        """While an error is set, SEND and queue.add are refused with it; acknowledgements are taken. Stays over close and open."""
        self._hold = refusal_error

    def stop_taking(self, refusal: Refused | None) -> None:
        """Prepare a switchover: SEND gets this refusal, operators' writing verbs NotActive, nothing is delivered any more;
        acknowledgements are taken. ``idle`` says when everything is durable. None: it was called off."""
        self._refusal = refusal
        if refusal is not None:
            self._delivery.held = True
        else:
            self._delivery.resume(list(self._queues.by_number.values()))

    @property
    def waiting_bytes(self) -> int:
        """Batches accepted and not yet in a Work."""
        return self._commits.waiting_bytes

    @property
    def idle(self) -> bool:
        """Nothing waits for a Work or for its release."""
        return self._commits.idle

    def counts(self) -> dict[str, int]:
        """For status. Walks over the queues."""
        cursors = [queue.cursor for queue in self._queues.by_number.values()]
        return {
            "queues": len(cursors),
            "messages": sum(cursor.messages for cursor in cursors),
            "ready": sum(cursor.ready for cursor in cursors),
            "unacked": sum(cursor.in_flight for cursor in cursors),
            "sessions": len(self._sessions),
            "consumers": sum(len(queue.consumers) for queue in self._queues.by_number.values()),
            "producers": len(self._producers),
            "waiting_bytes": self.waiting_bytes,
            "cache_bytes": self._delivery.cache.bytes,
        }

    # --- clients ------------------------------------------------------------------------------------------------------------

    def receive(self, client: bytes, envelope: Envelope, now_ms: int) -> None:
        """One command. What is wrong with it is answered with an ERROR; a breach of the grammar also ends the session."""
        assert self._is_open, "the broker answers for a server that is not active"
        request, _, command = envelope
        session = self._sessions.get(client)
        if session is not None:
            session.heard_ms = now_ms
        try:
            self._command(session, client, request, command, now_ms)
        except (VersionMismatch, WrongState) as error:
            self._send(client, request, wire.failure(error))
        except ProtocolError as error:
            self._send(client, request, wire.failure(error))
            if session is not None:
                self._send(client, 0, _CLOSE)
                self._end(session)
        except ZmqhaError as error:
            self._send(client, request, wire.failure(error, getattr(command, "destination", "")))

    def _command(self, session: Session | None, client: bytes, request: int, command: wire.Command, now_ms: int) -> None:
        match command:
            case wire.Open():
                self._open_session(session, client, request, command, now_ms)
            case wire.Admin(verb, arguments):
                result = self._operate(client, request, verb, arguments)
                if result is not None:
                    self._send(client, request, Reply(result))
            case _ if session is None:
                raise WrongState(
                    f"{type(command).__name__.upper()} without a session",
                    cause="OPEN comes first; or the session ended because nothing was heard of it",
                    cure="send OPEN",
                )
            case Send():
                self._take_send(session, request, command)
            case Ack():
                self._take_ack(session, request, command)
            case Nack():
                self._take_nack(session, command, now_ms)
            case wire.Subscribe():
                self._subscribe(session, request, command)
            case wire.Credit():
                self._credit(session, request, command)
            case wire.Unsubscribe(number):
                subscription = self._subscription(session, number)
                del session.subscriptions[number]
                self._leave(subscription)
                self._send(client, request, Reply({}))
            case wire.Ping():
                self._send(client, request, _PONG)
            case wire.Close():
                self._end(session)
            case _:
                raise ProtocolError(f"{type(command).__name__.upper()} is a server's word")

    def unreachable(self, client: bytes) -> None:
        """The client is gone, or does not read; its session ends."""
        session = self._sessions.get(client)
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
        if session is not None:
            self._end(session)
        elif len(self._sessions) >= self._settings.sessions:
            raise LimitReached(
                "no more sessions",
                cause=f"{self._settings.sessions} are open, the most this server keeps",
                cure="close clients that are not needed, or share one between threads",
            )
        self._sessions[client] = Session(client, command.client_id, now_ms)
        settings = self._settings
        opened = wire.Opened(
            settings.server, settings.cluster, settings.endpoints, settings.max_message_bytes, limits.BATCH_MESSAGES_MAX,
            limits.BATCH_BYTES_TARGET, limits.BATCHES_IN_FLIGHT, settings.ping_ms,
        )  # fmt: skip
        self._send(client, request, opened)

    def _end(self, session: Session) -> None:
        del self._sessions[session.client]
        for subscription in session.subscriptions.values():
            self._leave(subscription)

    def _leave(self, subscription: Subscription) -> None:
        queue = subscription.queue
        if queue.leave(subscription):
            self._commits.touch(queue)
        self._delivery.wake(queue)

    # --- producers ----------------------------------------------------------------------------------------------------------

    def _take_send(self, session: Session, request: int, command: Send) -> None:
        if self._refusal is not None:
            self._send(session.client, request, self._refusal)
            return
        name, batch = command
        head = read_head(batch)
        self._check_size(batch, head)
        queue = self._queues.by_name.get(name)
        number = queue.number if queue is not None else 0
        sequence = self._producers.find(head.producer, number)
        known = sequence.accepted + 1 - head.first
        if known >= head.count and queue is not None:
            self._take_duplicate(session, request, queue, sequence, head)
            return
        if known < 0:
            raise OutOfSequence(
                f"batch {head.first} to {head.next - 1} to {name} is not the next one",
                cause=f"the next one begins with {sequence.accepted + 1}",
                cure="number anew from there",
                expected=sequence.accepted + 1,
            )
        if self._hold is not None:
            raise self._hold
        if known:
            batch = cut(batch, head, known, head.count)
        if queue is None:
            queue = self._create(name)
        count = head.count - known
        queue.check_room(count, len(batch), self._settings.queue_messages, self._settings.queue_bytes)
        if sequence.accepted == 0:
            self._producers.keep(head.producer, queue.number, sequence)
        sequence.accepted += count
        queue.expect(count, len(batch))
        self._commits.accept(
            AcceptedSend(
                session.client, request, queue, sequence,
                producer=head.producer, first=head.first + known, count=count, batch=batch,
            )
        )  # fmt: skip

    def _check_size(self, batch: bytes, head: BatchHead) -> None:
        most = self._settings.max_message_bytes
        if len(batch) <= most:
            return
        largest = largest_record(batch, head)
        if largest > most or len(batch) > limits.BATCH_BYTES_MAX:
            raise MessageTooLarge(
                f"a message of {largest} bytes is too large" if largest > most else f"a batch of {len(batch)} bytes is too large",
                cause=f"this server takes messages up to {most} bytes and batches up to {limits.BATCH_BYTES_MAX}",
                cure="split it, or raise limits.max_message_bytes on both servers",
            )

    def _take_duplicate(self, session: Session, request: int, queue: Queue, sequence: Sequence, head: BatchHead) -> None:
        """Everything in the batch was accepted before: its confirm leaves now, or with the earlier copy."""
        duplicate = Duplicate(session.client, request, queue, sequence, head.producer, head.next - 1)
        if sequence.released >= duplicate.last or not self._commits.confirm_later(duplicate):
            self._confirm_duplicate(duplicate)

    def _confirm_duplicate(self, duplicate: Duplicate) -> None:
        confirm = Confirm(duplicate.queue.name, duplicate.producer, duplicate.sequence.released, self._durability)
        self._send(duplicate.client, duplicate.request, confirm)

    def _create(self, name: str, *, max_messages: int = 0, max_bytes: int = 0) -> Queue:
        queue = self._queues.create(check_name(name), max_messages=max_messages, max_bytes=max_bytes)
        self._commits.describe(queue)
        return queue

    # --- consumers ----------------------------------------------------------------------------------------------------------

    def _subscribe(self, session: Session, request: int, command: wire.Subscribe) -> None:
        if command.subscription in session.subscriptions:
            raise WrongState(
                f"subscription {command.subscription} is open already",
                cause="its number is in use in this session",
                cure="unsubscribe first, or choose another number",
            )
        if len(session.subscriptions) >= limits.SUBSCRIPTIONS_PER_SESSION:
            raise LimitReached(
                "no more subscriptions in this session",
                cause=f"it has {limits.SUBSCRIPTIONS_PER_SESSION}, the most a session may have",
                cure="unsubscribe from what is not needed, or open another client",
            )
        _check_number(command.subscription)
        messages, size = _check_credit(command.messages, command.bytes)
        if len(command.held) > limits.RANGES_PER_FRAME:
            raise ProtocolError(f"more than {limits.RANGES_PER_FRAME} held ranges")
        queue = self._queues.by_name.get(command.destination) or self._create(command.destination)
        subscription = Subscription(session.client, command.subscription, queue, max_messages=messages, max_bytes=size)
        session.subscriptions[command.subscription] = subscription
        held = queue.join(subscription, command.held)
        self._send(session.client, request, Reply({"held": held, "messages": messages, "bytes": size}))
        self._delivery.wake(queue)

    def _credit(self, session: Session, request: int, command: wire.Credit) -> None:
        subscription = self._subscription(session, command.subscription)
        subscription.max_messages, subscription.max_bytes = _check_credit(command.messages, command.bytes)
        subscription.queue.turn(subscription)
        self._send(
            session.client, request, Reply({"messages": subscription.max_messages, "bytes": subscription.max_bytes})
        )  # fmt: skip
        self._delivery.wake(subscription.queue)

    def _subscription(self, session: Session, number: int) -> Subscription:
        found = session.subscriptions.get(number)
        if found is None:
            raise WrongState(
                f"subscription {number} is not open",
                cause="this session did not subscribe under that number",
                cure="subscribe again",
            )
        return found

    def _take_ack(self, session: Session, request: int, command: Ack) -> None:
        subscription = self._subscription(session, command.subscription)
        queue = subscription.queue
        result = queue.acknowledge(subscription, command.ranges)
        if result.changed:
            self._commits.touch(queue)
            self._finished(queue, result.finished)
            self._delivery.wake(queue)
        if not result.done:
            raise WrongState(
                "the acknowledged messages are not in flight to this subscription",
                cause="they were never delivered to it, or they went back to the queue",
                cure="acknowledge only what was delivered; it will be delivered again",
            )
        answer = Answer(session.client, request, Acked(command.subscription, tuple(result.done)))
        if not self._commits.answer_later(answer):
            self._send(*answer)

    def _finished(self, queue: Queue, batches: Iterable[tuple[int, int]]) -> None:
        drop, finish, number = self._delivery.cache.drop, self._values.finish, queue.number
        for first, value in batches:
            drop((number, first))
            finish(value)

    def _take_nack(self, session: Session, command: Nack, now_ms: int) -> None:
        subscription = self._subscription(session, command.subscription)
        queue = subscription.queue
        back = queue.give_back(subscription, command.ranges, delayed=command.delay_ms > 0)
        if not back:
            return
        self._commits.touch(queue)
        if command.delay_ms > 0:
            due_ms = now_ms + min(command.delay_ms, NACK_DELAY_MS_MAX)
            for first, end in back:
                heappush(self._delays, (due_ms, queue.number, first, end))
        self._delivery.wake(queue)

    # --- operators ----------------------------------------------------------------------------------------------------------

    def admin(self, client: bytes, envelope: Envelope, now_ms: int) -> None:
        """A queue verb of an operator, with or without a session. One that writes is answered once it is durable."""
        self.receive(client, envelope, now_ms)

    def _operate(self, client: bytes, request: int, verb: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """The result, or None when it goes to (client, request) once it is durable. Raises ZmqhaError."""
        queue_admin.check_arguments(verb, arguments)
        name = arguments.get("name", "")
        if verb == "queue.ls":
            return {"queues": [self._describe(queue) for _, queue in sorted(self._queues.by_name.items())]}
        if verb in queue_admin.WRITING and self._refusal is not None:
            raise NotActive(f"{verb} is not possible now", cause=self._refusal.what, cure="try again in a second")
        if verb == "queue.add":
            result = self._add_queue(name, arguments.get("max_messages"), arguments.get("max_bytes"))
        else:
            queue = self._queues.by_name.get(name)
            if queue is None:
                raise queue_admin.missing(name)
            if verb == "queue.info":
                return self._describe(queue)
            result = self._purge(queue) if verb == "queue.purge" else self._remove(queue, force=arguments.get("force", False))
        if self._commits.answer_later(Answer(client, request, Reply(result))):
            return None
        return result

    def _describe(self, queue: Queue) -> dict[str, Any]:
        return queue_admin.describe(queue, self._settings.queue_messages, self._settings.queue_bytes)

    def _add_queue(self, name: str, max_messages: int | None, max_bytes: int | None) -> dict[str, Any]:
        if self._hold is not None:
            raise self._hold
        queue = self._queues.by_name.get(name)
        created = queue is None
        if queue is None:
            queue = self._create(name)
        if max_messages is not None:
            queue.max_messages = max_messages
        if max_bytes is not None:
            queue.max_bytes = max_bytes
        self._commits.describe(queue)
        return {"name": name, "created": created}

    def _purge(self, queue: Queue) -> dict[str, Any]:
        """What is visible is done; what is on its way to the disks is not touched."""
        removed, index = queue.finish_all()
        self._values.retire(index)
        self._commits.touch(queue)
        self._delivery.wake(queue)
        return {"name": queue.name, "removed": removed}

    def _remove(self, queue: Queue, *, force: bool) -> dict[str, Any]:
        held = queue.cursor.messages + queue.incoming_messages
        if (held or queue.consumers) and not force:
            raise DestinationInUse(
                f"queue {queue.name} is in use",
                cause=f"it holds {held} messages and has {len(queue.consumers)} consumers",
                cure="purge it first, or say --force",
            )
        removed, index = queue.finish_all()
        self._values.retire(index)
        self._producers.forget(queue.number)
        self._queues.remove(queue)
        gone = NoSuchDestination(
            f"queue {queue.name} was removed", cause="an operator removed it", cure="create it again if it is needed"
        )
        failure = wire.failure(gone, queue.name)
        for send in self._commits.drop(queue):
            self._send(send.client, send.request, failure)
        for subscription in queue.consumers:
            self._send(subscription.client, 0, failure)
        return {"name": queue.name, "removed": removed}

    # --- the disks ----------------------------------------------------------------------------------------------------------

    def take_work(self, max_bytes: int) -> Work | None:
        """The next transaction: everything that waits, batches up to ``max_bytes`` (at least one); None if nothing waits."""
        return self._commits.take(max_bytes)

    def released(self, number: int, durability: Durability) -> None:
        """Every Work up to ``number`` is as durable as the state promises: answers leave, messages may be delivered."""
        self._durability = durability
        for ticket in self._commits.released(number):
            self._release(ticket)

    def _release(self, ticket: Ticket) -> None:
        confirms: dict[tuple[bytes, int, int], tuple[int, Confirm]] = {}
        if ticket.sends:
            self._store_sends(ticket, confirms)
        for duplicate in ticket.duplicates:
            self._confirm_duplicate(duplicate)
        for (client, _, _), (request, confirm) in confirms.items():
            self._send(client, request, confirm)
        for answer in ticket.answers:
            self._send(*answer)

    def _store_sends(self, ticket: Ticket, confirms: dict[tuple[bytes, int, int], tuple[int, Confirm]]) -> None:
        """The batches of a Work are visible from now on; fills in one cumulative confirm per client, producer and queue."""
        sends, value, durability, unfinished = ticket.sends, ticket.value, self._durability, 0
        cache, wake = self._delivery.cache, self._delivery.wake
        for send, position in zip(sends, batch_positions([len(send.batch) for send in sends]), strict=True):
            queue, last = send.queue, send.first + send.count - 1
            send.sequence.released = last
            confirms[send.client, send.producer, queue.number] = (
                send.request,
                Confirm(queue.name, send.producer, last, durability),
            )
            if queue.removed:
                continue
            queue.stored(Place(send.offset, send.count, value, position, len(send.batch)))
            cache.put((queue.number, send.offset), send.batch)
            unfinished += 1
            wake(queue)
        self._values.add(value, unfinished)

    def failed_full(self, number: int, error: ZmqhaError) -> None:
        """The store had no space and applied no Work from ``number`` on. Their sends, and those that waited behind, are refused
        with this error; acknowledgements and operators' changes wait for the next Work again and stay unanswered until then."""
        refused, duplicates = self._commits.undo(number)
        for send in refused:
            self._send(send.client, send.request, wire.failure(error, send.queue.name))
        for duplicate in duplicates:
            if duplicate.last > duplicate.sequence.accepted:
                self._send(duplicate.client, duplicate.request, wire.failure(error, duplicate.queue.name))
            elif duplicate.last <= duplicate.sequence.released or not self._commits.confirm_later(duplicate):
                self._confirm_duplicate(duplicate)
        for answer in self._commits.stranded():
            self._send(*answer)

    def fetched(self, token: int, batch: bytes) -> None:
        """The batch of a Fetch; an answer nobody waits for any more is dropped."""
        self._delivery.fetched(token, batch)

    # --- time and results ---------------------------------------------------------------------------------------------------

    def deadline_ms(self) -> int | None:
        """When ``tick`` is needed next; None if nothing depends on time."""
        deadlines = [self._delays[0][0]] if self._delays else []
        if self._sessions:
            deadlines.append(self._sweep_ms)
        return min(deadlines, default=None)

    def tick(self, now_ms: int) -> None:
        """Give back what was delayed until now; end sessions of which nothing was heard."""
        while self._delays and self._delays[0][0] <= now_ms:
            _, number, first, end = heappop(self._delays)
            queue = self._queues.by_number.get(number)
            if queue is not None and queue.cursor.due(first, end):
                self._delivery.wake(queue)
        if now_ms >= self._sweep_ms:
            self._sweep(now_ms)

    def _sweep(self, now_ms: int) -> None:
        """End silent sessions. Time in which this server itself did not look (it was stopped) is nobody's silence."""
        missed_ms = now_ms - self._sweep_ms
        self._sweep_ms = now_ms + self._sweep_every_ms
        if missed_ms > self._sweep_every_ms:
            for session in self._sessions.values():
                session.heard_ms += missed_ms
        oldest = now_ms - self._settings.session_silence_ms
        for session in [session for session in self._sessions.values() if session.heard_ms <= oldest]:
            self._send(session.client, 0, _CLOSE)
            self._end(session)

    def take_actions(self) -> list[Action]:
        """What to do now, in order: first the answers, then deliveries and reads."""
        self._delivery.run(self._epoch, self._actions)
        actions, self._actions = self._actions, []
        return actions

    def _send(self, client: bytes, request: int, command: wire.Command) -> None:
        self._actions.append(SendToClient(client, wire.encode(command, request=request, epoch=self._epoch)))


def _check_number(subscription: int) -> None:
    if not 0 <= subscription < 1 << 32:
        raise ProtocolError(f"subscription {subscription} is not a number of 32 bits")


def _check_credit(messages: int, size: int) -> tuple[int, int]:
    """The credit asked for, cut down to what is allowed; 0 messages pauses a consumer."""
    if messages < 0 or size < 0:
        raise ProtocolError("credit cannot be negative")
    return min(messages, limits.CREDIT_MESSAGES_MAX), min(size, limits.CREDIT_BYTES_MAX)


__all__ = ["Action", "Fetch", "Range", "SendToClient", "Service", "ServiceSettings"]
