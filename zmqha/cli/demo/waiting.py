"""Waiting for something that a pair under load will do, with the servers' last words if it does not."""

import time
from collections.abc import Callable

from zmqha.cli.demo.load import Load
from zmqha.cli.demo.pair import Pair
from zmqha.errors import OperationFailed

_TICK_S = 0.02


def wait(
    condition: Callable[[], bool], what: str, seconds: float, pair: Pair, load: Load | None, each_turn: Callable[[], object]
) -> None:
    """Until it holds; the load's own errors end it. Raises OperationFailed after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        each_turn()
        if condition():
            return
        if load is not None and load.errors:
            raise load.errors[0]
        if time.monotonic() > end:
            raise OperationFailed(f"waited {max(0.0, seconds):.0f} s in vain for this: {what}", cause=pair.last_words())
        time.sleep(_TICK_S)
