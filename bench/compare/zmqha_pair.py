"""zmqha: the pair of the other benches, with default timers and limits."""

import contextlib
from pathlib import Path

from load import Recipe, ToPair
from pair import Pair, other, pair

import zmqha
from compare.contestant import PREFETCH, Words
from zmqha.errors import ZmqhaError

MESSAGES_MAX = 100_000_000  # no limit is measured here
BYTES_MAX = 1 << 40


class ZmqhaPair:
    """Two servers and a stand-in gateway (which answers in this process)."""

    name = "zmqha"
    errors: tuple[type[Exception], ...] = (ZmqhaError,)
    words = Words(
        promise="replicated, on both disks",
        acknowledged="replicated and on both disks (fdatasync on each); alone after a fault: on the disk of the one that is left",
        settings="two servers, defaults; what a client sends again is recognised",
        client="zmqha's own: send_nowait and flush; consume, one acknowledgement a message, sent in ranges",
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._context = contextlib.ExitStack()
        self._lost = ""

    @staticmethod
    def missing() -> str | None:
        return None

    def start(self) -> None:
        self._pair: Pair = self._context.enter_context(pair(self._directory))
        self._admin = self._context.enter_context(self._pair.connect(name="compare"))

    def stop(self) -> None:
        self._context.close()

    def versions(self) -> dict[str, str]:
        return {"zmqha": zmqha.__version__}

    def pids(self) -> dict[str, int]:
        return {name: server.pid for name, server in self._pair.servers.items() if server.running}

    def recipe(self) -> Recipe:
        return ToPair(self._pair.url, {"prefetch": PREFETCH})

    def make(self, queue: str) -> None:
        self._admin.admin("queue.add", {"name": queue, "max_messages": MESSAGES_MAX, "max_bytes": BYTES_MAX})

    def drop(self, queue: str) -> None:
        self._admin.admin("queue.rm", {"name": queue, "force": True})

    def depth(self, queue: str) -> int:
        return int(self._admin.admin("queue.info", {"name": queue})["messages"])

    def kill_leader(self, queue: str) -> None:
        self._lost = self._pair.active()
        self._pair[self._lost].note_watcher()
        self._pair[self._lost].kill()

    def heal(self) -> None:
        survivor = other(self._lost)
        self._pair.wait(lambda: self._pair.row(survivor).get("state") in ("ACTIVE", "STANDALONE"), "the other serves")
        self._pair[self._lost].make_sure(1.0)
        self._pair.start()
