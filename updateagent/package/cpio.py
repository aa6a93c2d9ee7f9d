"""The container of a package: a cpio archive of the format newc with checksums, in one canonical form.

    member  := header name NUL pad4 data pad4
    header  := "070702" then 13 fields of 8 upper-case hexadecimal digits:
               ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    archive := member ... member, a member "TRAILER!!!" of size 0, and zeros up to a multiple of 512 bytes

`check` is the sum of the data's bytes modulo 2**32. SWUpdate and `cpio -i` read what this module writes. The reader, in
contrast, is strict on purpose: of the thirteen fields only the size, the length of the name and the checksum may vary.
Everything else (owner, times, devices, case of the digits, padding) must have the value that the writer gives it,
because these bytes are not signed and not needed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from updateagent.errors import FORMAT, LIMIT, TRUNCATED, Code, PackageError
from updateagent.package.readable import Readable, read_exactly

MAGIC = b"070702"
TRAILER = "TRAILER!!!"
HEADER_BYTES = 110
MODE_REGULAR_FILE = 0o100644

NAME_BYTES_MAX = 64
"""Long enough for `NN-` and a file name; short enough to read a header and its name in one piece."""
MEMBERS_MAX = 140
"""Description, signature, eight lists of roots, and two members for each of 64 images, with room."""
SIZE_BYTES_MAX = 2**31 - 1
"""newc could count to 4 GiB, but readers with signed 32-bit sizes exist; no length reaches 2**31."""

ARCHIVE_UNIT_BYTES = 512
"""The cpio program writes whole units of this length, and SWUpdate expects them."""

_SLICE_BYTES = 256
"""256 bytes add up to 65280 at most, below the modulus 65521 of Adler-32: its low half is then their exact sum."""


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """Return `start` plus the sum of the bytes of `data`, modulo 2**32 (newc's `check`)."""
    adler32 = zlib.adler32
    view = memoryview(data)
    total = sum([adler32(view[at : at + _SLICE_BYTES], 0) & 0xFFFF for at in range(0, len(view), _SLICE_BYTES)])
    return (start + total) & 0xFFFFFFFF


def padding(length: int) -> int:
    """How many zero bytes follow `length` bytes to reach a multiple of four."""
    return -length % 4


def emit_header(index: int, name: str, size: int, check: int) -> bytes:
    """Return header, name and padding of the member at place `index` (from 0) of an archive."""
    raw_name = name.encode("ascii") + b"\0"
    trailer = name == TRAILER
    ino, mode, links = (0, 0, 1) if trailer else (index + 1, MODE_REGULAR_FILE, 1)
    fields = (ino, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(raw_name), check)
    head = MAGIC + b"".join(b"%08X" % field for field in fields) + raw_name
    return head + bytes(padding(len(head)))


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive; offsets in bytes from the start of the archive."""

    index: int
    name: str
    size: int
    check: int
    offset: int
    data_offset: int

    @property
    def end(self) -> int:
        """Offset of the byte after the data and its padding."""
        return self.data_offset + self.size + padding(self.size)


class Reader:
    """Reads the headers of an archive one after the other, and data only on request.

    Every method raises `PackageError` (`format`, `truncated`, `limit`) for bytes that are not a canonical archive, and
    `OSError` when the file cannot be read.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._length = file.size()
        self._offset = 0
        self._index = 0

    def next(self) -> Member | None:
        """Return the next member, or None at the trailer (checking that the archive ends there)."""
        start = self._offset
        head = read_exactly(self._file, HEADER_BYTES, start, "archive header")
        size, name_bytes, check = _parse_fields(head, start)
        raw_name = self._file.pread(name_bytes + padding(HEADER_BYTES + name_bytes), start + HEADER_BYTES)
        name = _parse_name(raw_name[:name_bytes], start)
        if head + raw_name != emit_header(self._index, name, size, check):
            raise _malformed(start, "the header is not in canonical form")
        member = Member(self._index, name, size, check, start, start + len(head) + len(raw_name))
        if member.end > self._length:
            raise _malformed(start, f"the archive ends inside {name}", TRUNCATED)
        if name == TRAILER:
            self._check_end(member)
            return None
        if self._index >= MEMBERS_MAX:
            raise _malformed(start, f"more than {MEMBERS_MAX} members", LIMIT)
        self._check_padding(member)
        self._offset = member.end
        self._index += 1
        return member

    def read(self, member: Member, bytes_max: int) -> bytes:
        """Return the whole data of a small member after checking its checksum."""
        if member.size > bytes_max:
            why = f"{member.name} has {member.size} bytes, the limit is {bytes_max}"
            raise _malformed(member.offset, why, LIMIT)
        data = read_exactly(self._file, member.size, member.data_offset, member.name)
        if checksum(data) != member.check:
            raise _malformed(member.offset, f"the checksum of {member.name} is wrong")
        return data

    def _check_padding(self, member: Member) -> None:
        length = padding(member.size)
        if self._file.pread(length, member.data_offset + member.size) != bytes(length):
            raise _malformed(member.offset, f"the padding of {member.name} is not zero")

    def _check_end(self, trailer: Member) -> None:
        if trailer.size or trailer.check:
            raise _malformed(trailer.offset, "the trailer is not empty")
        missing = -trailer.end % ARCHIVE_UNIT_BYTES
        if read_exactly(self._file, missing, trailer.end, "end of the archive") != bytes(missing):
            raise _malformed(trailer.end, "the end of the archive is not filled with zeros")
        if trailer.end + missing != self._length:
            raise _malformed(trailer.end, f"{self._length - trailer.end - missing} bytes follow the archive")


class Writer:
    """Writes an archive to `file`, front to back; the caller knows size and checksum of each member beforehand."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._index = 0
        self._written = 0

    def add(self, name: str, data: bytes) -> None:
        """Append a member from memory."""
        self.add_stream(name, [data], len(data), checksum(data))

    def add_stream(self, name: str, pieces: Iterable[bytes], size: int, check: int) -> None:
        """Append a member of `size` bytes that arrives in pieces.

        Raises `ValueError` when the name or size is outside the limits or the pieces are not what was announced.
        """
        if not name.isascii() or not 0 < len(name) < NAME_BYTES_MAX or name == TRAILER:
            raise ValueError(f"not a name for a member: {name!r}")
        if not 0 <= size <= SIZE_BYTES_MAX:
            raise ValueError(f"{name}: {size} bytes do not fit in a package")
        if self._index >= MEMBERS_MAX:
            raise ValueError(f"more than {MEMBERS_MAX} members")
        self._write(emit_header(self._index, name, size, check))
        written = total = 0
        for piece in pieces:
            self._write(piece)
            written += len(piece)
            total = checksum(piece, total)
        if (written, total) != (size, check):
            raise ValueError(f"{name} changed while it was being packed")
        self._write(bytes(padding(size)))
        self._index += 1

    def close(self) -> None:
        """Append the trailer and fill the last unit. The file stays open."""
        self._write(emit_header(self._index, TRAILER, 0, 0))
        self._write(bytes(-self._written % ARCHIVE_UNIT_BYTES))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._written += len(data)


def _parse_fields(head: bytes, offset: int) -> tuple[int, int, int]:
    """Return size, length of the name with its NUL, and checksum."""
    if head[:6] != MAGIC:
        raise _malformed(offset, "no header of the format newc with checksums")
    fields = []
    for at in range(6, HEADER_BYTES, 8):
        digits = head[at : at + 8]
        if not all(byte in b"0123456789ABCDEF" for byte in digits):
            raise _malformed(offset, "a header field is not upper-case hexadecimal")
        fields.append(int(digits, 16))
    size, name_bytes, check = fields[6], fields[11], fields[12]
    if size > SIZE_BYTES_MAX:
        raise _malformed(offset, f"a member of {size} bytes is too long", LIMIT)
    if not 2 <= name_bytes <= NAME_BYTES_MAX:
        raise _malformed(offset, f"a name of {name_bytes} bytes")
    return size, name_bytes, check


def _parse_name(raw: bytes, offset: int) -> str:
    if raw[-1:] != b"\0" or b"\0" in raw[:-1] or not raw.isascii():
        raise _malformed(offset, "a name is cut short or not ASCII")
    return raw[:-1].decode("ascii")


def _malformed(offset: int, why: str, code: Code = FORMAT) -> PackageError:
    return PackageError(code, f"archive, byte {offset}: {why}")
