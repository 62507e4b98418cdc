"""The demo as a user runs it: a real pair, a real kill, everything counted; then its parts, which need no pair."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import pytest

from tests.cli.left_behind import left_behind
from zmqha.cli import failure, run
from zmqha.cli.demo import acts
from zmqha.cli.demo.chart import chart
from zmqha.cli.demo.gateway import Gateway
from zmqha.cli.demo.ledger import Confirmed, Delivered
from zmqha.cli.demo.ports import Ports
from zmqha.cli.demo.relay import HOST, Cable
from zmqha.cli.demo.report import JSON_NAME, SVG_NAME
from zmqha.cli.demo.stage import Stage

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-P", "-c", "from zmqha.cli import main; main()", "demo"]
SECTIONS = {
    "format": int, "story": str, "ok": bool, "faults": list, "zmqha": str, "settings": dict, "machine": dict, "servers": dict,
    "timeline": list, "roles": dict, "counts": dict, "pauses": dict, "stores": dict, "load": dict, "per_bin": dict, "near": dict,
    "log": list,
}  # fmt: skip


def start(place: Path, *arguments: str) -> "subprocess.Popen[str]":
    """In a directory and with a TMPDIR of its own, so that what it leaves behind can be seen."""
    (place / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place / "tmp")}
    return subprocess.Popen(
        [*PROGRAM, *arguments], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check_report(report: dict[str, Any]) -> None:
    """The documented sections, and figures that fit each other."""
    assert {name: type(value) for name, value in report.items()} == SECTIONS
    counts = report["counts"]
    assert report["ok"] and report["faults"] == []
    assert counts["sent"] == counts["acknowledged"] == counts["received"] > 0
    assert [counts[name] for name in ("lost", "stored_twice", "damaged", "unmarked", "unanswered", "refused")] == [0] * 6
    assert report["stores"]["equal"] and report["stores"]["A"]["chain"] == report["stores"]["B"]["chain"]
    seconds = [moment["seconds"] for moment in report["timeline"]]
    assert seconds == sorted(seconds)


def test_a_kill_loses_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    began = time.monotonic()
    demo = start(tmp_path, "--rate", "500", "--seconds", "5", "--seed", "7")
    out, err = demo.communicate(timeout=60)

    assert demo.returncode == 0, out + err
    assert time.monotonic() - began < 30
    assert left_behind(tmp_path) == []
    report = json.loads((tmp_path / JSON_NAME).read_text())
    check_report(report)
    assert report["story"] == "kill" and report["settings"]["seed"] == 7
    kinds = [moment["kind"] for moment in report["timeline"]]
    order = [kinds.index(kind) for kind in ("kill", "claim", "standalone", "acknowledged", "restart", "sync")]
    assert order == sorted(order)
    assert report["counts"]["one_disk"] > 0
    heir = next(moment["server"] for moment in report["timeline"] if moment["kind"] == "claim")
    assert report["roles"][heir][-1][1] == "active"
    root = xml.fromstring((tmp_path / SVG_NAME).read_text())
    assert root.tag.endswith("svg") and "0 lost" in "".join(root.itertext())
    assert "\x1b" not in out
    assert re.search(r"^  0\.000 s  kill -9 server [AB] \(pid \d+\), [\d,]+ messages acknowledged so far$", out, re.MULTILINE)
    assert "lost 0" in out and "stand-in" in out and "both stores are equal" in out and "Next:" in out


@pytest.mark.slow
def test_a_cut_link_makes_nobody_take_over(tmp_path: Path) -> None:
    demo = start(tmp_path, "--cut-link", "--rate", "300", "--seconds", "5", "--json", "--no-report")
    out, err = demo.communicate(timeout=60)

    assert demo.returncode == 0, out + err
    report = json.loads(out)
    check_report(report)
    assert report["story"] == "cut-link"
    assert {"cut", "mend", "sync"} <= {moment["kind"] for moment in report["timeline"]}
    assert left_behind(tmp_path) == []
    assert not (tmp_path / JSON_NAME).exists()


@pytest.mark.parametrize("number", [2, 15])
def test_an_interrupted_demo_tidies_up(tmp_path: Path, number: int) -> None:
    demo = start(tmp_path)
    time.sleep(3)  # anywhere in the middle
    demo.send_signal(number)
    out, _ = demo.communicate(timeout=20)

    assert demo.returncode == failure.INTERRUPTED, out
    assert left_behind(tmp_path) == []
    assert not (tmp_path / JSON_NAME).exists()


def test_a_demo_that_cannot_go_on_says_so_and_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(acts, "FORM_S", 0.0)

    assert run(["demo", "--report", str(tmp_path)]) == failure.FAILED

    printed = capsys.readouterr().err.splitlines()
    assert [line[:5] for line in printed] == ["error", "why: ", "fix: "] and "become a pair" in printed[0]
    report = json.loads((tmp_path / JSON_NAME).read_text())
    assert not report["ok"] and "become a pair" in report["faults"][0]
    assert left_behind(tmp_path) == []


# --- without a pair ---------------------------------------------------------------------------------------------------------


def planted(stage: Stage) -> None:
    """A run of which one acknowledged message never arrived."""
    stage.began, stage.ended = 100.0, 101.0
    stage.timeline.zero = 100.5
    stage.load.ledger.sent = [20, 0]
    for number in range(20):
        stage.load.ledger.confirmed.append(Confirmed(100 + number / 20, (0, number), True))
        if number != 7:
            stage.load.ledger.delivered.append(Delivered(100 + number / 20, (0, number), number, False, True))
    stage.faults += stage.load.ledger.count().faults()


def test_a_lost_message_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acts, "perform", planted)

    assert run(["demo", "--report", str(tmp_path)]) == failure.FAILED

    printed = capsys.readouterr()
    assert "lost 1" in printed.out and "Next:" not in printed.out
    assert [line[:5] for line in printed.err.splitlines()] == ["error", "why: ", "fix: "]
    report = json.loads((tmp_path / JSON_NAME).read_text())
    assert not report["ok"] and report["counts"]["first_lost"] == ["0/7"]
    assert "19" in printed.out and "1 lost" in (tmp_path / SVG_NAME).read_text()


def test_json_is_the_only_thing_on_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(acts, "perform", planted)

    assert run(["demo", "--json", "--no-report"]) == failure.FAILED

    assert json.loads(capsys.readouterr().out)["counts"]["lost"] == 1


def test_a_report_that_cannot_be_written_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--report", str(tmp_path / "nowhere")]) == failure.FAILED
    assert "--no-report" in capsys.readouterr().err


def test_no_rich_when_nobody_looks() -> None:
    code = "import sys; from zmqha.cli.demo import screen; screen.pick(silent=False); print('rich' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )

    assert done.stdout == "False\n", done.stderr


def test_two_demos_never_share_ports() -> None:
    blocks = [Ports() for _ in range(4)]
    bases = [block.base for block in blocks]
    for block in blocks:
        block.close()

    assert len(set(bases)) == 4


def test_the_gateway_answers_until_it_is_closed() -> None:
    gateway = Gateway()
    host, _, port = gateway.address.partition(":")
    asked = time.time()
    socket.create_connection((host, int(port)), 2).close()
    deadline = time.monotonic() + 2
    while gateway.first_answer(asked) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    answered = gateway.first_answer(asked)
    gateway.close()

    assert answered is not None and answered >= asked
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), 0.5)


def test_nothing_passes_a_cut_cable_and_all_of_it_after_mending() -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        port = far.getsockname()[1]
        cable = Cable({port: "A"})
        near = socket.create_connection((HOST, port), 2)
        other = far.accept()[0]
        near.sendall(b"one")
        assert other.recv(10) == b"one"
        cable.cut()
        near.sendall(b"two")
        near.shutdown(socket.SHUT_WR)
        other.settimeout(0.3)
        with pytest.raises(TimeoutError):
            other.recv(10)
        cable.mend()
        other.settimeout(2)
        assert (other.recv(10), other.recv(10)) == (b"two", b"")
        cable.close()
        near.close()
        other.close()


@pytest.mark.parametrize(("towards", "arrives"), [("A", (False, True)), ("B", (True, False))])
def test_a_cable_cut_towards_one_server_still_carries_the_other_way(towards: str, arrives: tuple[bool, bool]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        port = far.getsockname()[1]
        cable = Cable({port: "A"})
        of_b = socket.create_connection((HOST, port), 2)
        of_a = far.accept()[0]
        ends = (of_a, of_b)
        for end in ends:
            end.settimeout(0.3)
        of_b.sendall(b"one")
        assert of_a.recv(10) == b"one"
        cable.cut(towards)
        of_b.sendall(b"two")
        of_a.sendall(b"two")
        for end, expected in zip(ends, arrives, strict=True):
            if expected:
                assert end.recv(10) == b"two"
            else:
                with pytest.raises(TimeoutError):
                    end.recv(10)
        cable.mend()
        late = ends[arrives.index(False)]
        late.settimeout(2)
        assert late.recv(10) == b"two"
        cable.close()
        of_a.close()
        of_b.close()


def test_a_mute_gateway_refuses_until_it_speaks_again() -> None:
    gateway = Gateway()
    host, _, port = gateway.address.partition(":")
    gateway.mute()
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), 0.5)
    gateway.speak()
    socket.create_connection((host, int(port)), 2).close()
    gateway.close()


def test_the_chart_needs_only_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "perform", planted)
    run(["demo", "--report", str(tmp_path)])
    report = json.loads((tmp_path / JSON_NAME).read_text())

    assert chart(report) == (tmp_path / SVG_NAME).read_text()
    report["timeline"].append({"seconds": 0.1, "server": "B", "kind": "claim", "text": "<&>"})
    assert "&lt;&amp;&gt;" in chart(report)
    xml.fromstring(chart(report))
