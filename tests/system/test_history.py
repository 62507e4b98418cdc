"""The checker catches every planted error, each on its own, and accepts a sound history."""

import pytest

from tests.system.history import Outcome, Received, Sent, gaps_after, judge, longest_gap

OK, FAIL, INFO = Outcome.OK, Outcome.FAIL, Outcome.INFO


def a_run(messages: int = 200) -> tuple[list[Sent], list[Received]]:
    """Two producers, two consumers, a failover from epoch 2 to 3 in the middle, everything in order."""
    sent, received = [], []
    for number in range(messages):
        producer, seq, at = f"p{number % 2}", number // 2, number * 0.001
        epoch = 2 if number < messages // 2 else 3
        sent.append(Sent("q", producer, seq, at, at + 0.002, OK, epoch, 2))
        received.append(Received("q", f"c{number % 2}", at + 0.003, producer, seq, number, False, OK, at + 0.004))
    return sent, received


def test_a_sound_history_is_valid() -> None:
    sent, received = a_run()
    verdict = judge(sent, received)
    assert verdict.valid, verdict.explain()
    assert verdict.counts["sent ok"] == verdict.counts["received"] == 200
    assert longest_gap(sent) == pytest.approx(0.001)


def test_unknown_outcomes_may_be_there_or_not_and_are_counted() -> None:
    sent, received = a_run()
    sent[10] = sent[10]._replace(outcome=INFO)
    sent[11] = sent[11]._replace(outcome=INFO)
    del received[11]
    verdict = judge(sent, received)
    assert verdict.valid and verdict.counts["recovered"] == 1 and verdict.counts["sent info"] == 2


def test_a_flagged_redelivery_without_confirmed_ack_is_valid() -> None:
    sent, received = a_run()
    received[10] = received[10]._replace(acked=INFO)
    received.append(received[10]._replace(at=1.0, consumer="c9", redelivered=True, acked=OK, ack_at=1.1))
    verdict = judge(sent, received)
    assert verdict.valid and verdict.counts["redelivered"] == 1


def test_a_late_confirm_of_what_the_new_store_holds_is_counted() -> None:
    sent, received = a_run()
    sent[99] = sent[99]._replace(returned=0.5)
    verdict = judge(sent, received)
    assert verdict.valid and verdict.counts["late confirms"] == 1


def planted(kind: str) -> tuple[list[Sent], list[Received]]:
    """A sound history with one error."""
    sent, received = a_run()
    one = received[50]
    match kind:
        case "lost":
            del received[50]
        case "phantom":
            del sent[50]
        case "failed-but-delivered":
            sent[50] = sent[50]._replace(outcome=FAIL)
        case "time-travel":
            sent[50] = sent[50]._replace(invoked=one.at + 0.0005)
        case "stored-twice":
            received.append(one._replace(at=1.0, offset=999, redelivered=True))
        case "again-after-ack":
            received.append(one._replace(at=1.0, redelivered=True))
        case "unflagged":
            received[50] = one._replace(acked=INFO)
            received.append(one._replace(at=1.0))
        case "order":
            received[50], received[52] = one._replace(at=received[52].at), received[52]._replace(at=one.at)
        case "overlap":
            sent[50] = sent[50]._replace(returned=0.5)
            del received[50]
    return sent, received


KINDS = (
    "lost", "phantom", "failed-but-delivered", "time-travel", "stored-twice", "again-after-ack", "unflagged", "order", "overlap",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_error_is_caught_by_name(kind: str) -> None:
    verdict = judge(*planted(kind))
    assert kind in verdict.errors, verdict.explain()
    assert len(verdict.errors[kind]) == 1
    allowed = {kind, "lost"} if kind == "overlap" else {kind}
    assert set(verdict.errors) <= allowed, verdict.explain()
    with pytest.raises(AssertionError, match=kind):
        verdict.check()


def test_nothing_is_called_lost_before_the_queue_is_drained() -> None:
    sent, received = a_run()
    assert judge(sent, received[:100], drained=False).valid
    assert not judge(sent, received[:100]).valid


def test_gaps_belong_to_their_faults() -> None:
    sent = [Sent("q", "p", n, n * 0.01, n * 0.01, OK) for n in range(1000)]
    sent = [one for one in sent if not 2.0 < one.returned < 2.3 and not 6.0 < one.returned < 6.8]
    first, second, third = gaps_after(sent, [2.0, 4.0, 6.0])
    assert first == pytest.approx(0.3, abs=0.02)
    assert second == pytest.approx(0.01, abs=0.002)
    assert third == pytest.approx(0.8, abs=0.02)
