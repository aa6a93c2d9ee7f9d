"""Which access holds for a meter: the default, the best group, the meter's own, each laid over the one before.

A field that a rule does not give is that of the less specific rule. So a group can say the mechanism, the suite and the
policy, and a meter's own rule nothing but its keys. Of several groups that fit, only the most specific one counts: the
one with more conditions, then the one whose pattern has more letters that are not wildcards, then the first by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from agent.metering.registry.entry import Meter
from agent.settings.provisioning import AccessRule, MeterAccess

_WILD = re.compile(r"\[[^]]*\]|[*?]")


class AccessRules:
    """The rules in force, sorted for the many meters that ask. Immutable."""

    def __init__(self, default: MeterAccess, rules: Iterable[AccessRule] = ()) -> None:
        rules = tuple(rules)
        self._default = default
        self._own = {rule.meter: rule for rule in reversed(rules) if rule.meter}
        groups = [rule for rule in rules if not rule.meter and (rule.pattern or rule.port)]
        self._groups = tuple(sorted(groups, key=_rank))  # the most specific first
        self._by_group = {rule.name: rule for rule in groups}
        self._by_name = bool(self._own) or any(rule.pattern for rule in groups)

    def resolve(self, meter: Meter) -> MeterAccess:
        """The access that holds for `meter`."""
        access = self._default
        group = next((rule for rule in self._groups if _fits(rule, meter)), None)
        if group is not None:
            access = _laid_over(access, group)
        names = (meter.meter_id, *_places(meter))
        own = next((self._own[name] for name in names if name in self._own), None)
        return access if own is None else _laid_over(access, own)

    def group(self, name: str) -> AccessRule | None:
        """The rule of the group `./AMI/Access/Group/<name>`."""
        return self._by_group.get(f"group/{name}")

    def needs_name(self, meter: Meter) -> bool:
        """Whether there may be a rule for this meter that is found by its own name only."""
        return self._by_name and not any(place in self._own for place in _places(meter))


def _places(meter: Meter) -> tuple[str, ...]:
    """What a rule may call a meter whose name is not known."""
    place = f"{meter.port}/{meter.address}"
    return (meter.eui48, place) if meter.eui48 else (place,)


def _fits(rule: AccessRule, meter: Meter) -> bool:
    if rule.port and rule.port != meter.port:
        return False
    return not rule.pattern or fnmatchcase(meter.meter_id, rule.pattern)


def _rank(rule: AccessRule) -> tuple[int, int, str]:
    conditions = bool(rule.pattern) + bool(rule.port)
    return -conditions, -len(_WILD.sub("", rule.pattern)), rule.name


def _laid_over(access: MeterAccess, rule: AccessRule) -> MeterAccess:
    return replace(access, **dict(rule.given))  # type: ignore[arg-type]
