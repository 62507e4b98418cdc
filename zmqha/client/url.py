"""The URL of a pair of servers, and the client's options.

::

    zmqha://host[:port][,host[:port]]...[?key=value[&key=value]...]

All hosts are asked at once, and whichever is active gets the session. Ports are as libpq has them: one single port after the last host
serves all of them (``zmqha://a,b:7400``); IPv6 addresses stand in brackets. Values are percent-decoded. Several URLs (a list, or one
text with ``;`` between them) mean all their hosts together. An unknown option is an error that names the nearest one. Users, passwords
and namespaces are refused, and a password is not shown even then. Pure: reads no file and asks no name server.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import quote, unquote

from zmqha.core import curve_key, limits
from zmqha.errors import UrlError

SCHEME = "zmqha://"
PORT_DEFAULT = 7400
URL_DEFAULT = f"{SCHEME}127.0.0.1:{PORT_DEFAULT}"
HOSTS_MAX = 8  # a pair has two servers; more names for them than this is a mistake in the URL
FOREVER = -1.0

_PASSWORD = re.compile(r"(//[^/?@:]*):[^/?]*@")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_SIX = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,32})?", re.ASCII)
_DURATION = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", re.ASCII)
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ACK_MODES = ("auto", "manual")


@dataclass(frozen=True, slots=True)
class Options:
    """How a client behaves. Durations in seconds (in a URL also ``25ms``, ``1m``)."""

    client_id: str = ""  # for the server's logs and limits; made up when empty
    name: str = ""  # what people call this client; goes into a made-up client_id
    prefetch: int = 1000  # messages a consumer may have outstanding at most
    ack: str = "auto"  # auto: when the loop asks for the next message; manual: msg.ack()
    connect_timeout: float = 5.0  # how long connect() looks for the active server
    failover_timeout: float = 60.0  # how long a call waits while no server is active; 0 = not at all, -1 = for ever
    reconnect_min: float = 0.025  # pause between two questions to a server, doubled at random
    reconnect_max: float = 1.0  # the pause grows to this, beginning two seconds after a loss
    heartbeat: float = 0.0  # seconds between pings at rest; 0 = what the server asks for
    curve_server_key: str = ""  # the servers' public key in Z85: switches CURVE on
    curve_key_file: str = field(default="", repr=False)  # this client's ``*.key_secret``


@dataclass(frozen=True, slots=True)
class Host:
    """One server's address."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def endpoint(self) -> str:
        """The address as ZeroMQ wants it."""
        return f"tcp://{self}"


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed URL. ``str`` gives it back in its one normal form."""

    hosts: tuple[Host, ...]
    options: Options = Options()

    def __str__(self) -> str:
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in _changed(self.options).items())
        return "".join((SCHEME, ",".join(map(str, self.hosts)), "?" + query if query else ""))


def parse(text: str | Sequence[str], **options: object) -> Url:
    """The meaning of a URL, a ``;`` list or a list of URLs; keyword options win over those in the URL. Raises UrlError."""
    texts = text.split(";") if isinstance(text, str) else [part for one in text for part in one.split(";")]
    texts = [one.strip() for one in texts if one.strip()]
    if not texts:
        raise UrlError("the URL is empty", cure=f"write for example {URL_DEFAULT}")
    parts = [_parse_one(one) for one in texts]
    hosts = tuple(dict.fromkeys(host for part in parts for host in part.hosts))
    if len(hosts) > HOSTS_MAX:
        raise UrlError(f"the URL names {len(hosts)} hosts", cause="a pair has two servers", cure="name each server once")
    given: dict[str, object] = {}
    for part in parts:
        given.update(_changed(part.options))
    given.update((name, value) for name, value in options.items() if value is not None)
    return Url(hosts, _options(given))


def default_url(environ: Mapping[str, str]) -> str:
    """The URL (or context file) to use when none is given: ``ZMQHA_URL``, else this machine."""
    return environ.get("ZMQHA_URL", "") or URL_DEFAULT


def masked(text: str) -> str:
    """The text of a URL (right or wrong) without its password, for errors and logs."""
    return _PASSWORD.sub(r"\1:***@", text)


def _changed(options: Options) -> dict[str, Any]:
    return {
        item.name: value for item in fields(options) if (value := getattr(options, item.name)) != getattr(Options(), item.name)
    }


def _parse_one(text: str) -> Url:
    def wrong(why: str) -> UrlError:
        form = "zmqha://host[:port][,host[:port]][?key=value]"
        return UrlError(f"cannot understand the URL {masked(text)!r}", cause=why, cure=f"write {form}")

    if not text.startswith(SCHEME):
        raise wrong("it does not begin with zmqha://")
    rest, _, query = text[len(SCHEME) :].partition("?")
    places, _, namespace = rest.partition("/")
    if "@" in places or namespace:
        raise UrlError(
            "users and namespaces do not exist in this version",
            cause="a name that is silently ignored would look like protection",
            cure="leave them out; access is by key (curve_key_file)",
        )
    if not places:
        raise wrong("it names no host")
    hosts = [_host(place, wrong) for place in places.split(",")]
    ports = [port for _, port in hosts]
    if ports[-1] is not None and all(port is None for port in ports[:-1]):
        ports = [ports[-1]] * len(ports)
    found = tuple(Host(name, port or PORT_DEFAULT) for (name, _), port in zip(hosts, ports, strict=True))
    options: dict[str, object] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise wrong(f"option {name!r} has no value")
        if name in options:
            raise wrong(f"option {name!r} is given twice")
        options[name] = unquote(value)
    return Url(found, _options(options))


def _host(place: str, wrong: Any) -> tuple[str, int | None]:
    """Name and port of one place; port None if it has none."""
    if place.startswith("["):
        name, bracket, tail = place[1:].partition("]")
        fits = bool(bracket) and _SIX.fullmatch(name) is not None and (not tail or tail.startswith(":"))
        port = tail[1:]
        colon = bool(tail)
    else:
        name, separator, port = place.partition(":")
        fits = _NAME.fullmatch(name) is not None
        colon = bool(separator)
    if not fits:
        raise wrong(f"{place!r} is not a host" if place else "a host is empty")
    if not colon:
        return name, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise wrong(f"{port!r} is not a port (1 to 65535)")
    return name, int(port)


def _options(given: Mapping[str, object]) -> Options:
    known = {item.name: item.default for item in fields(Options)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            cure = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise UrlError(f"there is no option {name!r}", cause="known are " + ", ".join(known), cure=cure)
        values[name] = _value(name, value, known[name])
    return _checked(replace(Options(), **values))


def _value(name: str, value: object, default: object) -> object:
    """The option's value in the type of its default."""
    if isinstance(default, str) and isinstance(value, str):
        return value
    if isinstance(default, int) and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value)
    if isinstance(default, float) and not isinstance(value, bool):
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
            return float(match[1]) * _SECONDS[match[2]]
    wanted = {str: "a text", int: "a whole number", float: "a duration such as 5s or 25ms"}[type(default)]
    raise UrlError(f"option {name} cannot be {value!r}", cure=f"give {wanted}")


def _checked(options: Options) -> Options:
    def require(fits: bool, what: str, cure: str) -> None:
        if not fits:
            raise UrlError(what, cure=cure)

    most, longest = limits.CREDIT_MESSAGES_MAX, limits.NAME_BYTES_MAX
    require(1 <= options.prefetch <= most, f"option prefetch is {options.prefetch}", f"give 1 to {most}")
    require(options.ack in _ACK_MODES, f"option ack is {options.ack!r}", f"give {' or '.join(_ACK_MODES)}")
    require(options.connect_timeout > 0, "option connect_timeout is not more than 0", "give a duration such as 5s")
    fits = options.failover_timeout >= 0 or options.failover_timeout == FOREVER
    require(fits, "option failover_timeout is negative", "give 0 (not at all), a duration such as 60s, or -1 (for ever)")
    require(options.reconnect_min >= 0.001, "option reconnect_min is less than 1 ms", "give 1ms or more")
    require(options.reconnect_min <= options.reconnect_max, "option reconnect_min is more than reconnect_max", "swap them")
    require(options.heartbeat >= 0, "option heartbeat is negative", "give a duration such as 1s, or 0: what the server asks for")
    require(len(options.client_id) <= longest, "option client_id is too long", f"give at most {longest} characters")
    require(len(options.name) <= longest, "option name is too long", f"give at most {longest} characters")
    fits = not options.curve_server_key or curve_key.is_key(options.curve_server_key)
    cure = "copy the key whole; in a URL every character but letters and digits is percent-encoded"
    require(fits, f"option curve_server_key is no key of {curve_key.CHARACTERS} characters of Z85", cure)
    fits = not options.curve_key_file or bool(options.curve_server_key)
    require(fits, "option curve_key_file needs curve_server_key too", "give both: client/context.toml of zmqha init holds them")
    return options
