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
}


def meter_of(change: str, stamps: str, sign: int, period_s: int, *, by_entry: bool, **options: object) -> MeterModel:
    before, after = CHANGES[change]
    return MeterModel(
        CHANGE - BEFORE_S - 9 * HOUR,
        offset_at=lambda at: before[0] if at < CHANGE else after[0],
        summer_at=lambda at: before[1] if at < CHANGE else after[1],
        stamps=stamps,
        sign=sign,
        period_s=period_s,
        by_entry=by_entry,
        **options,  # type: ignore[arg-type]
    )


POLICIES = {
    "local": STANDARD_CLOCK,
    "local with an offset": ClockPolicy(utc_offset_minutes=60),
    "status": ClockPolicy(utc_offset_minutes=60),
    "deviation": STANDARD_CLOCK,
    "deviation counted the other way": ClockPolicy(deviation_sign=-1),
}


@pytest.mark.parametrize("by_entry", [True, False], ids=["by entry", "by time"])
@pytest.mark.parametrize("period_s", [900, 3600])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("change", CHANGES)
def test_every_row_is_taken_exactly_once(change: str, policy: str, period_s: int, *, by_entry: bool) -> None:
    sign, stamps = POLICIES[policy].deviation_sign, policy.split(maxsplit=1)[0]
    for constant in (False, True):
        for size in (4000, 40):
            for gap in GAPS:
                for moment in range(gap):
                    meter = meter_of(change, stamps, sign, period_s, by_entry=by_entry, constant=constant, size=size)
                    meter.live(9 * HOUR)
                    reader = Reader(meter, POLICIES[policy], first_s=30 * 86_400)
                    reader.visit()
                    meter.live(moment * period_s + 120)
                    while meter.at < CHANGE + AFTER_S:
                        reader.visit()
                        meter.live(gap * period_s)
                    reader.visit()
                    where = (constant, size, gap, moment)
                    assert Counter(reader.held()) == Counter(meter.history), where
                    if by_entry:
                        assert reader.held() == meter.history, where
                    assert not any(row.doubt for row in reader.taken), where
