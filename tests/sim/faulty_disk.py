"""A disk in memory that loses power, and lies, exactly where it is told to.

What was not synced may be kept, lost, or kept in parts: a write is kept or lost by its 512-byte sectors, and of the
names made, changed or removed in a folder since its last sync a beginning is kept, in the order they were made
(file systems with a journal keep the order, not the fact).

    disk = FaultyDisk()
    disk.on_operation = plan          # called before each operation with what it is; may raise or ask for a tear
    try: ...                          # the code under test, over disk as its Storage
    except PowerCut: disk = disk.after_power_cut(Survival.HOLED, random)

`PowerCut` is no `Exception`: no handler of the code under test can swallow it. After a cut the old object refuses
everything, so that nothing goes on in a process that is dead.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from random import Random

from updateagent.disk import Lock, RawFile, Storage

SECTOR_BYTES = 512
# `make seeds` plays the same enumerations with other losses.
SEED = os.environ.get("TORTURE_SEED", "")
FREE_BYTES = 1 << 30


class PowerCut(BaseException):
    """The board lost its power here."""


class Survival(Enum):
    """What becomes of everything that was not synced."""

    LOST = "all lost"
    KEPT = "all kept"
    NAMES_ONLY = "names kept, data lost"
    DATA_ONLY = "data kept, names lost"
    HOLED = "sectors and names at random"


def seeded(random: Random) -> Random:
    """The same chance as ever, or that of the seed that was asked for."""
    return Random(f"{SEED} {random.getrandbits(64)}") if SEED else random


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation about to be done. `size` is that of a write, else 0."""

    number: int
    kind: str
    path: Path
    size: int = 0

    def __str__(self) -> str:
        return f"{self.number} {self.kind} {self.path.name}"


@dataclass(slots=True)
class Node:
    """A file: what the medium has for certain, and the writes since, as (offset, data) or a new length."""

    durable: bytes = b""
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    _visible: bytes | None = None

    @property
    def visible(self) -> bytes:
        if self._visible is None:
            self._visible = apply(self.durable, self.pending)
        return self._visible

    def change(self, change: tuple[int, bytes] | int) -> None:
        self._visible = apply(self.visible, [change])
        self.pending.append(change)

    def sync(self) -> None:
        self.durable = self.visible
        self.pending = []

    def copy(self) -> Node:
        return Node(self.durable, list(self.pending), self._visible)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    says: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder; what is in it follows from the paths."""


Entry = Node | Link | Folder


@dataclass(frozen=True, slots=True)
class NameChange:
    """`path` becomes `entry`, or goes away. `also` is the other half of a rename: both or none."""

    path: Path
    entry: Entry | None
    also: NameChange | None = None


def apply(content: bytes, changes: list[tuple[int, bytes] | int]) -> bytes:
    """A file's content after some changes; a gap reads as zeros."""
    data = bytearray(content)
    for change in changes:
        if isinstance(change, int):
            data = data[:change] if change <= len(data) else data + bytes(change - len(data))
        else:
            offset, piece = change
            if offset > len(data):
                data += bytes(offset - len(data))
            data[offset : offset + len(piece)] = piece
    return bytes(data)


def sectors(change: tuple[int, bytes]) -> list[tuple[int, bytes]]:
    """The parts of a write that lie in one sector each."""
    offset, data = change
    parts = []
    at = 0
    while at < len(data):
        length = SECTOR_BYTES - (offset + at) % SECTOR_BYTES
        parts.append((offset + at, data[at : at + length]))
        at += length
    return parts


class FaultyDisk(Storage):
    """The disk. `operations` counts what changes the medium or its promise; reads are not counted."""

    def __init__(self) -> None:
        self._names: dict[Path, Entry] = {Path("/"): Folder()}
        self._durable_names: dict[Path, Entry] = dict(self._names)
        self._name_changes: list[NameChange] = []
        self._links = False  # whether there has ever been a symbolic link: following them costs
        self._locks: set[Path] = set()
        self._dead = False
        self.operations = 0
        self.on_operation: Callable[[Operation], float | None] | None = None
        self.random = Random(0)

    # -- the simulation's side

    def copy(self) -> FaultyDisk:
        """The same disk, alive, with nothing open and nobody watching."""
        made = type(self)()
        twins: dict[int, Entry] = {}

        def twin(entry: Entry) -> Entry:
            if isinstance(entry, Node):
                return twins.setdefault(id(entry), entry.copy())
            return entry

        def twin_change(change: NameChange) -> NameChange:
            also = twin_change(change.also) if change.also else None
            return NameChange(change.path, twin(change.entry) if change.entry else None, also)

        made._links = self._links
        made._names = {path: twin(entry) for path, entry in self._names.items()}
        made._durable_names = {path: twin(entry) for path, entry in self._durable_names.items()}
        made._name_changes = [twin_change(change) for change in self._name_changes]
        return made

    def after_power_cut(self, survival: Survival, random: Random) -> FaultyDisk:
        """The disk that is found when the power is back. This one is dead from now on."""
        random = seeded(random)
        found = self.copy()
        self._dead = True
        keep_data, keep_names = {
            Survival.LOST: (0.0, 0.0),
            Survival.KEPT: (1.0, 1.0),
            Survival.NAMES_ONLY: (0.0, 1.0),
            Survival.DATA_ONLY: (1.0, 0.0),
            Survival.HOLED: (0.5, 0.5),
        }[survival]
        count = len(found._name_changes)
        kept = random.randint(0, count) if survival is Survival.HOLED else round(count * keep_names)
        for change in found._name_changes[:kept]:
            _rename(found._durable_names, change)
        found._name_changes = []
        _drop_unreachable(found._durable_names)
        found._names = dict(found._durable_names)
        for entry in found._names.values():
            if isinstance(entry, Node):
                _settle(entry, keep_data, random)
        return found

    def sync_all(self) -> None:
        """Everything is durable, as on a board that was switched off properly."""
        self._name_changes = []
        self._durable_names = dict(self._names)
        for entry in self._names.values():
            if isinstance(entry, Node):
                entry.sync()

    def _operation(self, kind: str, path: Path, size: int = 0) -> float | None:
        """Count an operation; returns the part of it that is done before the power goes, None for all of it."""
        self._alive()
        self.operations += 1
        if self.on_operation is None:
            return None
        return self.on_operation(Operation(self.operations, kind, path, size))

    def _alive(self) -> None:
        if self._dead:
            raise AssertionError("a dead process used its disk")

    # -- primitives

    def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
        self._alive()
        target = self._follow(path)
        entry = self._names.get(target)
        if create:
            self._need_folder(target.parent)
            tear = self._operation("create", target)
            if not isinstance(entry, Node):
                entry = Node()
                self._change_name(NameChange(target, entry))
            elif entry.visible:
                entry.change(0)
            _cut_if(tear)
        if isinstance(entry, Folder):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        if not isinstance(entry, Node):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return SimulatedFile(self, target, entry, writable=write or create)

    def rename(self, src: Path, dst: Path) -> None:
        entry = self._names.get(src)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(src))
        self._need_folder(dst.parent)
        if isinstance(entry, Folder):
            self._rename_folder(src, dst)
            return
        tear = self._operation("rename", dst)
        self._change_name(NameChange(dst, entry, also=NameChange(src, None)))
        _cut_if(tear)

    def link(self, src: Path, dst: Path) -> None:
        entry = self._names.get(src)
        if not isinstance(entry, Node):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(src))
        if dst in self._names:
            raise FileExistsError(errno.EEXIST, "exists", str(dst))
        self._need_folder(dst.parent)
        tear = self._operation("link", dst)
        self._change_name(NameChange(dst, entry))
        _cut_if(tear)

    def unlink(self, path: Path) -> None:
        entry = self._names.get(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        if isinstance(entry, Folder):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        tear = self._operation("unlink", path)
        self._change_name(NameChange(path, None))
        _cut_if(tear)

    def mkdir(self, path: Path, mode: int) -> None:
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        self._need_folder(path.parent)
        tear = self._operation("mkdir", path)
        self._change_name(NameChange(path, Folder()))
        _cut_if(tear)

    def rmdir(self, path: Path) -> None:
        if self.listdir(path):
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        if not isinstance(self._names.get(path), Folder):
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
        tear = self._operation("rmdir", path)
        self._change_name(NameChange(path, None))
        _cut_if(tear)

    def symlink(self, target: str, path: Path) -> None:
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        self._need_folder(path.parent)
        tear = self._operation("symlink", path)
        self._links = True
        self._change_name(NameChange(path, Link(target)))
        _cut_if(tear)

    def readlink(self, path: Path) -> str:
        entry = self._names.get(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        if not isinstance(entry, Link):
            raise OSError(errno.EINVAL, "no link", str(path))
        return entry.says

    def sync_dir(self, path: Path) -> None:
        self._need_folder(path)
        tear = self._operation("sync_dir", path)
        mine = [change for change in self._name_changes if change.path.parent == path]
        if tear is not None:
            mine = mine[: round(len(mine) * tear)]
        for change in mine:
            _rename(self._durable_names, change)
        self._name_changes = [change for change in self._name_changes if not any(change is one for one in mine)]
        _cut_if(tear)

    def exists(self, path: Path) -> bool:
        self._alive()
        return path in self._names

    def is_dir(self, path: Path) -> bool:
        self._alive()
        return isinstance(self._names.get(self._follow(path)), Folder)

    def is_link(self, path: Path) -> bool:
        return isinstance(self._names.get(path), Link)

    def is_file(self, path: Path) -> bool:
        return isinstance(self._names.get(path), Node)

    def copy_owner_and_mode(self, source: Path, target: Path) -> None:
        """Only counted: this disk has neither."""
        _cut_if(self._operation("chmod", target))

    def listdir(self, path: Path) -> list[str]:
        self._alive()
        return sorted(name.name for name in self._names if name.parent == path and name != path)

    def free_bytes(self, path: Path) -> int:
        return FREE_BYTES

    def lock(self, path: Path, *, write: bool = True) -> Lock:
        return _Lock(self._locks, path)

    # -- inside

    def _follow(self, path: Path) -> Path:
        """`path` with the links on its way resolved, for the paths that these tests use: links to sibling folders."""
        if not self._links:
            return path
        for above in (path, *path.parents):
            entry = self._names.get(above)
            if isinstance(entry, Link):
                resolved = above.parent
                for part in Path(entry.says).parts:
                    resolved = resolved.parent if part == ".." else resolved / part
                return self._follow(resolved / path.relative_to(above))
        return path

    def _need_folder(self, path: Path) -> None:
        self._alive()
        if not isinstance(self._names.get(self._follow(path)), Folder):
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))

    def _change_name(self, change: NameChange) -> None:
        _rename(self._names, change)
        self._name_changes.append(change)

    def _rename_folder(self, src: Path, dst: Path) -> None:
        """A folder moves with everything below it, by one change of names."""
        if dst in self._names:
            raise OSError(errno.ENOTEMPTY, "exists", str(dst))
        tear = self._operation("rename", dst)
        change: NameChange | None = None
        for path, entry in sorted(self._names.items()):
            if path == src or src in path.parents:
                change = NameChange(path, None, also=change)
                change = NameChange(dst / path.relative_to(src), entry, also=change)
        if change is not None:
            # The change belongs to the folder that holds the name, whatever lies below it.
            self._change_name(NameChange(dst, self._names[src], also=change))
        _cut_if(tear)


def _rename(names: dict[Path, Entry], change: NameChange) -> None:
    step: NameChange | None = change
    while step is not None:
        if step.entry is None:
            gone = names.pop(step.path, None)
            if isinstance(gone, Folder):  # it was empty: what the medium still has below it goes with it
                for below in [path for path in names if step.path in path.parents]:
                    del names[below]
        else:
            names[step.path] = step.entry
        step = step.also


def _drop_unreachable(names: dict[Path, Entry]) -> None:
    """A name that was synced in a folder whose own name was not is not found any more."""
    for path in sorted(names):
        if path.parent not in names:
            del names[path]


def _settle(node: Node, keep: float, random: Random) -> None:
    """Decide which of the unsynced changes of a file have reached the medium."""
    if not node.pending:
        return
    kept: list[tuple[int, bytes] | int] = []
    for change in node.pending:
        parts: list[tuple[int, bytes] | int] = [change] if isinstance(change, int) else [*sectors(change)]
        kept += [part for part in parts if random.random() < keep]
    node.durable = apply(node.durable, kept)
    node.pending = []
    node._visible = None


def _cut_if(tear: float | None) -> None:
    if tear is not None:
        raise PowerCut


class SimulatedFile(RawFile):
    """An open file of a `FaultyDisk`."""

    def __init__(self, disk: FaultyDisk, path: Path, node: Node, *, writable: bool) -> None:
        self._disk = disk
        self._path = path
        self._node = node
        self._writable = writable

    def pread(self, size: int, offset: int) -> bytes:
        self._disk._alive()
        return self._node.visible[offset : offset + size]

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        if not self._writable:
            raise OSError(errno.EBADF, "opened for reading", str(self._path))
        tear = self._disk._operation("write", self._path, len(data))
        whole = (offset, bytes(data))
        if tear is None:
            self._node.change(whole)
            return
        for part in sectors(whole):
            if self._disk.random.random() < tear:
                self._node.change(part)
        raise PowerCut

    def sync(self) -> None:
        tear = self._disk._operation("sync", self._path)
        if tear is None:
            self._node.sync()
            return
        _settle(self._node, tear, self._disk.random)
        raise PowerCut

    def size(self) -> int:
        self._disk._alive()
        return len(self._node.visible)

    def truncate(self, size: int) -> None:
        tear = self._disk._operation("truncate", self._path)
        self._node.change(size)
        _cut_if(tear)

    def drop_cache(self) -> None:
        self._disk._alive()

    def close(self) -> None:
        """Nothing to do: closing promises nothing."""


class _Lock(Lock):
    def __init__(self, held: set[Path], path: Path) -> None:
        self._held = held
        self._path = path

    def acquire(self) -> bool:
        if self._path in self._held:
            return False
        self._held.add(self._path)
        return True

    def release(self) -> None:
        self._held.discard(self._path)
