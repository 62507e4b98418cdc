"""``node.state``: the same record in two slots of 4 KiB; while it is being replaced, the valid one with the higher number counts.

::

    slot   u32 magic "ZNST" | u32 length | u64 number | u64 xxh3_64 of number and value | value (MessagePack of NodeFacts) | zeros

Preallocated and never renamed, so a full disk cannot keep a node from writing down that it gives up its right. One pwrite and one
fdatasync (``save``), and the record counts; a torn write leaves the other slot. The same again into the other slot (``mirror``) when
nobody waits for it: an invalid slot looks the same whether a write was torn or a bit rotted later, and an older record in the other
one would bring back a standing that was given up.

Damaged files are set aside, never deleted, and only when asked. A whole slot that another version wrote is no damage: it is refused and
stays as it is. Driven by the store thread.
"""

import os
import struct
from pathlib import Path

import msgspec
import xxhash

from zmqha.core.facts import NodeFacts
from zmqha.errors import ConfigError, StoreDamaged
from zmqha.store.crash import crash_point
from zmqha.store.page_file import write_all

STATE_FILE = "node.state"
SLOT_BYTES = 4096
_MAGIC = 0x54534E5A
_SLOT = struct.Struct("<IIQQ")
_VALUE_BYTES_MAX = SLOT_BYTES - _SLOT.size
_decoder = msgspec.msgpack.Decoder(NodeFacts)


class NodeState:
    """The durable facts of one node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0  # of the newest record; it went into slot ``number & 1`` first
        self._loaded = False
        self._unmirrored = b""  # what only one slot holds
        self._fd = -1

    def load(self) -> NodeFacts | None:
        """What was last saved; None if the file is absent, or was made and never written to: before the first record there are only
        zeros in it, or nothing.

        Raises StoreDamaged if it is there and says nothing valid, ConfigError if another version of zmqha saved last: an older
        slot does not say what was decided since.
        """
        self._loaded = True
        try:
            slots = self._path.read_bytes()
        except FileNotFoundError:
            return None
        if not any(slots):
            return None
        read = [_read_slot(slots[at : at + SLOT_BYTES]) for at in (0, SLOT_BYTES)]
        found = [slot for slot in read if slot is not None]
        if not found:
            raise StoreDamaged(f"{self._path} holds no valid record", cure="it is set aside; the node copies from its peer")
        number, value = max(found, key=lambda slot: slot[0])
        facts = _facts(self._path, value)
        # The next record goes first where this one is not, or not any more: torn, it must leave this one.
        self._number = number if read[number & 1] == (number, value) else number + 1
        return facts

    def save(self, facts: NodeFacts) -> None:
        """Durable when this returns. ``load`` comes first when the file exists."""
        if self._fd < 0:
            self._open()
        self._number += 1
        crash_point("before_state_write")
        self._unmirrored = _write_slot(self._number, facts)
        self._put(self._number & 1)
        crash_point("after_state_sync")

    def mirror(self) -> None:
        """Give the other slot the newest record too, if it has not got it."""
        if self._unmirrored:
            crash_point("before_state_mirror")
            self._put(1 - self._number & 1)
            self._unmirrored = b""

    def _put(self, slot: int) -> None:
        write_all(self._fd, [memoryview(self._unmirrored)], slot * SLOT_BYTES)
        crash_point("before_state_sync")
        os.fdatasync(self._fd)  # no OSError is StoreFull here: see ``PageWriter.sync``

    def set_aside(self) -> Path:
        """Move a damaged file out of the way and say where to."""
        self.close()
        self._number = 0
        return set_aside(self._path)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._unmirrored = b""

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size >= 2 * SLOT_BYTES:
            assert self._loaded, "load() tells which slot must survive this save"
            return
        missing = os.fstat(self._fd).st_size
        write_all(self._fd, [memoryview(bytes(2 * SLOT_BYTES - missing))], missing)
        os.fdatasync(self._fd)
        sync_directory(self._path.parent)


def set_aside(path: Path) -> Path:
    """Rename to the first free ``.damaged-N``."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    sync_directory(path.parent)
    return target


def sync_file(path: Path) -> None:
    """Make what a file holds durable, whoever wrote it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make creations and renames in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_slot(number: int, facts: NodeFacts) -> bytes:
    value = msgspec.msgpack.encode(facts.bounded())
    assert len(value) <= _VALUE_BYTES_MAX, "every text in the facts is bounded"
    counted = number.to_bytes(8, "little") + value
    return (_SLOT.pack(_MAGIC, len(value), number, xxhash.xxh3_64_intdigest(counted)) + value).ljust(SLOT_BYTES, b"\0")


def _read_slot(slot: bytes) -> tuple[int, bytes] | None:
    """Number and value of a slot that is whole, whoever wrote it."""
    if len(slot) < _SLOT.size:
        return None
    magic, length, number, check = _SLOT.unpack_from(slot)
    value = slot[_SLOT.size : _SLOT.size + length]
    if magic != _MAGIC or len(value) != length or xxhash.xxh3_64_intdigest(slot[8:16] + value) != check:
        return None
    return number, value


def _facts(path: Path, value: bytes) -> NodeFacts:
    try:
        return _decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # msgspec has none of its own for bad UTF-8
        raise ConfigError(
            "node.state was written by another version of zmqha",
            cause=f"{path} is whole, but: {error}",
            cure="start the version that wrote it, or, if the peer serves, start with an empty data directory: it copies from the peer",
        ) from error
