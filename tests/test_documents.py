"""The documents: lines fit a terminal, and every file, folder, link, `make` target and module that they name exists.

A changelog tells of what was: there only the width and the links count.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
COLUMNS_MAX = 120
PACKAGES = ("agent", "dlms", "headend", "omadm", "plc", "tests", "updateagent")
OURS = (*PACKAGES, "buildroot", "docs", "etc")
SKIPPED = {"build", "dist"}
HISTORY = "CHANGELOG.md"

_FENCE = re.compile(r"^\s*(```|~~~)")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_MAKE = re.compile(r"(?:^|[`\s])make((?: [A-Z_]+=\S+)*) ([a-z][a-z-]*)")
_RUN = re.compile(r"python3? -m ([\w.]+)")
_DRAWING = re.compile(r"[─-╿]")


def documents() -> list[Path]:
    """Every Markdown file of this repository, none of its environments'."""
    return sorted(
        path
        for path in REPO.rglob("*.md")
        if not any(part.startswith(".") or part in SKIPPED for part in path.relative_to(REPO).parts)
    )


def too_wide(text: str) -> Iterator[str]:
    """Lines that are too long and could be broken: rows of a table, drawings and a single word cannot."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip().removeprefix("- ").removeprefix("* ")
        if len(line) > COLUMNS_MAX and " " in words and not words.startswith("|") and not _DRAWING.search(line):
            yield f"line {number}: {len(line)} columns"


def dead_links(text: str, folder: Path) -> Iterator[str]:
    """Relative links that lead nowhere."""
    for target in _LINK.findall(text):
        path = target.partition("#")[0]
        if path and "://" not in path and not path.startswith("mailto:") and not (folder / path).exists():
            yield target


def missing_paths(text: str, folder: Path) -> Iterator[str]:
    """Files of Python and folders in backticks that are neither below the repository nor beside the document. Of other
    files those count that begin with a folder of ours: the rest are files of a device."""
    for span in _SPAN.findall(_prose(text)):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span) or "/" not in span:
            continue
        first = span.partition("/")[0]
        if not (span.endswith(".py") or first in OURS):
            continue
        if not (REPO / span).exists() and not (folder / span).exists():
            yield span


def missing_targets(text: str, targets: set[str]) -> Iterator[str]:
    """What `make` is said to make and cannot."""
    for span in (*_SPAN.findall(_prose(text)), *_code(text)):
        for _settings, target in _MAKE.findall(span):
            if target not in targets:
                yield f"make {target}"


def missing_modules(text: str) -> Iterator[str]:
    """Dotted names below our packages that are no module, and nothing that a module defines; programs to run that are
    none."""
    for span in _SPAN.findall(_prose(text)):
        if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", span) and not resolves(span):
            yield span
    for name in _RUN.findall(text):
        if name.partition(".")[0] in PACKAGES and not _module(name):
            yield f"python -m {name}"


def resolves(dotted: str) -> bool:
    """Whether this is a module, or a name that a module defines at its top, or a member of a class of it."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        module = _module(".".join(parts[:cut]))
        if module is not None:
            return defines(module, parts[cut:])
    return False


def defines(module: Path, names: list[str]) -> bool:
    """Whether the names are defined in the file, each within the one before."""
    body: list[ast.stmt] = ast.parse(module.read_text()).body
    for name in names:
        found = next((statement for statement in body if name in _names(statement)), None)
        if found is None:
            return False
        body = found.body if isinstance(found, ast.ClassDef) else []
    return True


def _names(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
            return {alias.asname or alias.name for alias in aliases}
    return set()


def _module(dotted: str) -> Path | None:
    path = REPO.joinpath(*dotted.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def wrong_tour_steps(text: str) -> Iterator[str]:
    """Rows `| path | names | … |` whose names in backticks the file does not define."""
    for row in re.findall(r"^\| `([\w./]+\.py)` \|([^|]*)\|", text, re.MULTILINE):
        path, cell = row
        for name in _SPAN.findall(cell):
            if re.fullmatch(r"\w+(\.\w+)*", name) and (REPO / path).is_file():
                if not defines(REPO / path, name.split(".")):
                    yield f"{path}: {name}"


def _prose(text: str) -> str:
    """The document without its fenced blocks."""
    kept, fenced = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            kept.append(line)
    return "\n".join(kept)


def _code(text: str) -> list[str]:
    """Lines of fenced and of indented blocks."""
    found, fenced = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            found.append(line.strip())
    return [line for line in found if line.startswith("make ")]


def make_targets() -> set[str]:
    """The names in front of a colon in the Makefile; of `python-%`, which makes any version's, `python-`."""
    lines = (REPO / "Makefile").read_text().splitlines()
    rules = (re.match(r"([a-z][a-z -]*)%?:(?!=)", line) for line in lines)
    return {name for rule in rules if rule for name in rule[1].split()}


DOCUMENTS = pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(REPO)))
LIVING = pytest.mark.parametrize(
    "path", [path for path in documents() if path.name != HISTORY], ids=lambda path: str(path.relative_to(REPO))
)


@DOCUMENTS
def test_lines_fit_a_terminal(path: Path) -> None:
    assert not list(too_wide(path.read_text()))


@DOCUMENTS
def test_links_lead_somewhere(path: Path) -> None:
    assert not list(dead_links(path.read_text(), path.parent))


@LIVING
def test_named_files_and_folders_exist(path: Path) -> None:
    assert not list(missing_paths(path.read_text(), path.parent))


@LIVING
def test_named_make_targets_exist(path: Path) -> None:
    assert not list(missing_targets(path.read_text(), make_targets()))


@LIVING
def test_named_modules_and_what_they_define_exist(path: Path) -> None:
    assert not list(missing_modules(path.read_text()))


@LIVING
def test_the_files_of_a_tour_define_what_the_tour_names(path: Path) -> None:
    assert not list(wrong_tour_steps(path.read_text()))


# ------------------------------------------------------------------------------------------ the checks see mistakes


def test_a_line_that_could_be_broken_is_seen_and_one_that_cannot_is_not() -> None:
    long = "word " * 30
    assert list(too_wide(f"{long}\n| {long} |\n│ {long} │\n* [x](https://{'y' * 150})")) == ["line 1: 150 columns"]


def test_links_paths_targets_and_modules_that_do_not_exist_are_seen() -> None:
    text = """
See [this](docs/none.md#part), [that](docs/update.md) and [elsewhere](https://example.org/none.md).
`agent/none.py`, `agent/clock.py`, `decisions/` beside docs, `none/none.py`, `inbox/package.swu`, `tests/none/`.
`make none`, `make PYTHON=python3 test`; `agent.none`, `agent.clock.Clock.wall`, `agent.clock.none`, `dlms.axdr`.

| `agent/clock.py` | `Clock.wall`, `Clock.none` | the time |

    make nothing
    python -m tests.none
    python -m tests.bench
"""
    docs = REPO / "docs"
    assert list(dead_links(text, REPO)) == ["docs/none.md#part"]
    assert list(missing_paths(text, docs)) == ["agent/none.py", "none/none.py", "tests/none/"]
    assert list(missing_targets(text, make_targets())) == ["make none", "make nothing"]
    assert list(missing_modules(text)) == ["agent.none", "agent.clock.none", "python -m tests.none"]
    assert list(wrong_tour_steps(text)) == ["agent/clock.py: Clock.none"]


def test_the_documents_are_found_and_those_of_environments_are_not() -> None:
    names = {str(path.relative_to(REPO)) for path in documents()}
    assert {"README.md", "docs/update.md", "buildroot/README.md"} <= names
    assert not any("site-packages" in name for name in names)


def test_the_table_of_mutations_has_every_module_that_is_mutated() -> None:
    modules = set(tomllib.loads((REPO / "tests" / "mutate" / "modules.toml").read_text())["modules"])
    text = (REPO / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `(\S+\.py)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| \d+ \|$", text, re.M)
    assert {path for path, *_ in rows} == modules
    assert all(int(faults) == int(killed) + int(explained) + int(left) for _, faults, killed, explained, left in rows)
    assert f"Of {len(modules)} core modules" in (REPO / "CHANGELOG.md").read_text()
