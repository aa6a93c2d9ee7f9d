"""One truth each: a constant with a name and a value has one home, and who needs it imports it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "dlms", "headend", "omadm", "plc", "updateagent")

# Equal by chance: each could change without the others, and for another reason.
CHANCE = {
    "ACCEPT_S": "how often one worker looks at `stop`",
    "ANSWER_TIMEOUT_S": "patience of one data link",
    "BODY_BYTES_MAX": "an HTTP answer; a DM message",
    "BURST": "notifications that a device takes; requests that the head-end takes",
    "BLOCK_BYTES": "what a slot is written by; the block of a hash tree, which is part of the package's format",
    "CERTIFICATE_BYTES_MAX": "certificates of meters; certificates of the signers of packages",
    "CHUNK_BYTES": "read sizes of two programs",
    "CONNECT_TIMEOUT_S": "patience of one kind of port",
    "DAY_S": "a unit",
    "DEPTH_MAX": "nesting of the tree; nesting of A-XDR",
    "DETAIL_CHARS_MAX": "what one writes; what another, of any version, accepts",
    "EXIT_OK": "what every program on Unix returns",
    "EXIT_REFUSED": "exit codes of two programs",
    "FILE_BYTES_MAX": "limits of three kinds of files",
    "FLAG": "HDLC's flag as a number and as an octet, and that of USI, which took it over",
    "FORMAT_VERSION": "versions of two formats",
    "FRUITLESS_MAX": "patience with a profile; patience with an image",
    "HEADER_BYTES": "headers of two protocols",
    "INTER_OCTET_TIMEOUT_S": "the defaults of two ends, each of which is set by itself",
    "JOBS_MAX": "jobs of two kinds",
    "LIST": "choices of GET and of ACTION, numbered by themselves",
    "LIST_FIRST_BLOCK": "choices of SET and of ACTION, numbered by themselves",
    "LOCK_POLL_S": "polls of two locks",
    "LOOK_EVERY_S": "how often one worker looks",
    "MESSAGE_CHARS_MAX": "what one writes; what another, of any version, accepts",
    "NAME_BYTES_MAX": "names of meters; names in an archive",
    "NODES_MAX": "nodes of the management tree; nodes of a power line",
    "PAGE_MAX": "pages of two lists",
    "NORMAL": "choices of GET, SET and ACTION, numbered by themselves",
    "POLL_S": "polls of three programs",
    "PRIORITY_MAX": "priorities of tasks; priorities of orders",
    "READ_BYTES_MAX": "one read(2) of one driver",
    "TEXT_CHARS_MAX": "texts of three kinds of documents",
    "TURNAROUND_FACTOR": "patience of the collector; patience of a timer of HDLC",
    "VERSION": "versions of ten formats",
    "WINDOW_DEFAULT": "windows of two protocols",
}


def constants(sources: dict[str, str]) -> dict[tuple[str, object], set[str]]:
    """Name and value of the numbers and texts that modules name in capitals, and the modules."""
    found: dict[tuple[str, object], set[str]] = defaultdict(set)
    for file, source in sources.items():
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                target, value = statement.targets[0], statement.value
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                target, value = statement.target, statement.value
            else:
                continue
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for name, given in pairs:
                if isinstance(name, ast.Name) and name.id.isupper() and not name.id.startswith("_"):
                    number = folded(given)
                    if number is not None:
                        found[name.id, number].add(file)
    return found


def folded(value: ast.expr) -> object:
    """The number, text or octets that an expression of literals gives; None for anything else."""
    if any(
        not isinstance(node, ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.expr_context)
        for node in ast.walk(value)
    ):
        return None
    return eval(compile(ast.Expression(value), "constant", "eval"))  # of literals only


def copies(sources: dict[str, str]) -> dict[str, set[str]]:
    return {name: files for (name, _), files in constants(sources).items() if len(files) > 1 and name not in CHANCE}


def ours() -> dict[str, str]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


def test_no_constant_has_two_homes() -> None:
    assert copies(ours()) == {}


def test_every_chance_is_one_still() -> None:
    twice = {name for (name, _), files in constants(ours()).items() if len(files) > 1}
    assert set(CHANCE) - twice == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TRIES_MAX = 9", "TRIES_MAX = 9"),
        ("LSDU_BYTES_MAX = 1 << 10", "LSDU_BYTES_MAX: Final = 1024"),
        ("FIFO, LIFO = 1, 2", "FIFO = 1"),
        ("MIME = 'text/x'", 'MIME: Final = "text/x"'),
    ],
)
def test_a_second_copy_is_seen(one: str, other: str) -> None:
    assert list(copies({"a.py": one, "b.py": other}).values()) == [{"a.py", "b.py"}]


def test_another_value_is_another_constant() -> None:
    assert copies({"a.py": "TRIES_MAX = 9", "b.py": "TRIES_MAX = 8", "c.py": "TRIES_MAX = tries()"}) == {}
