"""The rows of the HA table and the rules around it, each as a sentence: given / when / then."""

import pytest

from tests.core.ha_rig import E1, E2, E3, LINE, Rig, at, entry
from zmqha.core import actions as act
from zmqha.core.actions import ResetPath
from zmqha.core.contact import LONG_AGO
from zmqha.core.events import KeepRefused
from zmqha.core.limits import EPOCH_LEAP
from zmqha.core.lost_branch import LostBranch
from zmqha.core.peer_protocol import NO_SESSION, Beat, Drop, Grant, Session, Standing, State, Sub
from zmqha.core.position import NOWHERE, Epoch, Mode
from zmqha.core.table import TABLE
from zmqha.core.timers import REJOIN_MS
from zmqha.core.view import KEEP_AGAIN_MS, Step
from zmqha.errors import OperationFailed, StoreDamaged, StoreFull, Unfinished

# --- start and waiting ------------------------------------------------------------------------------------------------------


def test_t1_a_server_starts_waiting_and_looks_at_its_store_first() -> None:
    rig = Rig()
    assert (rig.state, rig.ha.step) == (State.WAITING, Step.INSPECT)
    assert isinstance(rig.done[0], act.StandDown)


def test_t1_paired_without_a_store_is_behind() -> None:
    rig = Rig(lineage=())
    rig.position = rig.position._replace(txn=0, chain=bytes(32), epoch=Epoch(0, 0))
    rig.silence()
    rig.run(50)
    assert rig.ha.durable.standing is Standing.BEHIND


def test_t2_a_waiting_server_copies_from_a_lone_one_and_says_behind_before_the_first_page() -> None:
    rig = Rig(primary=False)
    rig.copying()
    follow = rig.asked(act.Follow)[0]
    assert isinstance(follow, act.Follow)
    assert follow.facts.standing is Standing.BEHIND  # O3
    assert rig.ha.durable.standing is Standing.BEHIND


def diverged(*, merges: bool = True) -> Rig:
    """Both served alone; the other one serves on."""
    mine = (*LINE, entry(Epoch(3, 99), Mode.SOLE, 8))
    rig = Rig(standing=Standing.SOLE, lineage=mine, epoch=Epoch(3, 99), position=at(Epoch(3, 99), 9), merges=merges)
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=Epoch(9, 9), position=at(Epoch(9, 9), 12),
            lineage=(*LINE, entry(Epoch(9, 9), Mode.SOLE, 10)))  # fmt: skip
    rig.run(300)
    assert rig.state is State.WAITING
    assert rig.ha.diverged is not None
    assert rig.ha.durable.standing is Standing.BEHIND
    return rig


def test_t2_a_store_that_diverged_is_not_overwritten() -> None:
    rig = diverged(merges=False)
    rig.run(2000)
    assert not rig.asked(act.Follow) and not rig.asked(act.KeepBranch)
    rig.ha.merge()
    rig.run(50)
    assert rig.asked(act.KeepBranch) == [act.KeepBranch(7, keep=True)]


def test_t2_merge_the_store_is_kept_first_and_copied_over_only_when_the_winner_has_everything() -> None:
    rig = diverged()
    assert rig.asked(act.KeepBranch) == [act.KeepBranch(7, keep=True)]
    assert rig.ha.sub(rig.now_ms) is Sub.MERGING and rig.ha.whole_copy_only is False
    rig.ha.branch_kept()
    rig.run(2000)
    assert rig.ha.merging and rig.ha.whole_copy_only
    assert not rig.asked(act.Follow)
    rig.ha.branch_merged(Epoch(9, 9))
    assert rig.ha.held.position == NOWHERE  # nothing is laid over the kept file
    rig.run(50)
    assert rig.asked(act.Follow) and rig.state is State.PASSIVE_SYNC


def test_t2_merge_a_damaged_store_is_handed_over_only_by_an_operators_order() -> None:
    rig = diverged(merges=False)
    rig.ha.facts = rig.ha.facts._replace(doubted=True)
    rig.ha.identity = rig.ha.identity._replace(merges=True)
    rig.run(1000)
    assert not rig.asked(act.KeepBranch)
    rig.ha.merge()
    rig.run(50)
    assert len(rig.asked(act.KeepBranch)) == 1


def test_t2_merge_ends_with_the_winners_session_and_begins_again_with_the_next() -> None:
    rig = diverged()
    rig.ha.branch_kept()
    rig.say(session=Session(8, 1), state=State.WAITING)
    rig.run(300)
    assert not rig.ha.merging
    rig.say(state=State.STANDALONE, epoch=Epoch(10, 1), position=at(Epoch(10, 1), 13), number=2,
            lineage=(*LINE, entry(Epoch(9, 9), Mode.SOLE, 10), entry(Epoch(10, 1), Mode.SOLE, 13)))  # fmt: skip
    rig.run(300)
    assert len(rig.asked(act.KeepBranch)) == 2


def test_t2_merge_a_store_that_cannot_be_kept_is_tried_again_later_and_never_handed_over() -> None:
    rig = diverged()
    rig.ha.keep_failed("no room", rig.now_ms)
    rig.run(1000)
    assert len(rig.asked(act.KeepBranch)) == 1 and not rig.ha.merging
    rig.run(5000)
    assert len(rig.asked(act.KeepBranch)) == 2


def test_a_discard_that_the_disk_had_no_room_for_is_ordered_again_and_nothing_is_handed_over_meanwhile() -> None:
    rig = diverged()
    rig.ha.keep_failed("no room", rig.now_ms)
    branch, order = LostBranch(rig.ha), act.StandDown(discard=True)
    branch.receive(KeepRefused(StoreFull("no room"), order), rig.now_ms)
    for _ in range(KEEP_AGAIN_MS // 100):
        rig.run(100)
        branch.tick(rig.now_ms)
    assert branch.discarding and rig.ha.diverged is not None
    assert (rig.asked(act.StandDown).count(order), len(rig.asked(act.KeepBranch))) == (0, 1)
    rig.run(100)
    branch.tick(rig.now_ms)
    rig.run(100)
    assert not branch.discarding and rig.asked(act.StandDown).count(order) == 1


def test_a_promotion_ends_a_discard_that_waits_for_room() -> None:
    rig = diverged(merges=False)
    branch = LostBranch(rig.ha)
    branch.receive(KeepRefused(StoreFull("no room"), act.StandDown(discard=True)), rig.now_ms)
    rig.silence()
    rig.run(2000)
    rig.ha.promote("me", "now", rig.now_ms)
    rig.run(100)
    branch.tick(rig.now_ms)
    assert rig.state is State.STANDALONE and not branch.discarding


def test_a_branch_that_could_not_be_counted_is_counted_again_and_that_answers_no_other_order() -> None:
    """The policy is to wait for an operator; he asks what a merge would bring."""
    rig = diverged(merges=False)
    branch, order = LostBranch(rig.ha), act.KeepBranch(7, keep=False)

    def asks(for_ms: int) -> int:
        for _ in range(for_ms // 100):
            rig.run(100)
            branch.tick(rig.now_ms)
        return branch.take_actions().count(order)

    assert asks(1000) == 1
    branch.receive(KeepRefused(StoreFull("no room"), order), rig.now_ms)
    assert asks(KEEP_AGAIN_MS) == 0 and "no room" in branch.uncounted
    assert asks(200) == 1
    rig.ha.merge()
    rig.run(50)
    branch.receive(KeepRefused(StoreFull("no room"), order), rig.now_ms)
    assert rig.ha.step is Step.KEEP, "the order to keep it has not been answered"


def test_t2_merge_ends_when_the_kept_store_cannot_be_read_and_is_tried_again_later() -> None:
    rig = diverged()
    rig.ha.branch_kept()
    LostBranch(rig.ha).receive(KeepRefused(StoreDamaged("it cannot be read"), act.ReadBranch(1, True, 1, 1)), rig.now_ms)
    rig.run(1000)
    assert not rig.ha.merging and not rig.asked(act.Follow)
    assert "cannot be read" in rig.ha.keep_refused and len(rig.asked(act.KeepBranch)) == 1
    rig.run(5000)
    assert len(rig.asked(act.KeepBranch)) == 2


def test_a_store_that_was_merged_into_another_branch_is_merged_again() -> None:
    rig = diverged()
    rig.ha.branch_kept()
    rig.ha.branch_merged(Epoch(77, 7))  # the peer's lineage does not know that epoch
    rig.run(300)
    assert not rig.asked(act.Follow) and len(rig.asked(act.KeepBranch)) == 2


@pytest.mark.parametrize("wrong", [{"version": 99}, {"primary": True}])
def test_a_peer_of_another_version_is_not_granted_even_if_it_copies(wrong: dict[str, object]) -> None:
    rig = Rig().feeding()
    rig.say(number=2, **wrong)
    rig.run(3000)
    assert rig.state is State.STANDALONE and not rig.asked(act.PairUp)


@pytest.mark.parametrize("wrong", [{"version": 99}, {"primary": True}])
def test_t2_needs_a_peer_that_fits(wrong: dict[str, object]) -> None:
    rig = Rig(primary=True)
    lineage = (*LINE, entry(E3, Mode.SOLE, 10))
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=E3, position=at(E3, 12), lineage=lineage, **wrong)
    rig.run(300)
    assert rig.state is State.WAITING
    assert rig.ha.mismatch()


def test_t3_the_better_store_of_two_that_wait_serves() -> None:
    rig = Rig().standalone()
    claim = rig.asked(act.Claim)[0]
    assert isinstance(claim, act.Claim)
    assert claim.facts.standing is Standing.SOLE
    assert claim.epoch.counter == 3  # highest counter seen from either, plus one


def test_t3_sole_beats_a_longer_paired_store_of_the_same_epoch() -> None:
    rig = Rig(standing=Standing.SOLE)
    rig.say(standing=Standing.PAIRED, epoch=E2, position=at(E2, 50))
    rig.run(200)
    assert rig.state is State.STANDALONE


def test_t3_waits_while_the_peer_has_not_looked_at_its_store() -> None:
    rig = Rig()
    rig.say(sub=Sub.STARTING, epoch=E1, position=at(E1, 1))
    rig.run(300)
    assert rig.state is State.WAITING


def test_t4_the_worse_store_waits() -> None:
    rig = Rig()
    rig.say(epoch=E3, standing=Standing.SOLE, position=at(E3, 3))
    rig.run(500)
    assert rig.state is State.WAITING
    assert not rig.asked(act.Claim)


def test_f5_a_behind_server_never_claims_whatever_the_numbers_say() -> None:
    rig = Rig(standing=Standing.BEHIND, position=at(E3, 500), epoch=E3)
    rig.say(epoch=E1, position=at(E1, 1), standing=Standing.BEHIND)
    rig.run(3000)
    assert rig.state is State.WAITING


def test_t5_a_sole_server_resumes_alone_when_the_gateway_answers_without_a_break() -> None:
    rig = Rig(standing=Standing.SOLE)
    rig.silence()
    rig.run(1900)  # both ends may still be connecting
    assert rig.state is State.WAITING
    rig.run(400)
    assert rig.state is State.STANDALONE


def test_t5_a_datagram_of_a_peer_that_has_not_connected_yet_is_a_sign_of_life() -> None:
    rig = Rig(standing=Standing.SOLE)
    rig.silence()
    stranger = Beat(
        Session(7, 1), 1, 0, State.STANDALONE, Sub.NONE, "", Standing.SOLE, E2, at(E2, 9), False, False, True, 0, False,
        (NO_SESSION, 0), NO_SESSION,
    )  # fmt: skip
    for _ in range(50):
        rig.run(100)
        rig.ha.contact.hear_beat(0, stranger, rig.now_ms)
    assert rig.state is State.WAITING


def test_t5_a_failed_probe_begins_the_window_anew() -> None:
    rig = Rig(standing=Standing.SOLE)
    rig.silence()
    rig.run(1500)
    rig.gateway = False
    rig.run(400)
    rig.gateway = True
    rig.run(300)
    assert rig.state is State.WAITING
    rig.run(900)
    assert rig.state is State.STANDALONE


@pytest.mark.parametrize("standing", [Standing.NEW, Standing.PAIRED, Standing.BEHIND])
def test_t6_nobody_else_serves_without_meeting_its_peer(standing: Standing) -> None:
    rig = Rig(standing=standing)
    rig.silence()
    rig.run(5000)
    assert rig.state is State.WAITING


def test_t6_the_operator_may_promote_and_it_is_written_down() -> None:
    rig = Rig()
    rig.silence()
    rig.run(100)
    rig.ha.promote("ann", "today", rig.now_ms)
    rig.run(100)
    assert rig.state is State.STANDALONE
    assert "ann" in rig.ha.durable.audit[0]


def claimed(rig: Rig) -> Epoch:
    claim = rig.asked(act.Claim)[-1]
    assert isinstance(claim, act.Claim)
    return claim.epoch


def test_o4_a_promotion_leaps_over_every_epoch_that_the_peer_may_have_served_alone_in() -> None:
    """Clients that have seen a higher one would refuse this server for ever."""
    rig = Rig()
    rig.silence()
    rig.run(100)
    rig.ha.promote("ann", "today", rig.now_ms)
    rig.run(50)
    assert claimed(rig).counter == E2.counter + EPOCH_LEAP


def test_o4_a_claim_is_above_the_epochs_that_a_copy_brought_too() -> None:
    """node.state has not seen them: BEHIND, and the store is the copy of one that served alone several times."""
    rig = Rig(
        standing=Standing.PAIRED, epoch=E1, position=at(Epoch(6, 66), 9), lineage=(*LINE, entry(Epoch(6, 66), Mode.SOLE, 8))
    )
    rig.say(state=State.WAITING, standing=Standing.BEHIND, epoch=E1, position=at(Epoch(7, 77), 3))
    rig.run(300)
    assert claimed(rig).counter == 8, "and above what a peer without its node.state has in its store"


@pytest.mark.parametrize(
    ("standing", "peer", "leaps"),
    [
        (Standing.PAIRED, Standing.NEW, True), (Standing.PAIRED, Standing.BEHIND, False), (Standing.SOLE, Standing.NEW, False),
        (Standing.PAIRED, Standing.PAIRED, False),
    ],
)  # fmt: skip
def test_o4_t3_leaps_where_the_peers_disk_was_replaced(standing: Standing, peer: Standing, leaps: bool) -> None:
    rig = Rig(standing=standing)
    rig.say(state=State.WAITING, standing=peer, epoch=E1, position=NOWHERE)
    rig.run(300)
    assert (claimed(rig).counter > EPOCH_LEAP) is leaps


def test_o4_t5_leaps_where_a_paired_server_resumes_without_its_peer() -> None:
    rig = Rig(resume_alone=True)
    rig.silence()
    rig.run(4000)
    assert claimed(rig).counter == E2.counter + EPOCH_LEAP


def test_promote_is_refused_while_the_peer_serves() -> None:
    rig = Rig()
    rig.say(state=State.ACTIVE, epoch=E3)
    rig.run(200)
    with pytest.raises((OperationFailed, Unfinished)):
        rig.ha.promote("ann", "today", rig.now_ms)


def test_promote_is_refused_while_the_peer_is_heard_to_serve_though_it_does_not_hear_this_server() -> None:
    rig = Rig()
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=E3, hears=False)
    rig.peer.echoes = False
    rig.run(1000)
    with pytest.raises(OperationFailed, match="the peer is there"):
        rig.ha.promote("ann", "today", rig.now_ms)
    rig.silence()
    rig.run(1000)
    rig.ha.promote("ann", "today", rig.now_ms)


def test_t19_two_new_servers_begin_with_the_primary() -> None:
    for primary, state in ((True, State.STANDALONE), (False, State.WAITING)):
        rig = Rig(standing=Standing.NEW, primary=primary)
        rig.say(standing=Standing.NEW, epoch=Epoch(0, 0), position=rig.position, lineage=())
        rig.run(300)
        assert rig.state is state


def test_a_new_server_discards_the_store_of_a_first_claim_that_was_cut_short() -> None:
    rig = Rig(standing=Standing.NEW, position=at(Epoch(1, 3), 1))
    rig.say(standing=Standing.NEW, epoch=Epoch(0, 0), position=NOWHERE, lineage=())
    rig.run(300)
    assert rig.state is State.STANDALONE
    assert rig.asked(act.StandDown) == [act.StandDown(), act.StandDown(discard=True)]


def test_a_new_server_with_a_store_that_was_written_to_is_behind() -> None:
    rig = Rig(standing=Standing.NEW, position=at(Epoch(1, 3), 2))
    rig.run(300)
    assert rig.state is State.WAITING and rig.ha.durable.standing is Standing.BEHIND


def test_a_server_without_a_peer_serves_at_once() -> None:
    rig = Rig(standing=Standing.NEW, peer=False)
    rig.peer.speaks = False
    rig.run(50)
    assert rig.state is State.STANDALONE


# --- serving together -------------------------------------------------------------------------------------------------------


def test_t7_one_lost_path_changes_nothing() -> None:
    rig = Rig().active()
    for _ in range(300):
        rig.step()
        rig.ha.contact.paths[0].heard_ms = rig.ha.contact.paths[0].contact_ms = LONG_AGO
    assert rig.state is State.ACTIVE
    assert rig.ha.granted


@pytest.mark.parametrize("role", ["active", "passive"])
def test_t8_silence_and_an_answering_gateway_for_a_whole_window_is_a_claim(role: str) -> None:
    rig = getattr(Rig(primary=role == "active"), role)()
    rig.silence()
    rig.run(450)
    assert rig.ha.step is Step.NONE
    rig.store_answers = False
    rig.run(400)
    assert rig.ha.step is Step.CLAIM
    assert rig.ha.sub(rig.now_ms) is Sub.CLAIMING  # O7: said, not served
    rig.store_answers = True
    rig.run(20)
    assert rig.state is State.STANDALONE


def test_t8_waits_longer_after_a_failed_probe_because_the_lan_path_may_still_be_connecting() -> None:
    rig = Rig().active()
    rig.run(400)
    rig.ha.vote.record(rig.now_ms - 300, False)
    rig.run(600)
    failed_ms = rig.ha.vote.last_failed_ms
    assert failed_ms is not None
    rig.silence()
    rig.run(1000)
    assert rig.state is State.ACTIVE
    rig.run(REJOIN_MS)
    assert rig.state is State.STANDALONE


def test_t8e_an_authentic_death_notice_shortens_the_window() -> None:
    rig = Rig(primary=False).passive()
    rig.silence()
    rig.ha.hear_death("b", 7, rig.now_ms)
    rig.run(50)
    assert rig.state is State.STANDALONE


@pytest.mark.parametrize("notice", [("b", 6), ("c", 7)])
def test_t8e_a_notice_of_somebody_else_or_of_another_incarnation_is_nothing(notice: tuple[str, int]) -> None:
    rig = Rig(primary=False).passive()
    rig.ha.hear_death(*notice, rig.now_ms)
    rig.run(100)
    assert rig.state is State.PASSIVE


def test_t8e_needs_the_right_and_an_answer_of_the_gateway() -> None:
    rig = Rig(primary=False).passive()
    rig.gateway = False
    rig.silence()
    rig.ha.hear_death("b", 7, rig.now_ms)
    rig.run(100)
    assert rig.state is State.PASSIVE


@pytest.mark.parametrize("role", ["active", "passive"])
def test_t9_f7_one_failed_probe_in_the_window_kills_the_right_for_good(role: str) -> None:
    rig = getattr(Rig(primary=role == "active"), role)()
    rig.silence()
    rig.run(420)
    rig.gateway = False
    rig.run(250)
    rig.gateway = True
    rig.run(3000)
    assert rig.state is State.WAITING
    assert len(rig.asked(act.Claim)) == (1 if role == "active" else 0)


@pytest.mark.parametrize("role", ["active", "passive", "copying"])
def test_t9_f3_an_own_gap_ends_the_role_and_the_session(role: str) -> None:
    rig = getattr(Rig(primary=role == "active"), role)()
    before = rig.ha.contact.session
    rig.silence()
    rig.stop(400)
    assert rig.state is State.WAITING
    assert rig.ha.contact.session > before
    assert len(rig.asked(act.ResetPath)) >= 2


def test_f3_a_standalone_server_stays_standalone_over_a_gap() -> None:
    rig = Rig().standalone()
    rig.stop(2000)
    rig.run(100)
    assert rig.state is State.STANDALONE


def test_f6_the_hearing_server_yields_to_the_deaf_one() -> None:
    rig = Rig().active()
    rig.say(hears=False)
    rig.step()
    assert rig.state is State.WAITING


def test_f6_a_missing_echo_alone_is_no_claim() -> None:
    rig = Rig().active()
    claims = len(rig.asked(act.Claim))
    rig.peer.echoes = False
    rig.run(3000)
    assert len(rig.asked(act.Claim)) == claims
    assert rig.state is State.WAITING


def test_f1_contact_is_dated_by_the_own_clock_at_the_own_send() -> None:
    rig = Rig().active()
    sent_ms = rig.ha.contact.contact_ms
    rig.peer.echoes = False
    rig.run(300)
    assert rig.ha.contact.contact_ms - sent_ms <= 250
    assert rig.ha.contact.heard_ms > rig.now_ms - 60


def test_f4_older_facts_that_arrive_late_are_ignored() -> None:
    rig = Rig().active()
    old = rig.ha.contact.beat
    assert old is not None
    rig.say(state=State.PASSIVE)
    rig.hear(old.__class__(**{name: getattr(old, name) for name in old.__struct_fields__} | {"state": State.WAITING}))
    rig.step()
    assert (rig.state, rig.ha.step) == (State.ACTIVE, Step.NONE)


@pytest.mark.parametrize("role", ["active", "passive"])
def test_t10_a_peer_that_says_it_has_no_role_is_followed_on_at_once(role: str) -> None:
    rig = getattr(Rig(primary=role == "active"), role)()
    rig.say(state=State.WAITING, session=Session(7, 2), seq=0)
    rig.run(120)
    assert rig.state is State.STANDALONE


@pytest.mark.parametrize("higher", [{"epoch": Epoch(9, 9)}, {"standing": Standing.SOLE}])
def test_t10_yields_to_a_waiting_peer_that_knows_more(higher: dict[str, object]) -> None:
    rig = Rig(primary=False).passive()
    rig.say(state=State.WAITING, session=Session(7, 2), seq=0, position=at(Epoch(9, 9), 50), **higher)
    rig.run(120)
    assert rig.state is State.WAITING


def test_t11_a_full_disk_or_a_drop_of_the_active_ends_the_passive() -> None:
    rig = Rig(primary=False).passive()
    rig.ha.give_up_copy("this server's disk is full")
    rig.run(20)
    assert (rig.state, rig.ha.reason) == (State.WAITING, "this server's disk is full")
    rig = Rig(primary=False).passive()
    rig.hear(Drop(rig.peer.session, rig.ha.contact.session, "too slow"))
    assert rig.state is State.WAITING


def test_a_passive_whose_full_disk_takes_not_even_its_journal_stays_what_it_is_and_looks_again() -> None:
    rig = Rig(primary=False).passive()
    rig.no_room = True
    rig.ha.give_up_copy("this server's disk is full")
    rig.run(3500)
    assert (rig.state, rig.ha.reason, rig.ha.durable.standing) == (State.WAITING, "the disk is full", Standing.PAIRED)
    assert rig.ha.sub(rig.now_ms) is Sub.STARTING, "no facts for an election"
    assert 3 <= len(rig.asked(act.StandDown)) - 1 <= 5
    with pytest.raises(Unfinished) as refused:
        rig.ha.promote("me", "now", rig.now_ms)
    assert (refused.value.cause, refused.value.cure) == ("the disk is full", "free disk space")

    rig.no_room = False
    rig.run(1500)
    assert rig.ha.step is Step.NONE
    assert rig.ha.held.position == rig.position != NOWHERE


def test_a_claim_that_finds_no_room_is_followed_by_one_look_at_the_store_however_long_that_takes() -> None:
    """Applying a journal on a full disk takes its time; a second answer would come when nothing waits for it."""
    rig = Rig(primary=False)
    rig.silence()
    rig.run(100)
    rig.no_room = True
    rig.ha.promote("ann", "today", rig.now_ms)
    rig.run(20)
    assert (rig.state, rig.ha.step, rig.ha.facts.standing) == (State.WAITING, Step.INSPECT, Standing.PAIRED)
    looks = len(rig.asked(act.StandDown))
    rig.store_answers = rig.no_room = False
    rig.run(3000)
    assert len(rig.asked(act.StandDown)) == looks
    rig.store_answers = True
    rig.run(100)
    assert rig.ha.step is Step.NONE


def test_a_server_that_waits_for_disk_space_can_be_stopped() -> None:
    rig = Rig(primary=False).passive()
    rig.no_room = True
    rig.ha.give_up_copy("this server's disk is full")
    rig.run(500)
    rig.ha.leave("stopped", rig.now_ms, exit=True)
    rig.run(6000)
    assert rig.asked(act.Halt)


def test_a_passive_without_room_for_its_journal_does_not_serve_and_nothing_says_that_it_did() -> None:
    rig = Rig(primary=False).passive()
    rig.no_room = True
    rig.silence()
    rig.run(3000)
    assert rig.asked(act.Claim)
    assert (rig.state, rig.ha.facts.standing, rig.ha.durable.standing) == (State.WAITING, Standing.PAIRED, Standing.PAIRED)


def test_t11_a_drop_for_another_session_is_nothing() -> None:
    rig = Rig(primary=False).passive()
    rig.hear(Drop(rig.peer.session, Session(5, 0), "too slow"))
    assert rig.state is State.PASSIVE


def test_t12_a_switchover_waits_until_all_that_was_accepted_is_confirmed() -> None:
    rig = Rig().active()
    rig.ha.drained = False
    rig.ha.leave("switchover", rig.now_ms, exit=False)
    rig.run(500)
    assert rig.state is State.ACTIVE
    rig.ha.drained = True
    rig.step()
    assert rig.state is State.WAITING


def test_t12_a_stopping_server_claims_nothing_and_exits_when_the_other_serves() -> None:
    rig = Rig().active()
    rig.ha.leave("stopped", rig.now_ms, exit=True)
    rig.run(100)
    assert rig.state is State.WAITING
    assert not rig.asked(act.Halt)
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=Epoch(9, 9))
    rig.run(50)
    assert [halt.code for halt in rig.asked(act.Halt) if isinstance(halt, act.Halt)] == [0]


def test_switchover_needs_a_peer_in_sync() -> None:
    rig = Rig().standalone()
    with pytest.raises(OperationFailed):
        rig.ha.leave("switchover", rig.now_ms, exit=False)


def test_t13_the_lower_of_two_lone_epochs_stops_and_says_behind_first() -> None:
    rig = Rig().standalone()
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=Epoch(9, 9), position=at(Epoch(9, 9), 30))
    rig.step()
    assert rig.state is State.WAITING
    kinds = [type(action) for action in rig.done]
    assert kinds.index(act.SaveFacts) < len(kinds) - 1 - kinds[::-1].index(act.StandDown)
    rig.run(50)
    assert rig.ha.durable.standing is Standing.BEHIND


@pytest.mark.parametrize("facts", [{"state": State.STANDALONE, "epoch": Epoch(9, 9)}, {"sub": Sub.CLAIMING}])
def test_t13_an_active_server_yields_to_who_serves_or_claims_above_it(facts: dict[str, object]) -> None:
    rig = Rig().active()
    rig.say(**facts)
    rig.step()
    assert rig.state is State.WAITING
    assert rig.ha.facts.standing is Standing.PAIRED


def test_t21_a_lone_server_goes_above_the_epoch_of_a_peer_that_lost_and_does_so_once() -> None:
    """Both served alone, the one that waits now had the higher epoch: its clients drop what is below it."""
    rig = Rig().standalone()
    rig.ha.room_for_epoch = False
    rig.say(standing=Standing.BEHIND, epoch=Epoch(9, 9))
    rig.run(100)
    assert len(rig.asked(act.Claim)) == 1, "a full disk takes no record of an epoch"
    rig.ha.room_for_epoch = True
    rig.run(500)
    assert (rig.state, rig.ha.epoch.counter, rig.ha.durable.standing) == (State.STANDALONE, 10, Standing.SOLE)
    assert len(rig.asked(act.Claim)) == 2
    rig.say(epoch=Epoch(10, (1 << 64) - 1))
    rig.run(100)
    assert rig.ha.epoch.counter == 11, "the nonce counts too"


@pytest.mark.parametrize("facts", [{"sub": Sub.STARTING}, {"sub": Sub.CLAIMING}, {"state": State.PASSIVE_SYNC}, {"hears": True}])
def test_t21_needs_a_peer_that_waits_and_says_so_in_fresh_contact(facts: dict[str, object]) -> None:
    rig = Rig().standalone()
    if "hears" in facts:
        rig.peer.echoes = False
        rig.run(500)
    rig.say(epoch=Epoch(9, 9), **facts)
    rig.run(100)
    assert len(rig.asked(act.Claim)) == 1


def test_t14_o2_pairing_is_durable_before_the_grant_goes_out() -> None:
    rig = Rig().feeding()
    rig.run(500)
    assert rig.state is State.STANDALONE  # the link must be stable for a second
    rig.store_answers = False
    rig.run(900)
    assert (rig.state, rig.ha.step) == (State.ACTIVE, Step.PAIR)
    pair = rig.asked(act.PairUp)[0]
    assert isinstance(pair, act.PairUp)
    assert pair.facts.standing is Standing.PAIRED
    assert not rig.grants()
    rig.store_answers = True
    rig.run(50)
    assert rig.grants()[0].position == rig.ha.position


def test_t14_pairs_above_the_epoch_that_the_peer_served_alone_in() -> None:
    """Clients whom that one served drop what is not above it."""
    rig = Rig().feeding()
    rig.say(epoch=Epoch(9, 9))
    rig.run(1400)
    pair = rig.asked(act.PairUp)[0]
    assert isinstance(pair, act.PairUp)
    assert pair.epoch.counter > 9


def test_t14_waits_five_seconds_after_a_flap_and_one_after_a_restart_of_the_peer() -> None:
    rig = Rig().feeding()
    rig.run(500)
    rig.silence()
    rig.run(700)
    rig.peer.speaks = rig.peer.echoes = True
    rig.run(4000)
    assert rig.state is State.STANDALONE
    assert rig.ha.stable_need_ms == 5000
    rig.say(session=Session(8, 1), seq=0)
    rig.run(100)
    assert rig.ha.stable_need_ms == 1000


def test_a_new_session_of_either_side_without_a_loss_is_no_flap() -> None:
    rig = Rig().feeding()
    rig.run(500)
    rig.say(session=Session(7, 2), seq=0)
    rig.run(500)
    assert rig.ha.stable_need_ms == 1000


def test_t14_again_a_new_grant_restores_a_right_that_died_of_a_doubt() -> None:
    rig = Rig().active()
    rig.say(right=False)
    rig.run(1500)
    assert rig.ha.epoch.counter == 5
    assert rig.grants()[-1].position.epoch == rig.ha.epoch


def test_t15_a_grant_is_accepted_only_at_exactly_its_position() -> None:
    rig = Rig(primary=False).copying()
    rig.hear(Grant(rig.peer.session, rig.ha.contact.session, at(Epoch(4, 44), 13)))
    assert rig.ha.step is Step.NONE


@pytest.mark.parametrize("wrong", ["session", "to_session"])
def test_t15_a_grant_of_or_for_another_session_is_not_obeyed(wrong: str) -> None:
    rig = Rig(primary=False).copying()
    rig.ha.advanced(at(Epoch(4, 44), 13))
    sessions = {"session": rig.peer.session, "to_session": rig.ha.contact.session} | {wrong: Session(1, 1)}
    rig.hear(Grant(**sessions, position=at(Epoch(4, 44), 13)))
    assert rig.ha.step is Step.NONE


def test_f2_a_grant_is_obeyed_only_in_fresh_contact() -> None:
    rig = Rig(primary=False).copying()
    rig.ha.advanced(at(Epoch(4, 44), 13))
    rig.peer.echoes = False
    rig.run(700)
    rig.hear(Grant(rig.peer.session, rig.ha.contact.session, at(Epoch(4, 44), 13)))
    assert rig.ha.step is Step.NONE


def test_o3_paired_is_durable_before_the_server_says_passive() -> None:
    rig = Rig(primary=False).copying()
    rig.ha.advanced(at(Epoch(4, 44), 13))
    rig.store_answers = False
    rig.hear(Grant(rig.peer.session, rig.ha.contact.session, at(Epoch(4, 44), 13)))
    rig.step()
    assert (rig.state, rig.ha.step) == (State.PASSIVE_SYNC, Step.ACCEPT)
    assert rig.ha.durable.standing is Standing.BEHIND


@pytest.mark.parametrize("meanwhile", ["contact breaks", "the peer begins a session", "the peer goes on alone", "nothing"])
def test_i3_a_grant_that_was_overtaken_while_it_was_being_written_is_not_taken(meanwhile: str) -> None:
    """The peer may have confirmed alone since: this server must not hold the right to take over."""
    rig = Rig(primary=False).copying()
    granted = at(Epoch(4, 44), 13)
    rig.ha.advanced(granted)
    rig.say(state=State.ACTIVE, sub=Sub.GRANTING, standing=Standing.PAIRED, epoch=granted.epoch, position=granted)
    rig.hear(Grant(rig.peer.session, rig.ha.contact.session, granted))
    rig.store_answers = False
    rig.run(100)
    assert rig.ha.step is Step.ACCEPT
    match meanwhile:
        case "contact breaks":
            rig.silence()
            rig.run(800)
            rig.peer.speaks = rig.peer.echoes = True
        case "the peer begins a session":
            rig.say(session=Session(7, 2), seq=0)
        case "the peer goes on alone":
            rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=Epoch(5, 55))
    rig.run(200)
    assert rig.ha.fresh(rig.now_ms)
    rig.ha.facts_saved(rig.now_ms)
    assert rig.ha.right is (meanwhile == "nothing")
    assert rig.state is (State.PASSIVE if meanwhile == "nothing" else State.WAITING)


@pytest.mark.parametrize("lost", [{"state": State.WAITING}, {"session": Session(7, 2), "seq": 0}, {"epoch": Epoch(9, 9)}])
def test_t16_a_copy_whose_source_is_lost_or_began_anew_starts_over(lost: dict[str, object]) -> None:
    rig = Rig(primary=False).copying()
    falls = len(rig.asked(act.StandDown))
    rig.say(**lost)
    rig.step()
    assert len(rig.asked(act.StandDown)) == falls + 1
    assert rig.ha.durable.standing is Standing.BEHIND


def test_t16_a_passive_whose_active_went_on_alone_is_not_in_sync_any_more() -> None:
    rig = Rig(primary=False).passive()
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=Epoch(5, 5))
    rig.step()
    assert rig.state is State.WAITING


def test_t18_a_passive_whose_copy_differs_at_the_same_transaction_says_behind_and_stops() -> None:
    rig = Rig(primary=False).passive()
    mine = rig.ha.position
    rig.say(epoch=mine.epoch, position=mine._replace(chain=bytes(32)))
    rig.run(30)
    assert rig.state is State.WAITING
    assert rig.ha.durable.standing is Standing.BEHIND


def test_t17_a_lone_server_without_gateway_and_peer_stops_and_comes_back_by_itself() -> None:
    rig = Rig().standalone()
    rig.silence()
    rig.gateway = False
    rig.run(1700)
    assert rig.state is State.WAITING
    assert rig.ha.durable.standing is Standing.SOLE
    rig.gateway = True
    rig.run(1500)
    assert rig.state is State.STANDALONE


def test_t20_an_active_cut_off_from_clients_hands_over_once() -> None:
    rig = Rig().active()
    rig.gateway = False
    rig.run(3000)
    assert rig.state is State.WAITING


def test_t20_a_gateway_silent_for_both_changes_nothing() -> None:
    rig = Rig().active()
    rig.gateway = False
    rig.say(gateway=False)
    rig.run(5000)
    assert rig.state is State.ACTIVE


def test_t20_a_gateway_that_comes_back_to_the_peer_first_changes_nothing() -> None:
    """Both ask the same gateway, not in step: for up to a probe's period only one of them has its answer again."""
    rig = Rig().active()
    rig.gateway = False
    rig.say(gateway=False)
    rig.run(3000)
    rig.say(gateway=True)
    rig.run(700)
    assert rig.state is State.ACTIVE
    rig.gateway = True
    rig.run(3000)
    assert rig.state is State.ACTIVE


# --- order rules ------------------------------------------------------------------------------------------------------------


def test_o1_nobody_is_standalone_before_sole_is_durable() -> None:
    rig = Rig()
    rig.say(sub=Sub.STARTING, epoch=E1, position=at(E1, 4))
    rig.run(100)
    rig.store_answers = False
    rig.say(sub=Sub.NONE)
    rig.run(300)
    assert (rig.state, rig.ha.step) == (State.WAITING, Step.CLAIM)
    assert rig.ha.durable.standing is Standing.PAIRED


def test_o4_every_change_of_writer_or_mode_has_an_epoch_of_its_own() -> None:
    rig = Rig().active()
    epochs = [each.epoch for each in rig.lineage]
    assert [epoch.counter for epoch in epochs] == [1, 2, 3, 4]
    rig.say(state=State.WAITING, session=Session(7, 2), seq=0)
    rig.run(120)
    assert rig.ha.epoch.counter == 5


def test_a_discarded_store_is_set_aside_only_where_it_lost() -> None:
    rig = Rig()
    rig.run(30)
    with pytest.raises((OperationFailed, Unfinished)):
        rig.ha.resync(rig.now_ms)


def test_every_row_of_the_table_says_why() -> None:
    assert all(row.reason for row in TABLE)
    assert E2 in {each.epoch for each in LINE}


def test_t12_a_hand_over_is_called_off_where_the_peer_is_lost_meanwhile() -> None:
    rig = Rig().active()
    rig.ha.drained = False
    rig.ha.leave("switchover", rig.now_ms, exit=False)
    rig.silence()
    rig.run(1100)
    assert rig.ha.leaving is None
    assert rig.state is State.STANDALONE


def test_a_server_without_a_peer_survives_an_own_gap() -> None:
    rig = Rig(peer=False, standing=Standing.SOLE)
    rig.run(100)
    rig.stop(5000)
    assert rig.state is State.STANDALONE
    assert not any(isinstance(action, ResetPath) for action in rig.done)


def test_a_stop_that_is_repeated_does_not_begin_anew() -> None:
    rig = Rig().active()
    rig.ha.drained = False
    rig.ha.leave("SIGTERM", rig.now_ms, exit=True)
    began = rig.ha.leaving.since_ms
    rig.run(500)
    rig.ha.leave("SIGTERM", rig.now_ms, exit=True)
    assert rig.ha.leaving.since_ms == began


# --- damage -----------------------------------------------------------------------------------------------------------------

ROT = "page 7 of the store does not hold what was written there"


@pytest.mark.parametrize("role", ["active", "passive", "copying", "standalone"])
def test_t18_a_damaged_store_ends_every_role_and_the_disk_says_behind(role: str) -> None:
    rig = Rig(primary=role in ("active", "standalone"))
    getattr(rig, role)()
    rig.ha.damaged(ROT)
    rig.step()
    assert rig.state is State.WAITING and not rig.ha.right
    saved = rig.asked(act.SaveFacts)[-1]
    assert isinstance(saved, act.SaveFacts)
    assert (saved.facts.standing, saved.facts.doubted, saved.facts.reason) == (Standing.BEHIND, True, ROT)
    rig.run(100)
    assert rig.ha.durable.standing is Standing.BEHIND and rig.ha.store_doubted and not rig.ha.held.trusted


def test_t18_damage_that_is_reported_while_the_role_is_given_up_still_counts() -> None:
    rig = Rig(primary=False)
    rig.passive()
    rig.store_answers = False
    rig.stop(1000)
    assert rig.ha.step is Step.INSPECT
    rig.ha.damaged(ROT)
    rig.say(state=State.WAITING, standing=Standing.PAIRED, epoch=E1)
    rig.store_answers = True
    rig.run(500)
    assert rig.state is State.WAITING, "not elected, though its position is the better one"
    assert rig.ha.durable.standing is Standing.BEHIND


def test_t18_a_copy_whose_pages_are_not_the_actives_is_given_up_though_nothing_is_sent() -> None:
    rig = Rig(primary=False).passive()
    here = rig.ha.position
    rig.ha.pages = here, 5
    rig.say(digest=5)
    rig.run(100)
    rig.say(digest=0)  # not known
    rig.run(100)
    rig.say(digest=6, position=here._replace(txn=here.txn + 1))  # of another transaction
    rig.run(100)
    assert rig.state is State.PASSIVE
    rig.say(digest=6, position=here)
    rig.run(100)
    assert rig.state is State.WAITING and rig.ha.durable.standing is Standing.BEHIND and rig.ha.durable.doubted


def test_a_digest_is_told_of_exactly_the_position_that_is_told_with_it() -> None:
    rig = Rig(primary=False).passive()
    rig.ha.pages = rig.ha.position, 5
    rig.run(1000)
    assert rig.last_beat().digest == 5
    rig.ha.advanced(rig.ha.position._replace(txn=rig.ha.position.txn + 1))
    rig.run(1000)
    assert rig.last_beat().digest == 0


def test_t18_not_in_the_middle_of_a_grant_but_when_it_is_over() -> None:
    rig = Rig()
    rig.feeding()
    rig.run(1500)
    assert rig.state is State.ACTIVE and not rig.ha.granted
    rig.ha.damaged(ROT)
    rig.run(200)
    assert rig.state is State.ACTIVE
    rig.say(state=State.PASSIVE, standing=Standing.PAIRED, epoch=rig.ha.epoch, position=rig.ha.position)
    rig.run(100)
    assert rig.state is State.WAITING and rig.ha.durable.standing is Standing.BEHIND


def test_t18_a_grant_that_never_comes_to_an_end_does_not_keep_a_damaged_server() -> None:
    rig = Rig()
    rig.feeding()
    rig.run(1500)
    rig.ha.damaged(ROT)
    rig.silence()
    rig.run(1200)
    assert rig.state is State.WAITING and rig.ha.durable.standing is Standing.BEHIND


@pytest.mark.parametrize("before", ["standalone", "active", "feeding"])
def test_t18_a_commit_that_comes_upon_damage_ends_the_role_at_once_whatever_waits_for_its_answer(before: str) -> None:
    rig = Rig()
    getattr(rig, before)()
    rig.store_answers = False
    if before == "feeding":
        rig.run(1500)
        assert rig.ha.step is Step.PAIR, "never answered"
    rig.halt(ROT)
    rig.step()
    assert (rig.state, rig.ha.step) == (State.WAITING, Step.INSPECT)
    rig.store_answers = True
    rig.run(300)
    assert rig.ha.durable.standing is Standing.BEHIND and rig.ha.durable.doubted and not rig.ha.store_halted


def test_t18_a_claim_that_comes_upon_damage_closes_the_store_again() -> None:
    rig = Rig(standing=Standing.SOLE)
    rig.silence()
    rig.run(REJOIN_MS)
    rig.store_answers = False
    rig.run(3000)
    assert (rig.state, rig.ha.step) == (State.WAITING, Step.CLAIM)
    rig.halt(ROT)
    rig.step()
    assert rig.ha.step is Step.INSPECT, "and not only written down"


def test_a_copy_ends_the_doubt() -> None:
    rig = Rig(primary=False)
    rig.passive()
    rig.ha.damaged(ROT)
    rig.run(100)
    assert rig.ha.store_doubted
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=Epoch(5, 55), position=at(Epoch(5, 55), 14),
            lineage=(*LINE, entry(Epoch(5, 55), Mode.SOLE, 14)))  # fmt: skip
    rig.peer.number += 1
    rig.run(200)
    assert rig.state is State.PASSIVE_SYNC and rig.ha.store_doubted, "half a copy is no cure"
    granted = at(Epoch(6, 66), 15)
    rig.ha.advanced(granted)
    rig.say(state=State.ACTIVE, sub=Sub.GRANTING, standing=Standing.PAIRED, epoch=granted.epoch, position=granted)
    rig.hear(Grant(rig.peer.session, rig.ha.contact.session, granted))
    rig.say(sub=Sub.NONE)
    rig.run(100)
    assert rig.state is State.PASSIVE and not rig.ha.store_doubted and not rig.ha.durable.doubted


def test_i3_a_paired_server_does_not_serve_where_its_peer_lost_a_store_that_was_alone_later() -> None:
    rig = Rig(standing=Standing.PAIRED, epoch=E2)
    rig.say(state=State.WAITING, standing=Standing.BEHIND, epoch=E3, position=at(E3, 20))
    rig.run(3000)
    assert rig.state is State.WAITING and not rig.asked(act.Claim)
    rig.say(standing=Standing.BEHIND, epoch=E2)
    rig.run(300)
    assert rig.state is State.STANDALONE, "of the same epoch: it holds everything that was confirmed"


def test_what_an_operator_promoted_as_it_is_serves_until_it_is_paired() -> None:
    rig = Rig(standing=Standing.BEHIND)
    rig.silence()
    rig.run(300)
    rig.ha.promote("an operator", "now", rig.now_ms)
    rig.run(100)
    assert rig.state is State.STANDALONE and not rig.ha.durable.doubted
    rig.ha.damaged(ROT)
    rig.run(100)
    assert rig.state is State.STANDALONE
    assert [claim.as_it_is for claim in rig.asked(act.Claim)] == [True]
    rig.halt(ROT)
    rig.run(100)
    assert rig.state is State.WAITING, "the store thread has stopped"


def test_f2_what_the_peer_said_before_this_session_began_is_no_ground_for_a_copy_an_election_or_a_divergence() -> None:
    """A Beat that sat in a buffer while this server stood still: it speaks of a store that has moved on since."""
    rig = Rig(standing=Standing.BEHIND, position=at(E3, 15), lineage=(*LINE, entry(E3, Mode.SOLE, 10)), epoch=E3)
    rig.say(
        state=State.STANDALONE, standing=Standing.SOLE, epoch=E3, position=at(E3, 12), lineage=(*LINE, entry(E3, Mode.SOLE, 10)),
        knows=Session(4, 1),
    )  # fmt: skip
    rig.run(300)
    assert rig.state is State.WAITING and rig.ha.diverged is None
    rig.say(position=at(E3, 30), knows=None)
    rig.run(100)
    assert rig.state is State.PASSIVE_SYNC
