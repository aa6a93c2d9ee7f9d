"""The errors of this package, split by who is at fault."""

from __future__ import annotations

from dlms.errors import DecodeError


class PlcError(Exception):
    """Base of every error this package raises on purpose."""


class PlcLocalError(PlcError):
    """The caller asked for something this object cannot do in its state, or with this argument."""


class PlcDecodeError(PlcError, DecodeError):
    """The base node sent bytes that are not what the format says. `what` was being read, `offset` bytes into it."""


class PlcPortError(PlcError):
    """The environment: the port cannot be opened, read or written, or was closed by the other side."""
