"""The whole error tree: one sentence each, when it happens and what the caller should do.

Every error has three parts that reach the user as three lines: *what* happened, *why* (``cause``), and what to do about it
(``cure``). ``code`` (``ZHA-nnn``) is stable and documented in ``docs/errors.md``; it travels on the wire, so a client raises the
class that the server named. Where a builtin fits, the class is one too, so ``except TimeoutError`` works.
"""


class ZmqhaError(Exception):
    """Root of everything this package raises on purpose."""

    code = "ZHA-000"

    def __init__(self, what: str, *, cause: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.cure = cure

    def explain(self) -> str:
        """The three lines shown to people."""
        lines = [f"error {self.code}: {self.what}"]
        if self.cause:
            lines.append(f"why:  {self.cause}")
        if self.cure:
            lines.append(f"fix:  {self.cure}")
        return "\n".join(lines)


# --- connecting -------------------------------------------------------------------------------------------------------------


class ConnectionLost(ZmqhaError, ConnectionError):
    """No server could be reached, or the client was closed while the call waited; try again when the network is back."""

    code = "ZHA-101"


class FailoverTimeout(ZmqhaError, TimeoutError):
    """No active server within ``failover_timeout``; what was sent stays unconfirmed, look at ``zmqha status``."""

    code = "ZHA-102"


class AccessDenied(ZmqhaError, PermissionError):
    """The server does not allow this to this client; ask whoever keeps the keys."""

    code = "ZHA-103"


class NotActive(ZmqhaError):
    """The server asked is not the active one; name both servers in the URL."""

    code = "ZHA-104"


class UrlError(ZmqhaError, ValueError):
    """The URL, or an option in it, cannot be understood; correct it."""

    code = "ZHA-105"


# --- messaging --------------------------------------------------------------------------------------------------------------


class NoSuchDestination(ZmqhaError, LookupError):
    """The queue does not exist; create it with ``zmqha queue add``."""

    code = "ZHA-201"


class QueueFull(ZmqhaError):
    """The queue is at its configured limit; consume from it or raise the limit, then send again."""

    code = "ZHA-202"


class MessageTooLarge(ZmqhaError, ValueError):
    """The message is larger than the server accepts; split it or raise ``limits.max_message_bytes``."""

    code = "ZHA-203"


class OutOfSequence(ZmqhaError):
    """A batch did not carry the next sequence number; the client numbers anew (users never see this one)."""

    code = "ZHA-204"

    def __init__(self, what: str, *, cause: str = "", cure: str = "", expected: int = 0) -> None:
        super().__init__(what, cause=cause, cure=cure)
        self.expected = expected


class OutcomeUnknown(ZmqhaError):
    """The client was closed, or gave up, before the confirm came; the message may or may not be stored."""

    code = "ZHA-205"


class NoSpace(ZmqhaError):
    """The active's disk (or configured store size) is full; consume, or free space. What was confirmed is safe."""

    code = "ZHA-206"


class BadName(ZmqhaError, ValueError):
    """A destination name outside ``[A-Za-z0-9._/-]{1,200}``; choose another."""

    code = "ZHA-207"


class LimitReached(ZmqhaError):
    """A bound of the server (sessions, subscriptions, queues, unconfirmed bytes) is reached; the text names it."""

    code = "ZHA-208"


class DestinationInUse(ZmqhaError):
    """The queue still holds messages; purge it first or say ``--force``."""

    code = "ZHA-209"


# --- protocol ---------------------------------------------------------------------------------------------------------------


class ProtocolError(ZmqhaError):
    """The other side broke the wire grammar; what it sent is refused, a session that does it is closed, the server goes on."""

    code = "ZHA-301"


class VersionMismatch(ProtocolError):
    """The other side speaks no protocol version that this side speaks; upgrade the older one."""

    code = "ZHA-302"


class WrongState(ProtocolError):
    """A command that is not allowed now (for example SEND before OPEN)."""

    code = "ZHA-303"


# --- configuration and operation --------------------------------------------------------------------------------------------


class ConfigError(ZmqhaError, ValueError):
    """The configuration is refused at start; exit code 78."""

    code = "ZHA-401"


class OperationFailed(ZmqhaError):
    """An operator's command could not be carried out; the text says why and what to do."""

    code = "ZHA-402"


class Unfinished(ZmqhaError):
    """The command makes no sense in the present state yet (copying, starting); try later."""

    code = "ZHA-403"


# --- the disk ---------------------------------------------------------------------------------------------------------------


class StoreFull(ZmqhaError):
    """A clean "no space" from the file system or map; the transaction was undone, nothing confirmed is lost."""

    code = "ZHA-501"


class StoreDamaged(ZmqhaError):
    """A file of the store is not what it must be; the server stops (or copies from its peer)."""

    code = "ZHA-502"


def by_code(code: str) -> type[ZmqhaError]:
    """The class a code on the wire stands for; an unknown code (a newer server) is a plain ``ZmqhaError``."""
    return _BY_CODE.get(code, ZmqhaError)


def _tree(root: type[ZmqhaError]) -> dict[str, type[ZmqhaError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


_BY_CODE = _tree(ZmqhaError)
