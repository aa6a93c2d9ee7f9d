"""What an association needs from the layer below it: the contract of HDLC, the wrapper and the 4-32 LLC.

Sans-IO: no clock, no port. `now` is monotonic seconds and never decreases. Bytes from the line go in with `receive`,
bytes for the line come out of `take_output`, and everything that happened is read from `next_event`.

Stream links (HDLC, wrapper over TCP) take any split of the byte stream. Packet links (LLC over PRIME, wrapper over
UDP) take and give one packet per call: call `take_output` until it returns `b""`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dlms.errors import DlmsError, LocalError


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The link is connected. `apdu_bytes_hint` is the APDU size that fits one frame each way (information field
    negotiated, headers taken off); longer APDUs are segmented by the link where it can.

    `apdu_bytes_burst` is the size that travels each way without waiting for an acknowledgement (HDLC: a whole window
    of frames); 0 means the same as the hint. `apdu_bytes_max` is the longest APDU the link carries at all, for links
    that do not segment. `ends_association` says that disconnecting this link ends the association too (HDLC), so that
    no release needs to be exchanged first. `may_repeat` says that a packet may arrive twice (UDP, power line).
    """

    apdu_bytes_hint: int
    apdu_bytes_burst: int = 0
    apdu_bytes_max: int = 0xFFFF
    ends_association: bool = False
    may_repeat: bool = False


PUBLIC_CLIENT = 16  # the SAP of the client that every meter answers
PARITIES = ("none", "even", "odd")


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How an asynchronous line stands: eight data bits, one stop bit, and a parity bit where `parity` is not `none`."""

    baudrate: int
    parity: str = "none"

    def __post_init__(self) -> None:
        if self.baudrate <= 0 or self.parity not in PARITIES:
            raise LocalError(f"{self.baudrate} baud, parity {self.parity}: no line stands like that")

    @property
    def octet_s(self) -> float:
        """Seconds that an octet takes: start bit, eight data bits, parity bit, stop bit."""
        return (10 if self.parity == "none" else 11) / self.baudrate


@dataclass(slots=True)
class LineHeard:
    """What came from the line during one connection of a link that shares it with others (HDLC).

    `octets` are all that came, but for echoes of our own, of which there were `echoes`. `frames` are whole ones of the
    station that was asked, `others` those of or for anybody else. `doubles` counts answers that only a second station
    at the same address can have given, `contradictions` those of them that say something else than the first: then
    what was taken may be of either. `turnaround_s` is what the station took to begin its first answer; `None` before
    it, and where the question had to be repeated.
    """

    octets: int = 0
    frames: int = 0
    others: int = 0
    doubles: int = 0
    contradictions: int = 0
    turnaround_s: float | None = None
    echoes: int = 0


@dataclass(frozen=True, slots=True)
class ApduReceived:
    """One whole APDU, reassembled."""

    apdu: bytes


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link ended: `error` is `None` after an orderly disconnect."""

    error: DlmsError | None


LinkEvent = LinkUp | ApduReceived | LinkDown

# First octets of what a meter says without being asked: data-notification, information report and event notification,
# the latter two also ciphered with the global and the dedicated key.
UNSOLICITED = frozenset({0x0F, 0x18, 0x38, 0x58, 0xC2, 0xCA, 0xD2})

# And of what may be: in general protection, which does not show what is inside, or in general blocks.
IN_BLOCKS = 0xE0
MAY_BE_UNSOLICITED = UNSOLICITED | {0xDB, 0xDC, 0xDD, 0xDF, IN_BLOCKS}


def is_unsolicited(apdu: bytes) -> bool:
    """Whether this answers nothing, so that a link which waits for an answer goes on waiting. Inside general ciphering
    that cannot be seen from here."""
    return apdu[0] in UNSOLICITED


class DataLink(Protocol):
    """One logical connection between a client SAP and a server SAP."""

    def connect(self, now: float) -> None: ...

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU. Raises `LocalError` before `LinkUp` or after `LinkDown`."""

    def disconnect(self, now: float) -> None: ...

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line. Never raises for what the peer sent: that becomes an event."""

    def receive_eof(self, now: float) -> None:
        """The port below is closed for good."""

    def take_output(self) -> bytes: ...

    def next_event(self) -> LinkEvent | None: ...

    def next_deadline(self) -> float | None: ...

    def on_deadline(self, now: float) -> None: ...


@runtime_checkable
class SpeaksBeside(Protocol):
    """A link that carries APDUs without an answer beside the request that waits for one."""

    def say(self, apdu: bytes, now: float) -> None:
        """Queue one APDU that has no answer. Raises `LocalError` as `DataLink.send`."""

    def still_due(self, now: float) -> None:
        """What came last answered nothing, which the link may not have seen (`is_unsolicited`): the answer is still to
        come."""


def beside(link: object) -> SpeaksBeside | None:
    """This link, if it can carry something beside an answer."""
    return link if isinstance(link, SpeaksBeside) else None


def heard_by(link: DataLink) -> LineHeard | None:
    """What this link has heard; `None` for a link that does not say."""
    heard = getattr(link, "heard", None)
    return heard if isinstance(heard, LineHeard) else None


class ServerLink(DataLink, Protocol):
    """The meter's end of a link that several clients may share."""

    @property
    def client(self) -> int | None:
        """SAP of the client whose APDU came last, and who gets what is sent; None before the first."""

    def address(self, client: int) -> None:
        """What is sent next goes to this client."""
