"""`fw_env.config`: where the copies of the U-Boot environment are, as libubootenv and U-Boot's own tools read it.

device  offset  size  [sector size  [sectors  [nolock]]]        one line per copy; # begins a comment

libubootenv has a form in YAML, too: `fw_env_yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from updateagent.boot.uboot.bytes import FLAG_AT, c_integer
from updateagent.errors import CONFIGURATION, RequestError

ENV_SIZE_MAX = 1 << 20  # U-Boot boards use 4 to 256 KiB
RANGE_MAX = 1 << 28  # a copy may move over bad blocks, not over the whole flash
COPIES_MAX = 2


@dataclass(frozen=True, slots=True)
class EnvLocation:
    """One line of `fw_env.config`: where a copy of the environment is. Bytes; a negative offset counts from the end.

    `no_lock` ("disable lock mechanism" of libubootenv): the blocks of an MTD partition are written without unlocking
    and locking them, for flash or a driver that cannot. It has nothing to do with the lock file.
    """

    device: Path
    offset: int
    size: int
    sector_size: int = 0
    sectors: int = 0
    no_lock: bool = False

    @property
    def range_bytes(self) -> int:
        """The bytes that belong to the copy, from its offset on; on NAND it may be anywhere within them."""
        return max(self.size, self.sector_size * self.sectors)


@dataclass(frozen=True, slots=True)
class FwEnvConfig:
    """What `fw_env.config` says: the copies, and the lock file of its own that the YAML form may name."""

    copies: tuple[EnvLocation, ...]
    lock: Path | None = None


def read_config(text: str, namespace: str = "") -> FwEnvConfig:
    """Read `fw_env.config` in either form; `namespace` is which one of the YAML form counts, the first if empty.

    Raises `RequestError` (configuration) naming the line.
    """
    from updateagent.boot.uboot import fw_env_yaml

    lines = fw_env_yaml.lines_of(text)
    if not lines:
        return FwEnvConfig(parse_fw_env_config(text))
    found = fw_env_yaml.parse(lines, namespace)
    copies = tuple(
        _checked(one.line, EnvLocation(Path(one.path), one.offset, one.size, one.sector_size, no_lock=one.no_lock))
        for one in found.devices
    )
    return FwEnvConfig(_checked_together(copies), Path(found.lockfile) if found.lockfile else None)


def parse_fw_env_config(text: str) -> tuple[EnvLocation, ...]:
    """Read the form of one line per copy: `device offset size [sector_size [sectors [nolock]]]`, one or two lines.

    Raises `RequestError` (configuration) naming the line. Sizes are hexadecimal with or without `0x`, as libubootenv
    reads them; the offset follows its prefix (`0x10`, `16`, `020`).
    """
    locations: list[EnvLocation] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        try:
            device, offset, size, *rest = fields
            location = EnvLocation(
                Path(device),
                c_integer(offset),
                int(size, 16),
                int(rest[0], 16) if rest else 0,
                int(rest[1], 16) if len(rest) > 1 else 0,
                len(rest) > 2 and int(rest[2]) != 0,
            )
        except ValueError:
            raise RequestError(CONFIGURATION, f"fw_env.config line {number}: expected device, offset, size") from None
        locations.append(_checked(number, location))
    return _checked_together(tuple(locations))


def _checked(number: int, location: EnvLocation) -> EnvLocation:
    if not FLAG_AT + 2 < location.size <= ENV_SIZE_MAX:
        raise RequestError(CONFIGURATION, f"fw_env.config line {number}: size {location.size:#x} is not possible")
    if not (0 <= location.sector_size <= RANGE_MAX and 0 <= location.sectors * location.sector_size <= RANGE_MAX):
        raise RequestError(CONFIGURATION, f"fw_env.config line {number}: these sectors are not possible")
    return location


def _checked_together(locations: tuple[EnvLocation, ...]) -> tuple[EnvLocation, ...]:
    if not 1 <= len(locations) <= COPIES_MAX:
        raise RequestError(CONFIGURATION, f"fw_env.config: one or two copies of the environment, not {len(locations)}")
    if len(locations) == COPIES_MAX:
        _check_pair(*locations)
    return locations


def _check_pair(first: EnvLocation, second: EnvLocation) -> None:
    if first.size != second.size:
        raise RequestError(CONFIGURATION, "fw_env.config: the two copies have different sizes")
    below, above = sorted((first, second), key=lambda location: location.offset)
    together = (below.offset < 0) == (above.offset < 0)
    if first.device == second.device and together and below.offset + below.range_bytes > above.offset:
        raise RequestError(CONFIGURATION, "fw_env.config: the two copies overlap")
