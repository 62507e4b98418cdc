"""A context file: one line ``url = "zmqha://…"``, as ``zmqha init`` writes it for clients into ``client/context.toml``.

A relative ``curve_key_file`` in it counts from the file's own directory, so that directory can be copied anywhere. Reads the file and
nothing else; the URL is understood by ``url``.
"""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote

from zmqha.errors import ConfigError

SUFFIX = ".toml"


def named(text: str) -> bool:
    """Whether this is the path of a context file, and not a URL or a name."""
    return text.endswith(SUFFIX) and "://" not in text


def url_of(place: str | Path | Sequence[str]) -> str | Sequence[str]:
    """What stands in the context file, if ``place`` is the path of one; else ``place`` as it is. Raises ConfigError."""
    if isinstance(place, Path) or (isinstance(place, str) and named(place)):
        return read(Path(os.path.expanduser(place)))
    return place


def read(path: Path) -> str:
    """The URL in this file, with the key file's absolute path. Raises ConfigError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        cause = "a relative path counts from the current directory" if not path.is_absolute() else ""
        cure = "give the path of the client/context.toml that zmqha init wrote, or a URL: zmqha://host,host:port"
        raise ConfigError(f"there is no context file {path}", cause=cause, cure=cure) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        cure = 'it must be readable and hold url = "zmqha://…"'
        raise ConfigError(f"cannot read the context {path}", cause=str(error), cure=cure) from error
    url = raw.get("url")
    if not isinstance(url, str) or set(raw) != {"url"}:
        raise ConfigError(
            f"{path} is no context", cause=f"it holds {', '.join(raw) or 'nothing'}", cure='it holds url = "zmqha://…"'
        )
    return _with_absolute_key_file(url, path.parent)


def _with_absolute_key_file(url: str, base: Path) -> str:
    address, mark, query = url.partition("?")
    if not mark:
        return url
    options = [
        (key, str((base / value).absolute()) if key == "curve_key_file" else value)
        for key, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    ]
    return f"{address}?" + "&".join(f"{key}={quote(value, safe='/')}" for key, value in options)
