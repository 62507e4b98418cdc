"""The log: what each group commit brought, in parts that LMDB finds room for.

A value of many pages needs as many free ones side by side. While small messages come and go, whatever stays for minutes lies between
the free pages, sooner or later everywhere: LMDB then looks through its whole list for each large value, and makes the file longer.
Measured with 300 small messages a second in a queue of 100,000 and 50 MB more once a minute: with values in one piece the file grew by
50 MB a minute, with parts of 64 KiB by 35 to 52 MB in each of twelve minutes, with commits of 100 to 200 ms in the end. With parts of
two pages it settles at an eighth more than with parts of one, which are slower to handle.

So the database ``log`` holds the head of a value (``core.work``) and the first bytes, by number; what goes beyond PART_BYTES is in
``parts``, by number and part. Who only wants heads reads ``log``. Used by ``lmdb_store`` and ``salvage``.
"""

import struct
from itertools import islice
from typing import Any

import lmdb

from zmqha.core.work import Append
from zmqha.errors import StoreDamaged
from zmqha.store import records

LOG, PARTS = b"log", b"parts"
PART_BYTES = 2 * 4096 - 16  # two pages, with the 16 bytes that LMDB keeps in the first of them
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
        places = enumerate(range(first, len(content), PART_BYTES), 1)
        with self._txn.cursor(db=self._parts) as cursor:
            cursor.putmulti([(_KEY.pack(value, part), content[at : at + PART_BYTES]) for part, at in places], append=True)

    def delete(self, value: int) -> None:
        """Nobody needs it any more. Raises lmdb.Error."""
        self._txn.delete(records.log_key(value), db=self._log)
        with self._txn.cursor(db=self._parts) as cursor:
            parts = self._last_part(cursor, value)
            cursor.set_range(_KEY.pack(value, 0))
            for _ in range(parts - 1):
                cursor.delete()
            if parts:
                self._expect(cursor, value, parts)  # else the first parts of the next value would have gone
                cursor.delete()

    def read(self, value: int, position: int, length: int) -> bytes:
        """Bytes of a value. The transaction has ``buffers``. Raises StoreDamaged if they are not there."""
        raw = self._txn.get(records.log_key(value), db=self._log)
        if raw is None:
            raise StoreDamaged(f"log value {value} is not there")
        end, first = position + length, len(raw)
        if end <= first:
            return bytes(raw[position:end])
        begin, last = max(0, position - first) // PART_BYTES, (end - 1 - first) // PART_BYTES
        pieces = [raw[position:first]] if position < first else []
        with self._txn.cursor(db=self._parts) as cursor:
            found = cursor.set_key(_KEY.pack(value, begin + 1))
            parts = list(islice(cursor.iternext(keys=False), last - begin + 1)) if found else []
            self._expect(cursor, value, last + 1)
        at = first + begin * PART_BYTES
        pieces.append(memoryview(b"".join(parts))[max(0, position - at) : end - at])
        batch = b"".join(pieces)
        if len(batch) != length or any(len(part) != PART_BYTES for part in parts[:-1]):
            raise StoreDamaged(f"log value {value} is shorter than its head says")
        return batch

    @staticmethod
    def _expect(cursor: Any, value: int, part: int) -> None:
        """The cursor has come to this part, or some before it are not there. Raises StoreDamaged."""
        if bytes(cursor.key()) != _KEY.pack(value, part):
            raise StoreDamaged(f"some of the first {part} parts of log value {value} are not there")

    @staticmethod
    def _last_part(cursor: Any, value: int) -> int:
        """Number of the last part of a value; 0 if it has none."""
        found = cursor.prev() if cursor.set_range(_KEY.pack(value + 1, 0)) else cursor.last()
        last, part = _KEY.unpack(cursor.key()) if found else (0, 0)
        return part if last == value else 0
