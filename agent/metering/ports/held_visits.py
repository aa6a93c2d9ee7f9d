"""What the visits of one port have brought and is not stored yet: one commit takes that of several, and of all steps
of a visit.

A commit writes some pages beside those of its readings, however few these are, and flash wears by what is written
(docs/benchmarks.md). So what comes is held for a few seconds while there is more to come. Until it is durable nobody is
told of it: no mark says that a run was read, no gap ends, nothing is sent. A power cut costs what came in `HOLD_S`
seconds, which is read again, as what a visit under way had read. Events are not held.

`add` takes the time, `due` and `deadline` say when to store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.metering.registry.entry import Meter
from agent.metering.scheduling.tasks import OwedRun
from agent.metering.store.reading_store import Brought, Progress
from agent.metering.visit.visit import Visit
from omadm.readings import EventReport, Reading

HOLD_S = 5.0  # what a cut costs at most; a bus of 9600 baud brings two visits of 108 values in it
READINGS_MAX = 400  # held in memory, some 0.3 kB each; a commit of so many is hardly cheaper per reading with more


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be stored of a visit of `meter`, which is known by the name that it gave, for these runs; with `final`
    that is all of it. `marks`, `knowledge`, `urgent`: as in `Brought`. `trusted`: the clock vouches for the runs.
    `periods`: the capture period of each profile, by its logical name."""

    visit: Visit
    meter: Meter
    runs: Sequence[OwedRun]
    readings: Sequence[Reading]
    marks: Sequence[Progress]
    knowledge: Mapping[str, Mapping[str, object]]
    urgent: Sequence[EventReport]
    trusted: bool
    final: bool
    periods: Mapping[str, float]

    def brought(self) -> Brought | None:
        """Return what the store is to have of it; `None` when that is nothing."""
        if self.final or self.readings or self.knowledge:
            return Brought(self.readings, self.marks, self.knowledge, self.urgent)
        return None

    def and_then(self, later: Taken) -> Taken:
        """Return what this step and a later one of the same visit brought."""
        return replace(
            later,
            readings=[*self.readings, *later.readings],
            knowledge={**self.knowledge, **later.knowledge},
            urgent=[*self.urgent, *later.urgent],
        )


class HeldVisits:
    """Keeps what was taken in the order in which the visits began to bring something, that of one visit together."""

    def __init__(self) -> None:
        self._held: list[Taken] = []
        self._since = math.inf

    def add(self, taken: Taken, now: float) -> None:
        """Hold what a step of a visit brought, or its end. `now`: monotonic seconds."""
        self._since = min(self._since, now)
        for at, before in enumerate(self._held):
            if before.visit is taken.visit:
                self._held[at] = before.and_then(taken)
                return
        self._held.append(taken)

    def has(self, meter: Meter) -> bool:
        """Whether something of a visit of this meter is held: how far it was read is not to be had yet."""
        return any(taken.visit.meter.key == meter.key for taken in self._held)

    def due(self, now: float, *, more_to_come: bool) -> bool:
        """Whether to store now. `more_to_come`: visits are under way, or begin at once."""
        if not self._held:
            return False
        if now >= self.deadline() or not more_to_come or any(taken.urgent for taken in self._held):
            return True
        return sum(len(taken.readings) for taken in self._held) >= READINGS_MAX

    def deadline(self) -> float:
        """When to store at the latest (monotonic seconds); infinity while nothing is held."""
        return self._since + HOLD_S

    def take(self) -> list[Taken]:
        """Return all that is held, and hold it no longer."""
        held, self._held, self._since = self._held, [], math.inf
        return held
