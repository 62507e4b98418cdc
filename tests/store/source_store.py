"""A real LMDB store that commits at random, and what each commit ships: the active, for tests of the passive."""

import random
from pathlib import Path
from typing import Any

import lmdb

from zmqha.core.lmdb_page import Meta
from zmqha.core.position import NOWHERE, Epoch, Position
from zmqha.core.shipment import Shipment
from zmqha.store.census import Census
from zmqha.store.page_file import PageReader

EPOCH = Epoch(3, 0xFEDCBA9876543210)
DATABASES: dict[bytes, dict[str, Any]] = {
    b"log": {},
    b"small": {},
    b"numbers": {"integerkey": True},
    b"dup": {"dupsort": True},
    b"fixed": {"dupsort": True, "dupfixed": True},
}
Contents = dict[bytes, list[tuple[bytes, bytes]]]


def open_store(path: Path, *, readonly: bool = False) -> lmdb.Environment:
    return lmdb.open(
        str(path), subdir=False, map_size=1 << 32, max_dbs=16, metasync=False, writemap=False, sync=False,
        lock=not readonly, readonly=readonly, lib_version=0,
    )  # fmt: skip


def contents(env: lmdb.Environment) -> Contents:
    """Everything in every database."""
    found: Contents = {}
    with env.begin() as txn:
        names = [name for name, _ in txn.cursor()]
    handles = {name: env.open_db(name, create=False, **DATABASES[name]) for name in names}
    with env.begin() as txn:
        for name, handle in handles.items():
            found[name] = list(txn.cursor(handle).iternext())
    return found


def contents_of(path: Path) -> Contents:
    env = open_store(path, readonly=True)
    try:
        return contents(env)
    finally:
        env.close()


class SourceStore:
    """``commit`` does one random transaction; ``shipped`` says what it wrote, if it wrote anything."""

    def __init__(self, path: Path, seed: int, *, plain: bool = False, large: int = 20_000) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.env = open_store(path)
        self.reader = PageReader(path)
        self.plain = plain  # only patterns after which lmdb.verify is meaningful
        self.large = large
        self.meta: Meta = self.reader.metas()[0]
        self.position: Position = NOWHERE
        self.held: list[lmdb.Transaction] = []
        self.census: Census | None = None
        self.next_key = 0

    def close(self) -> None:
        self.release()
        if self.census is not None:
            self.census.close()
        self.reader.close()
        self.env.close()

    def hold(self) -> None:
        self.held.append(self.env.begin())

    def count(self) -> Census:
        """Keep the sums of all pages from here on."""
        self.census = Census(self.reader, self.meta)
        return self.census

    def release(self) -> None:
        for txn in self.held:
            txn.abort()
        self.held.clear()

    def commit(self) -> list[Shipment]:
        """One random transaction and its shipment (none if it was aborted or wrote nothing)."""
        self.transact()
        return self.shipped()

    def shipped(self) -> list[Shipment]:
        """What leads from the last shipped snapshot to the newest."""
        new = self.reader.newest()
        if new.txnid == self.meta.txnid:
            return []
        ship = self.reader.ship(EPOCH, self.position, self.meta, new, self.census)
        self.meta, self.position = new, ship.position
        return [ship]

    def transact(self) -> None:
        """One random transaction."""
        draw = self.random.random()
        txn = self.env.begin(write=True)
        try:
            self._change(txn)
            if draw < 0.2:
                self._nested(txn)
        except BaseException:
            txn.abort()
            raise
        if draw > 0.9:
            txn.abort()
        else:
            txn.commit()

    def _nested(self, parent: lmdb.Transaction) -> None:
        txn = self.env.begin(write=True, parent=parent)
        self._change(txn)
        if self.random.random() < 0.5:
            txn.abort()
        else:
            txn.commit()

    def _change(self, txn: lmdb.Transaction) -> None:
        names = [b"log", b"small"] if self.plain else list(DATABASES)
        for name in self.random.sample(names, self.random.randint(1, len(names))):
            handle = self.env.open_db(name, txn, **DATABASES[name])
            if self.random.random() < 0.03:
                txn.drop(handle, delete=False)
            for _ in range(self.random.choice((1, 3, 30))):
                self._operation(txn, handle, name)

    def _operation(self, txn: lmdb.Transaction, handle: Any, name: bytes) -> None:
        draw, rng = self.random.random(), self.random
        if name == b"log":
            self.next_key += 1
            if draw < 0.5:
                txn.put(self.next_key.to_bytes(8, "big"), rng.randbytes(rng.randint(1, self.large)), db=handle)
                return
            cursor = txn.cursor(handle)
            if cursor.first():
                cursor.delete()
            return
        if name == b"numbers":
            key = rng.randint(0, 300).to_bytes(8, "little")
        else:
            key = b"%04d" % rng.randint(0, 40 if name in (b"dup", b"fixed") else 400)
        if draw < 0.3:
            txn.delete(key, db=handle)
        elif name == b"fixed":
            txn.put(key, rng.randbytes(16), db=handle)
        elif name == b"dup":
            txn.put(key, rng.randbytes(rng.randint(1, 300)), db=handle)
        else:
            size = rng.randint(1, 200) if self.plain or draw < 0.9 else rng.randint(1, self.large)
            txn.put(key, rng.randbytes(size), db=handle)
