"""Which libraries a package may use: the device's list is closed. And that every package is typed."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.granted import FROM_OURS, main, not_granted
from tests.architecture.trees import REPO, modules, modules_of, nodes

LIBRARIES: dict[str, set[str]] = {
    "plc": {"crcmod"},
    "dlms": {"serial", "crcmod", "cryptography", "click"},
    "omadm": {"cryptography"},
    "updateagent": {"cryptography"},
    "agent": {"serial", "crcmod", "cryptography", "yaml", "click", "systemd"},
    "headend": {"starlette", "uvicorn", "sqlalchemy", "httpx", "cryptography", "click", "yaml", "jinja2"},
}
MORE = {"updateagent/buildhost": {"click"}, "agent/metering/uplink": {"paho"}, "headend/sealing": {"pkcs11"}}
"""What a folder may use beside its package's libraries."""

MODULES_MAX = 14
"""In one room, `__init__`, `__main__` and `conftest` not counted: what a reader can keep in view."""


def libraries(path: Path) -> Iterator[str]:
    """Top-level names of all that a file imports, also inside functions."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]


def strangers(root: Path, package: str) -> list[str]:
    """Imports below `root` that are neither ours, nor of the standard library, nor granted."""
    found = []
    for path in modules_of(root, package):
        file = str(path.relative_to(root))
        granted = LIBRARIES[package].union(*(names for folder, names in MORE.items() if file.startswith(f"{folder}/")))
        known = granted | set(LIBRARIES) | sys.stdlib_module_names
        found += [f"{file} imports {name}" for name in libraries(path) if name not in known]
    return found


@pytest.mark.parametrize("package", sorted(FROM_OURS))
def test_a_package_names_only_the_rooms_that_it_may(package: str) -> None:
    assert not_granted(REPO, package) == []


@pytest.mark.parametrize(
    ("file", "planted"),
    [
        ("plc/prime/usi.py", "import dlms.explain.node"),
        ("plc/prime/usi.py", "from dlms import statemachine"),
        ("headend/web.py", "def late():\n    import updateagent.disk"),
        ("headend/web.py", "from dlms.axdr import Data"),
        ("headend/web.py", "from agent import clock"),
        ("omadm/auth.py", "import dlms"),
    ],
)
def test_a_room_that_is_not_granted_is_noticed(tmp_path: Path, file: str, planted: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(planted)
    assert len(not_granted(tmp_path, file.split("/", maxsplit=1)[0])) == 1
    assert main(tmp_path) == 1


@pytest.mark.parametrize("package", sorted(LIBRARIES))
def test_only_the_agreed_libraries_are_used(package: str) -> None:
    assert strangers(REPO, package) == []


def test_a_library_inside_a_function_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "omadm" / "syncml" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text("def late():\n    from requests import get\n")
    assert strangers(tmp_path, "omadm") == ["omadm/syncml/x.py imports requests"]


def test_no_relative_imports_which_the_checks_would_not_see() -> None:
    for path in modules(REPO):
        assert not [node.lineno for node in nodes(path) if isinstance(node, ast.ImportFrom) and node.level], path


def crowded(root: Path) -> dict[str, int]:
    """Rooms below `root` with more than `MODULES_MAX`, those of the tests included, and how many they have."""
    rooms: Counter[str] = Counter(
        str(path.parent.relative_to(root))
        for top in (*LIBRARIES, "tests")
        for path in (root / top).rglob("*.py")
        if not path.name.startswith("__") and path.name != "conftest.py"
    )
    return {room: count for room, count in rooms.items() if count > MODULES_MAX}


def test_a_room_has_few_modules() -> None:
    assert crowded(REPO) == {}


@pytest.mark.parametrize("room", ["omadm/ssmp", "tests/omadm"])
def test_a_crowded_room_is_seen(tmp_path: Path, room: str) -> None:
    (tmp_path / room).mkdir(parents=True)
    for number in range(MODULES_MAX):
        (tmp_path / room / f"m{number}.py").touch()
    (tmp_path / room / "__init__.py").touch()
    assert crowded(tmp_path) == {}
    (tmp_path / room / "one_more.py").touch()
    assert crowded(tmp_path) == {room: MODULES_MAX + 1}


def test_every_package_is_typed_and_distributed() -> None:
    for package in LIBRARIES:
        assert (REPO / package / "py.typed").exists()
    tool = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tool["mypy"]["strict"] is True
    assert set(LIBRARIES) <= set(tool["mypy"]["files"])


@pytest.mark.parametrize("file", ["Makefile", ".pre-commit-config.yaml"])
def test_lint_and_commits_run_the_check_of_granted_rooms(file: str) -> None:
    assert "/python -m tests.architecture.granted\n" in (REPO / file).read_text(encoding="utf-8")
