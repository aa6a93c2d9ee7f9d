"""How often reading a meter failed, by kind. Sans-IO.

Kinds are told by the type of the error, never by its text:

- `timeout`: nothing came, or the line or the bridge gave up (`LinkError`).
- `refused`: the meter answered no (`PeerError`).
- `decode`: what it answered makes no sense (`DecodeError`).
- `auth`: keys, passwords or counters were wrong (`SecurityError`).
- `other`: ours, or not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from dlms.errors import DecodeError, LinkError, PeerError, SecurityError

COUNT_MAX = 2**31 - 1  # an int of the management tree
FailureKind = Literal["timeout", "refused", "decode", "auth", "other"]


def failure_kind(error: Exception | None) -> FailureKind:
    """Return the kind of a failure; a visit that ran out of time has no error of its own and is a timeout."""
    match error:
        case None | LinkError():
            return "timeout"
        case SecurityError():  # before its base
            return "auth"
        case PeerError():
            return "refused"
        case DecodeError():
            return "decode"
        case _:
            return "other"


@dataclass(slots=True)
class Counters:
    """Counts of one meter since it was registered: visits that went well, and those that failed."""

    read: int = 0
    timeout: int = 0
    refused: int = 0
    decode: int = 0
    auth: int = 0
    other: int = 0

    def count(self, kind: FailureKind | Literal["read"]) -> None:
        """One more visit, that went well or failed."""
        setattr(self, kind, min(COUNT_MAX, getattr(self, kind) + 1))

    def dump(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def load(cls, document: object) -> Counters:
        """Return the counters of a stored document; what is missing or no count is 0."""
        given = document if isinstance(document, Mapping) else {}
        return cls(*(_count(given.get(field.name)) for field in fields(cls)))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX else 0
