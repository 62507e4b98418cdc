"""The death notice on the wire: a small forked process that outlives the server, and the ear of the other server.

The watcher waits on the server's pidfd, which the kernel makes readable once *all* its threads are gone: nothing can leave it
any more. Then it sends the notice by UDP to every address of the peer and exits. Stop, freeze, cut produce no notice; a machine
that dies takes its watcher along. It touches no ZeroMQ and keeps no descriptor of the server: no port, no pipe stays open.

``start_watcher`` must run before the process has its first thread and its first socket.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NoReturn

from zmqha.core.death_notice import DATAGRAM_BYTES_MAX
from zmqha.errors import ConfigError

Address = tuple[str, int]  # numeric IPv4 or IPv6 address, port

REPEATS = 5  # a single lost datagram must not cost the fast takeover
REPEAT_EVERY_S = 0.020
_FREEBIND: dict[int, tuple[int, int]] = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}  # linux/in.h, linux/in6.h


def start_watcher(notice: bytes, addresses: Sequence[Address], server_pid: int | None = None) -> int:
    """Forks the watcher of this process (or ``server_pid``) and returns its pid. Raises OSError (no process to be had)."""
    targets = [_resolve(address) for address in addresses]
    pidfd = os.pidfd_open(os.getpid() if server_pid is None else server_pid)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for good in the watcher: it ignores them all
    try:
        pid = os.fork()
        if pid == 0:
            _watch(pidfd, notice, targets)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(pidfd)
    return pid


def stop_watcher(pid: int) -> None:
    """Planned exit: no notice. Harmless if the watcher is gone already."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _watch(pidfd: int, notice: bytes, targets: list[tuple[int, tuple[object, ...]]]) -> NoReturn:
    try:
        os.setsid()
        pidfd = _close_all_but(pidfd)
        os.chdir("/")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
        _send(notice, targets)
    finally:
        os._exit(0)


def _close_all_but(fd: int) -> int:
    """Moves ``fd`` to 3, /dev/null to 0, 1, 2, closes all others."""
    null = os.open(os.devnull, os.O_RDWR)
    high = max(null, fd, 3) + 1
    os.dup2(fd, high)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.dup2(high, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return 3


def _send(notice: bytes, targets: list[tuple[int, tuple[object, ...]]]) -> None:
    for repeat in range(REPEATS):
        if repeat:
            time.sleep(REPEAT_EVERY_S)
        for family, address in targets:
            with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(notice, address)


def _resolve(address: Address) -> tuple[int, tuple[object, ...]]:
    family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    return family, where


class DeathListener:
    """UDP on the peer port of every own address. Hands over datagrams unread; ``core.death_notice`` and ``beat_notice`` tell the
    true ones."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        """An address that this machine does not have yet will do. Raises ConfigError if one is taken."""
        self.sockets: list[socket.socket] = []
        self.fds: list[int] = []  # to be registered for reading
        for address in addresses:
            family, where = _resolve(address)
            listener = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            listener.setsockopt(*_FREEBIND[listener.family], 1)
            self.sockets.append(listener)
            self.fds.append(listener.fileno())
            try:
                listener.bind(where)
            except OSError as error:
                self.close()
                raise ConfigError(
                    f"cannot listen on udp {address[0]} port {address[1]}",
                    cause=str(error),
                    cure="is another server running here? See `ss -lnup`",
                ) from error

    def receive(self, budget: int = 16) -> list[bytes]:
        """Up to ``budget`` datagrams from each address; too long ones are dropped."""
        datagrams: list[bytes] = []
        for listener in self.sockets:
            with suppress(BlockingIOError):
                for _ in range(budget):
                    datagram = listener.recv(DATAGRAM_BYTES_MAX + 1)
                    if len(datagram) <= DATAGRAM_BYTES_MAX:
                        datagrams.append(datagram)
        return datagrams

    def close(self) -> None:
        """Closes every socket."""
        for listener in self.sockets:
            listener.close()
