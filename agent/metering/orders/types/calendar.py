"""Orders about tariffs: tariff (the activity calendar) and special-days. Sans-IO.

A calendar is checked as a whole before anything is sent: a season names a week that there is, a week days that there
are, and the actions of a day are in order. It is written into the passive calendar, read back and compared, and only
then activated: at once, or by the meter at the time that is set. While it is being written no activation is set, so
that no half of a calendar comes into force.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping

from agent.metering.orders.order import OrderRefusedError, OrderType
from agent.metering.orders.types import parameters as check
from agent.metering.orders.types.attributes import date_time, in_range
from agent.metering.orders.types.parameters import Checked
from agent.metering.orders.types.steps import (
    Ask,
    AttributeSetting,
    Context,
    Ended,
    Plan,
    Read,
    Reply,
    TypeFunctions,
    Written,
    action_ended,
    calling,
    present,
    same,
    shown_value,
    write,
)
from dlms import axdr
from dlms.axdr import Data
from dlms.client.events import ItemError
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.cosem.time import CosemDate, CosemDateTime, CosemTime
from dlms.errors import LocalError

CALENDAR, SPECIAL_DAYS = 20, 11
CALENDAR_CODE = "0.0.13.0.0.255"
SPECIAL_DAYS_CODE = "0.0.11.0.0.255"
TARIFF_SCRIPTS = "0.0.10.0.100.255"  # BB 6.2.7
SEASONS_MAX, WEEKS_MAX, DAYS_MAX, ACTIONS_MAX = 32, 32, 64, 48
ENTRIES_MAX = 200
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Attributes of class 20 (BB 4.5.5): name, seasons, weeks, days; active, and passive.
_ACTIVE, _PASSIVE = (2, 3, 4, 5), (6, 7, 8, 9)
_ACTIVATION_TIME, _ACTIVATE = 10, 1
_NEVER = axdr.octets(CosemDateTime().emit())
_INSERT, _DELETE = 1, 2

# ---------------------------------------------------------------------------------------------------------- tariff


def check_tariff(given: dict[str, object]) -> Checked:
    wanted = {"obis": CALENDAR_CODE, "activate": "now"} | given
    check.only(wanted, "obis", "activate", "name", "seasons", "weeks", "days")
    code = check.obis(wanted)
    _calendar(wanted)
    _activation(wanted)
    return wanted, check.needed(CALENDAR, code)


def _activation(given: Mapping[str, object]) -> CosemDateTime | None:
    """The time of activation, `unspecified` in all its fields for never; `None` for now."""
    when = given["activate"]
    if when == "now":
        return None
    return CosemDateTime() if when == "never" else date_time(when, "activate")


def _calendar(given: Mapping[str, object]) -> tuple[Data, Data, Data, Data]:
    """Name, seasons, weeks and days as the meter has them. Raises `OrderRefusedError`."""
    days = _days(given.get("days"))
    weeks = _weeks(given.get("weeks"), set(days))
    seasons = _seasons(given.get("seasons"), set(weeks))
    name = axdr.octets(check.name(given.get("name"), "name"))
    return name, axdr.array(seasons), axdr.array(weeks.values()), axdr.array(days.values())


def _days(value: object) -> dict[int, Data]:
    found: dict[int, Data] = {}
    for at, one in enumerate(check.members(value, "days", 1, DAYS_MAX)):
        path = f"days[{at}]"
        day = check.record(one, path, ("id", "actions"))
        number = check.number(day["id"], f"{path}.id", 0, 255)
        if number in found:
            raise OrderRefusedError(f"{path}.id: day {number} is there twice")
        found[number] = axdr.structure(axdr.u8(number), axdr.array(_day_actions(day["actions"], f"{path}.actions")))
    return found


def _day_actions(value: object, path: str) -> list[Data]:
    made: list[Data] = []
    before = b""
    for at, one in enumerate(check.members(value, path, 1, ACTIONS_MAX)):
        here = f"{path}[{at}]"
        action = check.record(one, here, ("at", "script"), ("table",))
        time = check.at(f"{here}.at", CosemTime.of, check.text(action, "at"))
        if time.hour > 23 or time.minute > 59 or time.second > 59:
            raise OrderRefusedError(f"{here}.at: there is no such time of the day")
        if before and time.emit() <= before:
            raise OrderRefusedError(f"{here}.at: the actions of a day are in the order of their times")
        before = time.emit()
        table = check.at(f"{here}.table", Obis.parse, check.text({"table": TARIFF_SCRIPTS, **action}, "table"))
        script = check.number(action["script"], f"{here}.script", 0, 0xFFFF)
        made.append(axdr.structure(axdr.octets(before), axdr.octets(table.code), axdr.u16(script)))
    return made


def _weeks(value: object, days: set[int]) -> dict[bytes, Data]:
    found: dict[bytes, Data] = {}
    for at, one in enumerate(check.members(value, "weeks", 1, WEEKS_MAX)):
        path = f"weeks[{at}]"
        week = check.record(one, path, ("name", "days"))
        name = check.name(week["name"], f"{path}.name")
        if name in found:
            raise OrderRefusedError(f"{path}.name: week {name.decode()} is there twice")
        numbers = check.members(week["days"], f"{path}.days", 7, 7)
        for weekday, number in zip(WEEKDAYS, numbers, strict=True):
            if number not in days or isinstance(number, bool):
                raise OrderRefusedError(f"{path}.days: {weekday} is day {number!r}, which is not among days")
        found[name] = axdr.structure(
            axdr.octets(name), *(axdr.u8(number) for number in numbers if isinstance(number, int))
        )
    return found


def _seasons(value: object, weeks: set[bytes]) -> list[Data]:
    found: dict[bytes, Data] = {}
    for at, one in enumerate(check.members(value, "seasons", 1, SEASONS_MAX)):
        path = f"seasons[{at}]"
        season = check.record(one, path, ("name", "start", "week"))
        name = check.name(season["name"], f"{path}.name")
        if name in found:
            raise OrderRefusedError(f"{path}.name: season {name.decode()} is there twice")
        start = season["start"]
        if isinstance(start, str) and "T" not in start:
            start = f"{start}T00:00"
        week = check.name(season["week"], f"{path}.week")
        if week not in weeks:
            raise OrderRefusedError(f"{path}.week: {week.decode()} is not among weeks")
        when = axdr.octets(date_time(start, f"{path}.start").emit())
        found[name] = axdr.structure(axdr.octets(name), when, axdr.octets(week))
    return list(found.values())


def plan_tariff(parameters: Mapping[str, object], _context: Context) -> Plan:
    code, contents = check.obis(parameters), _calendar(parameters)
    when = _activation(parameters)
    passive = [
        AttributeSetting(AttributeRef(CALENDAR, code, number), held)
        for number, held in zip(_PASSIVE, contents, strict=True)
    ]
    active = [
        AttributeSetting(AttributeRef(CALENDAR, code, number), held)
        for number, held in zip(_ACTIVE, contents, strict=True)
    ]
    timer = AttributeRef(CALENDAR, code, _ACTIVATION_TIME)
    if when is None and (yield from _holds(active)) is True:
        return Ended({"active": True, "already": True})
    if (yield from _holds(passive)) is not True:
        # A time that is set already would activate what is there at that moment, finished or not.
        stopped = yield from write([AttributeSetting(timer, _NEVER)])
        if stopped.refused or stopped.differ:
            return stopped.ended()
    written = yield from write(passive)
    value: dict[str, object] = {"passive": written.rows, "active": False}
    if written.refused or written.differ:
        kept = f"not activated: the meter holds something else in {', '.join(written.differ)}"
        return Ended(value, refused=written.refused or kept)
    if when is not None:
        timed = yield from write([AttributeSetting(timer, axdr.octets(when.emit()))])
        return _timed(value, timed)
    return (yield from _activated(MethodRef(CALENDAR, code, _ACTIVATE), active, value))


def _timed(value: dict[str, object], timed: Written) -> Ended:
    ended = timed.ended()
    return Ended(value | {"activation": timed.rows}, refused=ended.refused, alarm=ended.alarm)


def _activated(
    method: MethodRef, active: list[AttributeSetting], value: dict[str, object]
) -> Generator[Ask, Reply, Ended]:
    done = action_ended((yield calling(method, axdr.i8(0), {"step": 1, "of": 1, "what": f"action {method}"})))
    if done.refused:
        return Ended(value, refused=f"{method}: {done.refused}")
    holds = yield from _holds(active)
    if holds is True:
        return Ended(value | {"active": True})
    return Ended(value, alarm=f"the meter accepted the activation, and another calendar is active{holds or ''}")


def _holds(wanted: list[AttributeSetting]) -> Generator[Ask, Reply, bool | str]:
    """Whether the meter holds all of this; a text says why that is not known."""
    found = yield from present(wanted)
    if isinstance(found, str):
        return f" ({found})"
    return all(isinstance(one.value, Data) and same(found[one.ref], one.value) for one in wanted)


# ---------------------------------------------------------------------------------------------------- special days


def check_special_days(given: dict[str, object]) -> Checked:
    """Class 11 (BB 4.5.4): insert and delete entries, or replace the whole table."""
    wanted = {"obis": SPECIAL_DAYS_CODE} | given
    check.only(wanted, "obis", "insert", "delete", "replace")
    code = check.obis(wanted)
    if "replace" in wanted and ("insert" in wanted or "delete" in wanted):
        raise OrderRefusedError("replace: the whole table is replaced, there is nothing to insert or delete beside it")
    entries = _entries(wanted.get("replace", wanted.get("insert", [])), "replace" if "replace" in wanted else "insert")
    doomed = _doomed(wanted)
    if not (entries or doomed or "replace" in wanted):
        raise OrderRefusedError("nothing is to be changed")
    both = sorted(set(entries) & set(doomed))
    if both:
        raise OrderRefusedError(f"delete: entry {both[0]} is inserted as well, which overwrites it")
    return wanted, check.needed(SPECIAL_DAYS, code)


def _doomed(given: Mapping[str, object]) -> list[int]:
    listed = check.members(given.get("delete", []), "delete", 0, ENTRIES_MAX)
    return [check.number(one, f"delete[{at}]", 0, 0xFFFF) for at, one in enumerate(listed)]


def _entries(value: object, path: str) -> dict[int, Data]:
    found: dict[int, Data] = {}
    dates: set[bytes] = set()
    for at, one in enumerate(check.members(value, path, 0, ENTRIES_MAX)):
        here = f"{path}[{at}]"
        entry = check.record(one, here, ("index", "date", "day"))
        index = check.number(entry["index"], f"{here}.index", 0, 0xFFFF)
        date = check.at(f"{here}.date", CosemDate.of, check.text(entry, "date"))
        in_range(date, f"{here}.date")
        if index in found or date.emit() in dates:
            # The second one would overwrite the first (BB 4.5.4): one of them is a mistake.
            raise OrderRefusedError(f"{here}: index {index} or its date is there twice")
        dates.add(date.emit())
        day = axdr.u8(check.number(entry["day"], f"{here}.day", 0, 255))
        found[index] = axdr.structure(axdr.u16(index), axdr.octets(date.emit()), day)
    return found


def plan_special_days(parameters: Mapping[str, object], _context: Context) -> Plan:
    code = check.obis(parameters)
    table = AttributeRef(SPECIAL_DAYS, code, 2)
    if "replace" in parameters:
        whole = axdr.array(_entries(parameters["replace"], "replace").values())
        return (yield from write([AttributeSetting(table, whole)])).ended()
    entries, doomed = _entries(parameters.get("insert", []), "insert"), _doomed(parameters)
    before = yield from _table(table)
    if isinstance(before, str):
        return Ended(refused=before)
    calls = [(_DELETE, index, axdr.u16(index)) for index in doomed if index in before]
    calls += [
        (_INSERT, index, entry)
        for index, entry in entries.items()
        if index not in before or not same(before[index], entry)
    ]
    done: list[dict[str, object]] = []
    for number, (method, index, parameter) in enumerate(calls, start=1):
        ref, change = MethodRef(SPECIAL_DAYS, code, method), "insert" if method == _INSERT else "delete"
        progress = {"step": number, "of": len(calls), "what": f"{change} entry {index}"}
        ended = action_ended((yield calling(ref, parameter, progress)))
        if ended.refused:
            return Ended(done, refused=f"{change} entry {index}: {ended.refused}")
        done.append({"index": index, "done": change})
    after = (yield from _table(table)) if calls else before
    if isinstance(after, str):
        return Ended(done, alarm=f"carried out; the table could not be read back: {after}")
    wrong = [index for index, entry in entries.items() if index not in after or not same(after[index], entry)]
    wrong += [index for index in doomed if index in after]
    alarm = f"the meter accepted it and holds something else in entries {', '.join(map(str, wrong))}" if wrong else ""
    return Ended(done, alarm=alarm)


def _table(ref: AttributeRef) -> Generator[Ask, Reply, dict[int, Data] | str]:
    """The entries of the meter by index, or why they cannot be had."""
    (result,) = (yield Read((ref,))).results
    if isinstance(result, ItemError):
        return f"{ref}: {result.code}"
    try:
        return {entry.members()[0].integer(): entry for entry in result.data.members()}
    except (LocalError, IndexError):
        return f"{ref}: not a table of special days: {str(shown_value(result))[:60]}"


FUNCTIONS: Mapping[OrderType, TypeFunctions] = {
    OrderType.TARIFF: TypeFunctions(check_tariff, plan_tariff),
    OrderType.SPECIAL_DAYS: TypeFunctions(check_special_days, plan_special_days),
}
