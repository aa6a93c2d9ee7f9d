"""The options of a data link: one set for all links, of which each reads what it needs."""

from __future__ import annotations

from dataclasses import dataclass

from dlms.errors import LocalError

BITS_PER_OCTET = 10  # on an asynchronous line: start, eight data, stop


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """`client` is the client's SAP, `server` the server's; for HDLC `server` may also be `"upper/lower"`.

    `info_max` (octets) and `window` (frames) are proposed for HDLC. `packet` is the wrapper over UDP. `baudrate` is
    None where the port is no asynchronous line. `timeout_s` (seconds) is how long the link waits for an answer; None is
    the link's own default. `inactivity_s` (seconds) is for the meter's side: it forgets a client that is silent for so
    long; None for never.
    """

    client: int = 16
    server: int | str = 1
    info_max: int = 128
    window: int = 1
    packet: bool = False
    baudrate: int | None = None
    timeout_s: float | None = None
    inactivity_s: float | None = None

    @property
    def sap(self) -> int:
        """The server's SAP: the upper part of an HDLC address. Raises `LocalError` when `server` is no address."""
        text = str(self.server).partition("/")[0]
        if not text.isdigit():
            raise LocalError(f"{self.server!r} is not a server address")
        return int(text)

    @property
    def sap_alone(self) -> int:
        """The server's SAP where the link has no lower address. Raises `LocalError` for an address of two parts."""
        if not str(self.server).isdigit():
            raise LocalError(f"{self.server!r}: only HDLC has UPPER/LOWER")
        return int(self.server)

    @property
    def octet_s(self) -> float:
        """Seconds that an octet takes on the line; 0 where that is not known."""
        return BITS_PER_OCTET / self.baudrate if self.baudrate else 0.0
