"""The run times of a reading task: periods, and calendars in local time. Sans-IO; pure functions of time.

A run is an instant, in whole seconds since the epoch, and names the slots of all meters that are read for it
(docs/collection.md). So both kinds say the same of any instant whenever, wherever and however often they are asked:
the device, which reads, and the head-end, which counts what is missing, share this module.

A calendar is five fields as of cron, `minute hour day-of-month month day-of-week`, in the local time of a zone:
`*`, numbers, ranges, lists, steps, names of months and days, and `L` for the last day of a month. As in cron, where
both kinds of days are restricted, either will do. Where clocks are set,

* a local time that does not exist is a run at the instant at which clocks that nobody has set would show it: 02:30
  becomes 03:30. A run at that instant, for whatever reason, is one run;
* a local time that exists twice is a run the first time. A calendar whose field of hours is all 24 runs both times,
  since what it wants is every hour and not that one.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from datetime import date
from functools import lru_cache
from typing import Protocol

from omadm.local_time import EPOCH_ORDINAL, LATEST, UTC, Zone

FIELDS_CHARS_MAX = 63  # with a zone, what a report of a gap may hold
HOUR_S, DAY_S = 3600, 86_400
GRID_S = 60  # calendar runs lie on whole minutes
SEARCH_DAYS = 9 * 366  # from 29 February 2096 it is eight years to the next one
DAYS_KEPT = 8

_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_WEEKDAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _WEEKDAYS),
)
_PART = re.compile(r"(\*|\w+(?:-\w+)?)(?:/(\d{1,2}))?")
LAST_DAY = 32  # among the days of a month


Range = tuple[int, int]  # first and last run, both included


class ScheduleError(ValueError):
    """The text says no run times."""


class Schedule(Protocol):
    """When the runs are. `every`, `phase` and `times` are what `schedule_of` makes the same one of."""

    @property
    def every(self) -> int: ...
    @property
    def phase(self) -> int: ...
    @property
    def times(self) -> str: ...

    def newest(self, wall: float) -> int:
        """The newest run that is not after `wall`; 0, or less, for none since 1970."""

    def next(self, wall: float) -> int:
        """The first run after `wall`."""

    def previous(self, run: int) -> int:
        """The run before `run`."""

    def between(self, first: int, last: int) -> Iterator[int]:
        """All runs from `first` to `last`, both included."""

    def count(self, first: int, last: int) -> int:
        """How many runs there are from `first` to `last`, both included."""


class Periodic:
    """A run every `every` seconds, at `phase` modulo `every`, counted from the epoch: all concentrators read at the
    same moments whenever they were started."""

    times = ""

    def __init__(self, every: int, phase: int = 0) -> None:
        self.every = every
        self.phase = phase

    def newest(self, wall: float) -> int:
        seconds = int(wall // 1)
        return seconds - (seconds - self.phase) % self.every

    def next(self, wall: float) -> int:
        return self.newest(wall) + self.every

    def previous(self, run: int) -> int:
        return self.newest(run - 1)

    def between(self, first: int, last: int) -> Iterator[int]:
        return iter(range(self.next(first - 1), last + 1, self.every))

    def count(self, first: int, last: int) -> int:
        return max(0, (self.newest(last) - self.newest(first - 1)) // self.every)


class Calendar:
    """Runs at the times that five fields as of cron name, in the local time of `zone`."""

    every, phase = GRID_S, 0

    def __init__(self, fields: str, zone: Zone = UTC) -> None:
        """Parse five fields. Raises `ScheduleError`, with the field that is wrong."""
        words = fields.split()
        if len(words) != len(_FIELDS) or len(fields) > FIELDS_CHARS_MAX:
            raise ScheduleError("five fields expected: minute, hour, day of month, month, day of week")
        minutes, hours, days, months, weekdays = (
            _numbers(word, *field) for word, field in zip(words, _FIELDS, strict=True)
        )
        self.fields = " ".join(words)
        self.zone = zone
        self.times = f"{self.fields} {zone.text}"
        self._times = tuple(hour * HOUR_S + minute * 60 for hour in sorted(hours) for minute in sorted(minutes))
        self._each_hour = len(hours) == 24
        self._months = months
        self._days, self._weekdays = days, {day % 7 for day in weekdays}
        self._either = words[2] != "*" and words[4] != "*"
        if not self._either and not any(_possible(day, month) for day in days for month in months):
            raise ScheduleError(f"{self.fields}: no such day in any year")
        self._near = (1, 0)  # two neighbouring runs
        self._kept: dict[int, tuple[int, ...]] = {}

    def newest(self, wall: float) -> int:
        instant = min(int(wall // 1), LATEST)
        low, high = self._near  # read once: another thread may replace the pair
        if not low <= instant < high:
            low, high = self._before(instant), self._after(instant)
            self._near = (low, high)
        return low

    def next(self, wall: float) -> int:
        instant = min(int(wall // 1), LATEST)
        low, high = self._near
        return high if low <= instant < high else self._after(instant)

    def previous(self, run: int) -> int:
        return self._before(min(run - 1, LATEST))

    def between(self, first: int, last: int) -> Iterator[int]:
        run = self._after(first - 1)
        while run <= last:
            yield run
            run = self._after(run)

    def count(self, first: int, last: int) -> int:
        begin, end = self._day(first), self._day(last)
        total, others = 0, set[int]()
        for day in range(begin - 2, end + 3):
            if begin + 2 <= day <= end - 2 and self._steady(day) is not None:
                total += len(self._times) if self._falls_on(day) else 0
            else:  # at the ends, and where two local times may be one run
                others.update(run for run in self._runs(day) if first <= run <= last)
        return total + len(others)

    # --- inside ---

    def _day(self, instant: int) -> int:
        """The number of the local day of an instant, since 1970."""
        return self.zone.local(instant) // DAY_S

    def _before(self, instant: int) -> int:
        day = self._day(instant)
        # A run of the day after may be before: clocks that are set back over midnight show that day first.
        for end in range(day + 1, max(0, day - SEARCH_DAYS), -3):
            before = [
                runs[at - 1] for runs in map(self._runs, range(end - 3, end + 1)) if (at := bisect(runs, instant))
            ]
            if before:
                return max(before)
        return 0

    def _after(self, instant: int) -> int:
        day = max(0, self._day(instant))
        for begin in range(day - 1, day + SEARCH_DAYS, 3):
            near = map(self._runs, range(begin, begin + 4))
            after = [runs[at] for runs in near if (at := bisect(runs, instant)) < len(runs)]
            if after:
                return min(after)
        raise ScheduleError(f"{self.times}: no run after {instant}")  # of what __init__ has let through there is one

    def _falls_on(self, day: int) -> bool:
        found = date.fromordinal(EPOCH_ORDINAL + day)
        if found.month not in self._months:
            return False
        last = LAST_DAY in self._days and found.day == calendar.monthrange(found.year, found.month)[1]
        of_month, of_week = last or found.day in self._days, found.isoweekday() % 7 in self._weekdays
        return of_month or of_week if self._either else of_month and of_week

    def _steady(self, day: int) -> int | None:
        """The offset from UTC that holds all over a local day, and some hours before and after."""
        midnight = day * DAY_S - self.zone.standard
        return self.zone.steady(midnight - DAY_S, midnight + 2 * DAY_S)

    def _runs(self, day: int) -> tuple[int, ...]:
        if day < 0 or not self._falls_on(day):
            return ()
        found = self._kept.get(day)
        if found is None:
            if len(self._kept) >= DAYS_KEPT:
                self._kept = {}
            found = self._kept[day] = self._reckoned(day)
        return found

    def _reckoned(self, day: int) -> tuple[int, ...]:
        offset = self._steady(day)
        if offset is not None:
            return tuple(day * DAY_S + time - offset for time in self._times)
        instants = (self.zone.instants(day * DAY_S + time) for time in self._times)
        return tuple(sorted({run for found in instants for run in (found if self._each_hour else found[:1])}))


@lru_cache(maxsize=64)
def schedule_of(every: int, phase: int = 0, times: str = "") -> Schedule:
    """Return the schedule of a task or a gap: `times` are the five fields of a calendar and its zone. Raises
    `ScheduleError` or `ZoneError`."""
    if not times:
        return Periodic(every, phase)
    fields, _, zone = times.rpartition(" ")
    return Calendar(fields, Zone(zone))


def same(one: Schedule, other: Schedule) -> bool:
    """Whether the runs of both are the same."""
    return (one.every, one.phase, one.times) == (other.every, other.phase, other.times)


def joined(ranges: Iterable[Range], schedule: Schedule) -> list[Range]:
    """The same runs in as few ranges as there can be, ascending."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= schedule.next(found[-1][1]):
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def without(ranges: Iterable[Range], taken: Iterable[Range], schedule: Schedule) -> list[Range]:
    """The runs of these ranges that are in none of `taken`, ascending."""
    gone = sorted(taken)
    found: list[Range] = []
    for first, last in sorted(ranges):
        for begin, end in gone:
            if end < first or begin > last:
                continue
            if begin > first:
                found.append((first, schedule.previous(begin)))
            if end >= last:  # not asked for the run behind it, which a range without an end does not have
                break
            first = schedule.next(end)
        else:
            if first <= last:
                found.append((first, last))
    return found


def _numbers(word: str, name: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for part in word.lower().split(","):
        if part == "l" and name == "day of month":
            found.add(LAST_DAY)
            continue
        match = _PART.fullmatch(part)
        if match is None:
            raise ScheduleError(f"{name}: {part!r} is no number, range or step")
        span, step = match.groups()
        first, _, last = span.partition("-")
        begin = low if span == "*" else _number(first, name, low, high, names)
        # As in cron, `5/15` goes on to the end of the range.
        end = high if span == "*" or (step and not last) else _number(last or first, name, low, high, names)
        if step == "0" or step == "00" or begin > end:
            raise ScheduleError(f"{name}: {part!r} names nothing")
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


def _number(text: str, name: str, low: int, high: int, names: dict[str, int]) -> int:
    number = names.get(text[:3], -1) if text.isalpha() else int(text) if text.isascii() and text.isdigit() else -1
    if not low <= number <= high:
        raise ScheduleError(f"{name}: {low} to {high} expected, not {text!r}")
    return number


def _possible(day: int, month: int) -> bool:
    return day == LAST_DAY or day <= (29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31)
