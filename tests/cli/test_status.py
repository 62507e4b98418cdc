"""``zmqha status`` and ``history``: the tables as documented, and honesty when servers are missing or disagree."""

import json
from typing import Any

import pytest
from fake_pair import Pair, Run, row, view

from zmqha.errors import AccessDenied, NotActive, Unfinished

A, B = "10.0.7.11:7400", "10.0.7.12:7400"


def test_status_looks_as_documented(run: Run) -> None:
    outcome = run("status")

    assert outcome.out == (
        "+ Pair: plant-7 (5f2c91ab) -----------+---------+-------+----------+--------+------+\n"
        "| Server | Endpoint       | Role      | State   | Epoch | Position |    Lag | Free |\n"
        "+--------+----------------+-----------+---------+-------+----------+--------+------+\n"
        "| edge-a | 10.0.7.11:7400 | Primary   | ACTIVE  |     4 |  1204331 |        |  88% |\n"
        "| edge-b | 10.0.7.12:7400 | Secondary | PASSIVE |     4 |  1204331 | 0.4 ms |  89% |\n"
        "+--------+----------------+-----------+---------+-------+----------+--------+------+\n"
        "Gateway 10.0.7.1 answers both. Losing either server now loses 0 acknowledged messages.\n"
    )
    assert (outcome.code, outcome.err) == (0, "")


def test_list_is_the_same(run: Run) -> None:
    assert run("list").out == run("status").out


def test_a_server_that_does_not_answer_is_a_row(run: Run, pair: Pair) -> None:
    del pair.status[B]

    outcome = run("status")

    assert "| edge-b | 10.0.7.12:7400 | Secondary | unreachable |" in outcome.out
    assert "edge-b does not answer here; edge-a sees it PASSIVE." in outcome.out
    assert outcome.code == 0


def test_both_say_that_they_serve(run: Run, pair: Pair) -> None:
    gone = row("edge-b", 12, "Secondary", "unreachable", epoch=0, txn=0, free=None)
    pair.status[A] = view("edge-a", row("edge-a", 11, "Primary", "STANDALONE"), gone, sentence="a alone.")
    lost = row("edge-a", 11, "Primary", "unreachable")
    pair.status[B] = view("edge-b", lost, row("edge-b", 12, "Secondary", "STANDALONE", epoch=5), sentence="b alone.")

    outcome = run("status")

    assert "ALARM: edge-a and edge-b both say that they serve." in outcome.out
    assert "edge-a does not hear edge-b." in outcome.out
    assert "edge-b says: b alone." in outcome.out


def test_stores_that_differ_at_one_position_are_an_alarm(run: Run, pair: Pair) -> None:
    behind = run("status").out
    pair.status[B]["servers"][1]["txn"] -= 1
    pair.status[B]["servers"][1]["chain"] = "11" * 8
    later = run("status").out
    pair.status[B]["servers"][1]["txn"] += 1
    different = run("status").out
    pair.status[B]["servers"][1]["state"] = "WAITING"
    pair.status[A]["servers"][0]["state"] = "STANDALONE"
    two_epochs = run("status").out

    assert "ALARM" not in behind and "ALARM" not in later
    assert "the two stores differ" in different
    assert "ALARM" not in two_epochs, "after a divergence equal counters are two epochs"


def test_a_server_that_refuses_sends_for_want_of_room_says_so(run: Run, pair: Pair) -> None:
    pair.status[A]["servers"][0]["refuses_sends"] = True

    assert "edge-a takes no more messages: less than limits.disk_reserve_bytes is free on its disk" in run("status").out


def test_a_damaged_disk_and_a_store_without_sums_are_one_line_each(run: Run, pair: Pair) -> None:
    clean = {"digest": 1.0, "bytes": 1 << 30, "cycles": 40, "cycle_ms": 20, "damaged": 0}
    pair.status[A]["servers"][0]["scrub"] = clean
    quiet = run("status").out
    pair.status[B]["servers"][1]["scrub"] = {**clean, "damaged": 3}
    damaged = run("status").out
    pair.status[B]["servers"][1]["scrub"] = {**clean, "digest": -1.0}
    off = run("status").out

    assert "disk" not in quiet
    assert "edge-b found 3 damaged pages on its disk since it started; replace that disk." in damaged
    assert "edge-b keeps no sums of its pages" in off


def test_a_copying_peer_shows_progress(run: Run, pair: Pair) -> None:
    a, b = row("edge-a", 11, "Primary", "STANDALONE"), row("edge-b", 12, "Secondary", "PASSIVE_SYNC", copied=0.431)
    pair.status = {A: view("edge-a", a, b), B: view("edge-b", a, b)}

    outcome = run("status")

    assert "ACTIVE_SYNC" in outcome.out and "PASSIVE_SYNC 43%" in outcome.out


def test_nobody_answers(run: Run, pair: Pair) -> None:
    pair.status = {}

    outcome = run("status")

    assert outcome.code == 69
    assert [line[:5] for line in outcome.err.splitlines()] == ["error", "why: ", "fix: "]


def test_a_refusal_is_told_rather_than_silence(run: Run, pair: Pair) -> None:
    pair.status = {B: AccessDenied("this key is not known")}

    outcome = run("status")

    assert outcome.code == 77 and "this key is not known" in outcome.err
    assert len(outcome.err.splitlines()) == 3


def test_json_and_tsv(run: Run) -> None:
    as_json = json.loads(run("-f", "json", "status").out)
    as_tsv = run("status", "-f", "tsv").out.splitlines()

    assert [server["name"] for server in as_json["servers"]] == ["edge-a", "edge-b"]
    assert as_json["sentence"].startswith("Losing either")
    assert as_tsv[0].split("\t")[:3] == ["Server", "Endpoint", "Role"] and len(as_tsv) == 3


def test_a_servers_words_do_not_steer_the_terminal(run: Run, pair: Pair) -> None:
    for answer in pair.status.values():
        answer["servers"][0]["name"] = answer["answering"] = "edge\x1b[2J"

    assert "\x1b" not in run("status").out.split("\n", 1)[1].split("Gateway")[0]


def entry(**more: Any) -> dict[str, Any]:
    shape = {"epoch": 3, "txn": 901555, "reason": "peer silent", "wall_ms": 1795330951640, "active": "edge-a", "outage_ms": 1710}
    return {**shape, **more}


def test_history_looks_as_documented(run: Run, pair: Pair) -> None:
    later = entry(epoch=4, txn=1187040, reason="switchover", outage_ms=198, wall_ms=0)
    pair.answers["history"] = {"pair": "plant-7", "cluster": "5f2c91ab00112233", "entries": [entry(), later]}

    outcome = run("history")

    assert "|     3 |   901555 | peer silent | 2026-11-22T07:02:31.640+00:00 | edge-a     | 1.71 s |" in outcome.out
    assert "|     4 |  1187040 | switchover  |                               | edge-a     | 198 ms |" in outcome.out


def test_errors_map_to_exit_codes(run: Run, pair: Pair) -> None:
    for error, code in ((Unfinished("copying"), 75), (AccessDenied("no"), 77)):
        pair.answers["history"] = error
        outcome = run("history")
        assert outcome.code == code and len(outcome.err.splitlines()) == 3


def test_no_active_server_is_unavailable(run: Run, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqha.cli.admin.Servers.ask_active.__kwdefaults__", {"timeout_s": 0.05})
    pair.answers["history"] = NotActive("edge-b is PASSIVE")

    outcome = run("history")

    assert outcome.code == 69 and "no active server" in outcome.err


@pytest.mark.parametrize(
    ("copy", "line"),
    [
        ({"way": "comparing", "bytes": 0, "first_round_bytes": 0, "rounds": 0}, "comparing what both hold."),
        (
            {"way": "delta", "bytes": 4_000_000, "first_round_bytes": 9_000_000, "rounds": 0},
            "by what it lacks, 4.0 of about 9.0 MB sent.",
        ),
        (
            {"way": "whole", "bytes": 9_500_000, "first_round_bytes": 9_000_000, "rounds": 1},
            "by a full copy, 9.5 of about 9.5 MB sent, 1 round done.",
        ),
    ],
)
def test_a_copy_says_how_and_how_far(run: Run, pair: Pair, copy: dict[str, Any], line: str) -> None:
    pair.status[A]["copy"] = copy
    assert f"The peer is brought up: {line}\n" in run("status").out
