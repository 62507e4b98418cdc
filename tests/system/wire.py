"""A cable in user space: ``wire.py LEFT RIGHT SETTINGS``. Frames read on one interface leave on the other, as the settings say.

The settings are a JSON file, read again when it changes: ``{"left": {"delay": 100, "jitter": 20, "loss": 0.1, "twice": 0.01,
"corrupt": 0.01}, "right": {}}``; ``left`` is for frames that enter on LEFT. Milliseconds and probabilities. Jitter reorders. Stands
in for netem, which many kernels lack.
"""

import heapq
import itertools
import json
import random
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

ETH_P_ALL = 3
PACKET_OUTGOING = 4  # a frame that we sent ourselves
FRAMES_PER_TURN = 256
LOOK_S = 0.02  # how soon new settings are noticed
HEADERS_BYTES = 54  # Ethernet, IP, TCP: corruption hits what is behind


class Wire:
    """Two ends and the frames under way."""

    def __init__(self, left: str, right: str, settings: Path) -> None:
        self._ends = {"left": _open(left), "right": _open(right)}
        self._settings_file = settings
        self._stamp = 0
        self._settings: dict[str, dict[str, float]] = {}
        self._under_way: list[tuple[float, int, str, bytes]] = []  # (due, number, side where it leaves, frame)
        self._numbers = itertools.count()

    def run(self) -> None:
        """For ever."""
        looked = 0.0
        while True:
            now = time.monotonic()
            if now - looked >= LOOK_S:
                looked = now
                self._look()
            due = self._under_way[0][0] - now if self._under_way else LOOK_S
            readable, _, _ = select.select(list(self._ends.values()), [], [], max(0.0, min(LOOK_S, due)))
            for side, end in self._ends.items():
                if end in readable:
                    self._take(side, end)
            self._deliver()

    def _look(self) -> None:
        try:
            stamp = self._settings_file.stat().st_mtime_ns
            if stamp != self._stamp:
                self._settings = json.loads(self._settings_file.read_text())
                self._stamp = stamp
        except (OSError, ValueError):
            pass  # being written: the next look will do

    def _take(self, side: str, end: socket.socket) -> None:
        out = "right" if side == "left" else "left"
        settings = self._settings.get(side, {})
        for _ in range(FRAMES_PER_TURN):
            try:
                frame, (_, _, kind, *_) = end.recvfrom(65_600)
            except BlockingIOError:
                return
            if kind == PACKET_OUTGOING or _happens(settings, "loss"):
                continue
            if _happens(settings, "corrupt"):
                frame = _corrupted(frame)
            for _ in range(2 if _happens(settings, "twice") else 1):
                delay_ms = settings.get("delay", 0) + random.random() * settings.get("jitter", 0)
                heapq.heappush(self._under_way, (time.monotonic() + delay_ms / 1000, next(self._numbers), out, frame))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            _, _, out, frame = heapq.heappop(self._under_way)
            try:
                self._ends[out].send(frame)
            except OSError:
                pass  # no carrier, or its queue is full: lost, as on a wire


def _open(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    end.bind((interface, 0))
    end.setblocking(False)
    return end


def _happens(settings: dict[str, float], what: str) -> bool:
    probability = settings.get(what, 0)
    return probability > 0 and random.random() < probability


def _corrupted(frame: bytes) -> bytes:
    at = random.randrange(min(HEADERS_BYTES, len(frame) - 1), len(frame))
    return frame[:at] + bytes([frame[at] ^ (1 << random.randrange(8))]) + frame[at + 1 :]


def write_settings(file: Path, **sides: dict[str, Any]) -> None:
    """The settings as a whole, never half of them."""
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(sides))
    draft.replace(file)


if __name__ == "__main__":
    Wire(sys.argv[1], sys.argv[2], Path(sys.argv[3])).run()
