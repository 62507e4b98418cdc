"""From the file to ``settings.File``: TOML, environment overrides, unknown and wrongly typed settings refused by name and line.

Knows the file's text, so that every refusal (here, in ``settings_check`` and in ``config``) can say ``file:line``.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args, get_type_hints

import msgspec

from zmqha.errors import ConfigError
from zmqha.server.settings import SECTIONS, File, ServerBlock, fields


class Source(NamedTuple):
    """The file's text, to name the line that a refusal is about."""

    path: Path
    text: str

    def where(self, key: str) -> str:
        """``file`` or ``file:line`` of a dotted key."""
        line = _line_of(self.text, key)
        return f"{self.path}:{line}" if line else str(self.path)

    def refuse(self, key: str, what: str, *, why: str, cure: str) -> NoReturn:
        raise ConfigError(f"{self.where(key)}: {key}: {what}", cause=why, cure=cure)


def read(path: Path) -> str:
    """The text of the file."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}",
            cause=error.strerror or str(error),
            cure="name the file with --config FILE, or make one with: zmqha init A B",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text", cause=str(error), cure="TOML files are UTF-8") from error


def decode(source: Source, environ: Mapping[str, str]) -> File:
    """The settings, with the environment's overrides."""
    try:
        raw = tomllib.loads(source.text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source.path} is not TOML", cause=str(error), cure="correct that line; texts need quotes") from error
    _override(source, raw, environ)
    _refuse_unknown(source, File, raw, "")
    if not raw.get("server"):
        source.refuse(
            "server", "no server block", why="the file describes no machine", cure='add [server.NAME] with role = "primary"'
        )
    try:
        return msgspec.convert(raw, File)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at ")
        key = _server_key(where.strip("`").removeprefix("$."), raw) or "file"
        missing = re.search(r"missing required field `(\w+)`", text)
        if missing:
            key = f"{key}.{missing[1]}".removeprefix("$.").removeprefix("file.")
        source.refuse(key, text.replace("Object missing", "missing"), why="a setting has one type", cure=_type_cure(key))


def _server_key(key: str, raw: dict[str, Any]) -> str:
    """msgspec says ``server[...].role`` for any server; find out which one it was."""
    blocks = list(raw["server"]) if isinstance(raw["server"], dict) else []
    if "[...]" not in key:
        return key
    rest = key.partition("[...]")[2].removeprefix(".")
    for name in blocks:
        try:
            msgspec.convert(raw["server"][name], ServerBlock)
        except msgspec.ValidationError:
            return f"server.{name}.{rest}".rstrip(".")
    return "server"


def _type_cure(key: str) -> str:
    section, _, field = key.rpartition(".")
    kind: type | None = ServerBlock if section.startswith("server") else SECTIONS.get(section)
    hint = get_type_hints(kind).get(field) if kind else None
    if hint is None:
        return "see docs/operations.md, or compare with a file from: zmqha init A B"
    if get_args(hint) and hint not in (tuple[str, ...],):
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(hint))
    example = {int: "a whole number without quotes", bool: "true or false", str: 'text in "quotes"'}
    return f"write {field} as " + example.get(hint, 'a list of texts, ["a", "b"]')


def _refuse_unknown(source: Source, kind: type, raw: Mapping[str, Any], prefix: str) -> None:
    known = fields(kind)
    for key, value in raw.items():
        if key not in known:
            _refuse_name(source, prefix + key, key, known)
        if prefix == "" and key in SECTIONS and isinstance(value, dict):
            _refuse_unknown(source, SECTIONS[key], value, f"{key}.")
        if prefix == "" and key == "server" and isinstance(value, dict):
            for name, block in value.items():
                if isinstance(block, dict):
                    _refuse_unknown(source, ServerBlock, block, f"server.{name}.")


def _refuse_name(source: Source, key: str, last: str, known: Iterable[str]) -> NoReturn:
    near = difflib.get_close_matches(last, list(known), n=1, cutoff=0.5)
    cure = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(known)
    source.refuse(key, "unknown setting", why="a misspelt setting must not silently become a default", cure=cure)


def _override(source: Source, raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, value in sorted(environ.items()):
        if not variable.startswith("ZMQHA_") or "__" not in variable:
            continue
        section, *rest = variable.removeprefix("ZMQHA_").lower().split("__")
        origin = Source(Path(f"environment {variable}"), "")
        if section == "server" and len(rest) == 2 and isinstance(raw.get("server"), dict):
            found = [name for name in raw["server"] if name.lower().replace("-", "_") == rest[0]]
            if not found:
                _refuse_name(origin, f"server.{rest[0]}", rest[0], raw["server"])
            kind: type = ServerBlock
            target, field = raw["server"][found[0]], rest[1]
        elif section in SECTIONS and len(rest) == 1:
            kind, target, field = SECTIONS[section], raw.setdefault(section, {}), rest[0]
        else:
            _refuse_name(origin, section, section, [*SECTIONS, "server"])
        if field not in fields(kind):
            _refuse_name(origin, f"{section}.{field}", field, fields(kind))
        if isinstance(target, dict):
            target[field] = _from_text(get_type_hints(kind)[field], value)


def _from_text(hint: Any, value: str) -> Any:
    if hint == tuple[str, ...]:
        return [part.strip() for part in value.split(",") if part.strip()]
    if hint in (int, bool):
        try:
            return tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            return value
    return value


def _line_of(text: str, key: str) -> int:
    """The line a dotted key is on, or its table begins on; 0 if it is not in the text."""
    table, best = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        head = re.match(r"\[\s*([^\[\]]+?)\s*\]", stripped)
        if head:
            table = head[1].replace('"', "").replace("'", "")
            if table == key or (not best and key.startswith(f"{table}.")):
                best = number
            continue
        assigned = re.match(r"([\w.\-\"']+)\s*=", stripped)
        if assigned:
            full = f"{table}.{assigned[1]}".lstrip(".").replace('"', "").replace("'", "")
            if full == key:
                return number
    return best
