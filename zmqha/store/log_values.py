"""The log: what each group commit brought, in parts that LMDB finds room for.

A value of several MiB in one piece needs so many free pages side by side; after a while of small commits they lie apart, and LMDB looks
through its whole list of free pages and then makes the file longer (measured: 270 ms for one commit, 16 MB a minute that never came
back). So the database ``log`` holds the head of a value (``core.work``) and the first bytes, by number; what goes beyond PART_BYTES is
in ``parts``, by number and part. Who only wants heads reads ``log``. Used by ``lmdb_store`` and ``salvage``.
"""

import struct
from typing import Any

import lmdb

from zmqha.core.work import Append
from zmqha.errors import StoreDamaged
from zmqha.store import records

LOG, PARTS = b"log", b"parts"
PART_BYTES = 64 * 1024 - 16  # sixteen pages of 4 KiB, with the 16 bytes that LMDB keeps in the first of them
_KEY = struct.Struct(">QI")  # value, part from 1


class LogValues:
    """The two databases in one transaction."""

    def __init__(self, txn: lmdb.Transaction, log: Any, parts: Any) -> None:
        self._txn = txn
        self._log = log
        self._parts = parts

    def put(self, value: int, appends: tuple[Append, ...]) -> None:
        """Write the batches of a group commit; ``value`` is higher than all that are there. Raises lmdb.Error."""
        content = memoryview(records.log_value(appends))
        first = max(PART_BYTES, records.head_bytes(len(appends)))
        self._txn.put(records.log_key(value), content[:first], db=self._log, append=True)
        for part, at in enumerate(range(first, len(content), PART_BYTES), 1):
            self._txn.put(_KEY.pack(value, part), content[at : at + PART_BYTES], db=self._parts, append=True)

    def delete(self, value: int) -> None:
        """Nobody needs it any more. Raises lmdb.Error."""
        self._txn.delete(records.log_key(value), db=self._log)
        with self._txn.cursor(db=self._parts) as cursor:
            found = cursor.set_range(_KEY.pack(value, 0))
            while found and _KEY.unpack(cursor.key())[0] == value:
                found = cursor.delete() and bool(cursor.key())

    def read(self, value: int, position: int, length: int) -> bytes:
        """Bytes of a value. The transaction has ``buffers``. Raises StoreDamaged if they are not there."""
        raw = self._txn.get(records.log_key(value), db=self._log)
        if raw is None:
            raise StoreDamaged(f"log value {value} is not there")
        end, first = position + length, len(raw)
        if end <= first:
            return bytes(raw[position:end])
        pieces = [raw[position:first]] if position < first else []
        begin, last = max(0, position - first) // PART_BYTES, (end - 1 - first) // PART_BYTES
        for part in range(begin, last + 1):
            raw = self._txn.get(_KEY.pack(value, part + 1), db=self._parts)
            if raw is None:
                raise StoreDamaged(f"part {part + 1} of log value {value} is not there")
            at = first + part * PART_BYTES
            pieces.append(raw[max(0, position - at) : end - at])
        found = b"".join(pieces)
        if len(found) != length:
            raise StoreDamaged(f"log value {value} is shorter than its head says")
        return found
