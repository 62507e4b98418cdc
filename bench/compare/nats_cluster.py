"""NATS JetStream: a cluster of three, streams on file with three replicas, work-queue retention, explicit acknowledgements.

This version flushes its files every two minutes and has no setting to do so for each message. Its election timers (4 to 9 s without a
heartbeat) are constants of the server: nothing to tune for failover. Clients connect to the server that leads their stream.
"""

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import nats.errors
from load import Recipe
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError
from nats.js.errors import Error as JetStreamError

from compare.contestant import CannotCompare, Process, Words, free_ports, wait_for
from compare.nats_load import CONSUMER, ToNats

NODES = 3
ACK_PENDING_MAX = 100_000  # no limit is measured here; the default of 1,000 would be one with 4 consumers
READY_S = 30.0
Result = TypeVar("Result")


class NatsCluster:
    """Three servers."""

    name = "nats"
    errors: tuple[type[Exception], ...] = (
        nats.errors.Error,
        JetStreamError,
    )
    words = Words(
        promise="replicated (2 of 3); on disk up to 2 min later",
        acknowledged="written by two of three servers (raft), not flushed: their files are flushed every two minutes",
        settings="JetStream R3 on file, work queue; election timers are constants (4 to 9 s)",
        client="nats-py: publish_async with a window; overlapping pull requests, one acknowledgement a message",
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ports = free_ports(2 * NODES)
        self._ports, self._routes = ports[:NODES], ports[NODES:]
        self._servers = [self._server(number) for number in range(NODES)]
        self._killed = -1

    @staticmethod
    def missing() -> str | None:
        return None if shutil.which("nats-server") else "nats-server is not there (Debian: apt-get install nats-server)"

    def start(self) -> None:
        for server in self._servers:
            server.start()
        wait_for(self._is_whole, "nats' cluster", self._servers)

    def stop(self) -> None:
        for server in self._servers:
            server.stop()

    def versions(self) -> dict[str, str]:
        async def ask(client: Client) -> str:
            return re.sub("[^0-9.]", "", str(client.connected_server_version))

        return {"nats-server": self._ask(ask), "nats-py": version("nats-py")}

    def pids(self) -> dict[str, int]:
        return {f"n{number}": server.pid for number, server in enumerate(self._servers) if server.running}

    def recipe(self) -> Recipe:
        return ToNats(tuple(self._ports))

    def make(self, queue: str) -> None:
        stream = StreamConfig(
            name=queue, subjects=[queue], retention=RetentionPolicy.WORK_QUEUE, storage=StorageType.FILE, num_replicas=NODES
        )
        consumer = ConsumerConfig(durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=ACK_PENDING_MAX)

        async def make(client: Client) -> None:
            await client.jetstream().add_stream(stream)
            await client.jetstream().add_consumer(queue, consumer)

        self._ask(make)

    def drop(self, queue: str) -> None:
        async def drop(client: Client) -> bool:
            return await client.jetstream().delete_stream(queue)

        self._ask(drop)

    def depth(self, queue: str) -> int:
        async def ask(client: Client) -> int:
            return (await client.jetstream().stream_info(queue)).state.messages

        return self._ask(ask)

    def kill_leader(self, queue: str) -> None:
        async def ask(client: Client) -> str:
            cluster = (await client.jetstream().stream_info(queue)).cluster
            return (cluster.leader or "") if cluster else ""

        leader = self._ask(ask)
        if not leader:
            raise CannotCompare(f"nobody leads {queue}")
        self._killed = int(leader.removeprefix("n"))
        self._servers[self._killed].kill()

    def heal(self) -> None:
        self._servers[self._killed].stop()
        self._servers[self._killed].start()
        wait_for(self._is_whole, "nats' cluster", self._servers)

    def _server(self, number: int) -> Process:
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in self._routes)
        config = self._directory / f"nats{number}.conf"
        config.write_text(
            f"server_name: n{number}\n"
            f"listen: 127.0.0.1:{self._ports[number]}\n"
            f'jetstream {{ store_dir: "{self._directory / f"nats{number}"}", max_file_store: 20G }}\n'
            f"cluster {{ name: bench, listen: 127.0.0.1:{self._routes[number]}, routes: [{routes}] }}\n"
        )
        return Process(["nats-server", "--config", config], self._directory, f"nats{number}")

    def _is_whole(self) -> bool:
        """A stream with three replicas can be made, and all of them are there."""

        async def attempt(client: Client) -> bool:
            stream = client.jetstream(timeout=2)
            name = f"probe{time.monotonic_ns()}"
            found = await stream.add_stream(StreamConfig(name=name, subjects=[name], num_replicas=NODES))
            try:
                while not (found.cluster and found.cluster.replicas and all(each.current for each in found.cluster.replicas)):
                    await asyncio.sleep(0.05)
                    found = await stream.stream_info(name)
            finally:
                await stream.delete_stream(name)
            return True

        try:
            return self._ask(lambda client: asyncio.wait_for(attempt(client), READY_S))
        except (OSError, nats.errors.Error, JetStreamError, APIError, TimeoutError, CannotCompare):
            return False

    def _ask(self, question: Callable[[Client], Awaitable[Result]]) -> Result:
        """With a connection of its own."""

        async def ask() -> Result:
            client = await ToNats(tuple(self._ports)).client()
            try:
                return await question(client)
            finally:
                await client.close()

        return asyncio.run(ask())
