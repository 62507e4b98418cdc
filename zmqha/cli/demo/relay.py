"""The peer link as a cable that can be cut without root: TCP relays between the two servers, in the demo's process.

While it is cut nothing passes in either direction, not even the end of a connection, and no new one gets through: what a program
sees of a pulled cable. When it is whole again, what waited goes on, as TCP would have it.
"""

import contextlib
import socket
import threading

HOST = "127.0.0.3"  # each server is told that the other one is here
_CHUNK = 1 << 16


class Cable:
    """Relays from HOST to 127.0.0.1 on the same ports."""

    def __init__(self, ports: tuple[int, ...]) -> None:
        self._whole = threading.Event()
        self._whole.set()
        self._closed = False
        self._open: set[socket.socket] = set()
        self._listeners = [socket.create_server((HOST, port), backlog=16) for port in ports]
        for listener in self._listeners:
            self._run(self._accept, listener)

    def cut(self) -> None:
        """From now on nothing passes."""
        self._whole.clear()

    def mend(self) -> None:
        """It passes again."""
        self._whole.set()

    def close(self) -> None:
        """End every connection."""
        self._closed = True
        self._whole.set()
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

    def _join(self, near: socket.socket, port: int) -> None:
        self._whole.wait()
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
        self._run(self._pass, near, far)
        self._run(self._pass, far, near)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                chunk = source.recv(_CHUNK)
                self._whole.wait()
                if not chunk:
                    break
                target.sendall(chunk)
        self._whole.wait()
        self._drop(source, target)

    def _drop(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            _end(end)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
