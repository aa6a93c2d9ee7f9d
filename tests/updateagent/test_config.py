"""The Update Agent's configuration: what is wrong with it is said by key, and all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from updateagent.boot.loaders import BOOT_LOADERS
from updateagent.config import FILE_BYTES_MAX, Config, load
from updateagent.errors import CONFIGURATION, RequestError

KEYS = """\
update_dir = "/data/update"
run_dir = "/run/update"
roots = "/etc/roots.pem"
compatible = "dcu-1"
"""
SLOTS = """\
[[slot]]
name = "A"
type = "block"
path = "/dev/a"

[[slot]]
name = "B"
type = "block"
path = "/dev/b"
"""
BOOTENV = """\
[bootenv]
type = "grub"
config = "/boot/grubenv"
"""
IMAGE = """\
[[slot.image]]
name = "kernel"
type = "file"
path = "/boot/kernel"
size = 1000
"""
RECOVERY = """\
[[slot]]
name = "R"
recovery = true
"""
COMMAND = """\
[[health.command]]
name = "network"
command = ["ping", "-c1", "router"]
"""


def read(folder: Path, text: str) -> Config:
    path = folder / "update.toml"
    path.write_text(text)
    return load(path)


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(RequestError) as caught:
        read(folder, text)
    assert caught.value.code is CONFIGURATION
    return caught.value.message


def test_the_least_that_is_needed_is_enough(tmp_path: Path) -> None:
    config = read(tmp_path, KEYS + SLOTS + BOOTENV)
    assert [slot.name for slot in config.slots] == ["A", "B"]
    assert config.software_dir == Path("/data/update/software")
    assert config.health.commands == ()


def test_images_beside_the_root_file_system_and_commands_that_judge_it_are_read(tmp_path: Path) -> None:
    config = read(tmp_path, KEYS + SLOTS + IMAGE + BOOTENV + COMMAND)
    assert config.slots[0].partitions.keys() == {"rootfs"}
    assert config.slots[1].partitions["kernel"].size == 1000
    (command,) = config.health.commands
    assert (command.name, command.command, command.timeout_s) == ("network", ("ping", "-c1", "router"), 10.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KEYS.replace('compatible = "dcu-1"\n', "") + SLOTS + BOOTENV, "compatible: missing"),
        (KEYS + "more = 1\n" + SLOTS + BOOTENV, "more: unknown key"),
        (KEYS + "cmdline_key = 1\n" + SLOTS + BOOTENV, "cmdline_key: expected str, found int"),
        (KEYS + "trial_tries = true\n" + SLOTS + BOOTENV, "trial_tries: expected int, found bool"),
        (KEYS + "log_command = [1]\n" + SLOTS + BOOTENV, "log_command: expected a list of texts"),
        (KEYS + "slot = [1, 2]\n" + BOOTENV, "slot[1]: expected a table"),
        (KEYS + SLOTS.replace('"B"', '"A"') + BOOTENV, "slot: at least two slots with different names"),
        (KEYS + SLOTS + RECOVERY + RECOVERY.replace("R", "S") + BOOTENV, "slot: there can be one recovery slot"),
        (KEYS + SLOTS.replace('"B"', '"B/"') + BOOTENV, "slot[1].name: letters and digits only"),
        (KEYS + SLOTS.replace("block", "tape", 1) + BOOTENV, "slot[0].type: one of "),
        (KEYS + SLOTS.replace("block", "file", 1) + BOOTENV, "slot[0].size: a slot of type file needs it"),
        (KEYS + SLOTS + IMAGE.replace("1000", "0") + BOOTENV, "slot[1].image[0].size: a number of bytes above 0"),
        (KEYS + SLOTS + RECOVERY + "size = 7\n" + BOOTENV, "slot[2].size: unknown key"),
        (KEYS + SLOTS + BOOTENV.replace("grub", "lilo"), "bootenv.type: one of "),
        (KEYS + SLOTS + BOOTENV + COMMAND.replace('"ping", "-c1", "router"', ""), "health.command[0].command: a list"),
        (KEYS + SLOTS + BOOTENV + "[health]\npoll_s = 0\n", "health.poll_s: a number of seconds above 0"),
    ],
)
def test_a_mistake_is_said_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistakes(tmp_path, text)


def test_a_policy_without_a_recovery_slot_is_given_none(tmp_path: Path) -> None:
    without = [(kind, policy) for kind, policy in BOOT_LOADERS if "recovery" in _said(tmp_path, kind, policy)]
    assert without
    assert len(without) < len(BOOT_LOADERS)


def _said(folder: Path, kind: str, policy: str) -> str:
    try:
        read(folder, f'{KEYS}{SLOTS}{RECOVERY}[bootenv]\ntype = "{kind}"\npolicy = "{policy}"\nconfig = "/x"\n')
    except RequestError as error:
        return str(error)
    return ""


def test_keys_of_a_later_version_do_not_keep_a_program_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "later.toml"
    file.write_text(KEYS + "more = 1\n" + SLOTS + "colour = 7\n" + BOOTENV + "[seal]\nof = 1\n")
    assert load(file, strict=False).compatible == "dcu-1"
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "slot[1].colour: unknown key: passed over",
        "more: unknown key: passed over",
        "seal: unknown key: passed over",
    ]


def test_every_mistake_is_said_one_a_line(tmp_path: Path) -> None:
    said = mistakes(tmp_path, KEYS.replace("roots", "root") + BOOTENV.replace("grub", "lilo"))
    assert len(said.splitlines()) == 4  # roots is missing, root unknown, no slots, no such boot loader


@pytest.mark.parametrize("content", [b"\xff", b"[slot", b"#" * (FILE_BYTES_MAX + 1)])
def test_a_file_that_is_no_toml_or_too_long_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "update.toml"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"update\.toml"):
        load(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        load(tmp_path / "nothing.toml")
