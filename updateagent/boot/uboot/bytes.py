"""The bytes of a U-Boot environment: which copy is valid, and what its variables are.

    single    : u32 crc | data[ENV_SIZE - 4]
    redundant : u32 crc | u8 flag | data[ENV_SIZE - 5]          two copies
    data      : "name=value" NUL … NUL, then padding (zeros or ones: assume neither)

The CRC-32 covers all of `data` with its padding, but not the flag; it is stored in the byte order of the CPU. Of two
good copies the one with the higher flag is in force, where 0 is newer than 255; with equal flags it is the first.

On NOR flash the flag is not a number but a mark: 1 in the copy in force, 0 in the obsolete one. There the higher flag
wins without that exception, so 255, which an erase leaves, is the highest.

Sans-IO. This module imports almost nothing, for `fast_path`; `c_integer` is here for the same reason.
"""

import struct
import zlib

CRC = struct.Struct("=I")
FLAG_AT = CRC.size
FLAG_MODULUS = 256
MARK_ACTIVE = 1
MARK_OBSOLETE = 0  # can be programmed over any other value without an erase


def c_integer(text: str) -> int:
    """A number as C's `%i` and `strtoull(…, 0)` read it: 0x… is hexadecimal, 0… octal. Raises `ValueError`."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    base = 8 if digits[:1] == "0" else 10
    if digits[:2] in ("0x", "0X"):
        digits, base = digits[2:], 16
    if not digits or digits.strip("0123456789abcdefABCDEF"):
        raise ValueError(text)  # `int` would take underscores, and prefixes of its own
    number = int(digits, base)
    return -number if text[0] == "-" else number


def parse_copy(raw: bytes, *, redundant: bool) -> tuple[int, bytes] | None:
    """The flag (0 for the single format) and the data of one copy; None when its CRC is wrong."""
    start = FLAG_AT + 1 if redundant else FLAG_AT
    data = raw[start:]
    if len(raw) <= start or zlib.crc32(data) != CRC.unpack_from(raw)[0]:
        return None
    return (raw[FLAG_AT] if redundant else 0), data


def newer(flag: int, other: int) -> bool:
    """Whether `flag` is newer than `other`: higher, except that 0 follows 255."""
    if {flag, other} == {0, FLAG_MODULUS - 1}:
        return flag == 0
    return flag > other


def choose(copies: list[tuple[int, bytes] | None], *, marked: bool = False) -> int | None:
    """The index of the copy in force; None when none is good. `marked`: flags are marks, as on NOR flash."""
    chosen = -1
    flag = 0
    for index, copy in enumerate(copies):
        if copy is not None and (chosen < 0 or (copy[0] > flag if marked else newer(copy[0], flag))):
            chosen, flag = index, copy[0]
    return None if chosen < 0 else chosen


def entries(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """Names and values in their order; None when the list has no end.

    An entry without `=` is skipped, as libubootenv and U-Boot do.
    """
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while True:
        end = data.find(b"\0", at)
        if end < 0:
            return None
        if end == at:
            return found
        name, equals, value = data[at:end].partition(b"=")
        if equals and name:
            found.append((name, value))
        at = end + 1
