"""What runs inside a namespace of the lab: a producer that keeps a history, a watcher of one server, or the final drain.

``lab_load.py URL HISTORY NAME RATE [watch]`` sends ``NAME SEQ`` to the queue at RATE per second and writes a line per event:
S sent, C confirmed (by its handle), X failed, E a CONFIRM as it came (epoch, durability), W one status answer of the only server
of the URL. Stops sending on SIGUSR1 and writes a last line, Q, with the number of sends whose outcome is unknown; ends on SIGTERM.
``lab_load.py URL HISTORY drain`` reads the queue until it is empty: R, in order of delivery.

Times are CLOCK_MONOTONIC, one clock for all namespaces of a machine. Each line is written at once.
"""

import json
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TextIO

import zmqha
from zmqha.client.handle import Handle
from zmqha.core.client_protocol import Confirm, Envelope
from zmqha.errors import ZmqhaError

QUEUE = "load"
BODY_BYTES = 512
OPEN_MAX = 400  # sends without outcome; above it the producer waits
POLL_S = 0.025
DRAIN_S = 0.7
SETTLE_S = 8.0  # the last confirms; a producer that knows only one server may wait in vain
SETTLE_ONE_S = 0.5


class History:
    """Lines of a file, from any thread."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, kind: str, *fields: object) -> None:
        with self._lock:
            self._file.write(" ".join(map(str, (kind, *fields))) + "\n")
            self._file.flush()


class Producer:
    """Sends at a steady pace; its confirms are written by another thread."""

    def __init__(self, client: zmqha.Client, history: History, name: str, rate: float) -> None:
        self.client = client
        self.history = history
        self.name = name
        self.rate = rate
        self.stopping = False  # set by a signal handler: an Event may be locked by the very thread that the handler interrupts
        self._open: deque[tuple[int, Handle]] = deque()
        self._tap()

    def _tap(self) -> None:
        """See each CONFIRM with its epoch in the moment it arrives."""
        session = self.client._engine.session
        inner = session.receive

        def receive(envelope: Envelope) -> str:
            command = envelope.command
            if isinstance(command, Confirm):
                epoch = envelope.epoch
                self.history.write("E", time.monotonic(), epoch.counter, epoch.nonce, int(command.durability))
            return inner(envelope)

        session.receive = receive  # type: ignore[method-assign]

    def run(self, settle_s: float) -> None:
        """Until told to stop, then until everything is settled or it has taken too long."""
        reaper = threading.Thread(target=self._reap, daemon=True)
        reaper.start()
        seq, due = 0, time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            if self.stopping:
                break
            due = max(due + 1 / self.rate, time.monotonic() - 0.1)
            if len(self._open) >= OPEN_MAX * min(1.0, self.rate / 100):
                continue
            seq += 1
            self.history.write("S", time.monotonic(), seq)
            handle = self.client.send_nowait(QUEUE, f"{self.name} {seq} ".ljust(BODY_BYTES, ".").encode())
            self._open.append((seq, handle))
        deadline = time.monotonic() + settle_s
        while self._open and time.monotonic() < deadline:
            time.sleep(0.02)
        self.history.write("Q", time.monotonic(), len(self._open))

    def _reap(self) -> None:
        while True:
            if not self._open:
                time.sleep(0.001)
                continue
            seq, handle = self._open[0]
            try:
                receipt = handle.result()
                self.history.write("C", time.monotonic(), seq, int(receipt.durability))
            except ZmqhaError as error:
                self.history.write("X", time.monotonic(), seq, error.code, error.what)
            self._open.popleft()


def watch(client: zmqha.Client, history: History) -> None:
    """Ask the only server of the URL for its status, densely."""
    while True:
        asked = time.monotonic()
        try:
            status = client.admin("status", {}, 0.5, 0)
        except ZmqhaError:
            time.sleep(POLL_S)
            continue
        answered = time.monotonic()
        row = next(row for row in status["servers"] if row["name"] == status["answering"])
        row["gateway"] = status["gateway"]["own"]
        row["sentence"] = status["sentence"]
        history.write("W", asked, answered, json.dumps(row))
        time.sleep(max(0.0, asked + POLL_S - time.monotonic()))


def drain(url: str, history: History) -> None:
    """Everything in the queue."""
    with zmqha.connect(url, connect_timeout=10, on_state=lambda *change: history.write("#", *change)) as client:
        while client.admin("queue.info", {"name": QUEUE})["messages"]:
            for message in client.consume(QUEUE, prefetch=1000, timeout=DRAIN_S):
                producer, seq, _ = bytes(message.body).decode().split(" ", 2)
                history.write("R", producer, seq, int(message.redelivered))
    history.write("Q")


def main(url: str, file: str, name: str, rate: str = "0", mode: str = "") -> None:
    with Path(file).open("a") as out:
        history = History(out)
        if name == "drain":
            drain(url, history)
            return
        client = zmqha.connect(url, wait=False, failover_timeout=-1, reconnect_max=0.1)
        producer = Producer(client, history, name, float(rate))
        signal.signal(signal.SIGUSR1, lambda *_: setattr(producer, "stopping", True))
        if mode == "watch":
            threading.Thread(target=watch, args=(client, history), daemon=True).start()
        producer.run(SETTLE_ONE_S if mode else SETTLE_S)
        while True:  # the watcher goes on until SIGTERM
            signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
