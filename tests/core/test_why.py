"""``why``: in every state it says what the table would say, and asking changes nothing."""

import pytest

from tests.core.ha_rig import E3, LINE, Rig, at, entry
from zmqha.core.guards import conditions_of, seconds
from zmqha.core.operator import acts
from zmqha.core.peer_protocol import Standing, State
from zmqha.core.position import Epoch, Mode
from zmqha.core.table import TABLE
from zmqha.core.timers import Timers
from zmqha.core.view import Step
from zmqha.core.why import DOING, in_backticks, in_seconds, why


def told(rig: Rig) -> dict[str, dict[str, list[str]]]:
    """The answer's rows by name and target."""
    return {f"{row['row']} {row['to']}": row for row in why(rig.ha, rig.now_ms)["rows"]}


def test_a_passive_says_what_it_would_take_over_on() -> None:
    rig = Rig(primary=False).passive()
    rig.run(3000)

    answer, rows = why(rig.ha, rig.now_ms), told(rig)

    assert answer["sentence"] == "a has been PASSIVE for 3.08 s: in sync."
    missing = rows["T8 STANDALONE"]["missing"]
    assert [sentence.partition(" (")[0] for sentence in missing] == [
        "no contact for 0.75 s", "nothing heard of the peer for 0.5 s", "3 gateway answers since the last contact, none failed"
    ]  # fmt: skip
    assert "this server holds the right to take over" in rows["T8 STANDALONE"]["holds"]
    assert rows["T8e STANDALONE"]["missing"][0] == "the peer's watcher reports its death"


def test_while_the_peer_is_silent_the_window_fills_up() -> None:
    rig = Rig(primary=False).passive()
    rig.silence()
    rig.run(600)

    t8 = told(rig)["T8 STANDALONE"]

    assert "nothing heard of the peer for 0.5 s (last 0.6 s ago)" in t8["holds"]
    assert any(sentence.startswith("no contact for 0.75 s (last 0.6") for sentence in t8["missing"])


def test_a_passive_that_lost_its_right_says_so() -> None:
    rig = Rig(primary=False).passive()
    rig.ha.right = False

    assert "may not take over" in why(rig.ha, rig.now_ms)["sentence"]
    assert "this server holds the right to take over" in told(rig)["T8 STANDALONE"]["missing"]


def test_an_active_says_how_it_would_hand_over() -> None:
    rows = told(Rig().active())

    assert "one of the two has lost its right to take over" in rows["T14 again ACTIVE, new epoch"]["missing"]
    assert any("own gateway is silent" in sentence for sentence in rows["T20 hands over"]["missing"])


def test_a_lone_server_says_what_its_peer_lacks() -> None:
    rig = Rig().feeding()
    rig.run(50)

    assert [sentence.partition(" (")[0] for sentence in told(rig)["T14 ACTIVE"]["missing"]] == [
        "the link has been stable for long enough"
    ]


def test_a_copying_server_waits_for_the_grant() -> None:
    rows = told(Rig(primary=False).copying())

    assert rows["T15 PASSIVE"]["missing"] == ["the active grants that this server has everything (0% copied)"]


@pytest.mark.parametrize("standing", [Standing.NEW, Standing.PAIRED, Standing.BEHIND])
def test_a_waiting_server_says_that_its_disk_forbids_it_to_begin_alone(standing: Standing) -> None:
    rig = Rig(standing=standing)
    rig.silence()
    rig.run(5000)

    rows = told(rig)

    assert rows["T5 STANDALONE"]["missing"] == [f"the disk says SOLE: nobody else may hold newer data (this store is {standing})"]
    assert "alone STANDALONE" not in rows, "a peer is configured, that cannot change"


def test_a_sole_server_waits_for_its_gateway() -> None:
    rig = Rig(standing=Standing.SOLE)
    rig.silence()
    rig.gateway = False
    rig.run(5000)

    missing = told(rig)["T5 STANDALONE"]["missing"]

    assert missing[0].startswith("no gateway probe failed for 0.75 s (the last failed 0.")
    assert why(rig.ha, rig.now_ms)["since_ms"] == 5000


def test_during_a_step_it_says_what_is_being_written() -> None:
    rig = Rig(primary=False).passive()
    rig.store_answers = False
    rig.silence()
    rig.run(1500)

    assert "it writes down that it serves alone (SOLE)" in why(rig.ha, rig.now_ms)["sentence"]


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.NONE])
def test_every_step_has_words(step: Step) -> None:
    rig = Rig(primary=False)
    rig.ha.step = step
    assert DOING[step] in why(rig.ha, rig.now_ms)["sentence"]


def test_a_leaving_server_says_why() -> None:
    rig = Rig().active()
    rig.ha.drained = False
    rig.ha.leave("switchover by an operator", rig.now_ms, exit=False)

    assert "It is leaving: switchover by an operator." in why(rig.ha, rig.now_ms)["sentence"]


def test_asking_changes_nothing() -> None:
    """T2's question notes a divergence that it finds; asked in words it must not: T2 lost would fire on that."""
    mine = (*LINE, entry(Epoch(3, 99), Mode.SOLE, 8))
    rig = Rig(standing=Standing.PAIRED, lineage=mine, epoch=Epoch(3, 99), position=at(Epoch(3, 99), 9))
    rig.say(state=State.ACTIVE, epoch=E3, position=at(E3, 12), lineage=(*LINE, entry(Epoch(9, 9), Mode.SOLE, 10)))
    rig.run(200)
    before = {name: repr(value) for name, value in vars(rig.ha).items()}

    rows = told(rig)

    assert {name: repr(value) for name, value in vars(rig.ha).items()} == before
    assert rig.ha.diverged is None
    assert any("holds nothing confirmed that the peer lacks" in sentence for sentence in rows["T2 PASSIVE_SYNC"]["missing"])


def test_a_guard_holds_exactly_when_nothing_is_missing() -> None:
    """One logic for the decision and for its words: checked along a takeover, a copy and a pairing."""
    checked = set()
    for rig in (Rig(primary=False).passive(), Rig().active(), Rig().feeding(), Rig(standing=Standing.SOLE)):
        rig.silence()
        for _ in range(300):
            rig.step()
            for row in TABLE:
                conditions = conditions_of(row.guard)
                if conditions and rig.state in row.states:
                    all_hold = all(condition.holds(rig.ha, rig.now_ms) for condition in conditions)
                    assert row.guard(rig.ha, rig.now_ms) == all_hold
                    checked.add((row.name, all_hold))
    assert len(checked) > 10


def test_since_when_is_the_last_change_of_state_not_of_reason() -> None:
    rig = Rig().active()
    rig.run(1000)
    before = why(rig.ha, rig.now_ms)["since_ms"]
    rig.ha.enter(State.ACTIVE, "rights restored", rig.now_ms)

    assert why(rig.ha, rig.now_ms)["since_ms"] == before >= 1000


def test_figures_name_the_peer_so_that_nobody_takes_it_for_this_server() -> None:
    rig = Rig()
    rig.run(200)
    assert any("(the peer says WAITING)" in sentence for row in told(rig).values() for sentence in row["holds"] + row["missing"])
    rig.silence()
    rig.run(2000)
    assert any("(the peer is not heard)" in sentence for row in told(rig).values() for sentence in row["holds"] + row["missing"])


def test_every_row_has_a_sentence_that_can_be_shown() -> None:
    for row in TABLE:
        for sentence in (row.when, *(condition.sentence for condition in conditions_of(row.guard))):
            assert "{" not in in_seconds(sentence, Timers()) and "{" not in in_backticks(sentence)
            assert not sentence.endswith(".")


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 s"), (80, "0.08 s"), (750, "0.75 s"), (2000, "2 s"), (12_345, "12 s"), (60_000, "1 min"), (192_000, "3 min 12 s"),
     (7_500_000, "2 h 5 min"), (400_000_000, "4 d 15 h")],
)  # fmt: skip
def test_durations_are_short(ms: int, text: str) -> None:
    assert seconds(ms) == text


def test_an_operators_act_is_kept_and_can_be_read() -> None:
    rig = Rig()
    rig.silence()
    rig.run(100)
    rig.ha.promote("ann@desk-7", "1795330951640 ms", rig.now_ms)
    rig.run(100)

    (act,) = acts(rig.ha.durable.audit)

    assert act["wall_ms"] == 1795330951640
    assert act["act"].startswith("promoted by ann@desk-7 at ")
    assert acts(("written by hand",)) == [{"wall_ms": 0, "act": "written by hand"}]


def test_only_the_last_four_acts_are_remembered() -> None:
    rig = Rig()
    rig.silence()
    rig.run(100)
    rig.ha.facts = rig.ha.facts._replace(audit=tuple(f"{number} ms act" for number in range(4)))
    rig.ha.promote("ann", "9 ms", rig.now_ms)

    assert [act["wall_ms"] for act in acts(rig.ha.facts.audit)] == [1, 2, 3, 9]
