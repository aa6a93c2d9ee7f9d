"""How a client proves who it is, and how APDUs are protected."""

from __future__ import annotations

from dataclasses import dataclass, field

from dlms.codes import Mechanism
from dlms.errors import LocalError

PASSWORD_OCTETS_MAX = 64


@dataclass(frozen=True, slots=True)
class NoAuth:
    """Lowest level: nothing is proved."""

    @property
    def mechanism(self) -> Mechanism:
        return Mechanism.NONE


@dataclass(frozen=True, slots=True)
class Lls:
    """Low level security: a password in the AARQ, in the clear. Text is taken as UTF-8."""

    secret: bytes | str = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.password) <= PASSWORD_OCTETS_MAX:
            raise LocalError(f"a password has 1 to {PASSWORD_OCTETS_MAX} octets")

    @property
    def password(self) -> bytes:
        return self.secret.encode() if isinstance(self.secret, str) else self.secret

    @property
    def mechanism(self) -> Mechanism:
        return Mechanism.LLS


Auth = NoAuth | Lls


def open_auth(name: str, secret: bytes = b"") -> Auth:
    """The authentication called `name` ("none", "low") with `secret`. Raises `LocalError` for an unknown name."""
    if name == "none":
        return NoAuth()
    if name == "low":
        return Lls(secret)
    raise LocalError(f"{name!r} is not an authentication: use none or low")
