"""``zmqha doctor``: what an operator would look at first, looked at in order, each line with its finding.

As a client: does each server of the URL answer, how fast, with which version, how far is its clock. With ``--config``, on a
server's machine: configuration and keys, gateway probe, disk space and flush time, ports. Changes nothing; the flush test writes
one small file into the data directory (or the nearest directory that exists) and removes it.
"""

import errno
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from zmqha.cli.invocation import Invocation, command, open_servers, pass_invocation
from zmqha.cli.status import milliseconds
from zmqha.cli.table import Column, counted
from zmqha.errors import ConfigError, ConnectionLost, OperationFailed, ZmqhaError

if TYPE_CHECKING:
    from zmqha.server.config import Address, Config

COLUMNS = (Column("Check"), Column("Result"), Column("Finding"))
FLUSHES = 50
FLUSH_GOOD_MS = 10.0  # a confirm waits for two flushes, one on each machine
CLOCK_GOOD_MS = 1000.0


class Finding(NamedTuple):
    """One line. ``result``: ok, warn or FAIL."""

    check: str
    result: str
    text: str
    cure: str = ""


@command(
    "doctor",
    examples="""
    zmqha doctor
    zmqha doctor --config zmqha-pair/server.toml --name edge-a
    """,
)
@click.option("--config", "path", type=click.Path(path_type=Path), help="On a server's machine: the pair's file.")
@click.option("--name", default="", metavar="NAME", help="With --config: which server this machine is.")
@pass_invocation
def doctor(invocation: Invocation, path: Path | None, name: str) -> None:
    """Check network, versions and clocks; with --config also keys, gateway, disk and ports of this machine.

    Exit code 1 if a check fails.
    """
    findings = list(of_server(path, name) if path else of_pair(invocation))
    rows = [(finding.check, finding.result, finding.text) for finding in findings]
    invocation.show("Doctor", COLUMNS, rows, [finding._asdict() for finding in findings])
    for finding in findings:
        if finding.cure and finding.result != "ok":
            invocation.say(f"{finding.check}: {finding.cure}")
    failed = [finding.check for finding in findings if finding.result == "FAIL"]
    if failed:
        raise OperationFailed(f"{counted(len(failed), 'check')} failed", cause=", ".join(failed), cure="see the lines above")


# --- as a client ------------------------------------------------------------------------------------------------------------


def of_pair(invocation: Invocation) -> Iterator[Finding]:
    """Every server of the URL."""
    versions: dict[str, Any] = {}
    with open_servers(invocation) as servers:
        if not servers.encrypted:
            yield Finding("encryption", "warn", "the URL has no server key: plain connections", "use the context of: zmqha init")
        for host in servers.hosts:
            begun, wall = time.monotonic(), time.time()
            try:
                answer = servers.ask(host, "version", timeout_s=2.0)
            except ZmqhaError as error:
                yield _silent(host, error)
                continue
            took_ms = (time.monotonic() - begun) * 1000
            versions[host] = answer.get("version")
            yield Finding(host, "ok", f"answers after {milliseconds(took_ms)}, zmqha {answer.get('version')}")
            if "wall_ms" in answer:
                yield _clock(host, answer["wall_ms"] - (wall * 1000 + took_ms / 2))
    if len(servers.hosts) == 1:
        yield Finding("URL", "warn", "it names one server", "name both, so that a client can move over")
    if len(set(versions.values())) > 1:
        yield Finding("versions", "warn", ", ".join(map(str, versions.values())), "upgrade the older server (passive first)")


def _silent(host: str, error: ZmqhaError) -> Finding:
    """Tell a closed port from a key that does not fit."""
    if not isinstance(error, ConnectionLost):
        return Finding(host, "FAIL", error.what, error.cure)
    name, _, port = host.rpartition(":")
    try:
        with socket.create_connection((name.strip("[]"), int(port)), timeout=1.0):
            return Finding(host, "FAIL", "the port is open and nobody answers", "compare the server key and client_keys")
    except OSError as failure:
        return Finding(host, "FAIL", f"no connection: {failure.strerror or failure}", "is the server running, the address right?")


def _clock(host: str, apart_ms: float) -> Finding:
    text = f"{abs(apart_ms):.0f} ms {'ahead of' if apart_ms > 0 else 'behind'} this machine"
    if abs(apart_ms) <= CLOCK_GOOD_MS:
        return Finding(f"{host} clock", "ok", text)
    return Finding(f"{host} clock", "warn", text, "logs and history are hard to compare; run a time service on all machines")


# --- on a server's machine --------------------------------------------------------------------------------------------------


def of_server(path: Path, name: str) -> Iterator[Finding]:
    """This machine as the file describes it."""
    from zmqha.server.config import load
    from zmqha.server.keyring import load_keys

    try:
        config = load(path, name)
        warnings = (*config.warnings, *load_keys(config).warnings)
    except ConfigError as error:
        yield Finding("configuration", "FAIL", f"{error.what} ({error.cause})", error.cure)
        return
    yield Finding("configuration", "ok", f"{path}, keys of {config.name} fit")
    for warning in warnings:
        yield Finding("configuration", "warn", warning)
    yield from _gateway(config)
    yield from _disk(config)
    yield from _ports(config)
    timers = config.timers
    yield Finding("timers", "ok", f"heartbeat {timers.heartbeat_ms} ms, decision after {timers.decide_ms} ms of silence")


def _gateway(config: "Config") -> Iterator[Finding]:
    if config.peer is None:
        yield Finding("gateway", "ok", "none needed: no peer is configured")
        return
    for address in config.gateway.addresses:
        probe = _connects if config.gateway.kind == "tcp" else _pings
        yield probe(config, address)


def _connects(config: "Config", address: str) -> Finding:
    host, _, port = address.rpartition(":")
    begun = time.monotonic()
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=config.timers.probe_timeout_ms / 1000):
            pass
    except OSError as error:
        return Finding("gateway", "FAIL", f"{address}: {error.strerror or error}", "without it no server takes over")
    return Finding("gateway", "ok", f"{address} accepts after {milliseconds((time.monotonic() - begun) * 1000)}")


def _pings(config: "Config", address: str) -> Finding:
    argv = config.gateway.argv(address, timeout_ms=config.timers.probe_timeout_ms, source=config.probe_source)
    begun = time.monotonic()
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False)
    except FileNotFoundError:
        return Finding("gateway", "FAIL", f"no program {argv[0]}", "install it (Debian: iputils-ping)")
    except PermissionError:
        return Finding(
            "gateway", "FAIL", f"{argv[0]} may not be run", "setcap cap_net_raw+ep, or sysctl net.ipv4.ping_group_range"
        )
    except subprocess.TimeoutExpired:
        return Finding("gateway", "FAIL", f"{' '.join(argv)} does not end", "gateway.command must end by itself")
    if done.returncode == 0:
        return Finding("gateway", "ok", f"{address} answers after {milliseconds((time.monotonic() - begun) * 1000)}")
    words = " ".join((done.stderr or done.stdout).split())[:120] or "no answer"
    return Finding("gateway", "FAIL", f"{address}: {words} (exit code {done.returncode})", f"try by hand: {' '.join(argv)}")


def _disk(config: "Config") -> Iterator[Finding]:
    place = config.own.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free >> 20} MiB free under {config.own.data_dir}"
    need = config.limits.disk_reserve_bytes + 2 * config.limits.journal_segment_bytes
    cure = f"sends are refused below {config.limits.disk_reserve_bytes >> 20} MiB; journal segments need more"
    yield Finding("disk space", "ok" if free > need else "FAIL", text, cure)
    try:
        median_ms, worst_ms = flush_times(place)
    except OSError as error:
        yield Finding("disk flush", "FAIL", f"{place}: {error.strerror}", "the server's user must be able to write there")
        return
    text = f"fdatasync of 4 KiB: median {milliseconds(median_ms)}, worst of {FLUSHES} {milliseconds(worst_ms)}"
    good = median_ms <= FLUSH_GOOD_MS
    yield Finding(
        "disk flush", "ok" if good else "warn", text, "every confirm waits for this on both machines; use a faster disk"
    )


def flush_times(place: Path, now: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """Median and worst of some small flushes, in ms."""
    times = []
    with tempfile.TemporaryFile(dir=place) as file:
        for _ in range(FLUSHES):
            file.write(bytes(4096))
            file.flush()
            begun = now()
            os.fdatasync(file.fileno())
            times.append((now() - begun) * 1000)
    times.sort()
    return times[len(times) // 2], times[-1]


def _ports(config: "Config") -> Iterator[Finding]:
    named = [("client port", config.own.client_bind)]
    for label, address in (("peer port", config.own.peer), ("LAN port", config.own.lan)):
        if address:
            named += [(label, address), (f"{label} (bulk)", address.bulk)]
    for label, address in named:
        yield _port(label, address)


def _port(label: str, address: "Address") -> Finding:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(tuple(address))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return Finding(label, "ok", f"{address} is in use (by the running server, presumably)")
            return Finding(label, "FAIL", f"{address}: {error.strerror}", "the address must belong to this machine")
    return Finding(label, "ok", f"{address} is free")
