"""What the package reader needs of a file: bytes at an offset. `updateagent.disk.RawFile` provides it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from updateagent.errors import PACKAGE_MISSING, STORAGE, TRUNCATED, DeviceError, PackageError


class Readable(Protocol):
    """A file, device or buffer that is read at offsets and never changed."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end. Raises `OSError`."""

    def size(self) -> int:
        """The length in bytes."""


Package = Path | Readable
"""A package is given by its path, or as an open file or buffer."""


@contextmanager
def opened(package: Package) -> Iterator[Readable]:
    """Open a package for reading. Errors of the system become errors of this package here, and only here."""
    try:
        if isinstance(package, Path):
            from updateagent.disk import RealDisk

            with RealDisk().open_raw(package) as file:
                yield file
        else:
            yield package
    except FileNotFoundError as error:
        raise PackageError(PACKAGE_MISSING, f"{package}: no such file") from error
    except OSError as error:
        raise DeviceError(STORAGE, f"cannot read the package, or what its delta is made from: {error}") from error


def read_exactly(file: Readable, size: int, offset: int, what: str) -> bytes:
    """Read `size` bytes, or raise `PackageError` (`truncated`) when the file ends before."""
    data = file.pread(size, offset)
    if len(data) != size:
        raise PackageError(TRUNCATED, f"{what}: the file ends at byte {offset + len(data)}, {offset + size} expected")
    return data
