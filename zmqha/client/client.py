"""The client: a blocking front around the I/O thread. Every method may be called from any thread, except where it says so."""

import os
import secrets
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zmqha.client import context_file
from zmqha.client.actions import State
from zmqha.client.deadline import Deadline
from zmqha.client.engine import Engine, OnState, clock_ms
from zmqha.client.handle import Handle, outcome, wait_for
from zmqha.client.message import Properties, make_record
from zmqha.client.producer import Batch, Receipt
from zmqha.client.receiver import Consumer, open_consumer
from zmqha.client.session import WAITING_BYTES_MAX, WAITING_MESSAGES_MAX, again
from zmqha.client.url import Url, default_url, parse
from zmqha.core.client_protocol import Durability
from zmqha.core.message import check_name
from zmqha.errors import ConnectionLost, OutcomeUnknown, UrlError

_NS_PER_MS = 1_000_000


def connect(
    url: str | Path | Sequence[str] | None = None, *, on_state: OnState | None = None, wait: bool = True, **options: Any
) -> "Client":
    """A client connected to the active server.

    ``url``: ``zmqha://host,host:port``, or the path of a context file as ``zmqha init`` writes it (a ``Path``, or a text that ends
    in ``.toml``); None: ``ZMQHA_URL``, which holds either, else this machine. Options (docs/operations.md, Clients) stand in
    the URL or are keywords, which win.
    ``on_state(old, new, reason)`` is called in the I/O thread and must not wait.
    ``wait=False`` returns at once, for ``admin`` without an active server.
    Raises UrlError, ConfigError (the context file), NotActive (the URL names one server, a passive), ConnectionLost (nobody
    answers), FailoverTimeout (nobody is active, or the active refuses and the other is passive), AccessDenied; and LimitReached or
    VersionMismatch where a server refuses so and no other says that it is passive. Each names every server's answer.
    """
    client = Client(url, on_state=on_state, **options)
    if wait:
        try:
            client._wait_connected()
        except BaseException:
            client.close()
            raise
    return client


class Client:
    """One session with the pair, kept through failovers. Made by ``connect``; close it, or use ``with``.

    Not for signal handlers, and neither are its consumers, messages and handles: a handler runs in the main thread, perhaps amidst a
    call, and would wait for ever for the lock that this call holds. Set a flag there, and close where the loop looks at it.

    ``connect(url, on_state=f)`` calls ``f(old, new, reason)`` at each change of ``state``, in the client's I/O thread: it must not
    wait, and calls of this client that wait raise WrongState in it.
    """

    def __init__(self, url: str | Path | Sequence[str] | None = None, *, on_state: OnState | None = None, **options: Any) -> None:
        self._closed = True  # for __del__, until there is something to close
        place = default_url(os.environ) if url is None else url
        self.url: Url = parse(context_file.url_of(place), **options)
        self.options = self.url.options
        made_up = f"{self.options.name or 'client'}-{os.getpid()}-{secrets.token_hex(3)}"
        self.client_id = self.options.client_id or made_up
        self._draining = False
        self._engine = Engine(self.url, self.client_id, on_state)
        self._closed = False

    def __repr__(self) -> str:
        return f"<zmqha.Client {self.url}, {self.state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and not self._closed:
                self.drain()
        finally:
            self.close()

    def __del__(self) -> None:
        if not self._closed and not self._engine.session.forked:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._engine.stop()

    # --- sending ------------------------------------------------------------------------------------------------------------

    def send(
        self,
        destination: str,
        body: object,
        *,
        properties: Properties | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Send one message and wait until it is safe, through a failover if there is one.

        ``body``: bytes, str, or anything JSON can say; ``timeout`` in seconds. The queue is created by its first message.
        Raises BadName, QueueFull, MessageTooLarge, NoSpace, OutcomeUnknown (``timeout``), FailoverTimeout (no active server for
        ``failover_timeout``).
        """
        deadline = Deadline(timeout)
        return self.send_nowait(destination, body, properties=properties, timeout=timeout).result(deadline.left())

    def send_nowait(
        self,
        destination: str,
        body: object,
        *,
        properties: Properties | None = None,
        timeout: float | None = None,
    ) -> Handle:
        """Send one message; its outcome is in the handle. Waits only while too much is unconfirmed already (backpressure).

        Raises OutcomeUnknown if that takes longer than ``timeout`` seconds: then the message was not sent.
        """
        engine = self._usable()
        session = engine.session
        now_ms = time.time_ns() // _NS_PER_MS
        record, flags = make_record(body, properties, now_ms, session.max_message_bytes)
        with session.lock:
            if session.waiting_messages >= WAITING_MESSAGES_MAX or session.waiting_bytes >= WAITING_BYTES_MAX:
                self._wait_for_room(timeout)
            if session.dead is not None:
                raise again(session.dead)
            stream = session.streams.get(destination)
            if stream is None:
                stream = session.stream(check_name(destination))
            batch = stream.add(record, flags)
            session.waiting_messages += 1
            session.waiting_bytes += len(record)
            if speaks := stream.has_work():
                session.note(stream)
        if speaks:
            engine.wake()
        return Handle(self, batch)

    def send_many(
        self,
        destination: str,
        bodies: Iterable[object],
        *,
        properties: Properties | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Send many messages and wait for all; the receipt is the weakest of theirs.

        Raises the first refusal (some of the others may be stored; ``send_nowait`` tells which) and what ``send`` raises.
        """
        batches: list[Batch] = []
        starts: list[int] = []  # of this call's messages in each batch
        deadline, left = Deadline(timeout), timeout
        number = -1
        for number, body in enumerate(bodies):
            if timeout is not None:
                left = deadline.left()
            batch = self.send_nowait(destination, body, properties=properties, timeout=left)._batch
            if not batches or batches[-1] is not batch:
                batches.append(batch)
                starts.append(number)
        wait_for(self._engine, list(batches), deadline.left())
        with self._engine.session.lock:
            for batch, start, end in zip(batches, starts, [*starts[1:], number + 1], strict=True):
                batch.told += end - start  # the first refusal stands for all of this call: flush need not tell the others
        receipts = [outcome(batch) for batch in batches]
        return min(receipts, key=lambda receipt: receipt.durability, default=Receipt(destination, Durability.BOTH_DISKS))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything sent so far is settled.

        Raises the first refusal that no handle has told yet, OutcomeUnknown after ``timeout`` seconds, FailoverTimeout.
        """
        engine = self._usable(draining=True)
        session = engine.session
        with session.lock:
            last = [batch for stream in session.streams.values() for batch in stream.unsettled()]
        wait_for(engine, list(last), timeout)
        with session.lock:
            failed = [*session.failed, *last]  # the former may be cleared by another thread that flushes
            session.failed.clear()
        for batch in failed:
            if batch.error is not None and batch.told < batch.count:
                outcome(batch)

    # --- receiving ----------------------------------------------------------------------------------------------------------

    def consume(
        self,
        destination: str,
        *,
        prefetch: int | None = None,
        ack: str | None = None,
        timeout: float | None = None,
    ) -> Consumer:
        """Iterate over a queue's messages; the loop survives failovers. See ``Consumer`` for when a message is acknowledged.

        Leave the loop by ``break`` only inside ``with mq.consume(...) as messages:``, or after ``message.ack()``: otherwise the
        message at hand goes back to the queue and comes again.
        ``prefetch``: messages outstanding at most (1 for long jobs that many share), and not above 64 MiB: who collects more before
        the first ``ack`` waits for ever; ``ack``: auto or manual; ``timeout``: seconds without a message after which the loop ends
        (None: never).
        Raises BadName, UrlError (``prefetch`` or ``ack`` cannot be that), NoSuchDestination, LimitReached, FailoverTimeout.
        """
        changes = {"prefetch": prefetch, "ack": ack}
        options = parse("zmqha://x", **changes).options if prefetch is not None or ack is not None else self.options
        window = self.options.prefetch if prefetch is None else options.prefetch
        mode = self.options.ack if ack is None else options.ack
        self._usable()
        return open_consumer(self, check_name(destination), window, auto=mode == "auto", timeout=timeout)

    # --- operating ----------------------------------------------------------------------------------------------------------

    def admin(
        self,
        verb: str,
        arguments: dict[str, Any] | None = None,
        timeout: float | None = 10.0,
        server: int | None = None,
    ) -> Any:
        """Ask an operator's question.

        It goes to the active server, or, while there is none, to whichever answers; ``server`` is the index of a host in the URL.
        Raises what the server says, ConnectionLost after ``timeout`` seconds or if the connection breaks before the answer,
        AccessDenied if the key is refused.
        """
        engine = self._usable(draining=True)
        if server is not None and not 0 <= server < len(self.url.hosts):
            raise UrlError(
                f"there is no server {server}",
                cause=f"the URL names {len(self.url.hosts)}",
                cure="they count from 0, in the URL's order",
            )
        session = engine.session
        with session.lock:
            if session.dead is not None:
                raise again(session.dead)
            request = session.ask(verb, arguments or {}, server, clock_ms())
            try:
                answered = engine.wait(session.changed, lambda: request.done, timeout, -1.0)
            finally:
                session.requests.pop(request.number, None)
        if not answered:
            raise engine.failover.unanswered(verb, server, timeout or 0)
        if request.error is not None:
            raise request.error
        return request.answer

    @property
    def state(self) -> State:
        """connecting, connected, lost or closed."""
        return State.CLOSED if self._closed else self._engine.failover.state

    @property
    def active(self) -> str:
        """host:port of the active server, "" while there is none."""
        return "" if self._closed else self._engine.failover.active

    # --- ending -------------------------------------------------------------------------------------------------------------

    def drain(self, timeout: float | None = None) -> None:
        """Take no more sends, wait until everything is confirmed, end the consumers with their acknowledgements recorded.

        Raises what ``flush`` raises.
        """
        self._draining = True
        engine = self._usable(draining=True)
        session = engine.session
        with session.lock:
            subscriptions = list(session.subscriptions.values())
            for subscription in subscriptions:
                subscription.close()
                session.speak(subscription)
        try:
            self.flush(timeout)
        finally:
            with session.lock:
                if session.dead is None and engine.failover.session is not None:
                    engine.wait(session.changed, lambda: not session.subscriptions, 1.0, -1.0)

    def close(self) -> None:
        """End now: what is not confirmed is OutcomeUnknown to its handle, what is not acknowledged goes back to its queue."""
        if self._closed:
            return
        self._closed = True
        if self._engine.session.forked:
            return
        self._engine.stop()
        if not self._engine.is_own_thread():
            self._engine.thread.join(5.0)

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _usable(self, *, draining: bool = False) -> Engine:
        """The engine, if this call may be made. (In a forked child the lock says so, which every call takes.)"""
        if self._closed or (self._draining and not draining):
            raise ConnectionLost("the client is closed", cure="connect again")
        return self._engine

    def _wait_for_room(self, timeout: float | None) -> None:
        """With the engine's lock held. Raises OutcomeUnknown, FailoverTimeout."""
        engine = self._engine
        session = engine.session

        def room() -> bool:
            return session.waiting_messages < WAITING_MESSAGES_MAX and session.waiting_bytes < WAITING_BYTES_MAX

        if not engine.wait(session.space, room, timeout, engine.options.failover_timeout):
            raise OutcomeUnknown(
                f"no room for a message within {round(timeout or 0, 3):g} s",
                cause=f"{session.waiting_messages} messages, {session.waiting_bytes} bytes are unconfirmed; this one was not sent",
                cure="send it again later, or more slowly",
            )

    def _wait_connected(self) -> None:
        """Until the active is found. Raises as ``connect``."""
        engine, seconds = self._engine, self.options.connect_timeout
        failover = engine.failover

        def decided() -> bool:
            return failover.session is not None or failover.hopeless()

        with engine.session.lock:
            engine.wait(engine.session.changed, decided, seconds, -1.0)
        if failover.session is None:
            raise failover.error(seconds)
