"""Whether the scalers that are kept of a meter are still its own: a meter may be set to others, and says nothing.

They are asked for again in idle line time, once a day, so many in a visit, and the next in the next one. Where one is
another, what was read since it was seen last may be wrong by a power of ten: the head-end is told which attribute, from
when to when, and both scalers.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from typing import Protocol

from agent.metering.events.intake import KEY_CHARS
from dlms.axdr import Data
from dlms.client.knowledge import MeterKnowledge
from dlms.cosem.obis import AttributeRef
from dlms.cosem.scaler_unit import ScalerUnit, scaler_unit
from omadm.readings import EventReport

LOG = logging.getLogger("agent.metering.port")

SCALERS_MAX = 128  # asked for in one visit: as many as most meters have
SCALERS_MIN = 8  # the same after visits that were too long
NAME = "scaler changed"


class Values(Protocol):
    """What a visit has brought (`agent.metering.visit.visit.Visit`)."""

    def data(self, ref: AttributeRef) -> Data | None: ...


def to_ask(knowledge: MeterKnowledge, after: str = "", most: int = SCALERS_MAX) -> tuple[AttributeRef, ...]:
    """Return the attributes that have the scalers which are known, at most so many of those behind `after`."""
    return tuple(ref for ref in _in_order(knowledge) if str(ref) > after)[:most]


def goes_on_after(knowledge: MeterKnowledge, asked: Collection[AttributeRef]) -> str | None:
    """Return behind which scaler the next visit goes on, empty where these were the last ones, `None` where there was
    none among them."""
    known = _in_order(knowledge)
    last = max((str(ref) for ref in known if ref in asked), default=None)
    return last if last is None or str(known[-1]) > last else ""


def _in_order(knowledge: MeterKnowledge) -> list[AttributeRef]:
    """The attributes with known scalers, in an order that is the same in each visit."""
    return sorted((ref for ref, known in knowledge.scalers.items() if known is not None), key=str)


def compare(
    values: Values,
    asked: Collection[AttributeRef],
    knowledge: MeterKnowledge,
    meter: str,
    wall: float,
    *,
    trusted: bool,
) -> list[EventReport]:
    """Take the scalers that a visit has read into `knowledge`, and return an event for each that is another one."""
    found: list[EventReport] = []
    for ref in asked:
        before, data = knowledge.scalers.get(ref), values.data(ref)
        now = scaler_unit(data) if data is not None else None
        if before is None or now is None or now == before:
            continue
        knowledge.scalers[ref] = now
        LOG.warning(
            "%s: the scaler of %s is %s, it was %s: values that were read since it was checked last may be wrong",
            meter, ref, _said(now), _said(before), extra={"event": "meter.scaler_changed"},
        )  # fmt: skip
        found.append(_report(ref, before, now, meter, wall, trusted=trusted))
    return found


def _report(
    ref: AttributeRef, before: ScalerUnit, now: ScalerUnit, meter: str, wall: float, *, trusted: bool
) -> EventReport:
    obis = str(ref.obis)
    content = f"{NAME}\0{meter}\0{ref}\0{_said(before)}\0{_said(now)}\0{wall:.0f}"
    return EventReport(
        event="notice",
        meter=meter,
        sender="the concentrator",
        code=None,
        name=NAME,
        grave=True,
        obis=obis,
        meter_time=None,
        received=round(wall, 3),
        trusted=trusted,
        invoke=None,
        security="none",
        values=[
            {"tag": "str", "raw": f"{what} {_said(one)}"} | {"obis": obis, "cls": ref.class_id, "attr": ref.attribute}
            for what, one in (("before", before), ("now", now))
        ],
        octets=None,
        error=None,
        count=1,
        key=hashlib.sha256(content.encode()).hexdigest()[:KEY_CHARS],
    )


def _said(one: ScalerUnit) -> str:
    return f"10^{one.scaler}, unit {one.unit}"
