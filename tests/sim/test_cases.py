"""The table of cases is whole: every number is shown somewhere, what it names exists, and stories know their numbers."""

import ast
import re
from pathlib import Path

import pytest

from tests.sim.cases import CASES

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).with_name("scripts")


def test_there_are_fifty_cases_and_each_is_shown() -> None:
    assert list(CASES) == list(range(1, 51))
    assert all(places for _, places in CASES.values())


@pytest.mark.parametrize("number", CASES)
def test_what_shows_a_case_exists(number: int) -> None:
    for place in CASES[number][1]:
        path, _, function = place.partition("::")
        if not function:
            assert number in numbers(SCRIPTS / path), f"{path} does not begin with {number}"
            continue
        tree = ast.parse((ROOT / path).read_text())
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_a_story_that_names_a_case_is_in_the_table(path: Path) -> None:
    for number in numbers(path):
        assert path.name in CASES[number][1]


def numbers(path: Path) -> list[int]:
    """The case numbers that a story begins with."""
    found = re.match(r"# ((?:\d+(?:, )?)+):", path.read_text())
    return [int(number) for number in found[1].split(", ")] if found else []
