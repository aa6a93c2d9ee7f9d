"""A meter's clock is ahead for a while and put right, read by time: every row once, or it is said that one is not.

The meters do not tell their entries in use, so that nothing but the rows themselves tells what is not there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from dlms.cosem.profile import FIFO, LIFO
from dlms.cosem.time import ClockStatus, CosemDateTime
from tests.agent.metering.visit.profile_meters import LARGEST, MeterModel, Reader

HOUR, DAY = 3600, 86_400
START = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
AHEAD = START + 20 * HOUR + 300  # from then on the clock is ahead
NO_ENTRIES_IN_USE, NO_SIZE_EITHER = (7,), (7, 8)
NO_PERIOD_EITHER = (4, 7)  # an event log, as far as anybody can see


@dataclass(slots=True)
class MarkingMeter(MeterModel):
    """Marks its clock as doubtful for so long after `AHEAD`."""

    marks_s: float = 0.0

    def clock(self, at: float | None = None) -> CosemDateTime:
        moment = self.at if at is None else at
        clock = MeterModel.clock(self, at)
        marked = AHEAD < moment <= AHEAD + self.marks_s
        return replace(clock, status=int(ClockStatus.DOUBTFUL)) if marked else clock


def reader_of(ahead_s: float, for_s: float, *, trusted: bool, marked: bool = False, **options: object) -> Reader:
    """A meter that does not select by entry, whose clock is ahead by `ahead_s` for `for_s` seconds."""
    meter = MarkingMeter(
        START,
        offset_at=lambda at: 60 + round(ahead_s / 60) * (AHEAD < at <= AHEAD + for_s),
        by_entry=False,
        marks_s=for_s if marked else 0.0,
        **{"refused": NO_ENTRIES_IN_USE, **options},  # type: ignore[arg-type]
    )
    meter.live(10 * HOUR)
    return Reader(meter, first_s=30 * DAY, trusted=trusted)


def visit_until(reader: Reader, end: float, every_s: float, *, steps_max: int = 10_000) -> None:
    while reader.meter.at < end:
        reader.visit(steps_max=steps_max)
        reader.meter.live(every_s)
    for _ in range(10):
        reader.visit(steps_max=steps_max)


def check_each_once(reader: Reader) -> None:
    assert Counter(reader.held()) == Counter(reader.meter.history)
    assert (reader.missing, reader.error) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("every_h", [1, 3, 6, 7, 25])
@pytest.mark.parametrize("marked", [False, True], ids=["plausible", "marked"])
@pytest.mark.parametrize("trusted", [False, True], ids=["untrusted", "trusted"])
def test_no_row_is_lost_when_a_clock_that_was_ahead_is_put_right(every_h: int, *, trusted: bool, marked: bool) -> None:
    """The rows from that moment until an hour before the next visit are stamped before what was asked for."""
    for ahead_h in (1, 3, 26):
        for refused in (NO_ENTRIES_IN_USE, NO_SIZE_EITHER):
            for order in (FIFO, LIFO):
                options = {"refused": refused, "order": order}
                reader = reader_of(ahead_h * HOUR, 12 * HOUR, trusted=trusted, marked=marked, **options)
                visit_until(reader, AHEAD + 40 * HOUR, every_h * HOUR)
                check_each_once(reader)


@pytest.mark.parametrize("marked", [False, True], ids=["plausible", "marked"])
def test_no_row_is_lost_while_our_own_clock_is_not_trusted(*, marked: bool) -> None:
    reader = reader_of(3 * HOUR, 12 * HOUR, trusted=False, marked=marked)
    visit_until(reader, AHEAD + 40 * HOUR, 6 * HOUR)
    check_each_once(reader)


@pytest.mark.parametrize("stamps", ["local", "status", "deviation"])
@pytest.mark.parametrize("packing", ["answer", "buffer"])
def test_nor_of_packed_rows_nor_of_values_that_stay_the_same(stamps: str, packing: str) -> None:
    for constant in (False, True):
        reader = reader_of(3 * HOUR, 12 * HOUR, trusted=False, stamps=stamps, packing=packing, constant=constant)
        visit_until(reader, AHEAD + 40 * HOUR, 6 * HOUR)
        check_each_once(reader)


@pytest.mark.parametrize("trusted", [False, True], ids=["untrusted", "trusted"])
def test_nor_where_each_visit_is_cut_after_a_step(*, trusted: bool) -> None:
    for every_h in (1, 3, 5):
        reader = reader_of(3 * HOUR, 8 * HOUR, trusted=trusted)
        reader.visit()
        visit_until(reader, AHEAD + 40 * HOUR, every_h * HOUR, steps_max=1)
        check_each_once(reader)


def test_nor_after_an_absence_in_which_there_are_more_rows_than_are_asked_for_at_once() -> None:
    for days in (5, 30):
        reader = reader_of(3 * HOUR, 12 * HOUR, trusted=False)
        visit_until(reader, AHEAD + 12 * HOUR - 900, HOUR)
        reader.meter.live(days * DAY)
        visit_until(reader, reader.meter.at + 1, HOUR)
        check_each_once(reader)


@pytest.mark.parametrize("ahead_h", [3, 26, 200])
def test_nor_of_an_event_log(ahead_h: int) -> None:
    for every_h in (3, 7):
        reader = reader_of(ahead_h * HOUR, 5 * HOUR, trusted=False, refused=NO_PERIOD_EITHER)
        visit_until(reader, AHEAD + 40 * HOUR, every_h * HOUR)
        check_each_once(reader)


@pytest.mark.parametrize("steps_max", [1, 100])
def test_rows_too_far_back_to_be_looked_for_are_said_to_be_missing(steps_max: int) -> None:
    reader = reader_of(30 * DAY, 40 * HOUR, trusted=False)
    visit_until(reader, AHEAD + 40 * HOUR - 900, HOUR)
    reader.meter.live(25 * DAY)
    visit_until(reader, reader.meter.at + DAY, HOUR, steps_max=steps_max)
    lost = Counter(reader.meter.history) - Counter(reader.held())
    assert lost
    assert reader.missing
    assert not Counter(reader.held()) - Counter(reader.meter.history)


def test_in_a_sorted_buffer_it_is_said_that_rows_are_missing() -> None:
    reader = reader_of(3 * HOUR, 12 * HOUR, trusted=False, order=LARGEST)
    visit_until(reader, AHEAD + 40 * HOUR, 7 * HOUR)
    assert not Counter(reader.held()) - Counter(reader.meter.history)
    assert Counter(reader.meter.history) - Counter(reader.held())
    assert reader.missing


@pytest.mark.parametrize("by_h", [0, 0.25, 1])
def test_a_clock_that_is_set_back_by_little_costs_one_request_more(by_h: float) -> None:
    reader = reader_of(by_h * HOUR, 12 * HOUR, trusted=False)
    reader.visit()
    requests = []
    while reader.meter.at < AHEAD + 20 * HOUR:
        reader.meter.live(HOUR)
        reader.visit()
        requests.append(reader.requests)
    check_each_once(reader)
    assert sum(requests) <= len(requests) + 1
