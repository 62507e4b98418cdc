"""Operators' verbs on queues: arguments checked, results as plain maps.

``Service`` carries them out; this file only words them.
"""

from typing import Any

from zmqha.core.queues import Queue
from zmqha.errors import NoSuchDestination, OperationFailed

WRITING = frozenset({"queue.add", "queue.rm", "queue.purge"})
VERBS = WRITING | {"queue.ls", "queue.info"}
_LIMIT_MAX = 1 << 62
_KNOWN: dict[str, dict[str, type]] = {
    "queue.ls": {},
    "queue.info": {"name": str},
    "queue.add": {"name": str, "max_messages": int, "max_bytes": int},
    "queue.rm": {"name": str, "force": bool},
    "queue.purge": {"name": str},
}


def check_arguments(verb: str, arguments: dict[str, Any]) -> None:
    """Raise OperationFailed for a verb or an argument that is not one."""
    known = _KNOWN.get(verb)
    if known is None:
        raise OperationFailed(f"{verb[:40]!r} is not a verb", cause=f"known are {', '.join(sorted(VERBS))}", cure="correct it")
    for name, value in arguments.items():
        kind = known.get(name)
        if kind is None:
            raise OperationFailed(
                f"{verb} takes no {str(name)[:40]!r}", cause=f"it takes {', '.join(known) or 'nothing'}", cure="correct it"
            )
        too_large = isinstance(value, int) and not 0 <= value <= _LIMIT_MAX
        if type(value) is not kind or too_large:
            raise OperationFailed(
                f"{verb}: {name} is not what it must be", cause=f"it must be {_MEANING[kind]}", cure="correct it"
            )
    if "name" in known and "name" not in arguments:
        raise OperationFailed(
            f"{verb} needs a name", cause="none was given", cure=f"say which queue: zmqha {verb.replace('.', ' ')} NAME"
        )


_MEANING = {str: "text", bool: "true or false", int: "a number from 0 to 2^62"}


def missing(name: str) -> NoSuchDestination:
    shown = name[:40]
    return NoSuchDestination(
        f"there is no queue {shown}", cause="it was never created, or it was removed", cure=f"create it: zmqha queue add {shown}"
    )


def removed(name: str) -> NoSuchDestination:
    return NoSuchDestination(f"queue {name} was removed", cause="an operator removed it", cure="create it again if it is needed")


def describe(queue: Queue, default_messages: int, default_bytes: int) -> dict[str, Any]:
    """One queue as operators see it."""
    cursor = queue.cursor
    return {
        "name": queue.name,
        "messages": cursor.messages,
        "ready": cursor.ready,
        "unacked": cursor.in_flight,
        "bytes": queue.log.bytes,
        "consumers": len(queue.consumers),
        "max_messages": queue.max_messages or default_messages,
        "max_bytes": queue.max_bytes or default_bytes,
    }
