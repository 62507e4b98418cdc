"""Counting: what is lost, stored twice, damaged; and the order and words of the timeline."""

import math
from types import SimpleNamespace

import pytest

from zmqha.cli.demo.ledger import Confirmed, Delivered, Ledger, Pause, first_after, longest_pause, per_bin
from zmqha.cli.demo.pair import Pair
from zmqha.cli.demo.screen import GLYPHS, LEGEND, Scene, bar, progress, sparkline
from zmqha.cli.demo.server import LogEvent, parse_event
from zmqha.cli.demo.timeline import ROLES, SHOWN, Timeline


def ledger(confirmed: str, delivered: str, sent: int | None = None) -> Ledger:
    """Each letter is a message; a place in the queue is where its letter first stands in ``confirmed``."""
    made = Ledger(1)
    made.sent = [len(confirmed) if sent is None else sent]
    made.confirmed = [Confirmed(at, (0, ord(letter)), True) for at, letter in enumerate(confirmed)]
    seen = ""
    for at, letter in enumerate(delivered):
        made.delivered.append(Delivered(at, (0, ord(letter)), ord(letter), letter in seen, True))
        seen += letter
    return made


def test_a_whole_run_has_no_faults() -> None:
    count = ledger("abcd", "abcbd").count()

    assert (count.sent, count.acknowledged, count.received, count.lost, count.seen_twice) == (4, 4, 4, 0, 1)
    assert count.faults() == []


def test_every_fault_is_named() -> None:
    lost = ledger("abcd", "abd")
    assert lost.missing() == {(0, ord("c"))} and not lost.is_complete()
    assert lost.count().faults() == ["1 acknowledged but never received"]
    assert lost.count().as_fields()["first_lost"] == ["0/99"]

    twice = ledger("ab", "ab")
    twice.delivered.append(Delivered(9, (0, ord("a")), 77, False, True))
    assert twice.count().faults() == ["1 stored twice", "1 seen twice without the mark"]

    damaged = ledger("a", "")
    damaged.delivered.append(Delivered(1, (0, ord("a")), 0, False, False))
    assert damaged.count().faults() == ["1 changed on the way"]

    assert ledger("ab", "ab", sent=3).count().faults() == ["1 never answered"]
    refused = ledger("ab", "ab", sent=3)
    refused.refused.append("queue full")
    assert refused.count().faults() == ["1 refused"]
    assert ledger("", "").count().faults() == ["nothing was acknowledged"]


def test_a_message_may_be_delivered_before_it_is_confirmed() -> None:
    assert ledger("ab", "abc", sent=3).count().lost == 0
    assert not ledger("ab", "abc", sent=3).is_complete()
    assert ledger("abc", "abc").is_complete()


def test_pauses_and_bins() -> None:
    assert longest_pause([3.0, 1.0, 1.5, 4.5]) == Pause(1.5, 1.5)
    assert longest_pause([2.0]).seconds == longest_pause([]).seconds == 0.0
    assert per_bin([0.05, 0.15, 0.19, 9.0, -1.0], 0.0, 0.1, 3) == [1, 2, 0]
    assert first_after([1.0, 3.0, 2.0], 1.5) == 2.0 and first_after([1.0], 2.0) is None


def test_log_lines_become_moments_in_order_and_roles() -> None:
    timeline = Timeline()
    timeline.hear(LogEvent(1.0, "B", "ha.passive", {"epoch": 2}))
    timeline.zero = 10.0
    timeline.hear(LogEvent(10.05, "B", "ha.claim", {"epoch": 3, "reason": "the peer's watcher reports its death"}))
    timeline.hear(LogEvent(10.01, "B", "ha.death_notice", {"peer": "A"}))
    timeline.hear(LogEvent(10.03, "B", "ha.death_notice", {"peer": "A"}))
    timeline.hear(LogEvent(10.06, "B", "ha.standalone", {"epoch": 3}))
    timeline.hear(LogEvent(10.07, "B", "config.warning", {"what": "x"}))
    timeline.add(10.0, "", "kill", "kill -9")

    assert timeline.release(10.1) == []
    assert [moment.kind for moment in timeline.release(math.inf)] == ["kill", "notice", "claim", "standalone"]
    assert timeline.release(math.inf) == []
    assert "epoch 2 → 3" in str(timeline.find("claim"))
    assert timeline.role("B") == "alone" and timeline.role("B", at=5.0) == "passive" and timeline.role("A") == "down"
    assert set(ROLES.values()) <= set(SHOWN) == set(GLYPHS)


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", "[]", '{"event": "x"}', '{"time": 5, "event": "x"}'])
def test_what_is_no_log_line_is_no_event(line: str) -> None:
    assert parse_event(line) is None


def test_a_log_line_is_read() -> None:
    event = parse_event('{"time":"2026-11-22T10:17:02.031Z","level":"INFO","server":"B","event":"ha.claim","epoch":3}')

    assert event is not None and (event.server, event.name, event.fields["epoch"]) == ("B", "ha.claim", 3)
    assert event.time == pytest.approx(1795342622.031)


def test_the_bar_shows_roles_and_the_kill() -> None:
    timeline = Timeline(roles={"A": [(0.0, "active"), (5.0, "down"), (8.0, "copying")]})
    scene = Scene(timeline, span=(0.0, 56.0), now=10.0, killed=("A", 5.0))

    assert bar(scene, "A").rstrip() == "█████╳  ░░░"
    assert all(glyph in LEGEND for glyph in "█▒░·╳")


def test_small_pictures() -> None:
    assert progress(0.5) == "▕█████     ▏  50 %"
    assert sparkline([0, 1, 4, 8]) == " ▁▄█"
    assert sparkline([]) == ""


def test_equal_log_lines_of_both_servers_are_kept() -> None:
    pair = Pair.__new__(Pair)
    same = LogEvent(1.0, "A", "ha.gap", {"gap_ms": 400}), LogEvent(1.0, "A", "ha.gap", {"gap_ms": 500})
    servers = {name: SimpleNamespace(new_events=lambda one=one: [one]) for name, one in zip("AB", same, strict=True)}
    pair.servers, pair.log = servers, []  # type: ignore[assignment]

    assert pair.new_events() == list(same)
