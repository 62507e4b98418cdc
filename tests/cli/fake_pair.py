"""A pair that answers from memory, in the place of the client library."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zmqha.client.url import parse
from zmqha.errors import ConnectionLost, ZmqhaError

URL = "zmqha://10.0.7.11:7400,10.0.7.12:7400"


def row(name: str, host: int, role: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "endpoint": f"10.0.7.{host}:7400", "role": role, "state": state, "sub": "", "reason": "", "standing": "paired",
        "epoch": 4, "txn": 1204331, "chain": "00" * 8, "lag_ms": None, "lag_txns": 0, "free": 0.884, "contact_ms": 12, "copied": 0.0,
        "version": "0.1.0", **more,
    }  # fmt: skip


def view(answering: str, first: dict[str, Any], second: dict[str, Any], **more: Any) -> dict[str, Any]:
    return copy.deepcopy({
        "pair": "plant-7", "cluster": "5f2c91ab00112233", "single_machine": False, "answering": answering,
        "servers": [first, second], "gateway": {"kind": "ping", "addresses": ["10.0.7.1"], "own": True, "peer": True},
        "counts": None, "equal": True, "sentence": "Losing either server now loses 0 acknowledged messages.", **more,
    })  # fmt: skip


def healthy() -> dict[str, dict[str, Any]]:
    a = row("edge-a", 11, "Primary", "ACTIVE")
    b = row("edge-b", 12, "Secondary", "PASSIVE", lag_ms=0.42, free=0.89)
    return {"10.0.7.11:7400": view("edge-a", a, b), "10.0.7.12:7400": view("edge-b", a, {**b, "lag_ms": None})}


@dataclass
class Pair:
    """What the servers would say. ``answers``: verb to result, error, or function of the arguments."""

    status: dict[str, Any] = field(default_factory=healthy)
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any], int | None]] = field(default_factory=list)
    sent: list[tuple[str, bytes, dict[str, Any]]] = field(default_factory=list)
    waiting: list[bytes] = field(default_factory=list)
    acked: list[bytes] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)  # "write ..." and "ack ...", in order
    refusal: ZmqhaError | None = None
    connected_with: list[str] = field(default_factory=list)


class Handle:
    def __init__(self, error: ZmqhaError | None) -> None:
        self.error = error

    def result(self, timeout: float | None = None) -> None:
        if self.error:
            raise self.error


class Message:
    def __init__(self, pair: Pair, body: bytes) -> None:
        self.pair, self.body = pair, body

    def ack(self) -> None:
        self.pair.acked.append(self.body)


class Messages:
    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def __enter__(self) -> "Messages":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __next__(self) -> Message:
        if not self.pair.waiting:
            raise StopIteration
        return Message(self.pair, self.pair.waiting.pop(0))


class Client:
    def __init__(self, pair: Pair, url: str, on_state: Callable[..., None] | None = None, wait: bool = True) -> None:
        self.pair, self.url, self.on_state = pair, parse(url), on_state
        pair.connected_with.append(url)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def admin(self, verb: str, arguments: dict[str, Any] | None, timeout: float, server: int | None = None) -> Any:
        self.pair.asked.append((verb, arguments or {}, server))
        if verb == "status":
            host = str(self.url.hosts[server or 0])
            found = self.pair.status.get(host, ConnectionLost(f"no answer from {host}", cause=f"{host}: no connection"))
        else:
            found = self.pair.answers[verb]
        if callable(found):
            found = found(arguments or {})
        if isinstance(found, ZmqhaError):
            raise found
        return copy.deepcopy(found)

    def send_nowait(self, queue: str, body: bytes, **options: Any) -> Handle:
        self.pair.sent.append((queue, body, options))
        return Handle(self.pair.refusal if len(self.pair.sent) == 2 else None)

    def consume(self, queue: str, **options: Any) -> Messages:
        return Messages(self.pair)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    raw: bytes


Run = Callable[..., Outcome]
