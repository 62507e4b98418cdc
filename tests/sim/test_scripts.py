"""Failover stories: scripts/*.txt, each with its golden changes of role."""

import os
from pathlib import Path

import pytest

from tests.sim.script import RULE, orders_of, play

SCRIPTS = sorted(Path(__file__).with_name("scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_story_ends_as_written(path: Path) -> None:
    orders, golden = orders_of(path)
    roles = play(orders)
    if os.environ.get("ZMQHA_SIM_UPDATE"):
        path.write_text("\n".join(orders) + f"\n{RULE}\n{roles}")
        return
    assert roles == golden
