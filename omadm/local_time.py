"""Local time by a POSIX TZ string (POSIX.1-2024, 8.3; RFC 9636, 3.3.1), as `CET-1CEST,M3.5.0,M10.5.0/3`: sans-IO.

Concentrators get their zone as such a string, from the management tree, and not as a name of the tz database: an image
need not carry that database, a new law is a Replace of one node and no firmware, and device and head-end compute the
same instants from the same text. The head-end makes the string of a name (`headend.operator.zones`).

A rule holds for all years. What changes its rule from year to year (Morocco's in Ramadan) has none, and needs a Replace
in time.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import date, datetime, timedelta

_HOUR, _DAY = 3600, 86_400
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
LATEST = 220_000_000_000  # in the year 8941: a clock that says more is cut to it, since dates end with 9999
TEXT_CHARS_MAX = 64
YEARS_KEPT = 16

_NAME = r"(?:[A-Za-z]{3,10}|<[A-Za-z0-9+-]{3,10}>)"
_TIME = r"[+-]?\d{1,3}(?::\d{2}(?::\d{2})?)?"
_DATE = rf"(?:J\d{{1,3}}|\d{{1,3}}|M\d{{1,2}}\.\d\.\d)(?:/{_TIME})?"
_SPAN = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})", re.ASCII)
_TZ = re.compile(rf"({_NAME})({_TIME})(?:({_NAME})({_TIME})?(?:,({_DATE}),({_DATE}))?)?")


class ZoneError(ValueError):
    """The text is no time zone."""


@dataclass(frozen=True, slots=True)
class _Change:
    """When a year's switch is: a day, and `seconds` of that day's local time, which may lie outside of it. `kind`: `J`
    (day 1 to 365, 29 February not counted), `D` (day 0 to 365), or `M` (month, week, day of the week)."""

    kind: str
    numbers: tuple[int, ...]
    seconds: int

    def local(self, year: int) -> int:
        """Seconds of local time since 1970."""
        return (self._day(year) - EPOCH_ORDINAL) * _DAY + self.seconds

    def _day(self, year: int) -> int:
        first = date(year, 1, 1).toordinal()
        if self.kind == "J":
            (day,) = self.numbers
            leap = day >= 60 and date(year, 12, 31).toordinal() - first == 365
            return first + day - 1 + leap
        if self.kind == "D":
            return first + self.numbers[0]
        month, week, weekday = self.numbers
        begin = date(year, month, 1)
        day = begin.toordinal() + (weekday - begin.isoweekday()) % 7 + 7 * (week - 1)
        end = date(year + month // 12, month % 12 + 1, 1).toordinal()
        return day if day < end else day - 7  # week 5 is the last one, which may be the fourth


class Zone:
    """A time zone. `standard` and `summer` are its offsets from UTC in seconds, east being positive."""

    def __init__(self, text: str) -> None:
        """Parse a POSIX TZ string. Raises `ZoneError`, also for one without a rule for its summer time."""
        found = _TZ.fullmatch(text) if len(text) <= TEXT_CHARS_MAX else None
        if found is None:
            raise ZoneError(f"{text[:TEXT_CHARS_MAX]!r}: a POSIX TZ string as CET-1CEST,M3.5.0,M10.5.0/3 expected")
        _, offset, summer, summer_offset, begin, end = found.groups()
        self.text = text
        self.standard = self.summer = -_seconds(offset, 24)
        self._changes: tuple[_Change, _Change] | None = None
        if summer:
            if not begin:
                raise ZoneError(f"{text}: when summer time begins and ends is missing")
            self.summer = -_seconds(summer_offset, 24) if summer_offset else self.standard + _HOUR
            self._changes = _change(begin), _change(end)
        if self.standard % 60 or self.summer % 60:
            raise ZoneError(f"{text}: offsets of whole minutes expected")
        self._years: dict[int, tuple[list[int], list[int]]] = {}

    def offset(self, instant: int) -> int:
        """Return local time minus UTC at an instant, in seconds."""
        if self._changes is None:
            return self.standard
        instants, offsets = self._around(instant, self._changes)
        return offsets[bisect_right(instants, instant)]

    def steady(self, first: int, last: int) -> int | None:
        """Return the offset that holds from one instant to another, at most a year later; `None` where it changes."""
        if self._changes is None:
            return self.standard
        instants, offsets = self._around(first, self._changes)
        at = bisect_right(instants, first)
        return offsets[at] if at == bisect_right(instants, last) else None

    def local(self, instant: int) -> int:
        """Return the local time of an instant, as seconds of local time since 1970."""
        return instant + self.offset(instant)

    def instants(self, local: int) -> tuple[int, ...]:
        """Return the instants at which it is this local time: one; two, in their order, where clocks are set back over
        it; where they are set forward over it, the one that clocks which nobody has set would show it at."""
        offsets = {self.standard, self.summer}
        found = sorted({local - offset for offset in offsets if self.offset(local - offset) == offset})
        return tuple(found) or (local - self.offset(local - max(offsets)),)

    def next_switch(self, instant: int) -> int | None:
        """Return the first instant after this one at which clocks are set; `None` where they never are."""
        if self._changes is None:
            return None
        instants, _ = self._around(instant, self._changes)
        return instants[bisect_right(instants, instant)]

    def _around(self, instant: int, changes: tuple[_Change, _Change]) -> tuple[list[int], list[int]]:
        year = (datetime(1970, 1, 1) + timedelta(seconds=min(max(instant, 0), LATEST) + self.standard)).year  # noqa: DTZ001 - of local time
        found = self._years.get(year)
        if found is None:
            if len(self._years) >= YEARS_KEPT:
                self._years = {}
            found = self._years[year] = self._switches(range(max(year - 1, 1970), year + 3), *changes)
        return found

    def _switches(self, years: range, begin: _Change, end: _Change) -> tuple[list[int], list[int]]:
        """The instants of all switches of these years, and the offsets before, between and after them."""
        # Where summer ends and begins at the same instant, it does not end: hence the order of the two.
        switches = sorted(
            (change.local(year) - before, order, after)
            for year in years
            for change, before, order, after in (
                (end, self.summer, 0, self.standard), (begin, self.standard, 1, self.summer)
            )
        )  # fmt: skip
        offsets = [self.standard if switches[0][2] == self.summer else self.summer]
        return [at for at, _, _ in switches], offsets + [after for _, _, after in switches]


def _seconds(text: str, hours_max: int) -> int:
    sign = -1 if text.startswith("-") else 1
    hours, minutes, seconds = [*map(int, text.lstrip("+-").split(":")), 0, 0][:3]
    if hours > hours_max or minutes > 59 or seconds > 59:
        raise ZoneError(f"{text}: at most {hours_max} hours, 59 minutes and 59 seconds expected")
    return sign * (hours * _HOUR + minutes * 60 + seconds)


def _change(text: str) -> _Change:
    day, _, time = text.partition("/")
    kind = day[0] if day[0] in "JM" else "D"
    numbers = tuple(int(number) for number in day.lstrip("JM").split("."))
    ranges = {"J": ((1, 365),), "D": ((0, 365),), "M": ((1, 12), (1, 5), (0, 6))}[kind]
    if not all(low <= number <= high for number, (low, high) in zip(numbers, ranges, strict=True)):
        raise ZoneError(f"{day}: no day of a year")
    return _Change(kind, numbers, _seconds(time, 167) if time else 2 * _HOUR)


UTC = Zone("UTC0")


class DayTimes:
    """Times of every day, as `01:00-05:00,22:30-00:30`: each from its first minute up to, and without, its last, in
    local time. None at all, an empty text, is falsy."""

    def __init__(self, text: str, zone: Zone = UTC) -> None:
        """Parse spans, separated by commas. Raises `ZoneError`."""
        self.zone = zone
        self._spans = tuple(_span(part.strip()) for part in text.split(",")) if text.strip() else ()

    def __bool__(self) -> bool:
        return bool(self._spans)

    def hold(self, instant: float) -> bool:
        """Return whether it is one of these times."""
        time = self.zone.local(int(instant // 1)) % _DAY
        return any(first <= time < last or time + _DAY < last for first, last in self._spans)

    def next_begin(self, instant: float) -> int | None:
        """Return the first instant after this one at which one of these times may begin; `None` for none at all."""
        return self._next(instant, [first for first, _ in self._spans])

    def next_end(self, instant: float) -> int | None:
        """Return the first instant after this one at which one of these times may end; `None` for none at all."""
        return self._next(instant, [last for _, last in self._spans])

    def _next(self, instant: float, times: list[int]) -> int | None:
        if not times:
            return None
        now = int(instant // 1)
        midnight = self.zone.local(now) // _DAY * _DAY
        found = [
            at for day in range(-1, 3) for time in times for at in self.zone.instants(midnight + day * _DAY + time)
        ]
        switch = self.zone.next_switch(now)  # which may leave out a beginning, or an end
        return min((at for at in (*found, *([switch] if switch else [])) if at > now), default=None)


def _span(text: str) -> tuple[int, int]:
    match = _SPAN.fullmatch(text)
    numbers = [int(number) for number in match.groups()] if match is not None else []
    if not numbers or numbers[0] > 23 or max(numbers[1], numbers[3]) > 59:
        raise ZoneError(f"{text!r}: times of a day as 22:30-05:00 expected")
    first, last = numbers[0] * _HOUR + numbers[1] * 60, numbers[2] * _HOUR + numbers[3] * 60
    if first == last or last > _DAY:
        raise ZoneError(f"{text!r}: no times of a day")
    return first, last if last > first else last + _DAY


NO_TIMES = DayTimes("")
