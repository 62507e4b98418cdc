"""The branch of a server that lost a divergence: counted, kept, handed over, settled.

``HA`` decides what may run (keep before anything else, O6), the store thread does it, ``Salvager`` sends. This room joins the three and
drops what the store thread says of a branch that this server has left meanwhile.
"""

from zmqha.core.actions import Action, KeepBranch, ReadBranch, SettleBranch, StandDown
from zmqha.core.branch import Survey
from zmqha.core.contact import LONG_AGO
from zmqha.core.events import KeepRefused, SalvagePart, SalvageSettled, Surveyed
from zmqha.core.ha import HA
from zmqha.core.outbox import Outbox
from zmqha.core.peer_protocol import Salvaged, Standing, State
from zmqha.core.salvage import Salvager
from zmqha.core.view import KEEP_AGAIN_MS, Step


class LostBranch(Outbox[Action]):
    """What this server has that the winner lacks."""

    def __init__(self, ha: HA) -> None:
        super().__init__()
        self._ha = ha
        self.salvager = Salvager(ha.timers, ha.contact)
        self._surveying = False
        self._uncounted_ms = LONG_AGO
        self.uncounted = ""  # why it could not be counted, the last time
        self._discard_refused_ms: int | None = None
        self.survey: Survey | None = None  # what would be handed over; None: nothing lost, or not counted yet

    @property
    def progress(self) -> tuple[int, int]:
        """Items sent, and durable at the winner."""
        return self.salvager.progress

    @property
    def discarding(self) -> bool:
        """Was this branch given up by an operator, and there is no room yet to write that down."""
        return self._discard_refused_ms is not None

    def hear(self, message: Salvaged, now_ms: int) -> None:
        """The winner says how far it is."""
        self.salvager.hear(message, now_ms)

    def receive(self, event: Surveyed | KeepRefused | SalvagePart | SalvageSettled, now_ms: int) -> None:
        """News of the store thread."""
        ha = self._ha
        match event:
            case Surveyed(survey, kept):
                self.survey, self._surveying, self.uncounted = survey, False, ""
                if kept and ha.step is Step.KEEP:
                    ha.branch_kept()
            case KeepRefused(error, order):
                self._refused(order, f"{error.what}: {error.cause}; {error.cure}", now_ms)
            case SalvagePart():
                self.salvager.part(event, now_ms)
            case SalvageSettled(into):
                if ha.merging:
                    self.salvager.stop()
                    ha.keep_refused = ""
                    ha.branch_merged(into)

    def tick(self, now_ms: int) -> None:
        """Hand over while the role says so; else count what there is, for an operator who is waited for."""
        ha, salvager = self._ha, self.salvager
        if ha.merging and not salvager.active:
            assert self.survey is not None, "a branch is kept and was not counted"
            salvager.start(ha.merge_into, ha.position.epoch, self.survey.common_txn, now_ms)
        elif not ha.merging and salvager.active:
            salvager.stop()
        salvager.tick(now_ms)
        self._discard_again(now_ms)
        if not ha.merging:
            self._count(now_ms)

    def _refused(self, order: KeepBranch | ReadBranch | SettleBranch | StandDown, reason: str, now_ms: int) -> None:
        """It is tried again: a disk that was full may have room."""
        ha = self._ha
        if isinstance(order, KeepBranch) and not order.keep:
            self._surveying, self.uncounted, self._uncounted_ms = False, reason, now_ms
            return
        if isinstance(order, KeepBranch | ReadBranch):
            if ha.step is Step.KEEP or ha.merging:
                ha.keep_failed(reason, now_ms)
            return
        if isinstance(order, StandDown):
            self._discard_refused_ms = now_ms
        elif ha.merging:
            self.salvager.settle_refused(now_ms)
        ha.keep_refused, ha.keep_refused_ms = reason, now_ms
        ha.note("ha.keep_refused", reason=reason)

    def _discard_again(self, now_ms: int) -> None:
        """Until an operator's order is carried out nothing of the branch is handed over; a promotion is a newer order."""
        ha = self._ha
        if self._discard_refused_ms is None:
            return
        stands = ha.state is State.WAITING and ha.durable.standing is Standing.BEHIND
        if stands and (ha.step is not Step.NONE or now_ms - self._discard_refused_ms <= KEEP_AGAIN_MS):
            ha.keep_refused_ms = now_ms
            return
        self._discard_refused_ms, ha.keep_refused = None, ""
        if stands:
            ha.resync(now_ms)

    def _count(self, now_ms: int) -> None:
        ha = self._ha
        if ha.diverged is None or ha.state is not State.WAITING:
            self.survey, self._surveying, self.uncounted = None, False, ""
        elif ha.store_doubted:
            return  # a damaged store is opened only by an operator's order
        elif self.uncounted and now_ms - self._uncounted_ms <= KEEP_AGAIN_MS:
            return
        elif self.survey is None and not self._surveying and ha.step is Step.NONE and ha.durable.standing is Standing.BEHIND:
            self._surveying = True
            self.actions.append(KeepBranch(ha.diverged.common_txn, keep=False))
