"""RabbitMQ: three nodes, quorum queues with a replica on each, publisher confirms, explicit acknowledgements.

A quorum queue flushes its log before it confirms. Everything that a node would share with others of this machine (name, cookie, epmd,
home, plugins) is the bench's own. Failover needs no tuning here: a killed node closes its connections, and the others elect at once.
"""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pika.exceptions
from load import Recipe

from compare.contestant import CannotCompare, Process, Words, free_ports, wait_for
from compare.rabbit_load import ToRabbit, parameters

NODES = 3
READY_S = 90.0
QUORUM = {"x-queue-type": "quorum", "x-queue-leader-locator": "client-local"}
_ERRORS = (pika.exceptions.AMQPError, OSError)


class RabbitCluster:
    """Three nodes and an epmd."""

    name = "rabbitmq"
    errors: tuple[type[Exception], ...] = (pika.exceptions.AMQPError,)
    words = Words(
        promise="replicated (2 of 3), on 2 disks",
        acknowledged="on the disks of two of three nodes (raft, fsync on each)",
        settings="quorum queue of three, defaults",
        client="pika's SelectConnection: confirms with a window; prefetch, acknowledgements of many at once",
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ports = free_ports(2 * NODES + 1)
        self._ports, self._distribution, self._epmd_port = ports[:NODES], ports[NODES:-1], ports[-1]
        self._epmd = Process(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], directory, "epmd")
        (directory / ".erlang.cookie").write_text("ZMQHABENCHCOMPARE")
        (directory / ".erlang.cookie").chmod(0o400)
        (directory / "enabled_plugins").write_text("[].\n")
        self._nodes = [self._node(number) for number in range(NODES)]
        self._leader = 0  # of the queues made from now on
        self._killed = -1

    @staticmethod
    def missing() -> str | None:
        found = shutil.which("rabbitmq-server") and shutil.which("epmd")
        return None if found else "rabbitmq-server is not there (Debian: apt-get install rabbitmq-server)"

    def start(self) -> None:
        """The first node makes the cluster, the others then join it."""
        self._epmd.start()
        wait_for(lambda: _listens(self._epmd_port), "epmd", [self._epmd])
        for group in (self._nodes[:1], self._nodes[1:]):
            for node in group:
                node.start()
            for number in range(NODES):
                if self._nodes[number] in group:
                    self._wait_for_node(number)
        wait_for(self._is_whole, "rabbitmq's cluster", self._nodes, READY_S)

    def stop(self) -> None:
        for process in (*self._nodes, self._epmd):
            process.stop()

    def versions(self) -> dict[str, str]:
        with self._connected() as connection:
            properties = connection._impl.server_properties
            return {
                "rabbitmq-server": str(properties["version"]),
                "erlang": str(properties["platform"]),
                "pika": pika.__version__,
            }

    def pids(self) -> dict[str, int]:
        return {f"r{number}": node.pid for number, node in enumerate(self._nodes) if node.running}

    def recipe(self) -> Recipe:
        return ToRabbit(tuple(self._ports))

    def make(self, queue: str) -> None:
        """Led by the node that is asked: the one to which load connects first."""
        with self._connected() as connection:
            connection.channel().queue_declare(queue, durable=True, arguments=QUORUM)

    def drop(self, queue: str) -> None:
        with self._connected() as connection:
            connection.channel().queue_delete(queue)

    def depth(self, queue: str) -> int:
        """Ready ones; those that a consumer had come back when its connection is closed, a moment later."""
        with self._connected() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)

    def kill_leader(self, queue: str) -> None:
        self._killed = self._first_running()
        self._nodes[self._killed].kill()

    def heal(self) -> None:
        self._nodes[self._killed].stop()
        self._nodes[self._killed].start()
        self._wait_for_node(self._killed)
        wait_for(self._is_whole, "rabbitmq's cluster", self._nodes, READY_S)

    def _node(self, number: int) -> Process:
        place = self._directory / f"rabbit{number}"
        place.mkdir()
        peers = "".join(f"cluster_formation.classic_config.nodes.{at + 1} = {_name(at)}\n" for at in range(NODES))
        config = place / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._ports[number]}\n"
            f"cluster_formation.peer_discovery_backend = classic_config\n{peers}"
            "log.file.level = warning\nlog.console = true\nlog.console.level = warning\n"
        )
        environment = {
            "HOME": self._directory, "ERL_EPMD_PORT": self._epmd_port, "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": _name(number), "RABBITMQ_DIST_PORT": self._distribution[number],
            "RABBITMQ_NODE_PORT": self._ports[number], "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": place, "RABBITMQ_LOG_BASE": place, "RABBITMQ_CONFIG_FILE": config,
            "RABBITMQ_ENABLED_PLUGINS_FILE": self._directory / "enabled_plugins", "RABBITMQ_CONF_ENV_FILE": place / "none",
            "RABBITMQ_ALLOW_INPUT": "1",  # the script then becomes the node instead of its parent
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -noinput",
        }  # fmt: skip
        return Process([_script()], self._directory, f"rabbit{number}", {name: str(value) for name, value in environment.items()})

    def _wait_for_node(self, number: int) -> None:
        wait_for(lambda: self._answers(number), f"rabbitmq node {number}", [self._nodes[number]], READY_S)

    def _answers(self, number: int) -> bool:
        try:
            with pika.BlockingConnection(parameters(self._ports[number])) as connection:
                return bool(connection.is_open)
        except _ERRORS:
            return False

    def _is_whole(self) -> bool:
        """A quorum queue made now gets all its members: only then does it survive."""
        try:
            with self._connected() as connection:
                channel, name = connection.channel(), f"probe{time.monotonic_ns()}"
                channel.queue_declare(name, durable=True, arguments={**QUORUM, "x-quorum-initial-group-size": NODES})
                channel.confirm_delivery()
                channel.basic_publish("", name, b"probe", mandatory=True)
                channel.queue_delete(name)
        except _ERRORS:
            return False
        return all(map(self._answers, range(NODES)))

    def _first_running(self) -> int:
        for number, node in enumerate(self._nodes):
            if node.running:
                return number
        raise CannotCompare("no rabbitmq node runs")

    @contextmanager
    def _connected(self) -> Iterator[pika.BlockingConnection]:
        connection = pika.BlockingConnection(parameters(self._ports[self._first_running()]))
        try:
            yield connection
        finally:
            if connection.is_open:
                connection.close()


def _name(number: int) -> str:
    return f"r{number}@localhost"


def _script() -> Path:
    """Debian's command is a wrapper that changes the user and the directory; what it calls stands beside it."""
    found = shutil.which("rabbitmq-server")
    assert found is not None
    beside = Path(found).resolve().parent / "rabbitmq-server"
    return beside if beside.exists() else Path(found)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
