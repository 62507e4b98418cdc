"""SIGHUP: which file is applied, and what a running server takes from it."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zmqha.cli import provision
from zmqha.core.facts import NodeFacts
from zmqha.server import config as configuration
from zmqha.server.config import Config
from zmqha.server.main import Signals, build_broker, open_prober
from zmqha.server.node import Node, clock_ms


class Server:
    """A server that only hears signals, and looks until something is true."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        config = self.read()
        self.signals = Signals(config)
        self.node = SimpleNamespace(
            broker=build_broker(config, NodeFacts(config.cluster.id, config.name), clock_ms()),
            network=SimpleNamespace(prober=open_prober(config)),
            store=SimpleNamespace(scrub=SimpleNamespace(mib_per_s=0)),
        )

    def read(self) -> Config:
        return configuration.load(self.path, "a", environ={})

    def write(self, old: str, new: str) -> Config:
        assert old in self.text
        self.path.write_text(self.text.replace(old, new))
        return self.read()

    def hang_up(self) -> None:
        self.signals.hear(cast(Node, self.node), signal.SIGHUP, clock_ms())

    def looks_until(self, condition: Callable[[], bool], within_s: float = 10.0) -> bool:
        end = time.monotonic() + within_s
        while not condition() and time.monotonic() < end:
            self.signals.look(cast(Node, self.node))
            time.sleep(0.005)
        return condition()

    def status(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.node.broker.operator.status(self.node.broker, clock_ms()))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    plan = provision.Plan(
        tmp_path / "pair", *provision.single_machine_pair(("a", "b"), 17400), cluster="demo",
        gateway_addresses=("127.0.0.1",), single_machine=True,
    )  # fmt: skip
    made = Server(provision.write(plan))
    yield made
    made.node.network.prober.close()
    logging.getLogger("zmqha").setLevel(logging.NOTSET)


def test_the_status_names_the_gateway_that_is_asked(server: Server) -> None:
    server.write('addresses = ["127.0.0.1"]', 'addresses = ["127.0.0.7"]')
    server.hang_up()
    assert server.looks_until(lambda: server.signals.config.gateway.addresses == ("127.0.0.7",))
    assert server.status()["gateway"]["addresses"] == ["127.0.0.7"]


def test_of_two_files_the_later_is_applied_last(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [server.write('level = "info"', f'level = "{level}"') for level in ("debug", "warning")]
    slow, read = threading.Event(), list[str]()

    def load(*_: object) -> Config:
        config = configs[len(read)]
        read.append(config.log.level)
        if config is configs[0]:
            assert slow.wait(10)
        return config

    monkeypatch.setattr(configuration, "load", load)
    server.hang_up()
    server.hang_up()
    server.looks_until(lambda: server.signals.config.log.level == "warning", 0.2)
    slow.set()
    assert server.looks_until(lambda: len(read) == 2 and server.signals.config.log.level == "warning")
    assert not server.looks_until(lambda: server.signals.config.log.level == "debug", 0.2)


def test_what_nobody_expects_is_said_and_the_next_reload_works(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(*_: object) -> Config:
        raise ZeroDivisionError("boom")

    with monkeypatch.context() as broken, caplog.at_level("INFO", "zmqha"):
        broken.setattr(configuration, "load", load)
        server.hang_up()
        assert server.looks_until(lambda: "config.refused" in caplog.messages)
        assert "boom" in str(caplog.records[-1].fields)  # type: ignore[attr-defined]
    new = server.write('level = "info"', 'level = "debug"')
    server.hang_up()
    assert server.looks_until(lambda: server.signals.config == new)
