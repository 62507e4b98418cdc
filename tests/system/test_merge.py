"""Two branches, made by a promotion that nobody should make: the loser's is merged into the winner's, whoever dies on the way."""

import json
import time
from collections import Counter
from typing import Any

import pytest

from tests.system.pair import Pair, pair
from tests.system.stores import standing
from zmqha.errors import OperationFailed, ZmqhaError

BOTH = [b"both %d" % number for number in range(100)]
ALONE = [b"alone %d" % number for number in range(3000)]
PROMOTED = [b"promoted %d" % number for number in range(50)]
LOSER_POINTS = (
    "before_keep_link", "before_keep_manifest", "after_keep", "salvage_read", "before_salvage_settled", "after_salvage_settled",
)  # fmt: skip


def split(both: Pair) -> tuple[str, str]:
    """Two branches with different messages, acknowledgements and queues; (winner, which serves, and loser, which is down)."""
    winner = both.active()
    loser = "b" if winner == "a" else "a"
    with both.connect() as client:
        for name in ("there", "here", "limits"):
            client.admin("queue.add", {"name": name})
        client.send_many("q", BOTH)
        client.send_many("here", [b"before"])
        both[winner].kill()
        client.send_many("q", ALONE)
        client.send_many("new", [b"new %d" % number for number in range(5)])
        client.send_many("here", [b"after"])
        with client.consume("q", prefetch=10) as messages:
            for _ in range(10):
                next(messages).ack()
        client.admin("queue.rm", {"name": "there"})
        client.admin("queue.add", {"name": "limits", "max_messages": 77})
        client.admin("queue.add", {"name": "empty", "max_messages": 5})
    both[loser].kill()
    both[winner].start()
    both.wait_settled_waiting(winner)
    both.admin(winner, "promote", accept_loss_of_peer=True)
    both.wait(lambda: both.state(winner) == "STANDALONE", "the promoted server serving")
    with both.connect() as client:
        client.send_many("q", PROMOTED)
        client.admin("queue.rm", {"name": "here", "force": True})
    return winner, loser


def received(both: Pair, queue: str) -> list[tuple[bytes, bool, Any]]:
    """(body, redelivered, x-merged) of everything in a queue, acknowledged."""
    with both.connect() as client, client.consume(queue, timeout=1.5) as messages:
        return [(m.body, m.redelivered, m.properties.get("x-merged")) for m in acknowledged(messages)]


def acknowledged(messages: Any) -> Any:
    for message in messages:
        yield message
        message.ack()


def assert_merged(both: Pair, winner: str, loser: str, *, clean: bool = True) -> dict[str, Any]:
    """Everything confirmed on either side is there, once; what it says of itself; the report of it."""
    both.wait_in_sync()
    both.assert_equal_stores()
    (report,) = both.admin(winner, "merges")["reports"]
    found = received(both, "q")
    expected = Counter(BOTH[10:] + ALONE + PROMOTED)
    assert Counter(body for body, _, _ in found) == expected
    branch = report["branch"]
    alone = [(body, redelivered, mark) for body, redelivered, mark in found if body.startswith(b"alone")]
    assert alone == [(body, True, branch) for body in ALONE]  # in the order of their branch
    assert all(mark is None for body, _, mark in found if not body.startswith(b"alone"))
    assert [body for body, _, _ in received(both, "new")] == [b"new %d" % number for number in range(5)]
    assert [body for body, _, _ in received(both, "here")] == [b"after"]
    assert report["finished"] and (report["winner"], report["loser"]) == (winner, loser)
    counts = {row["name"]: row for row in report["queues"]}
    assert counts["q"]["merged"] + counts["q"]["known"] >= len(ALONE)
    assert counts["q"]["acknowledged"] == 10
    if clean:
        assert (counts["q"]["merged"], counts["new"]["merged"], counts["here"]["merged"]) == (len(ALONE), 5, 1)
        named = Counter()
        for each in report["ranges"]:
            named[each["queue"]] += each["last"] - each["first"] + 1
        assert named == {"q": len(ALONE), "new": 5, "here": 1}
    audit = "\n".join(report["audit"])
    for line in (
        "queue there was removed there",
        "queue limits has other limits there: 77",
        "queue empty was created there",
        "queue here was",
    ):
        assert line in audit, audit
    with both.connect() as client:  # whoever serves by now
        names = {row["name"] for row in client.admin("queue.ls")["queues"]}
    assert names == {"q", "new", "here", "limits", "there"}
    (kept,) = (both[loser].data / "kept").iterdir()
    assert json.loads((kept / "manifest.json").read_text())["state"] == "merged"
    return report


@pytest.mark.timeout(90)
def test_what_both_confirmed_alone_is_in_one_store_after_they_meet() -> None:
    with pair() as both:
        winner, loser = split(both)
        both[loser].start()
        assert_merged(both, winner, loser)
        assert standing(both, loser) == "paired"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_with_stop_the_operator_looks_first_and_then_merges() -> None:
    with pair(on_divergence="stop") as both:
        winner, loser = split(both)
        both[loser].start()
        both.wait(lambda: "zmqha merge --dry-run" in sentence(both, loser), "the cure")
        status = both.status(loser)
        assert status is not None and status["needs_operator"] is True
        told = None
        for _ in range(50):
            try:
                told = both.admin(loser, "merge", dry_run=True)
                break
            except ZmqhaError:
                time.sleep(0.1)
        assert told is not None
        rows = {row["name"]: row for row in told["queues"]}
        assert (rows["q"]["messages"], rows["q"]["acknowledged"], rows["new"]["messages"]) == (len(ALONE), 10, 5)
        assert {(each["kind"], each["name"]) for each in told["differences"]} == {
            ("removed", "there"), ("limits", "limits"), ("created", "empty"), ("created", "new"),
        }  # fmt: skip
        assert both.state(loser) == "WAITING" and standing(both, loser) == "behind"
        with pytest.raises(OperationFailed, match="STANDALONE"):
            both.admin(winner, "merge")
        both.admin(loser, "merge")
        assert_merged(both, winner, loser)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", LOSER_POINTS)
def test_a_loser_killed_on_the_way_begins_again(point: str) -> None:
    with pair() as both:
        winner, loser = split(both)
        both[loser].start(ZMQHA_CRASH_AT=point)
        both.wait(lambda: not both[loser].running, f"the death at {point}")
        both[loser].start()
        assert_merged(both, winner, loser)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("passage", [1, 2])
def test_a_winner_killed_on_the_way_is_handed_the_rest(passage: int) -> None:
    with pair() as both:
        winner, loser = split(both)
        both[winner].kill()
        both[winner].start(ZMQHA_CRASH_AT=f"after_merge_commit:{passage}")
        both.wait(lambda: both.state(winner) == "STANDALONE", "the winner serving alone again")
        both[loser].start()
        both.wait(lambda: not both[winner].running, "the winner's death")
        both[winner].start()
        assert_merged(both, winner, loser)


def sentence(both: Pair, name: str) -> str:
    """What a server says of the pair."""
    status = both.status(name)
    return str(status["sentence"]) if status else ""
