"""The check that a protocol core does no input or output: no clock, no chance, no file, no socket, no thread.

A core is what lies in one of the `ROOMS`, `DRIVERS` excepted, and every other module whose docstring says "sans-IO".
What a core needs of the world is an argument: the time, random octets, bytes that came. So a test can lose every third
burst or let a day pass, and what it has seen once it sees again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOMS = (
    "dlms/axdr.py",
    "dlms/client",
    "dlms/codes.py",
    "dlms/cosem",
    "dlms/cursor.py",
    "dlms/errors.py",
    "dlms/explain",
    "dlms/link",
    "dlms/security",
    "dlms/server",
    "dlms/simulator",
    "dlms/statemachine.py",
    "dlms/xdlms",
    "omadm",
    "plc",
    "updateagent/package",
)
"""Folders, with all below them, and single modules. A module that is put there is a core, or needs an entry in
`DRIVERS`."""

DRIVERS = {
    "dlms/client/image_transfer.py": "waits while a meter verifies an image",
    "dlms/client/meter.py": "the blocking client",
    "dlms/link/exclusive.py": "locks serial ports, and looks for their holders in /proc",
    "dlms/link/mode_e/port.py": "opens a serial port and waits for the meter's opening",
    "dlms/link/port.py": "the byte ports themselves",
    "dlms/link/trace.py": "writes and reads trace files",
    "dlms/security/counters.py": "keeps invocation counters in a file",
    "dlms/security/random_octets.py": "asks the system for random octets; the cores take them as an argument",
    "dlms/simulator/reading_list.py": "reads CSV files",
    "plc/connections.py": "connections to meters that have a network address each",
    "plc/bridge.py": "drives a bridge over its port",
    "updateagent/package/payload.py": "draws the keys of its integrity tags from the system",
    "updateagent/package/readable.py": "opens package files",
    "updateagent/package/trust.py": "reads the file of the pinned roots",
    "updateagent/package/verifier.py": "reads what this device knows: roots, security floors, journal",
}
"""Modules of those rooms that stand between a core and the world, and what for."""

OPEN_TO_CORES = {
    "dlms.link.trace": "parses the text of a trace",
    "dlms.security.random_octets": "the default of an argument, for whoever has no other source",
    "updateagent.package.payload": "unpacks and checks what a reader hands over",
    "updateagent.package.readable": "the reader's protocol",
    "updateagent.package.trust": "judges certificates",
}
"""Drivers that a core may import for the part of them that is pure, and which that is."""

MARK = "sans-io"

MODULES = frozenset(
    {
        "asyncio", "builtins", "concurrent", "fcntl", "fileinput", "glob", "http", "io", "logging", "mmap",
        "multiprocessing", "os", "pathlib", "pty", "queue", "random", "sched", "secrets", "select",
        "selectors", "serial", "shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess",
        "tempfile", "termios", "threading", "time", "tty", "urllib", "uuid",
    }
)  # fmt: skip
"""Whoever imports one of these can touch the world."""

PURE = {
    ("random", "Random"): "with a seed; without one it is caught where it is called",
    ("urllib", "parse"): "text only",
}
"""What of `MODULES` a core may use all the same: top module and name, and why."""

BUILTINS = frozenset({"open", "input", "print", "breakpoint", "__import__"})
CLOCKS = frozenset({"now", "utcnow", "today"})


def cores(root: Path) -> list[Path]:
    """Every core below `root`, a folder that holds our packages."""
    rooms = [path for room in ROOMS for path in _modules(root / room)]
    marked = [
        path
        for package in ("agent", "dlms", "headend", "omadm", "plc", "updateagent")
        for path in (root / package).rglob("*.py")
        if path.name != "__init__.py" and MARK in _docstring(path)
    ]
    return sorted({path for path in (*rooms, *marked) if str(path.relative_to(root)) not in DRIVERS})


def _modules(room: Path) -> Iterator[Path]:
    yield from [room] if room.suffix else room.rglob("*.py")


def _docstring(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").lower()


def violations(source: str) -> list[str]:
    """What a module with this text does that a core does not: a sentence each, with the line."""
    tree = ast.parse(source)
    known = dict(_names_of_modules(tree))
    found = {*_imports(tree), *_calls(tree, known), *_drivers(tree)}
    return [f"line {line}: {what}" for line, what in sorted(found)]


def _names_of_modules(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Local names of modules and of what was imported from them: `dt` → `datetime`, `date` → `datetime.date`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                if top in MODULES and (top, rest) not in PURE:
                    yield node.lineno, f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            top, _, rest = node.module.partition(".")
            for alias in node.names:
                if top in MODULES and not {(top, alias.name), (top, rest)} & set(PURE):
                    yield node.lineno, f"imports {node.module}.{alias.name}"


def _drivers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports of `DRIVERS`, through which a core would reach the world; for their types alone they are no harm."""
    closed = {file.removesuffix(".py").replace("/", ".") for file in DRIVERS} - set(OPEN_TO_CORES)
    for node in _running(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        else:
            continue
        yield from ((node.lineno, f"imports the driver {name}") for name in names & closed)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _running(child)


def _calls(tree: ast.Module, known: dict[str, str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and _dated(node.value, known):
            yield node.lineno, f"reads the clock: {ast.unparse(node)}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in BUILTINS:
            yield node.lineno, f"calls {name}"
        if name.rpartition(".")[2] == "import_module":
            first = node.args[0] if node.args else None
            module = str(first.value) if isinstance(first, ast.Constant) else ""
            if not module or module.split(".")[0] in MODULES:
                yield node.lineno, f"imports {module or 'something'} by name"
        if known.get(name) == "random.Random" and not (node.args or node.keywords):
            yield node.lineno, "draws random numbers without a seed"


def _dated(value: ast.expr, known: dict[str, str]) -> bool:
    """Whether `value` is `datetime.datetime` or `datetime.date`, by whatever name it was imported."""
    name = ast.unparse(value)
    first, _, rest = name.partition(".")
    full = known.get(first, first) + (f".{rest}" if rest else "")
    return full in ("datetime.datetime", "datetime.date")
