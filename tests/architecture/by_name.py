"""Imports by name: a module that a string names is imported as surely as by `import`, but no contract would see it.

`write_out` gives a copy of the packages an import for every such string, so that import-linter judges both alike.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("agent", "dlms", "headend", "omadm", "plc", "updateagent")

NO_IMPORTS = {
    ("headend/config.py", "headend.db"): "the name of the database file",
}
"""Strings that only look like one of our modules: file, string, and what it is."""

BUILT_NAMES = {
    "dlms/__init__.py": "the door: its imports for type checkers name the same modules, which a test compares",
}
"""Files that may build the name of a module, and what else shows it to the contracts."""


def write_out(root: Path) -> None:
    """Append to each module below `root`, a folder that holds our packages, imports of what its strings name."""
    for path in _files(root):
        text = path.read_text(encoding="utf-8")
        names = sorted(set(named(text, root, str(path.relative_to(root)))))
        if names:
            path.write_text(f"{text}\n\ndef _by_name():\n" + "".join(f"    import {name}\n" for name in names), "utf-8")


def named(text: str, root: Path, file: str = "") -> Iterator[str]:
    """Modules of ours that strings in `text` name, as "module" or "module:name". Names of loggers are none."""
    tree = ast.parse(text)
    others = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "getLogger"
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in others:
            module, _, attribute = node.value.partition(":")
            if _is_ours(module, root) and (not attribute or attribute.isidentifier()):
                if (file, node.value) not in NO_IMPORTS:
                    yield module


def _is_ours(module: str, root: Path) -> bool:
    first, *rest = module.split(".")
    if first not in PACKAGES or not rest or not all(part.isidentifier() for part in rest):
        return False
    path = root.joinpath(first, *rest)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def built(root: Path) -> list[str]:
    """Where a module's name is put together, so that no string shows it: file and line."""
    return [
        f"{file}:{node.lineno}"
        for path in _files(root)
        if (file := str(path.relative_to(root))) not in BUILT_NAMES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
        and any(isinstance(argument, (ast.JoinedStr, ast.BinOp)) for argument in node.args)
    ]


def _files(root: Path) -> list[Path]:
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
