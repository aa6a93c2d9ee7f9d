"""The check that a protocol core does no input or output: no clock, no chance, no file, no socket, no thread.

A core is what lies in one of the `ROOMS`, `DRIVERS` excepted, and every other module of which a docstring, its own or
that of a class or function in it, says "sans-IO" or the same in other words (`MARK`).
What a core needs of the world is an argument: the time, random octets, bytes that came. So a test can lose every third
burst or let a day pass, and what it has seen once it sees again. What a core may import is listed, and nothing else is
allowed: of ours other cores and `OPEN_TO_CORES`, of the standard library what computes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tests.architecture.trees import PACKAGES, REPO, dotted, last, modules, parse, text, walk

ROOMS = (
    "agent/dm/session_events.py",
    "agent/dm/session_states.py",
    "agent/metering/orders/types/typed_json.py",
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
    "updateagent/release.py",
)
"""Folders, with all below them, and single modules. A module that is put there is a core, or needs an entry in
`DRIVERS`."""

DRIVERS = {
    "dlms/client/image_transfer.py": "waits while a meter verifies an image",
    "dlms/client/meter.py": "the blocking client",
    "dlms/link/exclusive.py": "locks serial ports, and looks for their holders in /proc",
    "dlms/link/mode_e/port.py": "opens a serial port and waits for the meter's opening",
    "dlms/link/port.py": "the byte ports themselves",
    "dlms/link/readable.py": "waits for descriptors",
    "dlms/link/trace.py": "writes and reads trace files",
    "dlms/security/counters.py": "keeps invocation counters in a file",
    "dlms/security/random_octets.py": "asks the system for random octets; the cores take them as an argument",
    "dlms/simulator/reading_list.py": "reads CSV files",
    "plc/connections.py": "connections to meters that have a network address each",
    "headend/dm/jobs/desired.py": "keeps what jobs have set in the database",
    "headend/dm/jobs/queue.py": "keeps the jobs in the database",
    "plc/peers.py": "knows whom the ports of this process are connected to, for several threads",
    "plc/protocols.py": "looks for the entry points of what is installed",
    "plc/bridge.py": "drives a bridge over its port",
    "updateagent/package/payload.py": "draws the keys of its integrity tags from the system",
    "updateagent/package/readable.py": "opens package files",
    "updateagent/package/trust.py": "reads the file of the pinned roots",
    "updateagent/package/verifier.py": "reads what this device knows: roots, security floors, journal",
}
"""Modules of those rooms that stand between a core and the world, and what for."""

OPEN_TO_CORES = {
    "agent.metering.orders.order_book": {"Task"},
    "agent.metering.store.reading_store": {"Batch"},
    "agent.metering.visit.visit": {"CLOSE_S", "AttributeResult", "Visit"},
    "dlms.link.trace": {"TraceLine"},
    "dlms.security.random_octets": {"RandomOctets", "new_key_pair", "system_random"},  # defaults of arguments
    "headend.software.releases": {"NoPackageError", "PackageInfo", "choose"},
    "plc.protocols": {"Asking"},
    "updateagent.package.payload": {
        "IMAGES_MAX", "DeltaSource", "Encoding", "Image", "IntegrityTags", "Role", "Run",
    },
    "updateagent.package.readable": {"Package", "Readable", "opened", "read_exactly"},  # the reader's protocol
    "updateagent.package.trust": {"ROOTS_MAX", "Trust"},
}  # fmt: skip
"""Drivers of which a core may import a part that is pure, and the names of that part."""

MARK = re.compile(r"sans[- ]i/?o\b|\bno (i/o|input (or|and|nor) output)\b|\bpure functions\b", re.IGNORECASE)
"""How a docstring says it."""

STDLIB = frozenset(
    {
        "__future__", "abc", "array", "base64", "binascii", "bisect", "calendar", "collections", "contextlib", "copy",
        "dataclasses", "datetime", "decimal", "enum", "errno", "fractions", "functools", "hashlib", "heapq", "hmac",
        "ipaddress", "itertools", "json", "math", "operator", "re", "string", "struct", "types", "typing",
        "unicodedata", "warnings", "weakref", "zlib",
    }
)  # fmt: skip
"""What a core may import of the standard library: modules that compute. Whoever needs another one looks at it first."""

PURE = {
    "bz2.BZ2Decompressor": "bytes in, bytes out",
    "crcmod": "computes",
    "cryptography.exceptions": "errors",
    "cryptography.hazmat": "computes; what it draws from the system is caught where it is named",
    "cryptography.x509": "computes; what it draws from the system is caught where it is named",
    "cryptography.utils.CryptographyDeprecationWarning": "a type",
    "fnmatch.fnmatchcase": "text only",
    "importlib.import_module": "what it may import is checked where it is called",
    "lzma.FORMAT_XZ": "a number",
    "lzma.LZMADecompressor": "bytes in, bytes out",
    "lzma.LZMAError": "an error",
    "random.Random": "with a seed; without one it is caught where it is called",
    "urllib.parse": "text only",
    "xml.etree.ElementTree.Element": "a tree in memory",
    "xml.etree.ElementTree.SubElement": "a tree in memory",
    "xml.etree.ElementTree.TreeBuilder": "a tree in memory",
    "xml.etree.ElementTree.register_namespace": "a table in memory",
    "xml.etree.ElementTree.tostring": "octets of a tree",
    "xml.parsers.expat": "bytes in, calls out",
}
"""Parts of other modules that a core may use all the same, and why."""

UNNAMED = frozenset(
    {
        *("open", "input", "print", "breakpoint", "eval", "exec", "__import__", "__builtins__"),
        *("globals", "locals", "vars", "__loader__", "__spec__"),
    }
)
"""Builtins that a core does not even name: `f = open` is as bad as a call."""

BACK_DOORS = frozenset(
    {
        *("__builtins__", "__dict__", "__getattribute__", "__globals__", "__import__", "__loader__", "__spec__"),
        *("__subclasses__", "attrgetter", "methodcaller"),
    }
)
"""Attributes and names that lead to others by text, or to what another module imports."""

CLOCKS = frozenset({"now", "utcnow", "today"})
DRAWN = re.compile(r"generate|generate_(\w+_)?key|random_\w+|seed|urandom")

GUARDED = frozenset({"date", "datetime", "Random"})
"""Classes that are half a clock, or half a source of chance. Under another name nothing would be seen, so that a core
calls them, takes a listed constructor of them, or compares types with them, and does nothing else."""

CONSTRUCTORS = frozenset({"combine", "fromisoformat", "fromordinal", "fromtimestamp", "max", "min", "strptime"})


def cores(root: Path) -> list[Path]:
    """Every core below `root`, a folder that holds our packages."""
    rooms = [path for room in ROOMS for path in _modules(root / room)]
    marked = [path for path in modules(root) if path.name != "__init__.py" and is_marked(text(path))]
    return sorted({path for path in (*rooms, *marked) if str(path.relative_to(root)) not in DRIVERS})


def _modules(room: Path) -> Iterator[Path]:
    yield from [room] if room.suffix else room.rglob("*.py")


def is_marked(source: str) -> bool:
    """Whether a docstring in this text claims it. All files are asked at each collection of the tests, so that those
    which do not have the words at all are not parsed."""
    return MARK.search(source) is not None and any(
        MARK.search(ast.get_docstring(node) or "")
        for node in walk(parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )


@cache
def core_names() -> frozenset[str]:
    """The cores, as modules."""
    files = (path.relative_to(REPO).with_suffix("") for path in cores(REPO))
    return frozenset(".".join(file.parts).removesuffix(".__init__") for file in files)


def violations(source: str) -> list[str]:
    """What a module with this text does that a core does not: a sentence each, with the line."""
    tree = parse(source)
    found = {*_imports(tree), *_chains(tree), *_names(tree), *_guarded(tree), *_calls(tree)}
    return [f"line {line}: {what}" for line, what in sorted(found)]


# ------------------------------------------------------------------------------------------------------ what it imports


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports of what is neither a core, nor pure. Those of ours that only type checkers see are no harm."""
    running = {id(node) for node in _running(tree)}
    for node in walk(tree):
        for line, name in _imported(node):
            if not _is_allowed(name) and (id(node) in running or name.split(".")[0] not in PACKAGES):
                yield line, f"imports {name}"


def _imported(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of what a node imports, dotted, with the name that is taken from a module as the last part."""
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    elif isinstance(node, ast.Call) and last(node.func) == "import_module":
        first = node.args[0] if node.args else None
        yield node.lineno, str(first.value) if isinstance(first, ast.Constant) else "something by name"


def _chains(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Attributes of imported modules that are modules themselves, or parts of them, outside the lists: what
    `contextlib` has imported is as near as what this module has."""
    modules = dict(_modules_named(tree))
    running = {id(node) for node in _running(tree)}
    for node in walk(tree):
        if isinstance(node, ast.Attribute) and id(node) in running:
            root, _, attributes = dotted(node).partition(".")
            name = f"{modules.get(root, '')}.{attributes}"
            if name.replace(".", "").isidentifier() and root in modules and not _is_allowed(name):
                yield node.lineno, f"reaches {name}"


def _modules_named(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The names that imports give to modules, and the modules."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if isinstance(_found(f"{node.module}.{alias.name}"), ModuleType):
                    yield alias.asname or alias.name, f"{node.module}.{alias.name}"


@cache
def _is_allowed(name: str) -> bool:
    """Whether a core may take `name`: a module, or what a module has, the modules that it imports included."""
    found = _found(name)
    true_name = found.__name__ if isinstance(found, ModuleType) else name
    if name.endswith(".*"):
        return False  # nobody sees what comes
    return _is_core(true_name) if true_name.split(".")[0] in PACKAGES else _is_pure(true_name)


@cache
def _found(name: str) -> object:
    """The object of this dotted name; None for one that is not there."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:count]))
        except (ImportError, ValueError):
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found
    return None


def _is_pure(name: str) -> bool:
    parts = name.split(".")
    inner = [".".join(parts[:count]) for count in range(1, len(parts))]
    foreign = [each for each in inner if isinstance(found := _found(each), ModuleType) and found.__name__ != each]
    if any(not _is_pure(_module_name(each)) for each in foreign):
        return False
    is_part = any(f"{name}.".startswith(f"{pure}.") for pure in PURE)
    return parts[0] in STDLIB or is_part or (name in PARENTS and isinstance(_found(name), ModuleType))


def _module_name(name: str) -> str:
    found = _found(name)
    assert isinstance(found, ModuleType)
    return found.__name__


PARENTS = frozenset({"cryptography", "urllib", "xml", "xml.etree", "xml.etree.ElementTree", "xml.parsers"})
"""Modules whose name a core may write on the way to a part of `PURE`."""


def _is_core(name: str) -> bool:
    """Whether the module is a core or a room, or is the one that the name is taken from, or lends the name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        path = REPO.joinpath(*parts[:count])
        if path.with_suffix(".py").is_file():
            lent = OPEN_TO_CORES.get(module, set())
            return module in core_names() or parts[count : count + 1] in [[each] for each in lent]
        if path.is_dir():
            return count == len(parts) or module in core_names()  # what is taken from a room is judged by itself
    return False


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see: the body of `if TYPE_CHECKING`, not its `else`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and dotted(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


# -------------------------------------------------------------------------------------------------------- what it names


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Builtins that touch the world, ways around the lists, and what the system draws."""
    called = {id(node.func) for node in walk(tree) if isinstance(node, ast.Call)}
    for node in walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in UNNAMED | BACK_DOORS:
            yield node.lineno, f"names {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr in BACK_DOORS:
            yield node.lineno, f"goes around: {dotted(node)}"
        elif isinstance(node, ast.Attribute) and DRAWN.fullmatch(node.attr):
            yield node.lineno, f"draws: {dotted(node)}"
        elif isinstance(node, ast.Name | ast.Attribute) and last(node) == "import_module" and id(node) not in called:
            yield node.lineno, "hands on import_module"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if DRAWN.fullmatch(alias.name) or alias.name in BACK_DOORS:
                    yield node.lineno, f"imports {alias.name}"
                elif alias.name in GUARDED | {"import_module"} and alias.asname not in (None, alias.name):
                    yield node.lineno, f"hides {alias.name} behind another name"


def _guarded(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Mentions of a class of `GUARDED` that are neither a call, nor a constructor, nor a type."""
    named = {alias.name for node in walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names} & GUARDED
    modules = {name for name, module in _modules_named(tree) if module in ("datetime", "random")}
    fine = {id(each) for node in walk(tree) for each in _well_used(node)}
    for node in walk(tree):
        if isinstance(node, ast.Name):
            is_class = node.id in named and isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Attribute):
            is_class = node.attr in GUARDED and dotted(node.value) in modules
        else:
            continue
        if is_class and id(node) not in fine:
            yield node.lineno, f"a clock or chance under another name: {dotted(node)}"


def _well_used(node: ast.AST) -> Iterator[ast.AST]:
    """The expressions in `node` that may be a guarded class: what is called, or a type."""
    if isinstance(node, ast.Call):
        yield node.func
        if dotted(node.func) in ("isinstance", "issubclass", "cast"):
            yield from (part for argument in node.args for part in ast.walk(argument))
    elif isinstance(node, ast.Attribute) and node.attr in CONSTRUCTORS:
        yield node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from (node.left, node.right)
    elif isinstance(node, ast.MatchClass):
        yield node.cls
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns:
        yield from ast.walk(node.returns)
    elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
        yield from ast.walk(node.annotation)


# -------------------------------------------------------------------------------------------------------- what it calls


def _calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that look at a clock or at the time zone of the machine, and chance without a seed."""
    handed = {node.arg for node in walk(tree) if isinstance(node, ast.arg)}
    for node in walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and not _is_handed(node.value, handed):
            yield node.lineno, f"reads the clock: {dotted(node)}"
        elif isinstance(node, ast.Call):
            name = last(node.func)
            arguments: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
            if name == "Random" and not _is_seeded(arguments):
                yield node.lineno, "draws random numbers without a seed"
            elif len(arguments) < {"astimezone": 1, "fromtimestamp": 2}.get(name, 0):
                yield node.lineno, f"asks for the time zone of the machine: {dotted(node)}"
            elif name == "getattr" and _names_a_clock(node):
                yield node.lineno, f"reads the clock by name: {dotted(node)}"


def _is_seeded(arguments: list[ast.expr | ast.keyword]) -> bool:
    """Whether the seed is seen to be one: a literal, a text that is put together, a number or a digest."""
    if len(arguments) != 1 or isinstance(arguments[0], ast.keyword):
        return False
    seed = arguments[0]
    if isinstance(seed, ast.Call):
        return last(seed.func) in ("digest", "int")
    return isinstance(seed, ast.JoinedStr) or (isinstance(seed, ast.Constant) and seed.value is not None)


def _is_handed(node: ast.expr, handed: set[str]) -> bool:
    """Whether it is an argument, or lies in one; a class cannot be, as `_guarded` sees to it."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in handed


def _names_a_clock(call: ast.Call) -> bool:
    return any(isinstance(each, ast.Constant) and each.value in CLOCKS for each in call.args[1:2])
