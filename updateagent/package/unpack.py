"""Streaming decompression in bounded memory, over the decoders of the standard library.

A packed part is exactly one stream of its format: it must end where the part ends, and nothing may follow. Each
unpacked piece has at most 16 KiB, whatever the input claims; the caller counts and stops.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from updateagent.errors import COMPRESSION, PackageError
from updateagent.package.readable import Readable, read_exactly

PIECE_BYTES = 16 << 10
"""The packed bytes read, and the unpacked bytes yielded, at a time."""
XZ_MEMORY_BYTES_MAX = 1 << 20
"""The memory limit of the xz decoder; the packer's dictionary of 384 KiB needs a little more than its size."""
GZIP_WINDOW = 31
"""zlib's `wbits` for the gzip format, which is what SWUpdate calls "zlib"."""


class _Decoder(Protocol):
    """The common part of `bz2.BZ2Decompressor` and `lzma.LZMADecompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Inflater:
    """`zlib.decompressobj` for gzip, behind the interface of the other two."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=GZIP_WINDOW)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        # After a full piece there may be more output, even when all input was consumed.
        self.needs_input = len(out) < max_length
        return out


def inflate(file: Readable, offset: int, size: int) -> Iterator[bytes]:
    """Unpack gzip. Raises `PackageError` (`compression`, `truncated`)."""
    return _decoded(_Inflater(), file, offset, size, "gzip", (zlib.error,))


def unxz(file: Readable, offset: int, size: int) -> Iterator[bytes]:
    """Unpack xz. Raises `PackageError` (`compression`, `truncated`)."""
    # Here and below: loading a decoder costs memory, and few packages need it.
    from lzma import FORMAT_XZ, LZMADecompressor, LZMAError

    decoder = LZMADecompressor(format=FORMAT_XZ, memlimit=XZ_MEMORY_BYTES_MAX)
    return _decoded(decoder, file, offset, size, "xz", (LZMAError,))


def bunzip(file: Readable, offset: int, size: int) -> Iterator[bytes]:
    """Unpack bzip2. Raises `PackageError` (`compression`, `truncated`)."""
    from bz2 import BZ2Decompressor

    return _decoded(BZ2Decompressor(), file, offset, size, "bzip2", (OSError, ValueError))


def _decoded(
    decoder: _Decoder, file: Readable, offset: int, size: int, what: str, decoder_errors: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    end = offset + size
    while not decoder.eof:
        if offset == end:
            raise PackageError(COMPRESSION, f"a {what} stream that does not end")
        data = read_exactly(file, min(PIECE_BYTES, end - offset), offset, what)
        offset += len(data)
        while True:
            try:
                out = decoder.decompress(data, PIECE_BYTES)
            except decoder_errors as error:
                raise PackageError(COMPRESSION, f"a broken {what} stream: {error}") from error
            if out:
                yield out
            if decoder.eof or decoder.needs_input:
                break
            data = b""
    if decoder.unused_data or offset != end:
        raise PackageError(COMPRESSION, f"bytes after the end of a {what} stream")
