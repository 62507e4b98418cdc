"""Contexts: URLs with names, one TOML file each in the user's configuration directory, and the name of the selected one.

What a file holds is read by ``client.context_file``.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import click

from zmqha.client import context_file
from zmqha.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Context:
    """A name and where it leads. ``fault``: why that cannot be said."""

    name: str
    url: str
    fault: str = ""


def directory() -> Path:
    """``~/.config/zmqha`` on Linux."""
    return Path(click.get_app_dir("zmqha"))


def read(name: str) -> Context:
    """A saved context by name, or a context file by path (``…/context.toml``)."""
    if context_file.named(name):
        return Context(name, context_file.read(Path(os.path.expanduser(name))))
    path = _path(name)
    if not path.exists():
        raise _missing(name)
    return Context(name, context_file.read(path))


def every() -> tuple[Context, ...]:
    """All saved ones, by name; one that cannot be read says so in ``fault``."""
    found = []
    for name in _names():
        try:
            found.append(read(name))
        except ConfigError as error:
            found.append(Context(name, "", fault=f"{error.what}: {error.cause}"))
    return tuple(found)


def selected() -> str | None:
    """The name used when nothing else is said."""
    try:
        return (directory() / "selected").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def add(name: str, url: str) -> None:
    """Save it; the file is private, for a URL may name key files."""
    if name.endswith(".toml"):
        raise ConfigError(
            f"{name!r} cannot name a context", cause="what ends in .toml is taken for a context file", cure="leave .toml out"
        )
    path = _path(name)
    text = 'url = "' + url.replace("\\", "\\\\").replace('"', '\\"') + '"\n'
    _write(path, text)


def select(name: str) -> None:
    """Use it from now on."""
    read(name)
    _write(directory() / "selected", name + "\n")


def remove(name: str) -> None:
    """Forget it, whatever is in the file."""
    try:
        _path(name).unlink()
    except FileNotFoundError as error:
        raise _missing(name) from error
    if selected() == name:
        (directory() / "selected").unlink()


def _names() -> list[str]:
    return sorted(path.stem for path in (directory() / "contexts").glob("*.toml"))


def _missing(name: str) -> ConfigError:
    known = ", ".join(_names()) or "none"
    return ConfigError(f"no context {name!r}", cause=f"saved contexts: {known}", cure="zmqha context add NAME URL")


def _path(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a context", cause="it becomes a file name", cure="letters, digits, - _ and .")
    return directory() / "contexts" / f"{name}.toml"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
