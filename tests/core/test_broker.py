"""The broker joins the parts: what may be confirmed when (O5), who is answered what in which state, and what a change of role undoes.

The pair is the simulated one (tests/sim): two real brokers, toys around them.
"""

from dataclasses import replace

import pytest

from tests.sim.cluster import Cluster
from tests.sim.server import Process
from zmqha.core.actions import Action, Note
from zmqha.core.broker import HA_PERIOD_MS
from zmqha.core.client_protocol import Admin, Command, Open, Opened, Ping, Pong, Refused, Reply, Send, Subscribe, decode, encode
from zmqha.core.events import ClientIn, Event, JournalFull, Probed, ShipmentRefused, StoreBeat
from zmqha.core.message import batch_of
from zmqha.core.peer_protocol import Standing, State, Way
from zmqha.core.position import Epoch
from zmqha.core.source import Source
from zmqha.core.view import Step
from zmqha.errors import NoSpace


def pair(**settings: int) -> Cluster:
    cluster = Cluster(1, delays=0, consumer=False, **settings)
    cluster.form()
    return cluster


def process(cluster: Cluster, name: str) -> Process:
    found = {"a": cluster.a, "b": cluster.b}[name].process
    assert found is not None
    return found


def ask(cluster: Cluster, name: str, command: Command) -> list[Command]:
    """What a client is told at once."""
    server = process(cluster, name)
    now_ms = server.machine.own_ms()
    server.broker.receive(ClientIn(b"test", encode(command, request=3)), now_ms)
    actions = server.broker.take_actions()
    return [decode(action.frames).command for action in actions if getattr(action, "client", None) == b"test"]


def test_a_passive_refuses_and_names_the_active() -> None:
    answer = ask(pair(), "b", Open((1, 1), "x"))[0]
    assert isinstance(answer, Refused)
    assert (answer.state, answer.active) == ("PASSIVE", "tcp://a:7400")


@pytest.mark.parametrize("command", [Send("q", batch_of([b"x"], producer=1, first=1)), Subscribe(1, "q", 1, 1)])
def test_a_passive_takes_no_work(command: Command) -> None:
    assert isinstance(ask(pair(), "b", command)[0], Refused)


def test_a_passive_answers_pings_and_every_server_its_operators() -> None:
    cluster = pair()
    assert isinstance(ask(cluster, "b", Ping())[0], Pong)
    for name in "ab":
        assert isinstance(ask(cluster, name, Admin("status"))[0], Reply)


def test_an_active_opens_sessions() -> None:
    assert isinstance(ask(pair(), "a", Open((1, 1), "x"))[0], Opened)


def test_nothing_is_confirmed_while_the_peer_cannot_acknowledge() -> None:
    cluster = pair()
    cluster.run(500)
    for sender in "ab":
        cluster.cables.link[sender] += 1
        cluster.cables.lan_out[sender] += 1
    cluster.run(50)
    before = dict(cluster.checkers.promised)
    cluster.run(600)
    assert cluster.checkers.promised == before


def test_a_commit_is_releasable_only_under_the_epoch_in_which_the_peer_acknowledged_it() -> None:
    cluster = pair()
    cluster.run(500)
    broker = process(cluster, "a").broker
    assert broker.group_commit.durable_txn() > 0
    broker.source.acked = broker.source.acked._replace(epoch=Epoch(1, 1))
    assert broker.group_commit.durable_txn() == -1


@pytest.mark.parametrize("step", [Step.CLAIM, Step.PAIR, Step.INSPECT])
def test_nothing_is_releasable_while_a_durable_step_runs(step: Step) -> None:
    broker = process(pair(), "a").broker
    broker.ha.step = step
    assert broker.group_commit.durable_txn() == -1


def test_confirms_are_held_from_pairing_until_the_peer_has_accepted() -> None:
    cluster = pair()
    broker = process(cluster, "a").broker
    broker.ha.granted = False
    assert broker.group_commit.durable_txn() == -1


def test_f3_decides_says_beforehand_whether_tick_looks_at_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node reads every link before a tick that does; and between two looks it need not."""
    server = process(pair(), "a")
    broker, now_ms, looks = server.broker, server.machine.own_ms(), []
    monkeypatch.setattr(broker, "_tick_ha", looks.append)

    def turn(at_ms: int, *events: Event) -> tuple[bool, bool]:
        """What it says, and whether it looked."""
        looks.clear()
        broker.begin_turn(at_ms, 0)
        for event in events:
            broker.receive(event, at_ms)
        said = broker.decides(at_ms)
        broker.hand_out(at_ms)
        assert not looks, "what is handed out needs no decision"
        broker.tick(at_ms)
        return said, bool(looks)

    start_ms = now_ms + HA_PERIOD_MS
    assert turn(start_ms) == (True, True), "it is time"
    assert turn(start_ms + HA_PERIOD_MS - 1) == (False, False), "nothing new, and it is not time"
    assert not broker.news
    assert turn(start_ms + HA_PERIOD_MS - 1, Probed(start_ms, ok=True)) == (True, True), "news"
    pause_ms = broker.ha.timers.pause_ms
    assert turn(start_ms + HA_PERIOD_MS + pause_ms) == (True, True), "an own gap"


def test_a_slow_peer_is_dropped_by_agreement_and_taken_back() -> None:
    cluster = pair()
    cluster.b.speed.stall_ms = 4000
    cluster.run_until(
        lambda: process(cluster, "a").broker.ha.state is State.STANDALONE, 4000, "the slow peer is dropped (T_SLOW)"
    )
    cluster.b.speed.stall_ms = 0
    cluster.run_until(cluster.checkers.in_sync, 20_000, "and taken back")


def test_a_follower_whose_copy_does_not_end_is_let_go_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pair()
    with monkeypatch.context() as patch:
        patch.setattr(Source, "endless", True)
        cluster.run_until(lambda: process(cluster, "a").broker.ha.state is State.STANDALONE, 4000, "it is let go")
    cluster.run_until(cluster.checkers.in_sync, 20_000, "and taken back")


def test_commits_keep_the_pace_of_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pair()
    broker = process(cluster, "a").broker

    def commits() -> int:
        before = broker.group_commit.flushed_txn
        cluster.run(2000)
        return broker.group_commit.flushed_txn - before

    assert commits() > 10
    monkeypatch.setattr(Source, "pause_ms", 400)
    assert 4 <= commits() <= 6


def test_acknowledgements_that_found_no_company_go_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    server = process(pair(), "a")
    broker, now_ms = server.broker, server.machine.own_ms()
    monkeypatch.setattr(type(broker.service), "company_ms", now_ms + 2)
    monkeypatch.setattr(broker.service, "take_work", lambda *_: None)
    broker.group_commit.begin(now_ms)
    assert broker.deadline_ms(now_ms) <= now_ms + 2
    broker.group_commit._paused_until_ms = now_ms + 9
    broker.group_commit.begin(now_ms + 3)  # it cannot go now: the loop must not turn without end for it
    assert broker.deadline_ms(now_ms + 3) > now_ms + 3


def test_work_that_was_not_confirmed_is_confirmed_once_by_the_next_active() -> None:
    cluster = pair()
    cluster.run(500)
    cluster.a.kill(notice=True)
    cluster.run(1000)
    confirmed = {producer.number: len(producer.confirmed) for producer in cluster.producers}
    stored = cluster.history.last(cluster.b.disk.position)
    assert all(stored[number] >= count > 0 for number, count in confirmed.items())


def test_damaged_client_frames_are_answered_and_counted() -> None:
    cluster = pair()
    server = process(cluster, "a")
    server.broker.receive(ClientIn(b"test", [b"rubbish"]), server.machine.own_ms())
    assert server.broker.protocol_faults == 1


def test_a_switchover_loses_nothing_and_takes_less_than_a_third_of_a_second() -> None:
    cluster = pair()
    cluster.run(500)
    server = process(cluster, "a")
    server.broker.ha.leave("switchover", cluster.a.own_ms(), exit=False)
    took_ms = cluster.run_until(lambda: process(cluster, "b").broker.ha.state is State.STANDALONE, 300, "the peer serves")
    assert took_ms < 300


def test_a_source_that_goes_on_alone_before_its_grant_was_taken_feeds_the_peer_again() -> None:
    """Seed 5203: the source had forgotten its follower, the follower waited for it for ever."""
    cluster = Cluster(1, delays=0, consumer=False)
    cluster.start()
    cluster.run_until(lambda: process(cluster, "a").broker.ha.state is State.ACTIVE, 20_000, "pairing begins", step_ms=1)
    for sender in "ab":
        cluster.cables.link[sender] += 1
    cluster.cables.lan_out["b"] += 1
    cluster.run_until(lambda: process(cluster, "a").broker.ha.state is State.STANDALONE, 3000, "a goes on alone")
    for sender in "ab":
        cluster.cables.link[sender] -= 1
    cluster.cables.lan_out["b"] -= 1
    cluster.run_until(cluster.checkers.in_sync, 20_000, "b is fed again")


def test_a_lone_server_serves_on_when_its_follower_dies_before_it_is_in_sync() -> None:
    cluster = pair()
    cluster.b.kill(notice=False)
    cluster.run(3000)
    ha = process(cluster, "a").broker.ha
    ha.timers = replace(ha.timers, stable_ms=4000)  # as after flaps: the copy is whole long before the pairing
    cluster.b.start()
    cluster.run(1500)
    broker = process(cluster, "a").broker
    assert broker.ha.state is State.STANDALONE
    assert broker.source.whole
    cluster.b.kill(notice=False)
    before = broker.group_commit.flushed_txn
    cluster.run(6000)
    assert broker.ha.state is State.STANDALONE
    assert broker.group_commit.flushed_txn > before + 20, "commits stopped with the window full"


def test_two_servers_neither_of_which_may_serve_say_so_and_name_the_cure() -> None:
    """Both disks lost their node.state, say: BEHIND on both sides. It does not pass by itself, so it is not called settling."""
    cluster = pair()
    for machine in cluster.machines:
        machine.kill(notice=False)
        assert machine.disk.facts is not None
        machine.disk.facts = machine.disk.facts._replace(standing=Standing.BEHIND, reason="node.state was damaged")
    for machine in cluster.machines:
        machine.start()
    cluster.run(4000)
    for name in "ab":
        answer = ask(cluster, name, Admin("status"))[0]
        assert isinstance(answer, Reply)
        sentence = answer.result["sentence"]
        assert "neither store may be used by itself: that of" in sentence and "node.state was damaged" in sentence
        assert "zmqha promote --accept-loss-of-peer" in sentence


def test_a_follower_without_space_comes_back_when_what_did_not_fit_does_however_large_its_store_is() -> None:
    cluster = pair()
    broker = process(cluster, "b").broker
    broker.space.set_limits(1000, 0)
    now_ms = process(cluster, "b").machine.own_ms()
    broker.receive(JournalFull(NoSpace("full")), now_ms)
    broker.receive(ShipmentRefused("what came after that"), now_ms)
    assert broker.ha.store_full and broker.ha.unfit == "this server's disk is full"
    broker.receive(StoreBeat(1, False, 0.1, 900, 10**9), now_ms)
    assert broker.ha.store_full
    broker.receive(StoreBeat(2, False, 0.1, 1100, 10**9), now_ms)
    assert not broker.ha.store_full
    broker.follower.whole, broker.follower.total_bytes = False, 60_000
    broker.follower.way, broker.follower.copied_bytes = Way.WHOLE, 55_000  # these stay where they are
    broker.receive(JournalFull(NoSpace("full")), now_ms)
    broker.receive(StoreBeat(3, False, 0.1, 4900, 10**9), now_ms)
    assert broker.ha.store_full
    broker.receive(StoreBeat(4, False, 0.1, 5100, 10**9), now_ms)
    assert not broker.ha.store_full


def test_a_passive_leaves_before_its_disk_is_so_full_that_it_could_not_take_over() -> None:
    cluster = pair()
    machine = process(cluster, "b").machine
    machine.speed.full = True
    cluster.run_until(lambda: process(cluster, "a").broker.ha.state is State.STANDALONE, 3000, "the active goes on alone")
    assert process(cluster, "b").broker.ha.store_full
    machine.speed.full = False
    cluster.run_until(cluster.checkers.in_sync, 10_000, "the pair is in sync")


def test_room_that_runs_out_is_logged_once_and_shown_by_status_while_it_lasts() -> None:
    cluster = pair()
    server = process(cluster, "a")
    server.broker.space.set_limits(1000, 0)

    def beat(free_bytes: int) -> tuple[list[str], bool]:
        server.broker.receive(StoreBeat(1, False, 0.1, free_bytes, 10**9), server.machine.own_ms())
        events = [action.event for action in server.broker.take_actions() if isinstance(action, Note)]
        (answer,) = (one for one in ask(cluster, "a", Admin("status")) if isinstance(one, Reply))
        own = next(row for row in answer.result["servers"] if row["name"] == "a")
        return [event for event in events if event.startswith("space.")], own["refuses_sends"]

    assert beat(1100) == ([], False)
    assert beat(900) == (["space.low"], True)
    assert beat(800) == ([], True)
    assert beat(1100) == (["space.ok"], False)


def test_a_server_that_waits_after_its_start_logs_what_for_once() -> None:
    cluster = pair()
    for machine in cluster.machines:
        machine.kill(notice=False)
    cluster.b.start()
    server, said = process(cluster, "b"), []
    told = server.broker.take_actions

    def listen() -> list[Action]:
        taken = told()
        said.extend(
            dict(action.fields)["sentence"] for action in taken if isinstance(action, Note) and action.event == "ha.waits"
        )
        return taken

    server.broker.take_actions = listen  # type: ignore[method-assign]
    cluster.run(12_000)
    assert len(said) == 1
    assert "may have gone on alone since; it waits for a" in str(said[0])


def test_the_own_flush_is_awaited_only_where_the_next_confirm_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = process(pair(), "a").broker
    assert broker.ha.state is State.ACTIVE
    broker.group_commit._unconfirmed.clear()
    assert not broker.group_commit.awaits_flush
    acked = broker.source.acked.txn
    broker.group_commit._unconfirmed.append((1, acked + 1))
    broker.group_commit.flushed_txn = acked
    assert not broker.group_commit.awaits_flush, "the peer is not so far either"
    broker.group_commit.flushed_txn = acked - 1
    assert broker.group_commit.awaits_flush
    broker.group_commit.flushed_txn = acked
    monkeypatch.setattr(broker.ha, "state", State.STANDALONE)
    assert broker.group_commit.awaits_flush, "nobody else confirms"
