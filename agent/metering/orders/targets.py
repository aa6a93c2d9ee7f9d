"""For which meters an order is: ids, and groups that stand for those that are known when it is accepted.

`group:NAME` is a group of `./AMI/Access`, `port:NAME` all meters of a port, and a text with `*`, `?` or `[` is a
pattern of ids. What an order is for is settled when it is accepted, and recorded with it: a meter that comes later is
not among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from agent.metering.orders.order import OrderRefusedError
from agent.settings.provisioning import WILDCARD, AccessRule

GROUP, PORT = "group:", "port:"


class ListedMeter(Protocol):
    """What is to be known of a meter; `agent.status.MeterStatus` is one."""

    @property
    def meter_id(self) -> str: ...

    @property
    def port(self) -> str: ...

    @property
    def state(self) -> str: ...


class Rules(Protocol):
    """The part of `agent.metering.access.accessbook.AccessBook` that groups need."""

    def group(self, name: str) -> AccessRule | None: ...


class Meters(Protocol):
    """The part of `agent.metering.registry.Registry` that says which meters there are."""

    def meters(self) -> Sequence[ListedMeter]: ...


def is_group(target: str) -> bool:
    """Whether a target is none that names one meter."""
    return target.startswith((GROUP, PORT)) or WILDCARD.search(target) is not None


class Targets:
    """Says which meters a group stands for now: those that are read, or would be."""

    def __init__(self, registry: Meters, rules: Rules) -> None:
        self._registry = registry
        self._rules = rules

    def meters(self, target: str) -> list[str]:
        """The ids of the meters, in order. Raises `OrderRefusedError` for a group that there is not, or is empty."""
        found = sorted({meter.meter_id for meter in self._of(target)})
        if not found:
            raise OrderRefusedError(f"{target}: there is no such meter")
        return found

    def _of(self, target: str) -> Iterable[ListedMeter]:
        known = [meter for meter in self._registry.meters() if meter.state != "unlisted"]
        if target.startswith(GROUP):
            rule = self._rules.group(target.removeprefix(GROUP))
            if rule is None:
                raise OrderRefusedError(f"{target}: there is no such group below ./AMI/Access/Group")
            return [meter for meter in known if _fits(meter, rule.pattern, rule.port)]
        if target.startswith(PORT):
            return [meter for meter in known if _fits(meter, "", target.removeprefix(PORT))]
        return [meter for meter in known if _fits(meter, target, "")]


def _fits(meter: ListedMeter, pattern: str, port: str) -> bool:
    return (not port or meter.port == port) and (not pattern or fnmatchcase(meter.meter_id, pattern))
