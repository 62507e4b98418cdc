"""What ``send_nowait`` returns: the fate of one message. It shares its batch's fate, so it costs one small object."""

from zmqha.client.engine import Engine, Owner
from zmqha.client.producer import Batch, Receipt, Stage
from zmqha.client.session import again
from zmqha.errors import OutcomeUnknown


class Handle:
    """Ask it from any thread, as often as you like."""

    __slots__ = ("_batch", "_owner", "_told")
    _told: bool  # about the error; not there before: a handle that tells of none costs nothing for it

    def __init__(self, owner: Owner, batch: Batch) -> None:
        self._owner = owner
        self._batch = batch

    def __repr__(self) -> str:
        return f"<Handle {self._batch.stream.destination}, {self._batch.stage.name.lower()}>"

    def done(self) -> bool:
        """The message is confirmed or refused."""
        return self._batch.stage is Stage.SETTLED

    def result(self, timeout: float | None = None) -> Receipt:
        """Wait for the confirm. Raises what the server refused it with, OutcomeUnknown after ``timeout`` seconds (or when the
        client ended before), FailoverTimeout without an active server for ``failover_timeout``; after the last two ask again."""
        batch = self._batch
        if batch.stage is not Stage.SETTLED:
            wait_for(self._owner._engine, [batch], timeout)
        if batch.receipt is None and not hasattr(self, "_told"):
            self._told = True
            with self._owner._engine.session.lock:
                batch.told += 1
        return outcome(batch)


def wait_for(engine: Engine, batches: list[Batch], timeout: float | None) -> None:
    """Until all of them are settled; raises OutcomeUnknown after ``timeout`` seconds, FailoverTimeout."""

    def settled() -> bool:
        while batches and batches[-1].stage is Stage.SETTLED:
            batches.pop()
        return not batches

    with engine.session.lock:
        if engine.wait(engine.session.space, settled, timeout, engine.options.failover_timeout):
            return
    raise OutcomeUnknown(
        f"no confirm within {round(timeout, 3):g} s" if timeout is not None else "no confirm",
        cause=f"the client is {engine.failover.state}, and goes on trying",
        cure="ask the handle again, or look whether the message is there",
    )


def outcome(batch: Batch) -> Receipt:
    """What became of a settled batch; raises the error it was refused with (a fresh one, so threads do not share a traceback)."""
    error = batch.error
    if error is not None:
        raise again(error)
    assert batch.receipt is not None
    return batch.receipt
