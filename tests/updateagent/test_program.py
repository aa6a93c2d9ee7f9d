"""`dcu-update` as init runs it: real processes, signed packages, a boot loader on the same environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sim.board.uboot import ENV_BYTES, ENV_OFFSETS, Environment, choose
from tests.updateagent.package.buffer import Buffer
from updateagent import __version__
from updateagent.engine.hooks import run_hook
from updateagent.errors import EXIT_GUARD_WANTED, PackageError
from updateagent.package import verity

pytestmark = pytest.mark.process

REPO = Path(__file__).parents[2]
PACK = "updateagent.buildhost.pack"
SLOT_BYTES = 4 << 20
IMAGE_BYTES = (1 << 20) + 12345


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "k"
    _run(PACK, "keygen", "--out", folder)
    return folder


def _run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, cwd=REPO, check=False
    )


def image(version: str) -> bytes:
    return (f"system {version} ".encode() * (IMAGE_BYTES // 8))[:IMAGE_BYTES]


def firmware(keys: Path, folder: Path, version: str, *more: object) -> Path:
    source = folder / f"rootfs-{version}"
    source.write_bytes(image(version))
    out = folder / f"{version}.swu"
    signing = ("--key", keys / "signer.key", "--cert", keys / "signer.crt")
    about = ("--version", version, "--security-version", "1", "--compatible", "HW")
    done = _run(PACK, "build", *signing, *about, *more, "--image", f"rootfs={source}", "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def software(keys: Path, folder: Path, version: str, text: str) -> Path:
    source = folder / "list.csv"
    source.write_text(text)
    out = folder / f"lists-{version}.swu"
    signing = ("--key", keys / "signer.key", "--cert", keys / "signer.crt")
    about = ("--software", "lists", "--version", version, "--security-version", version, "--compatible", "HW")
    done = _run(PACK, "build", *signing, *about, "--image", f"file:list.csv={source}", "-o", out)
    assert done.returncode == 0, done.stderr
    return out


@dataclass
class Device:
    folder: Path

    @property
    def environment(self) -> Environment:
        return Environment(self.folder / "uboot.env")

    def slot(self, name: str) -> Path:
        return self.folder / f"slot-{name}"

    def assemble(self, keys: Path) -> None:
        (self.folder / "run").mkdir()
        self.slot("A").write_bytes(image("1").ljust(SLOT_BYTES, b"\0"))
        self.slot("B").write_bytes(b"\xff" * SLOT_BYTES)
        self.environment.create({"BOOT_ORDER": "A B", "BOOT_A_LEFT": "2", "BOOT_B_LEFT": "0"})
        env = self.folder / "uboot.env"
        (self.folder / "fw_env.config").write_text("".join(f"{env} {at:#x} {ENV_BYTES:#x}\n" for at in ENV_OFFSETS))
        slots = "".join(
            f'[[slot]]\nname = "{name}"\ntype = "file"\npath = "{self.slot(name)}"\nsize = {SLOT_BYTES}\n'
            for name in ("A", "B")
        )
        (self.folder / "dcu-update.toml").write_text(
            f"""
update_dir = "{self.folder}/update"
run_dir = "{self.folder}/run"
boot_id_file = "{self.folder}/boot_id"
cmdline = "{self.folder}/cmdline"
mountinfo = "{self.folder}/mountinfo"
roots = "{keys}/root.crt"
compatible = "HW"
release_file = "{self.folder}/release"
log_file = "{self.folder}/agent.log"
trial_tries = 2
[bootenv]
type = "uboot"
config = "{self.folder}/fw_env.config"
lock = "{self.folder}/env.lock"
[health]
deadline_s = 30
poll_s = 0.02
checks = ["agent_up", "meter_port"]
{slots}"""
        )
        self.power_on()

    def power_on(self) -> str:
        self.mount("0:2 / / rw - tmpfs tmpfs rw")
        choice = choose(self.environment)
        slot = choice.slot
        (self.folder / "cmdline").write_text(f"quiet rauc.slot={slot} dcu.boots={choice.boots}\n")
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.folder / "run" / "health.json").unlink(missing_ok=True)
        start = self.slot(slot).read_bytes()[:20].decode()
        (self.folder / "release").write_text(f"NAME=dcu\nVERSION={start.split()[1]}\n")
        return slot

    def mount(self, *lines: str) -> None:
        """What is mounted on this device: the fields of mountinfo from "major:minor" on."""
        text = "".join(f"{number} 1 {line}\n" for number, line in enumerate(lines, start=20))
        (self.folder / "mountinfo").write_text(text)

    def update(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return _run("updateagent", "--config", self.folder / "dcu-update.toml", *arguments)

    def hand_over(self, package: Path, request_id: str) -> None:
        inbox = self.folder / "update" / "inbox"
        inbox.mkdir(parents=True, exist_ok=True)
        (inbox / "package.swu").write_bytes(package.read_bytes())
        (inbox / "request.json").write_text(
            json.dumps(
                {
                    "version": 1,
                    "id": request_id,
                    "package": "package.swu",
                    "kind": "firmware",
                    "correlator": "c",
                    "requested": 1,
                }
            )
        )

    def publish_health(self, checks: Mapping[str, bool]) -> None:
        document = {
            "version": 1,
            "boot": (self.folder / "boot_id").read_text().strip(),
            "checks": {name: {"ok": ok, "at": 1.0, "detail": "" if ok else "no answer"} for name, ok in checks.items()},
        }
        temporary = self.folder / "run" / "health.tmp"
        temporary.write_text(json.dumps(document))
        temporary.rename(self.folder / "run" / "health.json")

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "update" / "outbox" / "result.json").read_text())
        return found


@pytest.fixture
def device(tmp_path: Path, keys: Path) -> Device:
    made = Device(tmp_path / "device")
    made.folder.mkdir()
    made.assemble(keys)
    return made


def test_a_signed_package_becomes_the_running_system_and_then_a_bad_one_does_not(
    device: Device, keys: Path, tmp_path: Path
) -> None:
    assert device.update("boot").returncode == 11  # one attempt was counted: the guard gives it back
    device.publish_health({"agent_up": True, "meter_port": True})  # no journal yet: all must be well
    assert device.update("guard").returncode == 0
    assert device.environment.load()[2]["BOOT_A_LEFT"] == "9"

    device.hand_over(firmware(keys, tmp_path, "2"), "r2")
    assert device.update("boot").returncode == 10
    assert device.slot("B").read_bytes()[:IMAGE_BYTES] == image("2")
    assert device.power_on() == "B"
    assert device.update("boot").returncode == 11
    device.publish_health({"agent_up": True, "meter_port": True})
    assert device.update("guard").returncode == 0
    assert (device.result()["fumo"], device.result()["to_version"]) == (200, "2")
    assert "version 2  good  running" in device.update("status").stdout
    (device.folder / "update" / "outbox" / "result.json").unlink()  # the agent has told it

    device.hand_over(firmware(keys, tmp_path, "3"), "r3")
    assert device.update("boot").returncode == 10
    config = device.folder / "dcu-update.toml"
    config.write_text(config.read_text().replace("deadline_s = 30", "deadline_s = 0.05"))
    attempts = 0
    while device.power_on() == "A":
        attempts += 1
        assert device.update("boot").returncode == 11
        device.publish_health({"agent_up": True, "meter_port": False})
        assert device.update("guard").returncode == 10
    assert attempts == 2
    assert device.update("boot").returncode in (0, 11)
    assert (device.result()["id"], device.result()["fumo"], device.result()["failed_check"]) == (
        "r3",
        410,
        "meter_port",
    )
    assert device.environment.load()[2]["BOOT_ORDER"] == "B"


def hooked(keys: Path, folder: Path, step: str, script: str) -> Path:
    program = folder / step
    program.write_text(f"#!/bin/sh\n{script}\n")
    return firmware(keys, folder, "2", "--image", f"hook:{step}={program}")


def test_hooks_run_before_and_after_the_images_are_written_and_leave_nothing_behind(
    device: Device, keys: Path, tmp_path: Path
) -> None:
    seen = device.folder / "seen"
    device.hand_over(
        hooked(
            keys, tmp_path, "post-install", f'echo "$DCU_HOOK $DCU_SLOT $DCU_FROM_VERSION $DCU_TO_VERSION" > {seen}'
        ),
        "r2",
    )
    assert device.update("boot").returncode == 10
    assert seen.read_text() == "post-install B 1 2\n"
    assert list((device.folder / "run").iterdir()) == []


@pytest.mark.parametrize(("step", "changed"), [("pre-install", False), ("post-install", True)])
def test_a_hook_that_fails_ends_the_update_and_says_why(
    device: Device, keys: Path, tmp_path: Path, step: str, changed: bool
) -> None:
    device.hand_over(hooked(keys, tmp_path, step, "echo no room for the new database >&2; exit 3"), "r2")
    before = device.slot("B").read_bytes()

    assert device.update("boot").returncode in (0, 11)
    result = device.result()
    assert (result["fumo"], result["name"]) == (410, "hook")
    assert "ended with 3: no room for the new database" in result["message"]
    assert (device.slot("B").read_bytes() != before) == changed
    assert device.power_on() == "A"


def test_a_hook_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="did not end"):
        run_hook("pre-install", [b"#!/bin/sh\nsleep 100 & wait\n"], tmp_path / "run", {}, timeout_s=0.05)
    assert list((tmp_path / "run").iterdir()) == []


def test_what_is_no_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="cannot be run"):
        run_hook("pre-install", [b"\x00no program"], tmp_path, {})


def test_a_hook_of_an_unknown_step_is_refused(device: Device, keys: Path, tmp_path: Path) -> None:
    device.hand_over(hooked(keys, tmp_path, "mid-install", "true"), "r2")
    device.update("boot")
    assert device.result()["name"] == "hook"


def test_health_of_another_boot_does_not_confirm(device: Device, keys: Path, tmp_path: Path) -> None:
    device.hand_over(firmware(keys, tmp_path, "2"), "r2")
    assert device.update("boot").returncode == 10
    device.publish_health({"agent_up": True, "meter_port": True})
    stale = (device.folder / "run" / "health.json").read_text()
    device.power_on()
    (device.folder / "run" / "health.json").write_text(stale)
    config = device.folder / "dcu-update.toml"
    config.write_text(config.read_text().replace("deadline_s = 30", "deadline_s = 0.05"))

    assert device.update("boot").returncode == 11
    assert device.update("guard").returncode == 10


def test_a_flipped_byte_of_the_payload_is_refused_with_404_and_nothing_written(
    device: Device, keys: Path, tmp_path: Path
) -> None:
    package = firmware(keys, tmp_path, "2")
    raw = bytearray(package.read_bytes())
    raw[-5000] ^= 1
    package.write_bytes(raw)
    device.hand_over(package, "r2")
    slot, environment = device.slot("B").read_bytes(), (device.folder / "uboot.env").read_bytes()

    assert device.update("boot").returncode in (0, 11)
    assert device.result()["fumo"] == 404
    assert device.slot("B").read_bytes() == slot
    assert (device.folder / "uboot.env").read_bytes() == environment


def test_a_package_is_installed_by_hand_and_confirmed_by_hand(device: Device, keys: Path, tmp_path: Path) -> None:
    package = firmware(keys, tmp_path, "2")

    assert device.update("install", package).returncode == 10
    assert device.power_on() == "B"
    assert device.update("boot").returncode == 11
    assert device.update("confirm").returncode == 0
    assert not (device.folder / "update" / "outbox" / "result.json").exists()
    status = json.loads(device.update("status", "--json").stdout)
    assert (status["state"], status["last"]["name"]) == ("idle", "ok")


def test_a_journal_that_cannot_be_read_is_said_in_the_status_for_others(device: Device) -> None:
    device.update("boot")
    shown = device.folder / "update" / "status.json"
    before = json.loads(shown.read_text())
    (device.folder / "update" / "journal.0").mkdir()
    assert device.update("boot").returncode == EXIT_GUARD_WANTED
    after = json.loads(shown.read_text())
    assert "journal.0: Is a directory" in after["error"]
    assert {**after, "error": ""} == before


def test_a_slot_is_marked_by_hand_and_a_dry_run_only_says_what_would_be_written(device: Device) -> None:
    before = (device.folder / "uboot.env").read_bytes()
    dry = device.update("mark", "active", "B", "--force", "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.splitlines() == ["BOOT_ORDER=B A", "BOOT_A_LEFT=9", "BOOT_B_LEFT=2"]
    assert "slot B is empty, or nothing is known of it; slot B is started 2 times at most" in dry.stderr
    assert (device.folder / "uboot.env").read_bytes() == before

    only = device.update("mark", "bad", "A")
    assert (only.returncode, "last one that is known to start" in only.stderr) == (90, True)
    assert (device.folder / "uboot.env").read_bytes() == before
    assert device.update("mark", "active", "B").returncode == 90
    assert (device.folder / "uboot.env").read_bytes() == before
    assert device.update("mark", "bad", "B").returncode == 0
    assert device.environment.load()[2]["BOOT_ORDER"] == "A"
    assert device.update("mark", "good").returncode == 0
    assert device.environment.load()[2]["BOOT_A_LEFT"] == "9"
    assert device.update("mark", "good", "X").returncode == 92


@contextmanager
def loop_over(file: Path) -> Iterator[str]:
    """The "major:minor" of a loop device over a file. Skips the test where there can be none."""
    made = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    try:
        number = device.stat().st_rdev
        yield f"{os.major(number)}:{os.minor(number)}"
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_two_slots_on_one_file_are_a_mistake_and_nothing_is_written(device: Device, keys: Path, tmp_path: Path) -> None:
    device.slot("B").unlink()
    device.slot("B").hardlink_to(device.slot("A"))
    package = firmware(keys, tmp_path, "2")
    for arguments in (("install", package), ("boot",), ("status",), ("mark", "active", "B")):
        done = device.update(*arguments)
        assert (arguments, done.returncode) == (arguments, 2)
        assert f"slot A, {device.slot('A')} and slot B, {device.slot('B')} are the same bytes" in done.stderr
    assert device.slot("A").read_bytes()[:IMAGE_BYTES] == image("1")
    assert device.environment.load()[2]["BOOT_ORDER"] == "A B"


def test_the_environment_within_a_slot_is_a_mistake(device: Device) -> None:
    config = device.folder / "fw_env.config"
    config.write_text(
        "".join(f"{device.slot('B')} {SLOT_BYTES - ENV_BYTES + at:#x} {ENV_BYTES:#x}\n" for at in ENV_OFFSETS)
    )
    done = device.update("status")
    assert done.returncode == 2
    assert "and copy 1 of the boot environment" in done.stderr
    assert "copy 2" not in done.stderr  # it begins where the slot ends


def test_a_command_line_that_contradicts_the_root_is_shown_and_nothing_is_changed_by_it(
    device: Device, keys: Path, tmp_path: Path
) -> None:
    """The root is on a loop device over slot B, and the command line says A."""
    with loop_over(device.slot("B")) as number:
        device.mount(f"{number} / / ro - squashfs /dev/root ro")
        before = (device.folder / "uboot.env").read_bytes(), device.slot("B").read_bytes()
        said = "the command line names slot A, and the root file system is slot B's"

        done = device.update("install", firmware(keys, tmp_path, "2"))
        assert (done.returncode, said in done.stderr) == (70, True)
        for arguments in (("mark", "good"), ("mark", "active", "B"), ("mark", "bad", "B")):
            done = device.update(*arguments)
            assert (arguments, done.returncode, said in done.stderr) == (arguments, 70, True)
        assert said in json.loads(device.update("status", "--json").stdout)["error"]
        assert device.update("boot").returncode == 11  # nothing is known of this board: the guard looks at it
        assert said in json.loads((device.folder / "update" / "status.json").read_text())["error"]
        assert ((device.folder / "uboot.env").read_bytes(), device.slot("B").read_bytes()) == before


def test_a_slot_that_is_mounted_is_not_written(device: Device, keys: Path, tmp_path: Path) -> None:
    with loop_over(device.slot("B")) as number:
        device.mount("0:2 / / rw - tmpfs tmpfs rw", f"{number} / /mnt ro - ext4 /dev/x ro")
        before = (device.folder / "uboot.env").read_bytes(), device.slot("B").read_bytes()

        done = device.update("install", firmware(keys, tmp_path, "2"))

        assert done.returncode == 62
        assert f"slot B, {device.slot('B')} is mounted at /mnt" in done.stderr
        assert ((device.folder / "uboot.env").read_bytes(), device.slot("B").read_bytes()) == before


def test_installing_the_same_image_again_writes_nothing_to_the_slot(device: Device, keys: Path, tmp_path: Path) -> None:
    package = firmware(keys, tmp_path, "2")
    device.slot("B").write_bytes(image("2").ljust(SLOT_BYTES, b"\0"))

    done = device.update("install", package)

    assert done.returncode == 10
    assert "0 bytes written" in done.stderr


def test_a_killed_install_goes_on_at_the_next_boot(device: Device, keys: Path, tmp_path: Path) -> None:
    device.hand_over(firmware(keys, tmp_path, "2"), "r2")
    command = [sys.executable, "-m", "updateagent", "--config", str(device.folder / "dcu-update.toml"), "boot"]
    child = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL)
    journal = device.folder / "update" / "journal.0"
    deadline = time.monotonic() + 20
    while not journal.exists() and child.poll() is None and time.monotonic() < deadline:
        os.sched_yield()
    child.kill()
    child.wait()
    device.power_on()

    code = device.update("boot").returncode
    assert code in (10, 11)
    if code == 10:
        assert device.power_on() == "B"
        assert device.update("boot").returncode == 11
    assert device.slot("B").read_bytes()[:IMAGE_BYTES] == image("2")


def test_whether_the_running_slot_holds_the_source_of_a_delta_is_answered(device: Device) -> None:
    running = verity.root_of(Buffer(image("1")), IMAGE_BYTES).hex()
    good = device.update("source", "--json", f"rootfs=1:{IMAGE_BYTES}:{running}")
    assert (good.returncode, json.loads(good.stdout)["code"]) == (0, 0)
    other = device.update("source", "--json", f"rootfs=1:{IMAGE_BYTES - 1}:{running}")
    assert (other.returncode, json.loads(other.stdout)["name"]) == (38, "delta-source")
    assert device.update("source", f"kernel=1:5:{running}").returncode == 44
    assert device.update("source", f"rootfs=1:{SLOT_BYTES + 1}:{running}").returncode == 38
    for wrong in (
        "rootfs",
        "rootfs=1:5",
        f"rootfs=1:0:{running}",
        f"rootfs=1:5:{running[2:]}",
        f"rootfs=1:x:{running}",
    ):
        assert device.update("source", wrong).returncode == 91


def test_software_is_installed_activated_listed_and_removed_with_numbered_answers(
    device: Device, keys: Path, tmp_path: Path
) -> None:
    first, second = software(keys, tmp_path, "1", "one"), software(keys, tmp_path, "2", "two")
    active = device.folder / "update" / "software" / "active" / "lists" / "list.csv"

    answer = json.loads(device.update("software", "install", first, "--json").stdout)
    assert (answer["code"], answer["scomo"], answer["id"], answer["version"]) == (0, 1200, "lists", "1")
    assert active.read_text() == "one"
    assert device.update("software", "install", second, "--inactive").returncode == 0
    assert active.read_text() == "one"
    assert json.loads(device.update("software", "activate", "lists", "--json").stdout)["version"] == "2"
    assert active.read_text() == "two"
    downgrade = device.update("software", "install", first, "--json")
    assert (downgrade.returncode, json.loads(downgrade.stdout)["name"]) == (33, "downgrade")
    listed = json.loads(device.update("software", "list", "--json").stdout)["software"]
    assert [(one["id"], one["version"], one["active"]) for one in listed] == [
        ("lists", "1", False),
        ("lists", "2", True),
    ]
    assert device.update("software", "deactivate", "lists").returncode == 0
    assert not active.exists()
    assert device.update("software", "remove", "lists").returncode == 0
    missing = device.update("software", "activate", "lists", "--json")
    assert (missing.returncode, json.loads(missing.stdout)["scomo"]) == (92, 1400)


def test_every_mistake_of_the_configuration_is_named_at_once(device: Device) -> None:
    config = device.folder / "dcu-update.toml"
    text = (
        config.read_text()
        .replace("trial_tries = 2", "trial_tries = 20\ntypo = 1")
        .replace('type = "uboot"', "type = 7")
    )
    config.write_text(text)

    done = device.update("status")

    assert done.returncode == 2
    assert "trial_tries: 1 to 9" in done.stderr
    assert "typo: unknown key" in done.stderr
    assert "bootenv.type: expected str, found int" in done.stderr


def test_both_programs_say_their_version_without_any_settings() -> None:
    for module, program in (("updateagent", "dcu-update"), (PACK, "dcu-pack")):
        done = _run(module, "--version")
        assert (done.returncode, done.stdout) == (0, f"{program} {__version__}\n")


def test_setup_py_has_the_version_that_packages_are_compared_with() -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], capture_output=True, text=True, cwd=REPO, check=True
    )
    assert done.stdout.split()[-1] == __version__


@pytest.mark.parametrize("words", [("verify",), ("install",), ("software", "install")], ids=" ".join)
def test_a_package_that_is_no_file_is_refused(device: Device, tmp_path: Path, words: tuple[str, ...]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = device.update(*words, pipe)
    assert (done.returncode, f"{pipe} is no regular file" in done.stderr) == (91, True)
