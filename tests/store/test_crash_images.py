"""After a power cut or a kill at any moment the passive stands at the last acknowledged transaction or later, and is sound."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tree_diff
from disk_recorder import DiskRecorder
from following import copied, reopened
from source_store import Contents, SourceStore, contents, contents_of

from zmqha.core import lmdb_page, shipment
from zmqha.store.page_file import STORE_FILE
from zmqha.store.replica import Replica

SEGMENT = 96 * 1024
IMAGES_PER_RUN = 80


@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_leaves_the_last_acknowledged_transaction_or_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    recorder, models = _recorded_life(tmp_path, monkeypatch, seed)
    rng = random.Random(1000 + seed)
    found: list[int] = []
    for number in range(IMAGES_PER_RUN):
        target = tmp_path / f"image{number}"
        target.mkdir()
        acknowledged = recorder.image(recorder.cut(rng), rng, target)
        if not acknowledged:
            continue  # the copy was not whole yet
        replica = Replica.open(target, SEGMENT)
        assert replica is not None and not replica.ahead
        assert replica.position.txn >= acknowledged
        _walk(target / STORE_FILE)
        assert contents_of(target / STORE_FILE) == models[replica.position.txn]
        replica.close()
        found.append(replica.position.txn - acknowledged)
    assert len(found) > IMAGES_PER_RUN // 2


def _walk(path: Path) -> None:
    """LMDB itself may end the process on a broken file; find that out first."""
    image = path.read_bytes()
    tree_diff.live_pages(image, lmdb_page.newest_meta(image))


def _recorded_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> tuple[DiskRecorder, dict[int, Contents]]:
    """A passive from its copy on: takes, flushes, applies, switches, settles, restarts; and what each transaction holds."""
    source = SourceStore(tmp_path / "source", seed, large=4000)
    for _ in range(5):
        source.commit()
    directory = tmp_path / "b"
    directory.mkdir()
    models = {source.meta.txnid: contents(source.env)}
    rng = random.Random(seed)
    with monkeypatch.context() as patch:
        recorder = DiskRecorder(directory, patch)
        replica = copied(source, directory, SEGMENT)
        recorder.acknowledge(source.position.txn)
        for _ in range(100):
            for ship in source.commit():
                models[source.meta.txnid] = contents(source.env)
                for chunk in shipment.chunks(ship):
                    replica.take(chunk)
            draw = rng.random()
            if draw < 0.7:
                recorder.acknowledge(replica.flush().txn)
            if draw < 0.4:
                replica.apply(rng.choice((1, 20_000, 1 << 30)))
            if 0.70 < draw < 0.73:
                replica.settle()
                recorder.acknowledge(replica.position.txn)
            if 0.80 < draw < 0.83:
                replica.close()
                replica = reopened(directory, SEGMENT)
                assert replica.position == source.position  # the page cache outlives a process, flushed or not
        replica.close()
    source.close()
    return recorder, models


# --- kills at named points ------------------------------------------------------------------------------------------------------

KILL_POINTS = (
    "before_journal_sync:5", "after_journal_sync:9", "before_journal_switch", "after_journal_switch:2", "before_apply:7",
    "before_background_sync", "before_meta_write:2", "between_meta_writes:2", "after_meta_write:2", "before_checkpoint_sync",
    "after_checkpoint_sync", "before_copy_reset", "before_copy_rename", "after_copy_rename",
)  # fmt: skip

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_crash_images import live
live(Path(sys.argv[1]))
"""


def live(directory: Path) -> None:
    """What the killed process does: the same every time. Prints what it acknowledges."""
    source = SourceStore(directory / "source", 77, large=4000)
    for _ in range(5):
        source.commit()
    replica = copied(source, directory / "b", SEGMENT)
    print(source.position.txn, flush=True)
    for step in range(60):
        for ship in source.commit():
            for chunk in shipment.chunks(ship):
                replica.take(chunk)
        if step % 2:
            print(replica.flush().txn, flush=True)
        if step % 5 == 0:
            replica.apply(1 << 30)
        if step == 40:
            replica.settle()
    replica.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Contents]:
    source = SourceStore(tmp_path_factory.mktemp("model") / "source", 77, large=4000)
    found: dict[int, Contents] = {}
    for _ in range(65):
        source.commit()
        found[source.meta.txnid] = contents(source.env)
    source.close()
    return found


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_kill_at_any_named_point_loses_nothing_acknowledged(tmp_path: Path, point: str, models: dict[int, Contents]) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)],
        env={**os.environ, "ZMQHA_CRASH_AT": point, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    acknowledged = int(child.stdout.split()[-1]) if child.stdout else 0
    replica = Replica.open(tmp_path / "b", SEGMENT)
    if point == "before_copy_reset":
        assert replica is None and not acknowledged
        return
    assert replica is not None and not replica.ahead
    assert replica.position.txn >= acknowledged
    assert contents_of(tmp_path / "b" / STORE_FILE) == models[replica.position.txn]
    replica.close()
