"""Which bytes of which device a path stands for, and which of them are the same. Sans-IO: facts come from a `System`.

A name says little: a link, a second device node, a loop device, a partition and its disk are other names of the same
bytes. An `Identity` therefore has *every* way in which the bytes can be named, from the path down to the lowest device
that the kernel tells of:

    /dev/slot-a  ->  partition 179:2, all of it  ->  disk 179:0, bytes 0x1000000 to 0x5000000
    /dev/loop0   ->  loop device 7:0  ->  inode 12 of the file system on 179:4, from its byte 4096 on
    /dev/ubi0_3  ->  volume 3 of UBI device 0, somewhere on mtd5

Where only the device is known that something lies on, and not where (a file in a file system, a volume on flash, a
mapped device on the ones below it), that device is *around* it: two files of one file system are no overlap, a file and
the partition of its file system are.

What cannot be told is left out: two MTD partitions whose flash as a whole has no node of its own
(CONFIG_MTD_PARTITIONED_MASTER), the ranges of mapped devices, a loop device whose file was removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

LAYERS_MAX = 16  # devices below one another; the kernel itself allows fewer
SECTOR_BYTES = 512  # sysfs counts in these, whatever the sectors of the device are
MTD_BLOCK_MAJOR, MTD_CHAR_MAJOR = "31", "90"
ANONYMOUS = "0"  # the major number of file systems that are on no block device
MOUNTS_MAX = 4096
MOUNT_FIELDS_MIN = 10
IN_MEMORY = frozenset({"devtmpfs", "overlay", "proc", "ramfs", "rootfs", "sysfs", "tmpfs"})
"""File systems whose source is any text that somebody gave them."""


@dataclass(frozen=True, slots=True)
class Node:
    """What `stat` says of a path, links followed. `kind`: file, folder, block, char or other; `number` is "major:minor"
    of a device, `filesystem` that of what holds the file. `size` in bytes, of a file only."""

    kind: str
    filesystem: str
    inode: int
    number: str = ""
    size: int = 0


class System(Protocol):
    """Where the facts come from: the kernel's files, or a test. Nothing raises."""

    def node(self, path: str) -> Node | None:
        """What is there; None for nothing, or nothing that can be looked at."""

    def real_path(self, path: str) -> str:
        """The path without links, as far as it exists."""

    def text(self, path: str) -> str | None:
        """A small file of /sys or /proc, without the newline at its end; None when it cannot be read."""

    def names(self, path: str) -> list[str]:
        """The names in a folder; empty for none."""

    def in_use(self, path: str) -> bool:
        """Whether the kernel would give a block device to nobody else: mounted somewhere, swap, part of another."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `begin` to `end` (None: to the end) of a medium. `medium` is its name, for comparison and for a person."""

    medium: str
    begin: int = 0
    end: int | None = None

    def meets(self, other: Extent) -> bool:
        """Whether both have a byte in common."""
        ends = [one for one in (self.end, other.end) if one is not None]
        return self.medium == other.medium and (not ends or max(self.begin, other.begin) < min(ends))

    def part(self, begin: int, end: int | None) -> Extent:
        """The bytes `begin` to `end` of these, counted from their start, and no others."""
        ends = [one for one in (self.end, None if end is None else self.begin + end) if one is not None]
        return Extent(self.medium, self.begin + begin, min(ends) if ends else None)


@dataclass(frozen=True, slots=True)
class Identity:
    """`own`: every name of exactly these bytes. `around`: what they lie on, nobody says where."""

    own: tuple[Extent, ...] = ()
    around: tuple[Extent, ...] = ()

    def meets(self, other: Identity) -> str:
        """A medium of which both have a byte, when one of them is written whole; empty for none."""
        return _common(self.own, other.own) or _common(self.own, other.around) or _common(other.own, self.around)

    def holds(self, other: Identity) -> str:
        """A medium by which writing here changes the bytes of `other`, a file system say; empty for none."""
        return _common(self.own, other.own) or _common(self.own, other.around)


def _common(some: Sequence[Extent], others: Sequence[Extent]) -> str:
    return next((one.medium for one in some for other in others if one.meets(other)), "")


@dataclass(frozen=True, slots=True)
class Place:
    """Something that is written: a path, and the bytes from `begin` on (negative: from the end), `length` of them or
    all. `label` is what a person calls it."""

    label: str
    path: str
    begin: int = 0
    length: int | None = None

    def __str__(self) -> str:
        return f"{self.label}, {self.path}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo: device "major:minor", where it is mounted, the type of file system, and what was mounted."""

    number: str
    point: str
    kind: str
    source: str


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """The mounts in `/proc/self/mountinfo` (proc_pid_mountinfo(5)), in its order; lines that are none are left out."""
    found = []
    for line in text.split("\n")[:MOUNTS_MAX]:
        fields = line.split(" ")
        if len(fields) < MOUNT_FIELDS_MIN or "-" not in fields[6:]:
            continue
        kind, source = (*fields[fields.index("-", 6) + 1 :], "", "")[:2]
        found.append(Mount(fields[2], _plain(fields[4]), kind, _plain(source)))
    return tuple(found)


def _plain(field: str) -> str:
    """Without the kernel's octal escapes (`\\040` for a space)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def root_of(mounts: Sequence[Mount]) -> Mount | None:
    """The mount at `/` that is seen: the last of those that lie over one another."""
    return next((mount for mount in reversed(mounts) if mount.point == "/"), None)


def identify(system: System, place: Place, mounts: Sequence[Mount] = ()) -> Identity:
    """The identity of what is written. `mounts` are needed for files of file systems such as UBIFS."""
    finder = _Finder(system, mounts)
    begin = place.begin
    if begin < 0:
        begin += finder.size_of(place.path)
    finder.path(place.path, (max(0, begin), None if place.length is None else max(0, begin) + place.length))
    return finder.found()


def identify_mount(system: System, mount: Mount, mounts: Sequence[Mount] = ()) -> Identity:
    """The identity of what is mounted; empty when no device is behind it that the kernel tells of."""
    finder = _Finder(system, mounts)
    finder.mount(mount)
    return finder.found()


class _Finder:
    """Follows one path, or one mount, down to the lowest devices. `_span` in all of it: (begin, end or None)."""

    def __init__(self, system: System, mounts: Sequence[Mount]) -> None:
        self._system = system
        self._mounts = mounts
        self._own: list[Extent] = []
        self._around: list[Extent] = []
        self._depth = 0

    def found(self) -> Identity:
        return Identity(tuple(dict.fromkeys(self._own)), tuple(dict.fromkeys(self._around)))

    def size_of(self, path: str) -> int:
        """Bytes of a file or a block device; 0 when that cannot be told."""
        node = self._system.node(path)
        if node is None:
            return 0
        if node.kind == "block":
            return SECTOR_BYTES * (self._number(f"/sys/dev/block/{node.number}/size") or 0)
        return node.size

    def path(self, path: str, span: tuple[int, int | None], *, around: bool = False) -> None:
        if self._depth > LAYERS_MAX:
            return
        self._depth += 1
        node = self._system.node(path)
        if node is None:
            self._unseen(path, span, around=around)
        elif node.kind == "block":
            self._block(node.number, span, around=around)
        elif node.kind == "char":
            self._char(node.number, span, around=around)
        else:
            self._add(f"inode {node.inode} of file system {node.filesystem}", span, around=around)
            self._filesystem(node.filesystem)
        self._depth -= 1

    def mount(self, mount: Mount, *, around: bool = False) -> None:
        if not mount.number.startswith(f"{ANONYMOUS}:"):
            self._block(mount.number, (0, None), around=around)
            return
        if mount.kind in IN_MEMORY:
            return
        source = mount.source.removeprefix("/dev/")
        if volume := self._volume_named(source):
            self._volume(volume, around=around)
        elif found := re.fullmatch(r"mtd(\d{1,4})", source):
            self._mtd(int(found[1]), (0, None), around=around)
        elif mount.source.startswith("/"):
            node = self._system.node(mount.source)
            if node is not None and node.kind == "block":
                self._block(node.number, (0, None), around=around)

    def _add(self, medium: str, span: tuple[int, int | None], *, around: bool) -> None:
        (self._around if around else self._own).append(Extent(medium, *span))

    def _unseen(self, path: str, span: tuple[int, int | None], *, around: bool) -> None:
        """No such node: a volume by its name, or a file that is made later."""
        real = self._system.real_path(path)
        folder, _, name = real.rpartition("/")
        volume = self._volume_named(name) if folder == "/dev" else ""
        if volume:
            self._volume(volume, around=around)
            return
        node = self._system.node(folder or "/")
        where = real if node is None else f"{name} in inode {node.inode} of file system {node.filesystem}"
        self._add(where, span, around=around)

    def _filesystem(self, number: str) -> None:
        """What a file lies in."""
        if not number.startswith(f"{ANONYMOUS}:"):
            self._block(number, (0, None), around=True)
            return
        for mount in self._mounts:
            if mount.number == number:
                self.mount(mount, around=True)
                return

    def _block(self, number: str, span: tuple[int, int | None], *, around: bool) -> None:
        major, _, minor = number.partition(":")
        if major == MTD_BLOCK_MAJOR and minor.isdigit():
            self._mtd(int(minor), span, around=around)
            return
        if self._depth > LAYERS_MAX:
            return
        self._depth += 1
        about = f"/sys/dev/block/{number}"
        self._add(f"block device {number}", span, around=around)
        name = self._device_name(about)
        if name.startswith("ubiblock"):
            self._volume(name.replace("block", "", 1), around=around)
        self._partition(about, span, around=around)
        self._loop(about, span, around=around)
        for below in self._system.names(f"{about}/slaves"):
            other = self._system.text(f"{about}/slaves/{below}/dev")
            if other:
                self._block(other, (0, None), around=True)
        self._depth -= 1

    def _partition(self, about: str, span: tuple[int, int | None], *, around: bool) -> None:
        if self._system.text(f"{about}/partition") is None:
            return
        disk = self._system.text(f"{about}/../dev")
        start, size = self._number(f"{about}/start"), self._number(f"{about}/size")
        if disk and start is not None and size is not None:
            whole = Extent(disk, start * SECTOR_BYTES, (start + size) * SECTOR_BYTES)
            self._block(disk, _span(whole.part(*span)), around=around)

    def _loop(self, about: str, span: tuple[int, int | None], *, around: bool) -> None:
        file = self._system.text(f"{about}/loop/backing_file")
        if file is None:
            return
        offset, limit = self._number(f"{about}/loop/offset") or 0, self._number(f"{about}/loop/sizelimit") or 0
        self.path(file, _span(Extent(file, offset, offset + limit if limit else None).part(*span)), around=around)

    def _char(self, number: str, span: tuple[int, int | None], *, around: bool) -> None:
        major, _, minor = number.partition(":")
        name = self._device_name(f"/sys/dev/char/{number}")
        if not name and major == MTD_CHAR_MAJOR and minor.isdigit():
            name = f"mtd{int(minor) // 2}"  # every second one is the same for reading only
        if found := re.fullmatch(r"mtd(\d{1,4})(ro)?", name):
            self._mtd(int(found[1]), span, around=around)
        elif re.fullmatch(r"ubi\d+_\d+", name):
            self._volume(name, around=around)
        else:
            self._add(f"character device {number}", span, around=around)

    def _volume(self, name: str, *, around: bool) -> None:
        """`ubi0_3`: always the whole of it, whatever part is used. Its blocks may be anywhere on the flash."""
        self._add(f"UBI volume {name}", (0, None), around=around)
        flash = self._number(f"/sys/class/ubi/{name.partition('_')[0]}/mtd_num")
        if flash is not None:
            self._mtd(flash, (0, None), around=True)

    def _volume_named(self, name: str) -> str:
        """`ubi0_3` for itself, and for `ubi0:rootfs` or `ubi:rootfs` (of device 0); empty when it is no volume."""
        if re.fullmatch(r"ubi\d+_\d+", name):
            return name
        found = re.fullmatch(r"ubi(\d*)[:!](.+)", name)
        if found is None:
            return ""
        device, wanted = f"ubi{found[1] or 0}", found[2]
        for volume in self._system.names("/sys/class/ubi"):
            if volume.startswith(f"{device}_") and self._system.text(f"/sys/class/ubi/{volume}/name") == wanted:
                return volume
        return ""

    def _mtd(self, index: int, span: tuple[int, int | None], *, around: bool) -> None:
        self._depth += 1
        about = f"/sys/class/mtd/mtd{index}"
        self._add(f"mtd{index}", span, around=around)
        offset, size = self._number(f"{about}/offset"), self._number(f"{about}/size")
        parent = re.fullmatch(r"mtd(\d{1,4})", self._device_name(f"{about}/.."))
        if parent and offset is not None and size is not None and self._depth <= LAYERS_MAX:
            self._mtd(int(parent[1]), _span(Extent("", offset, offset + size).part(*span)), around=around)
        self._depth -= 1

    def _device_name(self, about: str) -> str:
        """`DEVNAME` of a device's `uevent`, the kernel's own name for it."""
        lines = (self._system.text(f"{about}/uevent") or "").split("\n")
        return next((line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME=")), "")

    def _number(self, path: str) -> int | None:
        text = self._system.text(path)
        return int(text) if text is not None and text.isdecimal() and len(text) <= 20 else None


def _span(extent: Extent) -> tuple[int, int | None]:
    return extent.begin, extent.end
