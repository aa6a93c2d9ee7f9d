"""Docstrings say what something does, not only how it fails."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.trees import REPO, modules, parse, text, walk

FRAGMENTS = ("For ", "As `", "As a ", "Like `", "Of ", "Raises ", "Raise `")


ELSEWHERE = re.compile(r"See (the module|`[^`]*`)(,? (and|or) `[^`]*`)*(\.|$)")


def says_nothing(words: str) -> bool:
    """Whether a docstring is only about errors, is no sentence, or begins by sending its reader elsewhere."""
    return words.strip().startswith(FRAGMENTS) or ELSEWHERE.match(words.strip()) is not None


def empty_words(file: str, source: str) -> set[str]:
    """The functions and classes with such a docstring, private ones too."""
    return {
        f"{file}: {node.name}"
        for node in walk(parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and says_nothing(ast.get_docstring(node) or "")
    }


def untold(file: str, source: str) -> set[str]:
    """The public classes without a docstring."""
    return {
        f"{file}: {node.name}"
        for node in walk(parse(source))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    }


def test_every_docstring_says_what_is_done() -> None:
    found = {one for file in modules(REPO) for one in empty_words(str(file.relative_to(REPO)), text(file))}
    assert found == set()


def test_every_public_class_has_a_docstring() -> None:
    assert {one for file in modules(REPO) for one in untold(str(file.relative_to(REPO)), text(file))} == set()
    assert untold("a.py", "class File: ...\nclass _Hidden: ...\n") == {"a.py: File"}


@pytest.mark.parametrize(
    "source",
    [
        'def parse(data: bytes) -> int:\n    """Raises `ValueError`."""\n',
        'class File:\n    def __init__(self) -> None:\n        """Raises `OSError`."""\n',
        'class File:\n    """See the module."""\n',
        'def _parse(data: bytes) -> int:\n    """Raises `ValueError`."""\n',
    ],
)
def test_one_that_does_not_is_seen(source: str) -> None:
    assert len(empty_words("a.py", source)) == 1
    assert not empty_words("a.py", source.replace("Raises", "Read it. Raises").replace("See the", "A file of the"))


@pytest.mark.parametrize(
    "words",
    [
        "For `Connection.close`.",
        "As `find`; raises `Refusal` 404.",
        "Like `File`, but fast.",
        "See `agent.mo.diagmon.LogSource`.",
        "See `Network`. Everything is tried.",
        "See `read` and `write`",
    ],
)
def test_a_fragment_is_seen(words: str) -> None:
    assert empty_words("a.py", f'def parse():\n    """{words}"""\n') == {"a.py: parse"}
