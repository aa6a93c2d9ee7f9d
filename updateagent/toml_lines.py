"""In which line of a TOML file a key is: `tomllib` does not say. Sans-IO.

Only for text that `tomllib` has read: nothing is checked here. Keys inside inline tables have the line of the key that
the table is the value of.
"""

from __future__ import annotations

import re

TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}\n]', re.DOTALL
)
"""What can hold a newline, a bracket or a comment's sign that means nothing; and those that mean something."""
NAME = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|[A-Za-z0-9_-]+')


def lines_of(text: str) -> dict[str, int]:
    """The line, from 1 on, of each key and table: `bootenv.type`, `slot[1].image[0].path`."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}  # how many tables an array of them has so far
    table = ""
    at, number = 0, 1
    while at < len(text):
        end = _end(text, at)
        said = text[at:end].strip()
        if said.startswith("["):
            table = _header(said, counts)
            found.setdefault(table.rpartition("[")[0] if said.startswith("[[") else table, number)
            found.setdefault(table, number)
        elif said and said[0] != "#":
            path = table
            for name in _names(said):
                path = f"{path}.{name}" if path else name
                found.setdefault(path, number)
        number += text.count("\n", at, end + 1)
        at = end + 1
    return found


def line_of(found: dict[str, int], path: str) -> int:
    """The line of a key, or of the nearest table or list that it is in, or would be in; 1 for the file itself."""
    while path not in found and path:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return found.get(path, 1)


def _end(text: str, at: int) -> int:
    """Where the newline is that ends the statement at `at`."""
    depth = 0
    for token in TOKEN.finditer(text, at):
        if token[0] in ("[", "{"):
            depth += 1
        elif token[0] in ("]", "}"):
            depth -= 1
        elif token[0] == "\n" and depth <= 0:
            return token.start()
    return len(text)


def _header(said: str, counts: dict[str, int]) -> str:
    """The path of the table that `[…]` or `[[…]]` begins."""
    path = ""
    names = _names(said.lstrip("["))
    for index, name in enumerate(names):
        path = f"{path}.{name}" if path else name
        if said.startswith("[[") and index == len(names) - 1:
            counts[path] = counts.get(path, 0) + 1
        if path in counts:
            path = f"{path}[{counts[path] - 1}]"
    return path


def _names(said: str) -> list[str]:
    """The parts of a dotted key at the start of a statement."""
    names: list[str] = []
    at = 0
    while found := NAME.match(said, at):
        names.append(found[0].strip("\"'"))
        rest = said[found.end() :].lstrip()
        if not rest.startswith("."):
            break
        at = len(said) - len(rest[1:].lstrip())
    return names
