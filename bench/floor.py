"""How quick could a lone send be here, were there nothing to do? The same way through the same parts, and no message server.

hops         client, active, passive, active, client: four ZeroMQ messages of 1 KiB or less over TCP between three processes in Python
flush        likewise, and the passive overwrites 4 KiB of a file and flushes them before it answers
hand-overs   likewise, and what may wait for a disk or for the network has a thread of its own, as in zmqha: the client's I/O thread and
             a store thread in each server

What zmqha adds to the last one is its own work: sequence, transaction, pages, sums, journal. Sequential sends, so p50 is one trip.
"""

import contextlib
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import zmq
from disk import Disk
from report import Report, parser, percentile

from zmqha.core.limits import MIB
from zmqha.transport.mailbox import Mailbox

WAYS = ("hops", "flush", "hand-overs")
BODY = bytes(1024)
BLOCK = bytes(4096)
PASSIVE = b"passive"
LOOPBACK = "tcp://127.0.0.1:*"
WARM_UP = 200
Frames = list[bytes]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "", repeat=5)
    made.add_argument("--sends", type=int, default=1500, help="of one repetition (default %(default)s)")
    arguments = made.parse_args()
    if arguments.tiny:
        arguments.repeat, arguments.sends = 1, 50
    disk = Disk(arguments.directory)
    report = Report("floor", arguments, disk)
    times: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.repeat):
        for way in WAYS:
            disk.measure()
            with chain(way, disk.directory) as send:
                times[way].append(timed(send, arguments.sends))
    for way in WAYS:
        found = {f"p{share}_us": [percentile(each, share / 100) for each in times[way]] for share in (50, 99)}
        report.add({"way": way}, found)
    report.finish()


def timed(send: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each of so many."""
    for _ in range(WARM_UP):
        send()
    times = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        send()
        times.append((time.perf_counter_ns() - begun) / 1000)
    return times


@contextlib.contextmanager
def chain(way: str, directory: Path) -> Iterator[Callable[[], object]]:
    """Three processes; what sends a message from this one and waits for its confirm."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    active = spawn.Process(target=_active, args=(theirs, way), daemon=True)
    active.start()
    clients, peer = pipe.recv()
    passive = spawn.Process(target=_passive, args=(peer, way, directory), daemon=True)
    passive.start()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(clients)
    sender = Sender(socket) if way == "hand-overs" else None
    try:
        yield (lambda: _ask(socket)) if sender is None else sender.ask
    finally:
        if sender is not None:
            sender.end()
        context.destroy(linger=0)
        for process in (active, passive):
            process.kill()
            process.join()


def _ask(socket: "zmq.Socket[bytes]") -> Frames:
    socket.send_multipart([b"head", BODY])
    return socket.recv_multipart()


class Sender:
    """The application's thread asks, another one has the socket."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self._asked = Mailbox[bytes]()
        self._answers: SimpleQueue[Frames] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self) -> Frames:
        """Send a message and wait for the confirm."""
        self._asked.put(BODY)
        return self._answers.get()

    def end(self) -> None:
        """The socket is free again."""
        self._asked.put(b"")
        self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._asked.fd, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        while True:
            for ready, _ in poller.poll():
                if ready is self._socket:
                    self._answers.put(self._socket.recv_multipart())
                    continue
                for body in self._asked.take(1):
                    if not body:
                        return
                    self._socket.send_multipart([b"head", body])


class Desk:
    """A thread that does something with each item, and hands it back."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.done = Mailbox[Frames]()
        self._work = work
        self._inbox: SimpleQueue[Frames] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, item: Frames) -> None:
        """Any thread."""
        self._inbox.put(item)

    def _run(self) -> None:
        while True:
            item = self._inbox.get()
            self._work()
            self.done.put(item)


def _active(pipe: Connection, way: str) -> None:
    context = zmq.Context()
    clients, peer = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    clients.bind(LOOPBACK)
    peer.bind(LOOPBACK)
    desk = Desk(lambda: None)
    poller = zmq.Poller()
    for source in (clients, peer, desk.done.fd):
        poller.register(source, zmq.POLLIN)
    pipe.send((clients.last_endpoint.decode(), peer.last_endpoint.decode()))
    peer.recv_multipart()  # the passive is there
    waiting: Frames = []  # the client
    while True:
        for ready, _ in poller.poll():
            if ready is clients:
                who, *frames = clients.recv_multipart()
                waiting.append(who)
                if way == "hand-overs":
                    desk.put(frames)
                else:
                    peer.send_multipart([PASSIVE, *frames])
            elif ready is peer:
                peer.recv_multipart()
                clients.send_multipart([waiting.pop(), b"confirm"])
            else:
                for frames in desk.done.take(1):
                    peer.send_multipart([PASSIVE, *frames])


def _passive(endpoint: str, way: str, directory: Path) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.routing_id = PASSIVE
    socket.connect(endpoint)
    places = _places(directory)
    work: Callable[[], Any] = (lambda: None) if way == "hops" else lambda: next(places)
    desk = Desk(work)
    poller = zmq.Poller()
    for source in (socket, desk.done.fd):
        poller.register(source, zmq.POLLIN)
    socket.send(b"here")
    while True:
        for ready, _ in poller.poll():
            if ready is socket:
                frames = socket.recv_multipart()
                if way == "hand-overs":
                    desk.put(frames)
                    continue
                work()
            else:
                desk.done.take(1)
            socket.send(b"stored")


def _places(directory: Path) -> Iterator[None]:
    """With every step 4 KiB are on the disk, each time at another place of a file that has its blocks."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(bytes(4 * MIB))
        os.fsync(file.fileno())
        while True:
            for at in range(0, 4 * MIB, len(BLOCK)):
                os.pwrite(file.fileno(), BLOCK, at)
                os.fdatasync(file.fileno())
                yield


if __name__ == "__main__":
    main()
