"""What an active sends to the one that copies and follows it, damaged on the way: caught, or without effect.

The stream is a real one, recorded once: a full copy, then shipments, as the frames of the bulk socket. An input is a list of damages.
The passive behind it is the real one too (``core.follower``, ``store.copy_target``, ``store.replica``) on files in memory.

::

    damage = u8 message, u8 frame, u16 offset, u8 what      what 0: cut there, else: xor with it
             message + 0x80: the sum of its first frame is put right afterwards, as by a peer that is wrong itself
             frame + 0x80: the offset is a share of the frame
"""

import random
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import xxhash

from tests.fuzz.decoders import CLUSTER, MINE, PEER
from zmqha.core import peer_protocol, shipment
from zmqha.core.actions import Journal, TakeCopy
from zmqha.core.contact import Contact
from zmqha.core.contact import Path as Way
from zmqha.core.follower import Follower
from zmqha.core.peer_protocol import Bulk, CopyBegin, CopyEnd, CopyPages, CopyRound, Held, Piece, decode_bulk, encode
from zmqha.core.position import Position
from zmqha.core.timers import Timers
from zmqha.errors import ProtocolError, StoreFull
from zmqha.store.copy_target import CopyTarget
from zmqha.store.page_file import STORE_FILE
from zmqha.store.replica import Replica

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from source_store import Contents, SourceStore, contents, contents_of

SEGMENT_BYTES = 64 * 1024
DAMAGE = struct.Struct("<BBHB")
DAMAGES_MAX = 4
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # thousands of flushes: not on a disk


class Stream(NamedTuple):
    """Bulk messages in order, where they lead, and what the store then holds."""

    messages: list[list[bytes]]
    end: Position
    contents: Contents


@cache
def stream() -> Stream:
    """A copy of a small store in two frames, two shipments, one of them in two pieces."""
    with tempfile.TemporaryDirectory(prefix="zmqha-stream-", dir=MEMORY) as place:
        source = SourceStore(Path(place) / "source", 5, large=3000)
        for _ in range(4):
            source.commit()
        messages = _copy(source)
        shipped = 0
        while shipped < 3:
            for ship in source.commit():
                shipped += 1
                messages += _pieces(ship)
        found = Stream(messages, source.position, contents(source.env))
        source.close()
        return found


def _copy(source: SourceStore) -> list[list[bytes]]:
    size, runs = source.meta.psize, source.reader.live_runs(source.meta)
    half = len(runs) // 2
    parts: list[list[bytes]] = []
    sent = 0
    for some in (runs[:half], runs[half:]):
        pages = source.reader.read_runs(some, size)
        sent += len(pages)
        parts.append([encode(CopyPages(PEER, MINE, tuple(some), xxhash.xxh3_64_intdigest(pages))), pages])
    begin = CopyBegin(PEER, MINE, 1, size, sent // size)
    end = CopyEnd(PEER, MINE, source.position, source.meta.body, sent)
    return [[encode(begin)], *parts, [encode(end)]]


def _pieces(ship: shipment.Shipment) -> list[list[bytes]]:
    return [
        [encode(Piece(PEER, MINE, chunk.position, chunk.index, chunk.count)), chunk.head, chunk.piece]
        for chunk in shipment.chunks(ship)
    ]


class Passive:
    """Takes bulk messages as a server's store thread does, flushing at the end."""

    def __init__(self, directory: Path) -> None:
        contact = Contact(CLUSTER, "b", MINE, [Way()], peer_session=PEER)
        self.follower = Follower(Timers(), contact)
        self.follower.start(MINE, PEER, Held(), 1000)
        self.target = CopyTarget(directory, SEGMENT_BYTES)
        self.replica: Replica | None = None

    def hear(self, frames: list[bytes]) -> None:
        """One message; raises ProtocolError for what is refused."""
        message: Bulk = decode_bulk(frames[0])
        self.follower.hear(message, tuple(frames[1:]), 1000)
        for action in self.follower.take_actions():
            match action:
                case TakeCopy(CopyBegin() as begin):
                    self._close_replica()
                    self.target.begin(begin.page_size, begin.way)
                case TakeCopy(CopyPages() as pages, payload):
                    self.target.pages(pages.runs, payload, pages.digest)
                case TakeCopy(CopyRound() as end):
                    self.target.adopt(end.position, end.meta, end.copied_bytes).close()
                    self.target.go_on()
                case TakeCopy(CopyEnd() as end):
                    self.replica = self.target.adopt(end.position, end.meta, end.copied_bytes)
                case Journal(chunk) if self.replica is not None:
                    self.replica.take(chunk)

    def stand(self) -> Position | None:
        """Where the store stands, flushed and on its own feet; None without one."""
        if self.replica is None:
            return None
        self.replica.settle()
        return self.replica.position

    def close(self) -> None:
        self._close_replica()
        self.target.abandon()

    def _close_replica(self) -> None:
        if self.replica is not None:
            self.replica.close()
            self.replica = None


def damaged(data: bytes) -> tuple[list[list[bytes]], bool]:
    """The stream with the damages that an input names; whether it is damaged on the way, and not by a wrong peer."""
    on_the_way = True
    messages = [list(frames) for frames in stream().messages]
    for at in range(0, min(len(data), DAMAGES_MAX * DAMAGE.size) - DAMAGE.size + 1, DAMAGE.size):
        number, part, offset, what = DAMAGE.unpack_from(data, at)
        frames = messages[(number & 0x7F) % len(messages)]
        frame = bytearray(frames[part % len(frames)])
        if frame:
            where = offset * len(frame) >> 16 if part & 0x80 else offset % len(frame)
            if what:
                frame[where] ^= what
            else:
                del frame[where:]
        frames[part % len(frames)] = bytes(frame)
        if number & 0x80:
            on_the_way = False
            frames[0] = peer_protocol.sealed(frames[0][: -peer_protocol.SUM_BYTES])
    return messages, on_the_way


def replica(data: bytes) -> None:
    """A damaged stream to a passive: if it acknowledges the end of it, its store is the source's."""
    with tempfile.TemporaryDirectory(prefix="zmqha-passive-", dir=MEMORY) as place:
        passive = Passive(Path(place))
        messages, on_the_way = damaged(data)
        try:
            for frames in messages:
                passive.hear(frames)
        except (ProtocolError, StoreFull):
            return
        finally:
            reached = on_the_way and passive.replica is not None and passive.replica.flush() == stream().end
            if reached:
                passive.stand()
            passive.close()
        if reached:
            assert contents_of(Path(place) / STORE_FILE) == stream().contents, "a damaged stream was taken for a sound one"


def seeds() -> list[bytes]:
    """Nothing damaged, and one damage in each frame of each message."""
    chance = random.Random(1)
    found = [b""]
    for number, frames in enumerate(stream().messages):
        for part in range(len(frames)):
            for flag in (0, 0x80):
                found.append(DAMAGE.pack(number | flag, part | 0x80, chance.randrange(1 << 16), 1 << chance.randrange(8)))
    return found


def flips(count: int, chance: random.Random) -> list[bytes]:
    """One bit each, anywhere in the stream: in the small frames as often as in the large ones."""
    found = []
    for _ in range(count):
        number = chance.randrange(len(stream().messages))
        part = chance.randrange(len(stream().messages[number]))
        found.append(DAMAGE.pack(number, part | 0x80 * chance.randrange(2), chance.randrange(1 << 16), 1 << chance.randrange(8)))
    return found
