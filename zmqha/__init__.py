"""Highly available messaging for exactly two machines.

::

    import zmqha
    with zmqha.connect("zmqha://edge-a,edge-b:7400") as mq:
        mq.send("orders", {"id": 7})                  # returns when both disks have it
        for message in mq.consume("orders"):          # survives failover
            handle(message.json())                    # acknowledged when the loop asks for the next one

The client is loaded when it is first used, so that a server does not carry it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from zmqha.errors import (
    AccessDenied,
    BadName,
    ConfigError,
    ConnectionLost,
    DestinationInUse,
    FailoverTimeout,
    LimitReached,
    MessageTooLarge,
    NoSpace,
    NoSuchDestination,
    NotActive,
    OperationFailed,
    OutcomeUnknown,
    OutOfSequence,
    ProtocolError,
    QueueFull,
    StoreDamaged,
    StoreFull,
    Unfinished,
    UrlError,
    VersionMismatch,
    WrongState,
    ZmqhaError,
)  # fmt: skip

if TYPE_CHECKING:
    from zmqha.client.actions import State
    from zmqha.client.client import Client, connect
    from zmqha.client.handle import Handle
    from zmqha.client.message import Message
    from zmqha.client.producer import Receipt
    from zmqha.client.receiver import Consumer

__version__ = "0.1.0"

__all__ = [
    "AccessDenied", "BadName", "Client", "ConfigError", "ConnectionLost", "Consumer", "DestinationInUse", "FailoverTimeout",
    "Handle", "LimitReached", "Message", "MessageTooLarge", "NoSpace", "NoSuchDestination", "NotActive", "OperationFailed",
    "OutOfSequence", "OutcomeUnknown", "ProtocolError", "QueueFull", "Receipt", "State", "StoreDamaged", "StoreFull",
    "Unfinished", "UrlError", "VersionMismatch", "WrongState", "ZmqhaError", "__version__", "connect",
]  # fmt: skip

_LAZY = {
    "Client": "zmqha.client.client",
    "connect": "zmqha.client.client",
    "Consumer": "zmqha.client.receiver",
    "Handle": "zmqha.client.handle",
    "Message": "zmqha.client.message",
    "Receipt": "zmqha.client.producer",
    "State": "zmqha.client.actions",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'zmqha' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
