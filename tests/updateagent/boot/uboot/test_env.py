"""The U-Boot environment, byte by byte and cut by cut; and against libubootenv's own programs."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.sim.faulty_disk import FaultyDisk
from updateagent.boot.uboot.bytes import c_integer, newer, parse_copy
from updateagent.boot.uboot.env import LOCK_WAIT_S, EnvironmentStore, emit_copy, open_environment, parse_data
from updateagent.boot.uboot.fw_env import EnvLocation, FwEnvConfig, parse_fw_env_config, read_config
from updateagent.disk import RealDisk
from updateagent.engine.dry_run import DryVariables
from updateagent.errors import (
    CONFIGURATION,
    ENVIRONMENT,
    ENVIRONMENT_FULL,
    ENVIRONMENT_LOCKED,
    ENVIRONMENT_WRITE,
    DeviceError,
    RequestError,
)

SIZE = 0x400
FLASH = Path("/env")
TWO = (EnvLocation(FLASH, 0, SIZE), EnvLocation(FLASH, SIZE, SIZE))
OLD = {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "FILLER": "f" * 600, "BOOT_B_LEFT": "0"}


def flash(*copies: bytes) -> FaultyDisk:
    disk = FaultyDisk()
    disk.write_durable(FLASH, b"".join(copies))
    disk.sync_all()
    disk.operations = 0
    return disk


def two(first: int, second: int) -> FaultyDisk:
    return flash(emit_copy({"copy": "0"}, SIZE, first), emit_copy({"copy": "1"}, SIZE, second))


def test_a_redundant_copy_has_the_layout_of_u_boot() -> None:
    data = b"a=1\0bootcmd=run x\0\0".ljust(SIZE - 5, b"\0")

    assert emit_copy({"a": "1", "bootcmd": "run x"}, SIZE, 7) == struct.pack("=IB", zlib.crc32(data), 7) + data


def test_a_single_copy_has_no_flag() -> None:
    data = b"a=1\0\0".ljust(SIZE - 4, b"\0")

    assert emit_copy({"a": "1"}, SIZE, None) == struct.pack("=I", zlib.crc32(data)) + data


def test_the_checksum_covers_the_padding_whatever_it_is_but_not_the_flag() -> None:
    data = b"a=1\0\0".ljust(SIZE - 5, b"\xff")
    raw = bytearray(struct.pack("=IB", zlib.crc32(data), 1) + data)
    assert parse_copy(bytes(raw), redundant=True) == (1, data)
    raw[4] = 9
    assert parse_copy(bytes(raw), redundant=True) == (9, data)
    raw[-1] = 0
    assert parse_copy(bytes(raw), redundant=True) is None


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [(1, 0, "0"), (0, 1, "1"), (5, 5, "0"), (255, 0, "1"), (0, 255, "0"), (254, 255, "1"), (1, 255, "1")],
)
def test_of_two_good_copies_the_newer_flag_counts(first: int, second: int, counts: str) -> None:
    assert EnvironmentStore(two(first, second), TWO).load().variables == {"copy": counts}


def test_a_damaged_copy_never_counts() -> None:
    disk = two(1, 2)
    with disk.open_raw(FLASH, write=True) as file:
        file.pwrite(b"?", SIZE + 100)

    assert EnvironmentStore(disk, TWO).load().variables == {"copy": "0"}


def test_two_damaged_copies_are_an_error_with_a_number() -> None:
    with pytest.raises(DeviceError) as caught:
        EnvironmentStore(flash(b"\xff" * 2 * SIZE), TWO).load()
    assert caught.value.code is ENVIRONMENT


def test_a_change_goes_to_the_other_copy_with_the_next_flag_and_flags_wrap() -> None:
    disk = two(254, 253)
    store = EnvironmentStore(disk, TWO)
    for expected in ((254, 255), (0, 255), (0, 1)):
        store.commit({"count": str(expected)})
        raw = disk.read_bytes(FLASH)
        assert (raw[4], raw[SIZE + 4]) == expected
        assert store.load().variables["count"] == str(expected)


def test_a_commit_that_changes_nothing_writes_nothing() -> None:
    disk = two(1, 0)

    assert EnvironmentStore(disk, TWO).commit({"copy": "0", "absent": None}) is False
    assert disk.operations == 0


def test_several_changes_are_one_write_of_one_copy() -> None:
    disk = two(1, 0)
    kinds: list[str] = []
    disk.on_operation = lambda operation: kinds.append(operation.kind)

    EnvironmentStore(disk, TWO).commit({"BOOT_ORDER": "B A", "BOOT_B_LEFT": "3", "copy": None})

    assert kinds == ["write", "sync"]
    assert EnvironmentStore(disk, TWO).load().variables == {"BOOT_ORDER": "B A", "BOOT_B_LEFT": "3"}


def test_settling_makes_both_copies_say_the_same() -> None:
    disk = two(1, 0)
    store = EnvironmentStore(disk, TWO)

    assert store.commit({"a": "1"}, settle=True) is True
    raw = disk.read_bytes(FLASH)
    first, second = (parse_copy(raw[at : at + SIZE], redundant=True) for at in (0, SIZE))
    assert first is not None
    assert second is not None
    assert parse_data(first[1]) == parse_data(second[1]) == {"copy": "0", "a": "1"}
    assert store.commit({"a": "1"}, settle=True) is False


def test_a_new_flag_alone_on_a_stale_copy_does_no_harm_once_settled() -> None:
    disk = two(1, 0)
    store = EnvironmentStore(disk, TWO)
    store.commit({"decision": "made"}, settle=True)
    active = store.load().active
    with disk.open_raw(FLASH, write=True) as file:
        flag = file.pread(1, active * SIZE + 4)[0]
        file.pwrite(bytes([(flag + 1) & 255]), (1 - active) * SIZE + 4)

    loaded = store.load()
    assert loaded.active != active
    assert loaded.variables["decision"] == "made"


def test_a_write_torn_at_any_byte_leaves_the_old_or_the_new_environment() -> None:
    old, new = dict(OLD), OLD | {"BOOT_ORDER": "B A", "BOOT_B_LEFT": "3"}
    stale = emit_copy({"BOOT_ORDER": "stale"}, SIZE, 0)
    fresh = emit_copy(new, SIZE, 2)
    seen = {"old": 0, "new": 0}
    for cut in range(SIZE + 1):
        disk = flash(emit_copy(old, SIZE, 1), fresh[:cut] + stale[cut:])
        variables = EnvironmentStore(disk, TWO).load().variables
        assert variables in (old, new)
        seen["new" if variables == new else "old"] += 1
    assert seen["old"] > 600
    assert seen["new"] > 1


def test_what_a_board_maker_wrote_in_any_bytes_goes_back_unchanged() -> None:
    data = b"ethaddr=00:11\0odd=\xff\xfe=x\0empty=\0\0".ljust(SIZE - 5, b"\xff")
    disk = flash(struct.pack("=IB", zlib.crc32(data), 3) + data, b"\0" * SIZE)
    EnvironmentStore(disk, TWO).commit({"new": "1"})

    found = parse_copy(disk.read_bytes(FLASH)[SIZE:], redundant=True)
    assert found is not None
    assert found[1].startswith(b"ethaddr=00:11\0odd=\xff\xfe=x\0empty=\0new=1\0\0")


def test_of_a_variable_given_twice_the_last_counts_and_an_entry_without_value_is_skipped() -> None:
    assert parse_data(b"a=1\0junk\0a=2\0\0") == {"a": "2"}


def test_a_list_without_an_end_is_an_error() -> None:
    with pytest.raises(DeviceError, match="does not end"):
        parse_data(b"a=1")


def test_variables_that_do_not_fit_are_refused_and_nothing_is_written() -> None:
    disk = two(1, 0)
    with pytest.raises(DeviceError) as caught:
        EnvironmentStore(disk, TWO).commit({"long": "x" * SIZE})
    assert caught.value.code is ENVIRONMENT_FULL
    assert disk.operations == 0


def test_a_medium_that_does_not_keep_what_was_written_is_noticed() -> None:
    disk = two(1, 0)
    entry = disk.open_raw(FLASH, write=True)
    write = type(entry).pwrite

    class Lost(type(entry)):  # type: ignore[misc]
        def pwrite(self, data: bytes | memoryview, offset: int) -> None:
            write(self, b"?" * len(data), offset)

    disk.open_raw = lambda path, **_: Lost(disk, path, disk._names[path], writable=True)  # type: ignore[method-assign]
    with pytest.raises(DeviceError) as caught:
        EnvironmentStore(disk, TWO).commit({"a": "1"})
    assert caught.value.code is ENVIRONMENT_WRITE


def test_a_negative_offset_counts_from_the_end_of_the_device() -> None:
    disk = flash(b"\0" * 100, emit_copy({"at": "end"}, SIZE, None))

    assert EnvironmentStore(disk, (EnvLocation(FLASH, -SIZE, SIZE),)).load().variables == {"at": "end"}


def test_the_lock_is_waited_for_but_not_for_ever() -> None:
    disk = two(1, 0)
    other = disk.lock(Path("/lock"))
    assert other.acquire()
    waits: list[float] = []
    store = EnvironmentStore(disk, TWO, lock=disk.lock(Path("/lock")), wait=waits.append)

    with pytest.raises(DeviceError) as caught:
        store.commit({"a": "1"})
    assert caught.value.code is ENVIRONMENT_LOCKED
    assert sum(waits) >= LOCK_WAIT_S
    other.release()
    assert store.commit({"a": "1"}) is True


def test_a_dry_run_shows_the_changes_and_writes_none() -> None:
    disk = two(1, 0)
    store = DryVariables(EnvironmentStore(disk, TWO))

    assert store.commit({"BOOT_ORDER": "B A", "copy": None}) is True
    assert store.commit({"BOOT_ORDER": "B A"}) is False
    assert store.load().variables == {"BOOT_ORDER": "B A"}
    assert store.commits == [{"BOOT_ORDER": "B A", "copy": None}]
    assert disk.operations == 0


def test_zero_is_newer_than_255() -> None:
    assert newer(0, 255)
    assert not newer(255, 0)
    assert newer(2, 1)
    assert not newer(1, 1)


def test_fw_env_config_is_read_as_libubootenv_reads_it() -> None:
    text = "# comment\n\n/dev/mtd1 0x0 0x4000 0x10000 2 1\n/dev/mmcblk0 -0x8000 4000 # same size, no prefix\n"

    first, second = parse_fw_env_config(text)
    assert first == EnvLocation(Path("/dev/mtd1"), 0, 0x4000, 0x10000, 2, no_lock=True)
    assert second == EnvLocation(Path("/dev/mmcblk0"), -0x8000, 0x4000)


@pytest.mark.parametrize(
    "text",
    ["", "/dev/a 0", "/dev/a x 0x100", "/dev/a 0 0", "/dev/a 0 0x200\n/dev/b 0 0x100", "/dev/a 0 10\n" * 3],
)
def test_a_fw_env_config_that_makes_no_sense_is_a_configuration_error(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_fw_env_config(text)
    assert caught.value.code is CONFIGURATION


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("0040000", 0x4000),
        ("040000", 0x4000),
        ("0x4000", 0x4000),
        ("0X4000", 0x4000),
        ("16384", 0x4000),
        ("-040", -32),
        ("-0x20", -32),
        ("+8", 8),
    ],
)
def test_an_offset_is_read_as_c_reads_it(text: str, number: int) -> None:
    assert c_integer(text) == number
    assert parse_fw_env_config(f"/dev/a {text} 0x4000")[0].offset == number


@pytest.mark.parametrize("text", ["", "-", "0x", "08", "1_0", "0o17", "0b1", "0x0x1", "--1", "1 ", "ff"])
def test_what_c_would_not_read_whole_is_no_number(text: str) -> None:
    with pytest.raises(ValueError):
        c_integer(text)


YAML = """# libubootenv's own example, as of its extended format
---
uboot :
  size : 0x4000
  lockfile : "/run/env.lock"   # of its own
  devices:
    - path : /dev/mtd0
      offset : 0040000
      sectorsize : 65536
      disablelock : yes
    - path: '/dev/mtd1'
      disablelock : no
  writelist:
    - BOOT_ORDER:sw
    - ethaddr:mc
other:
    devices:
    writelist:
appvar:
    size: 4096
    devices:
    -   offset: -0x1000
        path: /dev/mmcblk0
"""


def test_the_yaml_form_of_libubootenv_is_read() -> None:
    found = read_config(YAML.replace("    devices:\n    writelist:", "    size: 16"))
    assert found.lock == Path("/run/env.lock")
    assert found.copies == (
        EnvLocation(Path("/dev/mtd0"), 0x4000, 0x4000, 0x10000, no_lock=True),
        EnvLocation(Path("/dev/mtd1"), 0, 0x4000),
    )
    named = read_config(YAML.replace("    devices:\n    writelist:", "    size: 16"), "appvar")
    assert named == FwEnvConfig((EnvLocation(Path("/dev/mmcblk0"), -0x1000, 0x1000),))


def test_both_forms_of_one_file_say_the_same(tmp_path: Path) -> None:
    plain = "/dev/mmcblk0 0x400000 0x4000\n/dev/mmcblk0 0x410000 0x4000 0x200 8 0\n"
    assert read_config(plain).copies == parse_fw_env_config(plain)
    yaml = "env:\n  size: 0x4000\n  devices:\n" + "".join(
        f"    - path: /dev/mmcblk0\n      offset: {at}\n" for at in ("0x400000", "0x410000")
    )
    assert read_config(yaml).copies == parse_fw_env_config(plain.replace("0x200 8 0", ""))
    config = tmp_path / "fw_env.config"
    config.write_text(
        yaml.replace("  devices", f"  lockfile: {tmp_path}/own.lock\n  devices").replace(
            "/dev/mmcblk0", f"{tmp_path}/env"
        )
    )
    (tmp_path / "env").write_bytes(bytes(0x400000) + emit_copy(OLD, 0x4000, 1).ljust(0x10000) + bytes(0x4000))
    assert open_environment(RealDisk(), config, tmp_path / "other.lock").load().variables == OLD
    assert (tmp_path / "own.lock").exists()
    assert not (tmp_path / "other.lock").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  a:\n    size: 1", "line 1: its indentation"),
        ("a: 5", "line 1: expected device"),  # the other form
        ("a:\nb: 5", "line 2: a namespace has keys"),
        ("a:\n  size: 0x4000\n  sise: 1", "line 3: unknown key sise"),
        ("a:\n  size: x", "line 2: 'x' is no number"),
        ("a:\n  size: 1_0", "line 2: '1_0' is no number"),
        ("a:\n  devices:\n    - path: /x\n  size: 0x4000", "line 2: size must come before"),
        ("a:\n  size: 0x4000\n  devices: [/x]", "line 3: this value is in a form"),
        ("a:\n  size: 0x4000\n  devices: here", "line 3: devices is a list"),
        ("a:\n  size: 0x4000\n  devices:\n    path: /x", "line 4: its indentation"),
        ("a:\n  size: 0x4000\n  devices:\n    - path: /x\n     offset: 0", "line 5: its indentation"),
        ("a:\n  size: 0x4000\n  devices:\n    - path: /x\n        offset: 0", "line 5: its indentation"),
        ("a:\n  size: 0x4000\n  devices:\n    - offset: 0", "line 4: this device has no path"),
        ("a:\n  size: 0x4000\n  devices:\n    - path: /x\n      colour: 1", "line 5: unknown key colour"),
        ("a:\n  size: 0x4000\n  devices:\n    - path: /x\n    - path: /y\n    - path: /z", "line 6: one or two"),
        ("a:\n  size: 0x4000\n    more: 1\n  devices:", "line 3: its indentation"),
        ("a:\n  size: 3\n  devices:\n    - path: /x", "line 4: size 0x3 is not possible"),
        ("a:\n  size: 0x4000", "one or two copies of the environment, not 0"),
        ("a:\n  size: 0x4000\n  devices:\n    - path: 'a", "line 4: this text is in a form"),
        ("a:\n  size: 0x4000\n  devices:\n    - path: *x", "line 4: this value is in a form"),
        ("a:\n  - size: 0x4000", "line 2: its indentation"),
        ("a:\n  just words", "line 2: expected a key"),
        ("a:\n" + "  size: 0x4000\n" * 1001, "line 1001: too many lines"),
    ],
)
def test_a_mistake_in_the_yaml_form_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        read_config(text)
    assert caught.value.code is CONFIGURATION
    with pytest.raises(RequestError, match="no namespace 'b'"):
        read_config("a:\n  size: 0x4000", "b")


def test_random_bytes_are_an_environment_or_an_error_and_nothing_else() -> None:
    random = Random(7)
    good = emit_copy(OLD, SIZE, 1)
    for _ in range(500):
        raw = bytearray(good)
        for _ in range(random.randint(1, 4)):
            raw[random.randrange(SIZE)] = random.randrange(256)
        if random.random() < 0.5:  # a checksum that fits whatever it is
            raw[:4] = struct.pack("=I", zlib.crc32(raw[5:]))
        with suppress(DeviceError):
            EnvironmentStore(flash(bytes(raw), bytes(SIZE)), TWO).load()


needs_libubootenv = pytest.mark.skipif(
    shutil.which("fw_printenv") is None, reason="Debian's libubootenv-tool (fw_printenv, fw_setenv) is not installed"
)


class Tools:
    """libubootenv's programs over an environment in a file."""

    def __init__(self, folder: Path, *, redundant: bool) -> None:
        self.flash = folder / "env.bin"
        self.config = folder / "fw_env.config"
        offsets = (0x200, 0x200 + SIZE) if redundant else (0x200,)
        self.config.write_text("".join(f"{self.flash} {at:#x} {SIZE:#x}\n" for at in offsets))
        self.locations = parse_fw_env_config(self.config.read_text())
        self.flash.write_bytes(b"\0" * (0x200 + 2 * SIZE))

    def store(self) -> EnvironmentStore:
        return EnvironmentStore(RealDisk(), self.locations)

    def run(self, program: str, arguments: Sequence[str]) -> str:
        command = [program, "-c", str(self.config), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout


@needs_libubootenv
@pytest.mark.process
@pytest.mark.parametrize("redundant", [True, False], ids=["redundant", "single"])
def test_fw_printenv_and_fw_setenv_agree_with_us_in_both_directions(tmp_path: Path, redundant: bool) -> None:
    tools = Tools(tmp_path, redundant=redundant)
    first = emit_copy({"BOOT_ORDER": "A B", "bootcmd": "run boot_a; reset"}, SIZE, 255 if redundant else None)
    tools.flash.write_bytes(bytes(0x200) + first + bytes(SIZE))
    store = tools.store()

    for turn in range(4):
        store.commit({"BOOT_ORDER": "B A", "BOOT_B_LEFT": str(turn)})
        shown = dict(line.split("=", 1) for line in tools.run("fw_printenv", []).splitlines())
        assert shown == store.load().variables
        tools.run("fw_setenv", ["BOOT_A_LEFT", str(turn)])
        assert store.load().variables["BOOT_A_LEFT"] == str(turn)
        assert store.load().variables["bootcmd"] == "run boot_a; reset"


@needs_libubootenv
@pytest.mark.process
def test_fw_printenv_finds_both_copies_bad_where_we_do(tmp_path: Path) -> None:
    tools = Tools(tmp_path, redundant=True)

    with pytest.raises(subprocess.CalledProcessError):
        tools.run("fw_printenv", [])
    with pytest.raises(DeviceError):
        tools.store().load()
