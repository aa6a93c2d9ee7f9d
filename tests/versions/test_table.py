"""Whatever writes a file that outlives the process is in the table of docs/versions.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "versions.md"
PACKAGES = ("agent", "dlms", "headend", "omadm", "plc", "updateagent")
WRITERS = {
    "write_durable",
    "write_text",
    "write_bytes",
    "fdopen",
    "create_engine",
    "TwoGenerations",
    "JsonFile",
}
WITH = "updateagent/disk.py"  # what the others write with


def writers(source: str) -> set[str]:
    """The calls in a module that write what another version may read."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id="sqlite3"), attr="connect"):
                found.add("connect")
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in WRITERS:
                found.add(name)
    return found


def modules() -> Iterator[tuple[str, set[str]]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            if not name.startswith("updateagent/buildhost/") and name != WITH:
                yield name, writers(file.read_text(encoding="utf-8"))


def test_every_durable_writer_is_in_the_table() -> None:
    text = TABLE.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{'|'.join(PACKAGES)})/[a-z_/]+\.py)`", text))
    found = {name for name, calls in modules() if calls}
    assert found - named == set(), "writes a file that outlives it, and is not in docs/versions.md"
    assert len(found) > 15


def test_a_writer_is_seen_by_whatever_call_it_writes() -> None:
    for call in ("self._disk.write_durable(a, b)", "sqlite3.connect(a)", "JsonFile(a)", "path.write_text(b)"):
        assert writers(f"def f() -> None:\n    {call}\n")
    assert not writers("socket.connect(a)\n")
