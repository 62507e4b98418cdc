"""The secrets of one server, read from the files that the configuration names; nothing else holds or prints them.

Key files are those of ``zmq.auth.create_certificates``: ``NAME.key`` is public, ``NAME.key_secret`` holds both halves. Secrets
must be readable by their owner only. A server that finds the *other* server's secret warns: that file belongs on
the other machine.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.auth

from zmqha.core.curve_key import is_key
from zmqha.errors import ConfigError
from zmqha.server.config import Config
from zmqha.transport.security import Keys

SECRET_BYTES_MIN = 16


class Keyring(NamedTuple):
    """Everything secret that a server needs. Without CURVE the pairs are None."""

    client_port: Keys | None  # the client port's, the same on both servers
    peer_port: Keys | None  # the own peer ports'
    peer_public: bytes  # the only key allowed on the own peer ports
    client_keys: frozenset[bytes]  # allowed on the client port
    mac_secret: bytes  # signs death notices; b"" without a peer
    warnings: tuple[str, ...] = ()


def load_keys(config: Config) -> Keyring:
    """Read and check all of them; ConfigError names the file and the cure."""
    warnings: list[str] = []
    mac_secret = _mac_secret(config.secret_file) if config.secret_file else b""
    if not config.security.curve:
        return Keyring(None, None, b"", frozenset(), mac_secret)
    client_port = load_pair(config.client_port_key_file) if config.client_port_key_file else None
    client_keys = frozenset(key.encode() for key in config.security.client_keys)
    if config.peer is None:
        return Keyring(client_port, None, b"", client_keys, mac_secret)
    peer_port = load_pair(config.own.peer_key_file) if config.own.peer_key_file else None
    if peer_port and peer_port.public.decode() != config.own.peer_public_key:
        raise ConfigError(
            f"{config.own.peer_key_file} is not the key of server.{config.name}",
            cause="its public half differs from peer_public_key in the configuration; the peer would refuse it",
            cure="copy the right directory to this machine, or correct --name",
        )
    foreign = config.peer.peer_key_file
    if foreign and os.path.exists(foreign) and not config.cluster.single_machine:
        warnings.append(f"{foreign} is the secret of the other server; delete it on this machine")
    public = config.peer.peer_public_key.encode()
    return Keyring(client_port, peer_port, public, client_keys, mac_secret, tuple(warnings))


def load_pair(path: Path) -> Keys:
    """A CURVE pair from its secret file."""
    _check_private(path)
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if secret is None:
        raise ConfigError(
            f"{path} holds no secret key", cause="it is the public half", cure=f"name {path.with_suffix('.key_secret').name}"
        )
    halves = (half.decode(errors="replace") for half in (public, secret))
    if not all(map(is_key, halves)) or zmq.curve_public(secret) != public:
        raise ConfigError(
            f"{path} is no pair of keys",
            cause="each half is 40 characters of Z85, and the public half follows from the secret one",
            cure="copy the file anew from the machine where zmqha init ran",
        )
    return Keys(public, secret)


def _mac_secret(path: Path) -> bytes:
    _check_private(path)
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(
            f"{path} holds {len(secret)} bytes", cause=f"a secret needs at least {SECRET_BYTES_MIN}", cure="zmqha init makes one"
        )
    return secret


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} can be read by others", cause=f"its mode is {stat.filemode(mode)}", cure=f"chmod 600 {path}")


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"cannot read the key file {path}",
        cause=why,
        cure="copy it from the machine where zmqha init ran, owned by the server's user",
    )
