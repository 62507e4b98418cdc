"""``zmqha send``: messages from an argument or from stdin, pipelined; the command ends when every one of them is confirmed."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import click

from zmqha.cli.invocation import Invocation, command, connect, is_terminal, pass_invocation
from zmqha.errors import ZmqhaError

IN_FLIGHT = 5000  # messages sent and not looked at; the client bounds bytes by itself
PROGRESS_S = 0.25


@command(
    "send",
    examples="""
    zmqha send orders hello
    zmqha send orders < order.json
    seq 100000 | zmqha send orders --lines
    """,
)
@click.argument("queue")
@click.argument("body", required=False)
@click.option("--lines", is_flag=True, help="Every line of stdin is a message (without its line end).")
@pass_invocation
def send(invocation: Invocation, queue: str, body: str | None, lines: bool) -> None:
    """Send BODY, or stdin, to QUEUE.

    Returns when the messages are on both disks (on one while a server runs alone). Survives a failover while it runs.
    """
    if body is not None and lines:
        raise click.UsageError("BODY and --lines exclude each other")
    if body is None and sys.stdin is None:
        raise click.UsageError("stdin is closed, so there is nothing to send without BODY")
    bodies = iter([body.encode(errors="surrogateescape")]) if body is not None else _bodies(sys.stdin.buffer, lines=lines)
    tally = _Tally(invocation, queue)
    try:
        with connect(invocation, on_state=tally.state_changed) as client:
            for one in bodies:
                tally.sent(client.send_nowait(queue, one))
            tally.finish()
    except (ZmqhaError, KeyboardInterrupt):
        if lines and tally.count:
            tally.broke_off()
        raise


def _bodies(source: IO[bytes], *, lines: bool) -> Iterator[bytes]:
    if not lines:
        yield source.read()
        return
    for line in source:
        yield line.removesuffix(b"\n")


class _Tally:
    """Counts, bounds what is in flight, and shows progress on a terminal."""

    def __init__(self, invocation: Invocation, queue: str) -> None:
        self.invocation = invocation
        self.queue = queue
        self.begun = self.shown = time.monotonic()
        self.count = self.confirmed = 0
        self.waiting: deque[Any] = deque()
        self.live = is_terminal(sys.stderr) and not invocation.quiet

    def sent(self, handle: Any) -> None:
        self.count += 1
        self.waiting.append(handle)
        if len(self.waiting) >= IN_FLIGHT:
            for _ in range(IN_FLIGHT // 2):
                self._confirm()
        if self.live and time.monotonic() - self.shown >= PROGRESS_S:
            self._progress()

    def finish(self) -> None:
        """Wait for the rest; the first refusal is raised."""
        while self.waiting:
            self._confirm()
            if self.live and time.monotonic() - self.shown >= PROGRESS_S:
                self._progress()
        took = max(time.monotonic() - self.begun, 1e-6)
        if self.live and self.count > 1:
            click.echo("\r\x1b[K", nl=False, err=True)
        noun = "message" if self.count == 1 else "messages"
        self.invocation.say(f"{self.count:,} {noun} to {self.queue} in {took:.2f} s, all confirmed")

    def broke_off(self) -> None:
        """How far it came, after the client is closed. Order is kept, so what is confirmed without a gap is the first lines."""
        with suppress(ZmqhaError):
            while self.waiting:
                self._confirm()
        if self.live:
            click.echo("\r\x1b[K", nl=False, err=True)
        go_on = f"to go on: tail -n +{self.confirmed + 1} FILE | zmqha send {self.queue} --lines"
        doubt = "lines after them may be stored too and would then be there twice"
        click.echo(f"{self.confirmed:,} confirmed of {self.count:,} sent; {go_on} ({doubt})", err=True)

    def state_changed(self, old: object, new: object, reason: str) -> None:
        """Called by the client's thread."""
        if self.live:
            click.echo("\r\x1b[K", nl=False, err=True)
        self.invocation.announce(old, new, reason)

    def _confirm(self) -> None:
        self.waiting[0].result()
        self.waiting.popleft()
        self.confirmed += 1

    def _progress(self) -> None:
        self.shown = time.monotonic()
        click.echo(f"\r\x1b[K{self.count:,} sent, {self.confirmed:,} confirmed", nl=False, err=True)
