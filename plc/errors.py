"""The errors of this package, split by who is at fault."""

from __future__ import annotations

from collections.abc import Sequence

from dlms.errors import DecodeError


class PlcError(Exception):
    """Base of every error this package raises on purpose."""


class PlcLocalError(PlcError):
    """The caller asked for something this object cannot do in its state, or with this argument."""


class PlcDecodeError(PlcError, DecodeError):
    """The base node sent bytes that are not what the format says. `what` was being read, `offset` bytes into it."""


class PlcPortError(PlcError):
    """The environment: the port cannot be opened, read or written, or was closed by the other side."""


class PlcSilentError(PlcPortError):
    """The port takes bytes and gives none: nothing came in answer to `requests` requests in `seconds` seconds."""

    def __init__(self, requests: int, seconds: float) -> None:
        super().__init__(f"nothing was heard in {seconds:.0f} s, in answer to {requests} requests")
        self.requests = requests
        self.seconds = seconds


class PlcDefectError(PlcPortError):
    """What speaks the port's protocol, or listens to it, raised an exception that is none of these."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"defect: {type(error).__name__}: {error}")


class PlcProtocolError(PlcError):
    """The configuration names a port protocol that cannot be had."""


class UnknownProtocolError(PlcProtocolError):
    """Neither built in nor offered by an installed distribution. `known` are the names that are."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"wanted one of {', '.join(known)}, got {name!r}")
        self.name = name
        self.known = tuple(known)


class AmbiguousProtocolError(PlcProtocolError):
    """Several installed distributions offer a protocol of this name, and nothing says which one is meant."""

    def __init__(self, name: str, distributions: Sequence[str]) -> None:
        super().__init__(f"{name!r} is offered by {' and '.join(distributions)}")
        self.name = name
        self.distributions = tuple(distributions)


class BrokenProtocolError(PlcProtocolError):
    """A distribution offers the protocol, but what it offers cannot be used."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name!r} cannot be used: {why}")
        self.name = name
        self.why = why
