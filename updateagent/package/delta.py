"""BSDIFF40 patches: applied as a stream, in bounded memory, on the device.

    patch   := "BSDIFF40" | i64 length of control | i64 length of diff | i64 length of the result
               | control (bzip2) | diff (bzip2) | extra (bzip2)
    control := triples (i64 add, i64 copy, i64 seek), repeated until the result is complete

Numbers are 64 bits, little-endian, sign and magnitude. A triple says: take `add` bytes of the diff and add to each the
byte of the source at the current position (modulo 256); then take `copy` bytes of the extra part; then move the
position in the source by `seek`. Where the source has no byte, 0 is added.

Memory: three bzip2 decoders of at most 4 MiB each, and pieces of 16 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator

from updateagent.errors import PATCH, PackageError
from updateagent.package.readable import Readable, read_exactly
from updateagent.package.unpack import PIECE_BYTES, bunzip

MAGIC = b"BSDIFF40"
HEADER_BYTES = 32
_TRIPLE_BYTES = 24
IDLE_TRIPLES_MAX = 1000
"""Triples in a row that produce nothing. A packer needs none; without a limit a patch could run for ever."""


def parse_number(data: bytes) -> int:
    """Read a number of sign and magnitude."""
    magnitude = int.from_bytes(data, "little") & (2**63 - 1)
    return -magnitude if data[7] & 0x80 else magnitude


def emit_number(number: int) -> bytes:
    """Write a number of sign and magnitude."""
    return (abs(number) | (2**63 if number < 0 else 0)).to_bytes(8, "little")


class _Part:
    """One of the three streams, read in pieces of any length."""

    def __init__(self, pieces: Iterator[bytes], what: str) -> None:
        self._pieces = pieces
        self._what = what
        self._rest = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """Between 1 and `size` bytes. Raises `PackageError` (`patch`) at the end."""
        if not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                raise PackageError(PATCH, f"the {self._what} part of the patch ends early")
            self._rest = memoryview(piece)
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def exactly(self, size: int) -> bytes:
        """`size` bytes (for small numbers of them)."""
        found = bytes(self.take(size))
        while len(found) < size:
            found += self.take(size - len(found))
        return found

    def check_end(self) -> None:
        """Raise unless the stream was used up."""
        if self._rest or next(self._pieces, None) is not None:
            raise PackageError(PATCH, f"the {self._what} part of the patch is longer than the result needs")


def apply(
    file: Readable, offset: int, size: int, *, source: Readable, source_size: int, result_size: int
) -> Iterator[bytes]:
    """Yield the result of the patch at `offset` of `file` in pieces of at most 16 KiB.

    Raises `PackageError`: `patch` for a patch that is malformed or does not give `result_size` bytes, `compression`,
    `truncated`; and `OSError` when the source cannot be read. The caller checks the result against its hash tree.
    """
    control, diff, extra = _parts(file, offset, size, result_size)
    position = produced = idle = 0
    while produced < result_size:
        triple = control.exactly(_TRIPLE_BYTES)
        add, copy, seek = (parse_number(triple[at : at + 8]) for at in (0, 8, 16))
        if add < 0 or copy < 0 or add + copy > result_size - produced:
            raise PackageError(PATCH, "the patch produces more than the result")
        idle = 0 if add + copy else idle + 1
        if idle > IDLE_TRIPLES_MAX:
            raise PackageError(PATCH, "the patch goes on without producing anything")
        produced += add + copy
        while add:
            piece = diff.take(min(add, PIECE_BYTES))
            yield _added(piece, _source_bytes(source, source_size, position, len(piece)))
            add -= len(piece)
            position += len(piece)
        while copy:
            piece = extra.take(min(copy, PIECE_BYTES))
            yield bytes(piece)
            copy -= len(piece)
        position += seek
        if not -result_size - source_size <= position <= result_size + source_size:
            raise PackageError(PATCH, "the patch reads far outside the source")
    for part in (control, diff, extra):
        part.check_end()


def _parts(file: Readable, offset: int, size: int, result_size: int) -> tuple[_Part, _Part, _Part]:
    if size < HEADER_BYTES:
        raise PackageError(PATCH, "the patch is shorter than its header")
    header = read_exactly(file, HEADER_BYTES, offset, "patch")
    control_size, diff_size, announced = (parse_number(header[at : at + 8]) for at in (8, 16, 24))
    extra_size = size - HEADER_BYTES - control_size - diff_size
    if header[:8] != MAGIC or min(control_size, diff_size, extra_size) < 0 or announced != result_size:
        raise PackageError(PATCH, "the header of the patch is not the one of this image")
    at = offset + HEADER_BYTES
    return (
        _Part(bunzip(file, at, control_size), "control"),
        _Part(bunzip(file, at + control_size, diff_size), "diff"),
        _Part(bunzip(file, at + control_size + diff_size, extra_size), "extra"),
    )


def _source_bytes(source: Readable, source_size: int, position: int, size: int) -> bytes:
    """Bytes of the source, with zeros where there are none."""
    begin, end = max(position, 0), min(position + size, source_size)
    if begin >= end:
        return bytes(size)
    found = read_exactly(source, end - begin, begin, "source of the patch")
    return bytes(begin - position) + found + bytes(position + size - end)


def _added(diff: memoryview, source: bytes) -> bytes:
    """Add byte by byte modulo 256, a whole piece at a time as big integers.

    A sum of long integers carries from byte to byte. Therefore only the low seven bits of all bytes are added, which
    cannot carry out of a byte, and the top bits are combined by exclusive or.
    """
    size = len(diff)
    if diff == bytes(size):
        return source  # the usual case: most of a new release is the old one
    low = int.from_bytes(b"\x7f" * size, "little")
    top = int.from_bytes(b"\x80" * size, "little")
    a, b = int.from_bytes(diff, "little"), int.from_bytes(source, "little")
    return (((a & low) + (b & low)) ^ ((a ^ b) & top)).to_bytes(size, "little")
