"""What each server last answered, and the exception that says so when there is no session. Pure."""

from collections.abc import Sequence

from zmqha.core.client_protocol import Failure, Refused
from zmqha.errors import AccessDenied, ConnectionLost, FailoverTimeout, NotActive, ZmqhaError

LONG_AGO_MS = -1_000_000


class Server:
    """What is known about one server."""

    __slots__ = (
        "answer",
        "ask_at",
        "asked",
        "asked_last",
        "connected",
        "failure",
        "hint",
        "name",
        "pause",
        "refused",
        "retry_at",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.connected = False
        self.asked: int | None = None  # when OPEN went out, while it is unanswered
        self.asked_last = LONG_AGO_MS  # when OPEN went out most recently
        self.ask_at = 0  # not before
        self.retry_at: int | None = None  # make a new connection then: the last handshake failed
        self.pause = 0
        self.refused: Refused | None = None
        self.failure: Failure | None = None
        self.hint = ""  # whom it named as active when it last refused
        self.answer = "no connection"


BROKEN = "the connection broke"
NO_ACCESS = "the server does not accept this client's key (curve_key_file)"
_ADD_KEY = "add this client's public key to security.client_keys on both servers"
_GIVE_KEYS = "if the servers use keys, give the client/context.toml of zmqha init: --context FILE, or zmqha.connect(FILE)"


def no_session(servers: Sequence[Server], seconds: float, *, connecting: bool, keys: bool) -> ZmqhaError:
    """Why no session came about within ``seconds``; ``connecting``: there never was one; ``keys``: this client uses CURVE."""
    names = ", ".join(known.name for known in servers)
    answers = "; ".join(f"{known.name}: {known.answer}" for known in servers)
    for known in servers:
        if known.failure and not any(other.refused for other in servers):
            failure = known.failure
            error = failure.to_error()
            error.cause = failure.cause or answers
            return error
    refused = servers[0].refused if len(servers) == 1 else None
    if refused is not None:
        active = f"{names},{refused.active}" if refused.active else ""
        cure = f"name both servers in the URL: zmqha://{active}" if active else "wait, or look at `zmqha status`"
        what = refused.what or f"{names} refuses to serve: it is {refused.state}"
        return NotActive(what, cause=refused.cause or "the URL names one server, and it is not the active one", cure=cure)
    if any(known.refused for known in servers):
        what = f"no active server among {names} within {seconds:g} s"
        return FailoverTimeout(what, cause=answers, cure="look at `zmqha status`")
    if any(known.answer == NO_ACCESS for known in servers):
        return AccessDenied(f"no access to {names}", cause=answers, cure=_ADD_KEY)
    kind = ConnectionLost if connecting else FailoverTimeout
    cure = f"check that the servers run, the addresses, and the keys (curve_server_key, curve_key_file){_hint(servers, keys)}"
    return kind(f"no answer from {names} within {seconds:g} s", cause=answers, cure=cure)


def no_answer(verb: str, asked: Sequence[Server], seconds: float, why: str, *, keys: bool) -> ZmqhaError:
    """Why an operator's verb got no answer from any of these servers; ``why``: what all servers say."""
    names = ", ".join(known.name for known in asked)
    if all(known.answer == NO_ACCESS for known in asked):
        return AccessDenied(f"no access to {names}", cause=NO_ACCESS, cure=_ADD_KEY)
    cure = f"check that the server runs and the address{_hint(asked, keys)}"
    return ConnectionLost(f"no answer to {verb} from {names} within {seconds:g} s", cause=why, cure=cure)


def _hint(servers: Sequence[Server], keys: bool) -> str:
    """A server that wants CURVE drops a plain client without a word."""
    return f"; {_GIVE_KEYS}" if not keys and any(known.answer == BROKEN for known in servers) else ""
