"""A suite that cannot fail is a defect: production code is broken on purpose, and the checkers must find each break within a few seeds.

Assertions inside the production code are switched off meanwhile, so that the checkers have to see the damage from outside.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.sim.cluster import Failed
from tests.sim.scenarios import stale_grant
from tests.sim.seeds import run_seed
from zmqha.core import ha
from zmqha.core.acts import Acts
from zmqha.core.broker import Broker
from zmqha.core.follower import Follower
from zmqha.core.ha import HA
from zmqha.core.peer_protocol import Piece, Standing, State
from zmqha.core.producers import Producers, Sequence
from zmqha.core.pulse import Pulse
from zmqha.core.view import View

Plant = Callable[[pytest.MonkeyPatch], None]
LONE = {"isolate": 4, "kill": 4, "kill_both": 2, "power": 2}


def skip_o1(patch: pytest.MonkeyPatch) -> None:
    """Confirm alone while the disk still says PAIRED."""
    claim = Acts.claim

    def broken(self: Acts, now_ms: int, reason: str) -> None:
        claim(self, now_ms, reason)
        last = self.actions[-1]
        self.facts = self.facts._replace(standing=Standing.PAIRED)
        self.actions[-1] = last._replace(facts=self.facts)  # type: ignore[union-attr, call-arg]

    patch.setattr(Acts, "claim", broken)


def confirm_before_the_peer_has_it(patch: pytest.MonkeyPatch) -> None:
    """O5: release at the local commit."""

    def broken(self: Broker) -> int:
        return self._committed_txn if self.ha.state in (State.ACTIVE, State.STANDALONE) else -1

    patch.setattr(Broker, "_durable_txn", broken)


def grant_before_sole_is_given_up(patch: pytest.MonkeyPatch) -> None:
    """O2 reversed: the grant goes out while the disk still says SOLE."""
    pair_up = Acts.pair_up

    def broken(self: Acts, now_ms: int, reason: str) -> None:
        pair_up(self, now_ms, reason)
        last = self.actions[-1]
        self.actions[-1] = last._replace(facts=last.facts._replace(standing=Standing.SOLE))  # type: ignore[union-attr, call-arg]

    patch.setattr(Acts, "pair_up", broken)


def acknowledge_before_the_journal_is_durable(patch: pytest.MonkeyPatch) -> None:
    """The follower says "stored" when the pages arrive."""
    take = Follower._take

    def broken(self: Follower, piece: Piece, frames: tuple[bytes, ...]) -> None:
        take(self, piece, frames)
        if self.whole:
            self.position = piece.position
            self._tell(self._told_ms)

    patch.setattr(Follower, "_take", broken)


def drop_dedupe(patch: pytest.MonkeyPatch) -> None:
    """What was sent again is stored again."""

    def find(self: Producers, producer: int, destination: int) -> Sequence:
        return _Open()

    patch.setattr(Producers, "find", find)


class _Open(Sequence):
    """Takes every batch as the next one."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_Any())  # type: ignore[arg-type]


class _Any(int):
    """Adds up to whatever the batch begins with."""

    def __add__(self, other: int) -> Any:
        return _Zero()

    def __iadd__(self, other: int) -> Any:
        return self


class _Zero(int):
    def __sub__(self, other: int) -> int:
        return 0


def resume_paired_alone(patch: pytest.MonkeyPatch) -> None:
    """I3: a PAIRED server serves after a restart without its peer (resume_alone = available)."""


def guard(patch: pytest.MonkeyPatch, old: Callable[[Any, int], bool], new: Callable[[Any, int], bool]) -> None:
    """Another guard in every row that has this one (the table holds the functions themselves)."""
    assert any(row.guard is old for row in ha.TABLE)
    patch.setattr(ha, "TABLE", tuple(row._replace(guard=new) if row.guard is old else row for row in ha.TABLE))


def never(view: View, now_ms: int) -> bool:
    """A row that is gone."""
    return False


def the_plain_rule(patch: pytest.MonkeyPatch) -> None:
    """Peer lost and an answer of the gateway now: no F6, no F7, no unbroken series."""

    def broken(self: View, now_ms: int) -> bool:
        return self.age(now_ms) > self.timers.decide_ms and bool(self.vote.answers())

    guard(patch, HA.window_complete, broken)
    guard(patch, HA.doubtful, never)
    guard(patch, HA.deaf_peer, never)


def a_damaged_server_stays(patch: pytest.MonkeyPatch) -> None:
    """T18: what the scrub found changes nothing."""
    guard(patch, HA.is_damaged, never)


CASES: dict[str, tuple[Plant, dict[str, int] | None, int]] = {
    "skip O1": (skip_o1, None, 3),
    "confirm before the peer's ack": (confirm_before_the_peer_has_it, None, 3),
    "O2 reversed": (grant_before_sole_is_given_up, LONE, 20),
    "acknowledge before the journal is durable": (acknowledge_before_the_journal_is_durable, None, 3),
    "drop dedupe": (drop_dedupe, {"kill": 3, "client": 6}, 10),
    "PAIRED may resume alone": (resume_paired_alone, LONE, 20),
    "a damaged server stays": (a_damaged_server_stays, {"rot": 3, "kill": 1}, 3),
    "the plain rule": (the_plain_rule, {"cut_link": 5, "cut_lan": 3, "gateway": 3, "kill": 1}, 30),
}


@pytest.mark.parametrize("name", CASES)
def test_a_planted_bug_is_caught_within_a_few_seeds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, kinds, seeds = CASES[name]
    monkeypatch.setattr(HA, "_check_invariants", lambda self: None)
    plant(monkeypatch)
    for seed in range(seeds):
        try:
            run_seed(
                seed, kinds=kinds, rate=0.05, fault_ms=15_000, resume_alone=plant is resume_paired_alone,
                datagrams=plant is not the_plain_rule,
            )  # fmt: skip
        except Failed as failed:
            assert "Violation" in str(failed).splitlines()[0], str(failed).splitlines()[0]
            print(str(failed).splitlines()[0])
            return
    pytest.fail(f"not one of {seeds} seeds found it")


def no_gap(patch: pytest.MonkeyPatch) -> None:
    """F3: a stopped server goes on as if nothing had happened."""
    patch.setattr(HA, "begin_turn", lambda self, now_ms: setattr(self, "turn_ms", now_ms))


def always_fresh(patch: pytest.MonkeyPatch) -> None:
    """F2: one-shot messages are obeyed however old the contact is."""
    stale = Pulse.stale

    def broken(self: Pulse, now_ms: int) -> bool:
        return stale(self, now_ms) and self.contact.beat is None

    patch.setattr(Pulse, "stale", broken)


def test_a_grant_that_sat_in_a_frozen_servers_buffer_is_not_obeyed() -> None:
    stale_grant()


@pytest.mark.parametrize("plant", [no_gap, always_fresh])
def test_one_rule_less_is_still_safe_against_a_stale_grant(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    stale_grant()


def test_without_f2_f3_and_doubt_a_stale_grant_loses_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HA, "_check_invariants", lambda self: None)
    no_gap(monkeypatch)
    always_fresh(monkeypatch)
    guard(monkeypatch, HA.doubtful, never)
    with pytest.raises(Failed, match=r"serves alone at .* without message"):
        stale_grant()
