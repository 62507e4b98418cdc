"""Does the gateway answer? One ``ping`` process, or one TCP connection attempt, per probe and address; any answer counts.

Decides nothing: what a failed probe means is ``core.ha``'s. Never waits: one descriptor (an epoll of whatever is running) goes
into the reactor's poller, and what exceeds its deadline is reported as failed, killed, and reaped once the kernel says so.
"""

import select
import shlex
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from zmqha.errors import ConfigError
from zmqha.transport.attempt import Attempt, Connection, Ping

PING = "ping -n -q -c 1 -W {timeout_s} {address}"
DEADLINE_MS = 200
CLOSE_S = 0.1  # the loop stands still meanwhile
RUNNING_MAX = 16  # probes at once; one every 100 ms, 200 ms each, makes two or three


class Kind(StrEnum):
    PING = "ping"
    TCP = "tcp"


class Probe(NamedTuple):
    """The result of one probe."""

    token: int  # as given to start
    sent_ms: int  # likewise
    ok: bool
    detail: str  # the address that answered, or why none did


class _Running:
    def __init__(self, token: int, sent_ms: int) -> None:
        self.token = token
        self.sent_ms = sent_ms
        self.attempts: dict[str, Attempt] = {}
        self.why: list[str] = []


class Prober:
    """Asks one or two gateways: ``start``; ``ready`` when ``fd`` is readable, ``tick`` at ``deadline_ms``; then ``take``."""

    def __init__(
        self, addresses: Sequence[str], *, kind: Kind | str = Kind.PING, command: str = PING, timeout_ms: int = DEADLINE_MS
    ) -> None:
        """``addresses`` are numeric, for TCP ``host:port`` or ``[host]:port``. Raises ConfigError for a bad command template."""
        self._kind = Kind(kind)
        self._timeout_ms = timeout_ms
        self._commands = {address: _command(command, address, timeout_ms) for address in addresses}
        self._running: list[_Running] = []
        self._abandoned: list[Attempt] = []
        self._results: list[Probe] = []
        self._epoll = select.epoll()  # close-on-exec; a closed descriptor leaves it by itself
        self.fd = self._epoll.fileno()

    def start(self, now_ms: int, token: int) -> None:
        """Begins a probe. What cannot even begin (``ping`` missing, no route) is a failed one."""
        running = _Running(token, now_ms)
        self._running.append(running)
        if len(self._running) > RUNNING_MAX:
            running.why.append(f"more than {RUNNING_MAX} probes at once")
        else:
            for address in self._commands:
                self._begin(running, address)
        self._look(running)

    @property
    def deadline_ms(self) -> int | None:
        """When ``tick`` is next needed."""
        return min((running.sent_ms + self._timeout_ms for running in self._running), default=None)

    def ready(self) -> None:
        """``fd`` is readable: something has ended."""
        self._abandoned = [attempt for attempt in self._abandoned if attempt.outcome() is None]
        for running in list(self._running):
            self._look(running)

    def tick(self, now_ms: int) -> None:
        """Probes older than the deadline have failed, unless the answer is there and was only not read yet."""
        if self._running or self._abandoned:
            self.ready()
        for running in list(self._running):
            if now_ms - running.sent_ms >= self._timeout_ms:
                running.why.append(f"no answer within {self._timeout_ms} ms")
                self._finish(running, ok=False)

    def take(self) -> list[Probe]:
        """Results since the last call."""
        results, self._results = self._results, []
        return results

    def close(self) -> None:
        """Kills and reaps everything; waits the moment that takes. What cannot be killed is left behind."""
        end_s = time.monotonic() + CLOSE_S
        for running in self._running:
            self._abandon(running)
        self._running.clear()
        while self._abandoned and time.monotonic() < end_s:
            self._epoll.poll(0.01)
            self._abandoned = [attempt for attempt in self._abandoned if attempt.outcome() is None]
        self._epoll.close()

    def _begin(self, running: _Running, address: str) -> None:
        try:
            attempt: Attempt = Connection(address) if self._kind == Kind.TCP else Ping(self._commands[address])
        except FileNotFoundError:
            running.why.append(f"{address}: `{self._commands[address][0]}` is not installed")
        except (OSError, ValueError) as error:
            running.why.append(f"{address}: {error}")
        else:
            running.attempts[address] = attempt
            self._epoll.register(attempt.fd, attempt.events)

    def _look(self, running: _Running) -> None:
        for address, attempt in list(running.attempts.items()):
            outcome = attempt.outcome()
            if outcome is None:
                continue
            del running.attempts[address]
            if not outcome:
                running.why = [address]
                self._finish(running, ok=True)
                return
            running.why.append(f"{address}: {outcome}")
        if not running.attempts:
            self._finish(running, ok=False)

    def _finish(self, running: _Running, *, ok: bool) -> None:
        self._running.remove(running)
        self._abandon(running)
        self._results.append(Probe(running.token, running.sent_ms, ok, "; ".join(running.why)))

    def _abandon(self, running: _Running) -> None:
        for attempt in running.attempts.values():
            attempt.abandon()
            if attempt.outcome() is None:
                self._abandoned.append(attempt)


def _command(template: str, address: str, timeout_ms: int) -> list[str]:
    try:
        words = [word.format(timeout_s=timeout_ms / 1000, address=address) for word in shlex.split(template)]
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"the ping command cannot be used: {template}", cause=str(error), cure=f"for example: {PING}"
        ) from error
    if not any(address in word for word in words[1:]):
        raise ConfigError(f"the ping command does not name {{address}}: {template}", cure=f"for example: {PING}")
    return words
