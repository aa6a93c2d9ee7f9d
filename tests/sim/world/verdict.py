"""Whether the head-end knows the truth: every interval of every meter once and right, or listed as missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from dlms.simulator.meter import CLOCK_CLASS
from omadm.readings import GapReport, Record
from tests.sim.world.meters import BERLIN, FIRST_VALUE, PROFILE, REGISTER, Measured, WorldMeter
from tests.sim.world.plan import ALL_DAY, DAY_S, HOUR_S, Plan
from tests.sim.world.world import FIRST_DAYS, REGISTER_TASK, World

SLACK_S = 6.5 * HOUR_S  # the longest period of the task, and a run: what is younger need not be there yet


@dataclass(frozen=True, slots=True)
class Gone:
    """What the head-end had, lost, asked for again, and was told that the device has no more."""

    records: list[Record]
    gaps: list[GapReport]

    def values(self, meter: str) -> set[int]:
        """Values of rows of the load profile."""
        return {int(record.value or 0) for record in self.records if record.meter == meter and _is_row(record)}

    def runs(self, meter: str) -> set[int]:
        """Slots that were read."""
        return {record.run for record in self.records if record.meter == meter and record.task == REGISTER_TASK}


@dataclass(frozen=True, slots=True)
class Slots:
    """The runs of a task from `start` to `stop`."""

    runs: Sequence[int]
    start: int
    stop: int

    def __iter__(self) -> Iterator[int]:
        return iter(self.runs)

    def __contains__(self, run: object) -> bool:
        return run in self.runs


def violations(world: World) -> list[str]:
    """What is wrong, one line each; nothing in a good world."""
    records = world.headend.shown()
    found = [f"{record.meter} {record.id}: came twice with different content" for record in world.headend.different]
    gone = _gone(world, found)
    for meter in world.meters:
        own = [record for record in records if record.meter == meter.id]
        found += _intervals(world, meter, own, gone)
        found += _registers(world, meter, own, gone)
    names = {meter.id for meter in world.meters}
    found += [f"{record.meter}: no meter of this name" for record in records if record.meter not in names]
    if world.store.stats().pending:
        found.append(f"{world.store.stats().pending} records are still on the device")
    return found


def _gone(world: World, wrong: list[str]) -> Gone:
    """What a head-end that was put back does not get again. It gets all of it where nothing went wrong and the store
    keeps enough."""
    gone = Gone([], [])
    headend, plan = world.headend, world.plan
    for order in headend.orders():
        store = str(order["store"])
        if order["ended"] is None:
            wrong.append(f"the head-end wants {order['first']} to {order['last']} of {store} again, and gets no answer")
            continue
        ranges = order["gone"]
        if ranges and plan.calm and plan.keep_forwarded > order["last"] - order["first"]:
            wrong.append(f"{ranges} of {store} were gone when the head-end wanted them again")
        for first, last in ranges:
            numbers = range(first, last + 1)
            gone.records.extend(headend.kept[store, one] for one in numbers if (store, one) in headend.kept)
            gone.gaps.extend(headend.told[store, one] for one in numbers if (store, one) in headend.told)
    return gone


def _is_row(record: Record) -> bool:
    """Whether it is a cell of the load profile that has its row's value."""
    return record.profile == str(PROFILE) and record.error is None and record.cls != CLOCK_CLASS


def _intervals(world: World, meter: WorldMeter, records: list[Record], gone: Gone) -> list[str]:
    """The rows of the load profile."""
    cells: dict[int, list[Record]] = defaultdict(list)
    wrong: list[str] = []
    for record in records:
        if _is_row(record):  # and not the time stamp of a row whose instant is not known
            if record.obis != str(REGISTER.obis) or record.value is None or record.tag != "u32":
                wrong.append(f"{meter.id}: a cell {record.obis} {record.tag} {record.raw}")
            else:
                cells[int(record.value)].append(record)
    young = world.civil() - SLACK_S
    old = world.plan.start.timestamp() - (FIRST_DAYS - 1) * DAY_S
    excused = gone.values(meter.id)
    for row in meter.measured:
        got = cells.pop(row.value, [])
        if not got and old < row.true_time < young and row.value not in excused:
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


def _registers(world: World, meter: WorldMeter, records: list[Record], gone: Gone) -> list[str]:
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
    told = [*world.headend.gaps.values(), *gone.gaps]
    listed = [gap for gap in told if gap.meter == meter.id and gap.task == REGISTER_TASK]
    known = gone.runs(meter.id) | set(runs)
    first = next((one.run for one in world.headend.kept.values() if _is_slot(one, meter)), 2**40)  # as it came
    due = _due(world.plan, int(world.civil() - SLACK_S))
    wrong += [f"{meter.id}: the slot {datetime.fromtimestamp(run, UTC):%d %H:%M} is neither read nor listed"
              for run in due if run > first and run not in known
              and not any(_covers(gap, run) for gap in listed)]  # fmt: skip
    wrong += [f"{meter.id}: the slot {datetime.fromtimestamp(run, UTC):%d %H:%M} was read {count} times"
              for run, count in runs.items() if count > 1]  # fmt: skip
    wrong += [f"{meter.id}: {datetime.fromtimestamp(run, UTC):%d %H:%M} is no time of the task"
              for run in runs if run not in due and due.start <= run < due.stop]  # fmt: skip
    return wrong


def _is_slot(record: Record, meter: WorldMeter) -> bool:
    return record.meter == meter.id and record.task == REGISTER_TASK and record.profile is None and record.trusted


def _due(plan: Plan, until: int) -> Slots:
    """The runs of the registers' task, reckoned with the tz database, which the device does not have."""
    start = int(plan.start.timestamp() - DAY_S)
    calendar = plan.calendar
    if calendar is None:
        every = plan.register_every_s
        return Slots(range(start // every * every, until, every), start, until)
    found: set[int] = set()
    first = plan.start.date() - timedelta(days=2)
    for day in range(9):
        for hour in calendar.hours:
            for minute in calendar.minutes:
                local = datetime.combine(first + timedelta(days=day), time(hour, minute), BERLIN)
                both = len(calendar.hours) == len(ALL_DAY)  # every hour, and not that one: also the second time
                found |= {int(one.timestamp()) for one in (local, *([local.replace(fold=1)] if both else []))}
    return Slots(sorted(run for run in found if start <= run < until), start, until)


def _covers(gap: GapReport, run: int) -> bool:
    return gap.gap != "doubted" and gap.first <= run and (gap.last is None or run <= gap.last)
