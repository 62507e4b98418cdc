"""D6: thousands of images that a power cut may leave, of the passive's files and of the active's."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system import disk_faults
from tests.system.matrix import Run, case

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
import crash_images

IMAGES_PER_LIFE = 150


@case("D6", "images of both servers' files after a power cut", quick=300, full=2500, timeout_s=300)
def power_cuts(run: Run) -> None:
    """After every write, and with any part of what was not flushed: the last acknowledged transaction or a later one, and equal."""
    many_lives(run, "passive", crash_images.passive_life, crash_images.judge_passive)
    if why := disk_faults.missing():
        run.note("active", f"skipped: {why}")
        return
    many_lives(run, "active", crash_images.active_recording, crash_images.judge_active)


def many_lives(run: Run, side: str, live: Callable[[Path, int], Any], judge: Callable[[Path, int, Any], int | None]) -> None:
    """Lives until so many images were judged: one after every event of the first life, then random ones of each."""
    judged = lives = beyond = 0
    while judged < run.count:
        with tempfile.TemporaryDirectory(prefix="zmqha-images-") as place:
            seed = run.chance.randrange(1 << 30)
            recording, models = live(Path(place), seed)
            images = [crash_images.some_images(recording, IMAGES_PER_LIFE, seed, Path(place))]
            if lives == 0:
                images.append(crash_images.every_prefix(recording, seed, Path(place)))
            for image in (image for some in images for image in some):
                try:
                    found = judge(*image, models)
                except BaseException as error:
                    pytest.fail(f"the {side}'s image {image[0].name} of life {seed}: {type(error).__name__}: {error}")
                judged += found is not None
                beyond += bool(found)
            lives += 1
    run.runs += judged
    run.note(f"images of the {side}", judged)
    run.note(f"of these beyond the last acknowledged transaction ({side})", beyond)
