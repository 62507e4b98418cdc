"""Free ports on loopback for one demo: a block that no other demo takes at the same time.

The claim is an abstract Unix socket named after the block: the kernel gives it to one process and frees it when that one ends.
Whether the ports themselves are free is tried; all lie below the range that the kernel hands out by itself.
"""

import random
import socket

from zmqha.errors import OperationFailed

FIRST = 7401  # clients then find the servers on 7401 and 7402
BLOCK = 32
_OTHERS = range(20_000, 29_600, BLOCK)
_HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_CLIENT = (0, 1)  # as provision.single_machine_pair lays them out
_PEER = (10, 11, 20, 21)


class Ports:
    """A claimed block, beginning at ``base``; ``close`` gives it up."""

    def __init__(self) -> None:
        others = list(_OTHERS)
        random.shuffle(others)
        for base in (FIRST, *others):
            claim = _claim(base)
            if claim is not None and _are_free(base):
                self.base, self._claim = base, claim
                return
            if claim is not None:
                claim.close()
        raise OperationFailed(
            "no free ports on 127.0.0.1",
            cause=f"tried {FIRST} and {len(others)} blocks from {_OTHERS.start} on",
            cure="end what listens there; see: ss -lntu",
        )

    def close(self) -> None:
        """Others may take the block."""
        self._claim.close()


def _claim(base: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0zmqha-demo-{base}")
    except OSError:
        claim.close()
        return None
    return claim


def _are_free(base: int) -> bool:
    tried = [(socket.SOCK_STREAM, base + offset) for offset in (*_CLIENT, *_PEER)]
    tried += [(socket.SOCK_DGRAM, base + offset) for offset in _PEER]
    return all(_is_free(host, port, kind) for host in _HOSTS for kind, port in tried)


def _is_free(host: str, port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
