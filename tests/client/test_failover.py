"""The failover machine: events in, actions out, time as a number."""

import random
from itertools import pairwise

import pytest

from zmqha.client.answers import NO_ACCESS
from zmqha.client.failover import BUSY_MS, FAST_MS, SILENT_MS, SUSPECT_MS, Ask, Begin, Changed, Failover, Probe, Reset, State
from zmqha.client.url import Options
from zmqha.core.client_protocol import Envelope, Failure, Opened, Pong, Refused
from zmqha.core.position import Epoch
from zmqha.errors import AccessDenied, ConnectionLost, FailoverTimeout, NotActive

OPENED = Opened("edge", "c", ("", ""), 8 << 20, 1000, 512 << 10, 8, 1000)


def opened(epoch: int) -> Envelope:
    return Envelope(1, Epoch(epoch, 0), OPENED)


def refused(epoch: int = 1, active: str = "", retry: int = 50) -> Envelope:
    return Envelope(1, Epoch(epoch, 0), Refused("PASSIVE", active, retry, "ZHA-104", "no"))


def pong(epoch: int) -> Envelope:
    return Envelope(0, Epoch(epoch, 0), Pong())


@pytest.fixture
def pair():
    return Failover(["a:1", "b:1"], Options(), random.Random(1), 0)


def kinds(machine):
    return [type(action).__name__ for action in machine.take_actions()]


def connected_to_a(machine, epoch=1, now=0):
    machine.connected(0, now)
    machine.connected(1, now)
    machine.receive(0, opened(epoch), now)
    machine.tick(now)
    machine.take_actions()
    assert machine.session == 0
    return machine


def test_both_servers_are_asked_as_soon_as_they_are_connected(pair):
    pair.connected(0, 0)
    assert pair.take_actions() == [Ask(0)]
    pair.connected(1, 5)
    assert pair.take_actions() == [Ask(1)]


def test_the_one_that_opens_gets_the_session(pair):
    pair.connected(0, 0)
    pair.connected(1, 0)
    pair.take_actions()
    assert not pair.receive(0, refused(active="b:1"), 1)
    assert not pair.receive(1, opened(3), 2)
    assert pair.take_actions() == [Begin(1, OPENED), Changed(State.CONNECTING, State.CONNECTED, "edge at b:1 is active, epoch 3")]
    assert (pair.state, pair.active, pair.highest) == (State.CONNECTED, "b:1", Epoch(3, 0))


def test_a_lower_epoch_than_the_highest_seen_is_a_zombie(pair):
    connected_to_a(pair, epoch=5)
    pair.disconnected(0, 10)
    pair.connected(0, 20)
    pair.take_actions()
    assert not pair.receive(0, opened(4), 21)
    assert pair.session is None
    assert "epoch 5 was seen" in pair.error(1).cause
    pair.receive(1, opened(6), 30)
    assert pair.session == 1


def test_replies_of_a_lower_epoch_are_dropped_and_the_epoch_follows_the_session(pair):
    connected_to_a(pair, epoch=5)
    assert pair.receive(0, pong(6), 10)
    assert not pair.receive(0, pong(5), 11)
    assert pair.receive(0, pong(6), 12)


def test_frames_of_a_server_without_the_session_are_not_for_us(pair):
    connected_to_a(pair)
    assert not pair.receive(1, pong(9), 10)
    assert pair.receive(0, pong(1), 11)


def test_a_higher_epoch_elsewhere_takes_the_session_over(pair):
    connected_to_a(pair, epoch=1)
    pair.receive(1, opened(2), 5)
    actions = pair.take_actions()
    assert list(map(str, actions[:2])) == ["End(server=0)", "Reset(server=0)"]
    assert Begin(1, OPENED) in actions
    assert pair.session == 1


def test_a_broken_connection_asks_the_other_at_once(pair):
    connected_to_a(pair)
    pair.disconnected(0, 100)
    assert list(map(str, pair.take_actions())) == [
        "Reset(server=0)",
        "End(server=0)",
        str(Changed(State.CONNECTED, State.LOST, "a:1: the connection broke")),
        "Ask(server=1)",
    ]


def test_a_refusal_in_a_session_asks_the_named_at_once_and_the_refuser_later(pair):
    connected_to_a(pair)
    pair.receive(0, refused(active="b:1"), 100)
    actions = pair.take_actions()
    assert [str(action) for action in actions if isinstance(action, Ask)] == ["Ask(server=1)"]
    pair.tick(151)
    assert kinds(pair) == ["Ask"]


def test_a_refusal_that_names_the_active_by_another_name_means_the_other_server(pair):
    pair.connected(0, 0)
    pair.connected(1, 0)
    pair.take_actions()
    pair.receive(1, refused(), 10)
    pair.take_actions()
    pair.receive(0, refused(active="10.0.7.12:7400"), 26)
    pair.tick(26)
    assert Ask(1) in pair.take_actions()


def test_two_refusing_servers_are_asked_every_25_to_50_ms_and_slower_after_two_seconds(pair):
    for server in (0, 1):
        pair.connected(server, 0)
    asked, now = {0: [], 1: []}, 0
    while now < 8000:
        while actions := pair.take_actions():
            for action in actions:
                assert isinstance(action, Ask)
                asked[action.server].append(now)
                pair.receive(action.server, refused(active=("b:1", "a:1")[action.server]), now)
        pair.tick(now)
        now = max(now + 1, pair.deadline())
        pair.tick(now)
    for times in asked.values():
        gaps = [(start, after - start) for start, after in pairwise(times)]
        fast = [gap for start, gap in gaps if start < FAST_MS - 60]
        slow = [gap for start, gap in gaps if start > 6000]
        assert all(25 <= gap <= 51 for gap in fast), fast
        assert slow and all(400 <= gap <= 1001 for gap in slow), slow


def test_silence_while_an_answer_is_due_is_a_loss_after_1200_ms_and_one_ping(pair):
    connected_to_a(pair)
    now, log = 0, []
    while now < 3000 and pair.state is State.CONNECTED:
        pair.tick(now, busy=True)
        now = max(now + 1, pair.deadline())
        pair.tick(now, busy=True)
        log += [(now, action) for action in pair.take_actions()]
    told = [(at, type(action).__name__, action[0]) for at, action in log]
    assert told[0] == (400, "Probe", 0)
    assert told[1] == (SUSPECT_MS, "Ask", 1)
    assert told[2:4] == [(SILENT_MS, "Reset", 0), (SILENT_MS, "End", 0)]
    assert told[5:] == [(SILENT_MS, "Ask", 1)]


def given_up(machine, answer, until=10_000):
    """When a session whose server is silent from 0 on is given up; the other one gives this answer whenever it is asked."""
    now = 0
    while now < until and machine.state is State.CONNECTED:
        machine.tick(now, busy=True)
        for action in machine.take_actions():
            if isinstance(action, Ask) and (said := answer(now)) is not None:
                machine.receive(action.server, said, now)
        machine.tick(now, busy=True)
        now = max(now + 1, machine.deadline())
    return machine.since


@pytest.mark.parametrize(
    ("answer", "when"),
    [
        (lambda now: refused(active="a:1"), BUSY_MS),  # a large message on a slow line
        (lambda now: refused(active="10.0.7.12:7400"), BUSY_MS),  # another name for a
        (lambda now: refused(), SILENT_MS),  # the other one does not hear it either
        (lambda now: None, SILENT_MS),
        (lambda now: refused(active="a:1" if now < 900 else ""), SILENT_MS),
        (lambda now: refused(active="a:1" if now < 2000 else ""), 2000),
    ],
)
def test_silence_ends_a_session_later_if_the_other_server_calls_the_silent_one_active(pair, answer, when):
    connected_to_a(pair)
    pair.receive(1, refused(active="a:1"), 0)  # before there was doubt: that does not count
    assert when <= given_up(pair, answer) <= when + 60
    assert pair.state is State.LOST


def test_a_takeover_gets_the_session_while_the_silent_one_is_given_time(pair):
    connected_to_a(pair)
    given_up(pair, lambda now: refused(active="a:1") if now < 750 else opened(2), until=900)
    assert (pair.session, pair.highest) == (1, Epoch(2, 0))


def test_the_other_server_may_fall_silent_as_well(pair):
    connected_to_a(pair)
    gone = given_up(pair, lambda now: refused(active="a:1") if now < 1000 else None)
    assert SILENT_MS < gone < 1000 + SILENT_MS + 100


def test_a_lone_server_is_given_time_too():
    machine = Failover(["a:1"], Options(), random.Random(1), 0)
    machine.connected(0, 0)
    machine.receive(0, opened(1), 0)
    assert given_up(machine, lambda now: None) == BUSY_MS


def test_while_the_active_is_silent_the_other_is_asked_and_taken_if_it_serves_in_a_newer_epoch(pair):
    connected_to_a(pair)
    asked, now = [], 0
    while now < 900:
        pair.tick(now, busy=True)
        now = max(now + 1, pair.deadline())
        pair.tick(now, busy=True)
        for action in pair.take_actions():
            if action == Ask(1):
                asked.append(now)
                pair.receive(1, refused(), now + 1)
    assert asked[0] == SUSPECT_MS and len(asked) >= 4
    pair.receive(1, opened(2), now)
    assert [type(action).__name__ for action in pair.take_actions()[-2:]] == ["Begin", "Changed"]
    assert pair.session == 1


def test_any_frame_ends_the_silence(pair):
    connected_to_a(pair)
    for now in range(0, 5000, 100):
        pair.tick(now, busy=True)
        if now % 1000 == 900:
            assert pair.receive(0, pong(1), now)
    assert pair.state is State.CONNECTED


def test_at_rest_it_pings_every_second_and_stays(pair):
    connected_to_a(pair)
    pings, now = [], 0
    while now < 5000:
        now = max(now + 1, pair.deadline())
        pair.tick(now)
        for action in pair.take_actions():
            assert action == Probe(0)
            pings.append(now)
            pair.receive(0, pong(1), now + 1)
    assert len(pings) in (4, 5)


def test_an_own_pause_excuses_the_server(pair):
    connected_to_a(pair)
    pair.tick(400, busy=True)
    assert pair.take_actions() == [Probe(0)]
    pair.tick(10_000, busy=True)  # this process was stopped
    assert pair.state is State.CONNECTED
    pair.tick(10_000 + SUSPECT_MS, busy=True)
    pair.tick(10_000 + SILENT_MS, busy=True)
    assert pair.state is State.LOST


def test_a_server_that_accepts_and_does_not_answer_gets_a_new_socket(pair):
    pair.connected(0, 0)
    assert pair.take_actions() == [Ask(0)]
    pair.tick(pair.deadline())
    assert kinds(pair) in ([], ["Reset"])
    pair.tick(SILENT_MS)
    assert "does not answer" in pair.error(1).cause


def test_a_connection_that_came_about_by_itself_is_not_made_anew(pair):
    pair.disconnected(0, 0, "the handshake failed")  # accepted by a server that was about to end, say
    connected_to_a(pair, now=30)
    for now in range(100, 1500, 100):
        pair.receive(0, pong(1), now)
        pair.tick(now)
    assert "Reset" not in kinds(pair)
    assert pair.session == 0


def test_a_connection_that_cannot_be_made_is_tried_again(pair):
    pair.cannot_connect(0, 0, "too many open files")
    pair.tick(500)
    assert pair.take_actions() == []
    pair.tick(1000)
    assert pair.take_actions() == [Reset(0)]
    assert "too many open files" in pair.error(1).cause


def test_a_broken_session_resets_the_link(pair):
    connected_to_a(pair)
    pair.session_broken(50, "no session")
    assert kinds(pair) == ["Reset", "End", "Changed", "Ask"]


def test_after_close_nothing_happens(pair):
    connected_to_a(pair)
    pair.close()
    assert kinds(pair) == ["End", "Changed"]
    pair.tick(10_000)
    pair.disconnected(0, 10_000)
    assert not pair.take_actions()
    assert pair.state is State.CLOSED


def test_errors_name_every_servers_answer(pair):
    assert isinstance(pair.error(5), ConnectionLost)
    pair.connected(0, 0)
    pair.receive(0, refused(), 1)
    error = pair.error(5)
    assert isinstance(error, FailoverTimeout)
    assert "a:1: refuses: PASSIVE; b:1: no connection" in error.cause
    pair.answered_with_error(1, Failure("ZHA-103", "not you"), 2)
    assert isinstance(pair.error(5), FailoverTimeout)
    assert "not you" in pair.error(5).cause


def test_an_error_to_open_at_every_server_is_final(pair):
    for server in (0, 1):
        pair.connected(server, 0)
        pair.answered_with_error(server, Failure("ZHA-103", "not you"), 2)
    assert pair.hopeless()
    assert isinstance(pair.error(5), AccessDenied)


def test_a_refused_key_is_told_to_operators_too(pair):
    pair.disconnected(0, 1, NO_ACCESS)
    assert isinstance(pair.unanswered("status", 0, 1), AccessDenied)
    assert isinstance(pair.unanswered("status", None, 1), ConnectionLost), "the other one may be reached yet"
    pair.disconnected(1, 1, NO_ACCESS)
    assert isinstance(pair.unanswered("status", None, 1), AccessDenied)


def test_a_plain_client_whose_connection_breaks_is_told_of_keys(pair):
    pair.disconnected(0, 1)
    assert "client/context.toml" in pair.unanswered("status", 0, 1).cure
    assert "client/context.toml" not in pair.unanswered("status", 1, 1).cure


def test_a_lone_passive_is_not_active_at_once():
    machine = Failover(["b:1"], Options(), random.Random(1), 0)
    machine.connected(0, 0)
    machine.receive(0, refused(active="a:7400"), 1)
    assert machine.hopeless()
    error = machine.error(5)
    assert isinstance(error, NotActive)
    assert "zmqha://b:1,a:7400" in error.cure


def test_patience_counts_from_the_loss_or_from_the_call(pair):
    connected_to_a(pair)
    assert not pair.expired(10_000, 0, 0.0)
    pair.disconnected(0, 10_000)
    assert pair.expired(10_000, 9000, 0.0)
    assert not pair.expired(11_999, 9000, 2.0)
    assert pair.expired(12_000, 9000, 2.0)
    assert not pair.expired(12_500, 11_000, 2.0)
    assert not pair.expired(10**9, 0, -1.0)
