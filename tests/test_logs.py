"""Log lines as text: a line a record, whatever is in the values."""

import logging

import pytest

from zmqha.server import logs


@pytest.mark.parametrize(("value", "shown"), [
    ("PASSIVE", "PASSIVE"),
    ("", '""'),
    (3, "3"),
    ("the peer's watcher", '"the peer\'s watcher"'),
    ("a=b", '"a=b"'),
    ("Müller", "Müller"),
    ('say "no"', r'"say \"no\""'),
    ("back\\slash", r'"back\\slash"'),
    ("two\nlines", r'"two\nlines"'),
    ("\x1b[2J", r'"\u001b[2J"'),
    ("\u2028\u202e\x7f\x85", r'"\u2028\u202e\u007f\u0085"'),
])  # fmt: skip
def test_a_value_stays_in_its_place(value: object, shown: str) -> None:
    record = logging.LogRecord("zmqha", logging.INFO, "", 0, "ha.waiting", (), None)
    record.fields = (("reason", value), ("epoch", 3))
    line = logs._Text("edge-a").format(record)
    assert line.partition("ha.waiting ")[2] == f"reason={shown} epoch=3"
