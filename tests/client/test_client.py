"""The client with real sockets against a small fake server."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from itertools import islice

import pytest
import zmq
from fake_server import FakeServer, FakeStore, free_port

import zmqha
from zmqha.client import engine, link
from zmqha.client.actions import State
from zmqha.client.url import Host
from zmqha.core.client_protocol import Durability
from zmqha.errors import (
    AccessDenied,
    BadName,
    ConnectionLost,
    FailoverTimeout,
    MessageTooLarge,
    NoSuchDestination,
    NotActive,
    OutcomeUnknown,
    QueueFull,
    UrlError,
    WrongState,
)  # fmt: skip


@pytest.fixture
def store():
    return FakeStore("q", "r")


@pytest.fixture
def servers():
    running = []
    yield running
    for server in running:
        server.kill()


@pytest.fixture
def pair(store, servers):
    """Two servers, the first is active."""
    a = FakeServer(store, "a")
    b = FakeServer(store, "b", active=False)
    a.other, b.other = b.address, a.address
    servers += [a, b]
    return a, b


def url(*servers):
    return "zmqha://" + ",".join(server.address for server in servers)


def take_over(a, b, epoch=2):
    """b becomes active after a is gone."""
    a.kill()
    b.promote(epoch)


def drained(client, queue="q", timeout=0.2):
    return [message.body for message in client.consume(queue, timeout=timeout)]


# --- what is in zmqha ---------------------------------------------------------------------------------------------------------


def test_everything_that_users_get_has_its_name_in_zmqha(pair):
    assert set(zmqha.__all__) <= {*dir(zmqha), *zmqha._LAZY}
    assert all(getattr(zmqha, name) for name in zmqha.__all__)

    with zmqha.connect(url(*pair)) as client, client.consume("q") as consumer:
        handle = client.send_nowait("q", b"x")
        assert isinstance(handle, zmqha.Handle) and isinstance(handle.result(), zmqha.Receipt)
        assert isinstance(consumer, zmqha.Consumer) and isinstance(client.state, zmqha.State)


def test_the_client_is_loaded_when_it_is_used():
    code = "import sys, zmqha; print([name for name in ('zmq', 'msgspec', 'zmqha.client') if name in sys.modules]); zmqha.Receipt"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout == "[]\n"


# --- connecting ---------------------------------------------------------------------------------------------------------------


def test_the_active_is_found_whatever_the_order(pair):
    a, b = pair
    for order in ((a, b), (b, a)):
        with zmqha.connect(url(*order)) as client:
            assert client.active == a.address
            assert client.state is State.CONNECTED


def test_a_lone_passive_says_who_is_active_and_how_to_ask(pair):
    _, b = pair
    start = time.monotonic()
    with pytest.raises(NotActive) as error:
        zmqha.connect(url(b))
    assert time.monotonic() - start < 1
    assert pair[0].address in error.value.cure
    assert error.value.explain().count("\n") == 2


def test_nobody_there_is_a_lost_connection_that_names_every_server():
    ports = free_port(), free_port()
    with pytest.raises(ConnectionLost) as error:
        zmqha.connect(f"zmqha://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", connect_timeout=0.3)
    assert all(f"127.0.0.1:{port}: no connection" in error.value.cause for port in ports)


def test_two_passives_are_a_failover_timeout_with_both_answers(pair):
    a, b = pair
    a.demote()
    with pytest.raises(FailoverTimeout) as error:
        zmqha.connect(url(a, b), connect_timeout=0.3)
    assert error.value.cause.count("refuses: PASSIVE") == 2


def test_a_denied_client_is_told_so_at_once(pair):
    for server in pair:
        server.refuse_open = AccessDenied("not you")
    with pytest.raises(AccessDenied):
        zmqha.connect(url(*pair))


def test_a_server_that_accepts_connections_and_is_frozen_is_named(servers, store):
    server = FakeServer(store)
    servers.append(server)
    server.freeze()
    with pytest.raises(ConnectionLost):
        zmqha.connect(url(server), connect_timeout=0.3)
    server.silent = False


def test_connecting_to_a_pair_that_starts_later_works(store, servers):
    port = free_port()
    later = threading.Timer(0.2, lambda: servers.append(FakeServer(store, port=port)))
    later.start()
    with zmqha.connect(f"zmqha://127.0.0.1:{port}") as client:
        assert client.state is State.CONNECTED
    later.join()


# --- sending and receiving ----------------------------------------------------------------------------------------------------


def test_what_is_sent_arrives_with_everything_that_was_said_about_it(pair):
    with zmqha.connect(url(*pair)) as client:
        receipt = client.send("q", {"id": 7}, properties={"to": "plant", "n": 1})
        assert receipt.durability is Durability.BOTH_DISKS
        client.send("q", "grüße")
        client.send("q", b"\0\1")
        first, second, third = list(client.consume("q", timeout=0.3))
        assert (first.json(), first.properties, first.priority) == ({"id": 7}, {"to": "plant", "n": 1}, 4)
        assert first.expires is None
        assert abs(first.timestamp - time.time()) < 5
        assert (first.destination, first.id, first.delivery_count, first.redelivered) == ("q", "q@0", 1, False)
        assert (second.text(), second.content_type, second.expires) == ("grüße", "text/plain", None)
        assert (third.body, third.properties, third.content_type) == (b"\0\1", {}, "")
        assert "q@0" in repr(first)


def test_a_server_that_runs_alone_promises_one_disk(pair):
    pair[0].durability = Durability.ONE_DISK
    with zmqha.connect(url(*pair)) as client:
        receipt = client.send("q", b"")
        assert not receipt.both_disks
        assert client.send_many("q", [b"1", b"2"]).durability is Durability.ONE_DISK


def test_a_send_costs_no_look_at_monitors_and_wakes_the_engine_without_the_lock(pair, monkeypatch):
    with zmqha.connect(url(*pair)) as client:
        client.send("q", b"first")
        looks, free = [], []
        events, wake, lock = link.Link.events, client._engine.wake, client._engine.session.lock

        def wake_without_the_lock():
            free.append(lock.acquire(timeout=1))
            if free[-1]:
                lock.release()
            wake()

        monkeypatch.setattr(link.Link, "events", lambda self: looks.append(self) or events(self))
        monkeypatch.setattr(client._engine, "wake", wake_without_the_lock)
        for number in range(20):
            client.send("q", b"%d" % number)
        monkeypatch.undo()
        assert looks == []  # each costs as much as a frame
        assert len(free) == 20 and all(free)


def test_many_messages_keep_their_order(pair, store):
    bodies = [b"%d" % number for number in range(5000)]
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", bodies)
        handles = [client.send_nowait("r", body) for body in bodies]
        client.flush()
        assert all(handle.done() for handle in handles)
        assert handles[0].result() is handles[0].result()
        assert drained(client) == bodies
    assert store.queues["r"].bodies() == bodies


def test_a_consumer_outlives_its_prefetch_and_acknowledges(pair, store):
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b""] * 1000)
        assert len(list(client.consume("q", prefetch=7, timeout=0.2))) == 1000
        client.drain()
    assert list(store.queues["q"].done) == [(0, 1000)]


def test_an_application_may_collect_as_many_as_its_prefetch_before_it_acknowledges(pair, store):
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b""] * 700)
        with client.consume("q", prefetch=650, ack="manual", timeout=5) as messages:
            collected = list(islice(messages, 650))
            for message in collected:
                message.ack()
        client.drain()
    assert store.queues["q"].done.count() == 650


def test_refused_sends_raise_by_name_and_the_others_go_on(pair, store):
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        client.send("q", b"0")
        a.refuse_sends.append(QueueFull("q is full", cause="full", cure="consume"))
        with pytest.raises(QueueFull) as error:
            client.send("q", b"1")
        assert error.value.cure == "consume"
        client.send("q", b"2")
        with pytest.raises(NoSuchDestination):
            client.send("nowhere", b"")
    assert store.queues["q"].bodies() == [b"0", b"2"]


def test_flush_tells_a_refusal_that_nobody_asked_for_once(pair):
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        a.refuse_sends.append(QueueFull("full"))
        client.send_nowait("q", b"")
        with pytest.raises(QueueFull):
            client.flush()
        client.flush()


def test_flush_tells_a_refusal_although_another_thread_was_told_of_its_own_in_the_same_batch(pair):
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        a.freeze()
        first = client.send_nowait("q", b"0")  # in flight: what follows shares a batch
        time.sleep(0.05)
        a.refuse_sends.extend([QueueFull("full")] * 2)
        client.send_nowait("q", b"mine, and nobody asks its handle")
        other = client.send_nowait("q", b"of another thread")
        a.silent = False
        for handle in (first, other):
            for _ in range(2):  # a handle counts once, however often it tells
                with pytest.raises(QueueFull):
                    handle.result(5)
        with pytest.raises(QueueFull):
            client.flush()
        client.flush()


def test_every_thread_that_flushes_is_told(pair):
    a, _ = pair
    told = []

    def flush(client):
        try:
            client.flush()
        except QueueFull:
            told.append(1)

    with zmqha.connect(url(*pair)) as client:
        a.freeze()
        a.refuse_sends.append(QueueFull("full"))
        client.send_nowait("q", b"")
        threads = [threading.Thread(target=flush, args=(client,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        a.silent = False
        for thread in threads:
            thread.join()
    assert len(told) == 2


def test_send_many_tells_of_its_own_messages_only(pair):
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        a.freeze()
        client.send_nowait("q", b"0")
        time.sleep(0.05)
        a.refuse_sends.extend([QueueFull("full")] * 2)
        unfreeze = threading.Timer(0.1, lambda: setattr(a, "silent", False))
        unfreeze.start()
        with pytest.raises(QueueFull):
            client.send_many("q", [b"1", b"2"])
        with pytest.raises(QueueFull):  # the first one
            client.flush()
        a.refuse_sends.append(QueueFull("full"))
        with pytest.raises(QueueFull):
            client.send_many("q", [b"3"])
        client.flush()


def test_pipelined_refusals_hit_exactly_their_messages(pair, store):
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        a.freeze()
        handles = []
        bodies = [b"%d" % number + bytes(300_000) for number in range(30)]
        for body in bodies:  # two do not fit: every message is a batch of its own, eight in flight
            handles.append(client.send_nowait("q", body))
        a.refuse_sends.extend([QueueFull("full")] * 2)
        a.silent = False
        outcomes = []
        for handle in handles:
            try:
                handle.result(5)
                outcomes.append(True)
            except QueueFull:
                outcomes.append(False)
    assert outcomes.count(False) == 2
    assert store.queues["q"].bodies() == [body for body, stored in zip(bodies, outcomes, strict=True) if stored]


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("bad name", b""), {}, BadName),
        (("q", bytes(9 << 20)), {}, MessageTooLarge),
        (("q", object()), {}, TypeError),
        (("q", b""), {"properties": {"big": "x" * 70_000}}, MessageTooLarge),
    ],
)
def test_what_cannot_be_sent_is_refused_here(pair, arguments, options, error):
    with zmqha.connect(url(*pair)) as client:
        with pytest.raises(error):
            client.send(*arguments, **options)
        client.send("q", b"")


def test_senders_wait_when_too_much_is_unconfirmed(pair, monkeypatch):
    monkeypatch.setattr("zmqha.client.client.WAITING_MESSAGES_MAX", 10)
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        a.drop_confirms = 1
        for _ in range(10):
            client.send_nowait("q", b"")
        timer = threading.Timer(0.2, a.kill)
        timer.start()
        threading.Timer(0.25, lambda: pair[1].promote(2)).start()
        start = time.monotonic()
        client.send_nowait("q", b"").result()
        assert time.monotonic() - start > 0.15


def test_a_timeout_bounds_the_wait_for_room_too(pair, monkeypatch):
    monkeypatch.setattr("zmqha.client.client.WAITING_MESSAGES_MAX", 2)
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        a.freeze()
        handles = [client.send_nowait("q", b"%d" % number) for number in range(2)]
        calls = (
            lambda: client.send("q", b"not sent", timeout=0.1),
            lambda: client.send_nowait("q", b"not sent", timeout=0.1),
            lambda: client.send_many("q", [b"not sent"] * 5, timeout=0.1),
        )
        for call in calls:
            start = time.monotonic()
            with pytest.raises(OutcomeUnknown, match="no room") as error:
                call()
            assert time.monotonic() - start < 0.4
            assert "not sent" in error.value.cause
        a.silent = False
        for handle in handles:
            handle.result(5)
        assert drained(client) == [b"0", b"1"]


def test_manual_acknowledgement_and_giving_back(pair, store):
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b"0", b"1", b"2"])
        with client.consume("q", ack="manual", timeout=0.2) as messages:
            first, second, third = (next(messages) for _ in range(3))
            first.ack()
            second.nack()
            second.ack()  # too late: the first call counts
            again = next(messages)
            assert (again.body, again.redelivered) == (b"1", True)
            again.ack()
            assert third.body == b"2"  # neither: given back on leaving
        assert drained(client) == [b"2"]


def test_a_message_whose_body_fails_comes_again_and_a_clean_leave_acknowledges(pair):
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b"0", b"1"])
        with pytest.raises(RuntimeError), client.consume("q") as messages:
            for _ in messages:
                raise RuntimeError
        with client.consume("q") as messages:
            for message in messages:
                assert message.body == b"0"
                break
        for message in client.consume("q"):
            assert message.body == b"1"
            break  # out of a bare loop: given back
        gc.collect()
        assert drained(client) == [b"1"]


def test_a_consumer_that_is_closed_elsewhere_hands_out_nothing_more(pair):
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b"0", b"1", b"2"])
        messages = client.consume("q")
        next(messages).ack()
        messages.close()
        assert list(messages) == []
        messages = client.consume("q")
        assert next(messages).body == b"1"
        client.drain()
        assert list(messages) == []


def test_the_largest_message_goes_through(pair):
    body = bytes(8 << 20)
    with zmqha.connect(url(*pair)) as client:
        client.send("q", body)
        assert drained(client) == [body]


def test_two_consumers_share_a_queue(pair):
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b"%d" % number for number in range(200)])
        seen = []

        def consume():
            seen.extend(message.body for message in client.consume("q", prefetch=10, timeout=0.3))

        threads = [threading.Thread(target=consume) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == len(set(seen)) == 200


def test_an_unknown_queue_is_refused_when_subscribing(pair):
    with zmqha.connect(url(*pair)) as client, pytest.raises(NoSuchDestination):
        client.consume("nowhere")


def test_a_consumer_that_could_not_be_opened_takes_no_messages_later(pair):
    a, _ = pair
    with zmqha.connect(url(a), failover_timeout=0.5) as client:
        client.send("q", b"0")
        a.demote()
        with pytest.raises(NotActive) as error:  # it keeps the frame, and so the consumer, alive
            client.consume("q")
        a.promote(2)
        client.send("r", b"")  # the session is back
        assert not client._engine.session.subscriptions
        assert drained(client) == [b"0"]
    assert error


def test_options_of_consume_are_checked(pair):
    with zmqha.connect(url(*pair)) as client:
        for options in ({"prefetch": 0}, {"ack": "maybe"}):
            with pytest.raises(UrlError):
                client.consume("q", **options)


# --- failover -----------------------------------------------------------------------------------------------------------------


def test_a_send_during_a_takeover_returns_later(pair, store):
    a, b = pair
    changes = []
    with zmqha.connect(url(a, b), on_state=lambda *change: changes.append(change)) as client:
        client.send("q", b"0")
        threading.Timer(0.15, lambda: b.promote(2)).start()
        a.kill()
        start = time.monotonic()
        client.send("q", b"1")
        assert time.monotonic() - start < 1
        assert client.active == b.address
    assert store.queues["q"].bodies() == [b"0", b"1"]
    assert [(old.value, new.value) for old, new, _ in changes] == [
        ("connecting", "connected"), ("connected", "lost"), ("lost", "connected"), ("connected", "closed"),
    ]  # fmt: skip


def test_a_stored_but_unconfirmed_send_is_not_stored_twice(pair, store):
    a, b = pair
    with zmqha.connect(url(a, b)) as client:
        a.drop_confirms = 8
        handles = [client.send_nowait("q", b"%d" % number) for number in range(100)]
        while not store.queues["q"].tail:
            time.sleep(0.005)
        take_over(a, b)
        for handle in handles:
            handle.result(5)
    assert store.queues["q"].bodies() == [b"%d" % number for number in range(100)]


def test_a_switchover_moves_the_client_at_once(pair):
    a, b = pair
    with zmqha.connect(url(a, b)) as client:
        client.send("q", b"0")
        a.demote()
        b.promote(2)
        start = time.monotonic()
        client.send("q", b"1")
        assert time.monotonic() - start < 0.5
        assert client.active == b.address


def test_a_frozen_server_is_left_after_600_ms_of_silence_if_the_other_serves(pair):
    a, b = pair
    with zmqha.connect(url(a, b)) as client:
        client.send("q", b"0")
        a.freeze()
        b.promote(2)
        start = time.monotonic()
        client.send("q", b"1")
        assert 0.5 < time.monotonic() - start < 1.2
        assert client.active == b.address
        a.silent = False  # the zombie wakes up, still "active" in epoch 1
        client.send("q", b"2")
        assert client.active == b.address


def test_a_zombie_with_a_lower_epoch_is_not_obeyed(pair):
    a, b = pair
    with zmqha.connect(url(a, b), failover_timeout=0.4) as client:
        a.demote()
        b.promote(5)
        client.send("q", b"1")
        b.kill()
        a.active = True  # epoch 1
        with pytest.raises(FailoverTimeout) as error:
            client.send("q", b"2")
        assert "claims to be active in epoch 1, but epoch 5 was seen" in error.value.cause
        client.close()  # without waiting for what cannot be confirmed


def test_consuming_survives_a_takeover_without_loss_and_without_showing_twice(pair, store):
    a, b = pair
    with zmqha.connect(url(a, b)) as client:
        client.send_many("q", [b"%d" % number for number in range(500)])
        seen = []
        for message in client.consume("q", prefetch=50, timeout=0.6):
            seen.append(int(message.body))
            if len(seen) == 120:
                a.drop_acked = 1000
            if len(seen) == 130:
                take_over(a, b)
        assert seen == list(range(500))
        client.drain()
    assert list(store.queues["q"].done) == [(0, 500)]


def test_a_message_in_the_hands_of_the_application_survives_a_takeover(pair, store):
    a, b = pair
    with zmqha.connect(url(a, b)) as client:
        client.send("q", b"0")
        with client.consume("q", ack="manual", timeout=0.3) as messages:
            message = next(messages)
            take_over(a, b)
            client.send("r", b"")  # the session is back
            assert list(messages) == []  # listed as held: not delivered again
            message.ack()
        assert list(store.queues["q"].done) == [(0, 1)]


def test_calls_fail_by_name_when_nobody_serves_for_too_long(pair):
    a, b = pair
    with zmqha.connect(url(a, b), failover_timeout=0.3) as client:
        consumer = client.consume("q")
        a.kill()
        b.kill()
        for call in (lambda: client.send("q", b""), lambda: next(consumer), client.flush):
            with pytest.raises(FailoverTimeout) as error:
                call()
            assert a.address in error.value.cause
        client.close()


def test_a_restarted_server_gets_nothing_twice(pair, store):
    a, _ = pair
    with zmqha.connect(url(a)) as client:
        client.send("q", b"0")
        a.drop_confirms = 1
        handle = client.send_nowait("q", b"1")
        while store.queues["q"].tail < 2:
            time.sleep(0.005)
        a.kill()
        again = FakeServer(store, "a", epoch=2, port=a.port)
        try:
            handle.result(5)
            client.send("q", b"2")
        finally:
            client.close()
            again.kill()
    assert store.queues["q"].bodies() == [b"0", b"1", b"2"]


# --- operating and ending -----------------------------------------------------------------------------------------------------


def test_admin_goes_to_the_active_or_to_the_one_named_or_to_whoever_is_there(pair):
    a, b = pair
    with zmqha.connect(url(b, a)) as client:
        assert client.admin("status", {"x": 1}) == {"server": "a", "verb": "status", "x": 1}
        assert client.admin("status", server=0)["server"] == "b"
        with pytest.raises(UrlError):
            client.admin("status", server=2)
    with zmqha.connect(url(b), wait=False) as client:
        assert client.admin("status")["server"] == "b"


def test_admin_without_any_server_says_so():
    with zmqha.connect(f"zmqha://127.0.0.1:{free_port()}", wait=False) as client:
        with pytest.raises(ConnectionLost) as error:
            client.admin("status", timeout=0.2)
        assert "no connection" in error.value.cause
        client.close()


def test_closing_leaves_unconfirmed_sends_unknown_and_later_calls_fail(pair):
    a, _ = pair
    client = zmqha.connect(url(*pair))
    a.drop_confirms = 1
    handle = client.send_nowait("q", b"")
    with pytest.raises(OutcomeUnknown):
        handle.result(0.1)
    client.close()
    client.close()
    with pytest.raises(OutcomeUnknown):
        handle.result()
    for call in (lambda: client.send("q", b""), lambda: client.consume("q"), lambda: client.admin("x"), client.flush):
        with pytest.raises(ConnectionLost):
            call()
    assert client.state is State.CLOSED
    end_s = time.monotonic() + 5
    while "Close" not in a.seen and time.monotonic() < end_s:
        time.sleep(0.01)  # it is on its way: the client does not wait for an answer
    assert "Close" in a.seen


def test_leaving_the_block_waits_for_what_was_sent(pair, store):
    with zmqha.connect(url(*pair)) as client:
        for number in range(100):
            client.send_nowait("q", b"%d" % number)
    assert store.queues["q"].tail == 100


def test_an_unclosed_client_is_a_warning_and_ends(pair):
    client = zmqha.connect(url(*pair))
    thread = client._engine.thread
    with pytest.warns(ResourceWarning):
        del client
        gc.collect()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_client_cannot_be_used_after_a_fork(pair):
    with zmqha.connect(url(*pair)) as client:
        child = os.fork()
        if child == 0:
            try:
                client.send("q", b"")
            except WrongState:
                client.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        client.send("q", b"")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_client_gave_cannot_be_used_after_a_fork_either(pair):
    a, _ = pair
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b"0", b"1", b"2"])
        with client.consume("q", ack="manual", timeout=1) as messages:
            held = next(messages)
            a.freeze()
            handle = client.send_nowait("q", b"3")
            session = client._engine.session
            with session.lock:  # as the I/O thread may hold it when the child is made
                child = os.fork()
            if child == 0:
                signal.alarm(10)
                calls = (lambda: next(messages), held.ack, messages.__next__, handle.result, client.flush)
                refused = 0
                for call in calls:
                    try:
                        call()
                    except WrongState:
                        refused += 1
                messages.close()
                del messages
                client.close()
                os._exit(refused)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
            a.silent = False
            handle.result(5)
            held.ack()
            assert [next(messages).body for _ in range(3)] == [b"1", b"2", b"3"]


def test_a_failing_on_state_does_not_end_the_connection_and_may_not_wait(pair):
    failures = []

    def on_state(old, new, reason):
        try:
            client_box[0].send("q", b"")
        except WrongState as error:
            failures.append(error)
        raise RuntimeError("the application's mistake")

    client_box = []
    with zmqha.connect(url(*pair), on_state=lambda *_: client_box and on_state(*_)) as client:
        client_box.append(client)
        pair[0].demote()
        pair[1].promote(2)
        client.send("q", b"1")
        client_box.clear()
    assert failures


def test_a_crash_of_the_io_thread_fails_every_waiting_call(pair, monkeypatch):
    a, _ = pair
    client = zmqha.connect(url(*pair))
    a.drop_confirms = 1
    handle = client.send_nowait("q", b"")
    monkeypatch.setattr(client._engine, "_turn", lambda: 1 / 0)
    client._engine.wake()
    with pytest.raises(OutcomeUnknown):
        handle.result(5)
    with pytest.raises(ConnectionLost) as error:
        client.send("q", b"")
    assert "ZeroDivisionError" in error.value.cause
    client.close()


def test_a_crash_of_the_io_thread_is_no_regular_end_of_a_loop(pair, monkeypatch):
    client = zmqha.connect(url(*pair))
    messages = client.consume("q")
    monkeypatch.setattr(client._engine, "_turn", lambda: 1 / 0)
    client._engine.wake()
    with pytest.raises(ConnectionLost, match="broke down"):
        next(messages)
    client.close()


def test_a_closed_client_ends_a_loop_without_an_error(pair):
    client = zmqha.connect(url(*pair))
    messages = client.consume("q")
    client.close()
    assert list(messages) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_consumer_and_a_handle_keep_their_client(pair, store):
    assert zmqha.connect(url(*pair)).send_nowait("q", b"0").result(5).both_disks
    with zmqha.connect(url(*pair)) as client:
        client.send_many("q", [b"1", b"2"])
    bodies = [message.body for message in zmqha.connect(url(*pair)).consume("q", timeout=0.3)]
    gc.collect()
    assert bodies == [b"0", b"1", b"2"]


def test_each_server_has_a_thread_of_libzmqs_for_itself(pair):
    """A name server that does not answer holds up the thread in which libzmq asks it, for seconds."""
    a, b = pair
    with zmqha.connect(url(a, b)) as client:
        client.send("q", b"0")
        take_over(a, b)
        client.send("q", b"1")  # by a link made anew
        threads = [link.socket.getsockopt(zmq.AFFINITY) for link in client._engine._links]
        assert (client._engine._context.get(zmq.IO_THREADS), threads) == (2, [1, 2])


def test_a_client_without_a_free_socket_tries_again(pair, store, monkeypatch):
    a, b = pair
    real = engine.Link
    refused = []

    def none_free(*_, **__):
        refused.append(1)
        raise zmq.ZMQError(errno.EMFILE)

    with zmqha.connect(url(*pair)) as client:
        monkeypatch.setattr(engine, "Link", none_free)
        take_over(a, b)
        client.send("q", b"by the other link")
        assert refused
        monkeypatch.setattr(engine, "Link", real)
        again = FakeServer(store, "a", active=False, port=a.port)
        again.other = b.address
        try:
            deadline = time.monotonic() + 5
            while len(client._engine.failover.reachable()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            again.kill()


def test_a_broken_session_without_a_free_socket_is_no_end(pair, monkeypatch):
    a, _ = pair
    real = engine.Link
    refused = []

    def none_free(*arguments, **keywords):
        if not refused:
            refused.append(1)
            raise zmq.ZMQError(errno.EMFILE)
        return real(*arguments, **keywords)

    with zmqha.connect(url(*pair)) as client:
        monkeypatch.setattr(engine, "Link", none_free)
        a._sessions.clear()  # the next SEND is answered with "no session", and the link is made anew
        client.send("q", b"late")
    assert refused


def test_no_free_socket_at_the_start_is_said_and_leaves_nothing(pair, monkeypatch):
    def none_free(*_, **__):
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(engine, "Link", none_free)
    threads = threading.active_count()
    with pytest.raises(ConnectionLost) as error:
        zmqha.connect(url(*pair))
    assert "open files" in error.value.cure
    assert threading.active_count() == threads


def test_a_link_that_cannot_be_made_leaves_nothing_open_and_closes_twice():
    context = zmq.Context()
    context.max_sockets = 2  # a link needs three: its own, libzmq's end of the monitor, the monitor
    with pytest.raises(zmq.ZMQError):
        link.Link(context, Host("127.0.0.1", free_port()), None)
    context.term()
    context = zmq.Context()
    one = link.Link(context, Host("127.0.0.1", free_port()), None)
    one.close()
    one.close()
    context.term()


def test_a_key_file_with_a_broken_key_is_refused_by_name(pair, tmp_path):
    public = zmq.curve_keypair()[0].decode()
    file = tmp_path / "client.key_secret"
    file.write_text(f'metadata\ncurve\n    public-key = "{public}"\n    secret-key = "{"~" * 40}"\n')
    with pytest.raises(UrlError, match="not Z85"):
        zmqha.connect(url(*pair), curve_server_key=public, curve_key_file=str(file))


def test_curve_works_with_the_right_key_and_says_what_is_wrong_otherwise(store, servers, tmp_path):
    public, secret = zmq.curve_keypair()
    server = FakeServer(store, curve=secret, curve_public=public)
    servers.append(server)
    zmq.auth.create_certificates(tmp_path, "client")
    options = {"curve_server_key": public.decode(), "curve_key_file": str(tmp_path / "client.key_secret")}
    with zmqha.connect(url(server), **options) as client:
        client.send("q", b"secret")
    with pytest.raises((ConnectionLost, AccessDenied)) as error:
        zmqha.connect(url(server), connect_timeout=0.3)
    assert any(
        words in error.value.cause
        for words in ("handshake", "no connection", "connection broke", "does not accept this client's key")
    )
    with pytest.raises(UrlError):
        zmqha.connect(url(server), **(options | {"curve_key_file": str(tmp_path / "nothing")}))
    with pytest.raises(UrlError):
        zmqha.connect(url(server), **(options | {"curve_key_file": str(tmp_path / "client.key")}))


def test_no_resource_is_left_behind(pair):
    before = threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with zmqha.connect(url(*pair)) as client:
                client.send("q", b"")
        gc.collect()
    assert threading.active_count() == before


def test_many_threads_share_a_client(pair, store):
    with zmqha.connect(url(*pair)) as client:

        def send(which):
            for number in range(50):
                client.send("q", b"%d/%d" % (which, number))

        threads = [threading.Thread(target=send, args=(which,)) for which in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    bodies = store.queues["q"].bodies()
    assert len(bodies) == len(set(bodies)) == 300
    for which in range(6):
        mine = [body for body in bodies if body.startswith(b"%d/" % which)]
        assert mine == [b"%d/%d" % (which, number) for number in range(50)]
