"""How a run goes and which meters make trouble: what status, log and health say alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from agent.metering.ledger.ledger import Reason
from agent.status import MeterStatus

LOG = logging.getLogger("agent.metering.scheduling.tasks")

SILENT_AFTER = 3  # failed visits in a row, whatever runs they were for: then a meter is known to make trouble


_EVENTS = {
    Reason.SILENT: ("meter.silent", "does not answer"),
    Reason.FAILING: ("meter.failing", "answers, but cannot be read"),
    Reason.STORE: ("meter.unstored", "was read, but its readings cannot be stored"),
}


@dataclass(slots=True)
class _Trouble:
    """Why a meter cannot be read, since when, in how many runs in a row, and whether the log says so."""

    kind: Reason
    since: float
    in_row: int = 0
    told: bool = False


class Troubles:
    """Which meters cannot be read, and why. A transition is logged once; that it lasts is not. Not thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._of: dict[str, _Trouble] = {}

    def note(self, meter_id: str, kind: Reason, *, final: bool) -> None:
        """A visit failed. `final`: the last one of its run."""
        trouble = self._of.setdefault(meter_id, _Trouble(kind, self._monotonic()))
        trouble.in_row += 1
        if trouble.told and trouble.kind is kind:
            return
        trouble.kind = kind
        if not (trouble.told or final or trouble.in_row >= SILENT_AFTER):
            return
        trouble.told = True
        event, what = _EVENTS[kind]
        LOG.warning("meter %s %s: %d attempts failed", meter_id, what, trouble.in_row, extra={"event": event})

    def over(self, meter_id: str) -> None:
        """The meter was read."""
        trouble = self._of.pop(meter_id, None)
        if trouble is not None and trouble.told:
            LOG.warning(
                "meter %s is read again after %.0f s and %d failed attempts",
                meter_id,
                self._monotonic() - trouble.since,
                trouble.in_row,
                extra={"event": "meter.recovered"},
            )

    def of(self, meter_id: str) -> Reason | None:
        """Return what is wrong with a meter; `None` for nothing, or for something that may pass."""
        trouble = self._of.get(meter_id)
        return trouble.kind if trouble is not None and trouble.told else None


@dataclass(frozen=True, slots=True)
class Count:
    """The meters of one run. `waiting`: not read yet, and nothing is known that would prevent it; `flawed`: read, with
    errors in the place of values."""

    total: int
    read: int
    waiting: int = 0
    silent: int = 0
    failing: int = 0
    absent: int = 0
    flawed: int = 0

    @property
    def unread(self) -> int:
        """The meters that something is wrong with."""
        return self.silent + self.failing + self.absent

    def text(self) -> str:
        """`2 of 4 read, 1 with errors, 1 silent, 1 absent`."""
        names = ("waiting", "silent", "failing", "absent")
        rest = [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]
        flawed = [f"{self.flawed} with errors"] if self.flawed else []
        return ", ".join([f"{self.read} of {self.total} read", *flawed, *rest])


def count(read: set[str], meters: Sequence[MeterStatus], troubles: Troubles, flawed: Collection[str] = ()) -> Count:
    """Sort all meters that ought to have been read."""
    waiting = silent = failing = absent = done = 0
    for meter in meters:
        trouble = troubles.of(meter.meter_id)
        if meter.meter_id in read:
            done += 1
        elif meter.state == "left":
            absent += 1
        elif trouble is Reason.SILENT:
            silent += 1
        elif trouble is not None:
            failing += 1
        else:
            waiting += 1
    with_errors = sum(meter.meter_id in read and meter.meter_id in flawed for meter in meters)
    return Count(len(meters), done, waiting, silent, failing, absent, with_errors)


@dataclass(slots=True)
class RunTally:
    """A task's newest run: the meters that were read for it, those with errors, and how many are being visited now.
    `told`: the log has its summary; `begun`: something happened in this life of the process."""

    run: int = 0
    read: set[str] = field(default_factory=set)
    flawed: set[str] = field(default_factory=set)
    active: int = 0
    told: bool = False
    begun: bool = False

    def begin(self, run: int) -> None:
        self.run, self.read, self.flawed, self.told = run, set(), set(), False

    def recall(self, meter_id: str, run: int) -> None:
        """An earlier life has read this meter for this run."""
        if run > self.run:
            self.begin(run)
        if run == self.run:
            self.read.add(meter_id)

    def count(self, meters: Sequence[MeterStatus], troubles: Troubles) -> Count:
        return count(self.read, meters, troubles, self.flawed)
