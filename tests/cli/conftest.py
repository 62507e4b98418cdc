"""Command lines against a pair that answers from memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_pair import URL, Client, Outcome, Pair, Run

import zmqha
import zmqha.cli


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pair]:
    made = Pair()
    monkeypatch.setattr(zmqha, "connect", lambda url, **options: Client(made, url, **options))
    for name in ("ZMQHA_URL", "ZMQHA_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    yield made


@pytest.fixture
def run(pair: Pair) -> Run:
    """One command line, as ``main`` would run it."""

    def one(*arguments: str, stdin: bytes | str | None = None, url: str | None = URL) -> Outcome:
        code = 0

        class Main:
            """CliRunner captures the streams around anything with ``main``."""

            name = "zmqha"

            def main(self, args: list[str], prog_name: str, **_: Any) -> None:
                nonlocal code
                code = zmqha.cli.run([*(["--url", url] if url else []), *args])

        result = CliRunner().invoke(Main(), arguments, input=stdin)  # type: ignore[arg-type]
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(code, result.stdout, result.stderr, result.stdout_bytes)

    return one
