"""Made-up readings for the tests of store and uplink."""

from __future__ import annotations

from omadm.readings import EventReport, Reading


def reading(number: int, meter: str = "m1", run: int = 1_800_000_000) -> Reading:
    return Reading(
        task="t1",
        meter=meter,
        cls=3,
        obis="1.0.1.8.0.255",
        attr=2,
        tag="u32",
        raw=number,
        scaler=0,
        unit=30,
        meter_time=None,
        received=1_800_000_000.25,
        trusted=True,
        error=None,
        run=run,
    )


def visit(first: int, count: int, meter: str = "m1") -> list[Reading]:
    return [reading(number, meter) for number in range(first, first + count)]


def event(key: str, meter: str = "m1") -> EventReport:
    return EventReport(
        event="push",
        meter=meter,
        sender="plc0/5",
        code=None,
        name="",
        grave=False,
        obis=None,
        meter_time=None,
        received=1_800_000_000.25,
        trusted=True,
        invoke=1,
        security="none",
        values=[],
        octets=None,
        error=None,
        count=1,
        key=key,
    )
