"""Objects of a meter that do something: clock, profile, contactor, scripts, schedule, limiter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject, by_entry
from dlms.cosem.time import CosemDateTime
from dlms.server.clock import ClockObject
from dlms.server.control import (
    CONTROL_MODES,
    ControlEvent,
    ControlState,
    DisconnectControl,
    Limiter,
    ScriptTable,
    SingleActionSchedule,
    action,
    script,
)
from dlms.server.objects import CosemObject
from dlms.server.profile import ProfileObject
from dlms.server.server import MeterServer
from dlms.xdlms.apdu.common import NO_PARAMETER, AccessError, ActionOutcome, Item
from tests.dlms.server.test_server import CODE, Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCRIPTS = Obis.parse("0.0.10.0.106.255")
CONTACTOR = "0.0.96.3.10.255"
CLOCK = CaptureObject(AttributeRef(8, CLOCK_OBIS, 2))


def value(item: CosemObject, attribute: int, selection: Selection | None = None) -> object:
    result = item.get(attribute, selection)
    return result.value if isinstance(result, Data) else DataAccessResult(result.code).text


def called(item: CosemObject, method: int, parameters: Data | None = NO_PARAMETER) -> str:
    return ActionResult(item.act(method, parameters).code).text


# ------------------------------------------------------------------------------------------------------- the clock


def clock_at(moment: datetime) -> ClockObject:
    return ClockObject(lambda: moment)


@pytest.mark.parametrize(
    ("method", "moment", "expected"),
    [
        (1, "12:07:29", "12:00:00"), (1, "12:07:31", "12:15:00"), (2, "12:08:00", "12:15:00"),
        (3, "12:07:29", "12:07:00"), (3, "12:07:30", "12:08:00"), (3, "23:59:45", "00:00:00"),
    ],
)  # fmt: skip
def test_the_clock_goes_to_the_nearest_quarter_period_or_minute(method: int, moment: str, expected: str) -> None:
    clock = clock_at(datetime.fromisoformat(f"2026-03-01 {moment}+00:00"))
    assert called(clock.item, method) == "success"
    assert f"{clock.time():%H:%M:%S}" == expected


def test_the_clock_is_preset_once_and_only_inside_its_interval() -> None:
    clock = clock_at(NOON)
    assert called(clock.item, 4) == "read-write-denied"
    to = NOON + timedelta(days=400)
    for first, last, outcome in ((1, 2, "read-write-denied"), (-1, 1, "success"), (-1, 1, "success")):
        times = [to, NOON + timedelta(hours=first), NOON + timedelta(hours=last)]
        preset = axdr.structure(*[axdr.octets(CosemDateTime.from_datetime(time).emit()) for time in times])
        assert called(clock.item, 5, preset) == "success"
        clock.offset = timedelta(0)
        assert called(clock.item, 4) == outcome
    assert clock.time() == to
    assert called(clock.item, 4) == "read-write-denied"
    assert called(clock.item, 5, axdr.structure(axdr.octets(bytes(12)))) == "type-unmatched"


@pytest.mark.parametrize("seconds", [axdr.i64(2**62), axdr.i64(-(2**62)), axdr.i16(901), axdr.i32(-901)])
def test_a_clock_that_is_shifted_out_of_this_world_stays(seconds: Data) -> None:
    clock = clock_at(NOON)
    assert called(clock.item, 6, seconds) == "read-write-denied"
    assert called(clock.item, 6, axdr.octets(b"")) == "type-unmatched"
    assert called(clock.item, 6, axdr.i16(-900)) == "success"
    assert clock.time() == NOON - timedelta(seconds=900)


@pytest.mark.parametrize("year", [1, 1969, 2200, 9999])
def test_a_clock_is_not_set_to_a_year_that_breaks_it_later(year: int) -> None:
    clock = clock_at(NOON)
    when = CosemDateTime(year, 12, 31, 0xFF, 23, 59, 59, 0, 0, 0).emit()
    assert clock.item.set(2, axdr.octets(when)) is DataAccessResult.OTHER_REASON
    assert clock.item.set(2, axdr.octets(bytes(11))) is DataAccessResult.TYPE_UNMATCHED
    assert clock.time() == NOON


def test_whoever_keeps_the_log_is_told_of_an_adjusted_clock() -> None:
    seen: list[tuple[datetime, datetime]] = []
    clock = ClockObject(lambda: NOON, adjusted=lambda before, after: seen.append((before, after)))
    clock.item.act(6, axdr.i16(30))
    assert seen == [(NOON, NOON + timedelta(seconds=30))]
    numbers = range(1, 10)
    assert all(isinstance(clock.item.get(number, None), Data) for number in numbers)


# ----------------------------------------------------------------------------------------------------- the profile


def profile() -> ProfileObject:
    columns = [
        CaptureObject(AttributeRef(8, CLOCK_OBIS, 2)),
        *(CaptureObject(AttributeRef(3, CODE, 2), at) for at in (1, 2)),
    ]
    made = ProfileObject(CODE, columns, sample=lambda: [axdr.null(), axdr.u8(9), axdr.u8(9)])
    for at in range(4):
        when = CosemDateTime.from_datetime(NOON + timedelta(minutes=15 * at)).emit()
        made.capture([axdr.octets(when), axdr.u8(at), axdr.u8(10 * at)])
    return made


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ((1, 0, 2, 3), [[0, 0], [1, 10], [2, 20], [3, 30]]),
        ((2, 3, 2, 2), [[1], [2]]),
        ((4, 9, 3, 9), [[30]]),
        ((0, 1, 3, 0), [[0]]),
        ((5, 0, 1, 0), []),
        ((3, 2, 2, 2), []),
        ((1, 1, 4, 4), [[]]),
        ((1, 1, 3, 2), [[]]),
    ],
)  # fmt: skip
def test_rows_and_columns_are_chosen_by_entry(chosen: tuple[int, int, int, int], expected: list[list[int]]) -> None:
    result = profile().item.get(2, by_entry(*chosen))
    assert isinstance(result, Data)
    assert [[cell.value for cell in row.members()] for row in result.members()] == expected


def test_columns_are_chosen_by_name_in_a_range_too() -> None:
    made = profile()
    clock, first, second = made.columns
    low, high = (axdr.octets(CosemDateTime.from_datetime(NOON + timedelta(minutes=at)).emit()) for at in (15, 30))
    wanted = axdr.array([second.data(), first.data()])
    result = made.item.get(2, Selection(1, axdr.structure(clock.data(), low, high, wanted)))
    assert isinstance(result, Data)
    assert [[cell.value for cell in row.members()] for row in result.members()] == [[10, 1], [20, 2]]
    by_value = made.item.get(2, Selection(1, axdr.structure(first.data(), axdr.u8(3), axdr.u8(9), axdr.array([]))))
    assert isinstance(by_value, Data)
    assert len(by_value.members()) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        axdr.u8(1),
        axdr.structure(axdr.u8(1)),
        axdr.structure(*[axdr.octets(b"x")] * 4),
        axdr.structure(CaptureObject(AttributeRef(1, CODE, 2)).data(), axdr.u8(1), axdr.u8(2), axdr.array([])),
        axdr.structure(CLOCK.data(), axdr.octets(b""), axdr.null(), axdr.null()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("selector", [1, 2, 3])
def test_a_selection_that_makes_no_sense_is_refused(selector: int, parameters: Data) -> None:
    assert profile().item.get(2, Selection(selector, parameters)) == AccessError(DataAccessResult.TYPE_UNMATCHED)


def test_negative_entries_select_like_zero() -> None:
    parameters = axdr.structure(axdr.i8(-1), axdr.i8(-1), axdr.i8(-1), axdr.i8(-1))
    result = profile().item.get(2, Selection(2, parameters))
    assert isinstance(result, Data)
    assert len(result.members()) == 4


def test_a_profile_is_captured_and_reset_by_its_methods() -> None:
    made = profile()
    assert called(made.item, 2) == "success"
    assert value(made.item, 7) == 5
    assert called(made.item, 1) == "success"
    assert value(made.item, 7) == 0
    assert called(ProfileObject(CODE, made.columns).item, 2) == "read-write-denied"


# --------------------------------------------------------------------------------------------------- the contactor


@pytest.mark.parametrize("step", list(ControlEvent))
@pytest.mark.parametrize("state", list(ControlState))
@pytest.mark.parametrize("mode", sorted(CONTROL_MODES))
def test_every_triple_of_the_contactor(mode: int, state: ControlState, step: ControlEvent) -> None:
    told: list[bool] = []
    contactor = DisconnectControl(switched=told.append, mode=mode)
    contactor._state = state
    following = CONTROL_MODES[mode].get((state, step))
    outcome = contactor.switch(step)
    if following is None:
        assert contactor.state is state
        assert not told
    else:
        assert outcome.code == 0
        assert contactor.state is following
        changes = (state is ControlState.CONNECTED) != (following is ControlState.CONNECTED)
        assert told == ([following is ControlState.CONNECTED] if changes else [])


def test_modes_differ_as_the_standard_says() -> None:
    """BB 4.5.8, table of the modes: who may do what."""
    may = {
        mode: {
            step.name.lower()
            for (_state, step) in table
        }
        for mode, table in CONTROL_MODES.items()
    }  # fmt: skip
    remote = {"remote_disconnect", "remote_reconnect", "manual_reconnect", "local_disconnect"}
    assert may == {
        0: set(),
        1: remote | {"manual_disconnect"},
        2: remote | {"manual_disconnect"},
        3: remote,
        4: remote,
        5: remote | {"manual_disconnect", "local_reconnect"},
        6: remote | {"local_reconnect"},
    }
    at_once = {mode for mode, table in CONTROL_MODES.items() if ControlState.CONNECTED in {
        to for (_state, step), to in table.items() if step is ControlEvent.REMOTE_RECONNECT}}  # fmt: skip
    assert at_once == {2, 4}


def test_what_is_wanted_already_succeeds_and_what_the_mode_has_not_is_denied() -> None:
    contactor = DisconnectControl(mode=1)
    assert called(contactor.item, 2) == "success"
    assert called(contactor.item, 1) == "success"
    assert called(contactor.item, 1) == "success"
    assert called(contactor.item, 2) == "success"
    assert (value(contactor.item, 2), value(contactor.item, 3)) == (False, 2)
    assert called(contactor.item, 2) == "success"
    assert contactor.item.set(4, axdr.enum(0)) is DataAccessResult.SUCCESS
    assert value(contactor.item, 2) is True
    assert called(contactor.item, 1) == "read-write-denied"
    for wrong in (axdr.enum(7), axdr.u8(1)):
        assert contactor.item.set(4, wrong) is DataAccessResult.TYPE_UNMATCHED


# ------------------------------------------------------------------------------------------- scripts and schedules


class Panel:
    """A meter with a contactor, a store and a script table for both."""

    def __init__(self) -> None:
        self.switched: list[bool] = []
        self.contactor = DisconnectControl(switched=self.switched.append)
        self.store = Store()
        self.meter = MeterServer([self.contactor.item, self.store.item])
        write = axdr.structure(axdr.enum(1), axdr.u16(1), axdr.octets(CODE.code), axdr.i8(2), axdr.u8(77))
        self.table = ScriptTable(
            self.meter,
            SCRIPTS,
            [
                script(1, action(70, CONTACTOR, 1), write),
                script(2, action(70, CONTACTOR, 2)),
                script(3, action(9, str(SCRIPTS), 1, axdr.u16(3)), write),
            ],
        )
        self.meter.add(self.table.item)


def test_a_script_calls_and_writes() -> None:
    panel = Panel()
    assert called(panel.table.item, 1, axdr.u16(1)) == "success"
    assert panel.switched == [False]
    assert panel.store.value == axdr.u8(77)
    assert called(panel.table.item, 1, axdr.u16(9)) == "object-undefined"
    assert called(panel.table.item, 1, axdr.octets(b"")) == "type-unmatched"
    assert called(panel.table.item, 1, None) == "type-unmatched"


def test_a_script_that_calls_itself_ends_and_the_rest_of_it_is_done() -> None:
    panel = Panel()
    assert called(panel.table.item, 1, axdr.u16(3)) == "other-reason"
    assert panel.store.value == axdr.u8(77)
    assert called(panel.table.item, 1, axdr.u16(2)) == "success"


@pytest.mark.parametrize(
    "scripts",
    [axdr.u8(1), axdr.array([axdr.u8(1)]), axdr.array([axdr.structure(axdr.u16(1), axdr.array([axdr.u8(1)]))])],
)
def test_scripts_that_are_none_are_not_taken(scripts: Data) -> None:
    panel = Panel()
    assert panel.table.item.set(2, scripts) is DataAccessResult.TYPE_UNMATCHED
    assert panel.table.item.set(2, axdr.array([script(5, action(70, CONTACTOR, 1))])) is DataAccessResult.SUCCESS
    assert called(panel.table.item, 1, axdr.u16(5)) == "success"


def times(*patterns: str) -> list[tuple[bytes, bytes]]:
    """`HHMMSS YYYY MM DD W` in hexadecimal, hundredths left open."""
    return [(bytes.fromhex(text.split()[0] + "ff"), bytes.fromhex("".join(text.split()[1:]))) for text in patterns]


@pytest.mark.parametrize(
    ("pattern", "runs"),
    [
        ("0c0000 ffff ff ff ff", 3),  # every noon
        ("0c0000 07ea 03 02 ff", 1),  # 2 March 2026
        ("0cff00 07ea 03 02 ff", 60),
        ("0c001e ffff ff ff 01", 1),  # Mondays, half a minute past
        ("0c0000 ffff 02 fe ff", 1),  # the last of February
        ("0c0000 ffff 02 fd ff", 0),
        ("0c0000 07e9 ff ff ff", 0),
    ],
)
@pytest.mark.parametrize("step_s", [97, 60, 30])
def test_a_schedule_runs_its_script_once_for_each_time(pattern: str, runs: int, step_s: int) -> None:
    panel = Panel()
    schedule = SingleActionSchedule(panel.meter, CODE, SCRIPTS, 2, times(pattern))
    ran: list[int] = []

    def execute(data: Data | None) -> ActionOutcome:
        ran.append(data.integer() if data else 0)
        return panel.table.execute(2)

    panel.table.item.methods[1] = execute
    moment, end = datetime(2026, 2, 28, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC)
    while moment < end:
        following = moment + timedelta(seconds=step_s)
        schedule.run(moment, following)
        moment = following
    assert ran == [2] * runs


def test_a_schedule_is_written_and_a_long_gap_is_not_made_up_for() -> None:
    panel = Panel()
    schedule = SingleActionSchedule(panel.meter, CODE, SCRIPTS, 0)
    written = axdr.array([axdr.structure(*map(axdr.octets, one)) for one in times("0c0000 ffff ff ff ff")])
    assert schedule.item.set(4, written) is DataAccessResult.SUCCESS
    assert schedule.item.get(4, None) == written
    reference = axdr.structure(axdr.octets(SCRIPTS.code), axdr.u16(1))
    assert schedule.item.set(2, reference) is DataAccessResult.SUCCESS
    assert schedule.item.get(2, None) == reference
    for wrong in (axdr.u8(1), axdr.array([axdr.structure(axdr.octets(b"1"), axdr.octets(b"2"))])):
        assert schedule.item.set(4, wrong) is DataAccessResult.TYPE_UNMATCHED
        assert schedule.item.set(2, wrong) is DataAccessResult.TYPE_UNMATCHED
    schedule.run(NOON - timedelta(days=100), NOON - timedelta(hours=13))
    assert panel.switched == [False]


def test_a_limiter_runs_its_scripts_when_the_value_stays_over_and_when_it_is_back() -> None:
    panel = Panel()
    panel.store.value = axdr.u32(10)
    limiter = Limiter(panel.meter, CODE, AttributeRef(1, CODE, 2), axdr.u32(100), SCRIPTS)
    panel.table.item.set(2, axdr.array(script(at, action(70, CONTACTOR, at)) for at in (1, 2)))
    reference = [axdr.structure(axdr.octets(SCRIPTS.code), axdr.u16(at)) for at in (1, 2)]
    assert limiter.item.set(11, axdr.structure(*reference)) is DataAccessResult.SUCCESS
    assert limiter.item.set(6, axdr.u32(60)) is DataAccessResult.SUCCESS
    assert limiter.item.set(4, axdr.u32(50)) is DataAccessResult.SUCCESS
    for number, wrong in ((4, axdr.u8(1)), (6, axdr.u8(1)), (11, axdr.u8(1))):
        assert limiter.item.set(number, wrong) is DataAccessResult.TYPE_UNMATCHED
    course = [(0, 10), (10, 60), (20, 40), (30, 60), (80, 60), (90, 60), (100, 60), (110, 5), (120, 5)]
    seen: list[int] = []
    for second, power in course:
        panel.store.value = axdr.u32(power)
        limiter.run(NOON, NOON + timedelta(seconds=second))
        if panel.switched:
            seen.append(second)
            panel.switched.clear()
    assert seen == [90, 110]
    assert all(isinstance(limiter.item.get(number, None), Data) for number in range(1, 12))


def test_scripts_act_with_the_meters_own_reach() -> None:
    panel = Panel()
    assert panel.meter.act(MethodRef(9, SCRIPTS, 1), axdr.u16(1)).code == 0
    assert panel.meter.get(Item(AttributeRef(70, Obis.parse(CONTACTOR), 2))) == axdr.boolean(value=False)
