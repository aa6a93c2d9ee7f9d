"""What a `dlms.client.session.MeterSession` tells: values, errors, and what happened to the session."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from dlms.axdr import Data
from dlms.client.association import Notified
from dlms.codes import Conformance
from dlms.cosem.obis import AttributeRef
from dlms.errors import DlmsError, PeerError
from dlms.xdlms.exchange import Answer


@dataclass(frozen=True, slots=True)
class Value:
    """An attribute's value; scaler and unit are None where the attribute has none or the meter would not tell."""

    data: Data
    scaler: int | None = None
    unit: int | None = None

    def scaled(self) -> Decimal | None:
        """The number with its scaler applied, exactly; None for what is not a number."""
        raw = self.data.value
        if isinstance(raw, bool) or not isinstance(raw, int):
            return None
        return Decimal(raw).scaleb(self.scaler or 0)


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why there is no value: the Data-Access-Result as `object-undefined`, or what refused the request as a whole."""

    code: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """Link and association stand; `pdu_size` is the largest APDU the meter takes, in octets."""

    conformance: Conformance
    pdu_size: int


@dataclass(frozen=True, slots=True)
class ItemRead:
    """The outcome for one attribute of a `read`."""

    ref: AttributeRef
    result: Value | ItemError


@dataclass(frozen=True, slots=True)
class ReadDone:
    """Every attribute of one `read` has had its `ItemRead`."""


@dataclass(frozen=True, slots=True)
class Replied:
    """The outcome of one `request`: the answer, or the error that refused the request as a whole."""

    outcome: Answer | PeerError


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The session ended in order."""


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """The session ended because of `error`."""

    error: DlmsError


SessionEvent = SessionOpened | ItemRead | ReadDone | Replied | Notified | SessionClosed | SessionFailed
