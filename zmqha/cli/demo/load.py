"""The load: producers at a steady rate and one consumer, ordinary clients of ``zmqha.connect``, and a ledger of what they saw."""

import queue
import random
import struct
import threading
import time
from typing import NamedTuple

import zmqha
from zmqha.cli.demo.ledger import Confirmed, Delivered, Ledger
from zmqha.client.handle import Handle
from zmqha.errors import ConnectionLost, FailoverTimeout, OutcomeUnknown, ZmqhaError

QUEUE = "demo"
PRODUCERS = 2
BODY_BYTES = 1024
_TICK_S = 0.005
_KEY = struct.Struct(">BQ")
_JOIN_S = 5.0


class StateChange(NamedTuple):
    """What a client's ``on_state`` told."""

    time: float
    client: str
    new: str
    reason: str


class Load:
    """``start`` … ``stop_sending`` … ``close``; the ledger is right at any time."""

    def __init__(self, url: str, rate: int, rng: random.Random, queue: str = QUEUE) -> None:
        self.ledger = Ledger(PRODUCERS)
        self.changes: list[StateChange] = []
        self.errors: list[ZmqhaError] = []
        self._url = url
        self._queue = queue
        self._rate = rate / PRODUCERS
        self._filler = rng.randbytes(BODY_BYTES - _KEY.size)
        self._clients: list[zmqha.Client] = []
        self._stop = threading.Event()
        self._senders: list[threading.Thread] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Connect and begin. Raises what ``zmqha.connect`` raises."""
        consumer = self._connect("consumer")
        self._run(self._receive, consumer)
        for number in range(PRODUCERS):
            client = self._connect(f"producer-{number + 1}")
            handles: queue.SimpleQueue[tuple[int, Handle] | None] = queue.SimpleQueue()
            self._run(self._confirm, number, handles)
            self._senders.append(self._run(self._send, number, client, handles))

    def stop_sending(self) -> None:
        """No new messages; what is under way goes on."""
        self._stop.set()
        for thread in self._senders:
            thread.join(_JOIN_S)

    def close(self) -> None:
        """End the clients, and with them the threads."""
        self._stop.set()
        for client in self._clients:
            client.close()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _connect(self, name: str) -> zmqha.Client:
        def changed(old: object, new: object, reason: str) -> None:
            self.changes.append(StateChange(time.time(), name, str(new), reason))

        client = zmqha.connect(self._url, on_state=changed, name=f"demo-{name}", prefetch=1000)
        self._clients.append(client)
        return client

    def _run(self, what: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=what, args=arguments, name="demo-load", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
        return thread

    def _send(self, producer: int, client: zmqha.Client, handles: "queue.SimpleQueue[tuple[int, Handle] | None]") -> None:
        began = time.monotonic()
        sent = late = 0  # late: messages that a pause cost; they are not made up for, the rate stays what it is
        try:
            while not self._stop.wait(_TICK_S):
                due = int((time.monotonic() - began) * self._rate) - late
                if due - sent > self._rate / 10:
                    late += due - sent
                    due = sent
                while sent < due:
                    handle = client.send_nowait(self._queue, _KEY.pack(producer, sent) + self._filler)
                    handles.put((sent, handle))
                    sent += 1
                    self.ledger.sent[producer] = sent
        except ZmqhaError as error:
            self.errors.append(error)
        handles.put(None)

    def _confirm(self, producer: int, handles: "queue.SimpleQueue[tuple[int, Handle] | None]") -> None:
        while (entry := handles.get()) is not None:
            number, handle = entry
            try:
                receipt = handle.result()
            except (ConnectionLost, FailoverTimeout, OutcomeUnknown):
                continue  # no answer: counted as such
            except ZmqhaError as error:
                self.ledger.refused.append(f"{producer}/{number}: {error.what}")
                continue
            self.ledger.confirmed.append(Confirmed(time.time(), (producer, number), receipt.both_disks))

    def _receive(self, client: zmqha.Client) -> None:
        try:
            for message in client.consume(self._queue):
                body = message.body
                key = _KEY.unpack_from(body) if len(body) >= _KEY.size else (-1, message.offset)
                intact = body[_KEY.size :] == self._filler
                self.ledger.delivered.append(Delivered(time.time(), key, message.offset, message.redelivered, intact))
        except ConnectionLost:
            pass  # closed at the end of the run
        except ZmqhaError as error:
            self.errors.append(error)
