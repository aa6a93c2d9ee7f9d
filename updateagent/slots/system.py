"""The thin reader of /sys and /proc for `updateagent.slots.identity`."""

from __future__ import annotations

import errno
import os
import stat

from updateagent.slots.identity import Node

TEXT_BYTES_MAX = 256 << 10  # mountinfo of a machine with a thousand mounts; files of /sys have a page at most
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFBLK: "block", stat.S_IFCHR: "char"}


class KernelSystem:
    """The running kernel's own facts. Nothing raises, nothing is written."""

    def node(self, path: str) -> Node | None:
        try:
            found = os.stat(path)  # noqa: PTH116  names of /sys with .. in them must reach the kernel as they are
        except (OSError, ValueError):
            return None
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "other")
        number = _number(found.st_rdev) if kind in ("block", "char") else ""
        return Node(kind, _number(found.st_dev), found.st_ino, number, found.st_size)

    def real_path(self, path: str) -> str:
        return os.path.realpath(path)

    def text(self, path: str) -> str | None:
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                return file.read(TEXT_BYTES_MAX).decode("utf-8", "surrogateescape").removesuffix("\n")
        except (OSError, ValueError):
            return None

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))  # noqa: PTH208  names are wanted, not paths
        except OSError:
            return []

    def in_use(self, path: str) -> bool:
        try:
            # The claim that mount, swapon and the device mapper make too: it fails where one of them has the device,
            # also in a name space of mounts that this process does not see.
            os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            return error.errno == errno.EBUSY
        return False


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"
