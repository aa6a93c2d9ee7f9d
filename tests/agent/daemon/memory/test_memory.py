"""What the daemon does not keep in memory. The figures are measured by `python -m tests.bench memory`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from dataclasses import FrozenInstanceError, dataclass, field, replace
from pathlib import Path

import pytest

from agent.daemon.memory import generated, returned
from agent.status import QueueStatus, Status, StatusBoard
from headend import pki
from tests.agent.virtual import VirtualClock

REPO = Path(__file__).parents[4]
NOT_LOADED = {
    "agent.metering.store.carving": "no file is damaged",
    "agent.metering.store.salvage": "no file is damaged",
    "agent.metering.orders.order_visit": "no order has come",
    "agent.metering.orders.types.basic": "no order has come",
    "agent.metering.orders.types.firmware": "no order has come",
    "agent.metering.orders.types.steps": "no order has come",
    "argparse": "init starts the daemon with --config FILE",
    "calendar": "only tasks at the ends of months need it",
    "cryptography": "only a registration, a package and ciphered meters need it",
    "decimal": "values are made by who reads them, from raw value and scaler",
    "difflib": "of an error in the configuration",
    "dlms.link.hdlc": "only a bus needs it",
    "dlms.link.wrapper": "only meters on IP need it",
    "dlms.xdlms.apdu.action": "only orders and ciphered meters need it",
    "email.header": "headers of HTTP are ASCII",
    "inspect": "only dataclasses without a text of their own need it",
    "locale": "all texts are in one language",
    "logging.handlers": "of a log in a file",
    "lzma": "only a package needs it",
    "omadm.ssmp.wire": "only a registration needs it",
    "paho": "only where a broker is configured",
    "platform": "only uuid needs it",
    "shutil": "brings bz2 and lzma",
    "subprocess": "no command is configured, and no package has come",
    "stringprep": "only host names that are not ASCII need it",
    "urllib.request": "all requests go through agent.https",
    "updateagent.engine": "of the Update Agent",
    "updateagent.package": "most starts see no package",
    "xml": "DM speaks WBXML, and most starts see no descriptor",
    "uuid": "secrets makes identities as well",
    "yaml": "the configuration has been read",
}
"""Modules, with all below them, that a daemon which has started has not loaded, and why it need not."""

_START = """
import json, sys
from pathlib import Path
from agent import __main__ as program
from agent.daemon.memory.postponed import _Postponed
def run(daemon):
    print(json.dumps([name for name, one in sys.modules.items() if one and type(one) is not _Postponed]))
    return 0
program.Daemon.run = run
sys.exit(program.main(["--config", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of a daemon that is about to start its threads."""
    folder = tmp_path_factory.mktemp("start")
    # Without the tracer of `make coverage`, which would load its own modules into the daemon.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", _START, configured(folder)],
        cwd=REPO,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def configured(folder: Path) -> Path:
    (folder / "device.key").touch(mode=0o600)
    (folder / "device.key").write_text("00" * 31 + "01\n")
    (folder / "release").write_text("VERSION=1\n")
    (folder / "boot_id").write_text("1\n")
    (folder / "roots.pem").touch()
    (folder / "run").mkdir()
    pki.make(folder, ["localhost"])
    (folder / "dcu.yaml").write_text(
        f"""\
device: {{id: "urn:dcu:M", key_file: device.key, man: M, mod: D, hw_version: "1", release_file: release}}
security_server: {{url: "https://127.0.0.1:9/ssmp", ca_file: ca.pem}}
dm: {{push_listen: {{host: 127.0.0.1, port: 0}}}}
ports: [{{name: plc0, protocol: prime-usi, url: plc}}]
metering: {{reading_lists_dir: {REPO}/etc/reading-lists}}
update: {{dir: update, run_dir: run, boot_id_file: boot_id, roots: roots.pem, compatible: HW, command: ["true"]}}
state_dir: state
control_socket: control.sock
reboot_command: ["true"]
"""
    )
    return folder / "dcu.yaml"


@pytest.mark.xdist_group("a start")  # one daemon says for all of them
@pytest.mark.parametrize("name", sorted(NOT_LOADED))
def test_a_start_does_not_load(loaded: set[str], name: str) -> None:
    assert not sorted(one for one in loaded if f"{one}.".startswith(f"{name}.")), NOT_LOADED[name]


@pytest.mark.slow
def test_a_start_loads_what_a_collection_needs(loaded: set[str]) -> None:
    """What is told above of absent modules would be true of a daemon that was not made."""
    assert {"agent.metering.collector", "agent.dm.service", "agent.ota.worker", "ssl", "sqlite3"} <= loaded


@pytest.mark.slow
def test_the_first_class_of_a_frozen_dataclass_is_freed() -> None:
    @dataclass(frozen=True, slots=True)
    class Frozen:
        a: int = 0

    classes = [weakref.ref(one) for one in object.__subclasses__() if one.__qualname__ == Frozen.__qualname__]
    generated.replace_generated()
    returned.after_start(generated=False)
    assert [one() for one in classes if one() is not None] == [Frozen]
    with pytest.raises(FrozenInstanceError):
        Frozen().a = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del Frozen().a
    assert replace(Frozen(), a=2) == Frozen(2)


@pytest.mark.slow
def test_dataclasses_with_shared_functions_behave_as_before() -> None:
    @dataclass(frozen=True)
    class Frozen:
        a: int
        b: object = field(default=None, repr=False)

    class Child(Frozen):
        pass

    @dataclass
    class Own:
        a: list[object]

    @dataclass(repr=False)
    class Named:
        a: int = 1

        def __repr__(self) -> str:
            return "named"

    returned.after_start(generated=True)
    child, own = Child(1), Own([2])
    own.a.append(own)
    assert (repr(Frozen(1, 2)).rpartition(".")[2], repr(Named())) == ("Frozen(a=1)", "named")
    assert repr(own).endswith("Own(a=[2, ...])")
    child.c = 3  # type: ignore[attr-defined]
    del child.c  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'a'"):
        child.a = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'c'"):
        del Frozen(1).c  # type: ignore[attr-defined]
    own.a = []
    assert Frozen.__repr__ is Own.__repr__
    assert own == Own([])


def test_functions_of_dataclasses_are_made_when_they_are_first_used() -> None:
    code = """
import dataclasses, sys
from dataclasses import FrozenInstanceError, dataclass, field
from agent.daemon.memory import generated

def classes():
    @dataclass(frozen=True, slots=True, order=True)
    class Frozen:
        a: int
        b: object = field(default=None, repr=False, compare=False)

    @dataclass(slots=True)
    class Child:
        a: list = field(default_factory=list)
        c: dataclasses.InitVar[int] = 1
        def __post_init__(self, c):
            self.a.append(c)

    @dataclass
    class Parent:
        x: int

    @dataclass
    class Heir(Parent):
        y: float = float("nan")
        def __eq__(self, other):
            return super().__eq__(other)

    return Frozen, Child, Parent, Heir

def told(maker):
    Frozen, Child, Parent, Heir = maker()
    try:
        Frozen(1).a = 2
        refused = False
    except FrozenInstanceError as error:
        refused = str(error)
    try:
        Frozen()
        lacks = False
    except TypeError as error:
        lacks = str(error)
    return [
        repr(Frozen(1, 2)), hash(Frozen(3)) == hash((3,)), Frozen(1, 2) == Frozen(1, 3), Frozen(1) == Frozen(2),
        Frozen(1) == Child(), Frozen(1) < Frozen(2), sorted([Frozen(2), Frozen(1)])[0].a, refused, lacks,
        Child(c=3).a, Child().a, Parent(1) == Parent(1), Heir(1) == Heir(1), Heir(2, 3.0).y, Heir.__hash__,
        dataclasses.replace(Frozen(1), a=5), dataclasses.astuple(Heir(1, 2.0)),
        *(cls.__init__.__name__ for cls in (Frozen, Child, Parent, Heir)),
    ]

before = repr(told(classes))
if sys.version_info >= (3, 13):
    assert not generated.install() and repr(told(classes)) == before
    sys.exit()
assert generated.install()
assert repr(told(classes)) == before, (told(classes), before)
Frozen, *_ = classes()
code = Frozen.__init__.__code__
first = Frozen(1)
assert Frozen.__init__.__code__ is not code and code.co_filename.endswith("generated.py")
assert Frozen.__hash__.__code__.co_filename.endswith("generated.py")
assert {first: 1}[Frozen(1)]
assert Frozen.__hash__.__code__.co_filename == Frozen.__eq__.__code__.co_filename == "<string>"
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_dataclasses_of_an_interpreter_that_is_not_known_are_left_as_they_are() -> None:
    code = """
import dataclasses
from agent.daemon.memory import generated
made = dataclasses._init_fn
dataclasses._hash_fn = lambda fields: None
assert not generated.install() and dataclasses._init_fn is made
"""
    if sys.version_info >= (3, 13):
        pytest.skip("it has no such function")
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_a_postponed_module_is_loaded_by_its_first_use() -> None:
    code = """
from agent.daemon.memory.postponed import postpone
postpone()
import dataclasses, sys
assert "ast" not in sys.modules
@dataclasses.dataclass
class Plain:
    a: int
import inspect
assert Plain.__doc__ == "Plain(a: int)" and inspect.__file__ and dataclasses.inspect.signature is inspect.signature
"""
    subprocess.run([sys.executable, "-S", "-c", code], cwd=REPO, check=True)


def test_texts_are_dropped_and_everything_works_as_before() -> None:
    code = """
import dataclasses, json
from agent.daemon.memory import generated, returned
assert generated.install() or True
def annotated(a: int) -> str: ...
@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    "A text."
    a: int
    b: dataclasses.InitVar[int] = 2
    def __post_init__(self, b):
        "A text."
        assert b == 2
returned.drop_texts()
assert annotated.__annotations__ == returned.Trim.tick.__annotations__ == Kept.__post_init__.__annotations__ == {}
assert (json.__doc__, returned.__doc__, returned.Trim.__doc__, json.JSONEncoder.__doc__, Kept.__doc__) == (None,) * 5
assert int.__doc__ and returned.Trim.tick.__doc__
@dataclasses.dataclass(frozen=True, slots=True)
class Heir(Kept):
    c: int = 5
assert not hasattr(Kept, "__annotations__") or "a" not in vars(Kept).get("__annotations__", {})
assert (Heir(1), Kept(1) == Kept(1)) == (Heir(a=1, c=5), True)
assert [field.name for field in dataclasses.fields(Heir)] == ["a", "c"]
assert dataclasses.replace(Heir(1), b=2, c=6).c == 6
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_a_module_without_a_docstring_is_passed_over() -> None:
    """`cryptography` puts libraries of C among the modules, which refuse to be asked for one: a daemon with a
    certificate for its secret did not start."""
    code = """
import sys
from types import ModuleType
from agent.daemon.memory import returned
class Library(ModuleType):
    def __getattribute__(self, name):
        if name == "__doc__":
            raise AttributeError("no function, constant or global variable named '__doc__'")
        return super().__getattribute__(name)
sys.modules["library"] = Library("library")
returned.drop_texts()
assert returned.__doc__ is None
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_memory_is_trimmed_once_after_the_last_delivery() -> None:
    board, clock = StatusBoard(Status()), VirtualClock()
    trim = returned.Trim(board, clock)
    due = []
    for second in range(12):
        if second < 4:
            board.publish(queue=QueueStatus(last_uplink=clock.wall()))
        trim.tick()
        due.append(trim.due)
        clock.advance(1)
    assert due == [True] * 6 + [False] * 6
