"""The settings, section by section, as they stand in the TOML file: type, unit, default and a sentence each.

``settings_file`` reads them, ``settings_check`` checks what numbers and texts alone can tell, ``config`` puts them in relation to
this machine and its network. Nothing here reads the world. The timers are ``core.timers.Timers``.
"""

import shlex
from typing import Literal, get_type_hints

import msgspec

from zmqha.core import limits as bounds
from zmqha.core.timers import Timers

PING = "ping -n -q -c 1 -W {timeout_s} -I {source} {address}"
CLIENT_PORT = 7400
PEER_PORT = 7410  # bulk is the next one
RESERVED_NAMES = ("cluster", "client")  # directories beside those named after the servers


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What both servers share."""

    name: str
    id: str  # hex, made by `zmqha init`; servers of another cluster are never obeyed
    single_machine: bool = False  # both servers here: allows loopback, one address, a stand-in gateway, no CURVE
    secret_file: str = ""  # signs death notices; the same on both machines
    on_divergence: Literal["merge", "stop"] = "merge"  # the loser of a divergence: hands over what only it holds, or waits
    resume_alone: Literal["safe", "available"] = "safe"  # may a PAIRED server serve after a restart without its peer


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is asked, when the peer is lost, whether *this* machine still has its network."""

    kind: Literal["ping", "tcp"] = "ping"
    addresses: tuple[str, ...] = ()  # ping: IP addresses; tcp: IP:port. One or two; any answer counts
    command: str = PING  # one probe; {address}, {timeout_s}, {source} are filled in; exit code 0 = answered

    def argv(self, address: str, *, timeout_ms: int, source: str) -> list[str]:
        """The program and arguments of one probe."""
        filled = {"address": address, "timeout_s": f"{timeout_ms / 1000:g}", "source": source}
        return [part.format(**filled) for part in shlex.split(self.command)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds that an operator may change; the others are in ``core.limits``."""

    max_message_bytes: int = bounds.MESSAGE_BYTES_MAX
    queue_max_messages: int = bounds.QUEUE_MESSAGES_MAX  # default of a new queue
    queue_max_bytes: int = bounds.QUEUE_BYTES_MAX  # default of a new queue
    store_max_bytes: int = 0  # 0: as large as the file system
    disk_reserve_bytes: int = 64 * bounds.MIB  # below this much free space sends are refused, acknowledgements still work
    journal_segment_bytes: int = 64 * bounds.MIB
    cache_bytes: int = bounds.CACHE_BYTES
    sessions_max: int = bounds.SESSIONS_MAX
    scrub_mib_per_s: int = 16  # how fast the store's file is read again and compared with what was written; 0: not at all


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CURVE on every port, or none at all (single machine only)."""

    curve: bool = True
    client_port_key_file: str = ""  # secret key of the client port; the same on both machines, so clients pin one key
    client_keys: tuple[str, ...] = ()  # public keys (Z85) of the clients that may connect


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To stderr; the service manager keeps it."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class ServerBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[server.NAME]`` as written."""

    role: Literal["primary", "secondary"]
    data_dir: str
    client: str  # host:port for clients, as clients are told
    peer: str = ""  # host:port on the peer link; the bulk port is the next one; death notices come to the same port by UDP
    lan: str = ""  # host for the second heartbeat path, same ports; default: the host of `client`
    peer_key_file: str = ""  # secret key of the own peer ports, on its own machine only
    peer_public_key: str = ""  # Z85, belongs to peer_key_file; pinned by the other server


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file as written."""

    cluster: Cluster
    server: dict[str, ServerBlock]
    gateway: Gateway = Gateway()
    timers: Timers = Timers()
    limits: Limits = Limits()
    security: Security = Security()
    log: Log = Log()


SECTIONS: dict[str, type] = {
    "cluster": Cluster, "gateway": Gateway, "timers": Timers, "limits": Limits, "security": Security, "log": Log,
}  # fmt: skip


def fields(kind: type) -> tuple[str, ...]:
    """The settings of a section, in the order of the file."""
    return tuple(get_type_hints(kind))
