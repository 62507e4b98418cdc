"""The house rules, read from the sources: imports point down, nothing goes in circles, every file says what it is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "zmqha"

# Which rooms a room may look into (itself always). errors and the package root are "errors" and "top".
MAY_IMPORT = {
    "errors": set(),
    "core": {"errors"},
    "store": {"core", "errors"},
    "transport": {"core", "errors"},
    "server": {"core", "store", "transport", "errors", "top"},
    "client": {"core", "errors", "top"},  # top: the version, asked for when it is needed
    "top": {"client", "errors"},
    "cli": {"core", "store", "transport", "server", "client", "errors", "top"},
    "testing": {"core", "store", "transport", "server", "client", "cli", "errors", "top"},
}
# Core asks nothing of the world: time, chance, files and sockets are arguments.
NOT_IN_CORE = {
    "time", "socket", "threading", "os", "zmq", "lmdb", "logging", "random", "asyncio", "selectors", "select", "subprocess",
    "multiprocessing", "queue", "signal", "secrets", "tempfile", "pathlib", "io", "datetime", "sched", "concurrent",
}  # fmt: skip
ONLY_A_TYPE = {"random.Random"}  # an instance is an argument, made by whoever drives the core
NO_NOUNS = re.compile(r"(^|_)(util|utils|helper|helpers|manager|managers|common|misc)(_|$)")


def modules(package: Path) -> dict[str, Path]:
    """Module names with their files."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.Module, known: set[str]) -> Iterator[tuple[str, bool]]:
    """What a file imports, and whether that happens when the file is loaded."""

    def walk(node: ast.AST, at_load: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_load) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports are absolute"
                base = child.module or ""
                for alias in child.names:
                    name = f"{base}.{alias.name}"
                    yield (name if name in known or name in ONLY_A_TYPE else base), at_load
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or for_types_only(child):
                yield from walk(child, False)
            else:
                yield from walk(child, at_load)

    yield from walk(tree, True)


def for_types_only(node: ast.AST) -> bool:
    """``if TYPE_CHECKING:``, which never runs."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def room(module: str) -> str:
    """The room a module is in."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return "top"
    return parts[1]


def problems(package: Path) -> list[str]:
    """Every broken rule, one line each."""
    found = []
    files = modules(package)
    known = set(files)
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        place = path.relative_to(package.parent)
        if not ast.get_docstring(tree):
            found.append(f"{place}: no docstring says what it is")
        if NO_NOUNS.search(path.stem):
            found.append(f"{place}: {path.stem} is no noun of the protocol")
        here = room(module)
        allowed = MAY_IMPORT.get(here)
        if allowed is None:
            found.append(f"{place}: a room that the architecture does not know")
            continue
        graph[module] = set()
        for name, at_load in imports(tree, known):
            outer = name.split(".")[0]
            if outer == package.name:
                if room(name) != here and room(name) not in allowed:
                    found.append(f"{place}: imports {name}, which is not below it")
                if at_load and name != module:
                    graph[module].add(name)
            elif here == "core" and outer in NOT_IN_CORE and name not in ONLY_A_TYPE:
                found.append(f"{place}: core imports {name}")
    return found + [" -> ".join(circle) + ": a circle" for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Each circle of imports once, by depth-first search."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
            return
        if module in done:
            return
        for name in sorted(graph.get(module, ())):
            visit(name, [*path, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_imports_point_down_without_circles_and_every_file_says_what_it_is() -> None:
    broken = problems(PACKAGE)

    assert not broken, "\n" + "\n".join(broken)


SOUND = {
    "__init__.py": '"""Top."""\nfrom zmqha.client.link import Link\n',
    "errors.py": '"""Errors."""\n',
    "core/__init__.py": '"""Core."""\n',
    "core/ha.py": '"""HA."""\nimport msgspec\nfrom zmqha.errors import X\n',
    "core/vote.py": '"""Vote."""\nfrom zmqha.core import ha\n',
    "store/__init__.py": '"""Store."""\n',
    "store/journal.py": '"""Journal."""\nimport os\nfrom zmqha.core.ha import X\n',
    "client/__init__.py": '"""Client."""\n',
    "client/link.py": '"""Link."""\nimport zmq\nfrom zmqha.core import vote\n',
}


def planted(place: Path, changes: dict[str, str]) -> list[str]:
    """The problems of a small package with these files changed."""
    for name, text in {**SOUND, **changes}.items():
        path = place / "zmqha" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return problems(place / "zmqha")


def test_a_sound_package_has_no_problems(tmp_path: Path) -> None:
    assert planted(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("core/ha.py", '"""HA."""\nimport time\n', "core imports time"),
        ("core/ha.py", '"""HA."""\ndef now():\n    from random import random\n', "core imports random"),
        ("core/ha.py", '"""HA."""\nfrom zmqha.store import journal\n', "imports zmqha.store.journal, which is not below it"),
        (
            "core/ha.py",
            '"""HA."""\nfrom zmqha.core import vote\n',
            "zmqha.core.vote -> zmqha.core.ha -> zmqha.core.vote: a circle",
        ),
        ("core/ha.py", "import msgspec\n", "no docstring"),
        ("core/queue_utils.py", '"""Utils."""\n', "queue_utils is no noun"),
        ("core/helper.py", '"""Helper."""\n', "helper is no noun"),
        (
            "store/journal.py",
            '"""J."""\nfrom zmqha.client.link import Link\n',
            "imports zmqha.client.link, which is not below it",
        ),
        ("client/link.py", '"""L."""\nimport zmqha.store.journal\n', "imports zmqha.store.journal, which is not below it"),
        ("cellar/__init__.py", '"""Cellar."""\n', "a room that the architecture does not know"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    found = planted(tmp_path, {name: text})

    assert any(complaint in line for line in found), found
