"""What a forked child finds in the place of a session's lock: the client is the parent's, and the lock itself may be held for ever."""

from types import TracebackType
from typing import NoReturn

from zmqha.errors import WrongState


class Elsewhere:
    """Whoever wants the lock is told."""

    def __enter__(self) -> NoReturn:
        raise WrongState(
            "this client was made before a fork",
            cause="its thread and sockets belong to the parent process",
            cure="connect in the child",
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
