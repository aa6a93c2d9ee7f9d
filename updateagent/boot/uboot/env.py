"""The U-Boot environment: its bytes, where `fw_env.config` says they are, and how a change of it is committed.

The bytes are described in `envbytes`. A change is written to the copy that does *not* count, with the next flag, so a
power cut leaves the old or the new environment.

The flag is the one byte without a checksum: should a torn write leave only a new flag on the stale copy, the stale
variables would win. `commit(settle=True)` therefore writes both copies, so that a stale one says the same; it is
used for the decisions that must not come back (confirmed, rolled back). On NOR flash the flag is a mark (`envbytes`),
and a commit is one step longer: when the new copy is whole, the old one is marked obsolete.

Where a copy is follows from its device's name: `/dev/mtd1` and `/dev/ubi0_1` are raw flash (`envflash`), everything
else is a file or a block device. U-Boot writes the same format, and `fw_printenv`/`fw_setenv` of libubootenv read and
write it under the same lock.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

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
from updateagent.disk import Lock, RawFile, Storage
from updateagent.errors import (
    CONFIGURATION,
    ENVIRONMENT,
    ENVIRONMENT_FULL,
    ENVIRONMENT_LOCKED,
    ENVIRONMENT_WRITE,
    DeviceError,
    RequestError,
)

LOCK_FILE = Path("/var/lock/fw_printenv.lock")
LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.05
ENV_SIZE_MAX = 1 << 20  # U-Boot boards use 4 to 256 KiB
RANGE_MAX = 1 << 28  # a copy may move over bad blocks, not over the whole flash
COPIES_MAX = 2

log = logging.getLogger("update.environment")

Variables = dict[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """One line of `fw_env.config`: where a copy of the environment is. Bytes; a negative offset counts from the end."""

    device: Path
    offset: int
    size: int
    sector_size: int = 0
    sectors: int = 0
    no_lock: bool = False

    @property
    def range_bytes(self) -> int:
        """What belongs to the copy, from its offset on; on NAND it may lie anywhere in there."""
        return max(self.size, self.sector_size * self.sectors)


def parse_fw_env_config(text: str) -> tuple[Place, ...]:
    """Read `fw_env.config`: `device offset size [sector_size [sectors [nolock]]]`, one or two lines.

    Raises `RequestError` (configuration) naming the line. Sizes are hexadecimal with or without `0x`, as libubootenv
    reads them; the offset follows its prefix (`0x10`, `16`).
    """
    places: list[Place] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        try:
            device, offset, size, *rest = fields
            place = Place(
                Path(device),
                int(offset, 0),
                int(size, 16),
                int(rest[0], 16) if rest else 0,
                int(rest[1], 16) if len(rest) > 1 else 0,
                len(rest) > 2 and int(rest[2]) != 0,
            )
        except ValueError:
            raise RequestError(CONFIGURATION, f"fw_env.config line {number}: expected device, offset, size") from None
        if not FLAG_AT + 2 < place.size <= ENV_SIZE_MAX:
            raise RequestError(CONFIGURATION, f"fw_env.config line {number}: size {place.size:#x} is not possible")
        if not (0 <= place.sector_size <= RANGE_MAX and 0 <= place.sectors * place.sector_size <= RANGE_MAX):
            raise RequestError(CONFIGURATION, f"fw_env.config line {number}: these sectors are not possible")
        places.append(place)
    if not 1 <= len(places) <= COPIES_MAX:
        raise RequestError(CONFIGURATION, f"fw_env.config: one or two copies of the environment, not {len(places)}")
    if len(places) == COPIES_MAX:
        _check_pair(*places)
    return tuple(places)


def _check_pair(first: Place, second: Place) -> None:
    if first.size != second.size:
        raise RequestError(CONFIGURATION, "fw_env.config: the two copies have different sizes")
    below, above = sorted((first, second), key=lambda place: place.offset)
    together = (below.offset < 0) == (above.offset < 0)
    if first.device == second.device and together and below.offset + below.range_bytes > above.offset:
        raise RequestError(CONFIGURATION, "fw_env.config: the two copies overlap")


def parse_data(data: bytes) -> Variables:
    """The variables of a copy whose CRC holds. Of a name given twice the last counts, as in U-Boot.

    An entry without `=` is skipped, as libubootenv and U-Boot do. Raises `DeviceError` (environment) when the end
    of the list is missing.
    """
    found = entries(data)
    if found is None:
        raise DeviceError(ENVIRONMENT, "the environment's list of variables does not end")
    # surrogateescape: whatever bytes a board's maker put there go back unchanged
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
class Loaded:
    """An environment as read: which copy counts, its flag, its variables, and whether the other copy agrees."""

    active: int
    flag: int
    variables: Variables
    settled: bool
    marked: bool = False


class Medium(Protocol):
    """Where one copy is. All raise `OSError`, a device that is none `DeviceError`; what is written is durable."""

    def is_marked(self) -> bool:
        """Whether flags are marks there, as on NOR flash."""

    def read(self) -> bytes: ...

    def write(self, raw: bytes) -> None: ...

    def make_obsolete(self) -> None:
        """Mark the copy; only where flags are marks."""


class FileMedium:
    """A copy in a file or on a block device."""

    def __init__(self, disk: Storage, place: Place) -> None:
        self._disk = disk
        self._place = place

    def is_marked(self) -> bool:
        return False

    def read(self) -> bytes:
        with self._disk.open_raw(self._place.device) as file:
            return file.pread(self._place.size, self._offset(file))

    def write(self, raw: bytes) -> None:
        with self._disk.open_raw(self._place.device, write=True) as file:
            file.pwrite(raw, self._offset(file))
            file.sync()

    def make_obsolete(self) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _offset(self, file: RawFile) -> int:
        offset = self._place.offset
        return offset if offset >= 0 else file.size() + offset


def medium_of(disk: Storage, place: Place) -> Medium:
    """The medium that the device's name stands for."""
    name = str(place.device)
    if name.startswith("/dev/") and ":" not in name:
        name = os.path.realpath(name)
    place = replace(place, device=Path(name))
    if re.fullmatch(r"/dev/mtd\d+", name):
        from updateagent.boot.uboot.flash import MtdMedium

        return MtdMedium(place)
    if re.fullmatch(r"/dev/ubi\d+(_\d+|:.+)", name):
        from updateagent.boot.uboot.flash import UbiMedium

        return UbiMedium(place)
    return FileMedium(disk, place)


class EnvironmentStore:
    """The environment in its one or two places.

    `wait` is called between attempts to get the lock (a real program passes `time.sleep`); `medium` gives what a
    place is on. `commits` counts changes, `writes` the copies that were written for them.
    """

    def __init__(
        self,
        disk: Storage,
        places: tuple[Place, ...],
        *,
        lock: Lock | None = None,
        wait: Callable[[float], None] | None = None,
        medium: Callable[[Storage, Place], Medium] = medium_of,
    ) -> None:
        self._places = places
        self._media = tuple(medium(disk, place) for place in places)
        self._lock = lock
        self._wait = wait
        self.commits = 0
        self.writes = 0

    @property
    def redundant(self) -> bool:
        return len(self._places) == COPIES_MAX

    def load(self) -> Loaded:
        """Read the environment in force. Raises `DeviceError` (environment) when no copy is good."""
        self._acquire()
        try:
            return self._load()
        finally:
            self._release()

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:
        """Set variables (None removes one) in one write; returns whether anything had to be written.

        With `settle` the other copy is then made to say the same. Raises `DeviceError` (environment, -write, -full,
        -locked).
        """
        self._acquire()
        try:
            loaded = self._load()
            variables = dict(loaded.variables)
            for name, value in changes.items():
                if value is None:
                    variables.pop(name, None)
                else:
                    variables[name] = value
            changed = variables != loaded.variables
            if not changed and (loaded.settled or not settle):
                return False
            self.commits += 1
            if changed:
                loaded = self._write(loaded, variables)
            if settle and self.redundant:
                self._write(loaded, variables)
            return True
        finally:
            self._release()

    def _write(self, loaded: Loaded, variables: Variables) -> Loaded:
        """Write the copy that does not count; afterwards it does."""
        size = self._places[0].size
        if not self.redundant:
            self._write_copy(0, emit_copy(variables, size, None))
            return Loaded(0, 0, variables, settled=True)
        target = 1 - loaded.active
        flag = MARK_ACTIVE if loaded.marked else (loaded.flag + 1) % FLAG_MODULUS
        self._write_copy(target, emit_copy(variables, size, flag))
        if loaded.marked:
            self._make_obsolete(loaded.active)
        return replace(loaded, active=target, flag=flag, variables=variables, settled=False)

    def _load(self) -> Loaded:
        marked = self._is_marked()
        copies = [parse_copy(self._read_copy(index), redundant=self.redundant) for index in range(len(self._places))]
        active = choose(copies, marked=marked)
        counts = None if active is None else copies[active]
        if active is None or counts is None:
            raise DeviceError(ENVIRONMENT, "no copy of the boot environment has a good checksum")
        variables = parse_data(counts[1])
        settled = all(copy is not None and entries(copy[1]) == entries(counts[1]) for copy in copies)
        return Loaded(active, counts[0], variables, settled, marked)

    def _is_marked(self) -> bool:
        """Whether flags are marks. Raises `DeviceError` (environment) when the two copies do not agree on it."""
        if not self.redundant:
            return False
        kinds = {self._from(index, medium.is_marked) for index, medium in enumerate(self._media)}
        if len(kinds) > 1:
            raise DeviceError(ENVIRONMENT, "the two copies of the boot environment are on different kinds of flash")
        return kinds.pop()

    def _read_copy(self, index: int) -> bytes:
        raw = self._from(index, self._media[index].read)
        return raw if len(raw) == self._places[index].size else b""

    def _from(self, index: int, read: Callable[[], T]) -> T:
        try:
            return read()
        except OSError as error:
            raise DeviceError(ENVIRONMENT, f"{self._places[index].device}: {error.strerror or error}") from error

    def _write_copy(self, index: int, raw: bytes) -> None:
        device, medium = self._places[index].device, self._media[index]
        self.writes += 1
        try:
            medium.write(raw)
            same = medium.read() == raw
        except OSError as error:
            raise DeviceError(ENVIRONMENT_WRITE, f"{device}: {error.strerror or error}") from error
        if not same:
            raise DeviceError(ENVIRONMENT_WRITE, f"{device} does not return what was written to it")

    def _make_obsolete(self, index: int) -> None:
        device, medium = self._places[index].device, self._media[index]
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
            # libubootenv goes on, too: better an unlocked environment than one that can never be changed.
            log.warning("no lock on the boot environment: %s", error, extra={"event": "update.no-lock"})
            return True

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
