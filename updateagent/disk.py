"""The disk: the only way in which this package, and the daemon's stores, change files.

One class has two levels:

* **primitives** (`open_raw`, `rename`, `unlink`, `mkdir`, `sync_dir`, …), one system call each. A test disk
  implements these and may cut the power at any of them;
* **durable operations** (`write_durable`, …), written here once in terms of the primitives, so that the order of
  write, fsync, rename and fsync of the folder is itself under test.

Every operation raises `OSError` when the storage fails (`FileNotFoundError` when there is nothing).
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

READ_CHUNK = 64 << 10
FOLDERS_DEEP_MAX = 8  # of folders below one that is removed with everything in it: 8 names are half the longest path
READ_BYTES_MAX = 16 << 20  # `read_bytes` is for records and settings; nothing of that kind is larger


class Disk(Protocol):
    """The durable operations, for code that only keeps records."""

    def read_bytes(self, path: Path) -> bytes:
        """The content of a file. Raises `FileNotFoundError`, or another `OSError`."""

    def write_durable(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        """Replace a file. A power cut leaves the old or the new content; after the return, the new one."""

    def remove_durable(self, path: Path) -> None:
        """Remove a file durably. No error when there is none."""

    def rename_durable(self, src: Path, dst: Path) -> None:
        """Rename a file or folder whose content is already durable; `dst` is replaced."""

    def exists(self, path: Path) -> bool: ...

    def listdir(self, path: Path) -> list[str]:
        """The names in a folder, sorted; empty when there is no folder."""

    def mkdir_durable(self, path: Path, mode: int = 0o700) -> None:
        """Make a folder and the missing ones above it. No error when it is there."""


class RawFile(ABC):
    """An open file or device, read and written at offsets. Also a context manager that closes it."""

    @abstractmethod
    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""

    @abstractmethod
    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data`. Not durable before `sync`."""

    @abstractmethod
    def sync(self) -> None:
        """fsync: everything written so far survives a power cut."""

    @abstractmethod
    def size(self) -> int:
        """Bytes of the file or device."""

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Set the length of a regular file."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def drop_cache(self) -> None:
        """Drop cached pages, so that later reads come from the medium. Call it after `sync`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Storage(ABC):
    """Primitives, and the durable operations over them. Satisfies `Disk`."""

    @abstractmethod
    def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
        """Open a file or device. `create` makes an empty regular file, or empties the one that is there."""

    @abstractmethod
    def rename(self, src: Path, dst: Path) -> None: ...

    @abstractmethod
    def link(self, src: Path, dst: Path) -> None:
        """A second name for a file. Raises `FileExistsError`, or `OSError` where the file system cannot (EXDEV, …)."""

    @abstractmethod
    def unlink(self, path: Path) -> None:
        """Remove a file or link. Raises `FileNotFoundError` when there is none."""

    @abstractmethod
    def symlink(self, target: str, path: Path) -> None:
        """Make a symbolic link at `path` to `target`. Raises `FileExistsError`."""

    @abstractmethod
    def readlink(self, path: Path) -> str:
        """The target of a symbolic link. Raises `FileNotFoundError`, or `OSError` when it is not a link."""

    @abstractmethod
    def mkdir(self, path: Path, mode: int) -> None:
        """Make a folder with these permissions. Raises `FileExistsError` when it is there."""

    @abstractmethod
    def rmdir(self, path: Path) -> None: ...

    @abstractmethod
    def sync_dir(self, path: Path) -> None:
        """fsync a folder: names made, renamed or removed in it so far survive a power cut."""

    @abstractmethod
    def exists(self, path: Path) -> bool: ...

    @abstractmethod
    def is_dir(self, path: Path) -> bool: ...

    @abstractmethod
    def is_link(self, path: Path) -> bool: ...

    @abstractmethod
    def is_file(self, path: Path) -> bool:
        """Whether it is a regular file, and no link to one."""

    @abstractmethod
    def copy_owner_and_mode(self, source: Path, target: Path) -> None:
        """Give a file or folder the owner, the group and the permissions of another one."""

    @abstractmethod
    def listdir(self, path: Path) -> list[str]: ...

    @abstractmethod
    def free_bytes(self, path: Path) -> int:
        """Bytes that can still be written to the file system of `path`."""

    @abstractmethod
    def lock(self, path: Path, *, write: bool = True) -> Lock:
        """An exclusive advisory lock (flock) on a file that is made when missing.

        Without `write` the file is only opened to be read, so that a read-only medium will do; a missing one is not
        made, and since nobody else can hold it, counts as locked.
        """

    def read_bytes(self, path: Path) -> bytes:
        try:
            return self._read_bytes(path)
        except OSError as error:
            if error.errno and error.filename is None:  # of a read, which knows a descriptor alone
                error.filename = str(path)
            raise

    def _read_bytes(self, path: Path) -> bytes:
        with self.open_raw(path) as file:
            # To the end, not to `size()`: files below /proc say 0.
            data = bytearray()
            while part := file.pread(READ_CHUNK, len(data)):
                data += part
                if len(data) > READ_BYTES_MAX:
                    raise OSError(f"{path}: more than {READ_BYTES_MAX} bytes, too large to be read at once")
            return bytes(data)

    def write_durable(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        # One fixed temporary name per file: what a power cut leaves behind is overwritten and cannot pile up.
        temporary = path.with_name(f".{path.name}.tmp")
        with self.open_raw(temporary, write=True, create=True, mode=mode) as file:
            file.pwrite(data, 0)
            file.sync()
        self.rename(temporary, path)
        self.sync_dir(path.parent)

    def remove_durable(self, path: Path) -> None:
        try:
            self.unlink(path)
        except FileNotFoundError:
            return
        self.sync_dir(path.parent)

    def rename_durable(self, src: Path, dst: Path) -> None:
        self.rename(src, dst)
        self.sync_dir(dst.parent)
        if src.parent != dst.parent:
            self.sync_dir(src.parent)

    def mkdir_durable(self, path: Path, mode: int = 0o700) -> None:
        if self.is_dir(path):
            return
        if path.parent != path:
            self.mkdir_durable(path.parent, mode)
        try:
            self.mkdir(path, mode)
        except FileExistsError:
            if not self.is_dir(path):
                raise
        self.sync_dir(path.parent)

    def link_durable(self, target: str, path: Path) -> None:
        """Make `path` a symbolic link to `target`, atomically replacing an existing one."""
        temporary = path.with_name(f".{path.name}.tmp")
        with suppress(FileNotFoundError):
            self.unlink(temporary)
        self.symlink(target, temporary)
        self.rename(temporary, path)
        self.sync_dir(path.parent)

    def remove_tree_durable(self, path: Path) -> None:
        """Remove a folder with everything below it; no error when there is none."""
        if not self.exists(path):
            return
        self._remove_below(path)
        self.rmdir(path)
        self.sync_dir(path.parent)

    def _remove_below(self, top: Path) -> None:
        """Without recursion, and with no path much longer than that of `top`: programs of others make folders as deep
        as they like. What lies too deep is moved up first."""
        moved = 0
        waiting = [(top, False)]
        while waiting:
            folder, is_empty = waiting.pop()
            if is_empty:
                if folder != top:
                    self.rmdir(folder)
                continue
            waiting.append((folder, True))
            too_deep = len(folder.parts) - len(top.parts) >= FOLDERS_DEEP_MAX
            for name in self.listdir(folder):
                entry = folder / name
                if self.is_link(entry) or not self.is_dir(entry):
                    self.unlink(entry)
                    continue
                if too_deep:
                    while self.exists(place := top / f"moved.{moved}"):
                        moved += 1
                    self.rename(entry, place)
                    entry = place
                waiting.append((entry, False))


class Lock(ABC):
    """An advisory lock on a file, shared with other programs."""

    @abstractmethod
    def acquire(self) -> bool:
        """Take the lock if it is free; return False when it is held elsewhere. Never waits."""

    @abstractmethod
    def release(self) -> None: ...


class _FdFile(RawFile):
    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def pread(self, size: int, offset: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            part = os.pread(self._fd, size, offset)
            if not part:
                break
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view = view[done:]
            offset += done

    def sync(self) -> None:
        os.fsync(self._fd)

    def size(self) -> int:
        # `st_size` of a block device is 0; its end is found by seeking.
        return os.lseek(self._fd, 0, os.SEEK_END)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def drop_cache(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # first: a number is free after close also when it fails, and soon another file's
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class _FlockFile(Lock):
    def __init__(self, path: Path, *, write: bool) -> None:
        self._path = path
        self._flags = os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY)
        self._fd = -1

    def acquire(self) -> bool:
        import fcntl

        try:
            fd = os.open(self._path, self._flags, 0o666)
        except FileNotFoundError:
            if self._flags & os.O_CREAT:
                raise
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)  # closing the only descriptor drops the lock


class RealDisk(Storage):
    """The disk of the machine."""

    def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write else os.O_RDONLY)
        if create:
            # O_NOFOLLOW: a link planted under our temporary name must not send the data elsewhere.
            flags |= os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        fd = os.open(path, flags, mode)
        if create:
            os.fchmod(fd, mode)  # the requested mode, regardless of the umask and of an existing file
        return _FdFile(path, fd)

    def rename(self, src: Path, dst: Path) -> None:
        src.replace(dst)

    def link(self, src: Path, dst: Path) -> None:
        dst.hardlink_to(src.resolve())  # link(2) would make a second name of a symbolic link

    def unlink(self, path: Path) -> None:
        path.unlink()

    def symlink(self, target: str, path: Path) -> None:
        path.symlink_to(target)

    def readlink(self, path: Path) -> str:
        return os.readlink(path)  # noqa: PTH115  the text of the link is wanted, not a path

    def mkdir(self, path: Path, mode: int) -> None:
        path.mkdir(mode=mode)

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def exists(self, path: Path) -> bool:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def is_dir(self, path: Path) -> bool:
        try:
            return stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_link(self, path: Path) -> bool:
        try:
            return stat.S_ISLNK(path.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_file(self, path: Path) -> bool:
        try:
            return stat.S_ISREG(path.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def copy_owner_and_mode(self, source: Path, target: Path) -> None:
        found = source.stat()
        os.chown(target, found.st_uid, found.st_gid)
        target.chmod(stat.S_IMODE(found.st_mode))  # after the owner: changing that one clears set-id bits

    def listdir(self, path: Path) -> list[str]:
        try:
            return sorted(os.listdir(path))  # noqa: PTH208  names are wanted, not paths
        except FileNotFoundError:
            return []

    def free_bytes(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def lock(self, path: Path, *, write: bool = True) -> Lock:
        return _FlockFile(path, write=write)
