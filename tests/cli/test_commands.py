"""The other commands, from the command line to what the servers are asked and what is printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_pair import URL, Pair, Run, row, view

from zmqha.cli import COMMANDS, contexts, failure, root, server_main
from zmqha.cli import run as cli_run
from zmqha.cli.init import default_gateway
from zmqha.cli.table import Column, table
from zmqha.errors import OperationFailed, QueueFull, ZmqhaError

ROOT = Path(__file__).parents[2]
QUEUE = {
    "name": "orders", "messages": 12, "ready": 10, "unacked": 2, "consumers": 1, "bytes": 900, "max_messages": 100, "max_bytes": 10000,
}  # fmt: skip
BUILT = list(COMMANDS)


# --- the frame --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT)
def test_every_command_has_help_with_examples(run: Run, name: str) -> None:
    outcome = run(name, "--help")

    assert outcome.code == 0 and "Usage: zmqha" in outcome.out
    command = root.get_command(None, name)  # type: ignore[arg-type]
    for verb in getattr(command, "commands", {}):
        assert "Examples:" in run(name, verb, "-h").out
    assert "Examples:" in outcome.out


def test_help_imports_no_client_and_no_command() -> None:
    code = (
        "import sys; sys.modules['zmqha'] = __import__('types').ModuleType('zmqha'); sys.modules['zmqha'].__path__ = ['zmqha'];"
        "from zmqha.cli import run; run(['--help']);"
        "print([name for name in ('zmq', 'msgspec', 'lmdb', 'zmqha.cli.status', 'zmqha.cli.send') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])

    assert done.stdout.splitlines()[-1] == "[]"
    assert all(entry.line in done.stdout for entry in COMMANDS.values())


def test_a_value_for_a_flag_is_answered_with_that_commands_usage(run: Run) -> None:
    outcome = run("init", "--single-machine=3")

    assert outcome.code == 2
    assert "usage is: zmqha init " in outcome.err and "fix:  zmqha init --help" in outcome.err


def test_the_server_program_speaks_of_itself_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["zmqha-server", "--help"])
    with pytest.raises(SystemExit) as end:
        server_main()

    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: zmqha-server [OPTIONS]\n")


@pytest.mark.parametrize("name", [name for name in BUILT if name != "completion"])
def test_no_line_of_a_verb_is_cut_off(run: Run, name: str) -> None:
    assert "..." not in run(name, "--help").out.partition("Commands:")[2]


def test_usage_errors_are_three_lines_and_exit_2(run: Run) -> None:
    for arguments, said in ((["stauts"], "Did you mean 'status'?"), (["status", "--wacht"], "--wacht"), (["send"], "QUEUE")):
        outcome = run(*arguments)
        assert outcome.code == 2 and said in outcome.err
        assert [line[:5] for line in outcome.err.splitlines()] == ["error", "why: ", "fix: "]


def test_every_error_class_is_three_lines() -> None:
    def all_classes(kind: type[ZmqhaError]) -> list[type[ZmqhaError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in all_classes(child))]

    for kind in all_classes(ZmqhaError):
        lines = failure.three_lines(kind("it\nhappened")).splitlines()
        assert [line[:5] for line in lines] == ["error", "why: ", "fix: "] and all(len(line) > 6 for line in lines)


def test_a_title_wider_than_its_table_fits() -> None:
    lines = table("A long title for a small table", [Column("A"), Column("N", right=True)], [("x", 1)]).splitlines()

    assert len({len(line) for line in lines}) == 1


# --- queues -----------------------------------------------------------------------------------------------------------------


def test_queue_ls(run: Run, pair: Pair) -> None:
    pair.answers["queue.ls"] = {"queues": [QUEUE]}

    outcome = run("queue", "ls")

    assert "| orders |       12 |    10 |       2 |         1 |   900 |          100 |     10000 |" in outcome.out
    assert json.loads(run("queue", "ls", "-f", "json").out) == [QUEUE]


def test_queue_verbs_ask_what_they_must(run: Run, pair: Pair) -> None:
    pair.answers |= {"queue.add": QUEUE, "queue.rm": {"removed": 0}, "queue.purge": {"removed": 12}, "queue.info": QUEUE}

    assert run("queue", "add", "orders", "--max-messages", "100").code == 0
    assert "12 messages deleted" in run("queue", "purge", "orders", "--yes").out
    assert run("--yes", "queue", "rm", "orders", "--force").code == 0
    assert "| unacked" in run("queue", "info", "orders").out
    assert pair.asked == [
        ("queue.add", {"name": "orders", "max_messages": 100}, None), ("queue.purge", {"name": "orders"}, None),
        ("queue.rm", {"name": "orders", "force": True}, None), ("queue.info", {"name": "orders"}, None),
    ]  # fmt: skip


def test_destruction_without_a_terminal_needs_yes(run: Run, pair: Pair) -> None:
    outcome = run("queue", "purge", "orders")

    assert outcome.code == 1 and "--yes" in outcome.err and pair.asked == []


@pytest.mark.parametrize(("closed", "arguments", "code", "said"), [
    ("stdin", ("queue", "purge", "orders"), 1, "--yes"),
    ("stdin", ("send", "orders"), 2, "stdin is closed"),
    ("stdout", ("recv", "orders"), 2, "stdout is closed"),
])  # fmt: skip
def test_a_closed_stream_is_an_answer_of_three_lines(
    closed: str, arguments: tuple[str, ...], code: int, said: str, pair: Pair, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, closed, None)

    assert cli_run(arguments) == code
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 3 and (pair.asked, pair.connected_with) == ([], [])


def test_without_stderr_a_command_works_in_silence(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    assert cli_run(["send", "orders", "hello"]) == 0 and len(pair.sent) == 1
    assert cli_run(["--context", "nothing", "queue", "ls"]) == 78


# --- send and recv ----------------------------------------------------------------------------------------------------------


def test_send_one_body(run: Run, pair: Pair) -> None:
    outcome = run("send", "orders", "hällo")

    assert pair.sent == [("orders", "hällo".encode(), {})]
    assert (outcome.code, outcome.out) == (0, "") and "1 message to orders" in outcome.err


def test_send_stdin_whole_or_by_lines(run: Run, pair: Pair) -> None:
    run("-q", "send", "q", stdin=b"a\r\n\x00b\n")
    run("-q", "send", "q", "--lines", stdin=b"a\r\n\n\xff last")

    assert [body for _, body, _ in pair.sent] == [b"a\r\n\x00b\n", b"a\r", b"", b"\xff last"]


def test_a_refused_message_fails_the_command(run: Run, pair: Pair) -> None:
    pair.refusal = QueueFull("queue q holds 100 messages", cause="its limit is 100", cure="consume")

    outcome = run("-q", "send", "q", "--lines", stdin=b"1\n2\n3\n")

    assert outcome.code == 1 and "queue q holds 100 messages" in outcome.err
    assert "all confirmed" not in outcome.err
    assert "1 confirmed of 3 sent" in outcome.err and "tail -n +2 FILE | zmqha send q --lines" in outcome.err


def test_recv_is_byte_exact_and_acknowledges(run: Run, pair: Pair) -> None:
    pair.waiting = [b"a\x00", b"", b"\xff\n"]

    outcome = run("recv", "q", "--count", "3", "--lines")

    assert outcome.raw == b"a\x00\n\n\xff\n\n" and pair.acked == [b"a\x00", b"", b"\xff\n"]


def test_recv_without_lines_adds_nothing(run: Run, pair: Pair) -> None:
    pair.waiting = [b"a", b"b", b"c"]

    assert run("recv", "q", "--count", "2").raw == b"ab"
    assert pair.acked == [b"a", b"b"] and pair.waiting == [b"c"]


def test_recv_ends_by_timeout(run: Run, pair: Pair) -> None:
    pair.waiting = [b"a"]
    enough = run("recv", "q", "--timeout", "0")
    too_few = run("recv", "q", "--timeout", "0", "--count", "1")

    assert (enough.code, enough.raw) == (0, b"a")
    assert too_few.code == 75 and "0 of 1 messages" in too_few.err


# --- operating the pair -----------------------------------------------------------------------------------------------------


def test_switchover_waits_until_the_other_serves(run: Run, pair: Pair) -> None:
    def hand_over(arguments: dict[str, str]) -> dict[str, object]:
        a, b = row("edge-a", 11, "Primary", "WAITING"), row("edge-b", 12, "Secondary", "STANDALONE", epoch=5)
        pair.status["10.0.7.12:7400"] = view("edge-b", a, b)
        return {"from": "edge-a", "to": "edge-b", "started": True, **arguments}

    pair.answers["switchover"] = hand_over

    outcome = run("switchover", "--reason", "back home")

    assert outcome.out.startswith("edge-b serves, ") and outcome.code == 0
    assert pair.asked[0] == ("switchover", {"reason": "back home"}, None)


def test_switchover_that_does_not_finish_fails(run: Run, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqha.cli.switchover.WAIT_S", 0.05)
    pair.answers["switchover"] = {"from": "edge-a", "to": "edge-b", "started": True}

    assert run("switchover").code == 1


def test_switchover_dry_run_asks_only(run: Run, pair: Pair) -> None:
    assert run("switchover", "--dry-run").out == "Would hand over from edge-a to edge-b.\n"
    assert {verb for verb, _, _ in pair.asked} == {"status"}


def test_promote_goes_to_the_waiting_server_only(run: Run, pair: Pair) -> None:
    lost = row("edge-a", 11, "Primary", "unreachable")
    pair.status = {"10.0.7.12:7400": view("edge-b", lost, row("edge-b", 12, "Secondary", "WAITING"))}
    pair.answers["promote"] = {"promoted": "edge-b"}

    assert run("promote").code == 2
    assert run("promote", "--accept-loss-of-peer").code == 1
    assert run("promote", "--accept-loss-of-peer", "--yes").code == 0
    verb, arguments, server = pair.asked[-1]
    assert (verb, arguments["accept_loss_of_peer"], server) == ("promote", True, 1)
    assert "@" in arguments["by"], "who did it is kept"


def test_resync_needs_to_know_whom(run: Run, pair: Pair) -> None:
    pair.answers["resync"] = {"resync": "edge-b"}

    assert "no server is WAITING" in run("resync", "--discard-own", "--yes").err
    assert run("resync", "--discard-own", "--yes", "--server", "edge-c").code == 1
    done = run("resync", "--discard-own", "--yes", "--server", "edge-b")
    assert (done.code, done.out) == (0, "edge-b sets its store aside and copies afresh; see: zmqha status\n")
    verb, arguments, server = pair.asked[-1]
    assert (verb, arguments["discard_own"], server) == ("resync", True, 1)
    assert "@" in arguments["by"]


def test_version_and_doctor(run: Run, pair: Pair) -> None:
    pair.answers["version"] = {"version": "0.1.0", "protocol": 1, "wall_ms": 0}

    versions, health = run("version", "--servers"), run("doctor")

    assert versions.code == 0 and versions.out.count("0.1.0") >= 2
    assert health.code == 0 and "answers after" in health.out and "behind this machine" in health.out


# --- files ------------------------------------------------------------------------------------------------------------------


def test_init_then_config_check_then_doctor(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "pair"
    made = run("init", "a", "b", "--single-machine", "--port-base", "27400", "--dir", str(place))
    again = run("init", "a", "b", "--single-machine", "--dir", str(place))
    checked = run("config", "check", str(place / "server.toml"))
    health = run("doctor", "--config", str(place / "server.toml"), "--name", "a")
    (place / "server.toml").write_text("nonsense")
    refused = run("config", "check", str(place / "server.toml"))

    assert made.code == 0 and f"--config {place}/server.toml --name a" in made.out
    assert again.code == 1 and "exists already" in again.err
    assert checked.out == f"{place}/server.toml is good for a and b.\n"
    assert "disk flush" in health.out and "27400 is free" in health.out
    assert refused.code == 78 and len(refused.err.splitlines()) == 3


def test_init_for_two_machines(run: Run, tmp_path: Path) -> None:
    arguments = ["a=10.0.7.11/10.78.0.1", "b=10.0.7.12/10.78.0.2", "--gateway", "10.0.7.1", "--dir", str(tmp_path / "p")]
    made = run("init", *arguments)

    assert made.code == 0 and "copy" in made.out and "Gateway: 10.0.7.1." in made.out
    assert run("config", "check", str(tmp_path / "p" / "server.toml")).code == 0
    assert run("init", "10.0.7.11", "10.0.7.12", "--dir", str(tmp_path / "q")).code == 78
    assert run("init", "a", "a", "--dir", str(tmp_path / "q")).code == 78
    assert not (tmp_path / "q").exists()


def test_init_takes_ipv6_with_and_without_brackets(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "p"
    run("init", "a=[2001:db8::11]/[fd00::1]", "b=2001:db8::12/fd00::2", "--gateway", "2001:db8::1", "--dir", str(place))

    text = (place / "server.toml").read_text()
    assert 'client = "[2001:db8::11]:7400"' in text and 'peer = "[fd00::1]:7410"' in text and '"[2001:db8::12]:7400"' in text
    assert "zmqha://[2001:db8::11]:7400,[2001:db8::12]:7400?" in (place / "client" / "context.toml").read_text()


@pytest.mark.parametrize(("arguments", "said"), [
    (("a=10.0.7.11:7400", "b=10.0.7.12"), "10.0.7.11:7400"),
    (("a=10.0.7.11/10.9.9.1:7410", "b=10.0.7.12"), "10.9.9.1:7410"),
    (("a=[2001:db8::11]:7400", "b=10.0.7.12"), "[2001:db8::11]:7400"),
    (("a=10.0.7.11", "b=10 0 7 12"), "10 0 7 12"),
    (("a=10.0.7.11", "b=10.0.7.11"), "both servers have the address 10.0.7.11"),
    (("a=10.0.7.11", "b=10.0.7.12", "--cluster", "my pair"), "'my pair' is no name"),
    (("a=10.0.7.11", "b=10.0.7.12", "--gateway", "router"), "'router' is no IP address"),
    (("a=10.0.7.11", "b=10.0.7.12", "--gateway", "10.0.7.12"), "is the peer"),
    (("a=10.0.7.11", "b=10.0.7.12", "--gateway", "10.0.7.1", "--gateway", "10.0.7.2:80"), "10.0.7.1"),
    (("a=10.0.7.11", "b=10.0.7.12", "--data-dir", "two\nlines"), "is not TOML"),
])  # fmt: skip
def test_init_writes_nothing_that_a_server_would_refuse(run: Run, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    gateway = () if "--gateway" in arguments else ("--gateway", "10.0.7.1")
    outcome = run("init", *arguments, *gateway, "--dir", str(tmp_path / "q"))

    assert outcome.code == 78 and said in outcome.err and len(outcome.err.splitlines()) == 3
    assert f"{tmp_path}/." not in outcome.err, "nobody knows the draft"
    assert list(tmp_path.iterdir()) == []


def test_the_default_gateway_is_read_from_the_routes(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    routes.write_text("Iface\tDestination\tGateway\tFlags\neth0\t0007000A\t00000000\t0001\neth0\t00000000\t0107000A\t0003\n")

    assert default_gateway(routes) == ("10.0.7.1",)
    assert default_gateway(tmp_path / "none") == ()


def test_contexts_lead_to_urls(run: Run, pair: Pair, tmp_path: Path) -> None:
    place = tmp_path / "pair"
    run("init", "a", "b", "--single-machine", "--dir", str(place))
    pair.answers["queue.ls"] = {"queues": []}
    added = run("context", "add", "demo", str(place / "client" / "context.toml"), "--select")
    run("context", "add", "other", "zmqha://other:7400")
    contexts.add("older", "zmqha://me:secret@older:7400")  # an earlier version took it
    refused = run("context", "add", "wrong", "zmqha://me:secret@other:7400")
    listed = run("context", "ls")
    run("queue", "ls", url=None)
    run("--context", "other", "queue", "ls", url=None)
    run("queue", "ls", "--context", "nothing", url=None)
    run("context", "rm", "demo")
    run("queue", "ls", url=None)

    assert added.code == 0 and "demo leads to" in added.out
    assert "secret" not in listed.out and "zmqha://me:***@older:7400" in listed.out and "| other" in listed.out
    assert refused.code == 2 and "users and namespaces" in refused.err and "wrong" not in listed.out
    first, second, third = pair.connected_with
    assert f"curve_key_file={place}/client/client.key_secret" in first
    assert second == "zmqha://other:7400" and third == "zmqha://127.0.0.1:7400"


def test_a_context_file_works_without_being_saved(run: Run, pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "context.toml"
    file.write_text(f'url = "{URL}"\n')
    pair.answers["queue.ls"] = {"queues": []}

    assert run("--context", str(file), "queue", "ls", url=None).code == 0
    assert pair.connected_with == [URL]
    assert run("--context", "nothing", "queue", "ls", url=None).code == 78
    assert run("--context", "~nosuch/context.toml", "queue", "ls", url=None).code == 78


def test_a_name_that_looks_like_a_file_is_refused_since_it_could_not_be_selected(run: Run, pair: Pair) -> None:
    outcome = run("context", "add", "plant.toml", URL)

    assert outcome.code == 78 and "fix:  leave .toml out" in outcome.err
    assert not (contexts.directory() / "contexts").exists()


def test_files_are_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    script = """if True:
        from pathlib import Path
        from zmqha.cli import contexts, provision
        machines = provision.single_machine_pair(("a", "b"), 7400)
        provision.write(provision.Plan(Path("pair"), *machines, cluster="pair", single_machine=True, data_dir="Daten für"))
        contexts.add("pair", contexts.read("pair/client/context.toml").url)
        contexts.select("pair")
        assert contexts.selected() == "pair"
        """
    strict = [f"-Werror::EncodingWarning:zmqha.cli.{module}" for module in ("contexts", "provision")]
    command = [sys.executable, "-X", "warn_default_encoding", *strict, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)


def test_a_broken_context_is_shown_and_can_be_removed(run: Run, pair: Pair) -> None:
    run("context", "add", "good", URL)
    broken = contexts.directory() / "contexts" / "broken.toml"
    broken.write_text("url = \n")

    listed = run("context", "ls")
    missing = run("--context", "nothing", "queue", "ls", url=None)
    removed = run("context", "rm", "broken")

    assert listed.code == 0 and "| good" in listed.out and "| broken" in listed.out and "broken is broken" in listed.err
    assert missing.code == 78 and "saved contexts: broken, good" in missing.err
    assert removed.code == 0 and not broken.exists()
    assert run("context", "rm", "broken").code == 78


def test_what_the_operating_system_refuses_is_three_lines_and_exit_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a directory should be")
    (tmp_path / "file").write_text("")

    for arguments in (
        ("context", "add", "x", URL),
        ("init", "a", "b", "--single-machine", "--dir", str(tmp_path / "file" / "x")),
    ):
        outcome = run(*arguments)
        assert outcome.code == 1 and f"error: {tmp_path}" in outcome.err
        assert [line[:5] for line in outcome.err.splitlines()] == ["error", "why: ", "fix: "]


@pytest.mark.parametrize("name", ["server", "init", "completion", "demo"])
def test_commands_that_ask_no_server_offer_no_url(run: Run, name: str) -> None:
    shown = run(name, "--help").out

    assert not any(f"{option} " in shown for option in ("--url", "--context", "--yes"))


def test_completion_scripts(run: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_ZMQHA_COMPLETE" in run("completion", shell).out


REPORT = {
    "number": 1, "wall_ms": 1_700_000_000_000, "winner": "edge-a", "winner_epoch": 5, "loser": "edge-b", "branch": 4, "common_txn": 90,
    "queues": [{"name": "orders", "merged": 7, "known": 2, "acknowledged": 1}],
    "ranges": [{"queue": "orders", "producer": 9, "first": 3, "last": 9}], "ranges_left_out": 0,
    "audit": ["queue old was removed there; it stays here"], "audit_left_out": 0, "finished": True,
}  # fmt: skip


def test_merge_lists_reports_where_no_server_waits(run: Run, pair: Pair) -> None:
    pair.answers["merges"] = {"server": "edge-a", "reports": [REPORT]}
    shown = run("merge")
    assert shown.code == 0
    assert "orders" in shown.out and "2023-11-14T22:13:20" in shown.out
    assert "queue old was removed there" in shown.err
    assert json.loads(run("merge", "-f", "json").out)["reports"] == [REPORT]


def test_merge_starts_on_the_server_that_waits_for_an_operator(run: Run, pair: Pair) -> None:
    for host in pair.status.values():
        host["servers"][1].update(state="WAITING", standing="behind")
    pair.status["10.0.7.12:7400"]["needs_operator"] = True
    pair.answers["merge"] = {"merge": "edge-b", "into": "edge-a", "started": True}
    assert run("merge").code == 0
    verb, arguments, server = pair.asked[-1]
    assert (verb, list(arguments), server) == ("merge", ["by"], 1)


def test_merge_dry_run_shows_what_would_be_handed_over(run: Run, pair: Pair) -> None:
    for host in pair.status.values():
        host["servers"][1].update(state="WAITING", standing="behind")
    pair.answers["merge"] = {
        "server": "edge-b", "into": "edge-a", "branch": 4, "common_txn": 90,
        "queues": [{"name": "orders", "messages": 9, "acknowledged": 1}],
        "differences": [{"kind": "created", "name": "new", "max_messages": 0, "max_bytes": 0}],
    }  # fmt: skip
    shown = run("merge", "--dry-run")
    assert shown.code == 0 and "orders" in shown.out and "queue new: created" in shown.err
    assert pair.asked[-1] == ("merge", {"dry_run": True}, 1)


def test_merge_dry_run_says_in_three_lines_that_there_is_nothing(run: Run, pair: Pair) -> None:
    for host in pair.status.values():
        host["servers"][1].update(state="WAITING")
    pair.answers["merge"] = OperationFailed("there is nothing to merge", cause="none", cure="look at `zmqha status`")
    failed = run("merge", "--dry-run")
    assert (failed.code, len(failed.err.splitlines())) == (1, 3)
