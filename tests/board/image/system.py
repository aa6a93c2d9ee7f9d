"""What a slot holds beside the base system: our programs and settings, and what makes versions differ."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.demo.image import BUILT_AT, PACKAGES, PROGRAMS

PROGRAM = """#!/usr/bin/python3 -I
import sys
from {module} import main

sys.exit(main())
"""
COMPATIBLE = "emulated-board"
TRIES = 2
DEADLINE_S = 120  # the emulated agent is up some five seconds after the guard, on a quiet machine
UNHEALTHY_DEADLINE_S = 3
BALLAST_BYTES = 4 << 20

# Our own files of etc/, with the values of this board in place of the example's.
UPDATE_SETTINGS = (
    ("/dev/mmcblk0p2", "/dev/vda2"),
    ("/dev/mmcblk0p3", "/dev/vda3"),
    ("/var/lib/dcu", "/data/dcu"),
    ('compatible = "example-dcu-1"', f'compatible = "{COMPATIBLE}"'),
    ('roots = "/etc/dcu/roots.pem"', 'roots = "/data/factory/root.crt"'),
    ("trial_tries = 3", f"trial_tries = {TRIES}"),
    ("deadline_s = 600", f"deadline_s = {DEADLINE_S}"),
    ('checks = ["agent_up", "dm_session", "meter_port", "storage"]', 'checks = ["self_test", "agent_up", "storage"]'),
    (
        "# A check can also be a command",
        '[[health.command]]\nname = "self_test"\ncommand = ["/usr/bin/self-test"]\n\n# A check can also be a command',
    ),
)
FW_ENV_CONFIG = (
    ("/dev/mmcblk0      0x400000    0x4000", "/dev/vda          0x100000    0x4000"),
    ("/dev/mmcblk0      0x410000    0x4000", "/dev/vda          0x110000    0x4000"),
)
AGENT_SETTINGS = (
    ("compatible: example-dcu-1 ", f"compatible: {COMPATIBLE} "),
    ("/etc/dcu/device.key", "/data/factory/device.key"),
    ("/etc/dcu/ca.pem", "/data/factory/root.crt"),
    ("/etc/dcu/roots.pem", "/data/factory/root.crt"),
    ("/var/lib/dcu", "/data/dcu"),
    ("# file: /data/dcu/log/agent.log", "file: /data/dcu/log/agent.log"),
    ("/usr/share/dcu-agent/reading-lists", "/etc/dcu/reading-lists"),
)
NEVER_ENDS = """#!/bin/sh
# BusyBox init does not look at a wish to reboot before this has ended.
[ "$1" = start ] && ! [ -e /data/never-ended ] || exit 0
touch /data/never-ended
sync
sleep 100000
"""


class Defect(Enum):
    """Defects that a release may have when nobody tested it."""

    NONE = "none"
    UNHEALTHY = "unhealthy"
    """It fails its own test; and one of its start scripts does not end, on the first attempt."""
    NO_UPDATE_AGENT = "no update agent"
    """Its Update Agent does not work at all."""


@dataclass(frozen=True)
class SystemVersion:
    """A version of the firmware, and what is wrong with it."""

    name: str
    defect: Defect = Defect.NONE


def _with(text: str, changes: tuple[tuple[str, str], ...]) -> str:
    for old, new in changes:
        if old not in text:
            raise ValueError(f"a file of etc/ has no {old!r} any more")
        text = text.replace(old, new)
    return text


def install_programs(root: Path, repo: Path, guest: Path) -> None:
    """Our packages, programs, settings and start scripts."""
    library = root / "usr/lib/python3/dist-packages"
    for package in PACKAGES:
        shutil.copytree(repo / package, library / package, ignore=shutil.ignore_patterns("__pycache__"))
    for program, module in PROGRAMS.items():
        _executable(root / "usr/bin" / program, PROGRAM.format(module=module))
    etc = root / "etc"
    (etc / "dcu").mkdir()
    (etc / "init.d").mkdir(exist_ok=True)
    for old in (etc / "init.d").iterdir():
        old.unlink()
    shutil.copytree(repo / "etc" / "reading-lists", etc / "dcu" / "reading-lists")
    (etc / "dcu-update.toml").write_text(_with((repo / "etc/dcu-update.toml").read_text(), UPDATE_SETTINGS))
    (etc / "fw_env.config").write_text(_with((repo / "etc/fw_env.config").read_text(), FW_ENV_CONFIG))
    (etc / "dcu" / "dcu.yaml").write_text(_with((repo / "etc/dcu.yaml").read_text(), AGENT_SETTINGS))
    for script in (repo / "etc" / "init.d").iterdir():
        _executable(etc / "init.d" / script.name, script.read_text())
    (root / "usr/libexec/dcu").mkdir(parents=True)
    for script in (repo / "etc" / "libexec").iterdir():
        _executable(root / "usr/libexec/dcu" / script.name, script.read_text())
    for script in guest.iterdir():
        if script.name == "inittab":
            shutil.copy(script, etc / "inittab")
        elif script.name.startswith(("S", "rc")):
            _executable(etc / "init.d" / script.name, script.read_text())


def set_version(root: Path, version: SystemVersion) -> None:
    """Turn the root file system of a healthy version into that of another one. Versions with a defect come last."""
    (root / "etc/dcu-release").write_text(f"NAME=board\nVERSION={version.name}\nBUILT={BUILT_AT}\n")
    self_test, never_ends = root / "usr/bin/self-test", root / "etc/init.d/S85never-ends"
    _executable(self_test, "#!/bin/sh\nexit 0\n")
    never_ends.unlink(missing_ok=True)
    if version.defect is not Defect.NONE:
        (root / "etc/default").mkdir(exist_ok=True)
        (root / "etc/default/dcu-update").write_text("PATIENCE_S=3\nSILENCE_S=3\n")
    if version.defect is Defect.UNHEALTHY:
        _executable(self_test, "#!/bin/sh\necho no answer from the radio >&2\nexit 1\n")
        _executable(never_ends, NEVER_ENDS)
        settings = root / "etc/dcu-update.toml"
        settings.write_text(
            _with(settings.read_text(), ((f"deadline_s = {DEADLINE_S}", f"deadline_s = {UNHEALTHY_DEADLINE_S}"),))
        )
    if version.defect is Defect.NO_UPDATE_AGENT:
        _executable(root / "usr/bin/dcu-update", "#!/bin/sh\necho dcu-update: no module of that name >&2\nexit 1\n")
    # Bytes that differ between versions: what makes an update more than a few blocks.
    content = random.Random(f"ballast of {version.name}").randbytes(BALLAST_BYTES)
    (root / "usr/lib/ballast").write_bytes(content)


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
