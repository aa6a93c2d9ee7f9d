"""Users and folders of services where no systemd gives them: who a service is, where it keeps its state, and the way to
its files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import sys
from pathlib import Path

from agent.services.active import ActiveService, user_of
from agent.services.room import COUNTED_TIMES, ENTRY_KIB
from updateagent.disk import RealDisk
from updateagent.software.component import DYNAMIC_USER

LOG = logging.getLogger("agent.services")

SYSTEMD_STATE = "dcu-services"  # below these, where systemd keeps it with StateDirectory=
SYSTEMD_ROOTS = (Path("/var/lib/private"), Path("/var/lib"))  # with DynamicUser=, the second holds a link to the first
FOLDER = "services"  # below the state folder, and below the folder in memory

DYNAMIC_FIRST, DYNAMIC_LAST = (
    61184,
    65519,
)  # the range that systemd keeps for DynamicUser=, and distributions leave free
FREE_BYTES_MIN = 16 << 20  # what others need; or a tenth of the file system, where that is less
TOGETHER_PARTS = 4  # all services together may keep one of so many parts of the file system
SEARCH = stat.S_IXGRP | stat.S_IXOTH


class ServiceFolders:
    """State folders below `state_dir`/services, each of its service's user alone."""

    def __init__(self, state_dir: Path, *, root: bool) -> None:
        """`root`: whether this process may become another user."""
        self._state_dir = state_dir
        self._home = state_dir / FOLDER
        self._root = root

    def owner(self, service: ActiveService) -> tuple[int, int] | None:
        """User and group number to run as; `None` for our own. Raises `ValueError`."""
        if not self._root:
            return None
        if service.spec.user != DYNAMIC_USER:
            return user_of(service.spec.user)
        uid = self._dynamic(service.id)
        return uid, uid

    def home(self, service_id: str) -> Path:
        """Where a service keeps its state; not made here."""
        return self._home / service_id

    def state(self, service: ActiveService) -> Path:
        """The state folder of a service, made when missing. Raises `OSError`, `ValueError`."""
        folder = self.home(service.id)
        owner = self.owner(service)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if owner is not None:
            self._open_way(folder.parent)
            os.chown(folder, *owner)
        folder.chmod(0o700)
        return folder

    def open_files(self, service: ActiveService) -> None:
        """Let another user read the files of a service. They are no secret: they came in a package that was signed and
        sent. Raises `OSError`."""
        if not self._root:
            return
        for top in (service.folder, *([service.configuration] if service.configuration else [])):
            self._open_way(top)
            for folder in (top, *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())):
                folder.chmod(0o755)

    def together_kib_max(self) -> int:
        """What all services together may keep here."""
        return together_kib_max(self._home)

    def forget(self, service_id: str) -> None:
        """Remove the state of a service whose component was removed."""
        erase(self._home / service_id)

    def _open_way(self, folder: Path) -> None:
        """Let other users pass through the folders above, up to our own state folder, without listing them."""
        for above in (folder, *folder.parents):
            mode = stat.S_IMODE(above.stat().st_mode)
            if mode & SEARCH != SEARCH:
                above.chmod(mode | SEARCH)
            if above == self._state_dir or self._state_dir not in above.parents:
                return

    def _dynamic(self, service_id: str) -> int:
        """A number for a service's own user: that of its state folder, else one that no other folder has."""
        taken: set[int] = set()
        with contextlib.suppress(OSError):
            for folder in self._home.iterdir():
                uid = folder.stat().st_uid
                if folder.name == service_id and DYNAMIC_FIRST <= uid <= DYNAMIC_LAST:
                    return uid
                taken.add(uid)
        count = DYNAMIC_LAST - DYNAMIC_FIRST + 1
        start = int.from_bytes(hashlib.sha256(service_id.encode()).digest()[:4], "big")
        return next(
            uid for uid in (DYNAMIC_FIRST + (start + step) % count for step in range(count)) if uid not in taken
        )


def kept_kib(folder: Path, limit_kib: int) -> int:
    """How much lies in a folder, as it is on the disk. Counts to `COUNTED_TIMES` the limit only, so that it takes a
    bounded time, and takes folders that are too deep to be looked into for as much as that. Links are not followed."""
    most, found, folders = COUNTED_TIMES * limit_kib, 0, [str(folder)]
    while folders and found < most:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        found += max(ENTRY_KIB, entry.stat(follow_symlinks=False).st_blocks // 2)
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                    if found >= most:
                        break
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return most
    return min(found, most)


def together_kib_max(folder: Path) -> int:
    """What all services together may keep on the file system of `folder`, or of the first folder above that is there;
    no bound where that cannot be told."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(place)
            return (found.f_blocks * found.f_frsize // TOGETHER_PARTS) >> 10
    return sys.maxsize


def make_room(folder: Path) -> str:
    """Erase what a program kept that was stopped for it, where others need the room. Returns what to say of it."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    total = found.f_blocks * found.f_frsize
    if found.f_bavail * found.f_frsize >= min(FREE_BYTES_MIN, total // 10):
        return ""
    erase(folder)
    return "; what it kept was removed, because the disk was nearly full"


def erase(state: Path) -> None:
    """Remove the state folder of a service, however deep the service has made it; a link to it likewise."""
    disk = RealDisk()
    try:
        if state.is_symlink():
            disk.remove_durable(state)
        else:
            disk.remove_tree_durable(state)
    except OSError as error:
        LOG.warning("%s stays: %s", state, error, extra={"event": "service.state"})
