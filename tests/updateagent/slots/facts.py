"""Made-up facts of a kernel, for `updateagent.slots.identity`."""

from __future__ import annotations

from dataclasses import dataclass, field

from updateagent.slots.identity import Node

MIB = 1 << 20
SECTORS = MIB // 512
DATA = "179:4"


@dataclass
class Facts:
    """A board with eMMC (four partitions), one of them mounted on /data; a NAND with UBI; NOR flash with partitions."""

    nodes: dict[str, Node] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.block("/dev/mmcblk0", "179:0", size=1024)
        for number, begin, size in ((1, 1, 15), (2, 16, 64), (3, 80, 64), (4, 144, 256)):
            self.partition(f"/dev/mmcblk0p{number}", f"179:{number}", "179:0", begin, size)
        self.nodes["/"] = Node("folder", "179:2", 2)
        self.nodes["/dev"] = Node("folder", "0:6", 1)
        self.nodes["/data"] = Node("folder", DATA, 2)
        for volume, name in ((0, "env"), (1, "env2"), (3, "rootfs-a"), (4, "rootfs-b")):
            self.char(f"/dev/ubi0_{volume}", f"249:{volume + 1}", f"ubi0_{volume}")
            self.texts[f"/sys/class/ubi/ubi0_{volume}/name"] = name
        self.texts["/sys/class/ubi/ubi0/mtd_num"] = "5"
        for index in (0, 1, 2, 5):
            self.char(f"/dev/mtd{index}", f"90:{2 * index}", f"mtd{index}")
            self.char(f"/dev/mtd{index}ro", f"90:{2 * index + 1}", f"mtd{index}ro")
        self.texts["/sys/class/mtd/mtd0/size"] = str(16 * MIB)
        for index, begin in ((1, 1), (2, 2)):  # partitions of mtd0
            about = f"/sys/class/mtd/mtd{index}"
            self.texts |= {f"{about}/offset": str(begin * MIB), f"{about}/size": str(MIB)}
            self.texts[f"{about}/../uevent"] = "MAJOR=90\nMINOR=0\nDEVNAME=mtd0"
        self.mounts("179:2 / / ro - ext4 /dev/root ro", f"{DATA} / /data rw - ext4 /dev/mmcblk0p4 rw")

    def mounts(self, *lines: str) -> None:
        lines = ("0:22 / /proc rw - proc proc rw", *lines)
        self.texts["/proc/self/mountinfo"] = "\n".join(
            f"{number} 1 {line.replace(' - ', ' shared:1 - ')}" for number, line in enumerate(lines, start=20)
        )

    def block(self, path: str, number: str, size: int) -> None:
        self.nodes[path] = Node("block", "0:6", 100 + len(self.nodes), number)
        self.texts[f"/sys/dev/block/{number}/size"] = str(size * SECTORS)

    def partition(self, path: str, number: str, disk: str, begin: int, size: int) -> None:
        self.block(path, number, size)
        about = f"/sys/dev/block/{number}"
        self.texts |= {f"{about}/partition": "1", f"{about}/start": str(begin * SECTORS), f"{about}/../dev": disk}

    def char(self, path: str, number: str, name: str) -> None:
        self.nodes[path] = Node("char", "0:6", 100 + len(self.nodes), number)
        self.texts[f"/sys/dev/char/{number}/uevent"] = f"MAJOR=1\nDEVNAME={name}"

    def file(self, path: str, inode: int, filesystem: str = DATA, size: int = 64 * MIB) -> None:
        self.nodes[path] = Node("file", filesystem, inode, size=size)

    def loop(self, path: str, number: str, file: str, offset: int = 0, limit: int = 0) -> None:
        self.block(path, number, 64)
        about = f"/sys/dev/block/{number}/loop"
        self.texts |= {f"{about}/backing_file": file, f"{about}/offset": str(offset), f"{about}/sizelimit": str(limit)}

    def mapped(self, path: str, number: str, *below: str) -> None:
        self.block(path, number, 64)
        for index, other in enumerate(below):
            self.texts[f"/sys/dev/block/{number}/slaves/{index}/dev"] = other

    # -- what `System` has

    def node(self, path: str) -> Node | None:
        return self.nodes.get(self.real_path(path))

    def real_path(self, path: str) -> str:
        return self.links.get(path, path)

    def text(self, path: str) -> str | None:
        return self.texts.get(path)

    def names(self, path: str) -> list[str]:
        below = {name[len(path) + 1 :].partition("/")[0] for name in self.texts if name.startswith(f"{path}/")}
        return sorted(below)

    def in_use(self, path: str) -> bool:
        return path in self.busy
