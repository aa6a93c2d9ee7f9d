"""COSEM date and time (BB 4.1.6.1), kept octet for octet, and the clock policy that turns it into an instant.

```
 0    2   3   4   5   6   7   8      9       11
 year mon day dow h   m   s   1/100  deviation status      "any" is FFFF / FF, deviation unknown is 8000
```

A `CosemDate` is the first five octets, a `CosemTime` the next four. As text they are `2026-03-29` and `02:30:00`, with
`*` for any, the months `DB` and `DE` in which daylight saving begins and ends, and the days `LD` and `SL` for the last
and the second last of the month.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntFlag

from dlms.cursor import Cursor
from dlms.errors import LocalError

ANY = 0xFF
ANY_YEAR = 0xFFFF
DST_BEGIN = 0xFE  # month
DST_END = 0xFD  # month
LAST_DAY = 0xFE  # day of month
SECOND_LAST_DAY = 0xFD  # day of month
DEVIATION_UNKNOWN = -0x8000
STATUS_UNKNOWN = 0xFF

DATE_OCTETS = 5
TIME_OCTETS = 4


class ClockStatus(IntFlag):
    """Octet `clock_status`; 0xFF as a whole means that the status is not specified."""

    INVALID = 0x01
    DOUBTFUL = 0x02
    DIFFERENT_CLOCK_BASE = 0x04
    INVALID_STATUS = 0x08
    DAYLIGHT_SAVING = 0x80


@dataclass(frozen=True, slots=True)
class ClockPolicy:
    """How to read the clock of one meter; makers differ.

    The standard counts `deviation` from local time to UTC (UTC = local + deviation). `deviation_sign` is -1 for meters
    that count the other way, and 0 for meters whose deviation means nothing. `utc_offset_minutes` (east is positive) is
    assumed where no deviation is given; with None such a time has no instant. `deviation_has_dst` is False for meters
    whose deviation stays at standard time while the DST bit is set; `dst_minutes` is then added.
    """

    deviation_sign: int = 1
    utc_offset_minutes: int | None = None
    deviation_has_dst: bool = True
    dst_minutes: int = 60

    def __post_init__(self) -> None:
        if self.deviation_sign not in (-1, 0, 1):
            raise LocalError(f"deviation_sign is -1, 0 or 1, not {self.deviation_sign}")


ZONE_UNKNOWN_S = 14 * 3600  # local time may be so far from UTC
STANDARD_CLOCK = ClockPolicy()


@dataclass(frozen=True, slots=True)
class CosemDateTime:
    """A date-time with its wildcards. The fields hold the values on the wire, special ones included."""

    year: int = ANY_YEAR
    month: int = ANY
    day: int = ANY
    day_of_week: int = ANY
    hour: int = ANY
    minute: int = ANY
    second: int = ANY
    hundredths: int = ANY
    deviation: int = DEVIATION_UNKNOWN
    status: int = STATUS_UNKNOWN

    def __post_init__(self) -> None:
        if not 0 <= self.year <= ANY_YEAR or not -0x8000 <= self.deviation <= 0x7FFF:
            raise LocalError("year or deviation does not fit two octets")
        _check_octets(self.month, self.day, self.day_of_week, self.hour, self.minute, self.second, self.hundredths)
        if not 0 <= self.status <= 0xFF:
            raise LocalError(f"status {self.status} does not fit one octet")

    @classmethod
    def parse(cls, data: bytes) -> CosemDateTime:
        """The 12 octets of a date-time. Raises `DecodeError`."""
        cursor = Cursor(data, "date-time")
        year = cursor.u16()
        month, day, day_of_week, hour, minute, second, hundredths = cursor.take(7)
        deviation = int.from_bytes(cursor.take(2), "big", signed=True)
        status = cursor.u8()
        cursor.check_end()
        return cls(year, month, day, day_of_week, hour, minute, second, hundredths, deviation, status)

    @classmethod
    def from_datetime(cls, when: datetime, *, dst: bool = False) -> CosemDateTime:
        """Encode `when` with all fields set; the deviation is that of its zone, unknown when it has none."""
        offset = when.utcoffset()
        deviation = DEVIATION_UNKNOWN if offset is None else -round(offset.total_seconds() / 60)
        status = ClockStatus.DAYLIGHT_SAVING if dst else 0
        return cls(
            when.year, when.month, when.day, when.isoweekday(), when.hour, when.minute, when.second,
            when.microsecond // 10_000, deviation, int(status),
        )  # fmt: skip

    @classmethod
    def from_instant(cls, when: datetime, policy: ClockPolicy = STANDARD_CLOCK, *, dst: bool = False) -> CosemDateTime:
        """`when` as the meter's own clock would write it: the inverse of `to_datetime` for the same policy.

        It is in the meter's local time where the policy has an offset, else in the zone of `when`. A `when` without a
        zone is taken as the meter's local time.
        """
        total = when.utcoffset()
        if total is None:
            return cls.from_datetime(when, dst=dst)
        if policy.utc_offset_minutes is not None:
            total = timedelta(minutes=policy.utc_offset_minutes + (policy.dst_minutes if dst else 0))
        local = cls.from_datetime(when.astimezone(timezone(total)), dst=dst)
        if policy.deviation_sign == 0:
            return replace(local, deviation=DEVIATION_UNKNOWN)
        minutes = -round(total.total_seconds() / 60)
        if dst and not policy.deviation_has_dst:
            minutes += policy.dst_minutes
        return replace(local, deviation=policy.deviation_sign * minutes)

    @classmethod
    def of(cls, text: str) -> CosemDateTime:
        """Parse ISO 8601, or date, time and optional deviation as `****-12-25 00:00 -60min`. Raises `LocalError`."""
        try:
            return cls.from_datetime(datetime.fromisoformat(text))
        except ValueError:
            pass
        parts = text.split()
        if not 1 <= len(parts) <= 3:
            raise LocalError(f"{text!r} is no date and time")
        day, time = CosemDate.of(parts[0]), CosemTime.of(parts[1]) if len(parts) > 1 else CosemTime()
        deviation = DEVIATION_UNKNOWN
        if len(parts) > 2:
            found = _DEVIATION.fullmatch(parts[2])
            if found is None:
                raise LocalError(f"{parts[2]!r} is no deviation such as -60min")
            deviation = int(found[1])
        return cls.parse(
            day.emit() + time.emit() + deviation.to_bytes(2, "big", signed=True) + bytes((STATUS_UNKNOWN,))
        )

    def emit(self) -> bytes:
        """The 12 octets."""
        rest = bytes((self.month, self.day, self.day_of_week, self.hour, self.minute, self.second, self.hundredths))
        tail = self.deviation.to_bytes(2, "big", signed=True) + bytes((self.status,))
        return self.year.to_bytes(2, "big") + rest + tail

    @property
    def daylight_saving(self) -> bool:
        return self.status != STATUS_UNKNOWN and bool(self.status & ClockStatus.DAYLIGHT_SAVING)

    @property
    def trustworthy(self) -> bool:
        """False when the meter itself marks this time as invalid or doubtful."""
        return self.status == STATUS_UNKNOWN or not self.status & (ClockStatus.INVALID | ClockStatus.DOUBTFUL)

    def local(self) -> datetime | None:
        """The meter's local time without a zone; None when a field down to the minute is a wildcard or impossible.

        An unspecified second counts as 0.
        """
        day = _resolve_day(self.year, self.month, self.day)
        if day is None or self.hour > 23 or self.minute > 59:
            return None
        second = 0 if self.second == ANY else self.second
        hundredths = 0 if self.hundredths == ANY else self.hundredths
        if second > 59 or hundredths > 99:
            return None
        moment = datetime(day.year, day.month, day.day, self.hour, self.minute, second)  # noqa: DTZ001 - local time
        return moment + timedelta(milliseconds=10 * hundredths)

    def later(self, seconds: int) -> CosemDateTime | None:
        """The time `seconds` later by the same clock, as it would say it; None when it has no definite time.

        A day of the week, seconds or hundredths that are not specified here are not specified there: the same row must
        not differ by whether it was worked out. Deviation and status stay: whether daylight saving has begun or ended
        meanwhile, only the meter knows.
        """
        local = self.local()
        if local is None:
            return None
        try:
            then = local.replace(microsecond=0) + timedelta(seconds=seconds)
        except OverflowError:
            return None
        return CosemDateTime(
            then.year, then.month, then.day, ANY if self.day_of_week == ANY else then.isoweekday(),
            then.hour, then.minute, ANY if self.second == ANY and not then.second else then.second,
            ANY if self.hundredths == ANY else 0, self.deviation, self.status,
        )  # fmt: skip

    def to_datetime(self, policy: ClockPolicy = STANDARD_CLOCK) -> datetime | None:
        """The instant in UTC according to `policy`; None when wildcards or a missing offset leave it undefined."""
        local = self.local()
        if local is None:
            return None
        if self.deviation == DEVIATION_UNKNOWN or policy.deviation_sign == 0:
            if policy.utc_offset_minutes is None:
                return None
            to_utc = -policy.utc_offset_minutes
            if self.daylight_saving:
                to_utc -= policy.dst_minutes
        else:
            to_utc = policy.deviation_sign * self.deviation
            if self.daylight_saving and not policy.deviation_has_dst:
                to_utc -= policy.dst_minutes
        try:
            return (local + timedelta(minutes=to_utc)).replace(tzinfo=UTC)
        except OverflowError:
            return None

    def __str__(self) -> str:
        octets = self.emit()
        text = f"{CosemDate.parse(octets[:DATE_OCTETS])} {CosemTime.parse(octets[DATE_OCTETS:9])}"
        return text if self.deviation == DEVIATION_UNKNOWN else f"{text} {self.deviation:+}min"


@dataclass(frozen=True, slots=True)
class CosemDate:
    """A date with its wildcards, as calendars and special days have it."""

    year: int = ANY_YEAR
    month: int = ANY
    day: int = ANY
    day_of_week: int = ANY

    def __post_init__(self) -> None:
        if not 0 <= self.year <= ANY_YEAR:
            raise LocalError(f"year {self.year} does not fit two octets")
        _check_octets(self.month, self.day, self.day_of_week)

    @classmethod
    def parse(cls, data: bytes) -> CosemDate:
        """The 5 octets of a date. Raises `DecodeError`."""
        cursor = Cursor(data, "date")
        year = cursor.u16()
        month, day, day_of_week = cursor.take(3)
        cursor.check_end()
        return cls(year, month, day, day_of_week)

    @classmethod
    def of(cls, text: str) -> CosemDate:
        """`2026-03-29`, or with wildcards as `****-DB-LD`. Raises `LocalError`."""
        found = _DATE.fullmatch(text)
        if found is None:
            raise LocalError(f"{text!r} is no date such as 2026-03-29 or ****-12-25")
        year, month, day = found.groups()
        whole = cls(
            ANY_YEAR if year == "****" else int(year),
            _SPECIAL_MONTHS_OF[month] if month in _SPECIAL_MONTHS_OF else int(month),
            _SPECIAL_DAYS_OF[day] if day in _SPECIAL_DAYS_OF else int(day),
        )
        known = _resolve_day(whole.year, whole.month, whole.day)
        return whole if known is None else replace(whole, day_of_week=known.isoweekday())

    def emit(self) -> bytes:
        """The 5 octets."""
        return self.year.to_bytes(2, "big") + bytes((self.month, self.day, self.day_of_week))

    def date(self) -> date | None:
        """The calendar day; None when a wildcard leaves it undefined or there is no such day."""
        return _resolve_day(self.year, self.month, self.day)

    def __str__(self) -> str:
        year = "****" if self.year == ANY_YEAR else f"{self.year:04}"
        month = _SPECIAL_MONTHS.get(self.month) or f"{self.month:02}"
        return f"{year}-{month}-{_SPECIAL_DAYS.get(self.day) or f'{self.day:02}'}"


@dataclass(frozen=True, slots=True)
class CosemTime:
    """A time of the day with its wildcards."""

    hour: int = ANY
    minute: int = ANY
    second: int = ANY
    hundredths: int = ANY

    def __post_init__(self) -> None:
        _check_octets(self.hour, self.minute, self.second, self.hundredths)

    @classmethod
    def parse(cls, data: bytes) -> CosemTime:
        """The 4 octets of a time. Raises `DecodeError`."""
        cursor = Cursor(data, "time")
        hour, minute, second, hundredths = cursor.take(TIME_OCTETS)
        cursor.check_end()
        return cls(hour, minute, second, hundredths)

    @classmethod
    def of(cls, text: str) -> CosemTime:
        """`02:30`, `02:30:00`, `02:30:00.50`, or with `**`. Raises `LocalError`."""
        found = _TIME.fullmatch(text)
        if found is None:
            raise LocalError(f"{text!r} is no time such as 02:30:00")
        hour, minute, second, hundredths = found.groups()
        parts = hour, minute, "00" if second is None else second, "00" if hundredths is None else hundredths
        return cls(*(ANY if part == "**" else int(part) for part in parts))

    def emit(self) -> bytes:
        """The 4 octets."""
        return bytes((self.hour, self.minute, self.second, self.hundredths))

    def __str__(self) -> str:
        text = ":".join("**" if part == ANY else f"{part:02}" for part in (self.hour, self.minute, self.second))
        return text if self.hundredths in (0, ANY) else f"{text}.{self.hundredths:02}"


_DATE = re.compile(r"(\*{4}|\d{4})-(\*\*|\d\d|DB|DE)-(\*\*|\d\d|LD|SL)")
_TIME = re.compile(r"(\*\*|\d\d):(\*\*|\d\d)(?::(\*\*|\d\d)(?:\.(\d\d))?)?")
_DEVIATION = re.compile(r"([+-]\d{1,3})min")
_SPECIAL_MONTHS = {ANY: "**", DST_BEGIN: "DB", DST_END: "DE"}
_SPECIAL_DAYS = {ANY: "**", LAST_DAY: "LD", SECOND_LAST_DAY: "SL"}
_SPECIAL_MONTHS_OF = {text: number for number, text in _SPECIAL_MONTHS.items()}
_SPECIAL_DAYS_OF = {text: number for number, text in _SPECIAL_DAYS.items()}


def _check_octets(*values: int) -> None:
    for octet in values:
        if not 0 <= octet <= 0xFF:
            raise LocalError(f"{octet} does not fit one octet")


def _resolve_day(year: int, month: int, day: int) -> date | None:
    """The calendar day, with "last" and "second last day of the month" resolved."""
    if not 1 <= year <= 9999 or not 1 <= month <= 12:
        return None
    if day in (LAST_DAY, SECOND_LAST_DAY):
        if year == 9999 and month == 12:
            return date(year, month, 31 if day == LAST_DAY else 30)
        first_of_next = date(year + month // 12, month % 12 + 1, 1)
        return first_of_next - timedelta(days=1 if day == LAST_DAY else 2)
    try:
        return date(year, month, day)
    except ValueError:
        return None
