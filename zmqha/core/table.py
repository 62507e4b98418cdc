"""The HA table: which state is left on what, by which act, and why. Rows are tried in this order; the first whose guard holds fires.

A guard is a question of ``view`` or ``guards`` and reads only, an act is a verb of ``acts``. ``when`` and ``to`` are for people: what
``why`` says and the documentation are made from them. ``ha`` evaluates the table.
"""

from collections.abc import Callable
from typing import NamedTuple

from zmqha.core.acts import Acts
from zmqha.core.guards import seconds
from zmqha.core.peer_protocol import State
from zmqha.core.timers import HAND_OVER_MS
from zmqha.core.view import Leaving


class Row(NamedTuple):
    """One row of the table. The documents and ``why`` are made of its texts."""

    name: str
    states: tuple[State, ...]
    guard: Callable[[Acts, int], bool]
    act: Callable[[Acts, int], None]
    when: str  # the guard in one short sentence
    to: str  # the state that the act leads to
    reason: str  # why it is right to do so


def _claims(reason: str) -> Callable[[Acts, int], None]:
    return lambda ha, now_ms: ha.claim(now_ms, reason)


def _claims_again(reason: str) -> Callable[[Acts, int], None]:
    """Of a server that waited: what its peer did meanwhile it may not know."""
    return lambda ha, now_ms: ha.claim(now_ms, reason, unseen=ha.peer_cannot_tell(now_ms))


def _falls(reason: str) -> Callable[[Acts, int], None]:
    return lambda ha, now_ms: ha.fall(now_ms, reason)


def _hands_over(ha: Acts, now_ms: int) -> None:
    ha.handed_over_ms = now_ms
    ha.leaving = Leaving("cut off from clients: the own gateway is silent, the peer's answers", False, now_ms)


def _leaves(ha: Acts, now_ms: int) -> None:
    assert ha.leaving is not None
    ha.fall(now_ms, ha.leaving.reason)


def _takes_over(ha: Acts, now_ms: int) -> None:
    peer = ha.contact.beat
    assert peer is not None
    ha.claim(now_ms, f"the peer gave up its role: {peer.reason}")


def _forget_gap(ha: Acts, now_ms: int) -> None:
    ha.gap_seen = False


def _records_loss(ha: Acts, now_ms: int) -> None:
    assert ha.diverged is not None
    ha.doubt(f"diverged: {ha.diverged.why}", now_ms)


_W, _S, _P, _A, _L = State.WAITING, State.PASSIVE_SYNC, State.PASSIVE, State.ACTIVE, State.STANDALONE

# fmt: off
TABLE: tuple[Row, ...] = (
    Row("T18 rot", (_W, _S, _P, _A, _L), Acts.is_damaged, lambda ha, now: ha.give_up_store(now, ha.damage),
        "the scrub, a commit, or the digest of a transaction found other bytes in the store than were written", "WAITING, BEHIND",
        "bytes on the disk are not those that were written: they must not be served, nor copied"),
    Row("T9 gap", (_S, _P, _A), Acts.had_gap, _falls("an own gap: others may have acted meanwhile"),
        "this server itself stood still for longer than {pause_ms}", "WAITING",
        "F3: what was heard before is stale"),
    Row("gap", (_W, _L), Acts.had_gap, _forget_gap,
        "this server itself stood still for longer than {pause_ms}", "unchanged",
        "STANDALONE needs nobody's leave; WAITING has no role to lose"),
    Row("T13", (_L,), Acts.peer_leads, lambda ha, now: ha.yield_store(now, "the peer serves under a higher epoch"),
        "the peer serves under a higher epoch", "WAITING, BEHIND",
        "two served alone: the lower epoch stops, its data is kept"),
    Row("T13", (_A,), Acts.peer_leads, _falls("the peer serves or claims under a higher epoch"),
        "the peer serves, or is about to, under a higher epoch", "WAITING",
        "it confirmed nothing the peer lacks"),
    Row("T12 stop", (_A, _L), Acts.active_may_leave, _leaves,
        f"stop or switchover wanted, everything accepted is confirmed, or {seconds(HAND_OVER_MS)} are over", "WAITING",
        "all that was accepted is confirmed, the peer's T10 does the rest"),
    Row("T11 unfit", (_P, _S), Acts.is_unfit, lambda ha, now: ha.fall(now, ha.unfit),
        "this server's disk is full, or what it was sent does not fit its store", "WAITING",
        "its disk is full, or what came does not fit: the active's T10 does the rest"),
    Row("T11", (_P, _S), Acts.wants_to_leave, _leaves,
        "stop wanted", "WAITING",
        "the active's T10 does the rest"),
    Row("T10", (_A, _P), Acts.t10_claim, _takes_over,
        "the peer says, in fresh contact, that it has no role", "STANDALONE",
        "it said so itself in fresh contact: no window is needed"),
    Row("T10", (_A, _P), Acts.t10_yield, _falls("the waiting peer knows a higher epoch"),
        "the peer says, in fresh contact, that it has no role, and it knows a higher epoch or is SOLE", "WAITING",
        "T3 decides with all facts on the table"),
    Row("T18 chain", (_P,), Acts.chain_differs, lambda ha, now: ha.give_up_store(now, "the copy differs from the active's store"),
        "same epoch and transaction as the active, other digest", "WAITING, BEHIND",
        "the running digest is compared in every heartbeat; a wrong copy must never serve"),
    Row("T18 pages", (_P,), Acts.pages_differ, lambda ha, now: ha.give_up_store(now, "the copy's pages are not the active's"),
        "same position as the active, other digest of all pages", "WAITING, BEHIND",
        "also where nothing is sent: a copy that rotted before its sums were known would agree with itself for ever"),
    Row("T16 solo", (_P,), Acts.master_gone_solo, _falls("the active went on without this server"),
        "the server it copies from is no longer ACTIVE", "WAITING",
        "no longer in sync: copy again (T2)"),
    Row("T9 deaf", (_A, _P), Acts.deaf_peer, _falls("the peer does not hear this server"),
        "the peer says that it does not hear this server", "WAITING",
        "F6: the hearing node yields to the deaf one"),
    Row("T8e", (_A, _P), Acts.death_proven, _claims("the peer's watcher reports its death"),
        "death notice of the peer, one gateway answer after it, the right to take over", "STANDALONE",
        "nothing more can leave a dead process (A6)"),
    Row("T8", (_A, _P), Acts.window_complete, _claims("the peer is silent on every path, the gateway answers"),
        "no contact for {decide_ms}, silence for {silent_ms}, three gateway answers without a break, the right to take over",
        "STANDALONE",
        "not the isolated one, and under A1 the peer is"),
    Row("T9", (_A, _P), Acts.doubtful, _falls("the peer is lost and this server may be the isolated one"),
        "no contact for {lost_ms} and the right to take over is gone; or the peer is heard and answers nothing", "WAITING",
        "in doubt nobody serves"),
    Row("T16", (_S,), Acts.source_lost, _falls("the active was lost during the copy"),
        "contact with the active is lost, or it stopped serving", "WAITING",
        "half a copy is no store: stays BEHIND"),
    Row("T17", (_L,), Acts.isolated, _falls("neither gateway nor peer answers"),
        "neither peer nor gateway for {isolated_ms}", "WAITING",
        "serves nobody; standing stays SOLE, T5 brings it back"),
    Row("T20", (_A,), Acts.cut_off_from_clients, _hands_over,
        "the own gateway is silent, the peer's has answered all the time", "hands over",
        "clients reach the peer, not this server"),
    Row("T21", (_L,), Acts.outbid, _claims("serves on, above the epoch of the waiting peer"),
        "fresh contact, the peer waits and knows a higher epoch", "STANDALONE, new epoch",
        "both served alone: clients of the one that lost would refuse this server until the two are paired"),
    Row("T14", (_L,), Acts.pair_ready, lambda ha, now: ha.pair_up(now, "the peer is in sync"),
        "the peer has copied everything and the link is stable", "ACTIVE",
        "from here both disks before every confirm"),
    Row("T14 again", (_A,), Acts.right_curable, lambda ha, now: ha.pair_up(now, "rights restored"),
        "one of the two lost its right, both gateways answer again", "ACTIVE, new epoch",
        "the doubt is over, both hold everything"),
    Row("alone", (_W,), Acts.needs_no_peer, _claims_again("no peer is configured"),
        "one server is configured", "STANDALONE",
        "one server: development, or growing later"),
    Row("T2 lost", (_W,), Acts.lost_against_peer, _records_loss,
        "diverged from the serving peer, and the disk does not say so yet", "WAITING, BEHIND",
        "this store has lost; it must never serve by itself again"),
    Row("merge off", (_W,), Acts.cannot_merge_on, lambda ha, now: ha.stop_merging(now),
        "a branch is being handed over, and the winner is lost, or in another session or epoch", "unchanged",
        "the winner is lost or another one: what it knows already it will skip"),
    Row("T2", (_W,), Acts.can_copy, lambda ha, now: ha.follow(now),
        "fresh contact, the peer says STANDALONE, not diverged, or merged", "PASSIVE_SYNC",
        "the peer serves and holds everything confirmed"),
    Row("T2 merge", (_W,), Acts.can_merge, lambda ha, now: ha.keep(now),
        "diverged, BEHIND on the disk, on_divergence = \"merge\" or an operator's order, fresh contact, the peer says STANDALONE",
        "unchanged, merging",
        "what only this store holds goes to the winner before a page is overwritten"),
    Row("T3", (_W,), Acts.elected, _claims_again("elected: the better store of two that wait"),
        "both wait in fresh contact, this store is the better one", "STANDALONE",
        "both facts are on the table; ranks cannot tie"),
    Row("T19", (_W,), Acts.first_start, _claims("first start of a new pair"),
        "both have never held data, this is the primary", "STANDALONE",
        "two empty servers, the primary begins"),
    Row("T5", (_W,), Acts.resumes_alone, _claims_again("resumed alone: the disk says SOLE, the gateway answers"),
        "SOLE, up for long enough to be connected, nobody heard, the gateway answers for {decide_ms} without a break", "STANDALONE",
        "nobody else may hold newer data"),
)
# fmt: on
