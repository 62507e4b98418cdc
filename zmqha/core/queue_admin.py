"""The operators' side: queue.ls, queue.info, queue.add, queue.rm, queue.purge. ``Service`` hands commands in.

Results are plain maps. A verb that writes is answered once it is durable.
"""

from typing import Any

from zmqha.core.client_protocol import Admin, Reply, failure
from zmqha.core.commits import Answer
from zmqha.core.desk import Desk
from zmqha.core.queues import Queue
from zmqha.errors import DestinationInUse, NoSuchDestination, NotActive, OperationFailed

_LIMIT_MAX = 1 << 62
_ARGUMENTS: dict[str, dict[str, type]] = {
    "queue.ls": {},
    "queue.info": {"name": str},
    "queue.add": {"name": str, "max_messages": int, "max_bytes": int},
    "queue.rm": {"name": str, "force": bool},
    "queue.purge": {"name": str},
}
_MEANING = {str: "text", bool: "true or false", int: "a number from 0 to 2^62"}


class QueueAdmin:
    """Works at the desk; keeps nothing itself."""

    __slots__ = ("_desk",)

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def carry_out(self, client: bytes, request: int, command: Admin) -> None:
        """Answer a verb, or see to it that it is answered when durable; raises what it is refused with."""
        verb, arguments, desk = command.verb, command.arguments, self._desk
        check_arguments(verb, arguments)
        if verb == "queue.ls":
            rows = [self._describe(queue) for _, queue in sorted(desk.queues.by_name.items())]
            desk.send(client, request, Reply({"queues": rows}))
        elif verb == "queue.info":
            desk.send(client, request, Reply(self._describe(self._find(arguments["name"]))))
        elif desk.refusal is not None:
            raise NotActive(f"{verb} is not possible now", cause=desk.refusal.what, cure="try again in a second")
        else:
            desk.answer(Answer(client, request, Reply(self._write(verb, arguments))))

    def _write(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if verb == "queue.add":
            return self._add(**arguments)
        queue = self._find(arguments["name"])
        if verb == "queue.purge":
            return self._purge(queue)
        return self._remove(queue, force=arguments.get("force", False))

    def _find(self, name: str) -> Queue:
        queue = self._desk.queues.by_name.get(name)
        if queue is None:
            raise NoSuchDestination(
                f"there is no queue {name[:40]}",
                cause="it was never created, or it was removed",
                cure="create it: zmqha queue add NAME",
            )
        return queue

    def _describe(self, queue: Queue) -> dict[str, Any]:
        cursor, settings = queue.cursor, self._desk.settings
        return {
            "name": queue.name,
            "messages": cursor.messages,
            "ready": cursor.ready,
            "unacked": cursor.in_flight,
            "bytes": queue.log.bytes,
            "consumers": len(queue.consumers),
            "max_messages": queue.max_messages or settings.queue_messages,
            "max_bytes": queue.max_bytes or settings.queue_bytes,
        }

    def _add(self, name: str, max_messages: int | None = None, max_bytes: int | None = None) -> dict[str, Any]:
        """Create a queue, or change the limits of one; 0 = the server's default."""
        if self._desk.hold is not None:
            raise self._desk.hold
        queue = self._desk.queues.by_name.get(name)
        created = queue is None
        if queue is None:
            queue = self._desk.create(name)
        if max_messages is not None:
            queue.max_messages = max_messages
        if max_bytes is not None:
            queue.max_bytes = max_bytes
        self._desk.commits.describe(queue)
        return {"name": name, "created": created}

    def _purge(self, queue: Queue) -> dict[str, Any]:
        """What is visible is done; what is on its way to the disks is not touched."""
        removed, index = queue.finish_all()
        self._desk.values.retire(index)
        self._desk.commits.touch(queue)
        self._desk.delivery.wake(queue)
        return {"name": queue.name, "removed": removed}

    def _remove(self, queue: Queue, *, force: bool) -> dict[str, Any]:
        """The queue, its messages and its producers' rows go; consumers and senders that wait are told."""
        desk, held = self._desk, queue.cursor.messages + queue.incoming_messages
        if (held or queue.consumers) and not force:
            raise DestinationInUse(
                f"queue {queue.name} is in use",
                cause=f"it holds {held} messages and has {len(queue.consumers)} consumers",
                cure="purge it first, or say --force",
            )
        removed, index = queue.finish_all()
        desk.values.retire(index)
        desk.producers.forget(queue.number)
        desk.queues.remove(queue)
        gone = NoSuchDestination(
            f"queue {queue.name} was removed", cause="an operator removed it", cure="create it again if it is needed"
        )
        for send in desk.commits.drop(queue):
            desk.send(send.client, send.request, failure(gone, queue.name))
        for subscription in queue.consumers:
            desk.send(subscription.client, 0, failure(gone, queue.name))
        return {"name": queue.name, "removed": removed}


def check_arguments(verb: str, arguments: dict[str, Any]) -> None:
    """Raise OperationFailed for a verb or an argument that is not one."""
    known = _ARGUMENTS.get(verb)
    if known is None:
        raise OperationFailed(f"{verb[:40]!r} is not a verb", cause=f"known are {', '.join(_ARGUMENTS)}", cure="correct it")
    for name, value in arguments.items():
        kind = known.get(name)
        if kind is None:
            takes = ", ".join(known) or "nothing"
            raise OperationFailed(f"{verb} takes no {name[:40]!r}", cause=f"it takes {takes}", cure="correct it")
        too_large = isinstance(value, int) and not 0 <= value <= _LIMIT_MAX
        if type(value) is not kind or too_large:
            raise OperationFailed(f"{verb}: {name} cannot be that", cause=f"it must be {_MEANING[kind]}", cure="correct it")
    if "name" in known and "name" not in arguments:
        spoken = verb.replace(".", " ")
        raise OperationFailed(f"{verb} needs a name", cause="none was given", cure=f"say which queue: zmqha {spoken} NAME")
