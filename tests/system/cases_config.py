"""C1, C2, B19: what a server refuses to start with, and a peer that speaks another version or has other pages."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from tests.system.matrix import Run, case
from tests.system.pair import ROOT, Pair
from tests.system.test_bad_input import Stranger
from zmqha.core.peer_protocol import (
    NO_SESSION,
    VERSION,
    Beat,
    Echo,
    Follow,
    Grant,
    Hello,
    Session,
    Standing,
    State,
    Sub,
    decode_control,
    encode,
)
from zmqha.core.position import NO_EPOCH, NOWHERE
from zmqha.errors import ProtocolError

Change = Callable[[str], str]


def swap(old: str, new: str) -> Change:
    def change(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return change


def not_alone(text: str) -> str:
    """As on two machines."""
    return text.replace("single_machine = true\n", "")


PAIRING: tuple[tuple[str, Change, str], ...] = (
    ("both primary", swap('"secondary"', '"primary"'), "the roles are primary and primary"),
    ("plain and on loopback, not for tests", not_alone, "single machine only"),
    ("gateway is a name", swap('addresses = ["127.0.0.1:', 'addresses = ["router:'), "is no IP address"),
    ("no secret", swap('secret_file = "keys/cluster/secret"\n', ""), "secret_file"),
    ("a secret that is not there", swap("keys/cluster/secret", "keys/cluster/none"), "keys/cluster/none"),
    ("started as a third", swap("[server.a]", "[server.x]"), "no server"),
    ("foreign cluster id", swap("5f2c91ab5f2c91ab", "0000000000000001"), "belongs to server"),
)
FILES: tuple[tuple[str, Change, str], ...] = (
    ("not TOML", swap("[cluster]", "[cluster"), "TOML"),
    ("unknown key", swap("[timers]\n", "[timers]\nheartbeet_ms = 250\n"), "did you mean 'heartbeat_ms'?"),
    ("unknown section", swap("[timers]\n", "[timerz]\n"), "did you mean 'timers'?"),
    ("wrong type", swap("[timers]\n", '[timers]\nheartbeat_ms = "250"\n'), "heartbeat_ms"),
    ("huge timer", swap("[timers]\n", "[timers]\nslow_ms = 999999999\n"), "slow_ms"),
    ("negative timer", swap("[timers]\n", "[timers]\nslow_ms = -1\n"), "slow_ms"),
    ("2^70", swap("[timers]\n", f"[timers]\nslow_ms = {1 << 70}\n"), ""),
    ("T_PAUSE > T_DECIDE", swap("[timers]\n", "[timers]\npause_ms = 5000\n"), "pause_ms"),
    ("NaN", swap("[timers]\n", "[timers]\nslow_ms = nan\n"), "slow_ms"),
    ("bytes that are no text", swap('name = "test"', 'name = "\udcff"'), ""),
    ("deeply nested", lambda text: text + "x = " + "[" * 5000, ""),
    ("no sessions", swap("[limits]\n", "[limits]\nsessions_max = 0\n"), "sessions_max"),
    ("empty", lambda text: "", ""),
)  # fmt: skip


def start_refused(run: Run, both: Pair, text: str, what: str, said: str) -> None:
    """The real program ends at once with 78, saying what, why and cure; the data directory is not touched."""
    file = both.directory / "wrong.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    command = [sys.executable, "-m", "zmqha.cli", "server", "--config", str(file), "--name", "a"]
    try:
        ended = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        run.expect(False, f"{what}: it started")
        return
    words = ended.stderr.decode(errors="replace")
    run.expect(ended.returncode == 78, f"{what}: ended with {ended.returncode}: {words[-200:]}")
    run.expect("Traceback" not in words and (said in words), f"{what}: said {words[-300:]}")
    run.expect("why:" in words or "fix:" in words, f"{what}: no reason, no cure: {words[-300:]}")
    run.runs += 1


def refusals(run: Run, cases: tuple[tuple[str, Change, str], ...], directory: Path) -> Pair:
    both = Pair(directory)
    good = both.config.read_text()
    for what, change, said in cases:
        wrong = change(good)
        if wrong != good:
            start_refused(run, both, wrong, what, said)
    return both


@case("B19", "configuration files that are wrong", timeout_s=120)
def wrong_files(run: Run) -> None:
    with directory() as place:
        refusals(run, FILES, place).close()


@case("C1", "pairs that are configured wrongly", timeout_s=180)
def wrong_pairs(run: Run) -> None:
    """Refused at the start, exit code 78; what only the other server can tell is told by status, and neither serves."""
    with directory() as place:
        both = Pair(place)
        try:
            both["a"].start()
            both.wait(lambda: both.row("a").get("state") == "WAITING", "a waiting")
            both["a"].stop()
        finally:
            both.close()
        refusals(run, PAIRING, place).close()
    never_serve(run, "a foreign cluster id", lambda text: text.replace("5f2c91ab5f2c91ab", "0123456789abcdef"))
    never_serve(run, "roles the other way round in one file", roles_swapped)


def roles_swapped(text: str) -> str:
    return text.replace('"secondary"', '"x"').replace('"primary"', '"secondary"').replace('"x"', '"primary"')


def never_serve(run: Run, what: str, change: Change) -> None:
    """Both run, ``b`` with another file; both answer and wait, and say why."""
    with directory() as place:
        both = Pair(place)
        both["b"].config = both.directory / "other.toml"
        both["b"].config.write_text(change(both.config.read_text()))
        try:
            for name in "ab":
                both[name].start()
            for name in "ab":
                both.wait(lambda name=name: both.row(name).get("state") == "WAITING", f"{name} WAITING")
            end = time.monotonic() + run.pick(3, 20)
            while time.monotonic() < end:
                states = [both.state(name) for name in "ab"]
                run.expect(states == ["WAITING", "WAITING"], f"{what}: {states}")
                time.sleep(0.2)
            status = both.status("a")
            run.note(what, status["sentence"] if status else "no answer")
            run.runs += 1
        finally:
            both.close()


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="zmqha-pair-") as place:
        yield Path(place)


# --- C2 ---------------------------------------------------------------------------------------------------------------------------


class FakePeer:
    """Speaks for ``b`` on the primary's control port and follows it, with a Hello of its own making."""

    def __init__(self, both: Pair, **hello: Any) -> None:
        self.session = Session(int(time.time()) + 1000, 1)
        self.heard: set[str] = set()
        self._theirs = NO_SESSION
        self._number = 1
        self._seq = 0
        self._hello: dict[str, Any] = {"version": VERSION, "page_size": 4096, "data_version": 1, "little_endian": True} | hello
        self._control = Stranger(zmq.PAIR, both.peer_ports["a"])  # type: ignore[arg-type]
        self._bulk = Stranger(zmq.DEALER, both.peer_ports["a"] + 1)  # type: ignore[arg-type]
        self.state = State.WAITING

    def step(self) -> None:
        """Say what a peer says, answer what it is asked."""
        fields = self._hello
        hello = Hello(
            self.session, self._number, fields["version"], "5f2c91ab5f2c91ab", "b", False, fields["page_size"], fields["data_version"],
            fields["little_endian"], (), "tcp://127.0.0.1:1",
        )  # fmt: skip
        self._seq += 1
        follows = self._theirs if self.state is State.PASSIVE_SYNC else NO_SESSION
        beat = Beat(
            self.session, self._seq, 1, self.state, Sub.NONE, "", Standing.BEHIND, NO_EPOCH, NOWHERE, False, True, True, 1, False,
            (NO_SESSION, 0), follows,
        )  # fmt: skip
        for message in (hello, beat):
            self._say(encode(message))
        if self.state is State.PASSIVE_SYNC:
            self._bulk.socket.send(encode(Follow(self.session, self._theirs, NOWHERE, 1)), zmq.NOBLOCK)
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            if not self._control.socket.poll(10):
                continue
            try:
                message = decode_control(self._control.socket.recv())
            except ProtocolError:
                continue
            self.heard.add(type(message).__name__)
            if isinstance(message, Beat):
                self._theirs = message.session
                if message.state is State.STANDALONE:
                    self.state = State.PASSIVE_SYNC
                self._say(encode(Echo(self.session, message.session, message.seq, message.sent_ms)))
        while self._bulk.socket.poll(0):
            self._bulk.socket.recv_multipart()
            self.heard.add("fed")

    def _say(self, frame: bytes) -> None:
        try:
            self._control.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            pass

    def close(self) -> None:
        self._control.close()
        self._bulk.close()


@case("C2", "a peer of another version, with other pages", timeout_s=180)
def other_versions(run: Run) -> None:
    """It is not granted, the server keeps serving alone, and status names the difference."""
    with directory() as place:
        both = Pair(place)
        try:
            both.start()
            both["b"].kill()
            both.wait(lambda: both.state("a") == "STANDALONE", "a STANDALONE")
            for wrong in (
                {"version": VERSION + 1},
                {"version": 0},
                {"page_size": 16384},
                {"data_version": 3},
                {"little_endian": False},
            ):
                peer = FakePeer(both, **wrong)
                end = time.monotonic() + run.pick(3, 8)
                sentences = set()
                while time.monotonic() < end:
                    peer.step()
                    run.expect(both.state("a") == "STANDALONE", f"{wrong}: a is {both.state('a')}")
                    status = both.status("a")
                    sentences.add(str(status["sentence"]) if status else "")
                run.expect(Grant.__name__ not in peer.heard, f"{wrong} was granted")
                run.expect("Beat" in peer.heard, f"{wrong}: the fake peer was not heard")
                run.note(str(wrong), sorted(peer.heard))
                peer.close()
                run.runs += 1
            with both.connect() as client:
                run.expect(client.send("q", b"x").durability == 1, "confirmed by a peer that cannot read it")
            both["b"].start()
            both.wait_in_sync(60)
        finally:
            both.close()
