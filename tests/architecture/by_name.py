"""Imports by name: a module that a string names is imported as surely as by `import`, but no contract would see it.

So only the functions in `IMPORTERS` import by name, each of a name that stands in a string of its module; anything
else that could is found by `strays`. `write_out` gives a copy of the packages an import for every such string, so
that import-linter judges both alike.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.trees import PACKAGES, last, modules, parse, text, walk

NO_IMPORTS = {
    ("headend/config.py", "headend.db"): "the name of the database file",
}
"""Strings that only look like one of our modules: file, string, and what it is."""

IMPORTERS = {
    "agent/daemon/memory/postponed.py: __getattr__": "modules of the standard library, from the table in that module",
    "agent/metering/uplink/mqtt.py: _json_properties": "a module without types, by its literal name",
    "agent/metering/uplink/mqtt.py: _with_will": "a module without types, by its literal name",
    "dlms/__init__.py: __getattr__": "the door: its imports for type checkers name the same modules, a test compares",
    "dlms/__main__.py: get_command": "the commands, from the table in that module",
    "dlms/link/hdlc/frames.py: _choose_fcs": "a module without types, by its literal name",
    "plc/protocols.py: _entry_points": "protocols of others; what they import is theirs",
    "updateagent/boot/loaders.py: _load": "boot loaders, from the table in that module",
    "updateagent/slots/types.py: slot_type": "types of slots, from the table in that module",
}
"""Functions that import by name, and where the names come from. Each argument is a literal, or a name."""

BUILT_NAMES = frozenset({"dlms/__init__.py: __getattr__"})
"""Those whose names are put together all the same."""

MEANS = frozenset(
    {
        *("__import__", "import_module", "entry_points", "load_module", "exec_module", "module_from_spec"),
        *("spec_from_file_location", "resolve_name", "run_module", "run_path", "create_module", "SourceFileLoader"),
    }
)
"""Whatever imports by name, as a name or an attribute."""


def write_out(root: Path) -> None:
    """Append to each module below `root`, a folder that holds our packages, imports of what its strings name."""
    for path in modules(root):
        source = text(path)
        names = sorted(set(named(source, root, str(path.relative_to(root)))))
        if names:
            path.write_text(
                f"{source}\n\ndef _by_name():\n" + "".join(f"    import {name}\n" for name in names), "utf-8"
            )


def named(source: str, root: Path, file: str = "") -> Iterator[str]:
    """Modules of ours that strings in `source` name, as "module" or "module:name". Names of loggers are none, and the
    name of a package alone is one where it is imported."""
    tree = parse(source)
    yield from (
        first.value
        for call in _calls(tree)
        for first in call.args[:1]
        if isinstance(first, ast.Constant) and first.value in PACKAGES
    )
    others = {
        id(part)
        for node in walk(tree)
        if isinstance(node, ast.Call) and last(node.func) == "getLogger"
        for part in ast.walk(node)
    }
    for node in walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in others:
            module, _, attribute = node.value.partition(":")
            if _is_ours(module, root) and (not attribute or attribute.replace(".", "").isidentifier()):
                if (file, node.value) not in NO_IMPORTS:
                    yield module


def _is_ours(module: str, root: Path) -> bool:
    first, *rest = module.split(".")
    if first not in PACKAGES or not rest or not all(part.isidentifier() for part in rest):
        return False
    path = root.joinpath(first, *rest)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def strays(root: Path) -> list[str]:
    """What imports by name outside of `IMPORTERS`, or hides that it does, or puts a name together: file and line."""
    found = []
    for path in modules(root):
        file, tree = str(path.relative_to(root)), parse(text(path))
        listed = [
            node for node in walk(tree) if isinstance(node, ast.FunctionDef) and f"{file}: {node.name}" in IMPORTERS
        ]
        inside = {id(part) for function in listed for part in ast.walk(function)}
        called = {id(call.func) for call in _calls(tree)}
        lines = {
            node.lineno
            for node in walk(tree)
            if (isinstance(node, ast.Name | ast.Attribute) and last(node) in MEANS)
            and (id(node) not in inside or id(node) not in called)
        }
        lines |= {line for node in walk(tree) for line in _hidden(node)}
        for function in listed:
            if f"{file}: {function.name}" not in BUILT_NAMES:
                lines |= {call.lineno for call in _calls(function) if _is_built(call)}
        found += [f"{file}:{line}" for line in sorted(lines)]
    return found


def _hidden(node: ast.AST) -> Iterator[int]:
    """The line of an import that gives a means to import by name another name."""
    if isinstance(node, ast.ImportFrom):
        yield from (node.lineno for alias in node.names if alias.name in MEANS and alias.asname)
        yield from (node.lineno for alias in node.names if alias.name == "*" and node.module in ("importlib", "runpy"))


def _is_built(call: ast.Call) -> bool:
    return any(not isinstance(argument, ast.Constant | ast.Name) for argument in call.args)


def _calls(tree: ast.Module | ast.FunctionDef) -> list[ast.Call]:
    nodes = walk(tree) if isinstance(tree, ast.Module) else ast.walk(tree)
    return [node for node in nodes if isinstance(node, ast.Call) and last(node.func) in MEANS]
