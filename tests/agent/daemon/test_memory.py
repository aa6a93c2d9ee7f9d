"""What the daemon does not keep in memory. The figures are measured by `python -m tests.bench memory`."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from dataclasses import FrozenInstanceError, dataclass, field, replace
from pathlib import Path

import pytest

from agent.daemon import memory
from agent.status import QueueStatus, Status, StatusBoard
from headend import pki
from tests.agent.virtual import VirtualClock

REPO = Path(__file__).parents[3]
NOT_LOADED = {
    "agent.metering.orders.order_visit": "no order has come",
    "agent.metering.orders.types.basic": "no order has come",
    "agent.metering.orders.types.firmware": "no order has come",
    "agent.metering.orders.types.steps": "no order has come",
    "argparse": "init starts the daemon with --config FILE",
    "cryptography": "only a registration, a package and ciphered meters need it",
    "decimal": "values are made by who reads them, from raw value and scaler",
    "difflib": "of an error in the configuration",
    "dlms.link.hdlc": "only a bus needs it",
    "dlms.link.wrapper": "only meters on IP need it",
    "dlms.xdlms.apdu.action": "only orders and ciphered meters need it",
    "inspect": "only dataclasses without a text of their own need it",
    "locale": "all texts are in one language",
    "logging.handlers": "of a log in a file",
    "lzma": "only a package needs it",
    "omadm.ssmp.wire": "only a registration needs it",
    "paho": "only where a broker is configured",
    "platform": "only uuid needs it",
    "shutil": "brings bz2 and lzma",
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
from agent.daemon.postponed import _Postponed
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
    done = subprocess.run(
        [sys.executable, "-c", _START, configured(folder)], cwd=REPO, capture_output=True, text=True, check=False
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
    memory.after_start()
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

    memory.after_start()
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


def test_a_postponed_module_is_loaded_by_its_first_use() -> None:
    code = """
from agent.daemon.postponed import postpone
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


def test_texts_of_modules_and_classes_are_dropped() -> None:
    code = """
import json
from agent.daemon import memory
memory.drop_texts()
assert (json.__doc__, memory.__doc__, memory.Trim.__doc__, json.JSONEncoder.__doc__) == (None,) * 4
assert int.__doc__ and memory.Trim.tick.__doc__
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_memory_is_trimmed_once_after_the_last_delivery() -> None:
    board, clock = StatusBoard(Status()), VirtualClock()
    trim = memory.Trim(board, clock)
    due = []
    for second in range(12):
        if second < 4:
            board.publish(queue=QueueStatus(last_uplink=clock.wall()))
        trim.tick()
        due.append(trim.due)
        clock.advance(1)
    assert due == [True] * 6 + [False] * 6
