"""A1 broken on purpose: two serve alone, meet again, merge. Every promise made on either branch is in the store that both hold then."""

import pytest

from tests.sim.cluster import Cluster, Failed
from tests.sim.scenarios import two_branches
from tests.sim.seeds import run_seed
from tests.sim.server import Machine
from zmqha.core import ha
from zmqha.core.actions import SettleBranch
from zmqha.core.ha import HA
from zmqha.core.merge import Merge
from zmqha.core.peer_protocol import Salvaged, Standing
from zmqha.core.salvage import Salvager

SPLIT = {
    "break_a1": 6, "kill": 3, "kill_both": 1, "power": 1, "freeze": 1, "cut_link": 1, "client": 1, "promote_stale": 2,
}  # fmt: skip
SIDES = (0, 1, None)


def noted(cluster: Cluster, event: str) -> bool:
    return any(name == event for _, _, name, _ in cluster.notes)


def winner(cluster: Cluster) -> Machine:
    """Of a divergence that both have noticed."""
    return next(m for m in cluster.machines if m.disk.facts is not None and m.disk.facts.standing is Standing.SOLE)


def kill_winner(cluster: Cluster) -> None:
    """Right after its loser began to hand over."""
    cluster.run_until(lambda: noted(cluster, "merge.begin"), 5000, "a merge", step_ms=1)
    killed = winner(cluster)
    cluster.run(3)
    killed.kill(notice=True)
    cluster.clock.after(1000, killed.start)


def kill_loser(cluster: Cluster) -> None:
    """When its store is kept and nothing is settled."""
    cluster.run_until(lambda: noted(cluster, "merge.begin"), 5000, "a merge", step_ms=1)
    killed = winner(cluster).peer
    killed.cut_power()
    cluster.clock.after(1000, killed.start)


def cut_again(cluster: Cluster) -> None:
    """Both paths are lost while the branch is handed over, and come back."""
    cluster.run_until(lambda: noted(cluster, "merge.begin"), 5000, "a merge", step_ms=1)
    for change in (1, -1):
        cluster.cables.between_servers(change)
        cluster.run(3000 if change > 0 else 0)


def fill_loser(cluster: Cluster) -> None:
    """It cannot write down that the winner holds everything, until there is room."""
    cluster.run_until(lambda: noted(cluster, "merge.begin"), 5000, "a merge", step_ms=1)
    loser = winner(cluster).peer
    loser.speed.full = True
    cluster.run_until(lambda: noted(cluster, "ha.keep_refused"), 5000, "a refusal")
    loser.speed.full = False


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_promises_of_both_branches_end_in_one_store(seed: int, side: int | None) -> None:
    cluster = two_branches(seed, side)
    assert cluster.checkers.splits > 0
    assert noted(cluster, "merge.done")


@pytest.mark.parametrize("during", [kill_winner, kill_loser, cut_again, fill_loser])
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_a_merge_that_is_interrupted_begins_again_and_loses_nothing(seed: int, during: object) -> None:
    cluster = two_branches(seed, 0, during)  # type: ignore[arg-type]
    done = [fields for _, _, name, fields in cluster.notes if name == "merge.done"]
    assert done[-1]["merged"] > 0


@pytest.mark.parametrize("seed", range(16))
def test_random_faults_with_a1_broken_lose_no_promise(seed: int) -> None:
    assert run_seed(seed, kinds=SPLIT, rate=0.04, fault_ms=12_000, split=True).promises > 50


@pytest.mark.parametrize("seed", [11])  # promoted with a part of what the other one had confirmed alone
def test_a_seed_of_two_branches_that_once_found_a_bug_finds_none(seed: int) -> None:
    run_seed(seed, kinds=SPLIT, split=True)


def settle_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """O6: the loser takes its branch for merged as soon as it has arrived."""
    hear = Salvager.hear

    def broken(self: Salvager, message: Salvaged, now_ms: int) -> None:
        hear(self, message, now_ms)
        if self._end and message.taken == self._end and not self._settling:
            self._settling = True
            self.actions.append(SettleBranch(self._into))

    patch.setattr(Salvager, "hear", broken)


def slow_winner_dies(cluster: Cluster) -> None:
    """Its disk stalls, and its power goes before what it was handed is flushed."""
    cluster.run_until(lambda: noted(cluster, "ha.keep"), 5000, "a loser", step_ms=1)
    dying = winner(cluster)
    dying.speed.stall_ms = 400
    cluster.run(300)
    dying.cut_power()
    dying.speed.stall_ms = 0
    cluster.clock.after(1000, dying.start)


def test_o6_a_branch_is_given_up_only_once_the_winner_has_it_on_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    two_branches(1, 0, slow_winner_dies)
    settle_before_it_is_durable(monkeypatch)
    with pytest.raises(Failed, match="Violation"):
        two_branches(1, 0, slow_winner_dies)


def test_o6_a_store_that_is_copied_over_before_it_is_merged_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch is in memory only: T2 does not wait for the winner."""
    can_copy = HA.can_copy

    def broken(self: HA, now_ms: int) -> bool:
        if self.merging:
            self.diverged = None
        return self.merging or can_copy(self, now_ms)

    monkeypatch.setattr(ha, "TABLE", tuple(row._replace(guard=broken) if row.guard is can_copy else row for row in ha.TABLE))
    with pytest.raises(Failed, match="Violation"):
        two_branches(4, 0)


def test_a_merge_that_drops_a_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = Merge._insert
    dropped: list[str] = []

    def broken(self: Merge, name: str, batch: bytes) -> None:
        if dropped:
            insert(self, name, batch)
        else:
            dropped.append(name)

    monkeypatch.setattr(Merge, "_insert", broken)
    with pytest.raises(Failed, match=r"Violation.*(lacks|consumer has every message)"):
        two_branches(1, 1)
    assert dropped
