"""Both sides of a merge, each alone: what the winner takes in and what the loser sends."""

import pytest
import xxhash

from tests.core.ha_rig import E2, E3
from tests.core.service_rig import Rig, bodies, check
from zmqha.core import limits
from zmqha.core.actions import ConnectBulk, ReadBranch, SendBulk, SettleBranch
from zmqha.core.branch import Batches, Difference, Done
from zmqha.core.client_protocol import Ack, Admin, Deliver, Failure, Send, Subscribe
from zmqha.core.contact import Contact, Path
from zmqha.core.events import SalvagePart
from zmqha.core.message import MERGED, read_head
from zmqha.core.peer_protocol import Salvage, SalvageBegin, Salvaged, SalvageEnd, Session
from zmqha.core.salvage import STALL_MS, Salvager
from zmqha.core.timers import Timers
from zmqha.core.view import KEEP_AGAIN_MS
from zmqha.errors import NoSpace, ProtocolError

LOSER, WINNER = Session(7, 1), Session(5, 1)
ROUTE = b"route"


class Winner(Rig):
    """A service that a loser hands its branch over to."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.open(b"c")
        self.attempt = self.index = 0

    def begin(self) -> None:
        self.attempt, self.index = self.attempt + 1, 0
        self.service.merge.begin(ROUTE, SalvageBegin(LOSER, WINNER, self.attempt, E3, 90), "edge-b", self.now_ms, 1234)

    def item(self, **fields: object) -> None:
        """The next item, whole."""
        self.index += 1
        batches = fields.pop("batches", ())
        data = b"".join(batch for _, batch in batches)  # type: ignore[attr-defined]
        told = tuple((name, len(batch)) for name, batch in batches)  # type: ignore[attr-defined]
        digest = xxhash.xxh3_64_intdigest(data)
        message = Salvage(LOSER, WINNER, self.attempt, self.index, 0, 1, digest, batches=told, **fields)  # type: ignore[arg-type]
        self.service.merge.hear(ROUTE, message, (data,))

    def end(self) -> None:
        self.index += 1
        self.service.merge.hear(ROUTE, SalvageEnd(LOSER, WINNER, self.attempt, self.index), ())

    def go_on(self) -> None:
        """A tick for each item, and everything is durable."""
        for _ in range(self.index):
            self.wait(100)
        self.settle()
        self.wait(100)

    def told(self) -> Salvaged:
        """The newest answer to the loser."""
        sent = [action.message for action in self.service.merge.take_actions() if isinstance(action, SendBulk)]
        assert isinstance(sent[-1], Salvaged)
        return sent[-1]

    def delivered(self, queue: str, number: int = 1) -> list[Deliver]:
        self.say(b"c", Subscribe(number, queue, 1000, 1 << 20))
        self.settle()
        return [env.command for _, env in self.got if isinstance(env.command, Deliver) and env.command.subscription == number]


def test_what_is_known_is_skipped_and_the_rest_goes_to_the_tail_with_gaps_accepted() -> None:
    rig = Winner()
    rig.say(b"c", Send("q", bodies("1", "2", "3")))
    rig.settle()
    rig.begin()
    rig.item(batches=[("q", bodies("2", "3", "4", first=2)), ("q", bodies("7", "8", first=7)), ("new", bodies("x", producer=9))])
    rig.end()
    assert rig.told().durable == 0
    rig.go_on()
    assert (rig.told().taken, rig.index) == (2, 2)
    (report,) = rig.service.merge_reports
    assert report.finished
    assert {row.name: (row.merged, row.known) for row in report.queues} == {"q": (3, 2), "new": (1, 0)}
    assert [tuple(each) for each in report.ranges] == [("q", 7, 4, 4), ("q", 7, 7, 8), ("new", 9, 1, 1)]
    got = [(read_head(one.batch).first, one.redelivered, bool(read_head(one.batch).flags & MERGED)) for one in rig.delivered("q")]
    assert got == [(1, True, False), (4, True, True), (7, True, True)], "the loser may have delivered what both hold"
    assert rig.store.reports == {1: report}
    check(rig.service)


def test_after_the_merge_the_producer_goes_on_after_what_was_merged() -> None:
    rig = Winner()
    rig.begin()
    rig.item(batches=[("q", bodies("5", first=5))])
    rig.go_on()
    again = rig.say(b"c", Send("q", bodies("5", first=5)))
    assert not any(isinstance(one, Failure) for one in again)
    assert [one.expected for one in rig.say(b"c", Send("q", bodies("7", first=7))) if isinstance(one, Failure)] == [6]
    assert rig.service.counts()["messages"] == 1


def test_an_attempt_that_begins_again_inserts_nothing_twice_and_its_report_goes_on() -> None:
    rig = Winner()
    rig.begin()
    rig.item(batches=[("q", bodies("1", "2"))])
    rig.go_on()
    rig.takeover()  # it was killed after that, and serves again
    rig.begin()
    rig.item(batches=[("q", bodies("1", "2"))])
    rig.item(batches=[("q", bodies("3", first=3))])
    rig.end()
    rig.go_on()
    (report,) = rig.service.merge_reports
    assert [(row.merged, row.known) for row in report.queues] == [(3, 0)]
    assert [tuple(each) for each in report.ranges] == [("q", 7, 1, 3)]
    assert rig.service.counts()["messages"] == 3
    check(rig.service)


def test_an_attempt_that_begins_again_before_the_last_is_durable_forgets_nothing_of_its_report() -> None:
    rig = Winner()
    rig.begin()
    rig.item(batches=[("q", bodies("1", "2"))])
    rig.wait(100)  # taken in, not durable
    rig.begin()
    rig.item(batches=[("q", bodies("1", "2"))])
    rig.end()
    rig.go_on()
    (report,) = rig.service.merge_reports
    assert [(row.merged, row.known) for row in report.queues] == [(2, 0)]
    assert [tuple(each) for each in report.ranges] == [("q", 7, 1, 2)]


def test_an_acknowledgement_counts_for_what_is_ready_and_never_for_what_is_in_flight() -> None:
    rig = Winner()
    for number in range(6):
        rig.say(b"c", Send("q", bodies(f"{number}", first=number + 1)))
    rig.settle()
    rig.say(b"c", Subscribe(1, "q", 2, 1 << 20))
    rig.settle()  # 0 and 1 are in flight
    rig.begin()
    rig.item(done=(1, "q", ((1, 3), (4, 5))))
    rig.item(done=(9, "q", ((0, 6),)))  # another queue of that name
    rig.end()
    rig.go_on()
    (report,) = rig.service.merge_reports
    assert [(row.name, row.acknowledged) for row in report.queues] == [("q", 2)]
    assert report.audit == ("queue q was removed here, messages of it were acknowledged there",)
    check(rig.service)
    rig.say(b"c", Ack(1, ((0, 2),)))
    rig.settle()
    left = [one.first for _, env in rig.got if isinstance(one := env.command, Deliver)]
    assert left == [0, 1, 3, 5]
    check(rig.service)


def test_limits_refuse_no_merged_message_and_a_disk_that_is_nearly_full_makes_it_wait() -> None:
    rig = Winner(queues=1)
    rig.say(b"c", Admin("queue.add", {"name": "q", "max_messages": 1}))
    rig.settle()
    rig.service.hold_sends(NoSpace("full", cause="", cure=""))
    rig.begin()
    rig.item(batches=[("q", bodies("1", "2", "3")), ("beyond", bodies("x", producer=9))])
    rig.wait(300)
    assert ((told := rig.told()).taken, told.durable, rig.service.counts()["messages"]) == (1, 0, 0)
    rig.service.hold_sends(None)
    rig.go_on()
    assert rig.service.counts()["messages"] == 4
    assert (told := rig.told()).durable == told.taken == 1


def test_a_full_store_undoes_items_and_a_producers_row_is_where_it_was_before_the_gap() -> None:
    rig = Winner()
    rig.say(b"c", Send("q", bodies("1")))
    rig.settle()
    rig.begin()
    rig.item(batches=[("q", bodies("5", first=5))])
    rig.wait(100)
    assert rig.take() is not None
    rig.fail()
    check(rig.service)
    assert [one.expected for one in rig.say(b"c", Send("q", bodies("7", first=7))) if isinstance(one, Failure)] == [2]
    assert rig.service.merge_reports == []
    rig.begin()
    rig.item(batches=[("q", bodies("5", first=5))])
    rig.go_on()
    assert rig.service.counts()["messages"] == 2


def test_what_an_operator_did_there_goes_to_the_report_and_only_queues_with_messages_are_created() -> None:
    rig = Winner()
    for name in ("stays", "limits"):
        rig.say(b"c", Admin("queue.add", {"name": name}))
    rig.settle()
    rig.begin()
    kinds = (("removed", "stays", 0), ("limits", "limits", 5), ("created", "empty", 0), ("created", "full", 7))
    rig.item(differences=tuple(Difference(kind, name, most, 0) for kind, name, most in kinds))
    rig.item(batches=[("full", bodies("x"))])
    rig.end()
    rig.go_on()
    (report,) = rig.service.merge_reports
    assert [line.split(" (")[0].split(":")[0] for line in report.audit] == [
        "queue stays was removed there; it stays here", "queue limits has other limits there", "queue empty was created there",
    ]  # fmt: skip
    assert {row.name: row.max_messages for row in rig.store.destinations.values()} == {"stays": 0, "limits": 0, "full": 7}


def test_an_item_after_a_lost_one_is_not_taken_and_nonsense_is_refused() -> None:
    rig = Winner()
    rig.begin()
    rig.index = 1
    rig.item(batches=[("q", bodies("1"))])
    assert rig.told().taken == 0
    rig.index = 0
    with pytest.raises(ProtocolError):
        rig.item(batches=[("no good name", bodies("1"))])
    rig.index = 0
    with pytest.raises(ProtocolError):
        rig.item(batches=[("q", b"no batch")])
    rig.wait(300)
    assert rig.told().taken == 0


def salvager() -> Salvager:
    made = Salvager(Timers(), Contact("cf", "a", LOSER, [Path(contact_ms=0), Path(contact_ms=0)]))
    made._contact.peer_session = WINNER
    made.start(E3, E2, 90, 0)
    return made


def sent(made: Salvager) -> list[object]:
    return [action.message if isinstance(action, SendBulk) else action for action in made.take_actions()]


def test_the_loser_reads_only_once_it_is_answered_and_settles_only_once_all_is_durable() -> None:
    made = salvager()
    connect, begin = sent(made)
    assert connect == ConnectBulk(0) and begin == SalvageBegin(LOSER, WINNER, 1, E2, 90)
    made.hear(Salvaged(WINNER, LOSER, 1, 0, 0), 10)
    assert sent(made) == [ReadBranch(1, True, 90, limits.SALVAGE_WINDOW_BYTES)]
    big = bytes(limits.CHUNK_BYTES_MAX + 1)
    made.part(SalvagePart(1, (Batches((("q", len(big)),), big), Done(1, "q", ((0, 3),))), True), 20)
    pieces = sent(made)
    assert [(each.index, each.piece, each.pieces) for each in pieces[:3]] == [(1, 0, 2), (1, 1, 2), (2, 0, 1)]  # type: ignore[attr-defined]
    assert pieces[3] == SalvageEnd(LOSER, WINNER, 1, 3)
    made.hear(Salvaged(WINNER, LOSER, 1, 3, 2), 30)
    assert sent(made) == []
    made.hear(Salvaged(WINNER, LOSER, 1, 3, 3), 40)
    assert sent(made) == [SettleBranch(E3)]


def test_the_loser_begins_again_where_nothing_moves_and_waits_for_a_winner_that_answers() -> None:
    made = salvager()
    made.hear(Salvaged(WINNER, LOSER, 1, 0, 0), 10)
    made.part(SalvagePart(1, (Done(1, "q", ((0, 3),)),), True), 20)
    made.hear(Salvaged(WINNER, LOSER, 1, 2, 0), 30)
    for now_ms in range(100, 3 * STALL_MS, 100):  # its disk is nearly full
        made.hear(Salvaged(WINNER, LOSER, 1, 2, 0), now_ms)
        made.tick(now_ms)
    assert not any(isinstance(one, ConnectBulk) for one in sent(made)[4:])
    made.tick(4 * STALL_MS)
    assert sent(made) == [ConnectBulk(0), SalvageBegin(LOSER, WINNER, 2, E2, 90)]
    made.hear(Salvaged(WINNER, LOSER, 1, 2, 2), 4 * STALL_MS)  # of the attempt before
    assert sent(made) == []


def test_a_settle_that_was_refused_is_asked_for_again_later() -> None:
    made = salvager()
    made.hear(Salvaged(WINNER, LOSER, 1, 0, 0), 10)
    made.part(SalvagePart(1, (), True), 20)
    made.hear(Salvaged(WINNER, LOSER, 1, 1, 1), 30)
    assert sent(made)[-1] == SettleBranch(E3)
    made.settle_refused(40)
    made.tick(40 + KEEP_AGAIN_MS)
    assert sent(made) == []
    made.tick(41 + KEEP_AGAIN_MS)
    made.tick(50 + KEEP_AGAIN_MS)
    assert sent(made) == [SettleBranch(E3)]


def test_the_window_bounds_what_is_read() -> None:
    made = salvager()
    made.hear(Salvaged(WINNER, LOSER, 1, 0, 0), 10)
    sent(made)
    full = Batches((("q", limits.SALVAGE_WINDOW_BYTES),), bytes(limits.SALVAGE_WINDOW_BYTES))
    made.part(SalvagePart(1, (full,), False), 20)
    assert not any(isinstance(one, ReadBranch) for one in sent(made))
    made.hear(Salvaged(WINNER, LOSER, 1, 1, 1), 30)
    assert any(isinstance(one, ReadBranch) for one in sent(made))
