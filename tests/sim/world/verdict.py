"""Whether the head-end knows the truth: every interval of every meter once and right, or listed as missing."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

from dlms.simulator.meter import CLOCK_CLASS
from omadm.readings import GapReport, Record
from tests.sim.world.meters import FIRST_VALUE, PROFILE, REGISTER, Measured, WorldMeter
from tests.sim.world.plan import DAY_S, HOUR_S
from tests.sim.world.world import FIRST_DAYS, REGISTER_TASK, World

SLACK_S = 6.5 * HOUR_S  # the longest period of the task, and a run: what is younger need not be there yet


def violations(world: World) -> list[str]:
    """What is wrong, one line each; nothing in a good world."""
    records = world.headend.shown()
    found = [f"{record.meter} {record.id}: came twice with different content" for record in world.headend.different]
    for meter in world.meters:
        own = [record for record in records if record.meter == meter.id]
        found += _intervals(world, meter, own)
        found += _registers(world, meter, own)
    names = {meter.id for meter in world.meters}
    found += [f"{record.meter}: no meter of this name" for record in records if record.meter not in names]
    if world.store.stats().pending:
        found.append(f"{world.store.stats().pending} records are still on the device")
    return found


def _intervals(world: World, meter: WorldMeter, records: list[Record]) -> list[str]:
    """The rows of the load profile."""
    cells: dict[int, list[Record]] = defaultdict(list)
    wrong: list[str] = []
    for record in records:
        if record.profile == str(PROFILE) and record.error is None:
            if record.cls == CLOCK_CLASS:
                continue  # the time stamp of a row whose instant is not known
            if record.obis != str(REGISTER.obis) or record.value is None or record.tag != "u32":
                wrong.append(f"{meter.id}: a cell {record.obis} {record.tag} {record.raw}")
            else:
                cells[int(record.value)].append(record)
    young = world.civil() - SLACK_S
    old = world.plan.start.timestamp() - (FIRST_DAYS - 1) * DAY_S
    for row in meter.measured:
        got = cells.pop(row.value, [])
        if not got and old < row.true_time < young:
            wrong.append(f"{meter.id}: row {row.value} of {row.moment:%d %H:%M} is missing")
        if len(got) > 1:
            wrong.append(f"{meter.id}: row {row.value} of {row.moment:%d %H:%M} came {len(got)} times")
        wrong += [f"{meter.id}: row {row.value} of {row.moment:%d %H:%M} is said to be of {record.meter_time}"
                  for record in got if not _right_time(row, record)]  # fmt: skip
    wrong += [f"{meter.id}: a row {value} that was never measured" for value in cells]
    return wrong


def _right_time(row: Measured, record: Record) -> bool:
    """A time that is not known may be left open; one that is given is right."""
    return record.meter_time is None or datetime.fromisoformat(record.meter_time) == row.moment.astimezone(UTC)


def _registers(world: World, meter: WorldMeter, records: list[Record]) -> list[str]:
    """A register is read at most once for a slot, and its value is one that the meter had."""
    runs: dict[int, int] = defaultdict(int)
    wrong: list[str] = []
    values = {row.value for row in meter.measured} | {FIRST_VALUE * meter.serial}
    for record in records:
        if record.profile is None and record.obis == str(REGISTER.obis) and record.error is None:
            if record.value is None or int(record.value) not in values:
                wrong.append(f"{meter.id}: a register value {record.raw} that it never had")
            if record.trusted and record.task == REGISTER_TASK:
                runs[record.run] += 1
    listed = [gap for gap in world.headend.gaps.values() if gap.meter == meter.id and gap.task == REGISTER_TASK]
    every = world.plan.register_every_s
    young = world.civil() - SLACK_S
    wrong += [f"{meter.id}: the slot {datetime.fromtimestamp(run, UTC):%d %H:%M} is neither read nor listed"
              for run in range(min(runs, default=2**40), int(young), every)
              if run not in runs and not any(_covers(gap, run) for gap in listed)]  # fmt: skip
    wrong += [f"{meter.id}: the slot {datetime.fromtimestamp(run, UTC):%d %H:%M} was read {count} times"
              for run, count in runs.items() if count > 1]  # fmt: skip
    return wrong


def _covers(gap: GapReport, run: int) -> bool:
    return gap.gap != "doubted" and gap.first <= run and (gap.last is None or run <= gap.last)
