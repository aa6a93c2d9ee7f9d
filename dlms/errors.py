"""The errors of this package, split by who is at fault."""

from __future__ import annotations


class DlmsError(Exception):
    """Base of every error this package raises on purpose."""


class LocalError(DlmsError):
    """The caller asked for something this object cannot do in its state, or with this argument."""


class DecodeError(DlmsError):
    """The peer sent bytes that are not what the standard says. `what` was being read, `offset` bytes into it."""

    def __init__(self, what: str, offset: int, why: str) -> None:
        super().__init__(f"{what}, byte {offset}: {why}")
        self.what = what
        self.offset = offset
        self.why = why


class PeerError(DlmsError):
    """The peer refused, rejected or broke the protocol."""


class SecurityError(PeerError):
    """Authentication or deciphering failed: a key or password is wrong, or an APDU was forged or sent again."""


class LinkError(DlmsError):
    """The environment: the line is dead, an answer never came, the connection closed."""


class PortBusyError(LinkError):
    """Another process has the serial port. `device` is its path, `holder` who has it, empty where nobody tells."""

    def __init__(self, device: str, holder: str) -> None:
        super().__init__(f"{device}: in use by {holder or 'another process'}")
        self.device = device
        self.holder = holder
