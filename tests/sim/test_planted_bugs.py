"""Every planted bug is caught, by the words that belong to it; the stories that need a rule hold while all rules are there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim import scenarios
from tests.sim.planted import PLANTED, catch

DOCUMENT = Path(__file__).parents[2] / "docs" / "development.md"
STORIES = (
    scenarios.stale_grant, scenarios.restart_during_the_copy, scenarios.the_last_pages_are_on_their_way,
    scenarios.the_stale_one_returns_first, scenarios.a_failed_probe_between_answers, scenarios.lasting_one_way_cut,
    scenarios.two_that_serve_meet, scenarios.promoted_after_the_other_served_alone, scenarios.promoted_after_a_copy,
    scenarios.replaced_after_it_served_alone, scenarios.the_loser_has_the_higher_epoch,
)  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str) -> None:
    caught = catch(PLANTED[name])
    assert caught is not None, f"nothing catches: {name}"
    where, words = caught
    assert re.search(PLANTED[name].words, words), f"{name} is caught at {where} by other words: {words}"


@pytest.mark.parametrize("tell", STORIES, ids=lambda tell: tell.__name__)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_story_ends_well_with_every_rule_in_place(tell: Callable[[int], None], seed: int) -> None:
    tell(seed)


@pytest.mark.parametrize("name", ["F2 old contact is good enough", "F3 an own gap is not noticed"])
def test_one_rule_less_is_still_safe_against_a_stale_grant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[name].plant(monkeypatch)
    for seed in (1, 2, 7):
        scenarios.stale_grant(seed)


def test_the_table_in_the_documentation_names_every_planted_bug() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| (?:seeds|story|unit): ", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == list(PLANTED)
