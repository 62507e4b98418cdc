"""What the failover machine tells the I/O thread to do, and the states that users see. Values only."""

from enum import StrEnum
from typing import NamedTuple

from zmqha.core.client_protocol import Opened


class State(StrEnum):
    """What ``Client.state`` shows."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    LOST = "lost"
    CLOSED = "closed"


class Ask(NamedTuple):
    """Send OPEN to this server."""

    server: int


class Reset(NamedTuple):
    """Close the socket to this server with all that waits in it, and open a new one."""

    server: int


class Probe(NamedTuple):
    """Send PING to this server."""

    server: int


class Begin(NamedTuple):
    """A session is open: send again what is in doubt, subscribe again."""

    server: int
    opened: Opened


class End(NamedTuple):
    """The session is over; nothing may be sent."""

    server: int


class Changed(NamedTuple):
    """The state that users see is another one."""

    old: State
    new: State
    reason: str


Action = Ask | Reset | Probe | Begin | End | Changed
