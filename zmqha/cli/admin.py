"""Asking servers one by one: operators' verbs in every state, so a pair without an active server can still be looked at.

Each server of the URL is asked by itself, and one that does not answer is a fact to report, not an end.

The verbs (ADMIN of ZMQHA/1) and the shapes of their results:

    verb        arguments                    result
    status                                   pair, cluster, single_machine, answering, equal (bool|null), sentence, needs_operator,
                                             servers: [name, endpoint, role ("Primary"|"Secondary"), state, sub, reason, standing,
                                               epoch, txn, chain (hex16), lag_ms (float|null), lag_txns, free (0..1), contact_ms,
                                               copied (0..1), version, since_ms (in this state), acts: [wall_ms, act]; its own row also:
                                               refuses_sends (for want of room), scrub],
                                             gateway: kind, addresses, own (bool|null), peer (bool|null)
                                             counts: queues, messages, ready, unacked, sessions
    why                                      server, state, sub, standing, epoch, reason, since_ms, sentence, cure,
                                             rows: [row, to, when, why, holds: [text], missing: [text]], acts: [wall_ms, act]
    history                                  pair, cluster, entries: [epoch, txn, reason, wall_ms, active, outage_ms],
                                             server, acts: [wall_ms, act]
    switchover  to?, reason?                 from, to, started: true
    promote     accept_loss_of_peer: true, by?    any record, shown as it is
    resync      discard_own: true, by?       any record, shown as it is
    merge       dry_run?: true, by?             server, into, branch, common_txn, queues: [name, messages, acknowledged],
                                             differences: [kind, name, max_messages, max_bytes]; without dry_run: merge, into, started
    merges                                   server, reports: [number, wall_ms, winner, winner_epoch, loser, branch, common_txn,
                                               queues: [name, merged, known, acknowledged], ranges: [queue, producer, first, last],
                                               ranges_left_out, audit, audit_left_out, finished]
    version                                  version, server; protocol and wall_ms (for the doctor) if known
    queue.ls                                 queues: [name, messages, ready, unacked, consumers, bytes, max_messages, max_bytes]
    queue.info  name                         one record of queue.ls, with more fields if the server has them
    queue.add   name, max_messages?, max_bytes?      the record
    queue.rm    name, force                  name, removed (messages)
    queue.purge name                         name, removed (messages)

queue.*, history, merges and switchover are answered by the active; the others by every server.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import zmqha
from zmqha.errors import ConnectionLost, FailoverTimeout, NotActive, ZmqhaError

TIMEOUT_S = 5.0
GLANCE_S = 1.5  # a server that does not answer a status question within this is shown as unreachable
_AGAIN_S = 0.1


class Servers:
    """The servers of a URL; a context manager."""

    def __init__(self, url: str) -> None:
        self._client = zmqha.connect(url, wait=False)
        self.hosts = tuple(str(host) for host in self._client.url.hosts)
        self.encrypted = bool(self._client.url.options.curve_server_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, host: str, verb: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        """One server's answer; ConnectionLost if there is none, the server's own error if it says no."""
        return self._client.admin(verb, arguments, timeout_s, self.hosts.index(host))

    def ask_all(self, verb: str, *, timeout_s: float = GLANCE_S) -> dict[str, Any]:
        """Every host's answer, or the ZmqhaError in its place; asked at the same time."""

        def answer(host: str) -> Any:
            try:
                return self.ask(host, verb, timeout_s=timeout_s)
            except ZmqhaError as error:
                return error

        with ThreadPoolExecutor(len(self.hosts)) as pool:
            return dict(zip(self.hosts, pool.map(answer, self.hosts), strict=True))

    def ask_active(self, verb: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        """The active server's answer; asked again while none is active, until the time is up."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                return self._client.admin(verb, arguments, max(0.1, end - time.monotonic()))
            except NotActive as error:
                if time.monotonic() + _AGAIN_S >= end:
                    raise FailoverTimeout(
                        f"no active server among {', '.join(self.hosts)} within {timeout_s:g} s",
                        cause=error.what,
                        cure="see: zmqha status",
                    ) from error
            time.sleep(_AGAIN_S)


def silence(answers: dict[str, Any]) -> ZmqhaError:
    """Nobody answered: the first refusal that is more than silence, else silence."""
    for answer in answers.values():
        if isinstance(answer, ZmqhaError) and not isinstance(answer, ConnectionLost):
            return answer
    why = "; ".join(dict.fromkeys(answer.cause or answer.what for answer in answers.values()))
    cure = next((answer.cure for answer in answers.values() if answer.cure), "look at the servers' logs")
    return ConnectionLost(f"no server answers: {', '.join(answers)}", cause=why, cure=f"{cure}; or ask: zmqha doctor")
