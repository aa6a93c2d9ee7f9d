"""The U-Boot environment: how it is read, and how a change of it is committed.

`bytes` describes the format, `fw_env` where the copies are, `medium` what they are stored on. A change is written to
the copy that is *not* in force, with the next flag, so a power cut leaves either the old or the new environment.

The flag is the one byte without a checksum: if a torn write left only a new flag on the stale copy, the stale variables
would win. `commit(settle=True)` therefore writes both copies, so that a stale one says the same; it is used for
decisions that must not be undone (confirmed, rolled back). On NOR flash the flag is a mark (`bytes`), and a commit has
one more step: once the new copy is whole, the old one is marked obsolete.

U-Boot writes the same format, and `fw_printenv` and `fw_setenv` of libubootenv read and write it under the same lock.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from updateagent.boot.policy import with_changes
from updateagent.boot.uboot.bytes import (
    CRC,
    FLAG_AT,
    FLAG_MODULUS,
    MARK_ACTIVE,
    MARK_OBSOLETE,
    choose,
    entries,
    parse_copy,
)
from updateagent.boot.uboot.fw_env import COPIES_MAX, EnvLocation, read_config
from updateagent.boot.uboot.medium import Medium, medium_of
from updateagent.disk import Lock, Storage
from updateagent.errors import (
    CONFIGURATION,
    ENVIRONMENT,
    ENVIRONMENT_FULL,
    ENVIRONMENT_LOCKED,
    ENVIRONMENT_WRITE,
    DeviceError,
    RequestError,
)

LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.05
DEVICE_TREE_NAMESPACE = Path("/proc/device-tree/chosen/u-boot,env-config")
NAMESPACE_BYTES_MAX = 32  # libubootenv reads no more

LOG = logging.getLogger("update.environment")

Variables = dict[str, str]
T = TypeVar("T")


def parse_data(data: bytes) -> Variables:
    """The variables of a copy whose CRC is right. Where a name occurs twice the last one counts, as in U-Boot.

    An entry without `=` is skipped, as libubootenv and U-Boot do. Raises `DeviceError` (environment) when the end
    of the list is missing.
    """
    found = entries(data)
    if found is None:
        raise DeviceError(ENVIRONMENT, "the environment's list of variables does not end")
    # surrogateescape: whatever bytes the maker of the board put there go back unchanged
    return {name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape") for name, value in found}


def emit_data(variables: Mapping[str, str], size: int) -> bytes:
    """The data area of `size` bytes. Raises `DeviceError` (environment-full) when the variables do not fit."""
    parts = [f"{name}={value}".encode("utf-8", "surrogateescape") + b"\0" for name, value in variables.items()]
    data = b"".join(parts) + b"\0"
    if len(data) > size:
        raise DeviceError(ENVIRONMENT_FULL, f"the environment needs {len(data)} bytes, it has {size}")
    return data.ljust(size, b"\0")


def emit_copy(variables: Mapping[str, str], size: int, flag: int | None) -> bytes:
    """One copy of `size` bytes; `flag` is None for the single format."""
    head = b"" if flag is None else bytes([flag])
    data = emit_data(variables, size - CRC.size - len(head))
    return CRC.pack(zlib.crc32(data)) + head + data


@dataclass(frozen=True, slots=True)
class LoadedEnvironment:
    """An environment as read: which copy is in force, its flag, its variables, and whether the other copy agrees."""

    active: int
    flag: int
    variables: Variables
    settled: bool
    marked: bool = False


def open_environment(disk: Storage, config: Path, lock: Path | None) -> EnvironmentStore:
    """The environment that the file `config` (fw_env.config) describes. Raises `RequestError` (configuration).

    A lock file that `config` names itself replaces `lock`, as in libubootenv; without `lock` none is taken.
    """
    try:
        found = read_config(disk.read_bytes(config).decode("utf-8", "replace"), _namespace(disk))
    except OSError as error:
        raise RequestError(CONFIGURATION, f"{config}: {error.strerror or error}") from error
    lock = (found.lock or lock) if lock else None
    return EnvironmentStore(disk, found.copies, lock=disk.lock(lock) if lock else None, wait=time.sleep)


def _namespace(disk: Storage) -> str:
    """Which environment of the YAML form the device tree says; empty for none."""
    try:
        with disk.open_raw(DEVICE_TREE_NAMESPACE) as file:
            return file.pread(NAMESPACE_BYTES_MAX, 0).partition(b"\0")[0].decode("utf-8", "replace")
    except OSError:
        return ""


class EnvironmentStore:
    """The environment in its one or two copies.

    `wait` is called between attempts to get the lock (a real program passes `time.sleep`); `medium` returns what a copy
    is stored on.
    """

    def __init__(
        self,
        disk: Storage,
        locations: tuple[EnvLocation, ...],
        *,
        lock: Lock | None = None,
        wait: Callable[[float], None] | None = None,
        medium: Callable[[Storage, EnvLocation], Medium] = medium_of,
    ) -> None:
        self._locations = locations
        self._media = tuple(medium(disk, location) for location in locations)
        self._lock = lock
        self._wait = wait

    @property
    def redundant(self) -> bool:
        return len(self._locations) == COPIES_MAX

    def places(self) -> tuple[tuple[Path, int, int | None], ...]:
        """Where each copy is, with the room in which bad blocks may move it."""
        return tuple((one.device, one.offset, one.range_bytes) for one in self._locations)

    def load(self) -> LoadedEnvironment:
        """Read the environment in force. Raises `DeviceError` (environment) when no copy is good."""
        self._acquire()
        try:
            return self._load()
        finally:
            self._release()

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:
        """Set variables (None removes one) in one write; returns whether anything had to be written.

        With `settle` the other copy is then made to agree. Raises `DeviceError` (environment, -write, -full, -locked).
        """
        self._acquire()
        try:
            loaded = self._load()
            variables = with_changes(loaded.variables, changes)
            changed = variables != loaded.variables
            if not changed and (loaded.settled or not settle):
                return False
            if changed:
                loaded = self._write(loaded, variables)
            if settle and self.redundant:
                self._write(loaded, variables)
            return True
        finally:
            self._release()

    def _write(self, loaded: LoadedEnvironment, variables: Variables) -> LoadedEnvironment:
        """Write the copy that is not in force, which puts it in force."""
        size = self._locations[0].size
        if not self.redundant:
            self._write_copy(0, emit_copy(variables, size, None))
            return LoadedEnvironment(0, 0, variables, settled=True)
        # Never the copy in force: until the other one is whole, it is the only good one.
        target = 1 - loaded.active
        flag = MARK_ACTIVE if loaded.marked else (loaded.flag + 1) % FLAG_MODULUS
        self._write_copy(target, emit_copy(variables, size, flag))
        if loaded.marked:
            self._make_obsolete(loaded.active)
        return replace(loaded, active=target, flag=flag, variables=variables, settled=False)

    def _load(self) -> LoadedEnvironment:
        marked = self._is_marked()
        copies = [parse_copy(self._read_copy(index), redundant=self.redundant) for index in range(len(self._locations))]
        active = choose(copies, marked=marked)
        counts = None if active is None else copies[active]
        if active is None or counts is None:
            raise DeviceError(ENVIRONMENT, "no copy of the boot environment has a good checksum")
        variables = parse_data(counts[1])
        settled = all(copy is not None and entries(copy[1]) == entries(counts[1]) for copy in copies)
        return LoadedEnvironment(active, counts[0], variables, settled, marked)

    def _is_marked(self) -> bool:
        """Whether flags are marks. Raises `DeviceError` (environment) when the two copies do not agree on it."""
        if not self.redundant:
            return False
        marked = {self._from(index, medium.is_marked) for index, medium in enumerate(self._media)}
        if len(marked) > 1:
            raise DeviceError(ENVIRONMENT, "the two copies of the boot environment are on different kinds of flash")
        return marked.pop()

    def _read_copy(self, index: int) -> bytes:
        raw = self._from(index, self._media[index].read)
        return raw if len(raw) == self._locations[index].size else b""

    def _from(self, index: int, read: Callable[[], T]) -> T:
        try:
            return read()
        except OSError as error:
            raise DeviceError(ENVIRONMENT, f"{self._locations[index].device}: {error.strerror or error}") from error

    def _write_copy(self, index: int, raw: bytes) -> None:
        device, medium = self._locations[index].device, self._media[index]
        try:
            medium.write(raw)
            same = medium.read() == raw
        except OSError as error:
            raise DeviceError(ENVIRONMENT_WRITE, f"{device}: {error.strerror or error}") from error
        if not same:
            raise DeviceError(ENVIRONMENT_WRITE, f"{device} does not return what was written to it")

    def _make_obsolete(self, index: int) -> None:
        device, medium = self._locations[index].device, self._media[index]
        try:
            medium.make_obsolete()
            flag = medium.read()[FLAG_AT]
        except OSError as error:
            raise DeviceError(ENVIRONMENT_WRITE, f"{device}: {error.strerror or error}") from error
        if flag != MARK_OBSOLETE:
            raise DeviceError(ENVIRONMENT_WRITE, f"{device}: the old copy cannot be marked obsolete")

    def _acquire(self) -> None:
        if self._lock is None:
            return
        waited = 0.0
        while not self._taken(self._lock):
            if self._wait is None or waited >= LOCK_WAIT_S:
                raise DeviceError(ENVIRONMENT_LOCKED, "another program holds the lock of the boot environment")
            self._wait(LOCK_POLL_S)
            waited += LOCK_POLL_S

    @staticmethod
    def _taken(lock: Lock) -> bool:
        try:
            return lock.acquire()
        except OSError as error:
            # libubootenv goes on as well: better an unlocked environment than one that can never be changed.
            LOG.warning("no lock on the boot environment: %s", error, extra={"event": "update.no-lock"})
            return True

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
