"""Stories about the messaging core: what a client may count on, step by step."""

import pytest

from tests.core.service_rig import REFUSED, Rig, bodies, check
from zmqha.core import limits
from zmqha.core.client_protocol import (
    Ack,
    Acked,
    Admin,
    Close,
    Command,
    Confirm,
    Credit,
    Deliver,
    Durability,
    Envelope,
    Failure,
    Nack,
    Open,
    Opened,
    Ping,
    Pong,
    Refused,
    Reply,
    Send,
    Subscribe,
    Unsubscribe,
)  # fmt: skip
from zmqha.core.commits import COMPANY_MS, FLOW_MS, SPACING_MS
from zmqha.core.cursor import DELAYED_MAX, RANGES_MAX
from zmqha.core.message import records
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.core.service import ServiceSettings
from zmqha.errors import NoSpace

A, B, P = b"consumer-a", b"consumer-b", b"producer"
MANY = 10_000
MUCH = 1 << 30


def rig_with(*names: str, queue: str = "q", settings: dict | None = None) -> Rig:
    """Three open sessions and one stored batch."""
    rig = Rig(**(settings or {}))
    rig.open(A, B, P)
    if names:
        rig.say(P, Send(queue, bodies(*names)))
        rig.take()
        rig.release()
    return rig


def rig_of_a_hundred_batches() -> Rig:
    """Stored, and not in memory."""
    rig = Rig(cache_bytes=1)
    rig.open(A, P)
    for first in range(1, 101):
        rig.say(P, Send("q", bodies("x", first=first)))
    rig.settle()
    return rig


def only(commands: list[Command], kind: type) -> list:
    return [command for command in commands if isinstance(command, kind)]


def texts(commands: list[Command]) -> list[list[str]]:
    return [[record.body.decode() for record in records(d.batch)] for d in only(commands, Deliver)]


def subscribe(
    rig: Rig, client: bytes, *, messages: int = MANY, size: int = MUCH, number: int = 1, held: tuple = (), queue: int = 0
) -> list[Command]:
    return rig.say(client, Subscribe(number, "q", messages, size, held, queue))


def admin(rig: Rig, verb: str, **arguments: object) -> list[Command]:
    return rig.say(b"operator", Admin(verb, arguments), 5)


# --- durability -------------------------------------------------------------------------------------------------------------


def test_a_send_is_confirmed_and_delivered_only_when_it_is_released() -> None:
    rig = rig_with()
    subscribe(rig, A)
    assert rig.say(P, Send("q", bodies("one", "two"))) == []
    work = rig.take()
    assert work is not None and rig.turn() == []
    assert [append[:3] for append in work.appends] == [(1, 0, 2)]
    heard = rig.release(durability=Durability.ONE_DISK)
    assert only(heard, Confirm) == [Confirm("q", 7, 2, Durability.ONE_DISK)]
    assert texts(heard) == [["one", "two"]]
    deliver = only(heard, Deliver)[0]
    assert (deliver.first, deliver.deliveries, deliver.redelivered) == (0, 1, False)


def test_one_confirm_covers_all_batches_of_a_work() -> None:
    rig = rig_with()
    for first in (1, 2, 3):
        rig.say(P, Send("q", bodies(f"m{first}", first=first)), request=first)
    rig.take()
    rig.release()
    confirms = [envelope for _, envelope in rig.got if isinstance(envelope.command, Confirm)]
    assert [(e.request, e.command.up_to) for e in confirms] == [(3, 3)]


def test_an_ack_is_answered_when_it_is_released_and_drops_the_value_with_its_last_message() -> None:
    rig = rig_with("one", "two")
    subscribe(rig, A)
    assert rig.say(A, Ack(1, ((0, 1),))) == []
    work = rig.take()
    assert work is not None and work.dropped_values == () and work.cursors[0].floor == 1
    assert rig.release() == [Acked(1, ((0, 1),))]
    rig.say(A, Ack(1, ((1, 2),)))
    work = rig.take()
    assert work is not None and work.dropped_values == (1,)
    rig.release()
    assert rig.store.values == {}


def test_a_work_takes_at_most_the_bytes_asked_for_but_at_least_one_batch() -> None:
    rig = rig_with()
    for first in (1, 2, 3):
        rig.say(P, Send("q", bodies("x" * 100, first=first)))
    assert rig.service.waiting_bytes > 300
    sizes = [len(rig.take(max_bytes).appends) for max_bytes in (1, 1 << 20)]  # type: ignore[union-attr]
    assert sizes == [1, 2]
    assert rig.service.waiting_bytes == 0
    assert rig.take() is None
    assert not rig.service.idle
    rig.release()
    assert rig.service.idle


def test_a_full_disk_refuses_the_sends_by_name_and_the_sequence_goes_on_where_it_was() -> None:
    rig = rig_with("one")
    subscribe(rig, A)
    rig.say(P, Send("q", bodies("two", first=2)))
    rig.take()
    rig.say(P, Send("q", bodies("three", first=3)))
    rig.take()
    rig.say(P, Send("q", bodies("four", first=4)))
    heard = rig.fail(0)
    assert [failure.code for failure in heard] == [NoSpace.code] * 3
    assert rig.take() is None
    refused = rig.say(P, Send("q", bodies("five", first=5)))
    assert (refused[0].code, refused[0].expected) == ("ZHA-204", 2)  # type: ignore[union-attr]
    rig.say(P, Send("q", bodies("again", first=2)))
    rig.take()
    assert texts(rig.release()) == [["again"]]
    check(rig.service)


def test_acks_undone_by_a_full_disk_are_written_again_before_they_are_answered() -> None:
    rig = rig_with("one", "two")
    subscribe(rig, A)
    rig.say(A, Ack(1, ((0, 2),)))
    first = rig.take()
    assert rig.fail(0) == []
    again = rig.take()
    assert first is not None and again is not None
    assert (again.cursors, again.dropped_values) == (first.cursors, first.dropped_values)
    assert rig.release() == [Acked(1, ((0, 2),))]


def test_while_sends_are_held_acknowledgements_go_on() -> None:
    rig = rig_with("one")
    subscribe(rig, A)
    rig.service.hold_sends(NoSpace("the disk is nearly full"))
    assert rig.say(P, Send("q", bodies("two", first=2)))[0].code == NoSpace.code  # type: ignore[union-attr]
    assert admin(rig, "queue.add", name="other")[0].code == NoSpace.code  # type: ignore[union-attr]
    rig.say(A, Ack(1, ((0, 1),)))
    assert rig.settle() == [Acked(1, ((0, 1),))]
    assert rig.say(P, Send("q", bodies("one")))[0] == Confirm("q", 7, 1, 2), "a duplicate is confirmed all the same"
    rig.service.hold_sends(None)
    rig.say(P, Send("q", bodies("two", first=2)))
    assert texts(rig.settle()) == [["two"]]


def test_while_sends_flow_acknowledgements_wait_a_moment_for_one_and_share_its_commit() -> None:
    rig = rig_with("one", "two", "three")
    subscribe(rig, A)
    service, now_ms = rig.service, rig.now_ms
    rig.say(A, Ack(1, ((0, 1),)))
    assert service.take_work(1 << 20, now_ms) is None and not service.idle
    assert service.company_ms == now_ms + COMPANY_MS
    rig.say(P, Send("q", bodies("four", first=4)))
    shared = service.take_work(1 << 20, now_ms + 1)
    assert shared is not None and len(shared.appends) == len(shared.cursors) == 1
    assert service.company_ms is None
    rig.say(A, Ack(1, ((1, 2),)))
    assert service.take_work(1 << 20, now_ms + 2) is None
    assert service.take_work(1 << 20, now_ms + 90) is None  # a send is on its way: the next one comes when it is confirmed
    service.released(shared.number, Durability.BOTH_DISKS)
    assert service.take_work(1 << 20, now_ms + 89 + COMPANY_MS) is None
    alone = service.take_work(1 << 20, now_ms + 90 + COMPANY_MS)  # no send came: it goes
    assert alone is not None and (len(alone.appends), len(alone.cursors)) == (0, 1)
    rig.say(A, Ack(1, ((2, 3),)))
    assert service.take_work(1 << 20, now_ms + 90 + FLOW_MS) is not None  # none is to be expected: at once


def test_without_sends_commits_of_acknowledgements_are_spaced_and_the_first_goes_at_once() -> None:
    rig = rig_with(*"abcdefghijkl")
    subscribe(rig, A)
    service, start_ms = rig.service, rig.now_ms + 10_000
    taken = []
    for offset in range(8):
        now_ms = start_ms + 4 * offset
        rig.say(A, Ack(1, ((offset, offset + 1),)))
        if service.take_work(1 << 20, now_ms) is not None:
            taken.append(now_ms - start_ms)
            continue
        assert service.company_ms == start_ms + taken[-1] + SPACING_MS, "the loop must wake up for it"
    assert taken == [0, 12, 24]
    assert service.take_work(1 << 20, start_ms + 33) is None
    assert service.take_work(1 << 20, start_ms + 34) is not None
    admin(rig, "queue.purge", name="q")
    assert service.take_work(1 << 20, start_ms + 35) is not None, "an operator waits for this one"


def test_what_an_operator_waits_for_does_not_wait_for_company() -> None:
    rig = rig_with("one")
    admin(rig, "queue.add", name="r")
    assert rig.service.take_work(1 << 20, rig.now_ms) is not None


# --- de-duplication ---------------------------------------------------------------------------------------------------------


def test_a_batch_sent_again_is_confirmed_at_once_if_its_copy_is_released() -> None:
    rig = rig_with("one", "two")
    assert rig.say(P, Send("q", bodies("one", "two"))) == [Confirm("q", 7, 2, 2)]
    assert rig.take() is None


@pytest.mark.parametrize("taken", [False, True])
def test_a_batch_sent_again_waits_for_its_copy(taken: bool) -> None:
    rig = rig_with()
    rig.say(P, Send("q", bodies("one")))
    if taken:
        rig.take()
    assert rig.say(A, Send("q", bodies("one"))) == []
    if not taken:
        rig.take()
    rig.release()
    assert {client for client, envelope in rig.got if isinstance(envelope.command, Confirm)} == {A, P}
    assert rig.service.counts()["messages"] == 1


def test_a_duplicate_is_refused_with_its_copy_when_the_disk_is_full() -> None:
    rig = rig_with()
    rig.say(P, Send("q", bodies("one")))
    rig.take()
    rig.say(A, Send("q", bodies("one")))
    assert [failure.code for failure in rig.fail(0)] == [NoSpace.code] * 2


def test_of_a_batch_known_in_part_the_upper_part_is_stored() -> None:
    rig = rig_with("one", "two")
    subscribe(rig, A)
    rig.say(P, Send("q", bodies("two", "three", "four", first=2)))
    heard = rig.settle()
    assert only(heard, Confirm) == [Confirm("q", 7, 4, 2)]
    assert texts(heard) == [["three", "four"]]


@pytest.mark.parametrize("first", [3, 1 << 40])
def test_a_gap_is_refused_naming_the_expected_sequence(first: int) -> None:
    rig = rig_with("one")
    heard = rig.say(P, Send("q", bodies("late", first=first)))
    assert [(failure.code, failure.expected, failure.destination) for failure in only(heard, Failure)] == [("ZHA-204", 2, "q")]


def test_sequences_count_per_destination() -> None:
    rig = rig_with("one")
    assert rig.say(P, Send("r", bodies("first"))) == []
    assert only(rig.say(P, Send("s", bodies("second", first=2))), Failure)[0].expected == 1
    assert "s" not in rig.service._desk.queues.by_name


def test_sequences_survive_a_takeover() -> None:
    rig = rig_with("one", "two")
    rig.takeover()
    rig.open(P)
    assert rig.say(P, Send("q", bodies("two", first=2))) == [Confirm("q", 7, 2, Durability.ONE_DISK)]
    assert only(rig.say(P, Send("q", bodies("x", first=4))), Failure)[0].expected == 3


# --- limits and names -------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_with_what_why_cure_and_later_batches_are_out_of_sequence() -> None:
    rig = rig_with()
    admin(rig, "queue.add", name="q", max_messages=2)
    rig.say(P, Send("q", bodies("one", "two")))
    failure = rig.say(P, Send("q", bodies("three", first=3)))[0]
    assert isinstance(failure, Failure) and failure.code == "ZHA-202" and failure.cause and failure.cure
    assert rig.say(P, Send("q", bodies("four", first=4)))[0].code == "ZHA-204"  # type: ignore[union-attr]
    rig.settle()
    subscribe(rig, A)
    rig.say(A, Ack(1, ((0, 1),)))
    assert rig.say(P, Send("q", bodies("three", first=3))) == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "a//b", "/a", "ä", "x" * 201, "a\n"])
def test_a_bad_name_creates_nothing(name: str) -> None:
    rig = rig_with()
    commands = (Send(name, bodies("x")), Subscribe(1, name, 1, 1), Admin("queue.add", {"name": name}))
    assert {only(rig.say(P, command), Failure)[0].code for command in commands} == {"ZHA-207"}
    assert rig.service.counts()["queues"] == 0


def test_bounds_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_PER_SESSION", 1)
    rig = Rig(sessions=2, queues=1, max_message_bytes=100)
    rig.open(A, P)
    assert rig.say(B, Open((1, 1), "b"))[0].code == "ZHA-208"  # type: ignore[union-attr]
    assert isinstance(rig.say(A, Open((1, 1), "a"))[0], Opened), "the second OPEN of a connection needs no second place"
    subscribe(rig, A)
    assert subscribe(rig, A, number=2)[0].code == "ZHA-208"  # type: ignore[union-attr]
    assert rig.say(P, Send("other", bodies("x")))[0].code == "ZHA-208"  # type: ignore[union-attr]
    assert rig.say(P, Send("q", bodies("x" * 101)))[0].code == "ZHA-203"  # type: ignore[union-attr]
    assert rig.say(P, Send("q", bodies(*["x" * 100] * 20))) == [], "only a message counts, not its batch"


def test_commands_without_a_session_are_refused_and_a_ping_tells_so() -> None:
    rig = Rig()
    commands = (Ping(), Send("q", bodies("x")), Subscribe(1, "q", 1, 1), Ack(1, ((0, 1),)), Close())
    assert [rig.say(A, command)[0].code for command in commands] == ["ZHA-303"] * 5  # type: ignore[union-attr]
    rig.open(A)
    assert rig.say(A, Ping()) == [Pong()]


def test_a_client_of_other_versions_is_refused() -> None:
    rig = Rig()
    assert rig.say(A, Open((2, 3), "new"))[0].code == "ZHA-302"  # type: ignore[union-attr]
    assert isinstance(rig.say(A, Open((0, 3), "old"))[0], Opened)


@pytest.mark.parametrize("command", [Send("q", b"rubbish"), Pong(), Credit(1, -1, 0), Subscribe(1 << 40, "q", 1, 1)])
def test_a_breach_of_the_grammar_ends_the_session_and_no_other(command: Command) -> None:
    rig = rig_with("one")
    subscribe(rig, A)
    heard = rig.say(A, command)
    assert heard[0].code == "ZHA-301" and heard[1] == Close()  # type: ignore[union-attr]
    assert texts(subscribe(rig, B)) == [["one"]]


# --- credit, order, turns ---------------------------------------------------------------------------------------------------


def test_credit_in_messages_bounds_what_is_out() -> None:
    rig = rig_with(*"abcde")
    assert texts(subscribe(rig, A, messages=2)) == [["a", "b"]]
    assert texts(rig.say(A, Ack(1, ((0, 1),)))) == [["c"]]
    assert texts(rig.say(A, Credit(1, 4, MUCH))) == [["d", "e"]]


def test_credit_in_bytes_bounds_too_but_one_message_always_fits() -> None:
    rig = rig_with("a" * 1000, "b" * 1000, "c" * 1000)
    assert [len(names) for names in texts(subscribe(rig, A, size=10))] == [1]
    assert [len(names) for names in texts(subscribe(rig, B, size=2500))] == [2]


def test_no_credit_means_nothing() -> None:
    rig = rig_with("a")
    assert texts(subscribe(rig, A, messages=0)) == []
    assert texts(subscribe(rig, B)) == [["a"]]


def test_consumers_take_turns() -> None:
    rig = rig_with()
    subscribe(rig, A, messages=2)
    subscribe(rig, B, messages=2)
    rig.say(P, Send("q", bodies(*"abcdef")))
    rig.settle()
    assert [(client, command.first) for client, e in rig.got if isinstance(command := e.command, Deliver)] == [(A, 0), (B, 2)]


def test_a_large_batch_is_delivered_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DELIVER_BYTES_TARGET", 250)
    rig = rig_with(*["x" * 79] * 6, "y" * 1000)
    assert [len(names) for names in texts(subscribe(rig, A))] == [2, 2, 2, 1]


def test_a_batch_not_in_memory_is_fetched_and_nothing_overtakes_it() -> None:
    rig = rig_with("one", settings={"cache_bytes": 1})
    rig.say(P, Send("q", bodies("two", first=2)))
    rig.settle()
    assert texts(subscribe(rig, A)) == []
    assert len(rig.reads) == 1, "the newest batch is in memory"
    assert texts(rig.answer_reads()) == [["one"], ["two"]]


def test_reads_run_ahead_within_a_bound() -> None:
    rig = rig_of_a_hundred_batches()
    subscribe(rig, A, messages=1)
    assert len(rig.reads) == 32
    rig.takeover()
    rig.service.fetched(1, b"an answer to a read of an earlier term")
    rig.open(A)
    subscribe(rig, A)
    assert len(texts(rig.settle())) == 100


def test_the_next_reads_begin_once_half_of_the_last_ones_are_handed_out() -> None:
    rig = rig_of_a_hundred_batches()
    rig.service.reconfigure(ServiceSettings("a", "test", ("a:1", "b:1"), cache_bytes=limits.MIB))
    subscribe(rig, A, messages=1)
    rig.answer_reads()
    begun = []
    for offset in range(99):
        assert texts(rig.say(A, Ack(1, ((offset, offset + 1),)))) == [["x"]], "it need not wait for the store again"
        if rig.reads:
            begun.append(offset + 1)
            rig.answer_reads()
    assert begun == [16, 40, 61, 83]
    assert rig.reads == []


# --- back to the queue ------------------------------------------------------------------------------------------------------


def test_what_is_given_back_comes_first_flagged_and_counted() -> None:
    rig = rig_with("one", "two", "three")
    subscribe(rig, A, messages=2)
    deliver = only(rig.say(A, Nack(1, 0, ((0, 1),))), Deliver)
    assert [(d.first, d.deliveries, d.redelivered) for d in deliver] == [(0, 2, True)]
    work = rig.take()
    assert work is not None and work.cursors[0].returned == ((0, 1, 1),)


def test_no_queue_stops_because_much_of_it_is_delayed() -> None:
    rig = rig_with()
    subscribe(rig, A)
    for first in range(0, 2 * RANGES_MAX, 1000):
        rig.say(P, Send("q", bodies(*["x"] * 1000, first=first + 1)))
        new = [d.first for d in only(rig.settle(), Deliver) if not d.redelivered]
        assert new == [first], "what is fresh goes out, whatever is delayed"
        rig.say(A, Ack(1, tuple((at, at + 1) for at in range(first, first + 1000, 2))))
        for at in range(first + 1, first + 1000, 2):
            for again in only(rig.say(A, Nack(1, 3_600_000, ((at, at + 1),))), Deliver):  # too many are delayed
                rig.say(A, Ack(1, ((again.first, again.first + 1),)))
        rig.settle()
    assert len(rig.service._desk.queues.by_name["q"].cursor.delayed) == DELAYED_MAX


def test_a_delay_holds_back_a_message_until_its_time() -> None:
    rig = rig_with("one", "two")
    subscribe(rig, A)
    assert rig.say(A, Nack(1, 500, ((0, 1),))) == []
    deadline = rig.service.deadline_ms()
    assert deadline is not None and deadline <= rig.now_ms + 500
    assert only(rig.pass_time(400), Deliver) == []
    assert [d.first for d in only(rig.pass_time(100), Deliver)] == [0]


def test_subscriptions_to_removed_queues_do_not_fill_a_session() -> None:
    rig = rig_with()
    for number in range(2 * limits.SUBSCRIPTIONS_PER_SESSION):
        assert only(rig.say(A, Subscribe(number, "temporary", 1, 1)), Reply)
        rig.settle()
        admin(rig, "queue.rm", name="temporary", force=True)
        rig.settle()
    assert only(rig.say(A, Subscribe(number + 1, "q", 1, 1)), Reply)


@pytest.mark.parametrize("how", ["close", "unsubscribe", "gone", "silence", "open again"])
def test_whatever_ends_a_consumer_its_messages_go_back(how: str) -> None:
    rig = rig_with("one", "two", settings={"session_silence_ms": 1000})
    subscribe(rig, A)
    if how == "close":
        rig.say(A, Close())
    elif how == "unsubscribe":
        assert rig.say(A, Unsubscribe(1)) == [Reply({})]
    elif how == "gone":
        rig.service.unreachable(A)
    elif how == "open again":
        rig.open(A)
    else:
        heard = rig.pass_time(1200)
        assert Close() in heard
        rig.open(B)
    deliver = only(subscribe(rig, B), Deliver)
    assert [(d.first, d.deliveries, d.redelivered) for d in deliver] == [(0, 2, True)]
    check(rig.service)


def test_a_session_that_pings_stays() -> None:
    rig = rig_with(settings={"session_silence_ms": 1000})
    for _ in range(5):
        rig.wait(500)
        assert rig.say(A, Ping()) == [Pong()]
    assert rig.say(B, Ping())[0].code == "ZHA-303"  # type: ignore[union-attr]


def test_time_in_which_this_server_was_stopped_is_nobodys_silence() -> None:
    rig = rig_with(settings={"session_silence_ms": 1000})
    rig.now_ms += 60_000
    rig.service.tick(rig.now_ms)
    assert rig.say(A, Ping()) == [Pong()]


def test_after_a_broken_connection_a_client_gets_what_it_holds_before_anybody_else() -> None:
    rig = rig_with("job")
    again, other = b"consumer-a, next connection", Open((1, 1), "b", instance=6)
    rig.say(A, Open((1, 1), "a", instance=5))
    heard = subscribe(rig, A, number=3)
    assert texts(heard) == [["job"]]
    queue = only(heard, Reply)[0].result["queue"]
    rig.say(B, other)
    assert not texts(subscribe(rig, B, number=3))
    mark = len(rig.got)
    rig.say(again, Open((1, 1), "a", instance=5))  # nobody told the server that A is gone
    assert only(subscribe(rig, again, number=3, held=((0, 1),), queue=queue), Reply)[0].result["held"] == [[0, 1]]
    assert not texts([envelope.command for _, envelope in rig.got[mark:]]), "neither to B nor again"
    check(rig.service)
    rig.say(again, Ack(3, ((0, 1),)))
    rig.settle()
    assert rig.service.counts()["messages"] == 0


@pytest.mark.parametrize("second", ["still open", "ended"])
def test_a_connection_that_broke_twice_is_as_good_as_one_that_broke_once(second: str) -> None:
    rig = rig_with("job")
    rig.say(A, Open((1, 1), "a", instance=5))
    queue = only(subscribe(rig, A, number=3), Reply)[0].result["queue"]
    rig.say(B, Open((1, 1), "a", instance=5))  # broke before it had said anything
    if second == "ended":
        rig.service.unreachable(B)
    rig.say(P, Open((1, 1), "a", instance=5))
    assert only(subscribe(rig, P, number=3, held=((0, 1),), queue=queue), Reply)[0].result["held"] == [[0, 1]]
    check(rig.service)


def test_only_the_same_number_of_the_same_instance_gives_way() -> None:
    rig = rig_with("job")
    rig.say(A, Open((1, 1), "a", instance=5))
    subscribe(rig, A, number=3)
    for client, instance, number in ((b"x", 5, 4), (b"y", 6, 3), (b"z", 0, 3)):
        rig.say(client, Open((1, 1), "?", instance=instance))
        assert only(subscribe(rig, client, number=number, held=((0, 1),)), Reply)[0].result["held"] == []
    rig.say(b"x", Open((1, 1), "a", instance=5))
    subscribe(rig, b"x", number=3)
    assert subscribe(rig, b"x", number=3)[0].code == "ZHA-303", "in one session a number is in use once"  # type: ignore[union-attr]
    check(rig.service)


def test_a_client_that_comes_back_needs_no_second_place() -> None:
    rig = Rig(sessions=1)
    rig.say(A, Open((1, 1), "a", instance=5))
    assert rig.say(B, Open((1, 1), "b", instance=6))[0].code == "ZHA-208"  # type: ignore[union-attr]
    assert isinstance(rig.say(B, Open((1, 1), "a", instance=5))[0], Opened)
    assert rig.service.counts()["sessions"] == 1


# --- acknowledgements that are not what they should be ----------------------------------------------------------------------


def test_an_ack_twice_is_answered_twice() -> None:
    rig = rig_with("one")
    subscribe(rig, A)
    rig.say(A, Ack(1, ((0, 1),)))
    assert rig.say(A, Ack(1, ((0, 1),))) == [], "not before the first is durable"
    assert rig.settle() == [Acked(1, ((0, 1),))] * 2
    assert rig.say(A, Ack(1, ((0, 1),))) == [Acked(1, ((0, 1),))]


def test_acks_of_others_messages_or_of_none_have_no_effect() -> None:
    rig = rig_with("one", "two")
    subscribe(rig, A, messages=1)
    subscribe(rig, B, messages=1)
    for ranges in [((0, 1),), ((5, 9),), ((0, 0),), ((9, 3),), ((1 << 62, 1 << 63),)]:
        assert rig.say(B, Ack(1, ranges))[0].code == "ZHA-303"  # type: ignore[union-attr]
    assert rig.say(B, Ack(2, ((1, 2),)))[0].code == "ZHA-303"  # type: ignore[union-attr]
    rig.say(B, Nack(1, 0, ((0, 1), (9, 0), (2, 1))))
    assert rig.take() is None
    rig.say(B, Ack(1, ((0, 2),)))
    assert rig.settle() == [Acked(1, ((1, 2),))], "only its own"
    check(rig.service)


# --- takeover ---------------------------------------------------------------------------------------------------------------


def test_after_a_takeover_old_messages_are_redelivered_and_new_ones_are_not() -> None:
    rig = rig_with("one", "two")
    subscribe(rig, A)
    rig.say(P, Send("q", bodies("three", first=3)))
    rig.take()
    rig.takeover(survive=1)
    rig.open(A, P)
    subscribe(rig, A)
    rig.settle()
    rig.say(P, Send("q", bodies("four", first=4)))
    rig.settle()
    deliver = [e.command for _, e in rig.got if isinstance(e.command, Deliver) and e.epoch.counter == 2]
    assert texts(deliver) == [["one", "two"], ["three"], ["four"]]
    assert [d.redelivered for d in deliver] == [True, True, False]


def test_held_ranges_are_in_flight_again_and_acknowledged_ones_do_not_come_back() -> None:
    rig = rig_with(*"abcdef")
    queue = only(subscribe(rig, A), Reply)[0].result["queue"]
    rig.say(A, Ack(1, ((0, 1), (2, 3))))
    rig.settle()
    rig.takeover()
    rig.open(A, B)
    reply = only(subscribe(rig, A, messages=3, held=((0, 5),), queue=queue), Reply)[0]
    assert reply.result["held"] == [[1, 2], [3, 5]]
    assert reply.result["epochs"][-1] == [2, 1]
    subscribe(rig, B)
    assert texts(rig.settle())[-1:] == [["f"]]
    assert rig.say(A, Ack(1, ((0, 5),))) == []
    assert rig.settle() == [Acked(1, ((0, 5),))]


def test_what_was_held_of_a_removed_queue_is_not_taken_from_the_new_one_of_that_name() -> None:
    rig = rig_with("old")
    queue = only(subscribe(rig, A), Reply)[0].result["queue"]
    rig.service.unreachable(A)
    admin(rig, "queue.rm", name="q", force=True)
    rig.say(P, Send("q", bodies("new")))
    rig.settle()
    rig.takeover()  # "new" is returned, as if somebody had seen it
    rig.open(A, P)
    reply = only(subscribe(rig, A, held=((0, 1),), queue=queue), Reply)[0]
    assert reply.result["held"] == [] and reply.result["queue"] != queue
    assert texts(rig.settle()) == [["new"]]


def test_a_takeover_knows_the_producers_that_were_used_last_and_their_batches_are_not_stored_twice() -> None:
    rig = Rig(producers=3)
    rig.open(P)
    for producer, first in ((900, 1), (800, 1), (700, 1), (5, 1), (800, 2), (4, 1)):
        rig.say(P, Send("q", bodies("x", producer=producer, first=first)))
        rig.settle()
    assert [producer for producer, _ in rig.store.producers] == [5, 800, 4]
    rig.takeover()
    rig.open(P)
    for producer, last in ((5, 1), (800, 2), (4, 1)):
        assert rig.say(P, Send("q", bodies("x", producer=producer, first=last))) == [
            Confirm("q", producer, last, Durability.ONE_DISK)
        ]
    assert rig.take() is None


def test_counts_of_what_came_back_survive_a_takeover() -> None:
    rig = rig_with("one", "two")
    subscribe(rig, A)
    rig.say(A, Nack(1, 0, ((1, 2),)))
    rig.settle()
    rig.takeover()
    rig.open(A)
    subscribe(rig, A)
    rig.settle()
    deliver = [e.command for _, e in rig.got if isinstance(e.command, Deliver) and e.epoch.counter == 2]
    assert [(d.first, d.deliveries, d.redelivered) for d in deliver] == [(0, 1, True), (1, 2, True)]


def test_a_new_epoch_is_in_every_reply_and_sessions_stay() -> None:
    rig = rig_with("one")
    rig.service.new_epoch(Epoch(9, 9))
    rig.say(A, Ping())
    assert rig.got[-1][1].epoch == Epoch(9, 9)
    assert rig.say(P, Send("q", bodies("one"))) == [Confirm("q", 7, 1, Durability.ONE_DISK)], (
        "what mode it was stored in is not known"
    )


def test_a_server_that_stops_being_active_tells_every_session_and_forgets() -> None:
    rig = rig_with("one")
    rig.say(P, Send("q", bodies("two", first=2)))
    rig.service.close(REFUSED)
    assert {client for client, e in rig.turn() if e.command == REFUSED and e.request == 0} == {A, B, P}
    assert rig.service.waiting_bytes == 0 and rig.service.idle and rig.service.take_work(1 << 20, rig.now_ms) is None
    assert set(rig.service.counts().values()) == {0}


def test_a_switchover_drains_what_was_accepted_and_takes_nothing_new() -> None:
    rig = rig_with("one")
    subscribe(rig, A)
    rig.say(P, Send("q", bodies("two", first=2)))
    rig.service.stop_taking(REFUSED)
    assert rig.say(P, Send("q", bodies("three", first=3))) == [REFUSED]
    assert admin(rig, "queue.purge", name="q")[0].code == "ZHA-104"  # type: ignore[union-attr]
    rig.say(A, Ack(1, ((0, 1),)))
    assert not rig.service.idle
    heard = rig.settle()
    assert rig.service.idle and only(heard, Confirm) and only(heard, Acked) and not only(heard, Deliver)
    rig.service.stop_taking(None)
    assert texts(rig.settle()) == [["two"]]
    assert isinstance(REFUSED, Refused)


# --- operators --------------------------------------------------------------------------------------------------------------


def test_queue_add_is_answered_when_durable_and_sets_limits() -> None:
    rig = Rig()
    assert admin(rig, "queue.add", name="q", max_messages=5) == []
    assert rig.settle() == [Reply({"name": "q", "created": True})]
    admin(rig, "queue.add", name="q", max_bytes=9)
    assert rig.settle() == [Reply({"name": "q", "created": False})]
    rig.takeover()
    info = only(admin(rig, "queue.info", name="q"), Reply)[0].result
    assert (info["max_messages"], info["max_bytes"], info["messages"]) == (5, 9, 0)


def test_queue_ls_shows_ready_and_unacked() -> None:
    rig = rig_with("one", "two", "three")
    subscribe(rig, A, messages=1)
    rows = only(admin(rig, "queue.ls"), Reply)[0].result["queues"]
    assert [(row["name"], row["messages"], row["ready"], row["unacked"], row["consumers"]) for row in rows] == [("q", 3, 2, 1, 1)]


def test_a_purge_finishes_everything_and_later_acks_are_fine() -> None:
    rig = rig_with("one", "two", "three")
    subscribe(rig, A, messages=1)
    assert admin(rig, "queue.purge", name="q") == []
    assert rig.settle() == [Reply({"name": "q", "removed": 3})]
    assert rig.store.values == {}
    assert rig.say(A, Ack(1, ((0, 1),))) == [Acked(1, ((0, 1),))]
    rig.say(P, Send("q", bodies("four", first=4)))
    assert texts(rig.settle()) == [["four"]]
    check(rig.service)


def test_a_queue_in_use_is_removed_only_by_force_and_starts_anew() -> None:
    rig = rig_with("one")
    subscribe(rig, A)
    assert admin(rig, "queue.rm", name="q")[0].code == "ZHA-209"  # type: ignore[union-attr]
    rig.say(P, Send("q", bodies("two", first=2)))
    rig.take()
    rig.say(P, Send("q", bodies("three", first=3)))
    admin(rig, "queue.rm", name="q", force=True)
    told = [(client, e.command.code) for client, e in rig.got if isinstance(e.command, Failure)]
    assert told[-2:] == [(P, "ZHA-201"), (A, "ZHA-201")]
    rig.settle()
    assert (rig.store.values, rig.store.destinations, rig.store.cursors, rig.store.producers) == ({}, {}, {}, {})
    assert rig.say(A, Ack(1, ((0, 1),))) == [Acked(1, ((0, 1),))]
    assert rig.say(P, Send("q", bodies("x", first=3)))[0].expected == 1  # type: ignore[union-attr]
    rig.say(P, Send("q", bodies("x")))
    rig.settle()
    assert list(rig.store.destinations) == [2]
    rig.say(A, Close())
    check(rig.service)


def test_a_burst_is_handed_out_over_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DELIVERS_PER_TURN", 3)
    rig = rig_with()
    for number in range(8):
        rig.say(P, Send("q", bodies(str(number), first=number + 1)))
    rig.settle()
    before = len(rig.got)
    rig.say(A, Subscribe(1, "q", 100, 1 << 20))
    turns = 1
    while rig.service.deadline_ms() == 0:
        assert turns < 10
        rig.turn()
        turns += 1
    delivered = [e.command.first for client, e in rig.got[before:] if isinstance(e.command, Deliver)]
    assert delivered == list(range(8))
    assert turns == 3


def test_a_duplicate_that_waits_for_a_send_to_a_removed_queue_is_refused_with_it() -> None:
    rig = rig_with()
    rig.say(P, Send("q", bodies("one")))
    rig.say(P, Send("q", bodies("one")))
    admin(rig, "queue.rm", name="q", force=True)
    told = [e.command.code for client, e in rig.got if client == P and isinstance(e.command, Failure)]
    assert told == ["ZHA-201", "ZHA-201"]
    rig.settle()
    check(rig.service)


@pytest.mark.parametrize(
    ("verb", "arguments", "code"),
    [
        ("queue.info", {"name": "nope"}, "ZHA-201"),
        ("queue.rm", {"name": "nope"}, "ZHA-201"),
        ("queue.info", {}, "ZHA-402"),
        ("queue.add", {"name": "x", "max_messages": -1}, "ZHA-402"),
        ("queue.add", {"name": "x", "max_messages": "9"}, "ZHA-402"),
        ("queue.add", {"name": "x", "colour": 1}, "ZHA-402"),
        ("queue.add", {"name": 5}, "ZHA-402"),
        ("queue.fly", {}, "ZHA-402"),
    ],
)
def test_what_an_operator_gets_wrong_is_named(verb: str, arguments: dict, code: str) -> None:
    failure = Rig().say(b"operator", Admin(verb, arguments))[0]
    assert isinstance(failure, Failure) and failure.code == code and failure.cause and failure.cure


def test_a_value_with_batches_of_two_queues_goes_with_the_later_one() -> None:
    rig = rig_with()
    rig.say(P, Send("q", bodies("one")))
    rig.say(P, Send("r", bodies("two")))
    rig.settle()
    admin(rig, "queue.rm", name="r", force=True)
    rig.settle()
    assert list(rig.store.values) == [1]
    rig.takeover()
    admin(rig, "queue.add", name="new")
    assert rig.service._desk.queues.by_name["new"].number == 3, "2 is still in the log"
    admin(rig, "queue.purge", name="q")
    rig.settle()
    assert rig.store.values == {}


def test_an_envelope_of_an_operator_may_come_through_admin_too() -> None:
    rig = Rig()
    rig.service.admin(b"operator", Envelope(4, NO_EPOCH, Admin("queue.ls")), 0)
    assert [(client, e.request, e.command) for client, e in rig.turn()] == [(b"operator", 4, Reply({"queues": []}))]


def test_a_configuration_read_again_holds_from_now_on() -> None:
    rig = Rig(queue_messages=10)
    rig.open(A, P)
    rig.say(P, Send("q", bodies("one", "two")))
    rig.settle()
    rig.service.reconfigure(ServiceSettings("edge-a", "cf", ("", ""), queue_messages=2, queues=1, sessions=2, cache_bytes=1))
    assert rig.say(P, Send("q", bodies("three", first=3)))[0].code == "ZHA-202"  # type: ignore[union-attr]
    assert rig.say(P, Send("r", bodies("x")))[0].code == "ZHA-208"  # type: ignore[union-attr]
    assert rig.say(B, Open((1, 1), "b"))[0].code == "ZHA-208"  # type: ignore[union-attr]
    assert rig.say(A, Ping()) == [Pong()]
