"""A bad cable for bytes: a TCP relay that flips a bit now and then, and a pair whose follower is fed through one.

TCP's own sum is 16 bits wide, and a fault in a network card or in memory comes before or after it: so the servers must find every
flipped bit by themselves. Only the bulk ports are damaged: there go the pages.
"""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.system.pair import Pair

HOSTS = ("127.0.0.1", "127.0.0.2")
CHUNK_BYTES = 1 << 16
RELAYED = -9_500  # from the ports of the pairs here, 20,000 to 29,900


class Relay:
    """Relays one port of an address to another port there; ``flip_every`` bytes, about, it flips a bit (0: never)."""

    def __init__(self, host: str, port: int, target: int, chance: random.Random) -> None:
        self.flip_every = 0
        self.flipped = 0
        self._target = (host, target)
        self._chance = chance
        self._open: list[socket.socket] = []
        self._listener = socket.create_server((host, port), backlog=16)
        self._thread(self._accept)

    def close(self) -> None:
        """End every connection."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    @staticmethod
    def _thread(work: Any, *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                try:
                    far = socket.create_connection(self._target, timeout=2)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._open += [near, far]
                self._thread(self._pass_on, near, far)
                self._thread(self._pass_on, far, near)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                sink.sendall(self._maybe_flipped(data))
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _maybe_flipped(self, data: bytes) -> bytes:
        if not self.flip_every or self._chance.random() >= len(data) / self.flip_every:
            return data
        damaged = bytearray(data)
        damaged[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        self.flipped += 1
        return bytes(damaged)


class RelayedPair(Pair):
    """Each server is told that the other one's peer port is the relay's."""

    def __init__(self, directory: Path, chance: random.Random, **options: Any) -> None:
        super().__init__(directory, **options)
        ends = {name: port + RELAYED for name, port in self.peer_ports.items()}
        self.bulk: list[Relay] = []
        self._relays: list[Relay] = []
        for name, port in ends.items():
            for host in HOSTS:
                self._relays.append(Relay(host, port, self.peer_ports[name], chance))
                self.bulk.append(Relay(host, port + 1, self.peer_ports[name] + 1, chance))
            text = self.config.read_text()
            mine, there = f'peer = "127.0.0.1:{self.peer_ports[name]}"', f'peer = "127.0.0.1:{port}"'
            assert mine in text
            server = self.servers["b" if name == "a" else "a"]
            server.config = self.directory / f"server-{server.name}.toml"
            server.config.write_text(text.replace(mine, there))

    def flip(self, every_bytes: int) -> None:
        """From now on about one bit in so many bytes; 0: none."""
        for relay in self.bulk:
            relay.flip_every = every_bytes

    @property
    def flipped(self) -> int:
        """Bits so far."""
        return sum(relay.flipped for relay in self.bulk)

    def close(self) -> None:
        super().close()
        for relay in (*self._relays, *self.bulk):
            relay.close()


@contextlib.contextmanager
def relayed(directory: Path, chance: random.Random, **options: Any) -> Iterator[RelayedPair]:
    """Such a pair, in sync; ended afterwards."""
    both = RelayedPair(directory, chance, **options)
    try:
        both.start()
        yield both
    except BaseException:
        both.keep_logs()
        raise
    finally:
        both.close()
