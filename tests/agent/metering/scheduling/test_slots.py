"""Slots and trust: every jump of the clock, at every moment, for every kind of task (docs/decisions/0011).

The truth is a line of its own: a true time that only goes on, a machine's clock that is ahead of it by something, and
evidence that comes or does not. What is read is judged by the truth, not by what the code believes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest

from agent.clock import KERNEL, TOLERANCE_S, Evidence, SystemClock
from agent.metering.scheduling.slots import CORRECTION_S, ERAS_MAX, Done, Moment, Slots
from agent.metering.scheduling.tasks import UNTRUSTED_HOLD_S
from agent.settings.provisioning import ReadingTask

QUARTER, HOUR, DAY = 900, 3600, 86_400
NOON = 1_800_014_400  # 2027-01-15T12:00:00Z
MIDNIGHT = NOON + 12 * HOUR
METER = "KFM1"


def task(every_s: int = QUARTER, offset_s: int = 0, *, enabled: bool = True) -> ReadingTask:
    return ReadingTask("t1", every_s, "residential", offset_s=offset_s, enabled=enabled)


def calendar(times: str, zone: str) -> ReadingTask:
    return ReadingTask("t1", 0, "residential", times=times, zone=zone)


def at(wall: float, *, trusted: bool = True, monotonic: float | None = None) -> Moment:
    """A moment of a clock that never jumped, unless `monotonic` says otherwise."""
    return Moment(wall - NOON + 1000 if monotonic is None else monotonic, wall, trusted)


def note(slots: Slots, one: ReadingTask, run: int, now: Moment) -> None:
    durable = slots.next(METER, one.task_id, run, now) if now.trusted else None
    slots.note(one, METER, run, now.offset, now.monotonic, durable)


# --- one rule ---


def test_a_meter_owes_the_newest_run_until_it_was_read() -> None:
    slots = Slots()
    assert slots.owed(task(), METER, at(NOON + 5), DAY) == NOON
    note(slots, task(), NOON, at(NOON + 5))
    assert slots.owed(task(), METER, at(NOON + 5), DAY) is None
    assert slots.owed(task(), METER, at(NOON + 900), DAY) == NOON + 900
    assert slots.owed(task(), METER, at(NOON + 9005), DAY) == NOON + 9000


def test_what_an_earlier_life_has_read_counts() -> None:
    slots = Slots({(METER, "t1"): Done(NOON)})
    assert slots.owed(task(), METER, at(NOON + 5), DAY) is None
    assert slots.owed(task(), METER, at(NOON + 900), DAY) == NOON + 900
    assert slots.owed(task(), "another", at(NOON + 5), DAY) == NOON


def test_a_run_is_not_made_up_after_the_catch_up_time() -> None:
    slots = Slots()
    assert slots.owed(task(DAY), METER, at(MIDNIGHT + 3600), 3600) == MIDNIGHT
    assert slots.owed(task(DAY), METER, at(MIDNIGHT + 3601), 3600) is None


def test_a_disabled_task_owes_nothing_and_neither_does_the_time_before_the_first_run() -> None:
    assert Slots().owed(task(enabled=False), METER, at(NOON), DAY) is None
    assert Slots().owed(task(DAY, 7200), METER, at(5.0), DAY) is None


def test_a_run_of_an_earlier_life_that_lies_in_the_future_counts_for_nothing_and_the_one_before_it_counts() -> None:
    slots = Slots({(METER, "t1"): Done(NOON + DAY, before=NOON)})
    assert slots.owed(task(), METER, at(NOON + 5), DAY) is None
    assert slots.owed(task(), METER, at(NOON + 905), DAY) == NOON + 900
    assert [(one.was, one.done) for one in slots.corrections(at(NOON + 5))] == [(NOON + DAY, Done(NOON, NOON))]


@pytest.mark.parametrize("back_s", [1, 3, 59, CORRECTION_S - 5])
def test_a_clock_set_back_a_little_waits_and_repeats_nothing(back_s: float) -> None:
    slots = Slots()
    note(slots, task(), NOON, at(NOON + 1))
    later = at(NOON + 2 - back_s, monotonic=1002.0)
    assert slots.owed(task(), METER, later, DAY) is None
    assert slots.corrections(later) == []
    assert slots.owed(task(), METER, at(NOON + 900, monotonic=1900 + back_s), DAY) == NOON + 900


def test_what_was_read_under_a_doubtful_clock_counts_once_the_clock_is_proven() -> None:
    slots = Slots({(METER, "t1"): Done(NOON - HOUR)})
    for run in (NOON, NOON + 900, NOON + 3600):
        note(slots, task(), run, at(run + 5, trusted=False))
    (one,) = slots.corrections(at(NOON + 3700))
    assert (one.was, one.done) == (NOON - HOUR, Done(NOON + 3600, NOON - HOUR))
    assert (one.first, one.missed) == (NOON, ((NOON + 1800, NOON + 2700),))
    slots.corrected([one])
    assert slots.corrections(at(NOON + 3700)) == []
    assert slots.owed(task(), METER, at(NOON + 3700), DAY) is None


def test_what_was_read_under_a_clock_that_was_wrong_is_owed_again() -> None:
    slots = Slots()
    note(slots, task(), NOON, at(NOON + 5))
    ahead = at(NOON + 7205, monotonic=1010.0)
    note(slots, task(), NOON + 7200, ahead)
    (one,) = slots.corrections(at(NOON + 20))
    assert (one.was, one.done.run, one.first) == (NOON + 7200, NOON, 0)
    assert slots.owed(task(), METER, at(NOON + 20), DAY) is None
    assert slots.owed(task(), METER, at(NOON + 7200), DAY) == NOON + 7200


def test_eras_are_bounded() -> None:
    slots = Slots()
    for jump in range(20):
        note(slots, task(), NOON + jump * HOUR, at(NOON + jump * HOUR, monotonic=1000.0))
    assert sum(slots.done(METER, "t1", at(NOON + jump * HOUR, monotonic=1000.0)) > 0 for jump in range(20)) == ERAS_MAX


# --- jump x moment x kind of task ---


@dataclass
class World:
    """One meter and one task. `ahead`: of the truth, in seconds; `synchronised`: the kernel is."""

    task: ReadingTask
    true: float
    ahead: float = 0.0
    synchronised: bool = True
    lies: bool = False  # the time server follows every jump and says that it is right
    name: str = KERNEL
    jumped: float = 0.0
    readings: list[tuple[int, float, bool, float]] = field(default_factory=list)  # run, true time, trusted, off by

    def __post_init__(self) -> None:
        self.began = self.true
        self.clock = SystemClock([self], monotonic=self.monotonic, system=self.system)
        self.started = self.monotonic()
        self.slots = Slots({(METER, "t1"): Done(self.task.schedule.previous(self.newest()))})
        self.judged: list[tuple[bool, int, int, float]] = []  # confirmed, first, last, of readings before

    def newest(self) -> int:
        return self.task.schedule.newest(self.true)

    def monotonic(self) -> float:
        return self.true - self.began + 1000.0

    def system(self) -> float:
        return self.true + self.ahead

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        return Evidence(KERNEL, monotonic, wall - monotonic, 0.1) if self.synchronised else None

    def jump(self, ahead: float) -> None:
        self.ahead, self.synchronised, self.jumped = ahead, self.lies, self.true

    def confirm(self) -> None:
        self.synchronised = True

    def run(self, until: float) -> None:
        """Let time pass, in small steps around the jumps."""
        while self.true < until:
            near = until - self.true < 120 or self.true - self.jumped < 300
            self.true = min(self.true + (5.0 if near else 60.0), until)
            now = self.moment()
            if now.trusted:
                for _, _, runs in self.slots.confirmed(now):
                    before = max(told for _, *of, told in self.judged if tuple(of) == runs)
                    self.judged.append((True, *runs, before))
                self.judged += [(False, *runs, self.true) for _, _, runs in self.slots.doubtful(now)]
                self.slots.corrected(self.slots.corrections(now))
            elif now.monotonic - self.started < UNTRUSTED_HOLD_S:
                continue
            run = self.slots.owed(self.task, METER, now, DAY)
            if run is not None:
                self.readings.append((run, self.true, now.trusted, now.wall - self.true))
                note(self.slots, self.task, run, now)

    def moment(self) -> Moment:
        judged = self.clock.judge()
        return Moment(self.clock.monotonic(), judged.wall, judged.trusted)

    def stands(self, run: int, true: float) -> bool:
        """Whether a reading of this run, made under trust at this true time, was not taken back later, or was
        confirmed after that."""
        said = [confirmed for confirmed, first, last, told in self.judged if first <= run <= last and true < told]
        return said[-1] if said else True


@dataclass(frozen=True)
class Jump:
    """The clock is `there` ahead of the truth for `lasts_s`, then right."""

    name: str
    there: float
    lasts_s: float
    before: float = 0.0


JUMPS = [
    Jump("back 2 h", -2 * HOUR, 3 * HOUR),
    Jump("back 1 min", -60.0, 3 * HOUR),
    Jump("ahead 1 day for ten minutes", DAY, 600.0),
    Jump("ahead 1 h", HOUR, 3 * HOUR),
    Jump("1970, then now", -NOON + 3 * HOUR, 600.0, before=-NOON + 3 * HOUR),
    Jump("now, 1970, now", -NOON + 3 * HOUR, 900.0),
]
AT_MIDNIGHT = ("daily", "local midnight, set forward", "local midnight, set back")
MOMENTS = {"before": -300.0, "during": 3.0, "just after": 12.0, "across midnight": MIDNIGHT - NOON - 120.0}
# Local clocks are set forward, or back, at the midnight (23:00 in UTC) around which the jumps are.
FORWARD, BACK = "AAA-1BBB,J16/0,J300/0", "BBB0AAA-1,J300/0,J16/0"
KINDS = {
    "hourly": task(HOUR),
    "quarter-hour": task(QUARTER),
    "daily": task(DAY),
    "local midnight, set forward": calendar("0 0 * * *", FORWARD),
    "local midnight, set back": calendar("0 0 * * *", BACK),
    "three times a local day, set forward": calendar("30 0,6,18 * * *", FORWARD),
    "every local half-hour, set back": calendar("*/30 * * * *", BACK),
}


def longest_s(one: ReadingTask) -> int:
    """How long it may take from a run to the next."""
    return one.every_s or max(after - before for before, after in itertools.pairwise(
        one.schedule.between(int(NOON - 3 * DAY), int(NOON + 3 * DAY))
    ))  # fmt: skip


def world(jump: Jump, moment: str, kind: str, *, lies: bool) -> World:
    """Run one case to well after the correction."""
    anchor = MIDNIGHT if kind in AT_MIDNIGHT and moment != "across midnight" else NOON
    at_true = anchor + MOMENTS[moment]
    made = World(KINDS[kind], at_true - 5 * HOUR, ahead=jump.before, synchronised=not jump.before, lies=lies)
    if jump.before:
        made.synchronised = False
        made.true = made.began = at_true
        made.__post_init__()
    made.run(at_true)
    made.jump(jump.there)
    made.run(at_true + jump.lasts_s)
    made.jump(0.0)
    made.run(made.true + 30.0)
    made.confirm()
    made.run(made.true + 5 * HOUR + longest_s(made.task))
    return made


cases = pytest.mark.parametrize(
    ("jump", "moment", "kind"),
    [
        pytest.param(jump, moment, kind, id=f"{jump.name}, {moment}, {kind}")
        for jump, moment, kind in itertools.product(JUMPS, MOMENTS, KINDS)
    ],
)


def right(made: World, run: int, true: float, off_s: float) -> bool:
    """Whether a reading at this true time is one of that slot; a correction that keeps an era keeps its runs."""
    kept_s = CORRECTION_S if abs(off_s) <= CORRECTION_S else 0.0
    return run - kept_s <= true < made.task.schedule.next(run) + kept_s


@cases
def test_a_jump_without_evidence_costs_no_slot_and_repeats_none_and_no_reading_in_doubt_is_trusted(
    jump: Jump, moment: str, kind: str
) -> None:
    made = world(jump, moment, kind, lies=False)
    schedule = made.task.schedule
    good = Counter(run for run, true, _, off_s in made.readings if right(made, run, true, off_s))
    assert all(count == 1 for count in good.values()), "a slot was read twice"
    first, last = made.began, made.true
    # A slot is past saving when nobody knew the time from its beginning to its end.
    blind = made.began + jump.lasts_s + 30 if jump.before else 0.0
    slots = schedule.between(schedule.next(first), schedule.newest(last))
    skipped = [slot for slot in slots if not good[slot] and schedule.next(slot) > blind]
    assert skipped == []
    for run, true, trusted, off_s in made.readings:
        assert not trusted or abs(off_s) <= TOLERANCE_S + 1, "a reading was trusted under a clock that was wrong"
        assert not trusted or right(made, run, true, off_s)


@cases
def test_what_a_lying_time_server_made_trusted_is_taken_back_and_no_slot_is_read_twice(
    jump: Jump, moment: str, kind: str
) -> None:
    made = world(jump, moment, kind, lies=True)
    for run, true, trusted, off_s in made.readings:
        assert trusted
        assert abs(off_s) <= CORRECTION_S or not made.stands(run, true), "a wrong reading stands"
        # Of a run that was read under both clocks nobody can tell which is which: reports tell runs, not readings.
        twice = any(other == run and abs(off) > CORRECTION_S for other, _, _, off in made.readings)
        assert made.stands(run, true) or abs(off_s) > CORRECTION_S or twice, "a right reading was taken back for good"
    # While a liar was believed he may have had a slot read that had been read before; under a right clock nobody can.
    good = Counter(run for run, _, _, off_s in made.readings if abs(off_s) <= CORRECTION_S)
    assert all(count == 1 for count in good.values()), "a slot was read twice"
    newest = made.newest()
    assert good[newest] == 1
    assert made.slots.corrections(made.moment()) == []
