"""Whether the head-end knows the truth: every interval of every meter once and right, or listed as missing."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.metering.ledger.ledger import READ, RENAMED, WITHDRAWN
from agent.metering.scheduling.slots import CORRECTION_S
from dlms.simulator.meter import CLOCK_CLASS
from headend.metering.gap_lists import NOT_LISTED
from headend.metering.missing import HERE
from omadm.readings import GapReport, Record
from tests.sim.world.meters import FIRST_VALUE, PROFILE, REGISTER, SECOND, SECOND_MORE, Measured, WorldMeter
from tests.sim.world.plan import DAY_S, HOUR_S, Plan, runs_of
from tests.sim.world.world import FIRST_DAYS, REGISTER_TASK, World

# How a range is closed in which slots may be missing no more; all else is a reason for which it was given up.
NOT_GIVEN_UP = (READ, WITHDRAWN, RENAMED, NOT_LISTED, HERE)
COLUMNS = (str(REGISTER.obis), str(SECOND.obis))
OLD_IN_RING_S = 12 * HOUR_S  # what is older may be overwritten before the meter is read for the first time
VISIT_S = 600.0  # so long after the next run has begun a visit may still go on
LOST_S = 2.0  # at most, where answers take 50 ms: what is learned, doubled once
LOST_LONGEST_S = 5.0  # in all other cases, and where answers take four seconds: the longest that one may take
INSTANT_S = 0.05  # times are rounded, and an answer that is lost was on its way
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
    for name in world.strange:
        found += _stranger(world, name, {record.run for record in records if _is_slot(record, name)}, gone)
    found += world.picture.wrong + world.picture.flood() + _lost_frames(world)
    names = {meter.id for meter in world.meters} | world.strange.keys()
    found += [f"{record.meter}: no meter of this name" for record in records if record.meter not in names]
    if world.store.stats().pending:
        found.append(f"{world.store.stats().pending} records are still on the device")
    return found


def _lost_frames(world: World) -> list[str]:
    """A lost frame costs no more than what was learned of its node, and none more than the longest time in which a
    meter may answer. The latter it may cost where orders are: what changes something is not asked for twice."""
    return [
        f"{network_name}: the frame that was lost at {loss.at - world.began:.1f} cost {loss.cost_s:.1f} s"
        for network_name, network in zip((port.name for port in world.ports), world.networks, strict=True)
        for loss in network.losses.known
        if loss.cost_s
        > INSTANT_S + (LOST_S if loss.alone and not (world.plan.slow or world.changes_meters) else LOST_LONGEST_S)
    ]


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
    seconds: dict[int, list[Record]] = defaultdict(list)
    wrong: list[str] = []
    for record in records:
        if _is_row(record):  # and not the time stamp of a row whose instant is not known
            if record.obis not in COLUMNS or record.value is None or record.tag != "u32":
                wrong.append(f"{meter.id}: a cell {record.obis} {record.tag} {record.raw}")
            elif record.obis == str(SECOND.obis):
                seconds[int(record.value) - SECOND_MORE].append(record)
            else:
                cells[int(record.value)].append(record)
    wrong += [f"{meter.id}: a second column without its row, {value}" for value in seconds.keys() - cells.keys()]
    wrong += [f"{meter.id}: row {value} came {len(cells[value])} times, its second column {len(got)} times"
              for value, got in seconds.items() if len(got) != len(cells[value])]  # fmt: skip
    young = world.civil() - SLACK_S
    old = world.plan.start.timestamp() - (OLD_IN_RING_S if world.plan.ring else (FIRST_DAYS - 1) * DAY_S)
    excused = gone.values(meter.id) | _cleared(world, meter, set(cells))
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


def _cleared(world: World, meter: WorldMeter, got: set[int]) -> set[int]:
    """Values of the rows that were in the buffer, and not yet read, when it was cleared: the last ones before that. In
    a calm world they are those since the last run."""
    rows = [row for row in meter.measured if row.true_time <= meter.changed_at]
    if not math.isfinite(meter.changed_at):
        return set()
    since = max((row.true_time for row in rows if row.value in got), default=-math.inf)
    if world.plan.calm:
        since = max(since, meter.changed_at - world.plan.every_s - world.plan.period_s)
    return {row.value for row in rows if row.true_time > since}


def _right_time(row: Measured, record: Record) -> bool:
    """A time that is not known may be left open; one that is given is right."""
    return record.meter_time is None or datetime.fromisoformat(record.meter_time) == row.moment.astimezone(UTC)


def _registers(world: World, meter: WorldMeter, records: list[Record], gone: Gone) -> list[str]:
    """A register is read at most once for a slot, and its value is one that the meter had."""
    runs: dict[int, int] = defaultdict(int)
    errors: set[int] = set()
    wrong: list[str] = []
    values = {row.value for row in meter.measured} | {FIRST_VALUE * meter.serial}
    due = _due(world.plan, int(world.civil() - SLACK_S))
    for record in records:
        if record.profile is None and record.obis == str(REGISTER.obis) and record.error is None:
            if record.value is None or int(record.value) not in values:
                wrong.append(f"{meter.id}: a register value {record.raw} that it never had")
            elif record.trusted and record.run in due and int(record.value) not in _values(meter, due, record.run):
                wrong.append(f"{meter.id}: a register value {record.raw} of another time than {_shown(record.run)}")
            if record.trusted and record.task == REGISTER_TASK:
                runs[record.run] += 1
        elif record.profile is None and record.obis == str(REGISTER.obis) and record.trusted:
            errors.add(record.run)
    if errors and not any(one.what == "ail" for one in world.plan.happenings):
        wrong.append(f"{meter.id}: errors in place of values, at {[_shown(run) for run in sorted(errors)]}")
    wrong += _account(world, meter.id, set(runs) | errors, due, gone)
    wrong += [f"{meter.id}: the slot {_shown(run)} was read {count} times"
              for run, count in runs.items() if count > 1]  # fmt: skip
    wrong += [f"{meter.id}: {_shown(run)} is no time of the task"
              for run in runs if run not in due and due.start <= run < due.stop]  # fmt: skip
    return wrong


def _values(meter: WorldMeter, due: Slots, run: int) -> set[int]:
    """The values that the meter had while a slot could be read."""
    at = bisect_right(due.runs, run)
    until = due.runs[at] + VISIT_S if at < len(due.runs) else math.inf
    first = max(0, bisect_right(meter.measured, run - CORRECTION_S, key=lambda row: row.true_time) - 1)
    last = bisect_right(meter.measured, until, key=lambda row: row.true_time)
    return {row.value for row in meter.measured[first:last]} | ({FIRST_VALUE * meter.serial} if not first else set())


def _account(world: World, meter: str, read: set[int], due: Slots, gone: Gone) -> list[str]:
    """A slot that was read is not listed as missing; one that was not is, or was given up for a reason. What counts is
    what the head-end says in the end, and not what it was told in between."""
    rows = [row for row in world.headend.ranges() if row["meter"] == meter and row["task"] == REGISTER_TASK]
    missing = [row for row in rows if row["state"] == "open"]
    given_up = [row for row in rows if row["state"] == "closed" and row["how"] not in NOT_GIVEN_UP]
    told = [gap for gap in gone.gaps if gap.meter == meter and gap.task == REGISTER_TASK]
    known = gone.runs(meter) | read
    first = min((one.run for one in world.headend.kept.values() if _is_slot(one, meter)), default=2**40)
    first = max(first, int(world.plan.start.timestamp()) - 1)  # before that there was no meter, whatever a clock said
    wrong = [f"{meter}: the slot {_shown(run)} is neither read nor listed"
             for run in due if run > first and run not in known and not _within(run, missing)
             and not _within(run, given_up) and not any(_covers(gap, run) for gap in told)]  # fmt: skip
    wrong += [f"{meter}: the slot {_shown(run)} was read, and is listed as missing"
              for run in due if run in read and _within(run, missing)]  # fmt: skip
    wrong += [f"{meter}: {_shown(row['first'])} to {_shown(row['last'] or row['first'])} is listed as missing, which"
              " was never owed"
              for row in missing if row["first"] < due.start or (row["last"] or 0) > world.civil()]  # fmt: skip
    return wrong


def _stranger(world: World, meter: str, read: set[int], gone: Gone) -> list[str]:
    """A meter that was read once and is not there any more owes until somebody says that it is gone for good. Its
    newest slot could be read still."""
    newest = max(_due(world.plan, int(world.civil())))
    due = _due(world.plan, min(newest, int(world.civil() - SLACK_S)))
    return _account(world, meter, read, due, gone) if read else []


def _within(run: int, rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["first"] <= run and (row["last"] is None or run <= row["last"]) for row in rows)


def _shown(run: int) -> str:
    return f"{datetime.fromtimestamp(run, UTC):%d %H:%M}"


def _is_slot(record: Record, meter: str) -> bool:
    return record.meter == meter and record.task == REGISTER_TASK and record.profile is None and record.trusted


def _due(plan: Plan, until: int) -> Slots:
    """The runs of the registers' task."""
    start = int(plan.start.timestamp() - DAY_S)
    return Slots(runs_of(plan, start, until), start, until)


def _covers(gap: GapReport, run: int) -> bool:
    return gap.gap != "doubted" and gap.first <= run and (gap.last is None or run <= gap.last)
