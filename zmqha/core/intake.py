"""The producers' side: a batch is accepted, or refused by name, or known already. ``Service`` hands commands in.

::

    sequence of the batch         what happens
    the next one                  accepted; confirmed when its Work is released
    known to the end              a duplicate: confirmed now if the earlier copy is released, else together with it
    known in part                 the upper part is accepted
    higher                        OutOfSequence, naming the one expected
"""

from zmqha.core import limits
from zmqha.core.client_protocol import Confirm, Send, failure
from zmqha.core.commits import AcceptedSend, Duplicate, Ticket
from zmqha.core.desk import Desk
from zmqha.core.log_index import Place
from zmqha.core.message import BatchHead, cut, largest_record, read_head
from zmqha.core.producers import Sequence
from zmqha.core.session import Session
from zmqha.core.work import batch_positions
from zmqha.errors import MessageTooLarge, OutOfSequence, ZmqhaError


class Intake:
    """Works at the desk; keeps nothing itself."""

    __slots__ = ("_desk",)

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def take(self, session: Session, request: int, command: Send) -> None:
        """A SEND; raises what it is refused with."""
        desk = self._desk
        if desk.refusal is not None:
            desk.send(session.client, request, desk.refusal)
            return
        name, batch = command
        head = read_head(batch)
        if len(batch) > desk.settings.max_message_bytes:
            _check_size(batch, head, desk.settings.max_message_bytes)
        queue = desk.queues.by_name.get(name)
        sequence = desk.producers.find(head.producer, queue.number) if queue is not None else Sequence()
        known = sequence.accepted + 1 - head.first
        if known < 0:
            raise _out_of_sequence(name, head, sequence.accepted + 1)
        if known >= head.count and queue is not None:
            self._confirm(Duplicate(session.client, request, queue, sequence, head.producer, head.next - 1))
            return
        if desk.hold is not None:
            raise desk.hold
        if known:
            batch = cut(batch, head, known, head.count)
        if queue is None:
            queue = desk.create(name)
        count, size = head.count - known, len(batch)
        queue.check_room(count, size, desk.settings.queue_messages, desk.settings.queue_bytes)
        if sequence.accepted == 0:
            desk.producers.keep(head.producer, queue.number, sequence)
        sequence.accepted += count
        queue.expect(count, size)
        desk.commits.accept(
            AcceptedSend(
                session.client,
                request,
                queue,
                sequence,
                producer=head.producer,
                first=head.first + known,
                count=count,
                batch=batch,
            )
        )

    def _confirm(self, duplicate: Duplicate) -> None:
        """Confirm a duplicate now or with the earlier copy."""
        if duplicate.last > duplicate.sequence.released and self._desk.commits.confirm_later(duplicate):
            return
        self._confirm_now(duplicate)

    def _confirm_now(self, duplicate: Duplicate) -> None:
        released, durability = duplicate.sequence.released, self._desk.durability
        assert released >= duplicate.last, "a duplicate is confirmed before its earlier copy"
        confirm = Confirm(duplicate.queue.name, duplicate.producer, released, durability)
        self._desk.send(duplicate.client, duplicate.request, confirm)

    def released(self, ticket: Ticket) -> None:
        """The batches of a Work are durable: they are visible from now on, and confirmed once per client, producer and queue."""
        confirms: dict[tuple[bytes, int, int], tuple[int, Confirm]] = {}
        if ticket.sends:
            self._store(ticket, confirms)
        for duplicate in ticket.duplicates:
            self._confirm_now(duplicate)
        for (client, _, _), (request, confirm) in confirms.items():
            self._desk.send(client, request, confirm)

    def _store(self, ticket: Ticket, confirms: dict[tuple[bytes, int, int], tuple[int, Confirm]]) -> None:
        sends, value, durability, unfinished = ticket.sends, ticket.value, self._desk.durability, 0
        cache, wake = self._desk.delivery.cache, self._desk.delivery.wake
        for send, position in zip(sends, batch_positions([len(send.batch) for send in sends]), strict=True):
            queue, producer, last = send.queue, send.producer, send.first + send.count - 1
            send.sequence.released = last
            confirms[send.client, producer, queue.number] = send.request, Confirm(queue.name, producer, last, durability)
            if queue.removed:
                continue
            queue.stored(Place(send.offset, send.count, value, position, len(send.batch)))
            cache.put((queue.number, send.offset), send.batch)
            unfinished += 1
            wake(queue)
        self._desk.values.add(value, unfinished)

    def refused(self, sends: list[AcceptedSend], duplicates: list[Duplicate], error: ZmqhaError) -> None:
        """These sends were undone; a duplicate whose earlier copy was not among them is confirmed with that."""
        for send in sends:
            self._desk.send(send.client, send.request, failure(error, send.queue.name))
        for duplicate in duplicates:
            if duplicate.last > duplicate.sequence.accepted:
                self._desk.send(duplicate.client, duplicate.request, failure(error, duplicate.queue.name))
            else:
                self._confirm(duplicate)


def _out_of_sequence(name: str, head: BatchHead, expected: int) -> OutOfSequence:
    return OutOfSequence(
        f"batch {head.first} to {head.next - 1} to {name} is not the next one",
        cause=f"the next one begins with {expected}",
        cure="number anew from there",
        expected=expected,
    )


def _check_size(batch: bytes, head: BatchHead, most: int) -> None:
    """Raise MessageTooLarge if one message of the batch is, or the batch as a whole."""
    largest = largest_record(batch, head)
    if largest > most or len(batch) > limits.BATCH_BYTES_MAX:
        raise MessageTooLarge(
            f"a message of {largest} bytes is too large" if largest > most else f"a batch of {len(batch)} bytes is too large",
            cause=f"this server takes messages up to {most} bytes and batches up to {limits.BATCH_BYTES_MAX}",
            cure="split it, or raise limits.max_message_bytes on both servers",
        )
