"""Signs of life: whoever takes long calls ``alive`` now and then, or the reactor takes the store thread for stuck and ends the process.

It counts work, not time: ``ROWS`` are some seconds at the most, of a store that is not in memory, on a slow disk.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

ROWS = 256

_T = TypeVar("_T")


def nobody_waits() -> None:
    """Where no reactor looks on: tools and tests."""


def rows(found: Iterable[_T], alive: Callable[[], None]) -> Iterator[_T]:
    """The same rows of a database, with a sign of life every ``ROWS``."""
    for number, row in enumerate(found):
        if number % ROWS == 0:
            alive()
        yield row
