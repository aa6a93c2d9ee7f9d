"""One truth each: a constant with a name and a value has one home, and who needs it imports it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.architecture.trees import REPO, modules, parse, text

# Equal by chance: each could change without the others, and for another reason.
CHANCE: dict[str, tuple[str, set[str]]] = {
    "ANSWER_TIMEOUT_S": (
        "patience of one data link",
        {"dlms/link/hdlc/primary.py", "dlms/link/llc.py"},
    ),
    "BODY_BYTES_MAX": (
        "an HTTP answer; a DM message",
        {"agent/https.py", "omadm/syncml/element.py"},
    ),
    "BLOCK_BYTES": (
        "what a slot is written by; the block of a hash tree, which is part of the package's format",
        {"updateagent/package/verity.py", "updateagent/slots/block.py"},
    ),
    "CERTIFICATE_BYTES_MAX": (
        "certificates of meters; certificates of the signers of packages",
        {"dlms/security/certificates.py", "updateagent/package/certificate.py"},
    ),
    "CHUNK_BYTES": (
        "read sizes of two programs",
        {"agent/https.py", "headend/software/app.py"},
    ),
    "CONNECT_TIMEOUT_S": (
        "patience of one kind of port",
        {"dlms/link/mode_e/meter.py", "dlms/link/port.py", "plc/connections.py"},
    ),
    "DAY_S": (
        "a unit",
        {"agent/settings/config.py", "headend/retention.py", "omadm/schedule.py"},
    ),
    "DEPTH_MAX": (
        "nesting of the tree; nesting of A-XDR",
        {"agent/tree/schema.py", "dlms/axdr.py"},
    ),
    "DETAIL_CHARS_MAX": (
        "what one writes; what another, of any version, accepts",
        {"agent/daemon/health.py", "updateagent/engine/health.py"},
    ),
    "EXIT_OK": (
        "what every program on Unix returns",
        {"agent/daemon/check.py", "agent/daemon/supervisor.py", "updateagent/errors.py"},
    ),
    "EXIT_REFUSED": (
        "exit codes of two programs",
        {"agent/cli/__main__.py", "dlms/cli/connect.py"},
    ),
    "FILE_BYTES_MAX": (
        "limits of three kinds of files",
        {"agent/metering/scheduling/readinglist.py", "agent/settings/reader.py", "updateagent/fast_path.py"},
    ),
    "FLAG": (
        "HDLC's flag as a number and as an octet, and that of USI, which took it over",
        {"dlms/link/hdlc/frames.py", "plc/prime/usi.py"},
    ),
    "FORMAT_VERSION": (
        "versions of two formats",
        {"updateagent/package/description.py", "updateagent/package/roots.py"},
    ),
    "FRUITLESS_MAX": (
        "patience with a profile; patience with an image",
        {"dlms/client/image_transfer.py", "dlms/client/profile.py"},
    ),
    "HEADER_BYTES": (
        "headers of two protocols",
        {"dlms/link/wrapper.py", "omadm/notification.py"},
    ),
    "INTER_OCTET_TIMEOUT_S": (
        "the defaults of two ends, each of which is set by itself",
        {"dlms/link/hdlc/primary.py", "dlms/link/hdlc/secondary.py"},
    ),
    "JOBS_MAX": (
        "jobs of two kinds",
        {"agent/jobs/orders.py", "agent/jobs/software.py"},
    ),
    "LIST": (
        "choices of GET and of ACTION, numbered by themselves",
        {"dlms/xdlms/apdu/action.py", "dlms/xdlms/apdu/get.py"},
    ),
    "LIST_FIRST_BLOCK": (
        "choices of SET and of ACTION, numbered by themselves",
        {"dlms/xdlms/apdu/action.py", "dlms/xdlms/apdu/set.py"},
    ),
    "LOCK_POLL_S": (
        "polls of two locks",
        {"updateagent/boot/uboot/env.py", "updateagent/compose.py"},
    ),
    "LOOK_EVERY_S": (
        "how often one worker looks",
        {
            "agent/daemon/clock_steps.py",
            "agent/daemon/order_jobs.py",
            "agent/daemon/reboot.py",
            "agent/dm/service.py",
            "agent/metering/ports/portreader.py",
            "agent/metering/ports/probe.py",
            "agent/ota/worker.py",
        },
    ),
    "MESSAGE_CHARS_MAX": (
        "what one writes; what another, of any version, accepts",
        {"agent/ota/update_command.py", "updateagent/engine/steps.py"},
    ),
    "NAME_BYTES_MAX": (
        "names of meters; names in an archive",
        {"agent/metering/registry/entry.py", "updateagent/package/cpio.py"},
    ),
    "NODES_MAX": (
        "nodes of the management tree; nodes of a power line",
        {"agent/tree/tree.py", "headend/operator/networks.py", "plc/prime/link.py", "plc/prime/topology.py"},
    ),
    "PAGE_MAX": (
        "pages of two lists",
        {"headend/metering/events.py", "headend/metering/gaps.py", "headend/metering/readings.py"},
    ),
    "NORMAL": (
        "choices of GET, SET and ACTION, numbered by themselves",
        {"dlms/xdlms/apdu/action.py", "dlms/xdlms/apdu/get.py", "dlms/xdlms/apdu/set.py"},
    ),
    "POLL_S": (
        "polls of three programs",
        {"agent/clock.py", "agent/ota/update_command.py", "headend/operator/commands.py"},
    ),
    "PRIORITY_MAX": (
        "priorities of tasks; priorities of orders",
        {"agent/mo/sched.py", "omadm/orders.py"},
    ),
    "READ_BYTES_MAX": (
        "one read(2) of one driver",
        {"dlms/cli/listeners.py", "dlms/link/port.py", "plc/connections.py"},
    ),
    "TEXT_CHARS_MAX": (
        "texts of three kinds of documents",
        {"agent/status.py", "agent/tree/acl.py", "omadm/bootstrap.py"},
    ),
    "TURNAROUND_FACTOR": (
        "patience of the collector; patience of a timer of HDLC",
        {"agent/metering/ports/patience.py", "dlms/link/hdlc/timer.py"},
    ),
    "VERSION": (
        "versions of thirteen formats",
        {
            "agent/metering/access/keystore.py",
            "agent/metering/orders/journal.py",
            "agent/metering/registry/added.py",
            "agent/metering/registry/registry_file.py",
            "agent/metering/scheduling/epoch_file.py",
            "agent/ota/download_state.py",
            "agent/tree/persistence.py",
            "dlms/link/wrapper.py",
            "dlms/security/counters.py",
            "headend/config.py",
            "omadm/readings.py",
            "updateagent/engine/sealed.py",
            "updateagent/handover.py",
        },
    ),
    "WINDOW_DEFAULT": (
        "windows of two protocols",
        {"dlms/link/hdlc/params.py", "dlms/xdlms/gbt.py"},
    ),
}


# Equal texts of different things.
EQUAL_VALUES = {
    "re.compile('[0-9a-f]{64}')": {
        "updateagent/package/description.py: _DIGEST",  # of an image
        "updateagent/package/roots.py: _FINGERPRINT",  # of a certificate
    },
}


def constants(sources: dict[str, str]) -> dict[tuple[str, object], set[str]]:
    """Name and value of what modules name in capitals, and the modules: a number or text, or else the expression."""
    found: dict[tuple[str, object], set[str]] = defaultdict(set)
    for file, source in sources.items():
        for name, value in assigned(source):
            found[name, folded(value)].add(file)
    return found


def by_value(sources: dict[str, str]) -> dict[str, set[str]]:
    """Expressions that say something by themselves, and where they are, whatever the name and private ones too."""
    found: dict[str, set[str]] = defaultdict(set)
    for file, source in sources.items():
        for name, value in assigned(source, private=True):
            if tells(value):
                found[ast.unparse(value)].add(f"{file}: {name}")
    return found


def by_members(sources: dict[str, str]) -> dict[frozenset[str], set[str]]:
    """Tuples, lists and sets of two texts or more, without their order, and where they are, whatever their names."""
    found: dict[frozenset[str], set[str]] = defaultdict(set)
    for file, source in sources.items():
        for name, value in assigned(source, private=True):
            inner = value.args[0] if isinstance(value, ast.Call) and len(value.args) == 1 else value
            if isinstance(inner, ast.Tuple | ast.Set | ast.List) and len(inner.elts) > 1:
                literals = [one.value for one in inner.elts if isinstance(one, ast.Constant)]
                texts = [one for one in literals if isinstance(one, str)]
                if len(texts) == len(inner.elts):
                    found[frozenset(texts)].add(f"{file}: {name}")
    return found


def tells(value: ast.expr) -> bool:
    """Whether nobody writes this twice by chance: what is made of a text, or a tuple or set of three or more."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) != "logging.getLogger":
        inner = value.args[0] if len(value.args) == 1 else None
        made_of = isinstance(inner, ast.Constant) and isinstance(inner.value, str | bytes) and len(inner.value) > 5
        return made_of or (isinstance(inner, ast.Tuple | ast.Set | ast.List) and len(inner.elts) > 2)
    is_long_text = isinstance(value, ast.Constant) and isinstance(value.value, str) and len(value.value) > 14
    return is_long_text or (isinstance(value, ast.Tuple) and len(value.elts) > 2)


def assigned(source: str, private: bool = False) -> Iterator[tuple[str, ast.expr]]:
    for statement in parse(source).body:
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
            if (
                isinstance(name, ast.Name)
                and name.id.isupper()
                and name.id != "LOG"
                and (private or not name.id.startswith("_"))
            ):
                yield name.id, given


def folded(value: ast.expr) -> object:
    """The number, text or octets that an expression of literals gives; the text of any other expression."""
    if any(
        not isinstance(node, ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.expr_context)
        for node in ast.walk(value)
    ):
        return ast.unparse(value), "expression"
    return eval(compile(ast.Expression(value), "constant", "eval"))  # of literals only


def copies(sources: dict[str, str]) -> dict[str, set[str]]:
    """Names that have equal values in several files, unless `CHANCE` names just these; and the files."""
    return {
        name: files
        for (name, _), files in constants(sources).items()
        if len(files) > 1 and not files <= CHANCE.get(name, ("", set()))[1]
    }


def same_values(sources: dict[str, str]) -> dict[str, set[str]]:
    return {
        value: homes
        for value, homes in by_value(sources).items()
        if len({home.partition(":")[0] for home in homes}) > 1 and value not in EQUAL_VALUES
    }


def same_members(sources: dict[str, str]) -> dict[frozenset[str], set[str]]:
    return {
        texts: homes
        for texts, homes in by_members(sources).items()
        if len({home.partition(":")[0] for home in homes}) > 1
    }


def ours() -> dict[str, str]:
    return {str(file.relative_to(REPO)): text(file) for file in modules(REPO)}


def test_no_constant_has_two_homes() -> None:
    assert copies(ours()) == {}


def test_no_pattern_table_or_long_text_has_two_homes_under_two_names() -> None:
    assert same_values(ours()) == {}


def test_no_table_of_texts_has_two_homes_whatever_its_order() -> None:
    assert same_members(ours()) == {}


def test_every_chance_is_one_still() -> None:
    twice: dict[str, set[str]] = defaultdict(set)
    for (name, _), files in constants(ours()).items():
        if len(files) > 1:
            twice[name] |= files
    assert [name for name, (_, files) in CHANCE.items() if not files <= twice[name]] == []
    values = by_value(ours())
    assert [value for value, homes in EQUAL_VALUES.items() if values[value] != homes] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TRIES_MAX = 9", "TRIES_MAX = 9"),
        ("LSDU_BYTES_MAX = 1 << 10", "LSDU_BYTES_MAX: Final = 1024"),
        ("FIFO, LIFO = 1, 2", "FIFO = 1"),
        ("MIME = 'text/x'", 'MIME: Final = "text/x"'),
        ('REF = AttributeRef.parse("8/1")', "REF = AttributeRef.parse('8/1')"),
        ("DONE = Outcome(Code.SUCCESS)", "DONE = Outcome(Code.SUCCESS)"),
    ],
)
def test_a_second_copy_is_seen(one: str, other: str) -> None:
    assert list(copies({"a.py": one, "b.py": other}).values()) == [{"a.py", "b.py"}]


def test_another_value_is_another_constant() -> None:
    assert copies({"a.py": "TRIES_MAX = 9", "b.py": "TRIES_MAX = 8", "c.py": "TRIES_MAX = tries()"}) == {}


@pytest.mark.parametrize(
    "value",
    ["re.compile('[*?]{2}')", "('get', 'set', 'allow')", "frozenset((A.B, A.C, A.D))", "'urn:x:mo:account:1.0'"],
)
def test_a_second_copy_under_another_name_is_seen(value: str) -> None:
    assert len(same_values({"a.py": f"_ONE = {value}", "b.py": f"OTHER = {value}"})) == 1
    assert same_values({"a.py": f"_ONE = {value}\nTWO = {value}"}) == {}


def test_a_chance_is_one_in_the_files_that_it_names_only() -> None:
    _, files = CHANCE["DAY_S"]
    sources = dict.fromkeys(files, "DAY_S = 86400")
    assert copies(sources) == {}
    assert set(copies(sources | {"omadm/x.py": "DAY_S = 86400"})) == {"DAY_S"}


@pytest.mark.parametrize("other", ["('b', 'a')", "frozenset({'a', 'b'})", "{'b', 'a'}", "['a', 'b']"])
def test_a_second_table_of_the_same_texts_is_seen(other: str) -> None:
    assert len(same_members({"a.py": "KINDS = ('a', 'b')", "b.py": f"_OTHERS: Final = {other}"})) == 1
    assert same_members({"a.py": "KINDS = ('a', 'b')", "b.py": "KINDS = ('a', 'b', 'c')", "c.py": "ONE = ('a',)"}) == {}
