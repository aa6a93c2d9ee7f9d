"""The events of a `dlms.client.session.MeterSession`: values, errors, and changes of the session itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlms.axdr import Data
from dlms.client.association import Notified
from dlms.codes import Conformance
from dlms.cosem.obis import AttributeRef
from dlms.errors import DlmsError, PeerError
from dlms.xdlms.exchange import Answer

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Value:
    """An attribute's value; scaler and unit are None when it has none or the meter does not give them."""

    data: Data
    scaler: int | None = None
    unit: int | None = None

    def scaled(self) -> Decimal | None:
        """The exact number with its scaler applied; None for anything but a number."""
        raw = self.data.value
        if isinstance(raw, bool) or not isinstance(raw, int):
            return None
        from decimal import Decimal  # not at the top: who stores raw values never needs it

        return Decimal(raw).scaleb(self.scaler or 0)


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why there is no value: a Data-Access-Result such as `object-undefined`, or the refusal of the whole request."""

    code: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """Link and association are up; `pdu_size` is the largest APDU that the meter takes, in octets."""

    conformance: Conformance
    pdu_size: int


@dataclass(frozen=True, slots=True)
class ItemRead:
    """The outcome for one attribute of a `read`."""

    ref: AttributeRef
    result: Value | ItemError


@dataclass(frozen=True, slots=True)
class ReadDone:
    """One `read` is complete: every attribute has had its `ItemRead`."""


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
