"""What a failed command prints (three lines: what, why, fix) and its exit code.

0 ok | 1 the operation failed | 2 usage | 69 no active server reachable | 75 try later | 77 denied | 78 bad configuration
"""

import errno
import os
import sys

import click

from zmqha.cli.invocation import is_terminal
from zmqha.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FailoverTimeout,
    NotActive,
    Unfinished,
    UrlError,
    ZmqhaError,
)

OK, FAILED, USAGE, UNAVAILABLE, TRY_LATER, DENIED, BAD_CONFIG, INTERRUPTED = 0, 1, 2, 69, 75, 77, 78, 130

_CODES: tuple[tuple[type[ZmqhaError], int], ...] = (
    (UrlError, USAGE),
    (ConnectionLost, UNAVAILABLE),
    (FailoverTimeout, UNAVAILABLE),
    (NotActive, UNAVAILABLE),
    (Unfinished, TRY_LATER),
    (AccessDenied, DENIED),
    (ConfigError, BAD_CONFIG),
)

_SYSTEM_CURES = {
    errno.EACCES: "name a place where you may write, or run it as the user who may",
    errno.EPERM: "name a place where you may write, or run it as the user who may",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "free space there, or name another place",
    errno.EMFILE: "allow more open files: ulimit -n",
}


def exit_code(error: ZmqhaError) -> int:
    """By class; everything not listed has failed."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def three_lines(error: ZmqhaError) -> str:
    """Always three: an error without why or cure borrows the sentence of its class (when it happens; what to do)."""
    sentence = " ".join((type(error).__doc__ or "").split()).rstrip(".").replace("``", "")
    when, _, what_to_do = sentence.partition("; ")
    return _lines(
        f"error {error.code}: {error.what}",
        error.cause or when or "the server gave no reason",
        error.cure or what_to_do or "see: zmqha status, zmqha doctor",
    )


def usage_lines(error: click.UsageError) -> str:
    """click's own complaints in the same shape; click already suggests the nearest name."""
    path = error.ctx.command_path if error.ctx else "zmqha"
    pieces = error.ctx.get_usage().removeprefix("Usage: ") if error.ctx else "zmqha COMMAND"
    return _lines(f"error: {error.format_message()}", f"usage is: {' '.join(pieces.split())}", f"{path} --help")


def system_lines(error: OSError) -> str:
    """What the operating system refused a command: a directory without rights, a full disk."""
    place = error.filename2 or error.filename
    return _lines(
        f"error: {os.fsdecode(place) if isinstance(place, str | bytes) else 'a file or socket'} cannot be used",
        error.strerror or str(error) or type(error).__name__,
        _SYSTEM_CURES.get(error.errno or 0, "name another place, or correct that one"),
    )


def show(text: str) -> None:
    """Chatter and errors: stderr, coloured only on a terminal that wants colour."""
    first, *rest = text.split("\n")
    head, colon, tail = first.partition(":")
    if head.startswith("error") and is_terminal(sys.stderr) and not os.environ.get("NO_COLOR"):
        first = click.style(head, fg="red", bold=True) + colon + tail
    click.echo("\n".join([first, *rest]), err=True)


def _lines(what: str, why: str, fix: str) -> str:
    return "\n".join((_one_line(what), f"why:  {_one_line(why)}", f"fix:  {_one_line(fix)}"))


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
