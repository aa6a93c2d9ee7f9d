"""`docs/security.md`: every claim names a test, and the test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
HEADING = "## What they can and cannot do"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def claims(text: str) -> list[tuple[str, str, str]]:
    """The rows of the table of claims, whoever they are about: who, the claim, and the cell that must name its test."""
    table = text.partition(HEADING)[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    return [(who, claim, cell) for who, claim, cell in rows[1:]]


def missing(text: str, root: Path = REPO) -> list[str]:
    """Claims without a test that exists."""
    without = []
    for _, claim, cell in claims(text):
        named = TEST.findall(cell)
        if not named or not all(name in functions(root / file) for file, name in named):
            without.append(claim)
    return without


def functions(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def attackers(text: str) -> set[str]:
    """Who the page introduces; the operator is none."""
    told = " ".join(text.partition("## Attackers")[2].partition("\n## ")[0].split())
    return {name.lower() for name in re.findall(r"\*([A-Z][a-z ]+)\*:", told)} | {"operator"}


def test_every_claim_of_the_threat_model_names_a_test_that_exists() -> None:
    text = (REPO / "docs" / "security.md").read_text(encoding="utf-8")
    assert {who for who, _, _ in claims(text)} == attackers(text)
    assert len(claims(text)) >= 50
    assert missing(text) == []


@pytest.mark.parametrize("cell", ["", "`tests/test_security_page.py::test_gone`", "`tests/gone.py::test_x`", "a test"])
def test_a_claim_without_a_test_is_seen(cell: str) -> None:
    def page(named: str) -> str:
        return f"{HEADING}\n\n| attacker | claim | test |\n|---|---|---|\n| anybody | It holds. | {named} |\n"

    assert missing(page(cell)) == ["It holds."]
    assert missing(page("`tests/test_security_page.py::test_a_claim_without_a_test_is_seen`")) == []
