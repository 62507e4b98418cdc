"""The loser's store after a divergence: keep it, say what it holds, read it out piece by piece, settle it once the winner has it.

What is kept, and for how long, is ``kept``'s business, what is read ``salvage``'s; who asks and when is decided in ``core.salvage`` and
``core.ha``. Only while the store is closed. Driven by the store thread.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from zmqha.core import limits
from zmqha.core.actions import KeepBranch, ReadBranch, SettleBranch, StandDown
from zmqha.core.branch import Item, Survey, salvage_bytes
from zmqha.core.events import Event, KeepRefused, SalvagePart, SalvageSettled, Surveyed
from zmqha.core.position import Position
from zmqha.errors import NoSpace, StoreDamaged, StoreFull
from zmqha.store import lmdb_store
from zmqha.store.alive import nobody_waits
from zmqha.store.crash import crash_point
from zmqha.store.kept import Kept
from zmqha.store.page_file import STORE_FILE
from zmqha.store.salvage import Branch


class Handover:
    """One directory's kept stores, and the one that is being read."""

    def __init__(
        self, directory: Path, node_id: str, report: Callable[[Event], None], alive: Callable[[], None] = nobody_waits
    ) -> None:
        self.kept = Kept(directory, node_id)
        self._directory = directory
        self._report = report
        self._alive = alive
        self._branch: Branch | None = None
        self._items: Iterator[Item] = iter(())

    def keep(self, position: Position, order: KeepBranch) -> None:
        """Give the store that stands there a second name (``keep``), and say what it holds beyond the common transaction."""
        self.close()  # a merge that was interrupted still reads, and LMDB opens no file twice in a process
        try:
            survey = self._survey(order.common_txn)
            if order.keep:
                _, lineage = lmdb_store.inspect(self._directory)
                self.kept.keep(position, lineage, survey)
        except (StoreFull, NoSpace, StoreDamaged) as error:
            self._report(KeepRefused(error, order))
            return
        self._report(Surveyed(survey, order.keep))

    def _survey(self, common_txn: int) -> Survey:
        path = self._directory / STORE_FILE
        with lmdb_store.reading(path):
            branch = Branch(path, common_txn, self._alive)
            try:
                return branch.survey()
            finally:
                branch.close()

    def read(self, request: ReadBranch) -> None:
        """The next items, up to the budget. Where the kept store cannot be read, that is the end of them."""
        try:
            with lmdb_store.reading(self._directory / STORE_FILE):
                self._read(request)
        except (StoreFull, StoreDamaged) as error:
            self.close()
            self._report(KeepRefused(error, request))

    def _read(self, request: ReadBranch) -> None:
        if request.begin:
            self.close()
            path = self.kept.path()
            if path is None:
                return  # served again in the turn that asked for it
            self._branch = Branch(path, request.common_txn, self._alive)
            self._items = self._branch.items()
        if self._branch is None:
            return
        items: list[Item] = []
        budget, last = request.budget, False
        while budget > 0 and len(items) < limits.SALVAGE_WINDOW_ITEMS:
            item = next(self._items, None)
            if item is None:
                last = True
                self.close()
                break
            items.append(item)
            budget -= salvage_bytes(item)
        crash_point("salvage_read")
        self._report(SalvagePart(request.attempt, tuple(items), last))

    def settle(self, order: SettleBranch) -> None:
        """The winner has all of it, durably. Nothing is said of a store that was given up or served again in the turn that asked."""
        self.close()
        try:
            if self.kept.settle(order.into):
                self._report(SalvageSettled(order.into))
        except StoreFull as error:
            self._report(KeepRefused(error, order))

    def discard(self, order: StandDown) -> bool:
        """The operator gave this branch up; False if there is no room to write that down: then it stays."""
        try:
            self.kept.discard()
        except StoreFull as error:
            self._report(KeepRefused(error, order))
            return False
        return True

    def close(self) -> None:
        """Stop reading."""
        self._items = iter(())
        if self._branch is not None:
            self._branch.close()
            self._branch = None
