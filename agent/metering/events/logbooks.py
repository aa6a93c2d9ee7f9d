"""Events in what was read: new rows of event logs, new bits of alarm registers. Sans-IO.

Rows of a log come once, since the place of a profile moves with them in one transaction; the value of an alarm register
is remembered the same way. A bit that was cleared and is set again is an event again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.metering.events.codes import (
    alarm_name,
    alarm_register_of,
    bits_of,
    event_name,
    is_event_code,
    is_event_log,
    is_grave_alarm,
    is_grave_event,
    register_of,
)
from agent.metering.events.intake import KEY_CHARS
from agent.metering.visit.profile_catchup import iso_time
from agent.metering.visit.profile_position import CapturedRow
from agent.metering.visit.raw_values import UnstorableError, encode
from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.time import ClockPolicy
from omadm.readings import EVENT_VALUES_MAX, EventReport

ALARMS = "#alarms"  # behind a meter's id: what its alarm registers were


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What holds for all events of a visit. `sender`: how the meter is reached; `received`: civil seconds."""

    meter: str
    task: str
    sender: str
    received: float
    trusted: bool
    policy: ClockPolicy


def log_events(about: Circumstances, log: Obis, rows: Sequence[CapturedRow]) -> list[EventReport]:
    """Return an event for each row of a log; none for a profile that is no event log. Where the time of a row is no
    instant, its time stamp is the last of the values."""
    if not is_event_log(log):
        return []
    seen: Counter[str] = Counter()
    found: list[EventReport] = []
    for row in rows:
        values = [_value(ref, data) for ref, data in row.cells if isinstance(data, Data)]
        content = f"{about.meter}\0{log}\0{row.clock.hex()}\0{json.dumps(values)}"
        if row.doubt or not row.clock:  # the time of a clock that begins anew: the same will come again
            content += f"\0{about.received:.3f}"
        elif row.repeated:  # an hour of local time that comes twice: the same a second time is another one
            content += "\0again"
        seen[content] += 1  # the same twice in one second are two
        instant = iso_time(row.clock, about.policy) if row.clock and not row.doubt and not row.repeated else None
        if instant is None and row.clock and row.clock_ref is not None and len(values) < EVENT_VALUES_MAX:
            values.append(_value(row.clock_ref, axdr.octets(row.clock), date_time=True))
        code = next((_count(data) for ref, data in row.cells if is_event_code(ref.obis)), None)
        found.append(
            _report(
                about,
                "log",
                log,
                code,
                "" if code is None else event_name(code),
                grave=code is not None and is_grave_event(code),
                values=values,
                key=f"{content}\0{row.alike + seen[content]}",
                meter_time=instant,
                error=row.doubt or None,
            )
        )
    return found


def alarm_events(
    about: Circumstances, registers: Iterable[tuple[AttributeRef, Data]], before: Mapping[str, object]
) -> tuple[list[EventReport], dict[str, object]]:
    """Return an event for each bit that is new since `before`, and what to remember: the value per register."""
    found: list[EventReport] = []
    now = dict(before)
    for ref, data in registers:
        number, value = alarm_register_of(ref.obis), register_of(data)
        if number is None or ref.attribute != 2 or value is None:
            continue
        known = now.get(str(number), 0)
        now[str(number)] = value
        fresh = value & ~(known if isinstance(known, int) else 0)
        found += [_alarm(about, ref, data, number, bit) for bit in bits_of(fresh)]
    return found, now


def _alarm(about: Circumstances, ref: AttributeRef, data: Data, register: int, bit: int) -> EventReport:
    return _report(
        about,
        "alarm",
        ref.obis,
        bit,
        alarm_name(register, bit),
        grave=is_grave_alarm(register, bit),
        values=[_value(ref, data)],
        key=f"{about.meter}\0{ref.obis}\0{bit}\0{about.received:.3f}",
    )


def _report(
    about: Circumstances,
    event: str,
    obis: Obis,
    code: int | None,
    name: str,
    *,
    grave: bool,
    values: list[dict[str, object]],
    key: str,
    meter_time: str | None = None,
    error: str | None = None,
) -> EventReport:
    return EventReport(
        event=event,
        meter=about.meter,
        sender=about.sender,
        code=code,
        name=name,
        grave=grave,
        obis=str(obis),
        meter_time=meter_time,
        received=round(about.received, 3),
        trusted=about.trusted,
        invoke=None,
        security="none",
        values=values,
        octets=None,
        error=error,
        count=1,
        key=hashlib.sha256(key.encode()).hexdigest()[:KEY_CHARS],
        task=about.task,
    )


def _value(ref: AttributeRef, data: Data, *, date_time: bool = False) -> dict[str, object]:
    about = {"obis": str(ref.obis), "cls": ref.class_id, "attr": ref.attribute}
    try:
        tag, raw = encode(data, date_time=date_time)
    except UnstorableError:
        tag, raw = "oct", data.emit().hex()
    return {"tag": tag, "raw": raw, **about}


def _count(data: object) -> int | None:
    value = data.value if isinstance(data, Data) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
