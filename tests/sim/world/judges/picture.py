"""Whether the picture that the device gives is the world: what a task's last result, the check of the meters and the
log say, beside what happened to each meter.

    run ─── SETTLED_S ──► the picture of this run stands, unless something happened from BEFORE_S before the run on

A picture that stands is known to the letter: of each meter, what was so when it was asked last. One that does not may
say less than is so, and never more: no meter counts as read that was not. What is logged of meters is counted: a state
that lasts is said once, in each life of the daemon.
"""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.sim.world.plan import DAY_S, runs_of

if TYPE_CHECKING:
    from tests.sim.world.meters import WorldMeter
    from tests.sim.world.world import World

BEFORE_S = 1800.0  # the list of nodes is read every quarter of an hour, and may be lost once
SETTLED_S = 900.0  # after a run: a meter has been asked as often as it will be
LOOK_EVERY_S = 600.0
SLACK_S = 130.0  # what a clock may be corrected by without a run being another one
TROUBLES = "agent.metering.scheduling.tasks"
SAID = ("meter.silent", "meter.failing", "meter.recovered")
STATES = ("silent", "failing", "absent")
WRONG_MAX = 20


class Picture:
    """`look` compares; what was found to be wrong is in `wrong`, `looks` counts pictures that stood."""

    def __init__(self, world: World) -> None:
        self.wrong: list[str] = []
        self.looks = 0
        self.said: Counter[str] = Counter()  # by meter: what was logged of it
        self._world = world
        self._check: tuple[bool, str] = (True, "")
        plan = world.plan
        begin = plan.start.timestamp() - DAY_S
        self._runs = sorted(runs_of(plan, begin, begin + plan.end_s + 2 * DAY_S))

    def checked(self, ok: bool, detail: str) -> None:
        """The daemon publishes the check of its meters."""
        self._check = ok, detail

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Count what is logged of meters."""
        handler = _Counting(self.said)
        logger = logging.getLogger(TROUBLES)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def look(self) -> None:
        """Compare what the daemon says with what is so. Called every `LOOK_EVERY_S`."""
        world, now = self._world, self._world.clock.now
        wall = world.clock.wall()
        at = bisect_right(self._runs, wall)
        if not world.clock.is_trusted or world.told_off_s or abs(wall - world.civil()) > 1.0 or not at:
            return
        run = self._runs[at - 1]
        since = run - world.true_offset  # in the world's time
        if world.disturbed_at > since - BEFORE_S or now < since + SETTLED_S:
            return
        if any(line.broken or line.closed or line.swallows for line in world.lines):
            return
        if any(network.faults.silent for network in world.networks):
            return
        if world.strangers or any(meter.ails for meter in world.meters):  # of a run they may answer all or nothing
            return
        status = world.collector.task_status(world.register_task)
        result, last_run = status.last_result, status.last_run
        if last_run != run:
            self._note(f"the last run is said to be {last_run}, it was {run}")
            return
        read = sum(meter.read_at >= run - SLACK_S for meter in world.meters)
        said = int(result.partition(" ")[0])
        if "with errors" in result:
            read = sum(max(meter.read_at, meter.erred_at) >= run - SLACK_S for meter in world.meters)
        if said > read:
            self._note(f"{result!r} is said of the run {run}, and {read} meters were read")
        if any(meter.disturbed_at > run - BEFORE_S for meter in world.meters):
            return
        self.looks += 1
        truth = self._text(world.meters, self._displaced())
        if self._told(result) != self._told(truth):
            self._note(f"{result!r} is said of the run {run}, and {truth!r} is so")
        details = [f"{port.name}: {self._text(world.meters[number :: len(world.ports)], self._displaced(number))}"
                   for number, port in enumerate(world.ports)]  # fmt: skip
        good = all(self._condition(meter) == "" for meter in world.meters) and not self._displaced()
        checked, detail = self._check
        if checked != good or list(map(self._told, detail.split("; "))) != list(map(self._told, details)):
            self._note(f"the check says {self._check}, and {good}, {details} is so")

    def flood(self) -> list[str]:
        """Meters of which more was logged than has happened to them."""
        world = self._world
        found: list[str] = []
        for meter in world.meters:
            allowed = 2 * (1 + meter.disturbances + world.disturbances)
            if self.said[meter.id] > allowed:
                found.append(f"{meter.id}: {self.said[meter.id]} lines in the log, of at most {allowed} changes")
        return found

    def _text(self, meters: list[WorldMeter], displaced: int) -> str:
        conditions = Counter(self._condition(meter) for meter in meters)
        conditions["absent"] += displaced
        rest = [f"{conditions[name]} {name}" for name in STATES if conditions[name]]
        return ", ".join([f"{conditions['']} of {len(meters) + displaced} read", *rest])

    def _displaced(self, port: int | None = None) -> int:
        """How many meters that did not belong here, and are not there any more, have told the device their names."""
        registry = self._world.collector.registry
        known = [name for name, number in self._world.strange.items() if port in (None, number)]
        return sum(registry.find(name) is not None for name in known)

    def _told(self, text: str) -> Counter[str]:
        """What a text says, to be compared. A meter that does not answer on a bus is silent, or absent where the port
        was opened since, and the meter not found."""
        told: Counter[str] = Counter()
        for part in text.split(", "):
            count, _, state = part.partition(" ")
            if state in STATES:
                told["silent" if self._world.plan.bus and state == "absent" else state] += int(count)
            else:
                told[part] = 1
        return told

    def _condition(self, meter: WorldMeter) -> str:
        network = self._world.network_of(meter)
        if not network.is_joined(meter.id):
            return "absent"
        if network.is_deaf(meter.id):
            # One that has refused its password is not asked for a while: that it is silent by now nobody can know.
            return "failing" if meter.refused and meter.id not in network.unheard else "silent"
        return "failing" if meter.refuses else ""

    def _note(self, wrong: str) -> None:
        if len(self.wrong) < WRONG_MAX:
            hours = (self._world.clock.now - self._world.began) / 3600
            self.wrong.append(f"after {hours:.1f} h: {wrong}")


class _Counting(logging.Handler):
    """Counts lines by the meter that they are of."""

    def __init__(self, said: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", "") in SAID and isinstance(record.args, tuple):
            self._said[str(record.args[0])] += 1
