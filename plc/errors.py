"""The errors of this package, split by who is at fault."""

from __future__ import annotations


class PlcError(Exception):
    """Base of every error this package raises on purpose."""


class PlcLocalError(PlcError):
    """The caller asked for something this object cannot do in its state, or with this argument."""


class PlcDecodeError(PlcError):
    """The base node sent bytes that are not what the format says. `what` was being read, `offset` bytes into it."""

    def __init__(self, what: str, offset: int, why: str) -> None:
        super().__init__(f"{what}, byte {offset}: {why}")
        self.what = what
        self.offset = offset
        self.why = why


class PlcPortError(PlcError):
    """The environment: the port cannot be opened, read or written, or was closed by the other side."""
