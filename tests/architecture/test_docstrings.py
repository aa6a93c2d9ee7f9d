"""Docstrings say what something does, not only how it fails."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "dlms", "headend", "omadm", "plc", "updateagent")
# What it gives is said by the class that it returns.
LEFT = {"agent/metering/store/store_file.py: salvage"}


def says_nothing(text: str) -> bool:
    """Whether a docstring is only about errors, or only sends its reader elsewhere."""
    return text.strip().startswith(("Raises ", "Raise `")) or text.strip().rstrip(".") == "See the module"


def empty_words(file: str, source: str) -> set[str]:
    """The public functions and classes with such a docstring, and the constructors of public classes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_public = not node.name.startswith("_") or node.name in ("__init__", "__call__")
            if is_public and says_nothing(ast.get_docstring(node) or ""):
                found.add(f"{file}: {node.name}")
    return found


def test_every_docstring_says_what_is_done() -> None:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    found = {one for file in files for one in empty_words(str(file.relative_to(ROOT)), file.read_text())}
    assert found - LEFT == set()


@pytest.mark.parametrize(
    "source",
    [
        'def parse(data: bytes) -> int:\n    """Raises `ValueError`."""\n',
        'class File:\n    def __init__(self) -> None:\n        """Raises `OSError`."""\n',
        'class File:\n    """See the module."""\n',
    ],
)
def test_one_that_does_not_is_seen(source: str) -> None:
    assert len(empty_words("a.py", source)) == 1
    assert not empty_words("a.py", source.replace("Raises", "Read it. Raises").replace("See the", "A file of the"))
