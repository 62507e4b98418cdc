"""After a power cut or a kill at any moment a store stands at the last acknowledged transaction or later, and is sound.

A few hundred images of each kind; the fault matrix (D6) judges thousands.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crash_images import (
    SEGMENT,
    active_recording,
    every_prefix,
    growing_life,
    images_at,
    judge_active,
    judge_passive,
    passive_life,
    some_images,
)
from disk_recorder import Flush
from following import copied
from source_store import Contents, SourceStore, contents, contents_of

from tests.system import disk_faults
from zmqha.core import shipment
from zmqha.store.page_file import STORE_FILE
from zmqha.store.replica import Replica

IMAGES_PER_RUN = 80


@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_leaves_a_passive_the_last_acknowledged_transaction_or_a_later_one(tmp_path: Path, seed: int) -> None:
    recorder, models = passive_life(tmp_path, seed)
    found = [judge_passive(*image, models) for image in some_images(recorder, IMAGES_PER_RUN, 1000 + seed, tmp_path)]
    assert sum(beyond is not None for beyond in found) > IMAGES_PER_RUN // 2


def test_a_power_cut_while_a_store_that_grew_settles_may_leave_its_meta_page_without_its_length(tmp_path: Path) -> None:
    recorder, models = growing_life(tmp_path, 1)
    first_flush = next(at for at, event in enumerate(recorder.events) if isinstance(event, Flush))
    assert all(judge_passive(*image, models) == 0 for image in images_at(recorder, first_flush, 80, 1, tmp_path))


@pytest.mark.skipif(bool(disk_faults.missing()), reason=disk_faults.missing())
def test_a_power_cut_leaves_an_active_the_last_acknowledged_transaction_or_a_later_one(tmp_path: Path) -> None:
    recording, models = active_recording(tmp_path, 1)
    found = [judge_active(*image, models) for image in every_prefix(recording, 1, tmp_path)]
    found += [judge_active(*image, models) for image in some_images(recording, IMAGES_PER_RUN, 2, tmp_path)]
    assert sum(beyond is not None for beyond in found) > 200


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
