"""The branch of a server that lost a divergence: counted, kept, handed over, settled.

``HA`` decides what may run (keep before anything else, O6), the store thread does it, ``Salvager`` sends. This room joins the three and
drops what the store thread says of a branch that this server has left meanwhile.
"""

from zmqha.core.actions import Action, KeepBranch
from zmqha.core.branch import Survey
from zmqha.core.events import KeepRefused, SalvagePart, SalvageSettled, Surveyed
from zmqha.core.ha import HA
from zmqha.core.peer_protocol import Salvaged, Standing, State
from zmqha.core.salvage import Salvager
from zmqha.core.view import Step


class LostBranch:
    """What this server has that the winner lacks."""

    def __init__(self, ha: HA) -> None:
        self._ha = ha
        self._salvager = Salvager(ha.timers, ha.contact)
        self._surveying = False
        self._actions: list[Action] = []
        self.survey: Survey | None = None  # what would be handed over; None: nothing lost, or not counted yet

    @property
    def progress(self) -> tuple[int, int]:
        """Items sent, and durable at the winner."""
        return self._salvager.progress

    def take_actions(self) -> list[Action]:
        """Ordered work, handed over once."""
        taken, self._actions = self._actions, []
        return self._salvager.take_actions() + taken

    def hear(self, message: Salvaged, now_ms: int) -> None:
        """The winner says how far it is."""
        self._salvager.hear(message, now_ms)

    def receive(self, event: Surveyed | KeepRefused | SalvagePart | SalvageSettled, now_ms: int) -> None:
        """News of the store thread."""
        ha = self._ha
        match event:
            case Surveyed(survey, kept):
                self.survey, self._surveying = survey, False
                if kept and ha.step is Step.KEEP:
                    ha.branch_kept()
            case KeepRefused(error):
                if ha.step is Step.KEEP or ha.merging:
                    ha.keep_failed(f"{error.what}: {error.cause}; {error.cure}", now_ms)
            case SalvagePart():
                self._salvager.part(event, now_ms)
            case SalvageSettled(into):
                if ha.merging:
                    self._salvager.stop()
                    ha.branch_merged(into)

    def tick(self, now_ms: int) -> None:
        """Hand over while the role says so; else count what there is, for an operator who is waited for."""
        ha, salvager = self._ha, self._salvager
        if ha.merging and not salvager.active:
            assert self.survey is not None, "a branch is kept and was not counted"
            salvager.start(ha.merge_into, ha.position.epoch, self.survey.common_txn, now_ms)
        elif not ha.merging and salvager.active:
            salvager.stop()
        salvager.tick(now_ms)
        if not ha.merging:
            self._count()

    def _count(self) -> None:
        ha = self._ha
        if ha.diverged is None or ha.state is not State.WAITING:
            self.survey, self._surveying = None, False
        elif ha.store_doubted:
            return  # a damaged store is opened only by an operator's order
        elif self.survey is None and not self._surveying and ha.step is Step.NONE and ha.durable.standing is Standing.BEHIND:
            self._surveying = True
            self._actions.append(KeepBranch(ha.diverged.common_txn, keep=False))
