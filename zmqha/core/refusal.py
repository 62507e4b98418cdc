"""What a server that does not serve tells a client: its state, and who serves instead, if it knows."""

from zmqha.core import limits
from zmqha.core.client_protocol import Refused
from zmqha.core.ha import HA
from zmqha.core.peer_protocol import Sub
from zmqha.core.view import SERVING
from zmqha.errors import NotActive


def refusal(ha: HA, now_ms: int) -> Refused:
    """The answer to an Open, and to whatever else it cannot do now."""
    peer, hello = ha.peer, ha.contact.hello
    active = ""
    if ha.heard(now_ms) and peer is not None and peer.state in SERVING and peer.sub is not Sub.LEAVING and hello is not None:
        active = hello.client_endpoint
    state = ha.state.value if ha.state not in SERVING else "LEAVING"
    return Refused(
        state=state,
        active=active,
        retry_ms=limits.REFUSED_RETRY_MS,
        code=NotActive.code,
        what=f"{ha.identity.node_id} refuses to serve: it is {state} (epoch {ha.epoch.counter})"
        + (f", active is {active}" if active else ", no active server is known"),
        cause=ha.reason,
        cure="name both servers in the URL" if active else "look at `zmqha status` for what it waits for",
    )
