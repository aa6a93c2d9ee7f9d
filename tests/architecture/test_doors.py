"""The architecture holds, and what guards it notices when it does not."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dlms
from tests.architecture import by_name, drawing, sans_io
from tests.architecture.trees import PACKAGES, REPO, last, nodes, text

CONTRACTS = REPO / ".importlinter"


def lint(folder: Path) -> tuple[int, str]:
    """import-linter over the packages in `folder`, with the contracts that lie there."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def copied(folder: Path) -> Path:
    """A copy of the packages and of the contracts in `folder`, for whoever wants to change them."""
    for package in PACKAGES:
        shutil.copytree(REPO / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CONTRACTS, folder)
    return folder


@pytest.mark.process
def test_every_import_points_the_right_way_those_by_name_too(tmp_path: Path) -> None:
    by_name.write_out(copied(tmp_path))
    code, said = lint(tmp_path)
    assert code == 0, said


PLANTED = {
    "packages": ("dlms/cursor.py", "import omadm.codes"),
    "plc": ("plc/prime/usi.py", "from dlms.axdr import Data"),
    "headend": ("headend/web.py", "from updateagent.engine import journal"),
    "image": ("updateagent/__main__.py", "def late():\n    from updateagent.buildhost import pack"),
    "dlms": ("dlms/security/hls.py", "from dlms.xdlms import acse"),
    "updateagent": ("updateagent/package/der.py", "from updateagent.slots import block"),
    "omadm": ("omadm/auth.py", "from omadm import bootstrap"),
    "agent": ("agent/mo/devinfo.py", "def late():\n    from agent.dm import service"),
    "headend-rooms": ("headend/dm/tables.py", "from headend.operator import app"),
    "cycles": (
        "dlms/explain/node.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dlms.explain import values",
    ),
    "unplaced": ("dlms/newcomer.py", "X = 1"),
}
"""Contract → a module and what is planted there. The last one is a module that no layer names."""


def contract_names() -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(CONTRACTS)
    prefix = "importlinter:contract:"
    return {name.removeprefix(prefix): parser[name]["name"] for name in parser.sections() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What import-linter says of each violation, planted alone into a copy of the packages."""
    folder = copied(tmp_path_factory.mktemp("spoiled"))
    said = {}
    for contract, (file, planted) in PLANTED.items():
        path = folder / file
        before = path.read_text(encoding="utf-8") if path.exists() else None
        path.write_text(f"{before or ''}\n{planted}\n", encoding="utf-8")
        code, said[contract] = lint(folder)
        assert code == 1, f"{contract}: {said[contract]}"
        if before is None:
            path.unlink()
        else:
            path.write_text(before, encoding="utf-8")
    return said


@pytest.mark.process
@pytest.mark.parametrize("contract", sorted(PLANTED))
def test_a_planted_import_breaks_its_contract(spoiled: dict[str, str], contract: str) -> None:
    name = contract_names()["dlms" if contract == "unplaced" else contract]
    assert re.search(rf"^{re.escape(name)}.*BROKEN$", spoiled[contract], re.MULTILINE)


def test_the_contract_of_the_build_host_names_all_that_lies_outside_it() -> None:
    parser = configparser.ConfigParser()
    parser.read(CONTRACTS)
    inside = {
        f"updateagent.{path.stem}"
        for path in (REPO / "updateagent").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    outside = {*PACKAGES, *inside} - {"updateagent", "updateagent.buildhost"}
    assert set(parser["importlinter:contract:image"]["source_modules"].split()) == outside
    # The package itself cannot be named there without all that is below it, the build host included.
    init = REPO / "updateagent" / "__init__.py"
    assert not [node for node in nodes(init) if isinstance(node, (ast.Import, ast.ImportFrom))]


@pytest.mark.process
@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        ("updateagent/boot/policy.py", 'ROW = ("updateagent.boot.rauc:RaucPolicy",)', "cycles"),
        ("updateagent/slots/block.py", 'TYPES = {"ubi": "updateagent.slots.flash:UbiSlot"}', "cycles"),
        ("plc/prime/usi.py", 'def late():\n    return import_module("dlms.client.meter")', "plc"),
    ],
)
def test_an_import_by_name_breaks_a_contract_too(tmp_path: Path, file: str, planted: str, contract: str) -> None:
    path = copied(tmp_path) / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{planted}\n", "utf-8")
    assert lint(tmp_path)[0] == 0, "import-linter sees it by itself"
    by_name.write_out(tmp_path)
    code, said = lint(tmp_path)
    assert code == 1
    assert re.search(rf"^{re.escape(contract_names()[contract])}.*BROKEN$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ('X = "updateagent.boot.grub:GrubStore"', ["updateagent.boot.grub"]),
        ('X = ("updateagent.boot", "other.boot", "updateagent", "updateagent.no_such")', ["updateagent.boot"]),
        ('X = "updateagent.boot.grub:GrubStore.load"', ["updateagent.boot.grub"]),
        ('X = import_module("dlms")', ["dlms"]),
        ('log = logging.getLogger("agent.metering.store")', []),
        ('X = "updateagent.boot: what the boot loader shares"', []),
    ],
)
def test_which_strings_name_a_module(source: str, modules: list[str]) -> None:
    assert list(by_name.named(source, REPO)) == modules


def test_only_the_listed_functions_import_by_name() -> None:
    assert by_name.strays(REPO) == []


def test_every_listed_function_imports_by_name() -> None:
    found = set()
    for entry in by_name.IMPORTERS:
        file, name = entry.split(": ")
        for node in nodes(REPO / file):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                found |= {
                    entry
                    for part in ast.walk(node)
                    if isinstance(part, ast.Name | ast.Attribute) and last(part) in by_name.MEANS
                }
    assert found == set(by_name.IMPORTERS)


@pytest.mark.parametrize(
    "planted",
    [
        'x = import_module("dlms.link")',
        "def late(name):\n    return __import__(name)",
        "from importlib import import_module as load",
        "from importlib import *",
        "load = importlib.import_module",
        "from importlib.metadata import entry_points\nx = entry_points(group='x')",
        "x = importlib.util.spec_from_file_location('x', 'y')",
        "import runpy\nrunpy.run_module('dlms')",
    ],
)
def test_another_way_to_import_by_name_is_seen(tmp_path: Path, planted: str) -> None:
    file = tmp_path / "plc" / "x.py"
    file.parent.mkdir()
    file.write_text(planted)
    assert len(by_name.strays(tmp_path)) == 1


@pytest.mark.parametrize(
    ("argument", "is_seen"),
    [
        ('f"dlms.{name}"', True),
        ('"dlms." + name', True),
        ('".".join(("dlms", name))', True),
        ('"{}.link".format("dlms")', True),
        ("name.lower()", True),
        ("name", False),
        ('"dlms.link"', False),
    ],
)
def test_no_name_of_a_module_is_put_together(tmp_path: Path, argument: str, is_seen: bool) -> None:
    file = tmp_path / "updateagent" / "slots" / "types.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"def slot_type(name):\n    return import_module({argument})\n")
    assert bool(by_name.strays(tmp_path)) == is_seen


def test_the_door_of_dlms_shows_the_contracts_what_it_imports_by_name() -> None:
    door = nodes(REPO / "dlms" / "__init__.py")
    shown = {str(node.module) for node in door if isinstance(node, ast.ImportFrom)}
    assert {f"dlms.{home}" for home in dlms._HOMES} <= shown


def test_a_commit_is_checked_by_what_make_lint_and_make_types_run() -> None:
    recipes = re.findall(
        r"^(?:lint|types):.*\n((?:\t.*\n)+)", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    run = set(re.findall(r"\$\(BIN\)/([\w-]+(?: (?:check|format)\b)?)", "".join(recipes)))
    hooks = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
    assert {"lint-imports", "mypy", "ruff check", "ruff format"} <= run
    assert not [program for program in run if not any(entry.startswith(program) for entry in entries)]


def test_every_contract_has_a_planted_violation() -> None:
    assert set(contract_names()) == set(PLANTED) - {"unplaced"}


@pytest.mark.parametrize("core", sans_io.cores(REPO), ids=lambda path: str(path.relative_to(REPO)))
def test_a_core_does_no_input_or_output(core: Path) -> None:
    assert sans_io.violations(text(core)) == []


CLAIMS = {
    "a module": '"""What it is, sans-IO."""',
    "a class": 'class Session:\n    """A session. Sans-IO like its base."""',
    "a method": 'class Session:\n    def step(self) -> None:\n        """Take a step, sans-IO."""',
    "a function": 'def judged() -> bool:\n    """Sans I/O."""',
    "other words": 'class Trust:\n    """Decides. Does no input or output."""',
    "functions that are pure": '"""Which meters a task reads: pure functions."""',
}
"""Where and how a module says that it is a core."""


@pytest.mark.parametrize("claim", sorted(CLAIMS))
@pytest.mark.parametrize(
    "planted",
    [
        "import time\nX = time.time()",
        "import random\nX = random.random()",
        "X = open('y')",
        "from datetime import datetime\nX = datetime.now()",
    ],
)
def test_who_says_it_anywhere_is_held_to_it(tmp_path: Path, claim: str, planted: str) -> None:
    file = tmp_path / "agent" / "metering" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"{CLAIMS[claim]}\n{planted}\n")
    assert file in sans_io.cores(tmp_path)
    assert sans_io.violations(text(file))


def test_who_speaks_of_it_outside_a_docstring_is_no_core() -> None:
    assert not sans_io.is_marked("# not sans-IO\nX = 'sans-IO'")


def test_the_exceptions_are_drivers_indeed() -> None:
    for file in sans_io.DRIVERS:
        assert sans_io.violations(text(REPO / file)), f"{file} could be a core"


@pytest.mark.parametrize(
    "planted",
    [
        "import socket",
        "import select",
        "import threading",
        "import time",
        "from time import monotonic",
        "import os",
        "from os import path as where",
        "from pathlib import Path",
        "import random",
        "from random import randbytes",
        "from random import Random\nx = Random()",
        "import secrets",
        "import urllib.request",
        "from urllib.request import urlopen",
        "def late():\n    import serial",
        "from datetime import datetime\nx = datetime.now()",
        "from datetime import datetime, UTC\nx = datetime.now(UTC)",
        "import datetime\nx = datetime.datetime.utcnow()",
        "import datetime as dt\nx = dt.date.today()",
        "from datetime import datetime as when\ndef f(now=when.now): ...",
        "x = open('y')",
        "import importlib\nx = importlib.import_module('time')",
        "from importlib import import_module\nx = import_module('so' + 'cket')",
        "x = __import__('os')",
        "print('hello')",
        "import logging",
        "import builtins",
        "from dlms.link import port",
        "def late():\n    from plc.bridge import Bridge",
        "import dlms.security.counters",
        # Drivers of each package, whether or not somebody has listed them.
        "from agent import https",
        "from agent.metering.store import store_file",
        "from headend import db",
        "def late():\n    from updateagent import disk",
        "from updateagent.engine.updater import Updater",
        "from plc import connections",
        "import dlms.link.exclusive",
        "from importlib import import_module\nx = import_module('updateagent.disk')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    X = 1\nelse:\n    from dlms.link import port",
        # Modules of the standard library that nobody thought of forbidding, and libraries that talk.
        *(
            f"import {name}"
            for name in (
                *("_thread", "_socket", "posix", "ctypes", "gzip", "lzma", "zipfile", "tarfile", "codecs", "sys"),
                *("importlib", "importlib.resources", "importlib.metadata", "pkgutil", "platform", "timeit"),
                *("ftplib", "smtplib", "dbm", "shelve", "syslog", "click", "yaml"),
            )
        ),
        "from codecs import open as f",
        "from lzma import open as f",
        # Builtins that are only named, and what runs text.
        "f = open",
        "def f(how=open): ...",
        "x = eval('1')",
        "exec('import os')",
        "g = __builtins__",
        # Chance.
        "from random import Random\nx = Random(None)",
        "from random import Random as R\nx = R(x=None)",
        "from cryptography.hazmat.primitives.ciphers.aead import AESGCM\nx = AESGCM.generate_key(128)",
        "from cryptography.hazmat.primitives.asymmetric import ec\nx = ec.generate_private_key(ec.SECP256R1())",
        "from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as new",
        "from cryptography.hazmat.primitives.asymmetric import x25519\nx = x25519.X25519PrivateKey.generate()",
        # Clocks by other ways.
        "from dlms.cosem.time import datetime\nNOW = datetime.now",
        "from datetime import datetime\nD = datetime\nx = D.now()",
        "from datetime import datetime\ndef f():\n    D = datetime\n    return D.now()",
        "from datetime import datetime\nx = getattr(datetime, 'now')()",
        "from datetime import datetime\ndef f(clock):\n    clock, d = datetime, clock\n    return clock.now()",
        "from datetime import datetime\nclass A:\n    D = datetime\n    def f(self): return self.D.now()",
        "from datetime import datetime\ndef f(d=datetime): return d.now()",
        "from datetime import datetime\ndef f(d):\n    if (d := datetime): return d.now()",
        "from datetime import datetime\ndef f(d):\n    for d in (datetime,): d.now()",
        "from datetime import datetime\nx = vars(datetime)['now']",
        "from datetime import datetime\ndef f(d):\n    d = datetime\n    return getattr(d, 'now')()",
        "x = getattr(f, 'today')",
        "from datetime import datetime\nx = datetime(2026, 1, 1).astimezone()",
        "from datetime import datetime\nx = datetime.fromtimestamp(0)",
        "from datetime import datetime\nx = datetime(2026, 1, 1).now()",
        "import operator\nfrom datetime import datetime\nx = operator.methodcaller('now')(datetime)",
        "from operator import methodcaller as call",
        "import operator\nx = operator.attrgetter",
        # Modules that lie within reach of what is allowed.
        "from contextlib import os\nx = os.urandom(8)",
        "import contextlib\nx = contextlib.os.getcwd()",
        "import contextlib as c\nx = c.sys.stdin",
        "from contextlib import os as o",
        "from importlib import import_module as load\nx = load('socket')",
        "from importlib import import_module\nload = import_module",
        "from dlms.link.hdlc import frames\nx = frames.import_module('socket')",
        "import xml.etree.ElementTree\nx = xml.etree.ElementTree.parse('/etc/hostname')",
        "import xml.etree.ElementTree as ET\nx = ET.parse('/etc/hostname')",
        "from xml.etree.ElementTree import parse",
        "from cryptography.hazmat.primitives.ciphers import aead\nx = aead.os.urandom(8)",
        "import cryptography.hazmat.primitives.ciphers.aead\n"
        "x = cryptography.hazmat.primitives.ciphers.aead.os.urandom(8)",
        # More chance.
        "from random import Random\nR = Random\nx = R()",
        "from random import Random\nN = None\nx = Random(N)",
        "from random import Random\nx = Random(1).seed()",
        "from random import Random\nx = map(Random, [None])",
        "from cryptography import x509\nx = x509.random_serial_number()",
        "from cryptography.x509 import random_serial_number",
        "from cryptography.fernet import Fernet\nx = Fernet(b'').encrypt(b'')",
        # Builtins by text.
        "x = globals()['__builtins__']['open']",
        "x = violations.__globals__['os']",
        "import contextlib\nx = contextlib.__dict__['os']",
        # Drivers of ours by way of a room or of a part that is open.
        "from dlms import link\nx = link.port.open_port",
        "import dlms.link\nx = dlms.link.port.open_port",
        "from dlms.link import *",
        "from plc import protocols\nx = protocols.entry_points()",
        "from plc.protocols import find",
        "import plc.protocols",
        "from updateagent.package.readable import FileReader",
    ],
)
@pytest.mark.slow
def test_each_kind_of_input_and_output_is_noticed_in_a_core(planted: str) -> None:
    source = (REPO / "dlms" / "link" / "hdlc" / "frames.py").read_text(encoding="utf-8")
    assert sans_io.violations(source) == []
    assert len(sans_io.violations(f"{source}\n{planted}\n")) >= 1


@pytest.mark.parametrize(
    "harmless",
    [
        "from urllib.parse import urlsplit",
        "import urllib.parse",
        "from random import Random\nx = Random(7)",
        "from datetime import datetime\nx = datetime(2026, 1, 1)",
        "def f(clock): return clock.now()",
        "def f(self):\n    return self._clock.now()",
        "from lzma import LZMADecompressor",
        "def f(ports): return ports.open()",
        "from omadm.codes import Code\nimport dlms.cursor",
        "import calendar",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dlms.link.port import Port",
        "from plc.protocols import Asking",
        "import contextlib\nwith contextlib.suppress(ValueError): pass",
        "from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC).astimezone(UTC)",
        "from datetime import date, datetime\ndef f(x: datetime | int) -> date: return isinstance(x, (date, datetime))",
        "def f(facts): return facts.now + 1",
    ],
)
def test_what_is_pure_is_left_alone(harmless: str) -> None:
    assert sans_io.violations(harmless) == []


def test_what_is_open_to_cores_is_used_by_one() -> None:
    """A driver lends no name that nobody takes, and none is lent by what is a core itself."""
    taken: dict[str, set[str]] = {module: set() for module in sans_io.OPEN_TO_CORES}
    for core in sans_io.cores(REPO):
        for node in nodes(core):
            if isinstance(node, ast.ImportFrom) and node.module in taken:
                taken[node.module] |= {alias.name for alias in node.names}
    assert [module for module, names in sans_io.OPEN_TO_CORES.items() if names - taken[module]] == []
    assert not sans_io.core_names() & set(sans_io.OPEN_TO_CORES)


def test_the_cores_are_found() -> None:
    found = {str(path.relative_to(REPO)) for path in sans_io.cores(REPO)}
    assert {
        "agent/dm/session.py",
        "agent/clock_trust.py",
        "agent/metering/access/session.py",
        "agent/metering/visit/profile_catchup.py",
        "agent/metering/scheduling/schedule.py",
        "dlms/axdr.py",
        "dlms/client/planner.py",
        "headend/dm/engine.py",
        "updateagent/package/cms.py",
        "dlms/client/session.py",
        "dlms/link/hdlc/frames.py",
        "omadm/ssmp/wire.py",
        "plc/prime/link.py",
        "updateagent/engine/machine.py",
    } <= found


def test_the_map_is_drawn_from_the_contracts() -> None:
    text = (REPO / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert drawing.between_marks(text) == drawing.draw(CONTRACTS), "run: python -m tests.architecture.drawing"


def test_the_map_is_no_wider_than_the_document() -> None:
    assert max(map(len, drawing.draw(CONTRACTS).splitlines())) <= drawing.WIDTH
