"""Errors of SSMP, split by who is at fault."""

from __future__ import annotations


class SsmpError(Exception):
    """The registration did not complete: the peer broke the protocol, failed its proof, or could not be reached.

    Trying again later is sensible; nothing was changed on this side.
    """


class SsmpRefused(SsmpError):
    """The security server answered with an ERROR message. `code` is one of `wire.ErrorCode`, `text` its sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"refused by the security server: {code} {text}")
        self.code = code
        self.text = text


class SsmpWireError(SsmpError):
    """Bytes that are no SSMP message. `offset` is where reading stopped, `why` a clause without the offset."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"SSMP message, byte {offset}: {why}")
        self.offset = offset
        self.why = why


class SsmpUsageError(ValueError):
    """A local caller asked for what cannot be sent (our mistake, not the peer's)."""
