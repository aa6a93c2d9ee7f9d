"""Which meters a task reads: pure functions, sans-IO.

What a selection asks for may not be known of a meter yet: its name before the first visit, its model before somebody
has asked for it. Such a meter is neither in nor out: it *waits*, and is listed with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from agent.settings.provisioning import AccessRule, MeterSelection

if TYPE_CHECKING:
    from agent.status import MeterStatus

NAME_UNKNOWN = "its name is not known yet"
MODEL_UNKNOWN = "its model is not known yet"


class Fit(Enum):
    """Whether a meter is one of a selection."""

    IN = "in"
    OUT = "out"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why`: why the meter is not in."""

    fit: Fit
    why: str = ""


_IN = Verdict(Fit.IN)


def groups_of(rules: Iterable[AccessRule]) -> dict[str, AccessRule]:
    """Return the groups of meters by name."""
    return {rule.name.partition("/")[2]: rule for rule in rules if not rule.meter and (rule.pattern or rule.port)}


def verdict(selection: MeterSelection, meter: MeterStatus, groups: Mapping[str, AccessRule]) -> Verdict:
    """Say whether a meter is one of a selection. What speaks against it for good goes before what is not known."""
    found = [one for one in _verdicts(selection, meter, groups) if one.fit is not Fit.IN]
    return min(found, key=lambda one: one.fit is Fit.WAITS, default=_IN)


def shown(selection: MeterSelection) -> str:
    """Return the selection in a line, as it was provisioned."""
    parts = (
        ("meters", selection.meters),
        ("groups", selection.groups),
        ("models", selection.models),
        ("ids", (selection.pattern,) if selection.pattern else ()),
        ("ports", selection.ports),
    )
    return "; ".join(f"{name} {', '.join(values)}" for name, values in parts if values) or "all"


def _verdicts(selection: MeterSelection, meter: MeterStatus, groups: Mapping[str, AccessRule]) -> Iterable[Verdict]:
    if selection.ports and meter.port not in selection.ports:
        yield Verdict(Fit.OUT, f"it is on port {meter.port}")
    if selection.meters or selection.groups:
        yield _listed(selection, meter, groups)
    if selection.pattern:
        yield _named(selection.pattern, meter, f"its id does not fit {selection.pattern}")
    if selection.models and meter.model is None:
        yield Verdict(Fit.WAITS, MODEL_UNKNOWN)
    elif selection.models and not any(fnmatchcase(meter.model or "", model) for model in selection.models):
        yield Verdict(Fit.OUT, f"its model is {meter.model}")


def _listed(selection: MeterSelection, meter: MeterStatus, groups: Mapping[str, AccessRule]) -> Verdict:
    if {meter.meter_id, meter.eui48, f"{meter.port}/{meter.address}"} & set(selection.meters):
        return _IN
    unknown = [name for name in selection.groups if name not in groups]
    found = [_grouped(groups[name], meter) for name in selection.groups if name in groups]
    if selection.meters and not meter.named:
        found.append(Verdict(Fit.WAITS, NAME_UNKNOWN))
    best = next((one for fit in (Fit.IN, Fit.WAITS) for one in found if one.fit is fit), None)
    if best is not None:
        return best
    if unknown:
        return Verdict(Fit.WAITS, f"there is no group {', '.join(unknown)}")
    where = [*(["the list of meters"] if selection.meters else []), *(f"group {name}" for name in selection.groups)]
    return Verdict(Fit.OUT, f"it is not in {' nor '.join(where)}")


def _grouped(rule: AccessRule, meter: MeterStatus) -> Verdict:
    if rule.port and rule.port != meter.port:
        return Verdict(Fit.OUT)
    return _named(rule.pattern, meter, "") if rule.pattern else _IN


def _named(pattern: str, meter: MeterStatus, why: str) -> Verdict:
    if not meter.named:
        return Verdict(Fit.WAITS, NAME_UNKNOWN)
    return _IN if fnmatchcase(meter.meter_id, pattern) else Verdict(Fit.OUT, why)
