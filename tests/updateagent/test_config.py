"""The Update Agent's configuration: what is wrong with it is said by key, and all of it at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from updateagent.boot.loaders import BOOT_LOADERS
from updateagent.config import FILE_BYTES_MAX, Config, _Table, load
from updateagent.errors import CONFIGURATION, RequestError
from updateagent.toml_lines import lines_of

EXAMPLE = Path(__file__).parents[2] / "etc" / "dcu-update.toml"

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
        "more: unknown key: passed over",
        "slot[1].colour: unknown key: passed over",
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


def lines_said(said: str) -> dict[str, int]:
    """The line of each key in the mistakes."""
    return {line.split(": ")[1]: int(line.split(":")[1]) for line in said.splitlines()}


def test_a_mistake_is_said_with_its_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Whatever texts, lists and comments over several lines lie before."""
    text = KEYS.replace('"dcu-1"', '"""[a]\nb = \\"1\n# c"""')
    text += "log_command = [ # [\n  'a]',\n  \"b\",\n]\ndeep = [\n  [1],\n]\ntyped.twice = 1\n"
    text += (
        SLOTS.replace('"B"', '"B/"')
        + IMAGE.replace("1000", "0")
        + "# [bootenv]\n"
        + BOOTENV.replace('grub"', 'lilo"', 1)
    )
    text += "health = { poll_s = 0 }\n" if False else "[health]\ncommand = [\n  { name = 'x' },\n]\n'poll_s' = 0\n"
    lines = text.splitlines()
    assert list(lines_said(mistakes(tmp_path, text)).items()) == [
        ("deep", lines.index("deep = [") + 1),
        ("typed", lines.index("typed.twice = 1") + 1),
        ("slot[1].name", lines.index('name = "B/"') + 1),
        ("slot[1].image[0].size", lines.index("size = 0") + 1),
        ("bootenv.type", lines.index('type = "lilo"') + 1),
        ("health.command[0].command", lines.index("command = [") + 1),
        ("health.poll_s", len(lines)),
    ]


def test_a_key_that_is_missing_is_said_with_the_line_of_its_table(tmp_path: Path) -> None:
    text = KEYS.replace('compatible = "dcu-1"\n', "") + SLOTS.replace('type = "block"\npath = "/dev/b"\n', "") + BOOTENV
    assert lines_said(mistakes(tmp_path, text)) == {
        "compatible": 1,
        "slot[1].type": text.splitlines().index('name = "B"'),
        "slot[1].path": text.splitlines().index('name = "B"'),
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a = 1\nb = \xff", ":2: not UTF-8"), (b"a = 1\n[slot", ":2: Expected"), (b"a = 1\nb == 2\n\n", ":2: Invalid")],
)
def test_what_is_no_toml_is_said_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "update.toml"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        load(path)
    assert said in caught.value.message


def known_keys(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Filled with the keys that the code takes from now on, without the numbers of tables."""
    asked: set[str] = set()
    take = _Table.take

    def recorded(self: _Table, key: str, *more: Any, **named: Any) -> Any:
        asked.add(re.sub(r"\[\d+\]", "", self.path(key)))
        return take(self, key, *more, **named)

    monkeypatch.setattr(_Table, "take", recorded)
    return asked


def test_the_example_has_every_key_that_the_code_knows_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the example shows in a comment counts: a hash, a space, and a table or a key in small letters."""
    whole = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", EXAMPLE.read_text())
    asked = known_keys(monkeypatch)
    read(tmp_path, whole)  # strict: a key that the code does not know is a mistake
    shown = {re.sub(r"\[\d+\]", "", path) for path in lines_of(whole)}
    assert asked - shown == set()
    assert shown - asked == set()


def test_the_example_is_good_as_it_is_shipped(tmp_path: Path) -> None:
    config = read(tmp_path, EXAMPLE.read_text())
    assert config.slot_names == ("A", "B")


def test_a_trial_without_checks_must_be_asked_for_by_name(tmp_path: Path) -> None:
    said = mistakes(tmp_path, KEYS + SLOTS + BOOTENV + "[health]\nchecks = []\n")
    assert 'health.checks: without one, any system would be confirmed at once: name some, or say "none"' in said
    assert "health.checks" in mistakes(tmp_path, KEYS + SLOTS + BOOTENV + '[health]\nchecks = "all"\n')
    assert "health.checks" in mistakes(tmp_path, KEYS + SLOTS + BOOTENV + "[health]\nchecks = [1]\n")
    assert read(tmp_path, KEYS + SLOTS + BOOTENV + '[health]\nchecks = "none"\n').health.checks == ()
