"""Which scalers of a meter are looked at in which visit."""

from __future__ import annotations

from agent.metering.events.scaler_check import SCALERS_MAX, goes_on_after, to_ask
from dlms.client.knowledge import MeterKnowledge
from dlms.cosem.obis import AttributeRef
from dlms.cosem.scaler_unit import ScalerUnit

FIRMWARE = AttributeRef.parse("1/1.0.0.2.0.255/2")


def known(count: int) -> MeterKnowledge:
    refs = [AttributeRef.parse(f"3/1.{at % 7}.{at % 251}.8.{at // 251}.255/3") for at in range(count)]
    without: dict[AttributeRef, ScalerUnit | None] = {AttributeRef.parse("3/1.0.99.7.0.255/3"): None}
    return MeterKnowledge(scalers=without | dict.fromkeys(refs, ScalerUnit(0, 30)))


def test_every_scaler_is_looked_at_once_in_as_many_visits_as_it_takes() -> None:
    for count in (0, 1, SCALERS_MAX, SCALERS_MAX + 1, 3 * SCALERS_MAX, 1000):
        meter, after, looked = known(count), "", list[AttributeRef]()
        for _ in range(20):
            asked = to_ask(meter, after)
            assert len(asked) <= SCALERS_MAX
            looked += asked
            after = goes_on_after(meter, (FIRMWARE, *asked)) or ""
            if not after:
                break
        assert sorted(looked, key=str) == sorted((ref for ref, at in meter.scalers.items() if at), key=str)
        assert len(looked) == count


def test_a_visit_without_scalers_says_nothing_of_where_to_go_on() -> None:
    assert goes_on_after(known(5), (FIRMWARE,)) is None
