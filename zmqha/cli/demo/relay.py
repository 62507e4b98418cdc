"""The peer link as a cable that can be cut without root: TCP relays between the two servers, in the demo's process.

While it is cut nothing passes, in either direction or in one, not even the end of a connection, and no new one gets through: what a
program sees of a pulled or half-dead cable. When it is whole again, what waited goes on, as TCP would have it.
"""

import contextlib
import socket
import threading
from collections.abc import Mapping

HOST = "127.0.0.3"  # each server is told that the other one is here
_CHUNK = 1 << 16


class Cable:
    """Relays from HOST to 127.0.0.1 on the same ports."""

    def __init__(self, owners: Mapping[int, str]) -> None:
        """``owners``: each port and the server that listens there."""
        self._owners = owners
        self._cut: str | None = None  # towards whom; "" = both
        self._change = threading.Condition()
        self._closed = False
        self._open: set[socket.socket] = set()
        self._listeners = [socket.create_server((HOST, port), backlog=16) for port in owners]
        for listener in self._listeners:
            self._run(self._accept, listener)

    def cut(self, towards: str = "") -> None:
        """From now on nothing passes; with a server's name: nothing that is meant for it."""
        with self._change:
            self._cut = towards

    def mend(self) -> None:
        """It passes again."""
        with self._change:
            self._cut = None
            self._change.notify_all()

    def close(self) -> None:
        """End every connection."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for each in (*self._listeners, *list(self._open)):
            _end(each)

    def _run(self, what: object, *arguments: object) -> None:
        threading.Thread(target=what, args=arguments, name="demo-cable", daemon=True).start()  # type: ignore[arg-type]

    def _accept(self, listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        with contextlib.suppress(OSError):  # closed
            while True:
                near = listener.accept()[0]
                self._open.add(near)
                self._run(self._join, near, port)

    def _wait(self, owner: str, *, inward: bool) -> None:
        """Until bytes of a connection to this owner's port may pass, to it or from it."""
        with self._change:
            self._change.wait_for(
                lambda: self._closed or self._cut is None or (self._cut != "" and inward != (self._cut == owner))
            )

    def _join(self, near: socket.socket, port: int) -> None:
        owner = self._owners[port]
        self._wait(owner, inward=True)
        self._wait(owner, inward=False)
        try:
            far = socket.create_connection(("127.0.0.1", port), timeout=2.0)
        except OSError:
            self._drop(near)
            return
        far.settimeout(None)
        self._open.add(far)
        if self._closed:
            self._drop(near, far)
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._run(self._pass, near, far, owner, True)
        self._run(self._pass, far, near, owner, False)

    def _pass(self, source: socket.socket, target: socket.socket, owner: str, inward: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                chunk = source.recv(_CHUNK)
                self._wait(owner, inward=inward)
                if not chunk:
                    break
                target.sendall(chunk)
        self._wait(owner, inward=inward)
        self._drop(source, target)

    def _drop(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            _end(end)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
