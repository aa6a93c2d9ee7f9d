"""Reads a YAML mapping key by key against what the caller expects, and collects every problem with its line.

The document is composed into nodes, not loaded: nodes know their line, and nothing of the file is constructed that was
not asked for. A key given twice, a key never asked for, and a value of another type are all problems; none of them
stops the reading, so that one look at the output shows everything that is to be corrected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import yaml

FILE_BYTES_MAX = 1 << 20  # a configuration larger than this is not one
_TAG = "tag:yaml.org,2002:"
_TYPE_NAMES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "seq": "a list",
    "map": "a section",
    "timestamp": "a date",
    "binary": "binary data",
}


class _Required:
    """Marks a key without a default."""


REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `line` counts from 1; `path` is the dotted way to the key, `ports[1].url`.

    `may_be_later`: a key that is not known here, and that a later version of this software may know.
    """

    line: int
    path: str
    text: str
    may_be_later: bool = False

    def show(self, file: Path) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{file}:{self.line}: {where}{self.text}"


class ConfigError(Exception):
    """The configuration cannot be used: the operator's to correct. `str()` has one line per problem."""

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems, key=lambda p: p.line))
        super().__init__("\n".join(problem.show(file) for problem in self.problems))


@dataclass(slots=True)
class _Node:
    """A node of the document, without the library that read it. A scalar has `text`, a sequence `entries`, a mapping
    `pairs`."""

    tag: str
    line: int
    text: str | None = None
    entries: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None


def compose(file: Path) -> Section:
    """Return the top of the document in `file`. Raises `ConfigError` for a file that is no readable YAML mapping."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(file, [Problem(1, "", f"cannot be read: {error.strerror}")]) from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(file, [Problem(1, "", f"larger than {FILE_BYTES_MAX} bytes")])
    import yaml  # not at the top, so that a daemon can give it back (`agent.daemon.memory.returned`)

    try:
        composed = yaml.compose(raw, Loader=yaml.SafeLoader)
        node = None if composed is None else _node_of(composed, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = Problem(mark.line + 1 if mark else 1, "", f"not YAML: {error.problem or error.context}")
        raise ConfigError(file, [problem]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(file, [Problem(1, "", f"not YAML: {first_line}")]) from error
    if node is None or node.pairs is None:
        raise ConfigError(file, [Problem(1, "", "the top of the file is a mapping of sections")])
    return Section(node, "", [], file.absolute().parent)


class Section:
    """One mapping. Every getter notes a problem and returns the default, or a stand-in, when the value is unusable."""

    def __init__(self, node: _Node | None, path: str, problems: list[Problem], base: Path) -> None:
        """`node` is `None` for a section that the file leaves out; `base`, which is absolute, is where relative paths
        start."""
        self._path = path
        self._problems = problems
        self._base = base
        self._line = node.line if node is not None else 1
        self._absent = node is None
        self._asked: set[str] = set()
        self._values: dict[str, _Node] = {}
        self._lines: dict[str, int] = {}
        for key, value in (node.pairs or ()) if node is not None else ():
            self._take(key, value)

    @property
    def problems(self) -> list[Problem]:
        """Shared by all sections of a document."""
        return self._problems

    @property
    def absent(self) -> bool:
        return self._absent

    def has(self, key: str) -> bool:
        """Whether the file gives `key`."""
        return key in self._values

    def text(
        self, key: str, default: str | _Required = REQUIRED, *, pattern: str = "", wanted: str = "", filled: bool = True
    ) -> str:
        """Return text. All of it must match `pattern`, which `wanted` puts into words; `filled` refuses empty text."""
        value = self._scalar(key, default, "str")
        if value is None:
            return default if isinstance(default, str) else ""
        if filled and not value:
            self.note(key, "is empty")
        elif pattern and value and not re.fullmatch(pattern, value):
            self.note(key, f"wanted {wanted or pattern}, got {value!r}")
        return value

    def choice(self, key: str, default: str | _Required, options: Sequence[str]) -> str:
        value = self.text(key, default)
        if key in self._values and value and value not in options:
            self.note(key, f"wanted one of {', '.join(options)}, got {value!r}")
        return value

    def path(self, key: str, default: str | Path | _Required = REQUIRED) -> Path:
        """Return a path; a relative one starts at the folder of the configuration file."""
        value = self._scalar(key, default, "str")
        if value is None:
            return self._base / default if isinstance(default, str | Path) else self._base
        if not value or "\0" in value:
            self.note(key, "wanted a path")
            return self._base
        return self._place(value)

    def url(self, key: str) -> str:
        """Return a URL. One without a scheme is the path of a device, and starts where all paths start."""
        value = self.text(key)
        return value if "://" in value or not value else str(self._place(value))

    def command(self, key: str, default: Sequence[str]) -> tuple[str, ...]:
        """Return a program and its arguments. A program without a slash is looked for in `PATH`; one with a slash is a
        path, and starts where all paths start. Arguments are left as they are."""
        found = self.texts(key, default)
        return (str(self._place(found[0])), *found[1:]) if found and "/" in found[0] else found

    def integer(self, key: str, default: int | _Required, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        value = self._scalar(key, default, "int")
        if value is None:
            return default if isinstance(default, int) else low
        number = _plain_integer(value)
        if number is None:
            self.note(key, f"wanted a decimal whole number, got {value!r}")
            return low
        if not low <= number <= high:
            self.note(key, f"wanted {low} to {high}, got {number}")
        return number

    def integer_or_none(self, key: str, low: int, high: int) -> int | None:
        """Return a whole number from `low` to `high`, `None` where the key is left out."""
        number = self.integer(key, low, low, high)
        return number if key in self._values else None

    def number(self, key: str, default: float | _Required, low: float, high: float) -> float:
        """Return a number, whole or decimal, from `low` to `high`."""
        value = self._scalar(key, default, "float", "int")
        if value is None:
            return float(default) if isinstance(default, float | int) else low
        try:
            number = float(value)
        except ValueError:
            self.note(key, f"wanted a decimal number, got {value!r}")
            return low
        if not low <= number <= high:  # also refuses NaN
            self.note(key, f"wanted {low:g} to {high:g}, got {value}")
            return low
        return number

    def flag(self, key: str, default: bool) -> bool:
        value = self._scalar(key, default, "bool")
        return default if value is None else value.lower() in ("true", "yes", "on")

    def texts(self, key: str, default: Sequence[str] | _Required = REQUIRED) -> tuple[str, ...]:
        """Return a list of texts, which is not empty where it is given."""
        node = self._node(key, default)
        if node is None:
            return tuple(default) if not isinstance(default, _Required) else ()
        if node.entries is None:
            self.note(key, f"wanted a list of texts, got {_kind(node)}")
            return ()
        found: list[str] = []
        for index, item in enumerate(node.entries):
            if item.text and item.tag == _TAG + "str":
                found.append(item.text)
            elif item.text is not None and item.tag == _TAG + "str":
                self._add(item.line, f"{self._join(key)}[{index}]", "is empty")
            else:
                self._add(item.line, f"{self._join(key)}[{index}]", f"wanted text, got {_kind(item)} (quote it)")
        if not node.entries:
            self.note(key, "is an empty list")
        return tuple(found)

    def section(self, key: str, *, required: bool = False) -> Section:
        """Return a mapping below this one; an absent section gives every default."""
        node = self._node(key, REQUIRED if required else None)
        if node is not None and node.pairs is None:
            if node.tag != _TAG + "null" or required:
                self.note(key, f"wanted a section of keys, got {_kind(node)}")
            node = None
        return Section(node, self._join(key), self._problems, self._base)

    def sections(self, key: str) -> list[Section]:
        """Return a list of mappings; an absent one is empty."""
        node = self._node(key, ())
        if node is None:
            return []
        if node.entries is None:
            self.note(key, f"wanted a list of sections, got {_kind(node)}")
            return []
        found: list[Section] = []
        for index, item in enumerate(node.entries):
            path = f"{self._join(key)}[{index}]"
            if item.pairs is not None:
                found.append(Section(item, path, self._problems, self._base))
            else:
                self._add(item.line, path, f"wanted a section of keys, got {_kind(item)}")
        return found

    def note(self, key: str, text: str, *, may_be_later: bool = False) -> None:
        """Record a problem with `key`, or with the section where `key` is empty."""
        line = self._lines.get(key, self._line)
        self._add(line, self._join(key) if key else self._path, text, may_be_later=may_be_later)

    def unused(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Those of `keys` that stand here though nothing reads them: known, and no mistake."""
        found = tuple(key for key in keys if key in self._values and key not in self._asked)
        self._asked.update(found)
        return found

    def end(self) -> None:
        """Note every key that was not asked for as unknown. Call it last."""
        known = sorted(self._asked)
        for key in self._values:
            if key not in self._asked:
                self.note(key, f"unknown key{_suggestion(key, known)}", may_be_later=True)

    # --- inside ---

    def _place(self, path: str) -> Path:
        return self._base / os.path.expanduser(path)  # noqa: PTH111 - Path's raises where there is no such home

    def _take(self, key: _Node, value: _Node) -> None:
        name = key.text
        if name is None:
            self._add(key.line, self._path, "a key is plain text")
            return
        if name in self._values:
            self._add(key.line, self._join(name), f"given twice, first on line {self._lines[name]}")
            return
        self._values[name] = value
        self._lines[name] = key.line

    def _node(self, key: str, default: object) -> _Node | None:
        self._asked.add(key)
        node = self._values.get(key)
        if node is None and default is REQUIRED:
            self.note(key, "is missing")
        return node

    def _scalar(self, key: str, default: object, *types: str) -> str | None:
        node = self._node(key, default)
        if node is None:
            return None
        if node.text is not None and node.tag in [_TAG + name for name in types]:
            return node.text
        quote = " (quote it)" if types[0] == "str" and node.text is not None else ""
        self.note(key, f"wanted {_TYPE_NAMES[types[0]]}, got {_kind(node)}{quote}")
        return None

    def _join(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _add(self, line: int, path: str, text: str, *, may_be_later: bool = False) -> None:
        self._problems.append(Problem(line, path, text, may_be_later))


def _plain_integer(value: str) -> int | None:
    """Return a decimal or 0x number, `None` for any other. YAML 1.1 reads 010 as eight and 1:30 as ninety, which nobody
    who writes a configuration means."""
    text = value.replace("_", "")
    if re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,18})", text):
        return int(text)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text):
        return int(text, 16)
    return None


def _node_of(node: yaml.Node, seen: dict[yaml.Node, _Node]) -> _Node:
    """`seen`: what aliases name again stays one node, otherwise a small document could become a huge one."""
    import yaml

    if node in seen:
        return seen[node]
    seen[node] = made = _Node(str(node.tag), int(node.start_mark.line) + 1)
    if isinstance(node, yaml.MappingNode):
        made.pairs = [(_node_of(key, seen), _node_of(value, seen)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        made.entries = [_node_of(entry, seen) for entry in node.value]
    else:
        made.text = str(node.value)
    return made


def _kind(node: _Node) -> str:
    name = _TYPE_NAMES.get(node.tag.removeprefix(_TAG), f"a value tagged {node.tag}")
    return f"{name} {node.text!r}" if node.text is not None and len(node.text) <= 40 else name


def _suggestion(key: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
