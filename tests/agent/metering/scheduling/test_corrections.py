"""What a step of the clock does to slots: every jump, at every moment, for every kind of task, with and without a kill
(docs/decisions/0011). Over the book of tasks and its store.

The truth is a line of its own: a true time that only goes on, a machine's clock that is ahead of it by something, and
evidence that comes or does not. What is read and listed is judged by the truth, not by what the code believes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.clock import KERNEL, SystemClock
from agent.clock_floor import ClockFloor
from agent.clock_trust import TOLERANCE_S, Evidence
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.scheduling.slots import CORRECTION_S
from agent.metering.scheduling.tasks import TaskBook
from agent.metering.store.reading_store import Store
from agent.settings.provisioning import Provisioning, ReadingTask
from agent.status import MeterStatus
from omadm.readings import Reading
from omadm.schedule import Schedule

QUARTER, HOUR, DAY = 900, 3600, 86_400
NOON = 1_800_014_400  # 2027-01-15T12:00:00Z
MIDNIGHT = NOON + 12 * HOUR
METER = "KFM1"
LIST = "obis,cls,attr,type\n1.0.1.8.0.255,3,2,\n"


def every(every_s: int) -> ReadingTask:
    return ReadingTask("t1", every_s, "list")


def calendar(times: str, zone: str) -> ReadingTask:
    return ReadingTask("t1", 0, "list", times=times, zone=zone)


@dataclass(frozen=True)
class Jump:
    """The clock is `there` ahead of the truth for `lasts_s`, then right; `before`: what it was at the start."""

    name: str
    there: float
    lasts_s: float
    before: float = 0.0


JUMPS = [
    Jump("back 2 h", -2 * HOUR, 3 * HOUR),
    Jump("back 2 h for an hour", -2 * HOUR, HOUR),
    Jump("back 1 min", -60.0, 3 * HOUR),
    Jump("ahead 1 day for ten minutes", DAY, 600.0),
    Jump("ahead 1 h", HOUR, 3 * HOUR),
    Jump("1970, then now", -NOON + 3 * HOUR, 600.0, before=-NOON + 3 * HOUR),
    Jump("now, 1970, now", -NOON + 3 * HOUR, 900.0),
    Jump("40 days behind, then now", -40.0 * DAY, 3 * HOUR, before=-40.0 * DAY),
    Jump("now, 40 days behind, now", -40.0 * DAY, 3 * HOUR),
]
SOME_JUMPS = [jump for jump in JUMPS if jump.name in ("back 2 h", "back 1 min", "ahead 1 h")]
AT_MIDNIGHT = ("daily", "local midnight, set forward", "local midnight, set back")
MOMENTS = {"before": -300.0, "during": 3.0, "just after": 12.0, "across midnight": MIDNIGHT - NOON - 120.0}
# Local clocks are set forward, or back, at the midnight (23:00 in UTC) around which the jumps are.
FORWARD, BACK = "AAA-1BBB,J16/0,J300/0", "BBB0AAA-1,J300/0,J16/0"
KINDS = {
    "hourly": every(HOUR),
    "quarter-hour": every(QUARTER),
    "daily": every(DAY),
    "local midnight, set forward": calendar("0 0 * * *", FORWARD),
    "local midnight, set back": calendar("0 0 * * *", BACK),
    "three times a local day, set forward": calendar("30 0,6,18 * * *", FORWARD),
    "every local half-hour, set back": calendar("*/30 * * * *", BACK),
}
KILLS = {"no kill": (), "a kill in between": (0.5,), "a kill just before the end": (0.99,), "three": (0.0, 0.5, 1.0)}
RESTARTS = {"as the clock steps": (0.0,), "once it is right": (0.0, 1.0), "in between": (0.1, 0.5, 1.0, 1.3)}
UNHEARD_S = 1.5 * HOUR  # after a correction, until something vouches for it
BEFORE_S = 5 * HOUR


class World:
    """One meter and one task. `ahead`: how far the machine's clock is ahead of the truth; `synchronised`: the kernel
    is; `lies`: the time server follows every jump and says that it is right; `deaf`: when the meter answers nothing."""

    name = KERNEL

    def __init__(
        self,
        folder: Path,
        task: ReadingTask,
        true: float,
        *,
        ahead: float,
        synchronised: bool,
        lies: bool,
        reboots: bool,
    ) -> None:
        (folder / "list.csv").write_text(LIST)
        self.folder, self.task, self.lies, self.reboots, self.boot = folder, task, lies, reboots, "b"
        self.true = self.began = true
        self.ahead, self.synchronised = ahead, synchronised
        self.jumped = 0.0
        self.deaf: list[tuple[float, float]] = []
        self.made: dict[int, float] = {}  # true times of readings, by the ids of their records
        self.clock = self.made_anew()
        self.joined = self.clock.wall()
        self.start()

    def made_anew(self) -> SystemClock:
        floor = ClockFloor(built=NOON - 100 * DAY)
        return SystemClock([self], floor=floor, monotonic=self.monotonic, system=self.system)

    def start(self) -> None:
        self.store = Store(self.folder / "readings.db", self.clock, records_max=10**6, keep_forwarded_max=10**6)
        self.book = TaskBook(
            self.store,
            ReadingLists(self.folder, self.folder / "software"),
            self.clock,
            catch_up_s=DAY,
            meters=lambda: [MeterStatus(METER, "plc0", 1, "read", self.joined)],
            boot=self.boot,
        )
        self.book.configure(Provisioning(tasks=(self.task,)))

    def kill(self, *, forgetful: bool = False) -> None:
        """`forgetful`: what vouched for the clock is forgotten with the process."""
        self.store.close()  # which lets the file go, and does no more
        if forgetful:
            self.clock = self.made_anew()
        if self.reboots:
            self.boot += "+"
        self.start()

    # ---- time

    def monotonic(self) -> float:
        return self.true - self.began + 1000.0

    def system(self) -> float:
        return self.true + self.ahead

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        return Evidence(KERNEL, monotonic, wall - monotonic, 0.1) if self.synchronised else None

    def jump(self, ahead: float) -> None:
        self.ahead, self.synchronised, self.jumped = ahead, self.lies, self.true

    def run(self, until: float) -> None:
        """Let time pass, in small steps around the jumps and around runs, as the device believes in them."""
        while self.true < until:
            wall = self.clock.wall()
            step = min(max(self.task.schedule.next(wall) + 5.0 - wall, 5.0), 1800.0)
            if self.true - self.jumped < 300:
                step = min(step, 20.0)
            self.true = min(self.true + step, until)
            self.book.tick()
            runs = self.book.owed(METER)
            if runs and not any(first <= self.true < last for first, last in self.deaf):
                trusted = self.book.vouches(runs)
                readings = [reading(owed.run, self.clock.wall(), trusted=trusted) for owed in runs]
                self.book.began(runs)
                marks = self.book.marks(METER, runs if trusted else [], final=True)
                first, _ = self.store.append(readings, marks)
                self.made[first] = self.true
                self.book.ended(runs, METER, ok=True, final=True, trusted=trusted)

    # ---- what the head-end makes of it

    def readings(self) -> dict[int, list[tuple[float, bool]]]:
        """Of each run the true times of its readings, and whether they are trusted in the end."""
        batch = self.store.batch(5000)
        assert batch is not None
        records = batch.records
        trusted = {one["id"]: bool(one["trusted"]) for one in records if "obis" in one}
        runs = {one["id"]: int(str(one["run"])) for one in records if "obis" in one}
        for one in records:
            if one.get("gap") in ("doubted", "confirmed"):
                assert int(str(one["highest"])) < int(str(one["id"])), "a verdict on what is yet to come"
                for number, run in runs.items():
                    within = int(str(one["first"])) <= run <= int(str(one["last"]))
                    if within and int(str(one["lowest"])) <= int(str(number)) <= int(str(one["highest"])):
                        trusted[number] = one["gap"] == "confirmed"
        found: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        for number, run in runs.items():
            found[run].append((self.made[int(str(number))], trusted[number]))
        return found

    def listed(self) -> list[tuple[int, int]]:
        return [(gap.first, gap.last) for gap, _ in self.book.gaps()]


def reading(run: int, wall: float, *, trusted: bool) -> Reading:
    return Reading("t1", METER, 3, "1.0.1.8.0.255", 2, "u32", 1, 0, 30, None, wall, trusted, None, run)


def world(
    folder: Path,
    jump: Jump,
    moment: str,
    kind: str,
    *,
    lies: bool,
    kills: Sequence[float] = (),
    reboots: bool = False,
    forgetful: bool = False,
) -> World:
    """Run one case to well after the correction. `kills`: at these parts of the jump; those of `forgetful` ones that
    are at its end or later are at these parts of the time until something vouches for the clock again."""
    at_true = (MIDNIGHT if kind in AT_MIDNIGHT and moment != "across midnight" else NOON) + MOMENTS[moment]
    task = KINDS[kind]
    longest_s = task.every_s or max(
        b - a for a, b in itertools.pairwise(task.schedule.between(int(NOON - 3 * DAY), int(NOON + 3 * DAY)))
    )
    began = at_true if jump.before else at_true - BEFORE_S
    made = World(folder, task, began, ahead=jump.before, synchronised=not jump.before, lies=lies, reboots=reboots)
    end = at_true + jump.lasts_s
    made.deaf = [(at_true - 2.2 * HOUR, at_true - 1.1 * HOUR), (at_true + 0.4 * jump.lasts_s, end - 0.4 * jump.lasts_s),
                 (end + 0.9 * HOUR, end + 2.1 * HOUR)]  # fmt: skip
    made.run(at_true)
    made.jump(jump.there)
    for part in kills:
        if part < 1.0 or not forgetful:
            made.run(at_true + part * jump.lasts_s)
            made.kill(forgetful=forgetful)
    made.run(end)
    made.jump(0.0)
    for part in kills:
        if part >= 1.0 and forgetful:
            made.run(end + (part - 1.0) * UNHEARD_S)
            made.kill(forgetful=True)
    made.run(end + (UNHEARD_S if forgetful else 30.0))
    made.synchronised = True
    made.run(made.true + 5 * HOUR + longest_s)
    return made


cases = pytest.mark.parametrize(
    ("jump", "moment", "kind"),
    [
        pytest.param(jump, moment, kind, id=f"{jump.name}, {moment}, {kind}")
        for jump, moment, kind in itertools.product(JUMPS, MOMENTS, KINDS)
    ],
)


def in_slot(schedule: Schedule, run: int, true: float, off_s: float) -> bool:
    """Whether a reading at this true time is one of that slot; a correction that keeps an epoch keeps its runs."""
    kept_s = abs(off_s) if abs(off_s) <= CORRECTION_S else TOLERANCE_S
    return run - kept_s <= true < schedule.next(run) + kept_s


def judge(made: World, jump: Jump) -> Mapping[int, list[tuple[float, bool]]]:
    """Each slot was read, once and right, and is not listed; or it is listed."""
    schedule, readings, listed = made.task.schedule, made.readings(), made.listed()
    for run, found in readings.items():
        right = [true for true, trusted in found if trusted]
        assert all(in_slot(schedule, run, true, jump.there) for true in right), (
            "a wrong reading is trusted",
            run,
            found,
        )
        assert len(right) <= 1, ("a slot was read twice", run, found)
    newest = schedule.newest(made.true)
    first = min((run for run, found in readings.items() if any(trusted for _, trusted in found)), default=newest)
    for slot in schedule.between(first, schedule.previous(newest)):
        read = any(trusted for _, trusted in readings.get(slot, []))
        missing = any(begin <= slot <= end for begin, end in listed)
        assert read or missing, ("a slot is neither read nor listed", slot, listed)
        assert not (read and missing), ("a slot was read, and is listed", slot, listed)
    assert all(made.began - 2 * DAY < begin <= end <= newest for begin, end in listed), listed
    assert any(trusted for _, trusted in readings[newest])
    return readings


@pytest.mark.slow
@cases
def test_a_jump_without_evidence_costs_no_slot_and_repeats_none_and_no_reading_in_doubt_is_trusted(
    tmp_path: Path, jump: Jump, moment: str, kind: str
) -> None:
    made = world(tmp_path, jump, moment, kind, lies=False)
    readings = judge(made, jump)
    # A slot is past saving when nobody knew the time from its beginning to its end, or the meter was deaf all the time.
    blind = made.began + jump.lasts_s + 60 if jump.before else 0.0
    schedule = made.task.schedule
    for slot in schedule.between(schedule.next(made.began), schedule.newest(made.true)):
        deaf = any(first <= slot and schedule.next(slot) <= last + 60 for first, last in made.deaf)
        near = any(first - QUARTER <= slot <= last + QUARTER for first, last in made.deaf)
        if schedule.next(slot) > blind and not deaf and not near:
            assert sum(trusted for _, trusted in readings[slot]) == 1, (slot, readings[slot])


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS)
@cases
def test_what_a_lying_time_server_made_of_slots_is_undone(
    tmp_path: Path, jump: Jump, moment: str, kind: str, kills: str
) -> None:
    judge(world(tmp_path, jump, moment, kind, lies=True, kills=KILLS[kills]), jump)


@pytest.mark.slow
@pytest.mark.parametrize("restarts", RESTARTS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["hourly", "daily", "every local half-hour, set back"])
@pytest.mark.parametrize("jump", SOME_JUMPS, ids=lambda jump: jump.name)
def test_a_process_that_forgets_what_vouched_for_the_clock_leaves_no_slot_unread_and_unlisted(
    tmp_path: Path, jump: Jump, moment: str, kind: str, restarts: str
) -> None:
    judge(world(tmp_path, jump, moment, kind, lies=False, kills=RESTARTS[restarts], forgetful=True), jump)


def test_what_is_said_of_a_run_is_of_the_clock_that_is_right(tmp_path: Path) -> None:
    made = World(tmp_path, every(HOUR), NOON - HOUR, ahead=0.0, synchronised=True, lies=True, reboots=False)
    made.run(NOON + QUARTER)
    made.jump(DAY)
    made.run(NOON + 2 * QUARTER)
    ahead = made.book.status("t1")
    assert (ahead.last_run, ahead.last_result) == (NOON + DAY, "1 of 1 read")
    made.jump(0.0)
    made.run(NOON + 3 * QUARTER)
    again = made.book.status("t1")
    assert (again.last_run, again.last_result) == (NOON, "1 of 1 read")
    made.deaf = [(NOON + DAY - 2 * HOUR, NOON + 2 * DAY)]
    made.run(NOON + DAY + 60)
    later = made.book.status("t1")
    assert (later.last_run, later.last_result) == (NOON + DAY, "0 of 1 read, 1 waiting"), "not the one of the same name"


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_start_of_the_device_lists_nothing_that_was_read(tmp_path: Path, moment: str, kind: str) -> None:
    calm = Jump("none", 0.0, 2 * HOUR)
    judge(world(tmp_path, calm, moment, kind, lies=True, kills=(0.0, 0.3, 0.9), reboots=True), calm)
