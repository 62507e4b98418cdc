"""The documents against the code: tables that repeat what the sources say must say the same."""

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.core import truth_table
from zmqha import errors
from zmqha.cli import failure
from zmqha.client.url import Options, parse
from zmqha.core import client_protocol as wire
from zmqha.core import limits, message, queue_admin
from zmqha.core.cursor import DELAYED_MAX
from zmqha.core.peer_protocol import State
from zmqha.core.timers import FLAP_MS_MAX, Timers
from zmqha.server import settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "zmqha"
OWN = ("protocol.md", "errors.md", "operations.md", "development.md")

PROTOCOL, ERRORS, OPERATIONS, DEVELOPMENT = ((DOCS / name).read_text(encoding="utf-8") for name in OWN)


def section(text: str, heading: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, without headings and rules."""
    lines = text.splitlines()
    found = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def bare(cell: str) -> str:
    return cell.strip("`")


def number(cell: str) -> int:
    """``8,454,144 bytes`` -> 8454144."""
    found = re.search(r"\d[\d,]*", cell)
    assert found, cell
    return int(found[0].replace(",", ""))


# --- errors.md --------------------------------------------------------------------------------------------------------------


def error_classes() -> dict[str, type[errors.ZmqhaError]]:
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ZmqhaError))
    return {kind.code: kind for kind in kinds}


def test_every_error_code_is_listed_with_its_class_and_exit_code() -> None:
    listed = [(code, name, also, int(code_of_exit)) for code, name, also, *_, code_of_exit in rows(ERRORS)]
    expected = []
    for code, kind in sorted(error_classes().items()):
        builtin = [base.__name__ for base in kind.__bases__ if not issubclass(base, errors.ZmqhaError) and base is not Exception]
        expected.append((code, kind.__name__, ", ".join(builtin), failure.exit_code(kind("what"))))

    assert sorted(listed) == expected


def test_codes_named_anywhere_exist() -> None:
    for name in OWN:
        text = (DOCS / name).read_text(encoding="utf-8")
        assert set(re.findall(r"ZHA-\d{3}", text)) <= set(error_classes()), name


# --- operations.md ----------------------------------------------------------------------------------------------------------

OPTIONS = dataclasses.fields(Options)
SECTIONS = {**settings.SECTIONS, "server.NAME": settings.ServerBlock}


def as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(value)


def defaults(kind: type) -> dict[str, str]:
    """Settings of a section with their defaults as TOML."""
    if kind is Timers:
        return {key: as_toml(getattr(Timers(), key)) for key in settings.fields(Timers)}
    found = {}
    for field in msgspec.structs.fields(kind):
        found[field.name] = "required" if field.default is msgspec.NODEFAULT else as_toml(field.default)
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_every_setting_is_listed_with_its_default_and_no_other(name: str) -> None:
    listed = {bare(key): bare(default) for key, default, _ in rows(section(OPERATIONS, f"`[{name}]`"))}

    assert listed == defaults(SECTIONS[name])


def test_every_option_of_a_client_is_listed_with_its_default() -> None:
    listed = {bare(name): bare(default) for name, default, _ in rows(section(OPERATIONS, "Clients"))}

    assert set(listed) == {option.name for option in OPTIONS}
    for name, default in listed.items():
        given = parse(f"zmqha://a?{name}={default}").options if default != '""' else Options()
        assert given == Options(), name


def test_no_section_is_missing_or_invented() -> None:
    assert set(re.findall(r"^### `\[(.+?)\]`$", OPERATIONS, re.MULTILINE)) == set(SECTIONS)


def test_every_setting_named_with_its_unit_exists() -> None:
    known = {key for kind in SECTIONS.values() for key in settings.fields(kind)} | {"gap_ms"} | {key.name for key in OPTIONS}
    named = set(re.findall(r"`(?:[a-z]+\.)?([a-z]+(?:_[a-z]+)*_(?:ms|bytes|max|messages))`", OPERATIONS))

    assert named <= known, named - known


def test_the_relations_of_the_timers_are_those_that_are_checked() -> None:
    listed = [cells[0].replace("`", "").replace("×", "*") for cells in rows(section(OPERATIONS, "Timers"))]
    checked = []
    for node in ast.walk(ast.parse((PACKAGE / "core" / "timers.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Tuple) and len(node.elts) == 3 and isinstance(node.elts[0], ast.Compare):
            checked.append(ast.unparse(node.elts[0]).replace("self.", "").replace("SLACK_MS", "300"))

    assert listed == checked
    assert FLAP_MS_MAX == 60_000, "operations.md says: up to a minute"


def test_every_state_is_explained() -> None:
    listed = {cells[0] for cells in rows(section(OPERATIONS, "States"))}

    assert listed == {state.value for state in State} - {"FAILED"}, "a failed server has ended, nobody sees that state"


LEVELS = ("debug", "info", "warning", "error", "critical", "exception")


def events() -> Iterator[str]:
    """Names of log events in the sources: the first word of a note or of a log call."""
    for room in ("core", "server", "store", "transport"):
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Note" and isinstance(node.args[0], ast.Constant):
                    yield str(node.args[0].value)
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                    continue
                first, owner = node.args[0], ast.unparse(node.func.value)
                is_log = owner in ("log", "_log") and node.func.attr in LEVELS
                if node.func.attr != "note" and not is_log:
                    continue
                if isinstance(first, ast.JoinedStr):
                    assert ast.unparse(first).startswith("f'ha.{state.value.lower()"), ast.unparse(first)
                    yield from (f"ha.{state.value.lower()}" for state in State if state is not State.FAILED)
                elif isinstance(first, ast.Constant) and re.match(r"[a-z]+\.[a-z_]+", str(first.value)):
                    yield str(first.value).split()[0]


def test_every_log_event_is_listed() -> None:
    listed = {bare(cells[0]) for cells in rows(section(OPERATIONS, "Log"))}

    assert listed == set(events())


def test_every_file_of_the_data_directory_is_listed() -> None:
    table = rows(section(OPERATIONS, "Files in the data directory"))
    listed = {file for cells in table for file in re.findall(r"`([^`]+)`", cells[0])}
    named = set()
    for path in [*(PACKAGE / "store").rglob("*.py"), PACKAGE / "server" / "main.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
                continue
            if re.fullmatch(r"LOCK|[A-Z_]+_FILES?", node.targets[0].id):
                value = ast.literal_eval(node.value)
                named |= set(value) if isinstance(value, tuple) else {value}

    assert listed == named | {"*.damaged-N"}


def test_every_exit_code_is_listed() -> None:
    listed = {int(cells[0]) for cells in rows(section(OPERATIONS, "Exit codes"))}

    assert listed == {
        failure.OK, failure.FAILED, failure.USAGE, failure.UNAVAILABLE, failure.TRY_LATER, failure.DENIED, failure.BAD_CONFIG,
        failure.INTERRUPTED,
    }  # fmt: skip


# --- protocol.md ------------------------------------------------------------------------------------------------------------


def test_every_command_has_its_number_and_a_paragraph() -> None:
    listed = {name: int(code) for code, name, *_ in rows(section(PROTOCOL, "Command numbers"))}
    assert listed == {code.name: int(code) for code in wire.Code}

    text = section(PROTOCOL, "Commands")
    for code in wire.Code:
        if code not in (wire.Code.REJECT, wire.Code.BROWSE, wire.Code.LOOKUP):
            assert f"**{code.name}** (" in text, code.name


def layout(text: str, total: int) -> None:
    """Offsets and sizes of a fixed part: without holes, up to ``total``."""
    at = 0
    for offset, size, *_ in rows(text):
        if not (offset.isdigit() and size.isdigit()):
            break
        assert int(offset) == at, (offset, at)
        at += int(size)
    assert at == total


def test_layouts_are_those_of_the_structs() -> None:
    layout(section(PROTOCOL, "Header"), wire.HEADER.size)
    batch, record = section(PROTOCOL, "Batches").split("Each record:")
    layout(batch, message.HEADER.size)
    layout(record, message.RECORD.size)
    bodies = {name: number(body) for _, name, _, body in rows(section(PROTOCOL, "Command numbers")) if re.match(r"\d", body)}
    assert bodies == {
        "CONFIRM": wire._CONFIRM.size,
        "DELIVER": wire._DELIVER.size,
        "ACK": wire._SUBSCRIPTION.size,
        "ACKED": wire._SUBSCRIPTION.size,
        "NACK": wire._NACK.size,
    }


def test_every_field_of_a_map_is_named_in_its_paragraph() -> None:
    text = section(PROTOCOL, "Commands")
    for code, kind in wire._STRUCTS.items():
        paragraph = re.search(rf"^\*\*{code.name}\*\* \(.*?(?=^\*\*|\Z)", text, re.MULTILINE | re.DOTALL)
        assert paragraph, code.name
        for field in msgspec.structs.fields(kind):
            assert f"`{field.name}`" in paragraph[0], f"{code.name}: {field.name}"


def test_limits_are_those_of_the_code() -> None:
    listed = {what: limit for what, limit in rows(section(PROTOCOL, "Limits"))}  # noqa: C416  # each row has two cells
    assert number(listed["frame"]) == limits.CLIENT_FRAME_BYTES_MAX
    assert listed["batch"] == f"{limits.BATCH_BYTES_MAX:,} bytes, {limits.BATCH_MESSAGES_MAX} messages"
    assert number(listed["batch as sent by clients"].partition("at")[2]) == limits.BATCH_BYTES_TARGET
    assert number(listed["message (properties and body)"]) == limits.MESSAGE_BYTES_MAX
    assert number(listed["name"]) == limits.NAME_BYTES_MAX
    assert number(listed["map of a command from a client"]) == limits.ADMIN_BYTES_MAX
    assert number(listed["ranges in ACK, NACK, SUBSCRIBE"]) == limits.RANGES_PER_FRAME
    assert number(listed["delayed ranges of a queue"]) == DELAYED_MAX
    assert number(listed["sessions of a server"]) == limits.SESSIONS_MAX
    assert number(listed["subscriptions of a session"]) == limits.SUBSCRIPTIONS_PER_SESSION
    assert listed["credit of a subscription"] == f"{limits.CREDIT_MESSAGES_MAX:,} messages, {limits.CREDIT_BYTES_MAX:,} bytes"
    assert number(listed["queues"]) == limits.DESTINATIONS_MAX
    assert number(listed["streams kept for de-duplication"]) == limits.PRODUCER_ROWS_MAX
    assert number(listed["silence of a session"]) == limits.SESSION_SILENCE_MS
    assert number(listed["handshake"]) == limits.HANDSHAKE_MS


def test_every_verb_is_listed_with_its_arguments() -> None:
    table = [cells for cells in rows(section(PROTOCOL, "ADMIN verbs")) if len(cells) == 3]
    listed = {bare(verb): set(re.findall(r"`(\w+)`", arguments)) for verb, arguments, _ in table}
    source = (PACKAGE / "core" / "operator.py").read_text(encoding="utf-8")
    of_servers = set(re.findall(r'^            case "([a-z]+)":', source, re.MULTILINE))
    of_queues = {verb: set(arguments) for verb, arguments in queue_admin._ARGUMENTS.items()}

    assert {verb: arguments for verb, arguments in listed.items() if verb.startswith("queue.")} == of_queues
    assert {verb for verb in listed if not verb.startswith("queue.")} == of_servers


def test_the_files_of_vectors_are_listed() -> None:
    listed = {bare(cells[0]) for cells in rows(section(PROTOCOL, "Vectors")) if cells[0].startswith("`tests/")}

    assert listed == {f"tests/vectors/{path.name}" for path in (ROOT / "tests" / "vectors").glob("*.json")}


# --- guarantees.md ----------------------------------------------------------------------------------------------------------


def test_every_rule_that_the_sources_cite_is_listed() -> None:
    listed = {rule for rule, _ in rows(section((DOCS / "guarantees.md").read_text(encoding="utf-8"), "Rules"))}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (*PACKAGE.rglob("*.py"), DOCS / "operations.md"))

    assert set(re.findall(r"\b[OF][1-9]\b", sources)) <= listed


@pytest.mark.parametrize("name", truth_table.TABLES)
def test_the_tables_made_from_the_code_are_as_the_code_is_now(name: str) -> None:
    text = truth_table.PAGE.read_text(encoding="utf-8")

    (written,) = truth_table.markers(name).findall(text)

    assert written == truth_table.TABLES[name](), "write them anew: python -m tests.core.truth_table"


# --- development.md, and all of them ----------------------------------------------------------------------------------------


def test_the_rooms_are_those_of_the_house() -> None:
    from tests.test_floors import MAY_IMPORT

    listed = {}
    for place, *_, may in rows(section(DEVELOPMENT, "The house")):
        if place.startswith("`zmqha/"):
            listed["top" if "__init__" in place else Path(bare(place.partition(" ")[0])).stem] = may
    for room, allowed in MAY_IMPORT.items():
        if not (PACKAGE / room).exists() and room not in ("errors", "top"):
            continue
        assert room in listed, room
        if listed[room] == "all of these":
            continue
        assert set(listed[room].replace("nothing", "").replace(",", " ").split()) == allowed, room


PAGES = ["README.md", "CHANGELOG.md", "bench/README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")))]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


PROGRAMS = {  # how a command line begins, and where its options are declared
    r"(?<!--only )zmqha(?:-server)?": PACKAGE / "cli",
    r"(?:[a-z_]+\.py|compare/run)": ROOT / "bench",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_of_a_command_shown_exists(program: str) -> None:
    """Commands in the documents can be typed: every ``--option`` is one of the program's."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PROGRAMS[program].rglob("*.py"))
    for name in PAGES:
        for line in re.findall(program + r" [^|\n`#]*", (ROOT / name).read_text(encoding="utf-8")):
            for option in re.findall(r"(?<=\s)--[a-z-]+", line):
                assert f'"{option}"' in sources, f"{name}: {line}"
