"""The boot loader of the simulated board: U-Boot's redundant environment and RAUC's boot script, written from the
format alone so that it checks `updateagent.boot.policy` instead of repeating it.

    copy : u32 crc (native endian) | u8 flag | data[ENV_BYTES - 5]
    crc  : CRC-32 over all of data, padding included; the flag is not covered
    data : "name=value" NUL ... NUL, then padding
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

ENV_BYTES = 0x4000
ENV_OFFSETS = (0, ENV_BYTES)
HEADER = struct.Struct("=IB")
TRIES_FULL = 3
SLOTS = {"A": str(TRIES_FULL), "B": "0", "R": str(TRIES_FULL)}
"""The slots that the script knows, and the attempts of one whose count is not there."""


class BootLoaderError(Exception):
    """Nothing can be booted: on a pole this would need a truck."""


@dataclass(frozen=True)
class Choice:
    """What the loader decided: the slot, the attempts left after this one, whether all had run out; and the count of
    its starts that it has saved and passes to the kernel (None: it passes none)."""

    slot: str
    left: int
    recovered: bool
    boots: str | None = None


def pack_copy(variables: dict[str, str], flag: int) -> bytes:
    """One copy of the environment, as `saveenv` writes it."""
    text = b"".join(f"{name}={value}".encode() + b"\0" for name, value in sorted(variables.items())) + b"\0"
    room = ENV_BYTES - HEADER.size
    if len(text) > room:
        raise BootLoaderError(f"environment of {len(text)} bytes exceeds {room}")
    data = text.ljust(room, b"\0")
    return HEADER.pack(zlib.crc32(data), flag) + data


def unpack_copy(raw: bytes) -> tuple[int, dict[str, str]] | None:
    """Flag and variables of one copy, or None when its CRC does not hold."""
    crc, flag = HEADER.unpack_from(raw)
    data = raw[HEADER.size :]
    if zlib.crc32(data) != crc:
        return None
    variables = {}
    for entry in data.split(b"\0"):
        if not entry:
            break
        name, _, value = entry.decode().partition("=")
        variables[name] = value
    return flag, variables


class Environment:
    """The two copies in the flash file."""

    def __init__(self, flash: Path) -> None:
        self.flash = flash

    def load(self) -> tuple[int, int, dict[str, str]]:
        """(index of the copy in force, its flag, its variables)."""
        raw = self.flash.read_bytes()
        copies = [unpack_copy(raw[offset : offset + ENV_BYTES]) for offset in ENV_OFFSETS]
        good = [(index, copy) for index, copy in enumerate(copies) if copy is not None]
        if not good:
            raise BootLoaderError("both copies of the environment are bad")
        index, (flag, variables) = good[0]
        if len(good) == 2:
            other = good[1][1][0]
            if (other > flag and not (other == 255 and flag == 0)) or (other == 0 and flag == 255):
                index, (flag, variables) = good[1]
        return index, flag, variables

    def save(self, variables: dict[str, str]) -> None:
        """Write the copy that is not in force, with the next flag, and sync it."""
        index, flag, _ = self.load()
        with self.flash.open("r+b") as file:
            file.seek(ENV_OFFSETS[1 - index])
            file.write(pack_copy(variables, (flag + 1) & 0xFF))
            file.flush()
            os.fsync(file.fileno())

    def create(self, variables: dict[str, str]) -> None:
        """The factory's environment: both copies good."""
        with self.flash.open("wb") as file:
            file.write(pack_copy(variables, 1) + pack_copy(variables, 0))
            file.flush()
            os.fsync(file.fileno())


def choose(environment: Environment) -> Choice:
    """The boot script: the first slot of BOOT_ORDER with attempts left; the attempt is counted before it starts."""
    _, _, variables = environment.load()
    order = variables.setdefault("BOOT_ORDER", "A B").split()
    for known, attempts in SLOTS.items():
        if known != "R" or known in order:
            variables.setdefault(f"BOOT_{known}_LEFT", attempts)
    slot = _with_attempts(order, variables)
    recovered = slot is None
    if slot is None:
        for one in order:
            variables[f"BOOT_{one}_LEFT"] = str(TRIES_FULL)
        slot = _with_attempts(order, variables)
    if slot is None:
        variables |= {"BOOT_ORDER": "A B", "BOOT_A_LEFT": str(TRIES_FULL), "BOOT_B_LEFT": str(TRIES_FULL)}
        slot = "A"
    left = int(variables[f"BOOT_{slot}_LEFT"]) - 1
    variables[f"BOOT_{slot}_LEFT"] = str(left)
    boots = count_start(variables)
    environment.save(variables)
    return Choice(slot, left, recovered, boots)


def count_start(variables: dict[str, str]) -> str:
    """Count this start, in hexadecimal as `setexpr` does; what is no number counts as 0."""
    found = variables.get("dcu_boots", "0")
    boots = f"{(int(found, 16) if re.fullmatch('[0-9a-f]{1,8}', found) else 0) + 1:x}"
    variables["dcu_boots"] = boots
    return boots


def _with_attempts(order: list[str], variables: dict[str, str]) -> str | None:
    for slot in order:
        left = variables.get(f"BOOT_{slot}_LEFT", "0")
        if slot in SLOTS and left.isdigit() and int(left) > 0:
            return slot
    return None
