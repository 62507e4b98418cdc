"""Start, signals, end of a server: everything around the loop of ``node``.

Order at the start matters: the directory is locked; node.state is read and the incarnation raised, durable; the watcher is forked
before the first thread and the first socket; only then come sockets, the store thread, the loop.
"""

import fcntl
import gc
import logging
import os
import signal
import sys
import threading
import time
from queue import Empty, SimpleQueue
from random import SystemRandom
from typing import NamedTuple

from zmqha import __version__
from zmqha.core import death_notice
from zmqha.core.broker import Broker
from zmqha.core.events import Event
from zmqha.core.facts import NodeFacts
from zmqha.core.ha import HA
from zmqha.core.operator import Operator, Pair
from zmqha.core.peer_protocol import Standing
from zmqha.core.service import Service, ServiceSettings
from zmqha.core.space import Space
from zmqha.core.view import Identity
from zmqha.errors import ConfigError, StoreDamaged
from zmqha.server import config as configuration
from zmqha.server import logs
from zmqha.server.config import Config
from zmqha.server.keyring import Keyring, load_keys
from zmqha.server.node import Network, Node, clock_ms, new_context
from zmqha.server.reread import changed_at_runtime, with_runtime_changes
from zmqha.store.node_state import STATE_FILE, NodeState
from zmqha.store.writer import StoreThread
from zmqha.transport.bulk import BulkFollower, BulkSource
from zmqha.transport.clients import Clients
from zmqha.transport.datagrams import Datagrams
from zmqha.transport.gateway import Prober
from zmqha.transport.mailbox import Mailbox
from zmqha.transport.peer_link import PeerLink
from zmqha.transport.reactor import Reactor
from zmqha.transport.security import KeyGate
from zmqha.transport.sockets import Context
from zmqha.transport.watcher import DeathListener, start_watcher, stop_watcher

log = logging.getLogger("zmqha")

SWITCH_INTERVAL_S = 0.0001  # the store thread and the reactor hand the interpreter over several times per message
LOCK = "server.lock"


class Disk(NamedTuple):
    """The locked directory and what node.state says."""

    lock_fd: int
    state: NodeState
    facts: NodeFacts


def main(config: Config) -> int:
    """Run one server until it is told to stop; the exit code. Raises ConfigError before anything is started."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent may have it ignored: then how a probe ended would be lost
    keyring = load_keys(config)
    logs.set_up(config.name, config.log.level, config.log.format)
    disk = open_disk(config)
    watcher = _start_watcher(config, keyring, disk.facts)
    code = _serve(config, keyring, disk)
    if watcher and code == 0:
        stop_watcher(watcher)  # a planned exit; any other end is a death to be reported
    return code


def open_disk(config: Config) -> Disk:
    """Lock the data directory, read node.state, raise the incarnation (T1)."""
    directory = config.own.data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock_fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{directory} is in use", cause="another server has locked it", cure="end that one first, or correct data_dir"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot use {directory}", cause=error.strerror or str(error), cure="give the server's user this directory"
        ) from error
    state = NodeState(directory / STATE_FILE)
    # Above every earlier one even if the disk was replaced: the peer ignores sessions older than the newest it has met.
    wall_s = int(time.time())
    try:
        facts = state.load() or NodeFacts(config.cluster.id, config.name)
    except StoreDamaged as error:
        kept = state.set_aside()
        log.error("state.damaged", extra={"fields": (("why", error.what), ("kept", kept))})
        facts = NodeFacts(config.cluster.id, config.name, standing=Standing.BEHIND, reason="node.state was damaged")
    if (facts.cluster_id, facts.node_id) != (config.cluster.id, config.name):
        raise ConfigError(
            f"{directory} belongs to server {facts.node_id} of cluster {facts.cluster_id}",
            cause=f"this is {config.name} of cluster {config.cluster.id}",
            cure="correct data_dir or --name; never copy a data directory from one server to the other",
        )
    facts = facts._replace(incarnation=max(facts.incarnation + 1, wall_s))
    state.save(facts)
    state.mirror()
    return Disk(lock_fd, state, facts)


def _start_watcher(config: Config, keyring: Keyring, facts: NodeFacts) -> int:
    if not config.routes:
        return 0
    notice = death_notice.encode(config.cluster.id, config.name, facts.incarnation, keyring.mac_secret)
    return start_watcher(notice, [(route.there.host, route.there.port) for route in config.routes])


def _serve(config: Config, keyring: Keyring, disk: Disk) -> int:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    mailbox: Mailbox[Event] = Mailbox()
    limits = config.limits
    store = StoreThread(
        config.own.data_dir,
        disk.state,
        config.name,
        limits.journal_segment_bytes,
        mailbox.put,
        limits.scrub_mib_per_s,
        mailbox.put_aside,
    )
    context = new_context()
    try:
        network = open_network(config, keyring, context)
    except BaseException:
        context.destroy(linger=0)
        raise
    reactor = Reactor()
    reactor.catch(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    now_ms = clock_ms()
    broker = build_broker(config, disk.facts, now_ms)
    signals = Signals(config)
    node = Node(broker, network, store, mailbox, reactor, keyring.mac_secret, signals.hear, signals.look)
    for warning in (*config.warnings, *keyring.warnings):
        log.warning("config.warning", extra={"fields": (("what", warning),)})
    fields = (
        ("version", __version__), ("pid", os.getpid()), ("client", config.own.client_bind), ("standing", disk.facts.standing.value),
        ("epoch", disk.facts.epoch.counter), ("incarnation", disk.facts.incarnation),
    )  # fmt: skip
    log.info("server.start", extra={"fields": fields})
    store.start()
    # What exists now lives as long as the process; the collector need not look at it, and long pauses would cost the role (F3).
    gc.collect()
    gc.freeze()
    code = node.run()
    store.stop()
    network.close()
    context.destroy(linger=0)
    return code


def open_network(config: Config, keyring: Keyring, where: Context) -> Network:
    """Every socket, bound. Raises ConfigError naming the port that is taken."""
    gate = None
    if config.security.curve:
        gate = KeyGate(where)
        gate.admit_clients(keyring.client_keys)
        if config.peer is not None:
            gate.admit_peer(keyring.peer_public)
    own, peer_key = keyring.peer_port, keyring.peer_public or None
    clients = Clients(where, [config.own.client_bind.tcp], keyring.client_port)
    routes = config.routes
    if not routes:
        return Network(gate, clients, (), [], None, None, None, None)
    primary = config.own.primary
    links = [
        PeerLink(
            where, (route.here if primary else route.there).tcp, binds=primary, path_name=route.name, keys=own, peer_key=peer_key
        )
        for route in routes
    ]
    source = BulkSource(where, [route.here.bulk.tcp for route in routes], own)
    listener = DeathListener([(route.here.host, route.here.port) for route in routes])
    follower = BulkFollower(where, own, peer_key)
    datagrams = Datagrams([(route.there.host, route.there.port) for route in routes])
    return Network(gate, clients, routes, links, source, follower, listener, open_prober(config), datagrams)


def open_prober(config: Config) -> Prober:
    """What asks the gateway."""
    gateway = config.gateway
    return Prober(
        gateway.addresses,
        kind=gateway.kind,
        command=gateway.command.replace("{source}", config.probe_source),
        timeout_ms=config.timers.probe_timeout_ms,
    )


def build_broker(config: Config, facts: NodeFacts, now_ms: int) -> Broker:
    """The core machine of this configuration."""
    identity = Identity(
        cluster_id=config.cluster.id,
        node_id=config.name,
        peer_id=config.peer.name if config.peer else "",
        primary=config.own.primary,
        client_endpoint=str(config.own.client),
        paths=max(1, len(config.routes)),
        resume_alone=config.cluster.resume_alone == "available",
        merges=config.cluster.on_divergence == "merge",
    )
    ha = HA(identity, config.timers, facts, SystemRandom(), now_ms, gateway=config.peer is not None)
    pair = Pair(
        name=config.cluster.name,
        cluster_id=config.cluster.id,
        single_machine=config.cluster.single_machine,
        version=__version__,
        endpoint=str(config.own.client),
        peer_endpoint=str(config.peer.client) if config.peer else "",
        gateway_kind=config.gateway.kind if config.peer else "none",
        gateways=config.gateway.addresses if config.peer else (),
    )
    return Broker(
        ha,
        Service(service_settings(config)),
        Operator(pair),
        Space(config.limits.disk_reserve_bytes, config.limits.store_max_bytes),
    )


def service_settings(config: Config) -> ServiceSettings:
    """What the messaging core takes from the configuration."""
    return ServiceSettings(
        server=config.name,
        cluster=config.cluster.name,
        endpoints=config.endpoints,
        max_message_bytes=config.limits.max_message_bytes,
        queue_messages=config.limits.queue_max_messages,
        queue_bytes=config.limits.queue_max_bytes,
        sessions=config.limits.sessions_max,
        cache_bytes=config.limits.cache_bytes,
    )


class Signals:
    """SIGTERM and SIGINT: hand over and leave. SIGHUP: read the configuration again, beside the loop: resolving names may wait."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._read: SimpleQueue[Config | ConfigError] = SimpleQueue()
        self._reading = self._wanted = False  # one reads at a time: of two files the older must not be applied last

    def hear(self, node: Node, number: int, now_ms: int) -> None:
        """Called by the loop, never from a handler."""
        if number == signal.SIGHUP:
            self._wanted = True
            self._read_if_wanted()
        else:
            name = signal.Signals(number).name
            node.broker.ha.leave(f"stopped by {name}", now_ms, exit=True)

    def look(self, node: Node) -> None:
        """Called by the loop several times a second: apply what was read."""
        try:
            read = self._read.get_nowait()
        except Empty:
            return
        self._reading = False
        self._read_if_wanted()
        if isinstance(read, ConfigError):
            log.error("config.refused", extra={"fields": (("what", read.what), ("why", read.cause), ("fix", read.cure))})
        else:
            self._apply(node, read)

    def _read_if_wanted(self) -> None:
        if self._wanted and not self._reading:
            self._wanted, self._reading = False, True
            threading.Thread(target=self._load, name="zmqha-reload", daemon=True).start()

    def _load(self) -> None:
        try:
            self._read.put(configuration.load(self.config.path, self.config.name))
        except ConfigError as error:
            self._read.put(error)
        except Exception as error:  # the top of the thread: say it, and let the next SIGHUP read again
            what, cure = f"cannot read {self.config.path}", "nothing changed; zmqha config check FILE shows where it fails"
            self._read.put(ConfigError(what, cause=repr(error), cure=cure))

    def _apply(self, node: Node, new: Config) -> None:
        applied, restart = changed_at_runtime(self.config, new)
        self.config = with_runtime_changes(self.config, new)
        logs.set_level(self.config.log.level)
        node.broker.service.reconfigure(service_settings(self.config))
        node.broker.space.set_limits(self.config.limits.disk_reserve_bytes, self.config.limits.store_max_bytes)
        node.store.scrub.mib_per_s = self.config.limits.scrub_mib_per_s
        if any(change.startswith("gateway.") for change in applied) and node.network.prober is not None:
            node.network.prober.close()
            node.network.prober = open_prober(self.config)
            node.broker.operator.pair = node.broker.operator.pair._replace(gateways=self.config.gateway.addresses)
        fields = (("applied", "; ".join(applied) or "nothing"), ("needs_restart", "; ".join(restart) or "nothing"))
        log.info("config.reload", extra={"fields": fields})
