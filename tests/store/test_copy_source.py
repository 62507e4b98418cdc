"""The sending side of a copy over a store that is only numbers: what it keeps in memory however large the store is."""

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

from zmqha.core import limits
from zmqha.core.actions import CopyOut, TakeTable
from zmqha.core.events import CopyBegun, TableNeeded
from zmqha.core.lmdb_page import Meta
from zmqha.core.peer_protocol import Held, Way
from zmqha.store.copy_source import CopySource, Run
from zmqha.store.lmdb_store import LmdbStore

PSIZE = 4096


class ToyStore:
    """``pages`` pages in use, all zeros; each snapshot that is pinned is a new one."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.reader = self
        self.position = "somewhere"
        self._txn = 1

    @property
    def meta(self) -> Meta:
        return cast(Meta, SimpleNamespace(psize=PSIZE, txnid=self._txn, body=b"", last_pg=self.pages + 1))

    def pin(self) -> Any:
        self._txn += 1
        return SimpleNamespace(abort=lambda: None)

    def live_runs(self, meta: Meta) -> list[Run]:
        return [(2, self.pages)]

    def page(self, page: int, meta: Meta) -> bytes:
        return bytes(PSIZE)


def copy_of(store: ToyStore, held: Held) -> CopySource:
    return CopySource(cast(LmdbStore, store), CopyOut(1, begin=True, budget=limits.COPY_WINDOW_BYTES, held=held))


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
