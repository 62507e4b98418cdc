"""The guards of the HA table that are made of several conditions, each with a sentence: ``all_of`` decides, ``why`` reads them out.

A guard is true when all its conditions hold; they are tried in order and the first that fails ends the question, so what is cheap or
rarely true stands first. A sentence says what must hold; ``{decide_ms}`` and the like stand for that timer. A figure says how things
stand now. Reads only; the one exception is ``can_copy``, which keeps what it found for ``status``. Used by ``ha`` and ``why``.
"""

from collections.abc import Callable
from typing import NamedTuple

from zmqha.core.contact import LONG_AGO
from zmqha.core.peer_protocol import Standing, State, Sub
from zmqha.core.timers import HAND_OVER_MS, T20_PAUSE_MS
from zmqha.core.view import ANSWERS_NEEDED, KEEP_AGAIN_MS, PAIRED_ROLES, View, rank

Guard = Callable[..., bool]  # of (HA, now_ms)


class Condition(NamedTuple):
    """One thing that must hold, in words and in code."""

    sentence: str
    holds: Callable[[View, int], bool]
    figure: Callable[[View, int], str] = lambda view, now_ms: ""


def all_of(*conditions: Condition) -> Guard:
    """A guard out of conditions. It stays a plain function: called as a method, and compared with ``is``."""
    first, *others = (condition.holds for condition in conditions)

    def guard(view: View, now_ms: int) -> bool:
        if not first(view, now_ms):  # ends nearly every question; this is asked for every row, every 5 ms
            return False
        for check in others:  # noqa: SIM110  # half the time of all()
            if not check(view, now_ms):
                return False
        return True

    guard.conditions = conditions  # type: ignore[attr-defined]
    return guard


def conditions_of(guard: Guard) -> tuple[Condition, ...]:
    """What a guard is made of; () for one that is a single question."""
    found: tuple[Condition, ...] = getattr(guard, "conditions", ())
    return found


def seconds(ms: int) -> str:
    """0.75 s, 12 s, 1 min, 3 min 12 s, 2 h 5 min, 4 d 7 h."""
    if ms < 10_000:
        return f"{max(0, ms) / 1000:.2f}".rstrip("0").rstrip(".") + " s"
    whole = ms // 1000
    for large, small, size, part in (("d", "h", 86_400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large} {rest} {small}" if rest else f"{whole // size} {large}"
    return f"{whole} s"


# --- figures ----------------------------------------------------------------------------------------------------------------


def _ago(then_ms: int, now_ms: int) -> str:
    return "never" if then_ms == LONG_AGO else f"{seconds(now_ms - then_ms)} ago"


def _last_contact(view: View, now_ms: int) -> str:
    return f"last {_ago(view.contact.contact_ms, now_ms)}"


def _last_heard(view: View, now_ms: int) -> str:
    return f"last {_ago(view.contact.heard_ms, now_ms)}"


def _peer_says(view: View, now_ms: int) -> str:
    peer = view.contact.beat
    return f"the peer says {peer.state}" if peer is not None and view.heard(now_ms) else "the peer is not heard"


def _last_failed(view: View, now_ms: int) -> str:
    failed_ms = view.vote.last_failed_ms
    return "none failed" if failed_ms is None else f"the last failed {_ago(failed_ms, now_ms)}"


def _standing(view: View, now_ms: int) -> str:
    return f"this store is {view.facts.standing}"


def _peer_standing(view: View, now_ms: int) -> str:
    peer = view.contact.beat
    return f"the peer is {peer.standing}, epoch {peer.epoch.counter}" if peer is not None else "the peer is not heard"


def _unbroken(view: View, now_ms: int) -> str:
    since_ms = view.contact.unbroken_since_ms
    now = "broken" if since_ms == LONG_AGO or not view.fresh(now_ms) else f"{seconds(now_ms - since_ms)} so far"
    return f"{now}, {seconds(view.stable_need_ms)} are needed"


def _gateway_silent(view: View, now_ms: int) -> str:
    return f"answered {seconds(view.vote.silent_for(now_ms, view.started_ms))} ago"


# --- conditions that several rows share -------------------------------------------------------------------------------------

_STAYS = Condition("no stop or switchover is under way", lambda view, now_ms: view.leaving is None)
_RIGHT = Condition("this server holds the right to take over", lambda view, now_ms: view.right)
_FRESH = Condition(
    "contact with the peer is younger than {fresh_ms}",
    lambda view, now_ms: view.contact.beat is not None and view.fresh(now_ms),
    _last_contact,
)
# What sat in a buffer while this server stood still, or was sent before it lost its role, may be about a store that has moved on.
_SINCE = Condition(
    "what the peer says was said since this session began", lambda view, now_ms: view.contact.knows[0] == view.contact.session
)
_PEER_WAITS = Condition(
    "the peer is WAITING and has looked at its store",
    lambda view, now_ms: (peer := view.contact.beat) is not None and peer.state is State.WAITING and peer.sub is not Sub.STARTING,
    _peer_says,
)
_STABLE = Condition("the link has been stable for long enough", View.link_stable, _unbroken)
_FITS = Condition("the two fit each other", lambda view, now_ms: not view.mismatch(), lambda view, now_ms: view.mismatch())
_GAVE_UP = Condition("the peer says in fresh contact that it has no role", View.peer_gave_up, _peer_says)


def _peer_knows_more(view: View, now_ms: int) -> bool:
    return view.contact.beat is not None and not view.may_follow_on(now_ms)


def _lone_since_ms(view: View) -> int:
    """From when the window of T5 runs."""
    return max(view.started_ms, view.vote.last_failed_ms or LONG_AGO, view.contact.opened_ms)


def _may_resume(view: View, now_ms: int) -> bool:
    standing = view.facts.standing
    return standing is Standing.SOLE or (view.identity.resume_alone and standing is Standing.PAIRED)


def _is_better(view: View, now_ms: int) -> bool:
    peer = view.contact.beat
    if peer is None:
        return False
    mine = rank(view.facts.standing, view.facts.epoch, view.position, view.identity.primary)
    return mine > rank(peer.standing, peer.epoch, peer.position, not view.identity.primary)


def _lineage_told(view: View, now_ms: int) -> bool:
    peer, hello = view.contact.beat, view.contact.hello
    return peer is not None and hello is not None and bool(hello.lineage) and hello.lineage[-1].epoch == peer.epoch


def _cut_off_ms(view: View) -> int:
    """T20: older than any answer the peer may still speak of; both ask the same gateway, not in step."""
    timers = view.timers
    return timers.isolated_ms + timers.probe_idle_ms + timers.probe_timeout_ms + timers.heartbeat_ms


_SERVES_ALONE = Condition(
    "the peer serves alone",
    lambda view, now_ms: (peer := view.contact.beat) is not None and peer.state is State.STANDALONE,
    _peer_says,
)
_TOLD = Condition("the peer has told the history of its store", _lineage_told)


class Guards(View):
    """A view with the questions of the table."""

    window_complete = all_of(  # T8
        _RIGHT,
        _STAYS,
        Condition("no contact for {decide_ms}", lambda view, now_ms: view.age(now_ms) > view.timers.decide_ms, _last_contact),
        Condition("no gateway probe failed lately, so that both paths had the time to be joined", View.lan_settled, _last_failed),
        Condition("nothing heard of the peer for {silent_ms}", View.silent, _last_heard),
        Condition(
            f"{ANSWERS_NEEDED} gateway answers since the last contact, none failed",
            lambda view, now_ms: view.vote.answers_since(view.contact.since_ms) >= ANSWERS_NEEDED,
            lambda view, now_ms: f"{view.vote.answers_since(view.contact.since_ms)} so far",
        ),
    )
    death_proven = all_of(  # T8e
        Condition("the peer's watcher reports its death", lambda view, now_ms: view.dead_since_ms is not None),
        _RIGHT,
        _STAYS,
        Condition(
            "a gateway answer after that",
            lambda view, now_ms: view.dead_since_ms is not None and view.vote.answers_since(view.dead_since_ms - 1) >= 1,
        ),
    )
    t10_claim = all_of(
        _GAVE_UP,
        Condition(
            "the peer knows no higher epoch and is not SOLE",
            lambda view, now_ms: view.contact.beat is not None and view.may_follow_on(now_ms),
            _peer_standing,
        ),
    )
    t10_yield = all_of(_GAVE_UP, Condition("the peer knows a higher epoch or is SOLE", _peer_knows_more, _peer_standing))
    deaf_peer = all_of(  # T9 deaf, F6
        Condition(
            "the peer says that it does not hear this server",
            lambda view, now_ms: (peer := view.contact.beat) is not None and peer.state in PAIRED_ROLES and not peer.hears,
        ),
        Condition("it is heard itself", lambda view, now_ms: not view.silent(now_ms), _last_heard),
    )
    resumes_alone = all_of(  # T5
        Condition("the disk says SOLE: nobody else may hold newer data", _may_resume, _standing),
        _STAYS,
        Condition(
            "nothing heard of the peer for {decide_ms}",
            lambda view, now_ms: now_ms - view.contact.heard_ms > view.timers.decide_ms,
            _last_heard,
        ),
        Condition(
            "this server is up for so long that both ends had the time to connect",
            lambda view, now_ms: now_ms - view.started_ms > view.timers.rejoin_ms,
            lambda view, now_ms: f"{seconds(view.timers.rejoin_ms)} are needed",
        ),
        Condition(
            "no gateway probe failed for {decide_ms}",
            lambda view, now_ms: now_ms - _lone_since_ms(view) > view.timers.decide_ms,
            _last_failed,
        ),
        Condition(
            f"{ANSWERS_NEEDED} gateway answers in that time",
            lambda view, now_ms: view.vote.answers_since(_lone_since_ms(view)) >= ANSWERS_NEEDED,
            lambda view, now_ms: f"{view.vote.answers_since(_lone_since_ms(view))} so far",
        ),
    )
    elected = all_of(  # T3
        Condition(
            "this store may serve: it is PAIRED or SOLE",
            lambda view, now_ms: view.facts.standing in (Standing.PAIRED, Standing.SOLE),
            _standing,
        ),
        _FRESH,
        _SINCE,
        _STAYS,
        _PEER_WAITS,
        Condition(
            "the peer did not serve later than this server, only to lose its store",
            lambda view, now_ms: not view.peer_lost_newer(),
            _peer_standing,
        ),
        Condition("this store is the better one", _is_better, _peer_standing),
    )
    first_start = all_of(  # T19
        Condition("neither server has ever held data", View.both_new, _standing),
        _FRESH,
        _SINCE,
        _STAYS,
        _PEER_WAITS,
        Condition("this is the primary", lambda view, now_ms: view.identity.primary),
    )
    can_copy = all_of(  # T2
        _FRESH,
        _SINCE,
        _SERVES_ALONE,
        _STAYS,
        Condition("this server's disk has room", lambda view, now_ms: not view.store_full),
        _FITS,
        _TOLD,
        Condition(
            "this store holds nothing confirmed that the peer lacks",
            View.holds_nothing_more,
            lambda view, now_ms: view.diverged.why if view.diverged else "",
        ),
    )
    can_merge = all_of(  # T2 merge
        Condition("this store holds what the serving one lacks", lambda view, now_ms: view.diverged is not None),
        Condition("it is not being handed over yet", lambda view, now_ms: not view.merging),
        Condition("the disk says that it has lost", lambda view, now_ms: view.durable.standing is Standing.BEHIND),
        Condition(
            'on_divergence is "merge" and the store is not damaged, or an operator has said zmqha merge',
            lambda view, now_ms: view.hands_over,
        ),
        _FRESH,
        _SINCE,
        _SERVES_ALONE,
        _STAYS,
        _FITS,
        _TOLD,
        Condition(
            "the store can be kept first",
            lambda view, now_ms: now_ms - view.keep_refused_ms > KEEP_AGAIN_MS,
            lambda view, now_ms: view.keep_refused,
        ),
    )
    pair_ready = all_of(  # T14
        _STAYS,
        Condition(
            "the peer copies from this server",
            lambda view, now_ms: (
                (peer := view.contact.beat) is not None
                and peer.state is State.PASSIVE_SYNC
                and peer.follows == view.contact.session
            ),
            _peer_says,
        ),
        Condition("it has everything but the newest changes", lambda view, now_ms: view.in_sync),
        _FITS,  # else it should not have asked to be fed (T2); what it acknowledges of another layout must not count
        _STABLE,
    )
    right_curable = all_of(  # T14 again
        _STAYS,
        Condition("one of the two has lost its right to take over", View.a_right_is_lost),
        Condition("the peer is in sync", lambda view, now_ms: view.granted and view.in_sync, _peer_says),
        Condition(
            "the gateway answers both",
            lambda view, now_ms: (peer := view.contact.beat) is not None and view.vote.answers() is True and peer.gateway is True,
        ),
        _STABLE,
    )
    outbid = all_of(  # T21
        Condition(
            "the peer knows a higher epoch: clients that it served refuse this server",
            lambda view, now_ms: (peer := view.contact.beat) is not None and peer.epoch > view.epoch,
            _peer_standing,
        ),
        _FRESH,
        _SINCE,
        _STAYS,
        _PEER_WAITS,
        Condition(
            "the peer is not about to serve",
            lambda view, now_ms: (peer := view.contact.beat) is None or peer.sub is not Sub.CLAIMING,
        ),
        Condition("the disk has room for the record of a new epoch", lambda view, now_ms: view.room_for_epoch),
    )
    isolated = all_of(  # T17
        Condition("a peer is configured", lambda view, now_ms: bool(view.identity.peer_id)),
        Condition(
            "nothing heard of the peer for {isolated_ms}",
            lambda view, now_ms: now_ms - max(view.contact.heard_ms, view.started_ms) > view.timers.isolated_ms,
            _last_heard,
        ),
        Condition(
            "no gateway answer for {isolated_ms}",
            lambda view, now_ms: view.vote.silent_for(now_ms, view.started_ms) > view.timers.isolated_ms,
            _gateway_silent,
        ),
    )
    cut_off_from_clients = all_of(  # T20
        _STAYS,
        Condition("the peer is in sync", lambda view, now_ms: view.granted, _peer_says),
        Condition(
            "the own gateway is silent for longer than any answer of it that the peer may still speak of",
            lambda view, now_ms: view.vote.silent_for(now_ms, view.started_ms) > _cut_off_ms(view),
            _gateway_silent,
        ),
        Condition(
            "the peer's gateway answers for as long: it did not fall silent for both",
            lambda view, now_ms: now_ms - view.peer_mute_ms > _cut_off_ms(view),
        ),
        _FRESH,
        Condition(
            f"no hand-over for that reason in the last {seconds(T20_PAUSE_MS)}",
            lambda view, now_ms: now_ms - view.handed_over_ms > T20_PAUSE_MS,
        ),
    )
    active_may_leave = all_of(  # T12; a hand-over needs somebody to take over
        Condition("a stop or switchover is wanted", View.wants_to_leave),
        Condition(
            "the peer is there to take over, or it is a stop",
            lambda view, now_ms: view.leaving is not None and (view.leaving.exit or view.fresh(now_ms)),
        ),
        Condition(
            f"everything accepted is confirmed, or {seconds(HAND_OVER_MS)} are over",
            lambda view, now_ms: view.drained or (view.leaving is not None and now_ms - view.leaving.since_ms > HAND_OVER_MS),
        ),
    )
