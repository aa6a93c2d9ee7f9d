"""Migration of state whose format changes between versions: done on a copy, keeping the old state until the outcome.

For each state folder, say `/data/dcu/state`, there are siblings in the same file system:

    /data/dcu/state             what the agent uses
    /data/dcu/.state.dcu-new    the copy that the package's `migrate` hook works on
    /data/dcu/.state.dcu-old    the folder as it was, from the moment the copy takes its place
    /data/dcu/.state.dcu-out    what a new system on trial left behind, on its way out

All of it runs before the agent is started. The journal tells the steps apart: until the update is `migrated`, new is
made afresh and old is meaningless; after that, new replaces each folder that it has not replaced yet. A confirmed
update removes old; one that is rolled back restores it. Every step may be interrupted and repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from updateagent.disk import Storage
from updateagent.errors import storage_error

PIECE_BYTES = 256 << 10


class StateFolders:
    """The state folders of one update. Every method raises `DeviceError` (storage, storage-full)."""

    def __init__(self, disk: Storage, folders: Sequence[str]) -> None:
        self._disk = disk
        self._folders = [Path(folder) for folder in folders]

    @property
    def copies(self) -> list[Path]:
        """The paths of the copies for the hook, in the order of the folders."""
        return [_beside(folder, "new") for folder in self._folders]

    def copy(self) -> None:
        """Make the copies afresh, removing what an earlier attempt or update left behind."""
        try:
            for folder in self._folders:
                self._remove(folder, "new", "old", "out")
                self._disk.mkdir_durable(folder)
                self._copy(folder, _beside(folder, "new"))
        except OSError as error:
            raise storage_error(error, "the copy of the state") from error

    def sync(self) -> None:
        """Make the hook's changes to the copies durable."""
        try:
            for copy in self.copies:
                self._sync(copy)
                self._disk.sync_dir(copy.parent)
        except OSError as error:
            raise storage_error(error, "the migrated state") from error

    def put_in_place(self) -> None:
        """Replace the folders by the copies. Only after the copies were synced, and the journal says so."""
        try:
            for folder in self._folders:
                new, old = _beside(folder, "new"), _beside(folder, "old")
                if not self._disk.exists(new):
                    continue  # done before
                if not self._disk.exists(old):
                    self._disk.rename_durable(folder, old)
                self._disk.remove_tree_durable(folder)  # normally there is none; it may have been made meanwhile
                self._disk.rename_durable(new, folder)
        except OSError as error:
            raise storage_error(error, "putting the migrated state in place") from error

    def put_back(self) -> None:
        """Undo `put_in_place`, however far it got."""
        try:
            for folder in self._folders:
                old = _beside(folder, "old")
                if not self._disk.exists(old):
                    continue  # done before, or never moved
                if self._disk.exists(folder):
                    self._remove(folder, "out")
                    self._disk.rename_durable(folder, _beside(folder, "out"))
                self._disk.rename_durable(old, folder)
        except OSError as error:
            raise storage_error(error, "putting the old state back") from error

    def forget(self) -> None:
        """Remove everything but the folders themselves, after the outcome of the update is final."""
        try:
            for folder in self._folders:
                self._remove(folder, "new", "old", "out")
        except OSError as error:
            raise storage_error(error, "removing the state that is not needed any more") from error

    def _remove(self, folder: Path, *suffixes: str) -> None:
        for suffix in suffixes:
            self._disk.remove_tree_durable(_beside(folder, suffix))

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a folder with everything below it, except what is neither file, folder nor link (such as a socket)."""
        disk = self._disk
        disk.mkdir(target, 0o700)
        for name in disk.listdir(source):
            entry, twin = source / name, target / name
            if disk.is_link(entry):
                disk.symlink(disk.readlink(entry), twin)
            elif disk.is_dir(entry):
                self._copy(entry, twin)
            elif disk.is_file(entry):
                self._copy_file(entry, twin)
        disk.copy_owner_and_mode(source, target)

    def _copy_file(self, source: Path, target: Path) -> None:
        with (
            self._disk.open_raw(source) as file,
            self._disk.open_raw(target, write=True, create=True) as twin,
        ):
            at = 0
            while piece := file.pread(PIECE_BYTES, at):
                twin.pwrite(piece, at)
                at += len(piece)
        self._disk.copy_owner_and_mode(source, target)

    def _sync(self, folder: Path) -> None:
        disk = self._disk
        for name in disk.listdir(folder):
            entry = folder / name
            if disk.is_link(entry):
                continue  # the link is a name: it becomes durable with the folder
            if disk.is_dir(entry):
                self._sync(entry)
            elif disk.is_file(entry):
                with disk.open_raw(entry) as file:
                    file.sync()
        disk.sync_dir(folder)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.dcu-{suffix}")
