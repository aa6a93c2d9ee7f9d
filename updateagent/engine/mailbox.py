"""The files that the agent and the Update Agent exchange, below the update folder.

    inbox/package.swu       a package the agent downloaded
    inbox/request.json      written last: the request to install it
    outbox/result.json      how it ended; the agent removes it when the server has acknowledged it
    status.json             for displays: state, progress, slots; replaced often, never needed

A result is handed over exactly once: it is first made durable under a name that the agent ignores, then the journal
forgets the update, then the inbox is cleared and the file gets its final name. After a power cut in between, `publish`
completes the hand-over. A result that the agent has not taken yet is never replaced: the next one waits under the other
name. The room for a result is kept in `outbox/.spare`: a data partition without room does not keep it from being told.

    inbox/by-hand.swu       a package that a person installs; only `dcu-update install` makes it
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from updateagent.disk import RawFile, Storage
from updateagent.engine.journal import Outcome, Update
from updateagent.errors import PACKAGE_MISSING, REQUEST, PackageError, RequestError, storage_error
from updateagent.handover import TAIL_LINES_MAX, InstallResult
from updateagent.release import parse_release

REQUEST_BYTES_MAX = 16 << 10
COPY_BYTES = 1 << 16
SPARE_BYTES = 32 << 10  # a result with 21 lines of log has 10 KiB
LINKS_MAX = 8
BY_HAND_PACKAGE = "by-hand.swu"
LOG_BYTES_MAX = 8 << 10
LOG_LINE_CHARS_MAX = 300
LOG_COMMAND_TIMEOUT_S = 10.0


class Mailbox:
    """The folders and files shared with the agent. Raises `DeviceError` (storage, storage-full)."""

    def __init__(self, disk: Storage, folder: Path) -> None:
        self._disk = disk
        self.folder = folder
        self.inbox = folder / "inbox"
        self.request_file = self.inbox / "request.json"
        self.result_file = folder / "outbox" / "result.json"
        self.pending_file = folder / "outbox" / ".result.pending"
        self.spare_file = folder / "outbox" / ".spare"
        self.status_file = folder / "status.json"

    def read_request(self) -> bytes | None:
        """The bytes of the request; None when there is none."""
        try:
            with self._disk.open_raw(self.request_file) as file:
                return file.pread(REQUEST_BYTES_MAX, 0)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, "the request") from error

    def take_in(self, source: Path, name: str) -> None:
        """Put a package into the inbox durably: it must survive the reboot, wherever it came from.

        On the same file system it is linked: writing it again would wear the flash for nothing. Also raises
        `PackageError` (package-missing), `RequestError` (request) for what is no regular file. After an error nothing
        of it is left.
        """
        disk = self._disk
        temporary, target = self.inbox / f".{name}.tmp", self.inbox / name
        try:
            for _ in range(LINKS_MAX):
                if not disk.is_link(source):
                    break
                source = source.parent / disk.readlink(source)
            if disk.exists(source) and not disk.is_file(source):
                raise RequestError(REQUEST, f"{source} is no regular file")
            with disk.open_raw(source) as package:
                with suppress(FileNotFoundError):
                    disk.unlink(temporary)
                if self._linked(source, temporary):
                    package.sync()
                else:
                    self._copy(package, temporary)
            disk.rename(temporary, target)
            with suppress(FileNotFoundError):
                disk.unlink(temporary)  # rename(2) does nothing when both names are links to one file
            disk.sync_dir(self.inbox)
        except FileNotFoundError:
            raise PackageError(PACKAGE_MISSING, f"there is no package {source}") from None
        except OSError as error:
            with suppress(OSError):
                disk.unlink(temporary)
            raise storage_error(error, f"taking in {source}") from error

    def _linked(self, source: Path, target: Path) -> bool:
        try:
            self._disk.link(source, target)
        except OSError:  # another file system, or one that knows no second names
            return False
        return True

    def _copy(self, package: RawFile, target: Path) -> None:
        size = package.size()
        free = self._disk.free_bytes(self.inbox)
        if size + SPARE_BYTES > free:
            raise OSError(errno.ENOSPC, f"it needs {size} bytes, and {free} are free")
        with self._disk.open_raw(target, write=True, create=True) as new:
            offset = 0
            while piece := package.pread(min(COPY_BYTES, size - offset), offset):
                new.pwrite(piece, offset)
                offset += len(piece)
            new.sync()

    def clear_by_hand(self) -> None:
        """Remove what a `dcu-update install` left that was killed. Only while there is no update."""
        try:
            for name in (f".{BY_HAND_PACKAGE}.tmp", BY_HAND_PACKAGE):
                if self._disk.exists(self.inbox / name):
                    self._disk.remove_durable(self.inbox / name)
        except OSError as error:
            raise storage_error(error, "the inbox") from error

    def clear_inbox(self, package: str, *, request: bool = True) -> None:
        """Remove the package, and the request last: after a power cut in between, the request leads here again.

        Without `request`, the request is another one's and stays.
        """
        try:
            self._disk.remove_durable(self.inbox / package)
            if request:
                self._disk.remove_durable(self.request_file)
        except OSError as error:
            raise storage_error(error, "the inbox") from error

    def reserve(self) -> None:
        """Keep room for the next result, as long as there is some; not durable, and no reason to fail."""
        if self._disk.exists(self.spare_file):
            return
        with suppress(OSError):
            self._disk.mkdir_durable(self.spare_file.parent)
            self._disk.write_durable(self.spare_file, b" " * SPARE_BYTES)

    def hold_result(self, result: Mapping[str, Any]) -> None:
        """Make a result durable without handing it over."""
        raw = json.dumps(result).encode()
        try:
            if len(raw) <= SPARE_BYTES and self._disk.exists(self.spare_file):
                with self._disk.open_raw(self.spare_file, write=True) as file:
                    file.pwrite(raw.ljust(min(file.size(), SPARE_BYTES)), 0)  # blanks end the JSON text
                    file.sync()
                self._disk.rename_durable(self.spare_file, self.pending_file)
                return
            self._disk.mkdir_durable(self.pending_file.parent)
            self._disk.write_durable(self.pending_file, raw)
        except OSError as error:
            raise storage_error(error, "the result") from error

    def held_id(self) -> str:
        """The id of the request whose result is held; empty when there is none."""
        try:
            document = json.loads(self._disk.read_bytes(self.pending_file))
            return str(document["id"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ""

    def publish(self) -> bool:
        """Hand over the held result, if there is one, and the agent has taken the one before."""
        try:
            if not self._disk.exists(self.pending_file) or self._disk.exists(self.result_file):
                return False
            self._disk.rename_durable(self.pending_file, self.result_file)
        except OSError as error:
            raise storage_error(error, "the result") from error
        return True

    def note_error(self, error: str) -> None:
        """Have `status.json` say why nothing could be done; the rest of it stays as it was."""
        try:
            known = json.loads(self._disk.read_bytes(self.status_file))
        except (OSError, ValueError, RecursionError):
            known = {}
        self.write_status({"version": 1, "state": "idle", **(known if isinstance(known, dict) else {}), "error": error})

    def is_full(self) -> bool:
        """Whether a result is held that cannot be handed over yet: the next one would have no place."""
        return self._disk.exists(self.pending_file)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace `status.json`; not durable, and no reason to fail."""
        temporary = self.status_file.with_name(".status.json.tmp")
        try:
            # Readable for all: the field tool runs without privileges, and nothing here is secret.
            with self._disk.open_raw(temporary, write=True, create=True, mode=0o644) as file:
                file.pwrite(json.dumps(status).encode(), 0)
            self._disk.rename(temporary, self.status_file)
        except OSError:
            return


def log_tail(disk: Storage, path: Path | None) -> tuple[str, ...]:
    """The last lines of the agent's log; empty when there is none."""
    if path is None:
        return ()
    try:
        with disk.open_raw(path) as file:
            start = max(0, file.size() - LOG_BYTES_MAX)
            raw = file.pread(LOG_BYTES_MAX, start)
    except OSError:
        return ()
    lines = raw.decode("utf-8", "replace").splitlines()
    if start and lines:
        lines = lines[1:]  # the first one is cut
    return tuple(line[:LOG_LINE_CHARS_MAX] for line in lines[-TAIL_LINES_MAX:])


def command_tail(command: Sequence[str]) -> tuple[str, ...]:
    """The last lines of the agent's log as a command prints them; empty when there is no command, or it fails."""
    if not command:
        return ()
    from updateagent.engine import child

    try:
        _, said = child.run(command, LOG_COMMAND_TIMEOUT_S, LOG_BYTES_MAX, with_output=True)
    except OSError:
        return ()
    return tuple(line[:LOG_LINE_CHARS_MAX] for line in said.splitlines()[-TAIL_LINES_MAX:])


def read_release(disk: Storage, path: Path) -> dict[str, str]:
    """The values of an os-release style file; none when there is no such file. Raises `DeviceError` (storage)."""
    try:
        text = disk.read_bytes(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise storage_error(error, str(path)) from error
    return parse_release(text)


def read_release_version(disk: Storage, path: Path) -> str:
    """`VERSION` of that file; empty when there is none. Raises `DeviceError` (storage)."""
    return read_release(disk, path).get("VERSION", "")


def result_document(update: Update, outcome: Outcome, finished: float) -> dict[str, Any]:
    """`result.json` of an update that ended with `outcome`, at `finished` seconds since the epoch."""
    return InstallResult(
        id=update.id,
        correlator=update.correlator,
        name=outcome.name,
        fumo=outcome.fumo,
        message=outcome.message,
        from_version=update.from_version,
        to_version=update.to_version,
        failed_check=update.failed_check,
        log=update.log,
        code=outcome.code,
        scomo=outcome.scomo,
        attempts=update.attempts,
        finished=finished,
    ).document()
