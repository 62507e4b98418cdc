"""Every verb of the command line against a real pair: shapes that a fake cannot get wrong."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.system.pair import ROOT, Pair, pair


def zmqha(both: Pair, *arguments: str, stdin: bytes = b"", code: int = 0) -> str:
    """What a command prints; its exit code must be ``code``."""
    command = [sys.executable, "-m", "zmqha.cli", "--url", both.url, *arguments]
    ended = subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == code, ended.stderr.decode()
    assert b"Traceback" not in ended.stderr
    return ended.stdout.decode()


def as_json(both: Pair, *arguments: str) -> Any:
    return json.loads(zmqha(both, *arguments, "-f", "json"))


def test_every_verb_works_against_a_real_pair() -> None:
    with pair() as both:
        assert "Queue orders is there" in zmqha(both, "queue", "add", "orders", "--max-messages", "3")
        zmqha(both, "send", "orders", "--lines", stdin=b"one\ntwo\nthree\n")
        zmqha(both, "send", "orders", "one too many", code=1)
        (row,) = as_json(both, "queue", "ls")
        assert (row["name"], row["messages"], row["max_messages"]) == ("orders", 3, 3)
        assert as_json(both, "queue", "info", "orders")["ready"] == 3
        assert zmqha(both, "recv", "orders", "--count", "2", "--lines") == "one\ntwo\n"
        assert "1 messages deleted" in zmqha(both, "queue", "purge", "orders", "--yes")
        assert "is removed" in zmqha(both, "queue", "rm", "orders")
        assert as_json(both, "queue", "ls") == []
        assert zmqha(both, "recv", "orders", "--timeout", "0.2", "--lines") == ""
        table = zmqha(both, "status")
        assert "ACTIVE" in table and "PASSIVE" in table
        assert "Losing either server now loses 0 acknowledged messages." in table
        zmqha(both, "version")
        zmqha(both, "doctor")
        zmqha(both, "promote", "--accept-loss-of-peer", "--yes", code=1)
        zmqha(both, "resync", "--discard-own", "--yes", code=1)
        before = both.active()
        assert before in zmqha(both, "switchover", "--dry-run")
        zmqha(both, "switchover", "--reason", "back home")
        assert both.active() != before
        both.wait_in_sync()
        assert "back home" in zmqha(both, "history")


@pytest.mark.slow
def test_a_stale_server_says_why_it_waits_and_the_promotion_can_be_seen_afterwards() -> None:
    with pair() as both:
        passive, active = both.passive(), both.active()
        words = zmqha(both, "why")
        assert f"{passive} has been PASSIVE for" in words and f"{active} has been ACTIVE for" in words
        assert "no contact for 0.75 s (last 0." in words and "What to do" not in words
        both.kill_both()
        both[passive].start()
        both.wait_settled_waiting(passive)
        (answer,) = as_json(both, "why", passive)
        t5 = next(row for row in answer["rows"] if row["row"] == "T5")
        assert "the disk says SOLE: nobody else may hold newer data (this store is paired)" in t5["missing"]
        assert "zmqha promote --accept-loss-of-peer" in answer["cure"] and answer["acts"] == []
        zmqha(both, "promote", "--accept-loss-of-peer", code=1)  # nobody is there to be asked
        assert "serves alone from position" in zmqha(both, "promote", "--accept-loss-of-peer", "--yes")
        both.wait(lambda: both.state(passive) == "STANDALONE", "the promoted server serving")
        history = zmqha(both, "history")
        assert "promoted by" in history and f"{passive}, by an operator at 20" in history
        (row,) = [row for row in as_json(both, "status")["servers"] if row["name"] == passive]
        assert "promoted by" in row["acts"][0]["act"] and row["acts"][0]["wall_ms"] > 0
        both[passive].stop()  # and over a restart
        both[passive].start()
        both.wait(lambda: both.state(passive) == "STANDALONE", "the promoted server serving again")
        assert "promoted by" in zmqha(both, "why", passive)


@pytest.mark.parametrize("verb", [("status",), ("queue", "ls"), ("send", "q", "x"), ("recv", "q", "--timeout", "1")])
def test_without_any_server_the_exit_code_says_so(verb: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "zmqha.cli", "--url", "zmqha://127.0.0.1:1?connect_timeout=0.5", *verb]
    ended = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=False)
    lines = ended.stderr.decode().strip().splitlines()
    assert ended.returncode == 69
    assert [line.split(":")[0].split()[0] for line in lines[-3:]] == ["error", "why", "fix"], lines
