"""Bugs planted on purpose, one rule of the protocol after the other, and what catches each.

A suite that cannot fail is a defect. Most are caught by random runs, whose checkers see the damage from outside: assertions inside
the production code are switched off meanwhile. A rule that others cover (freshness rules overlap on purpose) is caught by a directed
story that needs it, or, where no story can tell it from the others, by a test of the machine alone.
"""

import importlib
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest

from tests.sim import scenarios
from tests.sim.cluster import Failed
from tests.sim.faults import SETS
from tests.sim.network import Connection
from tests.sim.seeds import run_seed
from tests.sim.sockets import ControlSocket
from zmqha.client.consumer import Subscription
from zmqha.client.failover import Failover
from zmqha.client.url import Options
from zmqha.core import ha
from zmqha.core.actions import Action, Claim, Commit, Follow, PairUp
from zmqha.core.acts import Acts
from zmqha.core.contact import Contact
from zmqha.core.follower import Follower
from zmqha.core.group_commit import GroupCommit
from zmqha.core.guards import Guard, all_of, conditions_of
from zmqha.core.ha import HA
from zmqha.core.peer_protocol import Beat, Echo, Grant, Piece, Standing, State
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.core.producers import Producers, Sequence
from zmqha.core.pulse import Pulse
from zmqha.core.view import Step, View
from zmqha.core.vote import Vote

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]


class Runs(NamedTuple):
    """Random runs: one of the first ``seeds`` seeds must find it."""

    seeds: int
    kinds: dict[str, int] = SETS["all"]
    datagrams: bool = True


class Story(NamedTuple):
    """A directed scenario; with one of these seeds it must fail."""

    tell: Callable[[int], None]
    seeds: tuple[int, ...] = (1,)


class Unit(NamedTuple):
    """A test of one machine, which must fail."""

    module: str
    test: str
    arguments: Callable[[], tuple[Any, ...]] = tuple


class Planted(NamedTuple):
    """A bug, and what must catch it with which words."""

    plant: Plant
    how: Runs | Story | Unit
    words: str


def catch(bug: Planted) -> tuple[str, str] | None:
    """Where the bug is caught and by which words; None if it is not. The production code is whole again afterwards."""
    with Patch.context() as patch:
        if not isinstance(bug.how, Unit):
            patch.setattr(HA, "_check_invariants", lambda self: None)
        bug.plant(patch)
        match bug.how:
            case Runs(seeds, kinds, datagrams):
                for seed in range(seeds):
                    try:
                        run_seed(seed, kinds=kinds, rate=0.05, fault_ms=15_000, datagrams=datagrams)
                    except Failed as failed:
                        return f"seed {seed}", _words(failed)
            case Story(tell, seeds):
                for seed in seeds:
                    try:
                        tell(seed)
                    except Failed as failed:
                        return f"{tell.__name__}({seed})", _words(failed)
            case Unit(module, test, arguments):
                try:
                    getattr(importlib.import_module(module), test)(*arguments())
                except AssertionError:
                    return module, test
    return None


def _words(failed: Failed) -> str:
    """Without seed and time."""
    return str(failed).splitlines()[0].split(" ms: ", 1)[1]


# --- tools ------------------------------------------------------------------------------------------------------------------


def guard(patch: Patch, old: Callable[[Any, int], bool], new: Callable[[Any, int], bool]) -> None:
    """Another guard in every row that has this one (the table holds the functions themselves)."""
    assert any(row.guard is old for row in ha.TABLE)
    patch.setattr(ha, "TABLE", tuple(row._replace(guard=new) if row.guard is old else row for row in ha.TABLE))


def without(patch: Patch, old: Guard, condition: Callable[[View, int], bool]) -> None:
    """A guard that lacks one of its conditions."""
    left = [each for each in conditions_of(old) if each.holds is not condition]
    assert len(left) == len(conditions_of(old)) - 1
    guard(patch, old, all_of(*left))


def never(view: View, now_ms: int) -> bool:
    """A row that is gone."""
    return False


def _last(acts: Acts, kind: type[Action], **fields: Any) -> None:
    """Falsify the action that was just recorded."""
    last = acts.actions[-1]
    assert isinstance(last, kind)
    acts.actions[-1] = last._replace(**fields)  # type: ignore[union-attr, call-arg]


# --- order rules ------------------------------------------------------------------------------------------------------------


def o1_confirm_alone_while_the_disk_says_paired(patch: Patch) -> None:
    claim = Acts.claim

    def broken(self: Acts, now_ms: int, reason: str) -> None:
        claim(self, now_ms, reason)
        self.facts = self.facts._replace(standing=Standing.PAIRED)
        _last(self, Claim, facts=self.facts)

    patch.setattr(Acts, "claim", broken)


def o2_grant_while_the_disk_says_sole(patch: Patch) -> None:
    pair_up = Acts.pair_up

    def broken(self: Acts, now_ms: int, reason: str) -> None:
        pair_up(self, now_ms, reason)
        _last(self, PairUp, facts=self.facts._replace(standing=Standing.SOLE))

    patch.setattr(Acts, "pair_up", broken)


def o3_behind_is_not_written(patch: Patch) -> None:
    def broken(self: Acts, now_ms: int) -> None:
        self.step = Step.FOLLOW
        self.actions.append(Follow(self.facts))

    patch.setattr(Acts, "follow", broken)
    rows = tuple(row._replace(act=lambda each, now_ms: each.follow(now_ms)) if row.name == "T2" else row for row in ha.TABLE)
    patch.setattr(ha, "TABLE", rows)


def o3_paired_for_another_position(patch: Patch) -> None:
    hear = HA._hear_grant

    def broken(self: HA, grant: Grant, now_ms: int) -> None:
        if self.state is State.PASSIVE_SYNC:
            self.position = grant.position
        hear(self, grant, now_ms)

    patch.setattr(HA, "_hear_grant", broken)


def o4_the_epoch_stays_at_a_claim(patch: Patch) -> None:
    claim = Acts.claim

    def broken(self: Acts, now_ms: int, reason: str, *, unseen: bool = False) -> None:
        old = max(self.facts.epoch, self.epoch)
        claim(self, now_ms, reason, unseen=unseen)
        if old.counter:
            self.facts = self.facts._replace(epoch=old)
            _last(self, Claim, facts=self.facts, epoch=old)

    patch.setattr(Acts, "claim", broken)


def o4_no_nonce(patch: Patch) -> None:
    """Two that claim at once have one epoch."""
    claim = Acts.claim

    def broken(self: Acts, now_ms: int, reason: str, *, unseen: bool = False) -> None:
        claim(self, now_ms, reason, unseen=unseen)
        epoch = Epoch(self.facts.epoch.counter, 0)
        self.facts = self.facts._replace(epoch=epoch)
        _last(self, Claim, facts=self.facts, epoch=epoch)

    patch.setattr(Acts, "claim", broken)


def o5_confirm_before_the_peer_has_it(patch: Patch) -> None:
    def broken(self: GroupCommit) -> int:
        return self.flushed_txn if self._ha.state in (State.ACTIVE, State.STANDALONE) else -1

    patch.setattr(GroupCommit, "durable_txn", broken)


def o5_confirm_alone_before_the_flush(patch: Patch) -> None:
    durable, begin = GroupCommit.durable_txn, GroupCommit.begin

    def broken(self: GroupCommit) -> int:
        alone = self._ha.state is State.STANDALONE and self._ha.step is Step.NONE
        return self._unconfirmed[-1][1] if alone and self._unconfirmed else durable(self)

    def early(self: GroupCommit, now_ms: int) -> list[Commit]:
        return [commit._replace(early=True) for commit in begin(self, now_ms)]

    patch.setattr(GroupCommit, "durable_txn", broken)
    patch.setattr(GroupCommit, "begin", early)


def o5_confirm_before_the_own_flush(patch: Patch) -> None:
    def broken(self: GroupCommit) -> int:
        if self._ha.step is not Step.NONE:
            return -1
        if self._ha.state is State.STANDALONE:
            return self.flushed_txn
        paired = self._ha.state is State.ACTIVE and self._ha.granted and self._source.acked.epoch == self._ha.epoch
        return self._source.acked.txn if paired else -1

    patch.setattr(GroupCommit, "durable_txn", broken)


def o5_acknowledge_before_the_journal_is_durable(patch: Patch) -> None:
    take = Follower._take

    def broken(self: Follower, piece: Piece, frames: tuple[bytes, ...]) -> None:
        take(self, piece, frames)
        if self.whole:
            self.position = piece.position
            self._tell(self._told_ms)

    patch.setattr(Follower, "_take", broken)


def o5_acks_of_any_epoch_count(patch: Patch) -> None:
    def broken(self: GroupCommit) -> int:
        if self._ha.step is not Step.NONE:
            return -1
        return min(self._source.acked.txn, self.flushed_txn) if self._ha.state is State.ACTIVE else self.flushed_txn

    patch.setattr(GroupCommit, "durable_txn", broken)


def o7_announce_before_it_is_durable(patch: Patch) -> None:
    beat = Acts.beat

    def broken(self: Acts, now_ms: int) -> None:
        if self.step is not Step.CLAIM:
            beat(self, now_ms)
            return
        kept = self.durable, self.state, self.step
        self.durable, self.state, self.step = self.facts, State.STANDALONE, Step.NONE
        beat(self, now_ms)
        self.durable, self.state, self.step = kept

    patch.setattr(Acts, "beat", broken)


# --- freshness rules --------------------------------------------------------------------------------------------------------


def f1_contact_is_dated_by_arrival(patch: Patch) -> None:
    hear = Contact.hear_echo

    def broken(self: Contact, path: int, echo: Echo, now_ms: int, lost_ms: int) -> None:
        hear(self, path, echo, now_ms, lost_ms)
        if self.paths[path].heard_ms == now_ms:
            self.paths[path].contact_ms = now_ms

    patch.setattr(Contact, "hear_echo", broken)


def f2_old_contact_is_good_enough(patch: Patch) -> None:
    stale = Pulse.stale

    def broken(self: Pulse, now_ms: int) -> bool:
        return stale(self, now_ms) and self.contact.beat is None

    patch.setattr(Pulse, "stale", broken)


def f3_an_own_gap_is_not_noticed(patch: Patch) -> None:
    patch.setattr(HA, "begin_turn", lambda self, now_ms: setattr(self, "turn_ms", now_ms))


def f2_and_f3_and_no_doubt(patch: Patch) -> None:
    f3_an_own_gap_is_not_noticed(patch)
    f2_old_contact_is_good_enough(patch)
    guard(patch, HA.doubtful, never)


def f4_older_facts_count(patch: Patch) -> None:
    hear = Contact.hear_beat

    def broken(self: Contact, path: int, beat: Beat, now_ms: int) -> bool:
        if beat.session == self.peer_session:
            self.beat, self.paths[path].seq = None, 0
        return hear(self, path, beat, now_ms)

    patch.setattr(Contact, "hear_beat", broken)


def f5_behind_may_be_elected(patch: Patch) -> None:
    def broken(self: View, now_ms: int) -> bool:
        peer = self.contact.beat
        if peer is None or not self.fresh(now_ms) or self.leaving or peer.state is not State.WAITING or not self.store_present:
            return False
        mine = (self.epoch.counter, self.position.txn, self.identity.primary)
        return mine > (peer.epoch.counter, peer.position.txn, not self.identity.primary)

    guard(patch, HA.elected, broken)


def f6_a_missing_echo_is_silence(patch: Patch) -> None:
    without(patch, HA.window_complete, View.silent)
    guard(patch, HA.deaf_peer, never)


def f7_a_failed_probe_is_forgiven(patch: Patch) -> None:
    patch.setattr(Vote, "failed_since", lambda self, since_ms: False)
    without(patch, HA.window_complete, View.lan_settled)


# --- others -----------------------------------------------------------------------------------------------------------------


def refused_connections_are_a_death(patch: Patch) -> None:
    lost = ControlSocket.lost

    def broken(self: ControlSocket, connection: Connection) -> None:
        lost(self, connection)
        process, peer = self._process, self.host.peer
        if peer.process is None or all(process.cluster.cables.resetting):
            process.notice(peer.name, process.broker.ha.contact.peer_session.incarnation)

    patch.setattr(ControlSocket, "lost", broken)


def any_death_notice_is_obeyed(patch: Patch) -> None:
    hear = HA.hear_death

    def broken(self: HA, node_id: str, incarnation: int, now_ms: int) -> None:
        hear(self, self.identity.peer_id, self.contact.peer_session.incarnation, now_ms)

    patch.setattr(HA, "hear_death", broken)


def offsets_outlive_their_branch(patch: Patch) -> None:
    subscribed = Subscription.subscribed
    patch.setattr(Subscription, "subscribed", lambda self, taken, epochs=None, queue=0: subscribed(self, taken, queue=queue))


def drop_dedupe(patch: Patch) -> None:
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


def paired_resumes_alone(patch: Patch) -> None:
    """What ``resume_alone = available`` allows (I3)."""
    resumes_alone = HA.resumes_alone

    def broken(self: View, now_ms: int) -> bool:
        self.identity = self.identity._replace(resume_alone=True)
        return resumes_alone(self, now_ms)

    guard(patch, HA.resumes_alone, broken)


def a_client_obeys_any_epoch(patch: Patch) -> None:
    patch.setattr(Failover, "highest", property(lambda self: NO_EPOCH, lambda self, epoch: None), raising=False)


def the_higher_epoch_is_ignored(patch: Patch) -> None:
    guard(patch, HA.peer_leads, never)
    guard(patch, HA.master_gone_solo, never)


def the_plain_rule(patch: Patch) -> None:
    """Peer lost and an answer of the gateway now: no F6, no F7, no unbroken series."""

    def broken(self: View, now_ms: int) -> bool:
        return self.age(now_ms) > self.timers.decide_ms and bool(self.vote.answers())

    guard(patch, HA.window_complete, broken)
    guard(patch, HA.doubtful, never)
    guard(patch, HA.deaf_peer, never)


def _client() -> Failover:
    return Failover(["a:1", "b:1"], Options(), Random(1), 0)


PLAIN = {"cut_link": 5, "cut_lan": 3, "gateway": 3, "kill": 1}
HA_TEST, BROKER_TEST, CLIENT_TEST = "tests.core.test_ha", "tests.core.test_broker", "tests.client.test_failover"
SEEDS = tuple(range(1, 25))
STALE = "serves alone at .* without message"
TWO = f"both servers are STANDALONE|{STALE}"


def a_damaged_server_stays(patch: Patch) -> None:
    """T18: what the scrub found changes nothing. (What a commit came upon does: nothing goes on then.)"""
    guard(patch, HA.is_damaged, lambda view, now_ms: view.store_halted and bool(view.damage))


PLANTED: dict[str, Planted] = {
    "O1 SOLE is not written": Planted(o1_confirm_alone_while_the_disk_says_paired, Runs(3), "O1"),
    "O2 grant before SOLE is given up": Planted(
        o2_grant_while_the_disk_says_sole, Story(scenarios.the_stale_one_returns_first), STALE
    ),
    "O3 BEHIND is not written": Planted(o3_behind_is_not_written, Story(scenarios.restart_during_the_copy), STALE),
    "O3 PAIRED for another position": Planted(
        o3_paired_for_another_position, Story(scenarios.the_last_pages_are_on_their_way, SEEDS), STALE
    ),
    "O4 the epoch stays at a claim": Planted(o4_the_epoch_stays_at_a_claim, Runs(3), "the pair is in sync|A1 holds"),
    "O4 an epoch without a nonce": Planted(o4_no_nonce, Story(scenarios.two_that_serve_meet, SEEDS), "one of two epochs stops"),
    "O5 confirm before the peer has it": Planted(o5_confirm_before_the_peer_has_it, Runs(3), "O5"),
    "O5 confirm alone before the flush": Planted(o5_confirm_alone_before_the_flush, Runs(3), "O5"),
    "O5 confirm before the own flush": Planted(o5_confirm_before_the_own_flush, Runs(6), "O5"),
    "O5 acknowledge before the journal is durable": Planted(o5_acknowledge_before_the_journal_is_durable, Runs(3), "O5"),
    "O5 acknowledgements of any epoch count": Planted(
        o5_acks_of_any_epoch_count,
        Unit(BROKER_TEST, "test_a_commit_is_releasable_only_under_the_epoch_in_which_the_peer_acknowledged_it"),
        "test_a_commit",
    ),
    "O7 announce before it is durable": Planted(o7_announce_before_it_is_durable, Runs(3), "O7"),
    "F1 contact is dated by arrival": Planted(
        f1_contact_is_dated_by_arrival,
        Unit("tests.core.test_contact", "test_contact_is_the_own_send_time_of_the_newest_echoed_beat_not_its_arrival"),
        "test_contact",
    ),
    "F2 old contact is good enough": Planted(
        f2_old_contact_is_good_enough, Unit(HA_TEST, "test_f2_a_grant_is_obeyed_only_in_fresh_contact"), "test_f2"
    ),
    "F3 an own gap is not noticed": Planted(
        f3_an_own_gap_is_not_noticed,
        Unit(HA_TEST, "test_t9_f3_an_own_gap_ends_the_role_and_the_session", lambda: ("passive",)),
        "test_t9_f3",
    ),
    "F2, F3 and doubt dropped": Planted(f2_and_f3_and_no_doubt, Story(scenarios.stale_grant, SEEDS), STALE),
    "F4 older facts count": Planted(
        f4_older_facts_count, Unit(HA_TEST, "test_f4_older_facts_that_arrive_late_are_ignored"), "test_f4"
    ),
    "F5 BEHIND may be elected": Planted(
        f5_behind_may_be_elected, Unit(HA_TEST, "test_f5_a_behind_server_never_claims_whatever_the_numbers_say"), "test_f5"
    ),
    "F6 a missing echo is silence": Planted(f6_a_missing_echo_is_silence, Story(scenarios.lasting_one_way_cut, SEEDS), TWO),
    "F7 a failed probe is forgiven": Planted(
        f7_a_failed_probe_is_forgiven, Story(scenarios.a_failed_probe_between_answers, SEEDS), TWO
    ),
    "a refused connection is a death": Planted(refused_connections_are_a_death, Runs(10, SETS["restarts"]), "T8e"),
    "any death notice is obeyed": Planted(any_death_notice_is_obeyed, Runs(10, SETS["notices"]), "T8e"),
    "the higher epoch is ignored": Planted(
        the_higher_epoch_is_ignored, Story(scenarios.two_that_serve_meet, SEEDS), "one of two epochs stops"
    ),
    "a client obeys any epoch": Planted(
        a_client_obeys_any_epoch,
        Unit(CLIENT_TEST, "test_a_lower_epoch_than_the_highest_seen_is_a_zombie", lambda: (_client(),)),
        "test_a_lower",
    ),
    "offsets outlive their branch": Planted(
        offsets_outlive_their_branch,
        Unit("tests.client.test_consumer", "test_in_the_store_of_another_branch_known_offsets_are_forgotten_and_shown_again"),
        "another_branch",
    ),
    "a damaged server stays": Planted(a_damaged_server_stays, Runs(6, {"rot": 3, "kill": 1}), "damaged"),
    "no de-duplication": Planted(drop_dedupe, Runs(3, {"kill": 3, "client": 6}), "stored twice"),
    "PAIRED may resume alone": Planted(paired_resumes_alone, Story(scenarios.the_stale_one_returns_first), STALE),
    "the plain rule": Planted(the_plain_rule, Runs(10, PLAIN, datagrams=False), STALE),
}
