"""Which access holds for a meter: the default, the best group, the meter's own, each laid over the one before.

A field that a rule does not give is that of the less specific rule. So a group can say the mechanism, the suite and the
policy, and a meter's own rule nothing but its keys. Of several groups that fit, only the most specific one counts: the
one with more conditions, then the one whose pattern has more letters that are not wildcards, then the first by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from agent.metering.registry import Meter
from agent.settings.provisioning import AccessRule, MeterAccess

_WILD = re.compile(r"\[[^]]*\]|[*?]")


def resolve(meter: Meter, default: MeterAccess, rules: Sequence[AccessRule]) -> MeterAccess:
    """The access that holds for `meter`."""
    access = default
    groups = [rule for rule in rules if fits_group(rule, meter)]
    if groups:
        access = _laid_over(access, min(groups, key=_rank))
    for rule in rules:
        if rule.meter and rule.meter in names_of(meter):
            return _laid_over(access, rule)
    return access


def names_of(meter: Meter) -> tuple[str, ...]:
    """What a rule may call this meter: its id, its EUI-48, its port and address."""
    return tuple(name for name in (meter.meter_id, meter.eui48, f"{meter.port}/{meter.address}") if name)


def fits_group(rule: AccessRule, meter: Meter) -> bool:
    """Whether `rule` is for a group that `meter` belongs to. A group without a condition has no members."""
    if rule.meter or not (rule.pattern or rule.port):
        return False
    if rule.port and rule.port != meter.port:
        return False
    return not rule.pattern or fnmatchcase(meter.meter_id, rule.pattern)


def needs_name(meter: Meter, rules: Sequence[AccessRule]) -> bool:
    """Whether there may be a rule for this meter that is found by its own name only."""
    places = {meter.eui48, f"{meter.port}/{meter.address}"}
    if any(rule.meter in places for rule in rules if rule.meter):
        return False
    return any(rule.meter or rule.pattern for rule in rules)


def _rank(rule: AccessRule) -> tuple[int, int, str]:
    conditions = bool(rule.pattern) + bool(rule.port)
    return -conditions, -len(_WILD.sub("", rule.pattern)), rule.name


def _laid_over(access: MeterAccess, rule: AccessRule) -> MeterAccess:
    return replace(access, **dict(rule.given))  # type: ignore[arg-type]
