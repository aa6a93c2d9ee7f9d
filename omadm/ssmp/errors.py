"""Errors of SSMP, split by who is at fault."""

from __future__ import annotations


class SsmpError(Exception):
    """The registration failed: the peer violated the protocol, sent a wrong proof, or could not be reached.

    Nothing was changed on this side, and it makes sense to try again later.
    """


class SsmpRefused(SsmpError):
    """The security server answered with an ERROR message. `code` is one of `wire.ErrorCode`, `text` its sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"refused by the security server: {code} {text}")
        self.code = code
        self.text = text


class SsmpKeyMissingError(SsmpError):
    """The place of the device's secrets is there, and this one is not in it."""


class SsmpUnsettledError(SsmpError):
    """The registration broke off after the device had confirmed: the server may have put the new account in force in
    the place of the one before, or may not."""


class SsmpWireError(SsmpError):
    """The bytes are not an SSMP message. `offset` is where parsing stopped, `why` a clause without the offset."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"SSMP message, byte {offset}: {why}")
        self.offset = offset
        self.why = why


class SsmpVersionError(SsmpWireError):
    """The message is of a version of SSMP that is not spoken here."""


class SsmpUsageError(ValueError):
    """A local caller asked for something that cannot be sent (our mistake, not the peer's)."""
