"""The life of an active's store, run as a program under the recording disk shim: ``active_life.py DIRECTORY SEED MODELS``.

Commits at random, flushes each, and writes into the file ``acknowledged`` which transaction must have survived from now on. MODELS
gets a pickle: transaction -> (its position, everything that the store then holds).
"""

import os
import pickle
import random
import sys
from pathlib import Path

import lmdb

from zmqha.core.message import batch_of
from zmqha.core.position import Epoch, Mode, Position
from zmqha.core.work import Append, CursorRow, DestinationRow, ProducerRow, Work
from zmqha.store.lmdb_store import LmdbStore, open_environment

ACKNOWLEDGED = "acknowledged"
COMMITS = 70
Model = tuple[Position, dict[bytes, dict[bytes, bytes]]]


def holds(env: lmdb.Environment) -> dict[bytes, dict[bytes, bytes]]:
    """Every key and value of all databases."""
    bases = {name: env.open_db(name, create=False) for name in (b"log", b"parts", b"state")}
    with env.begin() as txn:
        return {name: dict(txn.cursor(db=base)) for name, base in bases.items()}


def held_by(path: Path) -> dict[bytes, dict[bytes, bytes]]:
    """The same of a file that nobody has open."""
    env = open_environment(path, map_bytes=1 << 30, readonly=True)
    try:
        return holds(env)
    finally:
        env.close()


def work(number: int, chance: random.Random, alive: list[int]) -> Work:
    """A group commit: new batches, cursors that move, values that are done."""
    sizes = [chance.choice((10, 300, 5000, 40_000)) for _ in range(chance.choice((0, 1, 1, 3)))]
    appends = tuple(
        Append(1, number * 100 + at, 1, batch_of([chance.randbytes(size)], producer=7, first=number * 100 + at + 1))
        for at, size in enumerate(sizes)
    )
    gone = tuple(sorted(chance.sample(alive, min(len(alive), chance.choice((0, 0, 1, 5))))))
    for value in gone:
        alive.remove(value)
    if appends:
        alive.append(number)
    return Work(
        number, number if appends else 0, appends, (CursorRow(1, number, (), ()),), (ProducerRow(7, 1, number * 100 + 50),),
        (DestinationRow(1, "q", 0, 0),) if number == 1 else (), (), gone, sum(sizes),
    )  # fmt: skip


def main(directory: Path, seed: int, models_file: Path) -> None:
    """See the module."""
    chance, alive, epoch = random.Random(seed), [], Epoch(1, 11)
    models: dict[int, Model] = {}
    told = os.open(directory / ACKNOWLEDGED, os.O_WRONLY | os.O_CREAT, 0o600)

    def acknowledge(txn: int) -> None:
        os.pwrite(told, txn.to_bytes(8, "little"), 0)

    store = LmdbStore(directory, None)
    for number in range(COMMITS):
        begins = number == 0 or chance.random() < 0.1
        if begins:
            epoch = Epoch(epoch.counter + 1, number)
            store.begin_epoch(epoch, Mode.SOLE if number % 2 else Mode.PAIRED, "a", "why", 0, 0)
        else:
            store.commit(work(number, chance, alive), epoch, 0)
        txn = store.position.txn
        models[txn] = (store.position, holds(store._env))
        store.flush()
        acknowledge(txn)
    store.close()
    models_file.write_bytes(pickle.dumps(models))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
