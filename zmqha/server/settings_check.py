"""What numbers and texts alone can tell: a setting out of range, timers that contradict each other, keys that are missing.

Pure: the same answer on every machine. Each refusal says what, why and cure.
"""

import re
import shlex
import string

from zmqha.core import limits as bounds
from zmqha.core.curve_key import is_key
from zmqha.errors import ConfigError
from zmqha.server.settings import PING, RESERVED_NAMES, Cluster, File
from zmqha.server.settings_file import Source

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
NAME_CURE = "letters, digits, - and _, at most 32 characters"
_HEX = re.compile(r"[0-9a-f]{8,64}")
_RANGES: dict[str, tuple[int, int]] = {
    "max_message_bytes": (1, bounds.MESSAGE_BYTES_MAX),
    "queue_max_messages": (1, 1 << 62),
    "queue_max_bytes": (1, 1 << 62),
    "store_max_bytes": (0, 1 << 46),
    "disk_reserve_bytes": (0, 1 << 46),
    "journal_segment_bytes": (bounds.MIB, 1 << 32),
    "cache_bytes": (0, 1 << 40),
    "sessions_max": (1, 10_000),
    "scrub_mib_per_s": (0, 10_000),
}


def check(source: Source, file: File) -> tuple[str, ...]:
    """Raises the first ConfigError found; returns warnings."""
    warnings = _cluster(source, file.cluster)
    _limits(source, file)
    _timers(source, file)
    _servers(source, file)
    _security(source, file)
    if len(file.server) > 1:
        _gateway(source, file)
    return warnings


def _cluster(source: Source, cluster: Cluster) -> tuple[str, ...]:
    if not NAME.fullmatch(cluster.name):
        source.refuse(
            "cluster.name", f"{cluster.name!r} is no name", why="it appears in logs, tables and file names", cure=NAME_CURE
        )
    if not _HEX.fullmatch(cluster.id):
        source.refuse(
            "cluster.id",
            f"{cluster.id!r} is no cluster id",
            why="it tells this pair from every other pair",
            cure="8 to 64 lower-case hex digits; zmqha init makes one",
        )
    if cluster.resume_alone == "safe":
        return ()
    return (
        'cluster.resume_alone = "available": a server that restarts without its peer may serve an old store; messages confirmed '
        "by the other server alone are missing until the two meet",
    )


def _limits(source: Source, file: File) -> None:
    for key, (low, high) in _RANGES.items():
        value = getattr(file.limits, key)
        if not low <= value <= high:
            source.refuse(
                f"limits.{key}",
                f"{value} is out of range",
                why=f"allowed is {low} to {high}",
                cure="correct it, or leave the line out for the default",
            )


def _timers(source: Source, file: File) -> None:
    try:
        file.timers.check()
    except ConfigError as error:
        raise ConfigError(f"{source.where('timers')}: {error.what}", cause=error.cause, cure=error.cure) from error


def _servers(source: Source, file: File) -> None:
    blocks = file.server
    if len(blocks) > 2:
        source.refuse(
            "server",
            f"{len(blocks)} servers: {', '.join(blocks)}",
            why="a pair is exactly two machines",
            cure="keep one primary and one secondary",
        )
    for label in blocks:
        if not NAME.fullmatch(label) or label in RESERVED_NAMES:
            source.refuse(
                f"server.{label}",
                f"{label!r} cannot name a server",
                why="it appears in logs, tables and file names",
                cure=f"{NAME_CURE}, and not {' or '.join(RESERVED_NAMES)}",
            )
    roles = sorted(block.role for block in blocks.values())
    if roles not in (["primary"], ["primary", "secondary"]):
        source.refuse(
            "server",
            f"the roles are {' and '.join(roles)}",
            why="the two must be told apart when all else is equal",
            cure='exactly one [server.NAME] has role = "primary"; a second one has "secondary"',
        )


def _security(source: Source, file: File) -> None:
    security = file.security
    paired = len(file.server) > 1
    if paired and not file.cluster.secret_file:
        source.refuse(
            "cluster.secret_file",
            "missing",
            why="a death notice of the peer must be signed to be believed",
            cure='secret_file = "cluster/secret"; zmqha init makes one',
        )
    if not security.curve and not file.cluster.single_machine:
        source.refuse(
            "security.curve",
            "false is allowed on a single machine only",
            why="without CURVE anybody on the network could be the peer, or read every message",
            cure="write curve = true (zmqha init makes the keys); for tests on one machine cluster.single_machine = true",
        )
    if not security.curve:
        return
    if not security.client_port_key_file:
        source.refuse(
            "security.client_port_key_file",
            "missing",
            why="with curve = true the client port needs its key",
            cure='client_port_key_file = "cluster/client_port.key_secret"; zmqha init makes one',
        )
    if not security.client_keys:
        source.refuse(
            "security.client_keys",
            "empty",
            why="with curve = true only the listed clients may connect, so none could",
            cure="list the public keys of the clients; zmqha init makes the first",
        )
    for key in security.client_keys:
        _public_key(source, "security.client_keys", key)
    for name, block in file.server.items() if paired else ():
        if not block.peer_key_file:
            source.refuse(
                f"server.{name}.peer_key_file",
                "missing",
                why="with curve = true the peer ports need their key",
                cure=f'peer_key_file = "{name}/peer.key_secret"; zmqha init makes one',
            )
        _public_key(source, f"server.{name}.peer_public_key", block.peer_public_key)


def _public_key(source: Source, where: str, key: str) -> None:
    if not is_key(key):
        source.refuse(
            where,
            f"{key!r} is no public key",
            why="a CURVE key is 40 characters of Z85",
            cure="copy public-key from the .key file",
        )


def _gateway(source: Source, file: File) -> None:
    gateway = file.gateway
    if not 1 <= len(gateway.addresses) <= 2:
        source.refuse(
            "gateway.addresses",
            f"{len(gateway.addresses)} addresses; one or two are needed",
            why="a server that lost its peer must be able to ask whether it is itself the isolated one",
            cure='addresses = ["10.0.7.1"]: the router of the client network, never one of the two servers',
        )
    if gateway.kind == "tcp":
        return
    try:
        places = {place for part in shlex.split(gateway.command) for _, place, _, _ in string.Formatter().parse(part) if place}
    except ValueError as error:
        source.refuse(
            "gateway.command",
            f"cannot be split into words: {error}",
            why="it is run without a shell",
            cure=f'for example "{PING}"',
        )
    if "address" not in places or not places <= {"address", "timeout_s", "source"}:
        source.refuse(
            "gateway.command",
            f"the places to fill in are {{address}}, {{timeout_s}} and {{source}}; found: {', '.join(sorted(places)) or 'none'}",
            why="without {address} it would ask nobody",
            cure=f'for example "{PING}"',
        )
