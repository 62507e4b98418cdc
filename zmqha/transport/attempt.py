"""One question to one gateway: a ``ping`` process or a TCP connection being made. Never blocks; driven by ``gateway.Prober``."""

import errno
import os
import select
import signal
import socket
from contextlib import suppress
from typing import Protocol

_HANDLED_BY_SERVER = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the child gets their defaults back


class Attempt(Protocol):
    """``fd`` with ``events`` (epoll) tells when ``outcome`` is worth asking."""

    fd: int
    events: int

    def outcome(self) -> str | None:
        """None: still running. "": answered. Otherwise why not. Frees everything once it is not None."""

    def abandon(self) -> None:
        """Stop it; ask ``outcome`` until it is not None, so that nothing stays behind."""


class Ping:
    """A child process; its pidfd is readable when it has ended."""

    events = select.EPOLLIN

    def __init__(self, command: list[str]) -> None:
        """Raises OSError (no such program, no process or descriptor to be had)."""
        self._outcome: str | None = None
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            silence = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
            self._pid = os.posix_spawnp(
                command[0], command, os.environ, file_actions=silence, setsigmask=(), setsigdef=_HANDLED_BY_SERVER
            )
        finally:
            os.close(null)
        try:
            self.fd = os.pidfd_open(self._pid)
        except OSError:  # EMFILE: never leave a child that nobody waits for
            with suppress(ProcessLookupError, PermissionError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            raise

    def outcome(self) -> str | None:
        if self._outcome is None:
            self._outcome = self._ended()
            if self._outcome is not None:
                os.close(self.fd)
        return self._outcome

    def abandon(self) -> None:
        if self._outcome is None:
            with suppress(ProcessLookupError, PermissionError):  # reaped already; another user's, such as sudo's
                os.kill(self._pid, signal.SIGKILL)

    def _ended(self) -> str | None:
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # SIGCHLD is ignored in this process: the kernel has reaped it
            return "nobody knows how it ended"
        return _meaning(os.waitstatus_to_exitcode(status)) if pid else None


def _meaning(code: int) -> str:
    """Exit codes of iputils ping."""
    if code == 0:
        return ""
    if code == 1:
        return "no answer"
    if code == 2:
        return "ping failed: no route, no permission or bad address"
    return f"ping ended with {code}"


class Connection:
    """A TCP connection being made; its socket is writable when that is decided."""

    events = select.EPOLLOUT

    def __init__(self, address: str) -> None:
        """``host:port`` or ``[host]:port``, numeric. Raises OSError, ValueError."""
        host, _, port = address.rpartition(":")
        family, _, _, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        self._outcome: str | None = None
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self._socket.fileno()
        code = self._socket.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise OSError(code, os.strerror(code))

    def outcome(self) -> str | None:
        if self._outcome is None and self._decided():
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._finish(os.strerror(code) if code else "")
        return self._outcome

    def abandon(self) -> None:
        if self._outcome is None:
            self._finish("stopped")

    def _decided(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _finish(self, outcome: str) -> None:
        self._outcome = outcome
        self._socket.close()
