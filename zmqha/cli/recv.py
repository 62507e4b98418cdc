"""``zmqha recv``: bodies to stdout, byte for byte. A message is acknowledged once its bytes are written and flushed, in batches.

Killed in between, it leaves messages unacknowledged that were written already: they come again, marked redelivered. None is lost.
"""

import sys
import time
from typing import IO, Any

import click

from zmqha.cli.invocation import Invocation, command, connect, pass_invocation
from zmqha.errors import Unfinished

BATCH = 200  # messages acknowledged together at most
BATCH_S = 0.05  # what is written waits for its flush and acknowledgement no longer than this


@command(
    "recv",
    examples="""
    zmqha recv orders --lines
    zmqha recv orders --count 1 > order.json
    zmqha recv orders --lines --timeout 5 | wc -l
    """,
)
@click.argument("queue")
@click.option("--lines", is_flag=True, help="A line end after every message.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Stop after S seconds without a message.")
@pass_invocation
def recv(invocation: Invocation, queue: str, lines: bool, count: int | None, timeout: float | None) -> None:
    """Receive messages of QUEUE to stdout, until interrupted.

    With --count, exit code 75 if --timeout ended it earlier.
    """
    if sys.stdout is None:
        raise click.UsageError("stdout is closed, so messages would go nowhere")
    # No more than is asked for: with --count 1 the others stay with the queue for other consumers.
    prefetch = min(count, BATCH) if count else BATCH
    with connect(invocation, on_state=invocation.announce) as client:
        outlet = _Outlet(sys.stdout.buffer, b"\n" if lines else b"")
        with client.consume(queue, prefetch=prefetch, ack="manual", timeout=BATCH_S) as messages:
            try:
                _copy(messages, outlet, count, timeout)
            finally:
                outlet.settle()
        invocation.detail(f"{outlet.written:,} messages from {queue}")
    if count and outlet.written < count:
        raise Unfinished(
            f"{outlet.written} of {count} messages",
            cause=f"none came for {timeout:g} s",
            cure="try again, or look: zmqha queue ls",
        )


def _copy(messages: Any, outlet: "_Outlet", count: int | None, timeout: float | None) -> None:
    """The consumer's timeout is short, so that a written message never waits for the next one; it may be asked again after it."""
    last = time.monotonic()
    while count is None or outlet.written < count:
        message = next(messages, None)
        now = time.monotonic()
        if message is not None:
            outlet.write(message, now)
            last = now
            continue
        outlet.settle()
        if timeout is not None and now - last >= timeout:
            return


class _Outlet:
    """Writes bodies; acknowledges what is flushed."""

    def __init__(self, target: IO[bytes], end: bytes) -> None:
        self.target = target
        self.end = end
        self.written = 0
        self.pending: list[Any] = []
        self.settled = 0.0

    def write(self, message: Any, now: float) -> None:
        self.target.write(message.body + self.end)
        self.written += 1
        self.pending.append(message)
        if len(self.pending) >= BATCH or now - self.settled >= BATCH_S:
            self.settled = now
            self.settle()

    def settle(self) -> None:
        """Flush, then acknowledge. BrokenPipeError leaves them unacknowledged: nobody has seen them."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        self.target.flush()
        for message in pending:
            message.ack()
