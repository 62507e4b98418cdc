"""``zmqha why``: both servers' own words, and what operators did."""

import json
from typing import Any

import pytest
from fake_pair import Client, Pair, Run

from zmqha.errors import ConnectionLost, ZmqhaError

ACT = {"wall_ms": 1795330951640, "act": "promoted by ann@desk-7 at 1.3/7, peer lost"}


def answer(server: str, **more: Any) -> dict[str, Any]:
    row = {"row": "T8", "to": "STANDALONE", "when": "", "why": "", "holds": ["this server holds the right to take over"],
           "missing": ["no contact for 0.75 s (last 0.08 s ago)", "nothing heard of the peer for 0.5 s (last 0.01 s ago)"]}  # fmt: skip
    base = {"server": server, "state": "PASSIVE", "sub": "", "standing": "paired", "epoch": 4, "reason": "in sync", "since_ms": 192_000,
            "sentence": f"{server} has been PASSIVE for 3 min 12 s: in sync.", "rows": [row], "cure": "", "acts": []}  # fmt: skip
    return {**base, **more}


@pytest.fixture
def both(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What edge-a and edge-b answer to ``why``."""
    answers: list[Any] = [answer("edge-a"), answer("edge-b")]

    def admin(self: Client, verb: str, arguments: object, timeout: float, server: int | None = None) -> Any:
        assert verb == "why" and server is not None
        if isinstance(answers[server], ZmqhaError):
            raise answers[server]
        return answers[server]

    monkeypatch.setattr(Client, "admin", admin)
    return answers


def test_why_looks_as_documented(run: Run, both: list[Any]) -> None:
    outcome = run("why", "edge-b")

    assert outcome.out == (
        "edge-b has been PASSIVE for 3 min 12 s: in sync.\n"
        "What would change it, and what is still missing for that (the nearest first):\n"
        "  T8  STANDALONE  no contact for 0.75 s (last 0.08 s ago); nothing heard of the peer for 0.5 s (last 0.01 s ago)\n"
    )
    assert (outcome.code, outcome.err) == (0, "")


def test_both_are_asked_by_default(run: Run, both: list[Any]) -> None:
    out = run("why").out

    assert "edge-a has been PASSIVE" in out and "edge-b has been PASSIVE" in out
    assert len(json.loads(run("why", "-f", "json").out)) == 2


def test_v_shows_what_holds_too(run: Run, both: list[Any]) -> None:
    assert "holds:" not in run("why").out
    assert "holds: this server holds the right to take over" in run("why", "-v").out


def test_at_most_eight_rows_are_told_and_v_tells_all(run: Run, both: list[Any]) -> None:
    both[1]["rows"] = both[1]["rows"] * 11

    assert run("why", "edge-b").out.count("  T8  ") == 8
    assert run("why", "edge-b", "-v").out.count("  T8  ") == 11


def test_the_cure_and_the_acts_of_operators_follow(run: Run, both: list[Any]) -> None:
    both[1].update(cure="start edge-a", acts=[ACT])

    lines = run("why", "edge-b").out.splitlines()

    assert lines[-2] == "What to do: start edge-a"
    assert lines[-1] == f"edge-b, by an operator at 2026-11-22T07:02:31.640+00:00: {ACT['act']}"


def test_a_silent_server_is_named_and_the_other_one_is_told(run: Run, both: list[Any]) -> None:
    both[0] = ConnectionLost("no answer", cause="10.0.7.12:7400: active in epoch 4; 10.0.7.11:7400: no connection")

    outcome = run("why")

    assert outcome.code == 0
    assert "10.0.7.11:7400 does not answer: no connection\n" in outcome.out and "edge-b has been PASSIVE" in outcome.out


def test_a_server_that_is_asked_for_and_silent_is_an_error(run: Run, both: list[Any]) -> None:
    outcome = run("why", "edge-c")

    assert outcome.code == 1
    assert [line[:5] for line in outcome.err.splitlines()] == ["error", "why: ", "fix: "]
    assert "edge-a, edge-b" in outcome.err


def test_nobody_answers(run: Run, both: list[Any]) -> None:
    both[:] = [ConnectionLost("no answer", cause="no connection")] * 2

    outcome = run("why")

    assert outcome.code == 69 and len(outcome.err.splitlines()) == 3


def test_words_of_a_server_do_not_steer_the_terminal(run: Run, both: list[Any]) -> None:
    both[1].update(sentence="edge-b\x1b[2J", cure="\x1b]0;x")

    assert "\x1b" not in run("why").out


def test_tsv_has_one_line_per_row(run: Run, both: list[Any]) -> None:
    assert run("why", "-f", "tsv").out.splitlines()[0].split("\t")[:4] == ["edge-a", "PASSIVE", "T8", "STANDALONE"]


def test_the_history_shows_what_operators_did(run: Run, pair: Pair) -> None:
    pair.answers["history"] = {"pair": "plant-7", "cluster": "5f2c91ab", "entries": [], "server": "edge-b", "acts": [ACT]}

    out = run("history").out

    assert out.splitlines()[-1] == f"edge-b, by an operator at 2026-11-22T07:02:31.640+00:00: {ACT['act']}"
