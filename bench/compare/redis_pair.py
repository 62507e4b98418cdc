"""redis: a primary with one replica, three sentinels that promote the replica, streams with a consumer group.

The quickest sane failover: sentinels look every 500 ms and take 500 ms of silence for a death (as zmqha does). The data of both servers
is in an append-only file; ``always``: flushed before the answer, ``everysec`` (redis' default): once a second.
"""

import contextlib
import shutil
import time
from pathlib import Path

import redis
from load import Recipe

from compare.contestant import CannotCompare, Process, Words, free_ports, wait_for
from compare.redis_load import GROUP, ToRedis, connect

SENTINELS = 3
DOWN_AFTER_MS = 500
FAILOVER_TIMEOUT_MS = 3000
LEADER = "bench"
_PROMISE = {
    "always": "replicated (WAIT 1), on the primary's disk (here: on both)",
    "everysec": "replicated (WAIT 1); on disk up to 1 s later",
}
_ON_DISK = {
    "always": "in the replica's memory (WAIT 1) and on the primary's disk (fsync). Redis promises no more, though this version's "
    "replica answers after its own fsync, too",
    "everysec": "in the replica's memory (WAIT 1); on either disk up to a second later (an fsync per second)",
}


def _words(appendfsync: str) -> Words:
    return Words(
        promise=_PROMISE[appendfsync],
        acknowledged=f"{_ON_DISK[appendfsync]}. After a failover nobody is left to wait for: the new primary's own answer counts",
        settings=f"one replica, appendfsync {appendfsync}, {SENTINELS} sentinels, down-after {DOWN_AFTER_MS} ms (default 30 s)",
        client="redis-py with hiredis: XADD in pipelines (MULTI, EXEC) that end with one WAIT 1; XREADGROUP COUNT, XACK and XDEL in "
        "one round trip",
    )


class RedisPair:
    """Made for one value of ``appendfsync``."""

    appendfsync = "always"
    name = "redis always"
    words = _words(appendfsync)
    errors: tuple[type[Exception], ...] = (redis.RedisError,)

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = free_ports(2 + SENTINELS)
        self._servers = [self._server(number) for number in (0, 1)]
        self._sentinels = [self._sentinel(number) for number in range(SENTINELS)]
        self._killed = -1

    @staticmethod
    def missing() -> str | None:
        return None if shutil.which("redis-server") else "redis-server is not there (Debian: apt-get install redis-server)"

    def start(self) -> None:
        for server in self._servers:
            server.start()
        for number in (0, 1):
            wait_for(lambda number=number: self._answers(number), f"redis {number}", self._servers)  # type: ignore[misc]
        with self._connect(1) as replica:
            replica.replicaof("127.0.0.1", str(self._ports[0]))
        wait_for(lambda: self._in_sync(1), "redis' replica", self._servers)
        for sentinel in self._sentinels:
            sentinel.start()
        wait_for(self._sentinels_agree, "redis' sentinels", self._sentinels)

    def stop(self) -> None:
        for process in (*self._sentinels, *self._servers):
            process.stop()

    def versions(self) -> dict[str, str]:
        with self._connect(self._primary()) as primary:
            return {"redis-server": str(primary.info("server")["redis_version"]), "redis-py": redis.__version__}

    def pids(self) -> dict[str, int]:
        named = [
            *zip(("a", "b"), self._servers, strict=True),
            *((f"sentinel{at}", each) for at, each in enumerate(self._sentinels)),
        ]
        return {name: process.pid for name, process in named if process.running}

    def recipe(self) -> Recipe:
        return ToRedis(tuple(self._ports[2:]), LEADER)

    def make(self, queue: str) -> None:
        with self._connect(self._primary()) as primary:
            primary.xgroup_create(queue, GROUP, id="0", mkstream=True)

    def drop(self, queue: str) -> None:
        with self._connect(self._primary()) as primary:
            primary.unlink(queue)

    def depth(self, queue: str) -> int:
        with self._connect(self._primary()) as primary:
            return int(primary.xlen(queue))

    def kill_leader(self, queue: str) -> None:
        self._killed = self._primary()
        self._servers[self._killed].kill()

    def heal(self) -> None:
        """Started as a replica at once: by itself it would be a second primary until a sentinel notices."""
        wait_for(lambda: self._primary() != self._killed, "redis' failover", self._sentinels)
        survivor = 1 - self._killed
        self._servers[self._killed].stop()
        self._servers[self._killed] = self._server(self._killed, replica_of=self._ports[survivor])
        self._servers[self._killed].start()
        wait_for(lambda: self._in_sync(self._killed), "redis' replica", self._servers)
        wait_for(self._sentinels_agree, "redis' sentinels", self._sentinels)
        time.sleep(FAILOVER_TIMEOUT_MS * 2 / 1000)  # sentinels try no second failover of the same primary sooner

    def _server(self, number: int, replica_of: int = 0) -> Process:
        place = self._directory / f"redis{number}"
        place.mkdir(exist_ok=True)
        settings = {
            "port": self._ports[number], "bind": "127.0.0.1", "dir": place, "save": "", "appendonly": "yes",
            "appendfsync": self.appendfsync, "repl-diskless-sync-delay": 0, "repl-backlog-size": "64mb", "daemonize": "no",
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        words += ["--replicaof", "127.0.0.1", str(replica_of)] if replica_of else []
        return Process(["redis-server", *words], self._directory, f"redis{number}")

    def _sentinel(self, number: int) -> Process:
        port = self._ports[2 + number]
        place = self._directory / f"sentinel{number}"
        place.mkdir()
        lines = (
            f"port {port}", "bind 127.0.0.1", f"dir {place}", f"sentinel monitor {LEADER} 127.0.0.1 {self._ports[0]} 2",
            f"sentinel down-after-milliseconds {LEADER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {LEADER} {FAILOVER_TIMEOUT_MS}",
        )  # fmt: skip
        config = place / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n")
        return Process(["redis-server", config, "--sentinel"], self._directory, f"sentinel{number}")

    def _connect(self, number: int) -> redis.Redis:
        return connect(self._ports[number])

    def _answers(self, number: int) -> bool:
        with self._connect(number) as server, contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
            return bool(server.ping())
        return False

    def _in_sync(self, number: int) -> bool:
        if not self._answers(number):
            return False
        with self._connect(number) as replica:
            return bool(replica.info("replication").get("master_link_status") == "up")

    def _sentinels_agree(self) -> bool:
        """Each knows the same primary, its replica and the other sentinels."""
        states = []
        for port in self._ports[2:]:
            with connect(port) as sentinel, contextlib.suppress(redis.ConnectionError):
                states.append(sentinel.sentinel_master(LEADER))
        whole = [state for state in states if state["num-slaves"] == 1 and state["num-other-sentinels"] == SENTINELS - 1]
        return len(whole) == SENTINELS and len({state["port"] for state in whole}) == 1 and all(map(_is_calm, whole))

    def _primary(self) -> int:
        """The number of the server that is primary and runs, as it says itself."""
        for number, server in enumerate(self._servers):
            if server.running and self._answers(number):
                with self._connect(number) as asked:
                    if asked.info("replication")["role"] == "master":
                        return number
        if self._killed >= 0:
            return self._killed
        raise CannotCompare("no redis server is primary")


class RedisEverysec(RedisPair):
    """The same, flushed once a second."""

    appendfsync = "everysec"
    name = "redis everysec"
    words = _words(appendfsync)


def _is_calm(state: dict[str, object]) -> bool:
    return state["is_master"] is True and not any(state[f"is_{what}"] for what in ("sdown", "odown"))
