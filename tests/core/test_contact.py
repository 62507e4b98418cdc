"""Who hears whom: F1 (dated by the own send), F4 (sequence per session), sessions that replace each other."""

from tests.core.ha_rig import E2, LINE, at
from zmqha.core.contact import LONG_AGO, Contact, Path
from zmqha.core.peer_protocol import NO_SESSION, Beat, Echo, Hello, Session, Standing, State, Sub
from zmqha.core.timers import AVOID_MS

LOST_MS = 600
MINE, THEIRS = Session(5, 1), Session(7, 1)


def contact() -> Contact:
    return Contact("cf", "b", MINE, [Path(), Path()])


def hello(session: Session = THEIRS, *, number: int = 1, node: str = "b", cluster: str = "cf") -> Hello:
    return Hello(session, number, 1, cluster, node, False, 4096, 1, True, LINE, "")


def beat(seq: int, session: Session = THEIRS, state: State = State.WAITING) -> Beat:
    return Beat(
        session,
        seq,
        0,
        state,
        Sub.NONE,
        "",
        Standing.PAIRED,
        E2,
        at(E2, 9),
        False,
        True,
        True,
        0,
        False,
        (NO_SESSION, 0),
        NO_SESSION,
    )


def test_contact_is_the_own_send_time_of_the_newest_echoed_beat_not_its_arrival() -> None:
    it = contact()
    it.hear_hello(0, hello(), 1000, LOST_MS)
    it.hear_echo(0, Echo(THEIRS, MINE, 1, 900), 5000, LOST_MS)
    assert it.contact_ms == 900
    it.hear_echo(1, Echo(THEIRS, MINE, 1, 800), 5001, LOST_MS)
    assert it.contact_ms == 900


def test_an_echo_for_an_old_session_or_from_the_future_is_no_contact() -> None:
    it = contact()
    it.hear_hello(0, hello(), 1000, LOST_MS)
    for echo in (Echo(THEIRS, Session(5, 0), 1, 900), Echo(Session(6, 1), MINE, 1, 900), Echo(THEIRS, MINE, 1, 99_999)):
        it.hear_echo(0, echo, 1000, LOST_MS)
    assert it.contact_ms == LONG_AGO


def test_older_facts_on_the_other_path_are_ignored() -> None:
    it = contact()
    it.hear_hello(0, hello(), 1000, LOST_MS)
    assert it.hear_beat(0, beat(5, state=State.ACTIVE), 1000)
    assert not it.hear_beat(1, beat(4), 1001)
    assert it.beat is not None
    assert it.beat.state is State.ACTIVE


def test_a_new_own_session_begins_without_contact() -> None:
    it = contact()
    it.hear_hello(0, hello(), 1000, LOST_MS)
    it.hear_echo(0, Echo(THEIRS, MINE, 1, 900), 1000, LOST_MS)
    it.renew(1100)
    assert it.session == Session(5, 2)
    assert it.contact_ms == LONG_AGO
    assert it.since_ms == 1100


def test_a_newer_session_of_the_peer_replaces_the_older_and_its_facts() -> None:
    it = contact()
    it.hear_hello(0, hello(), 1000, LOST_MS)
    it.hear_beat(0, beat(5), 1000)
    assert it.hear_hello(0, hello(Session(7, 2)), 1100, LOST_MS)
    assert it.beat is None
    assert not it.hear_beat(0, beat(6), 1101)


def test_an_older_session_is_admitted_only_where_the_newer_has_fallen_silent() -> None:
    it = contact()
    it.hear_hello(0, hello(), 1000, LOST_MS)
    assert not it.hear_hello(0, hello(Session(3, 1)), 1100, LOST_MS)
    assert it.hear_hello(0, hello(Session(3, 1)), 1000 + LOST_MS + 1, LOST_MS)


def test_a_foreign_cluster_or_node_is_no_contact_and_is_named() -> None:
    it = contact()
    for stranger in (hello(cluster="other"), hello(node="c")):
        assert not it.hear_hello(0, stranger, 1000, LOST_MS)
    assert it.heard_ms == LONG_AGO
    assert it.foreign == "c of cluster cf"


def test_a_path_on_which_bulk_stood_still_is_avoided_for_a_while_where_there_is_a_way_round() -> None:
    it = contact()

    def way_round(stuck: int, now_ms: int, *well: int) -> int | None:
        for path in well:
            it.paths[path].contact_ms = now_ms
        return it.way_round(stuck, now_ms, LOST_MS)

    assert way_round(0, 1000, 0) is None and way_round(0, 9000, 1) is None, "no other one; a lost one is no stuck one"
    assert it.best_path(9000, LOST_MS) == 1
    assert way_round(0, 20_000, 0, 1) == it.best_path(20_000, LOST_MS) == 1
    assert way_round(1, 30_000, 0, 1) is None, "not to and fro: it is something else"
    assert it.best_path(30_000, LOST_MS) == 1
    it.paths[0].contact_ms = it.paths[1].contact_ms = 20_001 + AVOID_MS
    assert it.best_path(20_001 + AVOID_MS, LOST_MS) == 0
    it.paths[0].stuck_ms = 1 << 40
    assert it.best_path(1 << 40, LOST_MS) is None
    it.paths[0].contact_ms = 1 << 40
    assert it.best_path(1 << 40, LOST_MS) == 0, "better than none"


def test_the_first_path_with_contact_is_best() -> None:
    it = contact()
    it.paths[0].contact_ms, it.paths[1].contact_ms = 100, 900
    assert it.best_path(1000, LOST_MS) == 1
    it.paths[0].contact_ms = 950
    assert it.best_path(1000, LOST_MS) == 0
    assert it.best_path(5000, LOST_MS) is None
