"""The two stores of a stopped pair, compared offline on copies: structure, records, position."""

import shutil
import tempfile
from pathlib import Path

import lmdb
import lmdb.verify

from tests.system.pair import Pair
from zmqha.core.position import Position
from zmqha.store import lmdb_store
from zmqha.store.node_state import STATE_FILE, NodeState
from zmqha.store.page_file import STORE_FILE
from zmqha.store.replica import Replica

SEGMENT_BYTES = 8 << 20

Records = dict[str, dict[bytes, bytes]]


def dump(file: Path) -> Records:
    """Every key and value of all databases. Only of a copy: LMDB writes a lock file beside it."""
    env = lmdb_store.open_environment(file, map_bytes=1 << 30, readonly=True)
    try:
        names = (b"log", b"parts", b"state")
        bases = {name: env.open_db(name, create=False) for name in names}
        with env.begin() as txn:
            return {name.decode(): dict(txn.cursor(db=bases[name])) for name in names}
    finally:
        env.close()


def assert_equal_offline(pair: Pair, active: str) -> None:
    """With both servers stopped at an equal position: the passive's store after its journal's replay is sound and the same."""
    passive = "b" if active == "a" else "a"
    assert not pair["a"].running and not pair["b"].running
    with tempfile.TemporaryDirectory(prefix="zmqha-offline-") as place:
        copies = {}
        for name in ("a", "b"):
            copies[name] = Path(place) / name
            shutil.copytree(pair[name].data, copies[name], ignore=shutil.ignore_patterns("*.lock", "*-lock", "server.lock"))
        replayed(copies[passive])
        for name, directory in copies.items():
            problems = lmdb.verify.verify(str(directory / STORE_FILE), subdir=False)
            assert not problems, f"{name}: {problems[:5]}"
        mine, theirs = dump(copies[active] / STORE_FILE), dump(copies[passive] / STORE_FILE)
        for base in mine:
            different = [key for key in mine[base].keys() | theirs[base].keys() if mine[base].get(key) != theirs[base].get(key)]
            assert not different, f"{len(different)} records of {base} differ, first {sorted(different)[:3]}"


def replayed(directory: Path) -> Position:
    """Replay a passive's journal into its file; where it then stands."""
    replica = Replica.open(directory, SEGMENT_BYTES)
    assert replica is not None, f"no store in {directory}"
    position, ahead = replica.position, replica.ahead
    replica.close()
    assert not ahead, "the passive's file holds what its journal does not know"
    return position


def standing(pair: Pair, name: str) -> str:
    """What a server's node.state says."""
    facts = NodeState(pair[name].data / STATE_FILE).load()
    return str(facts.standing) if facts is not None else ""
