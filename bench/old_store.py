"""Messages written straight into the store of a server that is down: what many small group commits leave behind, in little time.

Through the front door each would wait for both disks, and whatever came meanwhile would share the next one. Here every log value holds
exactly what one small commit brings; many of them share a transaction, which the index that is built from the log does not see.
"""

import shutil
from pathlib import Path

from zmqha.core import limits
from zmqha.core.events import KeptBranch
from zmqha.core.message import batch_of
from zmqha.core.position import Epoch, Position
from zmqha.core.work import Append, DestinationRow
from zmqha.store import lmdb_store, records
from zmqha.store.alive import nobody_waits
from zmqha.store.inspection import inspect
from zmqha.store.page_file import STORE_FILE, PageReader
from zmqha.store.seal import Sealer

PRODUCER = 77
SEGMENT_BYTES = 64 * limits.MIB
VALUES_PER_TRANSACTION = 500


def fill(directory: Path, queue: str, *, messages: int, size: int, each: int) -> int:
    """Append so many messages, ``each`` in one log value, to a new queue; how many values. Nobody may have the store open."""
    found = inspect(directory, SEGMENT_BYTES, KeptBranch, nobody_waits)
    path = directory / STORE_FILE
    env = lmdb_store.open_environment(path, map_bytes=shutil.disk_usage(directory).total & ~0xFFFFF)
    try:
        state, log = (env.open_db(name, create=False) for name in (b"state", b"log"))
        head, _ = lmdb_store.read_head(env, state)
        head = head._replace(chain=found.position.chain)  # of every transaction here: the last one is sealed with what follows
        with env.begin() as txn:
            cursor = txn.cursor(db=log)
            value = records.log_number(cursor.key()) if cursor.last() else 0
            highest = txn.get(records.NUMBER, db=state)
            number = 1 + (records.read_number(highest) if highest is not None else 0)
        values = messages // each
        for begin in range(0, values, VALUES_PER_TRANSACTION):
            with env.begin(write=True) as txn:
                for at in range(begin, min(begin + VALUES_PER_TRANSACTION, values)):
                    batch = batch_of([bytes(size)] * each, producer=PRODUCER, first=1 + at * each, sent_ms=1)
                    content = records.log_value((Append(number, at * each, each, batch),))
                    txn.put(records.log_key(value + 1 + at), content, db=log, append=True)
                row = records.producer_value(values * each, 0)
                txn.put(records.producer_key(number, PRODUCER), row, db=state)
                destination = records.encode_row(DestinationRow(number, queue, 0, 0))
                txn.put(records.row_key(records.DESTINATION, number), destination, db=state)
                txn.put(records.NUMBER, records.encode_row(number), db=state)
                txn.put(records.HEAD, records.encode_row(head), db=state)
    finally:
        env.close()
    _seal(path, found.position.epoch, head.chain)
    return values


def _seal(path: Path, epoch: Epoch, base: bytes) -> None:
    """Make it all durable, and say where the store stands now; ``base``: the chain digest of the transaction before."""
    reader, sealer = PageReader(path), Sealer(path)
    try:
        older, newest = reader.metas()
        sealer.seal(newest, reader.ship(epoch, Position(epoch, older.txnid, base), older, newest).position.chain)
    finally:
        sealer.close()
        reader.close()
