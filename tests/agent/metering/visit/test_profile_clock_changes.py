"""The meter's clock changes: to and from daylight saving time, and set by an hour. Every row exactly once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from dlms.cosem.time import STANDARD_CLOCK, ClockPolicy
from tests.agent.metering.visit.profile_meters import MeterModel, Reader

pytestmark = pytest.mark.slow

HOUR = 3600
CHANGE = datetime(2026, 10, 25, 1, 0, tzinfo=UTC).timestamp()  # of the clock; the end of summer time in Europe
BEFORE_S, AFTER_S = 2 * HOUR, 3 * HOUR
GAPS = (1, 5, 7)  # visits every so many capture periods, at each moment relative to the change

# What the clock shows before and after the change, minutes ahead of UTC, and whether it says daylight saving.
CHANGES = {
    "summer time ends": ((120, True), (60, False)),
    "summer time begins": ((60, False), (120, True)),
    "set back by an hour": ((60, False), (0, False)),
    "set ahead by an hour": ((60, False), (120, False)),
    "set back by two hours": ((60, False), (-60, False)),
    "set ahead by two hours": ((60, False), (180, False)),
}


def meter_of(change: str, stamps: str, sign: int, period_s: int, **options: object) -> MeterModel:
    before, after = CHANGES[change]
    return MeterModel(
        CHANGE - BEFORE_S - 9 * HOUR,
        offset_at=lambda at: before[0] if at < CHANGE else after[0],
        summer_at=lambda at: before[1] if at < CHANGE else after[1],
        stamps=stamps,
        sign=sign,
        period_s=period_s,
        **options,  # type: ignore[arg-type]
    )


POLICIES = {
    "local": STANDARD_CLOCK,
    "local with an offset": ClockPolicy(utc_offset_minutes=60),
    "status": ClockPolicy(utc_offset_minutes=60),
    "deviation": STANDARD_CLOCK,
    "deviation counted the other way": ClockPolicy(deviation_sign=-1),
}


CASES = [  # how rows are packed, whether values stay the same
    ("plain", False), ("plain", True), ("answer", False), ("buffer", False),
]  # fmt: skip


@pytest.mark.parametrize("by_entry", [True, False], ids=["by entry", "by time"])
@pytest.mark.parametrize("period_s", [900, 3600])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("change", CHANGES)
def test_every_row_is_taken_exactly_once(change: str, policy: str, period_s: int, *, by_entry: bool) -> None:
    for packing, constant in CASES:
        for size in (4000, 40):
            for gap in GAPS:
                for moment in range(gap):
                    reader = visited(
                        change, policy, period_s, gap, moment,
                        by_entry=by_entry, constant=constant, size=size, packing=packing,
                    )  # fmt: skip
                    where = (packing, constant, size, gap, moment)
                    assert Counter(reader.held()) == Counter(reader.meter.history), where
                    if by_entry:
                        assert reader.held() == reader.meter.history, where
                    assert not any(row.doubt for row in reader.taken), where
                    assert not reader.missing, where


def visited(change: str, policy: str, period_s: int, gap: int, moment: int, **options: object) -> Reader:
    """A meter that was visited every `gap` periods while its clock changed."""
    sign, stamps = POLICIES[policy].deviation_sign, policy.split(maxsplit=1)[0]
    meter = meter_of(change, stamps, sign, period_s, **options)
    meter.live(9 * HOUR)
    reader = Reader(meter, POLICIES[policy], first_s=30 * 86_400)
    reader.visit()
    meter.live(moment * period_s + 120)
    while meter.at < CHANGE + AFTER_S:
        reader.visit()
        meter.live(gap * period_s)
    reader.visit()
    return reader
