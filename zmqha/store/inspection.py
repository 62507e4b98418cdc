"""A closed store, looked at: what is there, where it stands, whether it can be used; and set aside if it cannot.

Nobody may have the store open. Driven by the store thread.
"""

from collections.abc import Callable
from pathlib import Path

from zmqha.core.events import Inspected, KeptBranch
from zmqha.core.position import NOWHERE
from zmqha.store import lmdb_store, seal
from zmqha.store.delta import DELTA_FILE
from zmqha.store.journal import SEGMENT_FILES
from zmqha.store.node_state import set_aside
from zmqha.store.page_file import LOCK_FILE, STORE_FILE
from zmqha.store.replica import COPY_FILE, Replica


def inspect(directory: Path, segment_bytes: int, kept: Callable[[], KeptBranch], alive: Callable[[], None]) -> Inspected:
    """What is there, once the journal is replayed; ``kept`` says what is kept of it. Raises StoreDamaged, StoreFull."""
    replica = Replica.open(directory, segment_bytes, alive)
    partial = (directory / COPY_FILE).exists()
    if replica is None:
        return Inspected(False, NOWHERE, (), 0, "", partial)
    position, ahead = replica.position, replica.ahead
    replica.close()
    head, lineage = lmdb_store.inspect(directory)
    if ahead:
        position = seal.position(directory / STORE_FILE, head.chain, lineage[-1].epoch)
    return Inspected(True, position, lineage, head.peer_high, "", partial, kept())


def set_store_aside(directory: Path) -> str:
    """Rename everything that is the store, or may be it (a copy or a delta: see ``copy_target``); the new names."""
    kept = [
        str(set_aside(path))
        for name in (STORE_FILE, COPY_FILE, DELTA_FILE, *SEGMENT_FILES)
        if (path := directory / name).exists()
    ]
    (directory / LOCK_FILE).unlink(missing_ok=True)
    return ", ".join(kept)
