"""The packages as text and as syntax trees, each read and parsed once for all checks of this room.

A parse of all packages takes two seconds, and more than twenty checks want one. Nobody changes a tree that is shared.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("agent", "dlms", "headend", "omadm", "plc", "updateagent")


def modules(root: Path) -> list[Path]:
    """The modules of all packages below `root`, which is this repository or has packages of the same names."""
    return [path for package in PACKAGES for path in modules_of(root, package)]


def modules_of(root: Path, package: str) -> list[Path]:
    return list(_modules_here(package)) if root == REPO else sorted((root / package).rglob("*.py"))


@cache
def _modules_here(package: str) -> tuple[Path, ...]:
    return tuple(sorted((REPO / package).rglob("*.py")))


def text(path: Path) -> str:
    is_ours = path.is_relative_to(REPO) and path.relative_to(REPO).parts[0] in PACKAGES
    return _text_here(path) if is_ours else path.read_text(encoding="utf-8")


@cache
def _text_here(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def parse(source: str) -> ast.Module:
    """The tree of this text."""
    return ast.parse(source)


@cache
def walk(tree: ast.Module) -> tuple[ast.AST, ...]:
    """All nodes of a module, in the order of `ast.walk`."""
    return tuple(ast.walk(tree))


def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of the module in this file."""
    return walk(parse(text(path)))


def dotted(node: ast.expr) -> str:
    """What `ast.unparse` gives, sooner for names with dots, which are asked for a hundred thousand times."""
    names: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    return ".".join([inner.id, *reversed(names)]) if isinstance(inner, ast.Name) else ast.unparse(node)


def last(node: ast.expr) -> str:
    """The last of the names that `dotted` gives."""
    return node.attr if isinstance(node, ast.Attribute) else dotted(node).rpartition(".")[2]


def forget() -> None:
    """Give the memory back, some 120 MB after a check of everything."""
    for kept in (parse, walk, _text_here, _modules_here):
        kept.cache_clear()
