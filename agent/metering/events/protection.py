"""How a notification was protected, and whether that is what was agreed with its meter: sans-IO.

A meter protects what it pushes with its global keys (GB 9.2.7), in the form of the service (glo-event-notification),
in general-glo-ciphering or in general-ciphering. Keys of an association (ded) are for its session. Nothing is taken
from an APDU before its tag was checked, and its invocation counter is checked after that, so that nobody without the
key can advance it. What is encrypted and not authenticated may have been changed on its way: where authentication was
agreed it counts as unauthenticated, and its counter is compared and not noted.

A confirm is protected as the push was that it answers, in the same form, under the same key, in the same transaction,
with the next invocation counter of ours, which is durable before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.metering.events.notification import PLAIN_TAGS
from dlms.codes import GLO_OF_PLAIN, Apdu
from dlms.cursor import Cursor
from dlms.errors import DlmsError
from dlms.security.gcm import Replayed, check_counter
from dlms.security.settings import SYSTEM_TITLE_OCTETS, InvocationCounters, MemoryCounters, Policy

if TYPE_CHECKING:
    from dlms.security.settings import Security

GLO_TAGS = frozenset(GLO_OF_PLAIN[tag] for tag in (Apdu.EVENT_NOTIFICATION, Apdu.INFORMATION_REPORT))
OPENABLE_TAGS = frozenset((*GLO_TAGS, Apdu.GENERAL_GLO, Apdu.GENERAL_CIPHERING, Apdu.GENERAL_SIGNING))
LEVELS = {Policy.NONE: "none", Policy.AUTHENTICATE: "authenticated", Policy.ENCRYPT: "encrypted", Policy.BOTH: "both"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A notification without its protection; `apdu` is `None` where it could not be opened, or is none. `level` is one
    of `omadm.readings.EVENT_SECURITY`. `replayed`: it is genuine, and was sent before. `security` has the keys that
    fitted."""

    apdu: bytes | None
    level: str
    error: str = ""
    replayed: bool = False
    security: Security | None = field(default=None, repr=False, compare=False)


class _Sending(MemoryCounters):
    """Our counters of a key, for an answer: what the peer used was checked before."""

    def __init__(self, counters: InvocationCounters) -> None:
        super().__init__()
        self._counters = counters

    def next(self) -> int:
        return self._counters.next()


def seal_confirm(confirm: bytes, pushed: bytes, security: Security) -> bytes:
    """Protect a confirm as the push `pushed` was, which these keys have opened. Raises `DlmsError`: a counter that is
    used up, a key store that takes nothing.

    Call it when the confirm goes out, and not before: requests that go out in between would have higher counters.
    """
    from dlms.security.ciphering import Ciphering

    answering = Ciphering(replace(security, policy=Policy.NONE, counters=_Sending(security.counters)), is_server=True)
    # An answer has the transaction, the choice of key and the protection of what it answers.
    answering.unprotect(pushed)
    return answering.protect(confirm, pushed[0])


def title_of(apdu: bytes) -> bytes:
    """The system title that an APDU names as its sender's; empty where it names none. It proves nothing."""
    try:
        cursor = Cursor(apdu, "notification")
        tag = cursor.u8()
        if tag in (Apdu.GENERAL_CIPHERING, Apdu.GENERAL_SIGNING):
            cursor.octets()
        elif tag not in (Apdu.GENERAL_GLO, Apdu.GENERAL_DED):
            return b""
        title = cursor.octets()
    except DlmsError:
        return b""
    return title if len(title) == SYSTEM_TITLE_OCTETS else b""


def open_pushed(apdu: bytes, keys: Sequence[Security], *, title: bytes = b"") -> Opened:
    """Open a protected APDU with the first of `keys` that fits. `title`: the system title by which the meter is known,
    empty where it is not."""
    named = title_of(apdu)
    if title and named and named != title:
        return Opened(None, "unopened", f"protected by {named.hex()}, the meter is {title.hex()}")
    outcome = Opened(None, "unopened", "no keys are provisioned for this meter")
    for security in keys:
        known = replace(security, peer_title=title or named or None)
        outcome = replace(_open(apdu, known), security=known)
        if outcome.apdu is not None or outcome.replayed:
            break
    return outcome


def _open(apdu: bytes, security: Security) -> Opened:
    from dlms.security.ciphering import Ciphering

    agreed = security.policy
    seen = security.counters.seen()
    # What is weaker than agreed is opened as well, to be kept and marked.
    peeking = replace(security, policy=Policy.NONE, counters=MemoryCounters())
    try:
        plain = Ciphering(peeking).unprotect(apdu)
    except (DlmsError, ValueError) as error:
        return Opened(None, "unopened", str(error))
    if not plain or plain[0] not in PLAIN_TAGS:
        return Opened(None, "unopened", "protected, and no notification")
    level = _level(apdu)
    if level is None:
        return Opened(None, "unopened", "how it is protected cannot be told")
    counter = peeking.counters.seen()
    if agreed & ~level:
        if counter is not None and seen is not None and counter <= seen:
            return Opened(None, "unopened", f"invocation counter {counter} was used before", replayed=True)
        return Opened(plain, "unauthenticated", f"protected less than agreed: {LEVELS[level]}")
    try:
        if counter is not None:
            check_counter(security.counters, counter)
    except Replayed as error:
        return Opened(None, "unopened", str(error), replayed=True)
    return Opened(plain, LEVELS[level])


def _level(apdu: bytes) -> Policy | None:
    """What the security control octet says; `None` where there is none to be found."""
    from dlms.security.general_formats import GeneralCiphered, GeneralSigned

    try:
        if apdu[0] == Apdu.GENERAL_SIGNING:
            inner = GeneralSigned.parse(apdu).content
            return (_level(inner) if inner[0] in OPENABLE_TAGS else None) or Policy.AUTHENTICATE
        if apdu[0] == Apdu.GENERAL_CIPHERING:
            return Policy(GeneralCiphered.parse(apdu).contents[0] & Policy.BOTH)
        cursor = Cursor(apdu, "ciphered APDU")
        if cursor.u8() == Apdu.GENERAL_GLO:
            cursor.octets()
        cursor.length()
        return Policy(cursor.u8() & Policy.BOTH)
    except (DlmsError, IndexError):
        return None
