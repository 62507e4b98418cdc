"""What every system test with load does: counts for the quick and the full run, figures, the closing checks."""

import os
from collections.abc import Iterable

from tests.system.history import Verdict
from tests.system.load import Producer, Reader, median, settle
from tests.system.pair import Pair
from tests.system.stores import assert_equal_offline

FULL = os.environ.get("ZMQHA_FULL") == "1"


def count(usual: int, full: int) -> int:
    """How often: as usual, or in the long run (``ZMQHA_FULL=1``)."""
    return full if FULL else usual


def figures(what: str, gaps: list[float]) -> str:
    """One line, printed at the end of a test (``pytest -rP`` shows it)."""
    line = f"{what}: n {len(gaps)}, gap median {median(gaps):.3f} s, max {max(gaps):.3f} s, all {[round(gap, 3) for gap in gaps]}"
    print(line)
    return line


def close_history(pair: Pair, producers: Iterable[Producer], readers: Iterable[Reader], *, offline: bool = True) -> Verdict:
    """Stop the load, drain, judge; equal positions must be equal stores."""
    verdict = settle(producers, readers)
    print(verdict.explain())
    verdict.check()
    pair.assert_equal_stores()
    if offline:
        active = pair.active()
        pair.kill_both()
        assert_equal_offline(pair, active)
    return verdict
