"""Log lines: text for people, JSON for machines; a stable event name and fields. One line per change of state, none per message.

2026-11-22T07:02:31.640Z INFO  edge-b ha.standalone was=PASSIVE reason="the peer's watcher reports its death" epoch=3
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson


class _Text(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in getattr(record, "fields", ()))
        line = f"{_stamp(record)} {record.levelname:<7} {self._node} {record.getMessage()}"
        line = f"{line} {fields}" if fields else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _stamp(record),
            "level": record.levelname,
            "server": self._node,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", ()))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up(node: str, level: str, form: str) -> None:
    """To stderr; the service manager keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(node) if form == "json" else _Text(node))
    root = logging.getLogger("zmqha")
    root.handlers[:] = [handler]
    root.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """May change while the server runs."""
    logging.getLogger("zmqha").setLevel(level.upper())


def _stamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _quoted(value: object) -> str:
    """As it is, or as JSON would have it: texts of clients and operators must not look like another field, or another line."""
    text = str(value)
    if text and text.isprintable() and not set(text) & set(' "=\\'):
        return text
    return '"' + "".join(each if each.isprintable() and each not in '"\\' else json.dumps(each)[1:-1] for each in text) + '"'
