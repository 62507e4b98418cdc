"""Writes the directory of a new pair: one ``server.toml`` for both machines, their keys, and a context for clients.

    DIR/server.toml            both blocks, cluster id, public keys
    DIR/cluster/               key of the client port, secret of the death notices: the same on both machines
    DIR/NAME/                  key of that machine's peer ports: for that machine only
    DIR/client/                a client's key and context.toml

Secrets are 0600. The directory appears whole, with a file that a server would take, or not at all; an existing one is never touched.
It holds no ``node.state``: a fresh pair forms by itself (T19). Driven by ``zmqha init``, ``zmqha demo`` and the tests.
"""

import ipaddress
import os
import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import zmq
import zmq.auth

from zmqha.errors import ConfigError, OperationFailed
from zmqha.server.config import load
from zmqha.server.settings import CLIENT_PORT, PEER_PORT, RESERVED_NAMES
from zmqha.server.settings_check import NAME, NAME_CURE

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_STAND_IN = {"ZMQHA_GATEWAY__ADDRESSES": "192.0.2.1"}  # for a gateway that is filled in later; an address of nobody
_TOML_ESCAPES = {'"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class Machine:
    """One server of the plan."""

    name: str
    host: str  # on the client network
    peer_host: str  # on the peer link; the same as host if there is no dedicated one
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT
    lan_host: str = ""  # second heartbeat path if it is not the host


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write."""

    directory: Path
    primary: Machine
    secondary: Machine
    cluster: str
    gateway_kind: str = "ping"
    gateway_addresses: tuple[str, ...] = ()
    single_machine: bool = False
    curve: bool = True
    data_dir: str = "data"  # NAME is appended; relative to the configuration file

    @property
    def machines(self) -> tuple[Machine, Machine]:
        return self.primary, self.secondary


def machine(text: str) -> Machine:
    """``NAME``, ``NAME=HOST`` or ``NAME=HOST/PEERHOST``; an IPv6 address may stand in brackets."""
    name, _, hosts = text.partition("=")
    check_name(name)
    host, _, peer_host = (hosts or name).partition("/")
    return Machine(name, _host(host), _host(peer_host or host))


def _host(text: str) -> str:
    host = text.removeprefix("[").removesuffix("]")
    if not _HOST.fullmatch(host) and not _numbers(host):
        raise ConfigError(
            f"{text!r} is no host", cause="it is an IP address or a name, without port", cure="ports are changed in server.toml"
        )
    return host


def _numbers(host: str) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return ()


def check_name(name: str) -> None:
    """Refuse what cannot name a server."""
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigError(
            f"{name!r} cannot name a server",
            cause=f"it appears in logs, tables and file names: {NAME_CURE}",
            cure="give name and host apart: a=10.0.7.11 b=10.0.7.12",
        )


def single_machine_pair(names: tuple[str, str], port_base: int) -> tuple[Machine, Machine]:
    """Two servers on loopback: clients on base and base + 1, peer ports on base + 10 and base + 20, LAN path on 127.0.0.2."""
    loopback = "127.0.0.1"
    first, second = (
        Machine(name, loopback, loopback, client_port=port_base + n, peer_port=port_base + 10 * (n + 1), lan_host="127.0.0.2")
        for n, name in enumerate(names)
    )
    return first, second


def write(plan: Plan) -> Path:
    """Make the directory; returns the path of its server.toml."""
    if plan.primary.name == plan.secondary.name:
        raise ConfigError(
            f"both servers are called {plan.primary.name}", cause="names tell them apart", cure="zmqha init edge-a edge-b"
        )
    target = plan.directory.absolute()
    if target.exists():
        raise OperationFailed(
            f"{target} exists already",
            cause="keys and cluster id of a running pair must not be overwritten",
            cure="name another directory with --dir, or move that one away yourself",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # 0700
    except OSError as error:
        error.filename = str(target)  # what was asked for, not the draft
        raise
    try:
        _fill(draft, plan)
        _check(draft, plan)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return target / "server.toml"


def context_url(plan: Plan, *, server_key: str, key_file: Path) -> str:
    """The URL with which a client of this pair connects."""
    hosts = ",".join(f"{_bracketed(machine.host)}:{machine.client_port}" for machine in plan.machines)
    options = (
        f"?curve_server_key={quote(server_key, safe='')}&curve_key_file={quote(str(key_file), safe='/')}" if plan.curve else ""
    )
    return f"zmqha://{hosts}{options}"


def _fill(draft: Path, plan: Plan) -> None:
    server_key, client_key = _pair(draft / "cluster", "client_port"), _pair(draft / "client", "client")
    peer_keys = {machine.name: _pair(draft / machine.name, "peer") for machine in plan.machines}
    _private(draft / "cluster" / "secret", secrets.token_hex(32) + "\n")
    (draft / "server.toml").write_text(_server_toml(plan, client_key, peer_keys), encoding="utf-8")
    url = context_url(plan, server_key=server_key, key_file=Path("client.key_secret"))
    context = f"# A context of zmqha: `zmqha context add {plan.cluster} FILE`. The key file counts from this directory.\n"
    (draft / "client" / "context.toml").write_text(f"{context}url = {_text(url)}\n", encoding="utf-8")


class _NoNetwork:
    """Knows addresses only, asks nobody: the same answer on every machine."""

    here = False

    def resolve(self, host: str) -> tuple[str, ...]:
        return _numbers(host)

    def source_for(self, address: str) -> str:
        return ""


def _check(draft: Path, plan: Plan) -> None:
    try:
        for machine in plan.machines:
            environ = {} if plan.gateway_addresses else _STAND_IN
            load(draft / "server.toml", machine.name, environ=environ, network=_NoNetwork())
    except ConfigError as error:
        what = error.what.replace(f"{draft}/", "")  # nobody will find it there
        raise ConfigError(what, cause=error.cause, cure=error.cure) from error


def _pair(directory: Path, name: str) -> str:
    """A new CURVE pair; returns its public key."""
    directory.mkdir(mode=0o700)
    public_file, secret_file = zmq.auth.create_certificates(directory, name)
    os.chmod(secret_file, 0o600)  # its directory is closed to others since before it was written
    return zmq.auth.load_certificate(public_file)[0].decode()


def _private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _server_toml(plan: Plan, client_key: str, peer_keys: dict[str, str]) -> str:
    blocks = "\n".join(
        _server_block(plan, machine, role, peer_keys[machine.name])
        for machine, role in zip(plan.machines, ("primary", "secondary"), strict=True)
    )
    gateways = ", ".join(_text(address) for address in plan.gateway_addresses)
    single = "true    # both servers on one machine: for trying out, never for work" if plan.single_machine else "false"
    return f"""\
# zmqha: one file for both machines. Each starts its own block: zmqha server --config FILE --name NAME
# Every setting with its meaning: docs/operations.md. Check a change with: zmqha config check FILE

[cluster]
name = {_text(plan.cluster)}
id = "{secrets.token_hex(8)}"
single_machine = {single}
secret_file = "cluster/secret"
on_divergence = "merge"
resume_alone = "safe"

[gateway]   # who is asked, when the peer is lost, whether this machine still has its network: the LAN's router
kind = {_text(plan.gateway_kind)}
addresses = [{gateways}]

[security]
curve = {"true" if plan.curve else "false"}
client_port_key_file = "cluster/client_port.key_secret"
client_keys = [{_text(client_key)}]

[log]
level = "info"
format = "text"

{blocks}"""


def _server_block(plan: Plan, machine: Machine, role: str, public_key: str) -> str:
    lan = f'lan = "{machine.lan_host}"   # second heartbeat path\n' if machine.lan_host else ""
    return f"""\
[server.{machine.name}]
role = "{role}"
data_dir = {_text(f"{plan.data_dir}/{machine.name}")}
client = {_text(f"{_bracketed(machine.host)}:{machine.client_port}")}
peer = {_text(f"{_bracketed(machine.peer_host)}:{machine.peer_port}")}   # on the peer link; the next port carries the copy
{lan}peer_key_file = "{machine.name}/peer.key_secret"
peer_public_key = {_text(public_key)}
"""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _text(value: str) -> str:
    return '"' + "".join(_TOML_ESCAPES.get(character, character) for character in value) + '"'
