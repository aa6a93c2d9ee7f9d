"""What goes into a session and comes out of it, as values: settings, HTTP messages, events."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.tree.alerts import GenericAlert
from omadm.bootstrap import Account
from omadm.codes import AlertCode
from omadm.syncml.messages import SyncML


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a session is held with. The nonces are those for the next message of each side.

    `algorithms` are those of a MAC that are believed; the first is used for our own.
    """

    account: Account
    client_nonce: bytes = field(repr=False)
    server_nonce: bytes = field(repr=False)
    session_id: str
    device_id: str
    device_info: tuple[tuple[str, str], ...]
    content_type: str
    alert: AlertCode = AlertCode.CLIENT_INITIATED
    alerts: tuple[GenericAlert, ...] = ()
    algorithms: tuple[str, ...] = ("SHA-256",)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to be posted to the server. `mac` is the value of `x-syncml-hmac`, `None` without one."""

    url: str
    content_type: str
    body: bytes = field(repr=False)
    mac: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's HTTP answer. `mac` is the value of its `x-syncml-hmac`, `None` without one."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    mac: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CommandsReceived:
    """The commands of an authenticated message, to be carried out."""

    message: SyncML


@dataclass(frozen=True, slots=True)
class NoncesChanged:
    """The server has given the next nonces, of the client and of itself."""

    client_nonce: bytes = field(repr=False)
    server_nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TimeTold:
    """The last message of the server, which has its MAC, says what time it is: seconds since 1970 (UTC)."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The server has taken the generic alert of that id."""

    alert_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """`result` is "ok" or a sentence. `unproven`: credentials failed, on either side; a retry soon is pointless."""

    ok: bool
    result: str
    unproven: bool = False


@dataclass(frozen=True, slots=True)
class Unsendable:
    """Something that was to be sent has no form in the encoding, and was left out. `what` is for the log."""

    what: str


Event = CommandsReceived | NoncesChanged | TimeTold | Acknowledged | Ended | Unsendable
