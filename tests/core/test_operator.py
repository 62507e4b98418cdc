"""Operators' orders: each leaves who gave it and when on the disk before it takes effect, and a refusal names a cure."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.core.ha_rig import LINE, Rig, at, entry
from zmqha.core import actions as act
from zmqha.core.advice import waits_for
from zmqha.core.broker import Broker
from zmqha.core.lost_branch import LostBranch
from zmqha.core.operator import Operator, Pair
from zmqha.core.peer_protocol import Standing, State
from zmqha.core.position import Epoch, Mode
from zmqha.errors import OperationFailed

OPERATOR = Operator(Pair("plant-7", "cf", False, "0", "a:7400", "b:7400", "ping", ("10.0.7.1",)))


def loser() -> Rig:
    """Both served alone, the other one serves on, and the policy is to wait for an operator."""
    mine = (*LINE, entry(Epoch(3, 99), Mode.SOLE, 8))
    rig = Rig(standing=Standing.SOLE, lineage=mine, epoch=Epoch(3, 99), position=at(Epoch(3, 99), 9), merges=False)
    rig.say(state=State.STANDALONE, standing=Standing.SOLE, epoch=Epoch(9, 9), position=at(Epoch(9, 9), 12),
            lineage=(*LINE, entry(Epoch(9, 9), Mode.SOLE, 10)))  # fmt: skip
    rig.run(300)
    assert rig.ha.diverged is not None
    return rig


def order(rig: Rig, verb: str, **arguments: Any) -> Any:
    broker = cast(
        Broker, SimpleNamespace(ha=rig.ha, wall_ms=1795330951640, serving=rig.state in (State.ACTIVE, State.STANDALONE))
    )
    return OPERATOR.carry_out(broker, verb, arguments, rig.now_ms)


def test_a_resync_is_on_the_disk_before_the_store_is_set_aside() -> None:
    rig = loser()
    order(rig, "resync", discard_own=True, by="ann@desk-7")
    rig.run(50)
    saved, aside = [one for one in rig.done if isinstance(one, act.SaveFacts | act.StandDown)][-2:]
    assert isinstance(saved, act.SaveFacts) and aside == act.StandDown(True)
    assert saved.facts.audit[-1].startswith("1795330951640 ms resync by ann@desk-7")
    assert rig.ha.durable.audit == saved.facts.audit


def test_a_merge_is_on_the_disk_before_the_store_is_kept() -> None:
    rig = loser()
    order(rig, "merge", by="ann@desk-7")
    rig.run(50)
    kinds = [type(one) for one in rig.done]
    assert kinds.index(act.KeepBranch) > max(at for at, kind in enumerate(kinds) if kind is act.SaveFacts)
    assert rig.ha.durable.audit[-1].startswith("1795330951640 ms merge by ann@desk-7")


def test_an_act_that_is_being_written_is_not_taken_for_another_step() -> None:
    rig = loser()
    rig.store_answers = False
    order(rig, "merge", by="ann@desk-7")
    rig.run(500)
    assert not rig.asked(act.KeepBranch) and not rig.ha.durable.audit
    rig.store_answers = True
    rig.run(50)
    assert rig.asked(act.KeepBranch)


@pytest.mark.parametrize(("verb", "arguments", "cure"), [
    ("switchover", {"to": "zz"}, "zmqha switchover --to b"),
    ("resync", {}, "zmqha merge"),
])  # fmt: skip
def test_a_refusal_names_a_cure(verb: str, arguments: dict[str, Any], cure: str) -> None:
    with pytest.raises(OperationFailed) as error:
        order(Rig().active(), verb, **arguments)
    assert cure in error.value.cure


def nested() -> Any:
    """As deep as what comes in may be: whoever makes text of it ends with a RecursionError."""
    value: Any = None
    for _ in range(5000):
        value = [value]
    return value


def test_a_name_that_is_no_text_is_an_operators() -> None:
    rig = loser()
    order(rig, "resync", discard_own=True, by=nested())
    rig.run(50)
    assert " resync by an operator, " in rig.ha.durable.audit[-1]


def test_a_reason_that_is_no_text_is_none() -> None:
    rig = Rig().active()
    order(rig, "switchover", reason=nested())
    rig.run(50)
    assert rig.ha.reason.endswith("switchover by an operator")


def test_a_server_that_is_no_text_is_refused() -> None:
    with pytest.raises(OperationFailed, match="no server"):
        order(Rig().active(), "switchover", to=nested())


def test_a_second_switchover_is_told_to_wait() -> None:
    rig = Rig().active()
    rig.ha.drained = False
    order(rig, "switchover")
    with pytest.raises(OperationFailed, match="under way") as error:
        order(rig, "switchover")
    assert "status" in error.value.cure


def test_a_server_whose_disk_is_too_full_to_look_at_its_store_says_so() -> None:
    rig = Rig()
    rig.ha.no_room = "the disk is full"
    assert "Free disk space" in waits_for(rig.ha, LostBranch(rig.ha), rig.now_ms)
