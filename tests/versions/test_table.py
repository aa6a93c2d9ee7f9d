"""Whatever writes a file that outlives the process is in the table of docs/versions.md."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture import trees

sys.path.insert(0, str(Path(__file__).parent))  # the scripts are of no package: releases run them
PARTS = ("device_parts", "package_parts", "headend_parts")
TABLE = trees.REPO / "docs" / "versions.md"
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
    for node in trees.walk(trees.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id="sqlite3"), attr="connect"):
                found.add("connect")
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in WRITERS:
                found.add(name)
    return found


def modules() -> Iterator[tuple[str, set[str]]]:
    for file in trees.modules(trees.REPO):
        name = str(file.relative_to(trees.REPO))
        if not name.startswith("updateagent/buildhost/") and name != WITH:
            yield name, writers(trees.text(file))


@pytest.mark.xdist_group("architecture")  # which share one parse of the packages
def test_every_durable_writer_is_in_the_table() -> None:
    text = TABLE.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{'|'.join(trees.PACKAGES)})/[a-z_/]+\.py)`", text))
    found = {name for name, calls in modules() if calls}
    assert found - named == set(), "writes a file that outlives it, and is not in docs/versions.md"
    assert len(found) > 15


def test_a_writer_is_seen_by_whatever_call_it_writes() -> None:
    for call in ("self._disk.write_durable(a, b)", "sqlite3.connect(a)", "JsonFile(a)", "path.write_text(b)"):
        assert writers(f"def f() -> None:\n    {call}\n")
    assert not writers("socket.connect(a)\n")


# What is written by generate.py for every release, by the names of docs/versions.md.
FROM_THE_FIRST = {
    "management tree",
    "nonces",
    "readings",
    "meters",
    "download under way",
    "`update/inbox/request.json`",
    "`update/outbox/result.json`",
    "journal",
    "`dcu.yaml`",
    "database",
    "readings, gaps, events",
}
# What is no file or message of ours that a release writes and another reads.
NOT_OURS = {
    "units of services": "written anew at each start",
    "authorities and time servers set by the head-end": "written anew from the tree at each start",
    "GRUB's environment block": "GRUB's format: tests/updateagent/boot/test_loaders.py",
    "keys and certificates": "PEM",
    "job documents of the operator's tool": "the columns of the database",
}


# Messages that both ends speak with each other in tests, by where that is.
ON_THE_WIRE = {
    "SSMP": "tests/versions/test_talk.py",
    "OMA DM": "tests/versions/test_talk.py",
    "Package #0": "tests/versions/test_talk.py",
    "result documents of orders": "tests/versions/test_talk.py",
    "MQTT": "tests/agent/metering/uplink/test_mqtt.py",
}


def documents(text: str) -> list[str]:
    """The names in the first column of all tables, without the names of files and the links behind them."""
    cells = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    names = [re.split(r", `| \(\[|, in `|, with |, the file ", cell)[0] for cell in cells]
    return [name for name in names if name not in ("document", "message")]


def test_every_document_of_the_table_has_content_in_the_matrix() -> None:
    parts = [part for name in PARTS for part in importlib.import_module(name).PARTS]
    covered = FROM_THE_FIRST | {document for part in parts for document in part.documents} | set(ON_THE_WIRE)
    found = documents(TABLE.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(set(found)), "a document stands there twice"
    assert set(found) - covered - set(NOT_OURS) == set()
    assert covered - set(found) == set(), "in the matrix, and not in docs/versions.md"
