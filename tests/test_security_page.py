"""`docs/security.md`: every claim names a test, and the test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
ATTACKERS = ("stranger", "on the line", "box thief", "database thief", "former device", "operator")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def claims(text: str) -> list[tuple[str, str]]:
    """The rows of the table of claims: the claim, and the cell that must name its test."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [(cells[1].strip(), cells[2]) for cells in rows if cells[0].strip() in ATTACKERS]


def missing(text: str, root: Path = REPO) -> list[str]:
    """Claims without a test that exists."""
    without = []
    for claim, cell in claims(text):
        named = TEST.findall(cell)
        if not named or not all(name in functions(root / file) for file, name in named):
            without.append(claim)
    return without


def functions(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_claim_of_the_threat_model_names_a_test_that_exists() -> None:
    text = (REPO / "docs" / "security.md").read_text(encoding="utf-8")
    assert {cells for cells in ATTACKERS if f"| {cells} |" in text} == set(ATTACKERS)
    assert len(claims(text)) > 20
    assert missing(text) == []


@pytest.mark.parametrize("cell", ["", "`tests/test_security_page.py::test_gone`", "`tests/gone.py::test_x`", "a test"])
def test_a_claim_without_a_test_is_seen(cell: str) -> None:
    assert missing(f"| stranger | It holds. | {cell} |") == ["It holds."]
    assert (
        missing("| stranger | It holds. | `tests/test_security_page.py::test_a_claim_without_a_test_is_seen` |") == []
    )
