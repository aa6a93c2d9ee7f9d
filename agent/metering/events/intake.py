"""What becomes of a notification: sans-IO, the time is an argument. It is an event, a repetition, or one too many.

A meter that gets no acknowledgement pushes again. The same sender, invoke id and content within `REPEATED_S` is one
event; where the message carries the meter's time it is one for ever, and its key says so to the head-end as well. A
time of wildcards, or of a clock that begins anew with each power-up, tells no two messages apart and counts as none.
Where it has neither time nor invoke id, two of the same are told apart after `ALIKE_S`.

Each sender may have `BURST` events at once and one every `EVERY_S` seconds. What is beyond that is counted, and nothing
else: the first one too many is an alarm, and a summary follows every `SUMMARY_S` seconds, so that a babbling meter
costs the flash a few records per hour. Senders that nobody knows share the allowance of their port.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC

from agent.metering.events.notification import Notice
from dlms.cosem.time import CosemDateTime
from dlms.errors import DlmsError
from omadm.readings import TEXT_CHARS_MAX, EventReport

REPEATED_S = 3600.0
ALIKE_S = 30.0
DATED_S = 7 * 86_400.0  # a meter may keep what it could not push; a clock that was lost is farther away
KEYS_KEPT = 4096  # some 100 bytes each
SENDERS_KEPT = 8192  # with an allowance of their own: twice a full network
BURST = 20
EVERY_S = 120.0
SUMMARY_S = 900.0
KEY_CHARS = 32


@dataclass(frozen=True, slots=True)
class Heard:
    """A notification with what is known around it. `meter`: its id, empty for an unknown sender; `sender`: where it
    came from, in words; `allowance`: whose events it counts among; `apdu`: the octets of the content, without
    protection where that was opened."""

    meter: str
    sender: str
    allowance: str
    apdu: bytes
    notice: Notice
    meter_time: str | None
    received: float
    trusted: bool
    security: str
    error: str = ""


@dataclass(slots=True)
class _Allowance:
    """How many events of one sender are taken still, and what was refused since the last summary."""

    left: float
    at: float
    too_many: int = 0
    meter: str = ""
    sender: str = ""
    summary_at: float | None = None


class Intake:
    """Makes reports of notifications. `repeated` counts those that were there before, `too_many` those not kept."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, float] = OrderedDict()  # content → until when it is a repetition
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self.repeated = 0
        self.too_many = 0

    def remember(self, keys: Iterable[tuple[str, float]], now: float) -> None:
        """Events of before a start: key and age in seconds."""
        for key, age_s in keys:
            content, _, dated = key.partition("-")
            self._keys[content] = now + max(0.0, REPEATED_S - age_s) if dated else float("inf")

    def take(self, heard: Heard, now: float) -> list[EventReport]:
        """Return what is to be stored for this notification: one event, none, or an alarm in its place."""
        content = _digest(heard)
        until, dated = self._keys.get(content), _is_dated(heard)
        if until is not None and (now < until or dated):  # a time that comes once was heard before, by whatever clock
            if dated:
                self._keys[content] = float("inf")
            self.repeated += 1
            return []
        allowance = self._allowance(heard, now)
        if allowance.left < 1:
            return self._one_too_many(allowance, heard, now)
        allowance.left -= 1
        if dated:
            until, key = float("inf"), content
        else:
            until = now + (ALIKE_S if heard.notice.invoke is None else REPEATED_S)
            key = f"{content}-{heard.received:.3f}"
        self._keys[content] = until
        self._keys.move_to_end(content)
        while len(self._keys) > KEYS_KEPT:
            self._keys.popitem(last=False)
        return [_report(heard, key)]

    def forget(self, reports: Iterable[EventReport]) -> None:
        """These could not be stored: should they come again, they are no repetitions."""
        for report in reports:
            self._keys.pop(report.key.partition("-")[0], None)

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        return min((each.summary_at for each in self._allowances.values() if each.summary_at is not None), default=None)

    def on_deadline(self, now: float, received: float, *, trusted: bool) -> list[EventReport]:
        """Return the summaries that are due, and end them for senders that have calmed down."""
        found: list[EventReport] = []
        for each in self._allowances.values():
            if each.summary_at is None or each.summary_at > now:
                continue
            if each.too_many:
                text = "notifications not kept: more than this meter may send"
                found.append(_notice(each, text, received, trusted, count=each.too_many))
            each.summary_at = now + SUMMARY_S if each.too_many else None
            each.too_many = 0
        return found

    def _one_too_many(self, allowance: _Allowance, heard: Heard, now: float) -> list[EventReport]:
        self.too_many += 1
        first = allowance.summary_at is None
        allowance.meter, allowance.sender = heard.meter, heard.sender
        if not first:
            allowance.too_many += 1
            return []
        allowance.summary_at = now + SUMMARY_S
        text = "sends more notifications than it may: from now on they are counted"
        return [_notice(allowance, text, heard.received, heard.trusted, grave=True)]

    def _allowance(self, heard: Heard, now: float) -> _Allowance:
        found = self._allowances.get(heard.allowance)
        if found is None:
            found = self._allowances[heard.allowance] = _Allowance(BURST, now)
            while len(self._allowances) > SENDERS_KEPT:
                self._allowances.popitem(last=False)
        found.left = min(BURST, found.left + (now - found.at) / EVERY_S)
        found.at = now
        self._allowances.move_to_end(heard.allowance)
        return found


def _is_dated(heard: Heard) -> bool:
    """Whether the message carries a time that comes once: a whole one, of the days around ours, which is trusted."""
    try:
        local = CosemDateTime.parse(heard.notice.clock).local()
    except DlmsError:
        return False
    if local is None or not heard.trusted:
        return False
    return abs(local.replace(tzinfo=UTC).timestamp() - heard.received) <= DATED_S


def _digest(heard: Heard) -> str:
    who = heard.meter or heard.sender
    return hashlib.sha256(who.encode() + b"\0" + heard.apdu).hexdigest()[:KEY_CHARS]


def _report(heard: Heard, key: str) -> EventReport:
    notice = heard.notice
    return EventReport(
        event="push",
        meter=heard.meter,
        sender=heard.sender[:TEXT_CHARS_MAX],
        code=notice.code,
        name=notice.name,
        grave=notice.grave,
        obis=None if notice.obis is None else str(notice.obis),
        meter_time=heard.meter_time,
        received=round(heard.received, 3),
        trusted=heard.trusted,
        invoke=notice.invoke,
        security=heard.security,
        values=notice.values,
        octets=None if notice.octets is None else notice.octets.hex(),
        error=(heard.error or notice.error or "")[:TEXT_CHARS_MAX] or None,
        count=1,
        key=key,
    )


def _notice(
    about: _Allowance, text: str, received: float, trusted: bool, *, count: int = 1, grave: bool = False
) -> EventReport:
    key = hashlib.sha256(f"{about.meter}\0{about.sender}\0{text}".encode()).hexdigest()[:KEY_CHARS]
    return EventReport(
        event="notice",
        meter=about.meter,
        sender=about.sender[:TEXT_CHARS_MAX],
        code=None,
        name=text,
        grave=grave,
        obis=None,
        meter_time=None,
        received=round(received, 3),
        trusted=trusted,
        invoke=None,
        security="none",
        values=[],
        octets=None,
        error=None,
        count=count,
        key=f"{key}-{received:.3f}",
    )
