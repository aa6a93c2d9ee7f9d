"""The core that reads profiles, over meters with a real buffer: steps, search, plausibility, what is relative."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import log2

import pytest

from agent.metering.visit.profile_catchup import STEP_ROWS_MAX, MeterFacts, ProfileReading
from agent.metering.visit.profile_position import (
    BASE_OCTETS_MAX,
    DOUBTFUL_KEPT,
    KEPT_ROWS,
    CapturedRow,
    ProfilePosition,
)
from agent.settings.reading_codes import RowSelection
from dlms import axdr
from dlms.axdr import Data, Tag
from dlms.cosem.profile import FIFO, LIFO, CaptureObject
from dlms.cosem.time import ClockPolicy, CosemDateTime
from dlms.xdlms.apdu.common import AccessError
from tests.agent.metering.visit.profile_meters import CLOCK, PROFILE, VALUE, MeterModel, Reader
from tests.dlms.random_data import random_data

HOUR, DAY = 3600, 86_400
START = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
WAYS = pytest.mark.parametrize("by_entry", [True, False], ids=["by entry", "by time"])
ALWAYS = 3650 * DAY


def meter_at(start: float = START, **options: object) -> MeterModel:
    return MeterModel(start, **options)  # type: ignore[arg-type]


def stamp(text: str) -> CosemDateTime:
    return CosemDateTime.of(text)


def local(clock: CosemDateTime | None) -> datetime:
    found = clock.local() if clock is not None else None
    assert found is not None
    return found


@WAYS
@pytest.mark.parametrize("packing", ["plain", "answer", "buffer"])
@pytest.mark.parametrize("constant", [False, True])
def test_packed_rows_are_the_register_s_values(packing: str, *, by_entry: bool, constant: bool) -> None:
    meter = meter_at(packing=packing, constant=constant, by_entry=by_entry)
    reader = Reader(meter, first_s=ALWAYS)
    meter.live(20 * HOUR)
    for gap_s in (900, 900, 2 * HOUR, 900, 30 * HOUR, 300, 900, 900):
        reader.visit()
        meter.live(gap_s)
    reader.visit()
    assert reader.held() == meter.history
    assert not any(row.doubt for row in reader.taken)


def example(sort: int, in_use: int | None, members: list[Data], one: Data) -> ProfileReading:
    """A visit of a meter that selects by time; asked for a single row, it gives `one`."""
    reading = ProfileReading(PROFILE, ProfilePosition(ranges_only=True))
    count = None if in_use is None else axdr.u32(in_use)
    captures = axdr.array([CLOCK.data(), VALUE.data()])
    reading.describe([captures, axdr.u32(900), axdr.enum(sort), count, None], MeterFacts(None, None))
    for answer in (members, [one], members):
        assert reading.next_item() is not None
        reading.answer(axdr.array(answer), 1.0)
    return reading


def quarter(minutes: int, cell: Data) -> Data:
    return axdr.structure(axdr.octets(stamp(f"2027-01-15 00:{minutes:02}").emit()), cell)


@pytest.mark.parametrize("sort", [FIFO, LIFO])
def test_the_example_of_a_delta_coded_column(sort: int) -> None:
    first, last = quarter(0, axdr.u32(123456)), quarter(30, axdr.u32(123461))
    minus_5 = Data(Tag.DELTA_INTEGER, -5)
    null = axdr.null()
    if sort == FIFO:
        rows = [first, axdr.structure(null, Data(31, 5)), axdr.structure(null, null)]
        reading = example(sort, None, rows, last)
    else:
        rows = [last, axdr.structure(null, null), axdr.structure(null, minus_5)]
        reading = example(sort, None, rows, first)
    assert not reading.error
    assert [row.cells[0][1] for row in reading.rows] == [axdr.u32(value) for value in (123456, 123461, 123461)]
    assert [str(CosemDateTime.parse(row.clock))[11:16] for row in reading.rows] == ["00:00", "00:15", "00:30"]
    assert reading.position.packing == "answer"


@pytest.mark.parametrize("asked_alone", [quarter(30, Data(31, 5)), quarter(30, axdr.u32(4711)), None])
def test_rows_whose_meter_leaves_rows_out_between_them_are_not_added_up(asked_alone: Data | None) -> None:
    rows = [quarter(0, axdr.u32(123456)), quarter(30, Data(31, 5))]
    reading = example(FIFO, 5000, rows, asked_alone or axdr.structure(axdr.null(), axdr.null()))
    assert (reading.rows, reading.error) == ([], "rows-unresolved")


@WAYS
def test_a_cell_relative_to_a_row_that_nobody_knows_is_asked_for_with_what_it_is_relative_to(*, by_entry: bool) -> None:
    meter = meter_at(packing="buffer", by_entry=by_entry)
    meter.live(5 * HOUR)
    known = meter.rows[9][0].octets()
    reader = Reader(meter, stored=json.dumps({"clock": known.hex()}))
    reader.visit()
    assert reader.held() == meter.history[10:]


@WAYS
@pytest.mark.slow
def test_rows_relative_to_one_too_far_back_are_not_guessed_and_it_is_said(*, by_entry: bool) -> None:
    meter = meter_at(packing="buffer", by_entry=by_entry, size=5000)
    meter.live(45 * DAY)
    reader = Reader(meter)
    for _ in range(3):
        assert reader.visit() == []
        assert reader.error == "rows-unresolved"
        assert reader.requests <= 3
        meter.live(HOUR)


@WAYS
def test_a_place_of_the_first_version_goes_on_behind_the_first_row_with_its_time(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry)
    for at in ("02:15", "02:30", "02:45", "02:00", "02:15", "02:30", "02:45", "03:00"):
        meter.capture(stamp(f"2026-10-25 {at}"))
    meter.at = datetime(2026, 10, 25, 2, 5, tzinfo=UTC).timestamp()
    reader = Reader(meter, stored=json.dumps({"clock": meter.rows[0][0].octets().hex()}))
    reader.visit()
    assert reader.values() == [2, 3, 4, 5, 6, 7, 8]
    reader.visit()
    assert len(reader.taken) == 7


# --- bounded work ---


@pytest.mark.parametrize(("by_entry", "size"), [(True, 4000), (True, 300), (False, 1000), (False, 300)])
@pytest.mark.parametrize("days", [3, 60, 700])
def test_a_meter_without_power_for_long_takes_few_requests(days: int, size: int, *, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry, size=size)
    reader = Reader(meter, first_s=30 * DAY)
    meter.live(5 * DAY)
    reader.visit()
    meter.live(days * DAY, off=True)
    meter.live(6 * HOUR)
    reader.visit()
    assert reader.held() == meter.history[-len(reader.taken) :]
    assert len(reader.taken) == min(size, 5 * 96) + 24
    windows = days * 96 / 48  # of the first size, that the empty time has
    assert reader.requests <= (log2(size) + 3 if by_entry else log2(windows) + windows / 64 + 7)


@WAYS
@pytest.mark.parametrize("days", [30, 90])
@pytest.mark.slow
def test_a_meter_that_was_out_of_reach_for_long_is_made_up_in_steps(days: int, *, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry, size=4000)
    reader = Reader(meter)
    meter.live(DAY + HOUR)
    reader.visit()
    before = len(reader.taken)
    meter.live(days * DAY)
    held = min(4000, days * 96)
    reader.took_s = 1.0
    reader.visit()
    assert len(reader.taken) == before + held
    assert [value for _, value in reader.held()[before:]] == [value for _, value in meter.history[-held:]]
    assert reader.requests <= held / STEP_ROWS_MAX + 10 + (log2(4000) if by_entry else days * 2 / 64 + 8)


@WAYS
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("packing", ["plain", "answer"])
@pytest.mark.slow
def test_a_visit_cut_after_any_step_goes_on_there(steps: int, packing: str, *, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry, packing=packing, size=1500)
    reader = Reader(meter, first_s=11 * DAY)
    meter.live(10 * DAY)
    for _ in range(60):
        reader.visit(steps_max=steps)
    assert reader.held() == meter.history
    meter.live(3 * DAY)
    for _ in range(60):
        reader.visit(steps_max=steps)
        meter.live(100)
    assert reader.held() == meter.history


@WAYS
@pytest.mark.slow
def test_a_hole_of_months_is_crossed_also_one_step_per_visit(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry)
    reader = Reader(meter, first_s=2 * DAY)
    meter.live(DAY)
    for _ in range(20):
        reader.visit(steps_max=1)
    meter.live(100 * DAY, off=True)
    meter.live(DAY)
    for _ in range(260):
        reader.visit(steps_max=100 if by_entry else 1)
    assert reader.held() == meter.history


@WAYS
def test_without_any_clock_that_can_be_trusted_few_requests_are_made(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry)
    meter.live(20 * DAY)
    reader = Reader(meter, trusted=False)
    reader.visit()
    assert reader.held() == meter.history[-97:]
    assert reader.requests <= 4
    meter.live(2 * DAY, off=True)
    unknown = Reader(meter, trusted=False)
    unknown.meter = meter_at(0.0, by_entry=by_entry)
    unknown.meter.profile.rows += meter.rows
    unknown.visit()
    assert unknown.requests <= 4, "the meter says 1970 as well"


def test_slow_answers_make_steps_shorter_and_quick_ones_longer() -> None:
    meter = meter_at()
    meter.live(10 * DAY)
    slow, quick = Reader(meter, first_s=ALWAYS, took_s=60.0), Reader(meter, first_s=ALWAYS, took_s=0.5)
    slow.visit()
    quick.visit()
    assert slow.held() == quick.held() == meter.history
    assert slow.requests > 960 / 8
    assert quick.requests <= 6


@pytest.mark.parametrize("refused", [(7,), (8,), (5,), (4,), (4, 5, 7, 8)])
def test_a_meter_that_tells_less_is_read_all_the_same(refused: tuple[int, ...]) -> None:
    for size in (4000, 120):
        meter = meter_at(refused=refused, size=size)
        reader = Reader(meter, first_s=ALWAYS)
        for _ in range(12):
            meter.live(5 * HOUR)
            reader.visit()
        assert reader.held() == meter.history


def test_rows_that_left_the_buffer_before_a_visit_are_missing_and_none_is_there_twice() -> None:
    for by_entry in (True, False):
        meter = meter_at(size=50, by_entry=by_entry)
        reader = Reader(meter, first_s=ALWAYS)
        meter.live(10 * HOUR)
        reader.visit()
        meter.live(30 * HOUR)
        reader.visit()
        assert reader.held() == meter.history[:40] + meter.history[-50:]


def test_a_buffer_that_was_cleared_is_read_from_its_new_beginning() -> None:
    for by_entry in (True, False):
        meter = meter_at(by_entry=by_entry)
        reader = Reader(meter, first_s=ALWAYS)
        meter.live(10 * HOUR)
        reader.visit()
        meter.rows.clear()
        meter.live(30 * HOUR)
        reader.visit()
        assert reader.held() == meter.history


@WAYS
def test_a_long_event_log_is_begun_where_a_first_visit_should(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry, period_s=1800)
    meter.live(80 * DAY)
    meter.profile.item.readers[4] = lambda _selection: axdr.u32(0)
    reader = Reader(meter)
    reader.visit()
    assert reader.held() == meter.history[-49:]
    assert reader.requests <= log2(4000) + 3
    for gap_s in (2 * HOUR, 600, 30 * HOUR):
        meter.live(gap_s)
        reader.visit()
        assert reader.requests <= 3
    assert reader.held() == meter.history[-len(reader.taken) :]


# --- plausibility ---


@WAYS
def test_a_row_of_the_future_is_kept_and_marked_and_stops_nothing(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry)
    reader = Reader(meter, first_s=ALWAYS)
    meter.live(5 * HOUR)
    reader.visit()
    meter.capture(stamp("2028-06-01 00:00"))
    for _ in range(8):
        meter.live(900)
        reader.visit()
    assert reader.held() == meter.history
    doubtful = [(row.doubt, reader.held()[at][1]) for at, row in enumerate(reader.taken) if row.doubt]
    assert doubtful == [("ahead", 21)]
    assert reader.turns == 2
    assert (
        ProfilePosition.load(json.loads(reader.stored)).local == CosemDateTime.parse(meter.rows[-1][0].octets()).local()
    )


def test_a_row_whose_clock_was_lost_is_kept_and_marked() -> None:
    for lost in ("2000-01-01 00:00", "1970-01-01 00:00"):
        meter = meter_at()
        reader = Reader(meter, first_s=ALWAYS)
        meter.live(5 * HOUR)
        reader.visit()
        meter.capture(stamp(lost))
        meter.live(HOUR)
        reader.visit()
        meter.live(HOUR)
        reader.visit()
        assert reader.held() == meter.history
        assert [row.doubt for row in reader.taken if row.doubt] == ["off-sequence"]


def test_a_leap_ahead_that_the_next_row_takes_back_is_no_progress() -> None:
    meter = meter_at()
    reader = Reader(meter, first_s=ALWAYS)
    meter.live(5 * DAY)
    reader.visit()
    meter.capture(stamp("2027-03-01 00:00"))
    meter.live(HOUR)
    meter.live(60 * DAY, off=True)
    meter.live(HOUR)
    reader.visit()
    assert reader.held() == meter.history
    assert [row.doubt for row in reader.taken if row.doubt] == ["off-sequence"]


@WAYS
def test_a_place_in_the_future_heals(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry)
    meter.live(5 * DAY)
    reader = Reader(meter, stored=json.dumps({"clock": stamp("2028-06-01 00:00").emit().hex()}))
    reader.visit()
    assert reader.held() == meter.history[-97:]
    meter.live(HOUR)
    reader.visit()
    assert reader.held() == meter.history[-101:]


@WAYS
@pytest.mark.parametrize("trusted", [True, False])
def test_a_meter_whose_clock_was_a_year_ahead_and_is_set_right(trusted: bool, *, by_entry: bool) -> None:
    wrong = [True]
    meter = meter_at(by_entry=by_entry, offset_at=lambda _at: 60 + 365 * 24 * 60 * wrong[0])
    reader = Reader(meter, first_s=ALWAYS, trusted=trusted)
    for _ in range(10):
        meter.live(900)
        reader.visit()
    wrong[0] = False
    for _ in range(10):
        meter.live(900)
        reader.visit()
    assert reader.held() == meter.history
    assert [bool(row.doubt) for row in reader.taken] == [trusted] * 10 + [False] * 10


def test_more_rows_of_the_future_than_are_remembered_are_not_taken_again_by_number() -> None:
    meter = meter_at()
    reader = Reader(meter, first_s=ALWAYS)
    meter.live(5 * HOUR)
    for minute in range(DOUBTFUL_KEPT + 20):
        meter.capture(stamp(f"2028-06-01 {minute // 60:02}:{minute % 60:02}"))
    for _ in range(4):
        meter.live(900)
        reader.visit()
    assert reader.held() == meter.history


@WAYS
@pytest.mark.parametrize("deviation", [720, -720, 5000, -5000])
def test_a_deviation_that_cannot_be_right_is_doubted_and_stops_nothing(deviation: int, *, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry, stamps="deviation")
    reader = Reader(meter, first_s=ALWAYS)
    meter.live(5 * HOUR)
    reader.visit()
    meter.capture(replace(meter.clock(), deviation=deviation))
    for _ in range(30):
        meter.live(HOUR)
        reader.visit()
    assert reader.held() == meter.history
    assert [row.doubt for row in reader.taken if row.doubt] == ["deviation"]


@WAYS
def test_a_place_with_a_deviation_that_cannot_be_right_heals(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry, stamps="deviation")
    meter.live(5 * HOUR)
    reader = Reader(meter, first_s=ALWAYS)
    reader.visit()
    stored = json.loads(reader.stored)
    wrong = replace(CosemDateTime.parse(bytes.fromhex(stored["clock"])), deviation=720).emit().hex()
    reader.stored = json.dumps(stored | {"clock": wrong, "searched": wrong})
    meter.live(HOUR)
    reader.visit()
    assert reader.held() == meter.history


@WAYS
@pytest.mark.parametrize("status", [1, 2, 3])
def test_rows_that_the_meter_doubts_itself_are_marked_and_each_there_once(status: int, *, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry, stamps="deviation")
    reader = Reader(meter, first_s=ALWAYS)
    meter.live(5 * HOUR)
    reader.visit()
    place = json.loads(reader.stored)["clock"]
    for _ in range(300):
        meter.at += 900
        meter.capture(replace(meter.clock(), status=status))
        if len(meter.history) % 3 == 0:
            reader.visit()
    reader.visit()
    assert json.loads(reader.stored)["clock"] == place
    meter.live(HOUR)
    reader.visit()
    assert reader.held() == meter.history
    assert Counter(row.doubt for row in reader.taken) == {"clock-status": 300, "": 24}


@pytest.mark.parametrize("odd", ["1970-01-01 00:00", "2000-01-01 05:00", "2027-01-14 01:00", "2106-01-01 00:00"])
@pytest.mark.parametrize("order", [FIFO, LIFO])
def test_rows_stamped_anywhere_are_found_by_their_count_where_rows_are_chosen_by_time(odd: str, order: int) -> None:
    meter = meter_at(by_entry=False, order=order)
    reader = Reader(meter, first_s=ALWAYS)
    meter.live(26 * HOUR)
    reader.visit()
    for _ in range(3):
        meter.capture(stamp(odd))
    meter.live(HOUR)
    for _ in range(3):
        reader.visit()
        meter.live(HOUR)
    assert Counter(reader.held()) == Counter(meter.history[:-4])
    assert (reader.missing, reader.requests) == (0, 1)
    assert Counter(row.doubt for row in reader.taken)[""] == len(reader.taken) - 3


def test_rows_stamped_elsewhere_in_a_buffer_too_large_to_read_are_said_to_be_missing_once() -> None:
    meter = meter_at(by_entry=False)
    meter.live(20 * DAY)
    reader = Reader(meter)
    reader.visit()
    for _ in range(3):
        meter.capture(stamp("2000-01-01 05:00"))
    for _ in range(3):
        meter.live(HOUR)
        reader.visit()
        assert reader.missing == 3
    assert reader.requests == 1


@pytest.mark.parametrize(
    ("rows", "packing", "status"),
    [(3, "plain", 255), (3, "answer", 255), (3, "plain", 1), (DOUBTFUL_KEPT + 20, "plain", 255)],
)
@pytest.mark.parametrize("odd", ["2028-06-01 00:00", "2027-01-29 00:07"])
@pytest.mark.slow
def test_rows_stamped_ahead_among_many_to_be_made_up_are_taken_once_and_marked(
    odd: str, rows: int, packing: str, status: int
) -> None:
    """No window of time before now has them, and those that have them begin with rows that are known. The buffer is
    too large to be read as a whole, and each visit ends long before the rows do."""
    meter = meter_at(by_entry=False, packing=packing)
    reader = Reader(meter, first_s=11 * DAY)
    meter.live(10 * DAY)
    for _ in range(8):
        reader.visit(steps_max=1)
    for minute in range(rows):
        clock = stamp(odd).later(60 * minute)
        assert clock is not None
        meter.capture(replace(clock, status=status))
    meter.live(7 * DAY)
    places = []
    for _ in range(30):
        reader.visit(steps_max=1)
        meter.live(100)
        places.append(local(CosemDateTime.parse(bytes.fromhex(json.loads(reader.stored)["clock"]))))
    reader.visit()
    assert Counter(reader.held()) == Counter(meter.history)
    assert reader.missing == 0
    assert places == sorted(places)
    assert places[-1] <= local(meter.clock())
    assert Counter(bool(row.doubt) for row in reader.taken)[True] == rows


@pytest.mark.slow
def test_rows_that_were_plausible_when_nobody_knew_better_do_not_come_again_as_rows_stamped_ahead() -> None:
    """A meter's clock was a year ahead while ours could not be trusted, for more rows than are remembered."""
    wrong = [True]
    meter = meter_at(by_entry=False, offset_at=lambda _at: 60 + 365 * 24 * 60 * wrong[0])
    reader = Reader(meter, first_s=ALWAYS, trusted=False)
    for _ in range(12):
        meter.live(6 * HOUR)
        reader.visit()
    wrong[0], reader.trusted = False, True
    for _ in range(12):
        meter.live(6 * HOUR)
        reader.visit(steps_max=3)
    meter.live(5 * DAY)
    reader.visit()
    assert Counter(reader.held()) == Counter(meter.history)
    assert reader.missing == 0


@pytest.mark.slow
def test_in_an_answer_without_a_known_row_those_of_a_clock_that_was_ahead_are_told_from_new_ones() -> None:
    """The meter does not count its rows, and was without power where the last window begins."""
    wrong = [True]
    meter = meter_at(by_entry=False, refused=(7,), offset_at=lambda _at: 60 + 365 * 24 * 60 * wrong[0])
    reader = Reader(meter, first_s=ALWAYS, trusted=False)
    for _ in range(12):
        meter.live(6 * HOUR)
        reader.visit()
    wrong[0], reader.trusted = False, True
    for _ in range(20):
        meter.live(900)
        reader.visit()
        meter.live(6 * HOUR)
    for minute in range(3):
        meter.capture(stamp(f"2028-06-01 00:0{minute}"))
    meter.live(3 * DAY, off=True)
    for _ in range(3):
        meter.live(2 * HOUR)
        reader.visit()
    assert Counter(reader.held()) == Counter(meter.history)
    assert [row.doubt for row in reader.taken if row.doubt] == ["ahead"] * 3


@WAYS
def test_a_doubtful_row_is_no_sign_of_the_end_of_a_selection(*, by_entry: bool) -> None:
    meter = meter_at(by_entry=by_entry)
    end = datetime(2027, 1, 15, 22)  # noqa: DTZ001 - the meter's clock
    reader = Reader(meter, selected=RowSelection(first=datetime(2027, 1, 15, 2), end=end))  # noqa: DTZ001
    meter.live(11 * HOUR)
    reader.visit()
    meter.capture(stamp("2028-01-01 00:00"))
    for _ in range(20):
        meter.live(HOUR)
        reader.visit()
    wanted = meter.history[3:85]
    assert reader.held() == wanted
    assert [row.doubt for row in reader.taken if row.doubt] == ["ahead"]


# --- times that repeat ---


@pytest.mark.parametrize("stamps", ["local", "status"])
def test_local_times_that_repeat_without_a_word_of_it_stand_for_no_instant(stamps: str) -> None:
    change = START + 5 * HOUR
    meter = meter_at(offset_at=lambda at: 120 if at < change else 60, summer_at=lambda at: at < change, stamps=stamps)
    reader = Reader(meter, ClockPolicy(utc_offset_minutes=60), first_s=ALWAYS)
    for _ in range(10):
        meter.live(HOUR)
        reader.visit()
    assert reader.held() == meter.history
    assert [row.repeated for row in reader.taken] == [stamps == "local" and 19 <= at < 23 for at in range(40)]


# --- what a meter may say ---


def described(
    columns: Sequence[CaptureObject] = (CLOCK, VALUE), position: ProfilePosition | None = None
) -> ProfileReading:
    reading = ProfileReading(PROFILE, position or ProfilePosition())
    captures = axdr.array([column.data() for column in columns])
    reading.describe([captures, axdr.u32(900), axdr.enum(1), axdr.u32(5), axdr.u32(9)], MeterFacts(None, None))
    return reading


ODD = [
    axdr.u8(1),
    axdr.array([axdr.u8(1)]),
    axdr.array([axdr.structure(axdr.octets(b"x" * 12))]),
    axdr.array([axdr.structure(axdr.octets(b"short"), axdr.u32(1))]),
    axdr.array([axdr.structure(axdr.u32(1), axdr.u32(1))]),
    AccessError(1),
    AccessError(11),
]


@pytest.mark.parametrize("answer", ODD)
def test_an_answer_that_is_no_profile_is_an_error_and_moves_nothing(answer: Data | AccessError) -> None:
    position = ProfilePosition(clock=stamp("2027-01-15 00:00").emit())
    before = position.dump()
    reading = described(position=position)
    assert reading.next_item() is not None
    reading.answer(answer, 1.0)
    assert reading.error
    assert reading.rows == []
    assert position.dump() == before
    assert reading.next_item() is None


@pytest.mark.parametrize(("columns", "why"), [((VALUE,), "no-clock-column"), ((), "not-a-profile")])
def test_a_profile_without_a_clock_cannot_be_read_by_time(columns: tuple[CaptureObject, ...], why: str) -> None:
    reading = described(columns)
    assert reading.error == why
    assert reading.next_item() is None


def odd_row(chance: random.Random) -> Data:
    when = CosemDateTime(
        chance.choice((0, 1, 1970, 2027, 2028, 9999, 0xFFFF)), *[chance.choice((1, 2, 12, 0xFF)) for _ in range(7)]
    )
    clock = chance.choice((axdr.octets(when.emit()), axdr.null(), axdr.octets(b"no time"), axdr.u8(1)))
    return axdr.structure(clock, random_data(chance))


def test_whatever_a_meter_answers_a_visit_comes_to_its_end() -> None:
    chance = random.Random(11)
    numbers = [None, axdr.u32(0), axdr.u32(1), axdr.u32(900), axdr.u32(4000), axdr.i8(-1), axdr.null()]
    for _ in range(400):
        position = ProfilePosition.load(
            {"clock": odd_row(chance).members()[0].emit()[2:].hex(), "entry": chance.randrange(9)}
        )
        reading = ProfileReading(PROFILE, position)
        clock = CosemDateTime(chance.choice((1, 1970, 2027, 9999)), 12, 31, 255, 23, 59, 59, 0)
        now = datetime(2027, 1, 15, tzinfo=UTC) if chance.random() < 0.5 else None
        captures = axdr.array([CLOCK.data(), VALUE.data()])
        reading.describe([captures, *chance.choices(numbers, k=4)], MeterFacts(clock, now))
        for _step in range(3000):
            if reading.next_item() is None:
                break
            rows = axdr.array([odd_row(chance) for _ in range(chance.randrange(6))])
            answer = AccessError(chance.randrange(12)) if chance.random() < 0.05 else rows
            reading.answer(answer, chance.choice((0.1, 6.0, 60.0)))
        else:
            raise AssertionError("no end")
        assert ProfilePosition.load(json.loads(json.dumps(position.dump()))).dump()


@pytest.mark.slow
def test_a_place_goes_through_json_and_damage_costs_the_damaged_part() -> None:
    meter = meter_at()
    meter.live(5 * DAY)
    reader = Reader(meter)
    reader.visit()
    dumped = json.loads(reader.stored)
    assert ProfilePosition.load(dumped).dump() == dumped
    assert len(ProfilePosition.load(dumped).digests) in KEPT_ROWS
    chance = random.Random(4)
    odd: list[object] = [
        None,
        7,
        -1,
        "",
        "0",
        "zz",
        "00",
        "07eb",
        True,
        [],
        {},
        "02ff",
        "0c" * 12,
        "f" * 24,
        "00" * 5000,
    ]
    for _ in range(2000):
        broken = {name: chance.choice(odd) if chance.random() < 0.3 else value for name, value in dumped.items()}
        position = ProfilePosition.load(broken)
        assert ProfilePosition.load(position.dump()).dump() == position.dump()
        fresh = Reader(meter, stored=json.dumps(broken))
        if chance.random() < 0.05:
            fresh.visit()
            assert not fresh.error


def test_a_row_too_long_to_be_kept_is_only_known_by_its_digest() -> None:
    row = CapturedRow.of(
        (axdr.octets(stamp("2027-01-15 00:00").emit()), axdr.octets(bytes(BASE_OCTETS_MAX))), (CLOCK, VALUE)
    )
    position = ProfilePosition()
    position.note([row], 900)
    assert ProfilePosition.load(position.dump()).base == ()
    assert ProfilePosition.load(position.dump()).digests == [row.digest]
