"""The sending side of a copy over a store that is only numbers: what it holds at once, however large the store and busy its writers."""

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zmqha.core import limits
from zmqha.core.actions import CopyOut, TakeTable
from zmqha.core.events import CopyBegun, CopyDone, CopyPart, RoundDone, TableNeeded
from zmqha.core.lmdb_page import Meta
from zmqha.core.peer_protocol import Held, Way
from zmqha.store.copy_source import CopySource, Run
from zmqha.store.lmdb_store import LmdbStore

PSIZE = 4096
GIB = 1024 * limits.MIB


class Zeros(bytes):
    """Bytes that are only counted."""

    def __new__(cls, size: int) -> "Zeros":
        made = super().__new__(cls)
        made.size = size
        return made

    size: int

    def __len__(self) -> int:
        return self.size


class ToyStore:
    """``pages`` pages in use, all zeros; each snapshot that is pinned is a new one, which shares but ``written`` of the last round."""

    def __init__(self, pages: int, written: float = 0.0) -> None:
        self.pages = self._round = pages
        self._written = written
        self.reader = self
        self.position = "somewhere"
        self.census = SimpleNamespace(vouch=lambda runs: None, as_it_is=False)
        self._txn = 1

    @property
    def meta(self) -> Meta:
        return cast(Meta, SimpleNamespace(psize=PSIZE, txnid=self._txn, body=b"", last_pg=self.pages + 1))

    def pin(self) -> Any:
        self._txn += 1
        return self._txn

    def unpin(self, pin: Any) -> None:
        pass

    def live_runs(self, meta: Meta) -> list[Run]:
        return [(2, self.pages)]

    def changed_runs(self, old: Meta, new: Meta) -> list[Run]:
        self._round = int(self._round * self._written)
        return [(2, self._round)]

    def page(self, page: int, meta: Meta) -> bytes:
        return bytes(PSIZE)

    def read_runs(self, runs: list[Run], psize: int) -> bytes:
        return Zeros(psize * sum(count for _, count in runs))


def copy_of(store: ToyStore, held: Held) -> CopySource:
    return CopySource(cast(LmdbStore, store), CopyOut(1, begin=True, budget=1 << 60, held=held))


def test_what_differs_is_kept_as_runs_while_it_is_found() -> None:
    """A follower whose unfinished copy holds nothing lacks every page: one run, not a run for each page."""
    store = ToyStore(50_000)
    copy = copy_of(store, Held(partial=True))
    assert copy.step() == [TableNeeded(1, True)]
    copy.take_table(TakeTable(1, 0, b"", True))
    tracemalloc.start()
    try:
        while not (found := copy.step()):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [CopyBegun(1, PSIZE, store.pages, Way.REST)]
    assert peak < store.pages * 4  # bytes: far from a tuple each


@pytest.mark.parametrize("written", [0.1, 0.5, 0.7, 0.8, 0.95])
def test_the_last_step_is_bounded_however_much_is_written_during_a_round(written: float) -> None:
    copy = copy_of(ToyStore(10 * GIB // PSIZE, written), Held())
    while not isinstance((events := copy.step())[-1], CopyDone):
        if isinstance(events[-1], RoundDone):
            copy.next_round()
    last_bytes = sum(len(event.payload) for event in events if isinstance(event, CopyPart))
    assert last_bytes <= limits.COPY_TAIL_BYTES_MAX
