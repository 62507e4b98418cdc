"""The configuration: one TOML file for both machines, read once, checked whole, then frozen.

``load(path, name)`` says which ``[server.NAME]`` block is the *own* one and which the *peer*'s, makes paths absolute (relative
ones count from the file's directory) and host names numeric, and refuses what cannot be safe on this machine and network.
``ZMQHA_SECTION__KEY`` in the environment overrides one value (``ZMQHA_TIMERS__HEARTBEAT_MS=100``,
``ZMQHA_SERVER__EDGE_A__DATA_DIR=/srv/zmqha``).

Every refusal is a ``ConfigError`` with what, why and cure, and the line in the file (exit code 78). What is legal but unwise is a
sentence in ``Config.warnings``; the server logs them. Key files are read by ``keyring``, not here: the same file must be
checkable on a machine that holds neither server's secrets.
"""

import difflib
import errno
import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from zmqha.core.timers import Timers
from zmqha.server.settings import CLIENT_PORT, PEER_PORT, Cluster, File, Gateway, Limits, Log, Security, ServerBlock
from zmqha.server.settings_check import check
from zmqha.server.settings_file import Source, decode, read

__all__ = [
    "Address",
    "Config",
    "Network",
    "Route",
    "Server",
    "SystemNetwork",
    "load",
    "names",
    "not_here",
]


class Address(NamedTuple):
    """Host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def tcp(self) -> str:
        """As ZeroMQ wants it."""
        return f"tcp://{self}"

    @property
    def bulk(self) -> "Address":
        """The bulk port that belongs to this control port."""
        return Address(self.host, self.port + 1)


class Server(msgspec.Struct, frozen=True):
    """One machine, resolved. Hosts are numeric, except in ``client`` and where a name of the *other* machine did not resolve."""

    name: str
    primary: bool
    data_dir: Path
    client: Address  # as clients are told
    client_bind: Address  # the same, numeric
    peer: Address | None  # control on the peer link, and by UDP death notices; None: no peer configured
    lan: Address | None  # the same on the LAN; None: no second path
    peer_key_file: Path | None
    peer_public_key: str


class Route(NamedTuple):
    """One path between the two servers. The primary binds ``here``, the secondary connects to ``there``."""

    name: str  # "peer" or "lan"
    here: Address
    there: Address


class Config(msgspec.Struct, frozen=True):
    """Everything one server needs to know; parts receive only their branch."""

    path: Path
    cluster: Cluster
    gateway: Gateway
    timers: Timers
    limits: Limits
    security: Security
    log: Log
    own: Server
    peer: Server | None  # None: STANDALONE without gateway
    secret_file: Path | None
    client_port_key_file: Path | None
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The own server's name, which is its node id."""
        return self.own.name

    @property
    def routes(self) -> tuple[Route, ...]:
        """The paths to the peer, the dedicated one first; empty without a peer."""
        if self.peer is None:
            return ()
        pairs = (("peer", self.own.peer, self.peer.peer), ("lan", self.own.lan, self.peer.lan))
        return tuple(Route(name, here, there) for name, here, there in pairs if here and there)

    @property
    def endpoints(self) -> tuple[str, str]:
        """Client endpoints of primary and secondary, as clients are told; "" where there is none."""
        own, other = str(self.own.client), str(self.peer.client) if self.peer else ""
        return (own, other) if self.own.primary else (other, own)

    @property
    def probe_source(self) -> str:
        """The LAN address that gateway probes leave from."""
        return self.own.lan.host if self.own.lan else self.own.client_bind.host


class Network(Protocol):
    """What the checks need to know of this machine's network; tests give their own."""

    here: bool  # is this the machine that will run the server

    def resolve(self, host: str) -> tuple[str, ...]:
        """Numeric addresses of a host, IPv4 first; empty if there are none."""

    def source_for(self, address: str) -> str:
        """The own address that packets to ``address`` leave from ("" without a route); of an own address, itself."""


class SystemNetwork:
    """The real one: asks the resolver and the routing table, sends nothing."""

    def __init__(self, *, here: bool = True) -> None:
        self.here = here

    def resolve(self, host: str) -> tuple[str, ...]:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            return ()
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0])))

    def source_for(self, address: str) -> str:
        if not self.here:
            return ""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
                return str(probe.getsockname()[0])
        except OSError:
            return ""


def not_here(config: Config) -> tuple[str, ...]:
    """Own addresses that this machine does not have now, as warnings: the server would start, and nobody could connect to it."""
    own = config.own
    hosts: dict[str, str] = {}
    for label, address in (("client", own.client_bind), ("peer", own.peer), ("lan", own.lan)):
        if address:
            hosts.setdefault(address.host, label)
    return tuple(
        f"server.{own.name}.{label}: {host} is no address of this machine now"
        for host, label in hosts.items()
        if not _is_own(host)
    )


def _is_own(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def load(path: Path | str, name: str = "", *, environ: Mapping[str, str] | None = None, network: Network | None = None) -> Config:
    """The checked configuration of server ``name``, which may be left out if the file has one server only.

    ``SystemNetwork(here=False)`` checks on a third machine: nothing is asked of the own network.
    """
    source, file = _written(path, environ)
    warnings = check(source, file)
    return _Resolution(source, file, network or SystemNetwork(), warnings).config(name)


def names(path: Path | str, *, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The servers in a file; ``zmqha config check`` loads it as each of them."""
    return tuple(_written(path, environ)[1].server)


def _written(path: Path | str, environ: Mapping[str, str] | None) -> tuple[Source, File]:
    place = Path(path).absolute()
    source = Source(place, read(place))
    return source, decode(source, os.environ if environ is None else environ)


class _Resolution:
    """Turns the file into the configuration of one server; each method refuses one kind of mistake."""

    def __init__(self, source: Source, file: File, network: Network, warnings: tuple[str, ...]) -> None:
        self.source = source
        self.file = file
        self.network = network
        self.warnings = list(warnings)
        self.single = file.cluster.single_machine
        self.paired = len(file.server) > 1

    def config(self, name: str) -> Config:
        """Check everything that needs to know the machine; then the result for ``name``."""
        name = self.chosen(name)
        servers = {label: self.server(label, block, own=label == name) for label, block in self.file.server.items()}
        own = servers.pop(name)
        peer = next(iter(servers.values()), None)
        if peer:
            self.check_apart(own, peer)
        self.check_ports([own, peer] if peer else [own])
        if peer:
            for text in self.file.gateway.addresses:
                self.check_gateway(text, own, peer)
        cluster, security = self.file.cluster, self.file.security
        return Config(
            path=self.source.path,
            cluster=cluster,
            gateway=self.file.gateway,
            timers=self.file.timers,
            limits=self.file.limits,
            security=security,
            log=self.file.log,
            own=own,
            peer=peer,
            secret_file=self.absolute("cluster.secret_file", cluster.secret_file) if cluster.secret_file else None,
            client_port_key_file=self.absolute("security.client_port_key_file", security.client_port_key_file)
            if security.curve
            else None,
            warnings=tuple(dict.fromkeys(self.warnings)),
        )

    def absolute(self, key: str, path: str) -> Path:
        try:
            return (self.source.path.parent / Path(path).expanduser()).resolve()
        except (RuntimeError, ValueError) as error:  # no such home, links in a circle; a zero byte
            self.source.refuse(key, f"{path!r} leads nowhere", why=str(error), cure="write the whole path")

    def chosen(self, name: str) -> str:
        blocks = list(self.file.server)
        if not name and len(blocks) == 1:
            return blocks[0]
        if name not in blocks:
            near = difflib.get_close_matches(name, blocks, n=1, cutoff=0.5)
            self.source.refuse(
                "server",
                f"no server {name!r} in this file" if name else "which of the two servers is this?",
                why="one file serves both machines",
                cure=f"did you mean --name {near[0]}?" if near else "--name " + " or --name ".join(blocks),
            )
        return name

    def server(self, name: str, block: ServerBlock, *, own: bool) -> Server:
        client = self.address(f"server.{name}.client", block.client, CLIENT_PORT)
        peer = lan = None
        if self.paired:
            peer = self.address(f"server.{name}.peer", block.peer, PEER_PORT)
            lan = Address(self.numeric(f"server.{name}.lan", block.lan or client.host, needed=True), peer.port)
            peer = Address(self.numeric(f"server.{name}.peer", peer.host, needed=True), peer.port)
        if lan and lan == peer:
            lan = None
            self.warnings.append(
                f"server.{name}: the LAN address is the peer-link address, so one cable decides: no second heartbeat path"
            )
        return Server(
            name=name,
            primary=block.role == "primary",
            data_dir=self.absolute(f"server.{name}.data_dir", block.data_dir),
            client=client,
            client_bind=Address(self.numeric(f"server.{name}.client", client.host, needed=own), client.port),
            peer=peer,
            lan=lan,
            peer_key_file=self.absolute(f"server.{name}.peer_key_file", block.peer_key_file) if block.peer_key_file else None,
            peer_public_key=block.peer_public_key,
        )

    def address(self, key: str, text: str, port_example: int) -> Address:
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65534:
            self.source.refuse(
                key,
                f"{text!r} is no host:port" if text else "missing",
                why="both are needed, the port from 1 to 65534",
                cure=f'for example "10.0.7.11:{port_example}"',
            )
        return Address(host, int(port))

    def numeric(self, key: str, host: str, *, needed: bool) -> str:
        """The host as a number. Where clients find the other machine is only told on; every address used here must be known."""
        found = self.network.resolve(host)
        if not found and needed and self.network.here:
            self.source.refuse(
                key,
                f"{host!r} cannot be resolved",
                why="servers bind and talk to numbers only: their loop must never wait for a name server",
                cure="write the IP address, or add the name to /etc/hosts on both machines",
            )
        if not found:
            self.warnings.append(f"{key}: {host!r} cannot be resolved here")
            return host
        address = _number(found[0])
        if address.is_unspecified:
            self.source.refuse(
                key,
                f"{host!r} means every interface",
                why="clients and the peer are told this address",
                cure="write one address of this machine",
            )
        if address.is_loopback and not self.single and (self.network.here or found[0] == host):
            alias = f"; {host!r} is {found[0]} here, /etc/hosts often says so of a machine's own name" if host != found[0] else ""
            self.source.refuse(
                key,
                f"{found[0]} is loopback",
                why=f"the other machine cannot reach it{alias}",
                cure="write the IP address; for tests on one machine cluster.single_machine = true",
            )
        return str(address)

    def check_ports(self, servers: list[Server]) -> None:
        taken: dict[Address, str] = {}
        for server in servers:
            named = [("client", server.client_bind)]
            for label, address in (("peer", server.peer), ("lan", server.lan)):
                if address:
                    named += [(label, address), (f"{label} bulk", address.bulk)]
            for label, address in named:
                if address in taken:
                    self.source.refuse(
                        f"server.{server.name}.{label.partition(' ')[0]}",
                        f"{address} is used twice",
                        why=f"it is already {taken[address]}; the bulk port is the peer port + 1, both also on the LAN",
                        cure="give each server its own address, and each port its own number",
                    )
                taken[address] = f"{server.name}'s {label} port"

    def check_apart(self, own: Server, peer: Server) -> None:
        if self.single:
            return
        for host in sorted(_hosts(own) & _hosts(peer)):
            self.source.refuse(
                "server",
                f"both servers have the address {host}",
                why="two servers on one machine die together",
                cure="give each machine its own; for tests on one machine cluster.single_machine = true",
            )
        for address in (peer.client_bind, peer.peer, peer.lan):
            if address and self.is_own(address.host):
                self.source.refuse(
                    f"server.{peer.name}",
                    f"{address.host} belongs to this machine",
                    why=f"--name says that this machine is {own.name}",
                    cure=f"start it with --name {peer.name}, or correct the addresses",
                )

    def check_gateway(self, text: str, own: Server, peer: Server) -> None:
        """Cases 40 and 41 of the protocol: a gateway that answers for the wrong reason is a permission for ever."""
        key, cure = "gateway.addresses", "write the address of the client network's router, on the LAN side"
        host = self.address(key, text, 80).host if self.file.gateway.kind == "tcp" else text
        try:
            number = _number(host)
        except ValueError:
            self.source.refuse(
                key,
                f"{host!r} is no IP address",
                why="names stop working exactly when the network is broken",
                cure="write the router's IP address; see: ip route show default",
            )
        if self.single:
            return
        host = str(number)
        if number.is_loopback or number.is_unspecified:
            self.source.refuse(
                key, f"{host} is this machine (loopback)", why="it always answers: a permission for ever", cure=cure
            )
        if host in _hosts(own) or self.is_own(host):
            self.source.refuse(key, f"{host} is this machine", why="it always answers: a permission for ever", cure=cure)
        if host in _hosts(peer):
            self.source.refuse(
                key, f"{host} is the peer, {peer.name}", why="it is silent exactly when its answer is needed", cure=cure
            )
        if own.peer and own.lan and self.network.source_for(host) == own.peer.host:
            self.source.refuse(
                key,
                f"{host} is reached over the peer link ({own.peer.host})",
                why="one cut cable would take peer and gateway away together",
                cure=cure,
            )

    def is_own(self, host: str) -> bool:
        return self.network.source_for(host) == host


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, whichever way it is written: texts of one address differ. Raises ValueError."""
    number = ipaddress.ip_address(host)
    return (number.ipv4_mapped if number.version == 6 else None) or number


def _hosts(server: Server) -> set[str]:
    addresses: tuple[Any, ...] = (server.client, server.client_bind, server.peer, server.lan)
    return {address.host for address in addresses if address}
