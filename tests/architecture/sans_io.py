"""The check that a protocol core does no input or output: no clock, no chance, no file, no socket, no thread.

A core is what lies in one of the `ROOMS`, `DRIVERS` excepted, and every other module whose docstring says "sans-IO".
What a core needs of the world is an argument: the time, random octets, bytes that came. So a test can lose every third
burst or let a day pass, and what it has seen once it sees again. What a core may import is listed, and nothing else is
allowed: of ours other cores and `OPEN_TO_CORES`, of the standard library what computes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOMS = (
    "agent/dm/session_events.py",
    "agent/dm/session_states.py",
    "agent/metering/orders/kinds/typed_json.py",
    "agent/metering/visit/raw_values.py",
    "agent/settings/provisioning.py",
    "agent/tree/acl.py",
    "agent/tree/alerts.py",
    "agent/tree/chunks.py",
    "agent/tree/nodes.py",
    "agent/tree/schema.py",
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
    "headend/dm/jobs",
    "headend/dm/large_objects.py",
    "omadm",
    "plc",
    "updateagent/errors.py",
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
    "headend/dm/jobs/queue.py": "keeps the jobs in the database",
    "plc/protocols.py": "looks for the entry points of what is installed",
    "plc/bridge.py": "drives a bridge over its port",
    "updateagent/package/payload.py": "draws the keys of its integrity tags from the system",
    "updateagent/package/readable.py": "opens package files",
    "updateagent/package/trust.py": "reads the file of the pinned roots",
    "updateagent/package/verifier.py": "reads what this device knows: roots, security floors, journal",
}
"""Modules of those rooms that stand between a core and the world, and what for."""

OPEN_TO_CORES = {
    "agent.metering.orders.order_book": "the type of a task",
    "agent.metering.registry.entry": "the type of a meter",
    "agent.metering.store.reading_store": "the type of a batch",
    "agent.metering.visit.visit": "what a visit is asked, and its states",
    "dlms.link.trace": "parses the text of a trace",
    "dlms.security.random_octets": "octets and key pairs, the default of an argument for whoever has no other source",
    "headend.software.releases": "what a package says of itself, and the choice among packages",
    "plc.protocols": "the types of the registry; the built-in protocols",
    "updateagent.package.payload": "unpacks and checks what a reader hands over",
    "updateagent.package.readable": "the reader's protocol",
    "updateagent.package.trust": "judges certificates",
}
"""Drivers that a core may import for the part of them that is pure, and which that is."""

MARK = "sans-io"

STDLIB = frozenset(
    {
        "__future__", "abc", "array", "base64", "binascii", "bisect", "calendar", "collections", "contextlib", "copy",
        "dataclasses", "datetime", "decimal", "enum", "errno", "fractions", "functools", "hashlib", "heapq", "hmac",
        "ipaddress", "itertools", "json", "math", "operator", "re", "string", "struct", "types", "typing",
        "unicodedata", "warnings", "weakref", "zlib",
    }
)  # fmt: skip
"""What a core may import of the standard library: modules that compute. Whoever needs another one looks at it first."""

LIBRARIES = frozenset({"crcmod", "cryptography"})
"""What a core may import of others; what cryptography draws from the system is caught where it is named."""

PURE = {
    "bz2.BZ2Decompressor": "bytes in, bytes out",
    "fnmatch.fnmatchcase": "text only",
    "importlib.import_module": "what it may import is checked where it is called",
    "lzma.FORMAT_XZ": "a number",
    "lzma.LZMADecompressor": "bytes in, bytes out",
    "lzma.LZMAError": "an error",
    "random.Random": "with a seed; without one it is caught where it is called",
    "urllib.parse": "text only",
    "xml.etree.ElementTree": "a tree in memory",
    "xml.parsers.expat": "bytes in, calls out",
}
"""Parts of other modules that a core may use all the same, and why."""

BUILTINS = frozenset({"open", "input", "print", "breakpoint", "eval", "exec", "__import__", "__builtins__"})
"""A core does not even name them: `f = open` is as bad as a call."""

CLOCKS = frozenset({"now", "utcnow", "today"})
DRAWN = re.compile(r"generate|generate_(\w+_)?key")

ROOT = Path(__file__).resolve().parents[2]
OURS = ("agent", "dlms", "headend", "omadm", "plc", "updateagent")


def cores(root: Path) -> list[Path]:
    """Every core below `root`, a folder that holds our packages."""
    rooms = [path for room in ROOMS for path in _modules(root / room)]
    marked = [
        path
        for package in OURS
        for path in (root / package).rglob("*.py")
        if path.name != "__init__.py" and MARK in _docstring(path)
    ]
    return sorted({path for path in (*rooms, *marked) if str(path.relative_to(root)) not in DRIVERS})


def _modules(room: Path) -> Iterator[Path]:
    yield from [room] if room.suffix else room.rglob("*.py")


def _docstring(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").lower()


@cache
def open_to_cores() -> frozenset[str]:
    """The modules of ours that a core may import: other cores, and what `OPEN_TO_CORES` excepts."""
    files = (path.relative_to(ROOT).with_suffix("") for path in cores(ROOT))
    return frozenset({".".join(file.parts).removesuffix(".__init__") for file in files} | set(OPEN_TO_CORES))


def violations(source: str) -> list[str]:
    """What a module with this text does that a core does not: a sentence each, with the line."""
    tree = ast.parse(source)
    found = {*_imports(tree), *_names(tree), *_clocks(tree)}
    return [f"line {line}: {what}" for line, what in sorted(found)]


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports of what is neither a core, nor pure. Those of ours that only type checkers see are no harm."""
    running = {id(node) for node in _running(tree)}
    for node in ast.walk(tree):
        for line, name in _imported(node):
            ours = name.split(".")[0] in OURS
            if not (_is_core(name) if ours else _is_pure(name)) and (id(node) in running or not ours):
                yield line, f"imports {name}"


def _imported(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of what a node imports, dotted, with the name that is taken from a module as the last part."""
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "import_module":
        first = node.args[0] if node.args else None
        yield node.lineno, str(first.value) if isinstance(first, ast.Constant) else "something by name"


def _is_pure(name: str) -> bool:
    top = name.split(".", maxsplit=1)[0]
    return top in STDLIB or top in LIBRARIES or any(f"{name}.".startswith(f"{pure}.") for pure in PURE)


def _is_core(name: str) -> bool:
    """Whether the module is a core, or the one that the name is taken from."""
    path = ROOT.joinpath(*name.split("."))
    is_module = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
    return (name if is_module else name.rpartition(".")[0]) in open_to_cores()


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see: the body of `if TYPE_CHECKING`, not its `else`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Builtins that touch the world, keys that the system draws, and chance without a seed."""
    chance = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "random"
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    seeded = {id(call.func) for call in calls if _is_seeded(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in BUILTINS:
            yield node.lineno, f"names {node.id}"
        elif isinstance(node, ast.Attribute) and DRAWN.fullmatch(node.attr):
            yield node.lineno, f"draws a key: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and any(DRAWN.fullmatch(alias.name) for alias in node.names):
            yield node.lineno, "imports what draws a key"
    yield from (
        (call.lineno, "draws random numbers without a seed")
        for call in calls
        if ast.unparse(call.func) in chance and id(call.func) not in seeded
    )


def _is_seeded(call: ast.Call) -> bool:
    seeds = [*call.args, *(keyword.value for keyword in call.keywords)]
    return bool(seeds) and not any(isinstance(seed, ast.Constant) and seed.value is None for seed in seeds)


def _clocks(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every `.now`, `.utcnow`, `.today` of what was not handed in."""
    yield from _clocks_below(tree, frozenset())


def _clocks_below(node: ast.AST, handed: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Those below `node`; `handed` are the parameters in view, and the local names of what comes from them."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        handed = _handed_in(node, handed)
    if isinstance(node, ast.Attribute) and node.attr in CLOCKS and _root(node) not in handed:
        yield node.lineno, f"reads the clock: {ast.unparse(node)}"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
        names = [each.value for each in node.args[1:2] if isinstance(each, ast.Constant)]
        if (not names or names[0] in CLOCKS) and _root(node.args[0]) in ("date", "datetime"):
            yield node.lineno, f"reads the clock by name: {ast.unparse(node)}"
    for child in ast.iter_child_nodes(node):
        yield from _clocks_below(child, handed)


def _handed_in(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, outer: frozenset[str]) -> frozenset[str]:
    parts = function.args
    handed = {each.arg for each in (*parts.posonlyargs, *parts.args, *parts.kwonlyargs)} | outer
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target, value in _pairs(node):
                if _root(value) in handed:
                    handed.add(target)
                else:
                    handed.discard(target)
    return frozenset(handed)


def _pairs(node: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    """Names that are assigned to, and what; of `a, b = c, d` each by itself."""
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(target.elts)
            pairs = zip(target.elts, values, strict=False)  # a starred name takes more than one
            yield from ((each.id, value) for each, value in pairs if isinstance(each, ast.Name))


def _root(node: ast.expr) -> str:
    """The name that a chain of attributes begins with; "" for any other expression."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
