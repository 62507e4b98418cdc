"""Sends single UDP datagrams to the peer's port on each path. Best effort: what cannot go now is dropped. Decides nothing."""

import socket
from collections.abc import Sequence
from contextlib import suppress


class Datagrams:
    """One socket per path, for the life of the process."""

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Numeric addresses of the peer, in the order of the paths."""
        self._addresses = tuple(addresses)
        self._sockets = [
            socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            for host, _ in self._addresses
        ]

    def send(self, path: int, datagram: bytes) -> None:
        """No route, no carrier, a full queue, nobody there: dropped."""
        with suppress(OSError):
            self._sockets[path].sendto(datagram, self._addresses[path])

    def close(self) -> None:
        """At the end of the process."""
        for each in self._sockets:
            each.close()
