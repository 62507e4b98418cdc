"""What answers of the gateway prove."""

from zmqha.core.vote import Vote


def test_nothing_is_known_before_the_first_answer() -> None:
    assert Vote(configured=True).answers() is None


def test_answers_count_only_when_their_probe_was_sent_after_the_moment_in_question() -> None:
    vote = Vote(configured=True)
    for sent_ms in (100, 200, 300):
        vote.record(sent_ms, True)
    assert [vote.answers_since(since_ms) for since_ms in (0, 100, 250, 300)] == [3, 2, 1, 0]


def test_one_failure_breaks_the_series_whenever_its_result_arrives() -> None:
    vote = Vote(configured=True)
    vote.record(100, True)
    vote.record(300, True)
    vote.record(200, False)  # sent earlier, known later: a timeout
    assert vote.answers_since(50) == 0
    assert vote.answers_since(200) == 1
    assert vote.failed_since(150)
    assert not vote.failed_since(200)
    assert vote.answers() is True


def test_silence_is_counted_from_the_start_until_something_answers() -> None:
    vote = Vote(configured=True)
    assert vote.silent_for(900, 100) == 800
    vote.record(500, True)
    assert vote.silent_for(900, 100) == 400
