"""Which bytes a path stands for, over made-up facts of the kernel, and over real loop devices where there are some."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.updateagent.slots.facts import MIB, Facts
from updateagent.errors import BOOTED_SLOT, CONFIGURATION, SLOT, DeviceError, RequestError
from updateagent.slots.identity import Extent, Identity, Node, Place, identify, parse_mountinfo, root_of
from updateagent.slots.survey import Survey
from updateagent.slots.system import KernelSystem


def furnished() -> Facts:
    """The board with everything that the rows below name."""
    facts = Facts()
    facts.links |= {"/dev/slot-a": "/dev/mmcblk0p2", "/data/link": "/data/a.img"}
    facts.nodes["/dev/second-node"] = Node("block", "0:6", 999, "179:2")
    facts.file("/data/a.img", 12)
    facts.file("/data/hard-link", 12)
    facts.file("/data/b.img", 13)
    facts.file("/etc/fw-env", 14, filesystem="179:2", size=0x8000)
    facts.file("/ubifs/a.img", 15, filesystem="0:40")
    facts.loop("/dev/loop0", "7:0", "/data/a.img")
    facts.loop("/dev/loop1", "7:1", "/data/a.img")
    facts.loop("/dev/loop2", "7:2", "/data/b.img", offset=0, limit=MIB)
    facts.loop("/dev/loop3", "7:3", "/data/b.img", offset=MIB, limit=MIB)
    facts.loop("/dev/loop4", "7:4", "/data/b.img", offset=MIB // 2, limit=MIB)
    facts.loop("/dev/loop5", "7:5", "/dev/mmcblk0", offset=16 * MIB, limit=64 * MIB)
    facts.loop("/dev/loop6", "7:6", "/data/gone.img (deleted)")
    facts.partition("/dev/loop5p1", "259:0", "7:5", 1, 8)
    facts.mapped("/dev/dm-0", "252:0", "179:2")
    facts.mapped("/dev/dm-1", "252:1", "179:2", "179:1")
    facts.nodes["/dev/mtdblock1"] = Node("block", "0:6", 998, "31:1")
    facts.block("/dev/ubiblock0_3", "253:0", 32)
    facts.texts["/sys/dev/block/253:0/uevent"] = "DEVNAME=ubiblock0_3"
    facts.mounts("179:2 / / ro - ext4 /dev/root ro", "0:40 / /ubifs rw - ubifs ubi0:rootfs-a rw")
    return facts


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("/dev/mmcblk0p2", "/dev/mmcblk0p2", True),
        ("/dev/slot-a", "/dev/mmcblk0p2", True),
        ("/dev/second-node", "/dev/mmcblk0p2", True),
        ("/dev/mmcblk0p2", "/dev/mmcblk0p3", False),
        ("/dev/mmcblk0", "/dev/mmcblk0p3", True),
        ("/data/a.img", "/data/link", True),
        ("/data/a.img", "/data/hard-link", True),
        ("/data/a.img", "/data/b.img", False),
        ("/data/a.img", "/dev/mmcblk0p4", True),  # the file lies in that partition
        ("/data/a.img", "/dev/mmcblk0p3", False),
        ("/data/later.img", "/data/later.img", True),  # neither is there yet
        ("/data/later.img", "/data/other.img", False),
        ("/dev/loop0", "/dev/loop1", True),
        ("/dev/loop0", "/data/a.img", True),
        ("/dev/loop0", "/dev/loop2", False),
        ("/dev/loop0", "/dev/mmcblk0p4", True),
        ("/dev/loop2", "/dev/loop3", False),
        ("/dev/loop2", "/dev/loop4", True),
        ("/dev/loop3", "/dev/loop4", True),
        ("/dev/loop5", "/dev/mmcblk0p2", True),
        ("/dev/loop5p1", "/dev/slot-a", True),
        ("/dev/loop5p1", "/dev/mmcblk0p3", False),
        ("/dev/loop6", "/dev/loop0", False),
        ("/dev/dm-0", "/dev/mmcblk0p2", True),
        ("/dev/dm-0", "/dev/mmcblk0p3", False),
        ("/dev/dm-0", "/dev/dm-1", False),  # two volumes of one group: where they lie is not told
        ("/dev/ubi0_3", "/dev/ubi0_3", True),
        ("/dev/ubi0_3", "/dev/ubi0:rootfs-a", True),
        ("/dev/ubi0_3", "/dev/ubi0_4", False),
        ("/dev/ubi0_3", "/dev/ubiblock0_3", True),
        ("/dev/ubi0_4", "/dev/ubiblock0_3", False),
        ("/dev/ubi0_3", "/dev/mtd5", True),  # the flash below the volume
        ("/dev/ubi0_3", "/dev/mtd1", False),
        ("/ubifs/a.img", "/dev/ubi0_3", True),
        ("/ubifs/a.img", "/dev/ubi0_4", False),
        ("/dev/mtd1", "/dev/mtd1ro", True),
        ("/dev/mtd1", "/dev/mtdblock1", True),
        ("/dev/mtd1", "/dev/mtd2", False),
        ("/dev/mtd0", "/dev/mtd2", True),
        ("/dev/none", "/dev/mmcblk0p2", False),
    ],
)
def test_two_paths_are_the_same_bytes_or_not(one: str, other: str, common: bool) -> None:
    facts = furnished()
    mounts = parse_mountinfo(facts.texts["/proc/self/mountinfo"])
    first, second = (identify(facts, Place("it", path), mounts) for path in (one, other))
    assert bool(first.meets(second)) == bool(second.meets(first)) == common


@pytest.mark.parametrize(
    ("copy", "common"),
    [
        (Place("copy", "/dev/mmcblk0", 0x10000, 0x4000), ""),
        (Place("copy", "/dev/mmcblk0", 16 * MIB - 0x4000, 0x4000), ""),
        (Place("copy", "/dev/mmcblk0", 16 * MIB - 0x4000, 0x4001), "block device 179:0"),
        (Place("copy", "/dev/mmcblk0", -0x4000, 0x4000), ""),
        (Place("copy", "/dev/mmcblk0", -944 * MIB, 0x4000), "block device 179:0"),  # 80 MiB from the start
        (Place("copy", "/dev/mmcblk0p3", 0, 0x4000), "block device 179:3"),
        (Place("copy", "/etc/fw-env", 0, 0x4000), "block device 179:2"),
        (Place("copy", "/data/fw-env", 0, 0x4000), ""),
    ],
)
def test_a_copy_of_the_environment_is_clear_of_the_slots_or_not(copy: Place, common: str) -> None:
    survey = Survey(
        furnished(), {"A": [Place("slot A", "/dev/slot-a")], "B": [Place("slot B", "/dev/mmcblk0p3")]}, [copy]
    )
    if not common:
        survey.check_overlaps()
        return
    with pytest.raises(RequestError, match=f"are the same bytes .{common}") as caught:
        survey.check_overlaps()
    assert caught.value.code is CONFIGURATION


def test_every_pair_that_overlaps_is_named() -> None:
    places = {
        "A": [Place("slot A", "/dev/slot-a"), Place("kernel of slot A", "/dev/mtd1")],
        "B": [Place("slot B", "/dev/second-node"), Place("kernel of slot B", "/dev/mtdblock1")],
        "R": [],
    }
    copies = [Place("copy 1", "/dev/mtd2", 0, 0x4000), Place("copy 2", "/dev/mtd0", 2 * MIB + 0x2000, 0x4000)]
    with pytest.raises(RequestError) as caught:
        Survey(furnished(), places, copies).check_overlaps()
    assert caught.value.message.splitlines() == [
        "slot A, /dev/slot-a and slot B, /dev/second-node are the same bytes (block device 179:2)",
        "kernel of slot A, /dev/mtd1 and kernel of slot B, /dev/mtdblock1 are the same bytes (mtd1)",
        "copy 1, /dev/mtd2 and copy 2, /dev/mtd0 are the same bytes (mtd0)",
    ]


def test_loops_that_are_on_one_another_in_a_circle_come_to_an_end() -> None:
    facts = Facts()
    facts.loop("/dev/loop0", "7:0", "/dev/loop1")
    facts.loop("/dev/loop1", "7:1", "/dev/loop0")
    facts.partition("/dev/x", "8:1", "8:1", 0, 8)
    facts.mapped("/dev/dm-0", "252:0", "252:0")
    facts.texts |= {"/sys/class/mtd/mtd0/offset": "0", "/sys/class/mtd/mtd0/../uevent": "DEVNAME=mtd0"}
    for path in ("/dev/loop0", "/dev/x", "/dev/dm-0", "/dev/mtd0"):
        assert identify(facts, Place("it", path)).own


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        (Extent("m"), Extent("n"), False),
        (Extent("m", 5), Extent("m", 0, 5), False),
        (Extent("m", 4), Extent("m", 0, 5), True),
        (Extent("m", 0, 5), Extent("m", 5, 6), False),
        (Extent("m", 3, 3), Extent("m", 0, 9), False),
    ],
)
def test_extents_meet_in_a_byte_that_both_have(one: Extent, other: Extent, meets: bool) -> None:
    assert one.meets(other) == other.meets(one) == meets


def test_a_part_of_an_extent_is_within_it() -> None:
    assert Extent("m", 10, 20).part(2, None) == Extent("m", 12, 20)
    assert Extent("m", 10, 20).part(2, 5) == Extent("m", 12, 15)
    assert Extent("m", 10, 20).part(0, 50) == Extent("m", 10, 20)
    assert Extent("m", 10).part(0, None) == Extent("m", 10)


def test_mountinfo_is_read_with_its_optional_fields_and_escapes() -> None:
    lines = (
        "1 0 0:2 / / rw - rootfs rootfs rw",
        "27 1 254:2 / / ro,relatime shared:1 master:2 - ext4 /dev/root ro",
        "28 27 179:4 /sub /data\\040of\\134me rw - ext4 /dev/a\\040b rw",
        "broken - line",
        "29 27 0:44 / /empty rw - tmpfs  rw",
        "30 27 0:45 / /cut rw shared:1 -",
        "",
    )
    mounts = parse_mountinfo("\n".join(lines))
    assert [(one.number, one.point, one.kind, one.source) for one in mounts] == [
        ("0:2", "/", "rootfs", "rootfs"),
        ("254:2", "/", "ext4", "/dev/root"),
        ("179:4", "/data of\\me", "ext4", "/dev/a b"),
        ("0:44", "/empty", "tmpfs", ""),
    ]
    root = root_of(mounts)
    assert root is not None
    assert root.number == "254:2"
    assert root_of(mounts[2:]) is None


SLOTS = {"A": [Place("slot A", "/dev/slot-a")], "B": [Place("slot B", "/dev/mmcblk0p3")], "R": []}
UBI = {"A": [Place("slot A", "/dev/ubi0_3")], "B": [Place("slot B", "/dev/ubi0_4")]}
MTD = {"A": [Place("slot A", "/dev/mtd1")], "B": [Place("slot B", "/dev/mtd2")]}
FILES = {"A": [Place("slot A", "/data/a.img")], "B": [Place("slot B", "/data/b.img")]}


@pytest.mark.parametrize(
    ("slots", "booted", "root", "said"),
    [
        (SLOTS, "A", "179:2 / / ro - ext4 /dev/root ro", ""),
        (SLOTS, "B", "179:3 / / ro - ext4 /dev/root ro", ""),
        (SLOTS, "B", "179:2 / / ro - ext4 /dev/root ro", "names slot B, and the root file system is slot A's"),
        (SLOTS, "R", "179:2 / / ro - ext4 /dev/root ro", "names slot R, and the root file system is slot A's"),
        (SLOTS, "R", "179:1 / / ro - ext4 /dev/root ro", ""),  # where the recovery system lies nobody says
        (SLOTS, "A", "179:1 / / ro - ext4 /dev/card ro", "is on /dev/card, not on slot A, /dev/slot-a"),
        (SLOTS, "A", "252:0 / / ro - ext4 /dev/mapper/verity ro", ""),
        (SLOTS, "B", "252:0 / / ro - ext4 /dev/mapper/verity ro", "is slot A's"),
        (SLOTS, "A", "0:30 / / rw - overlay overlay rw", ""),
        (SLOTS, "A", "0:30 / / rw - nfs 10.0.0.1:/root rw", ""),
        (SLOTS, "A", "0:30 / / rw - tmpfs /dev/mmcblk0p3 rw", ""),
        (SLOTS, "B", "0:30 / / rw - btrfs /dev/mmcblk0p2 rw", "is slot A's"),
        (SLOTS, "A", "179:1 / / rw - ext4 /dev/card rw\n179:2 / /usr ro - ext4 /dev/mmcblk0p2 ro", ""),
        (UBI, "A", "0:30 / / ro - ubifs ubi0:rootfs-a ro", ""),
        (UBI, "B", "0:30 / / ro - ubifs ubi0:rootfs-a ro", "is slot A's"),
        (UBI, "B", "0:30 / / ro - ubifs /dev/ubi0_3 ro", "is slot A's"),
        (UBI, "B", "253:0 / / ro - squashfs /dev/ubiblock0_3 ro", "is slot A's"),
        (MTD, "B", "31:1 / / ro - jffs2 mtd1 ro", "is slot A's"),
        (MTD, "A", "31:1 / / ro - squashfs /dev/mtdblock1 ro", ""),
        (FILES, "A", "7:0 / / ro - squashfs /dev/loop0 ro", ""),
        (FILES, "B", "7:0 / / ro - squashfs /dev/loop0 ro", "is slot A's"),
        (FILES, "A", "179:2 / / ro - ext4 /dev/root ro", ""),  # a root in memory that was loaded from the file, say
    ],
)
def test_the_slot_of_the_command_line_is_compared_with_the_root_that_is_mounted(
    slots: dict[str, list[Place]], booted: str, root: str, said: str
) -> None:
    facts = furnished()
    facts.mounts(*root.split("\n"))
    survey = Survey(facts, slots)
    if not said:
        survey.check_root(booted)
        return
    with pytest.raises(DeviceError, match=said) as caught:
        survey.check_root(booted)
    assert caught.value.code is BOOTED_SLOT


def test_without_proc_nothing_can_be_told() -> None:
    facts = furnished()
    del facts.texts["/proc/self/mountinfo"]
    survey = Survey(facts, SLOTS)
    survey.check_root("B")
    survey.check_target("A")


@pytest.mark.parametrize(
    ("target", "mounted", "said"),
    [
        (Place("it", "/dev/mmcblk0p3"), "179:4 / /data rw - ext4 /dev/mmcblk0p4 rw", ""),
        (
            Place("it", "/dev/mmcblk0p3"),
            "179:3 / /mnt/a\\040b rw - ext4 /dev/x rw",
            "it, /dev/mmcblk0p3 is mounted at /mnt/a b",
        ),
        (Place("it", "/dev/mmcblk0"), "179:4 / /data rw - ext4 /dev/mmcblk0p4 rw", "mounted at /data"),
        (Place("it", "/dev/slot-a"), "252:0 / /mnt rw - ext4 /dev/mapper/x rw", "mounted at /mnt"),
        (Place("it", "/data/b.img"), "179:4 / /data rw - ext4 /dev/mmcblk0p4 rw", ""),
        (Place("it", "/data/b.img"), "7:2 / /mnt rw - ext4 /dev/loop2 rw", "mounted at /mnt"),
        (Place("it", "/dev/mmcblk0p4"), "7:2 / /mnt rw - ext4 /dev/loop2 rw", "mounted at /mnt"),
        (Place("it", "/dev/ubi0_4"), "0:40 / /mnt rw - ubifs ubi:rootfs-b rw", "mounted at /mnt"),
        (Place("it", "/dev/mtd2"), "31:2 / /mnt rw - jffs2 mtd:x rw", "mounted at /mnt"),
        (Place("it", "/dev/loop6"), "179:2 / / rw - ext4 /dev/root rw", "is in use"),
    ],
)
def test_a_slot_that_is_mounted_is_not_written(target: Place, mounted: str, said: str) -> None:
    facts = furnished()
    facts.mounts(mounted)
    facts.busy.add("/dev/loop6")
    survey = Survey(facts, {"A": [Place("slot A", "/dev/none")], "B": [target]})
    survey.check_target("A")
    if not said:
        survey.check_target("B")
        return
    with pytest.raises(DeviceError, match=said) as caught:
        survey.check_target("B")
    assert caught.value.code is SLOT


# -- the kernel's own facts


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[list[str]]:
    """Loop devices over one file of 8 MiB: all of it, its first half, its second half."""
    if os.geteuid() != 0 or shutil.which("losetup") is None or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")
    file = tmp_path / "disk.img"
    file.write_bytes(bytes(8 * MIB))
    made: list[str] = []
    try:
        for offset, size in ((0, 8 * MIB), (0, 4 * MIB), (4 * MIB, 4 * MIB)):
            command = ["losetup", "--find", "--show", "--offset", str(offset), "--sizelimit", str(size), str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no loop device can be made here: {done.stderr.strip()}")
            made.append(done.stdout.strip())
        yield made
    finally:
        for device in made:
            subprocess.run(["losetup", "--detach", device], check=False)


def real(path: str | Path) -> Identity:
    system = KernelSystem()
    return identify(system, Place("it", str(path)), parse_mountinfo(system.text("/proc/self/mountinfo") or ""))


@pytest.mark.process
def test_real_loop_devices_are_told_apart_by_their_file_and_offset(loops: list[str], tmp_path: Path) -> None:
    whole, first, second = loops
    assert real(whole).meets(real(first))
    assert real(whole).meets(real(second))
    assert not real(first).meets(real(second))
    assert real(second).meets(real(tmp_path / "disk.img"))
    (tmp_path / "link").symlink_to(second)
    assert real(tmp_path / "link").meets(real(second))
    assert not real(tmp_path / "link").meets(real(tmp_path))


@pytest.mark.process
def test_a_real_loop_device_that_is_mounted_is_not_written(loops: list[str], tmp_path: Path) -> None:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    whole, first, second = loops
    point = tmp_path / "point"
    point.mkdir()
    slots = {name: [Place(f"slot {name}", path)] for name, path in (("A", first), ("B", second), ("C", whole))}
    survey = Survey(KernelSystem(), slots)
    survey.check_target("B")
    subprocess.run(["mkfs.ext4", "-q", second], check=True)
    mounted = subprocess.run(["mount", second, str(point)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        assert KernelSystem().in_use(second)
        assert not KernelSystem().in_use(first)
        now = Survey(KernelSystem(), slots)
        now.check_target("A")
        for name in "BC":
            with pytest.raises(DeviceError, match=f"mounted at {point}"):
                now.check_target(name)
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_the_kernels_facts_are_read_and_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    system = KernelSystem()
    (tmp_path / "file").write_bytes(b"text\n")
    found, folder, null = (system.node(str(path)) for path in (tmp_path / "file", tmp_path, "/dev/null"))
    assert found is not None
    assert (found.kind, found.inode, found.size) == ("file", (tmp_path / "file").stat().st_ino, 5)
    assert folder is not None
    assert (folder.kind, folder.filesystem) == ("folder", found.filesystem)
    assert null is not None
    assert (null.kind, null.number) == ("char", "1:3")
    assert system.text(str(tmp_path / "file")) == "text"
    assert (system.node("/no/such"), system.text("/no/such"), system.names("/no/such")) == (None, None, [])
    assert (system.node("a\0b"), system.text("a\0b")) == (None, None)
    assert not system.in_use("/no/such")
    assert parse_mountinfo(system.text("/proc/self/mountinfo") or "")
