"""The ledger's core: what is listed when, how gaps end, and what closes them. A model of single slots judges it."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from agent.metering.ledger.ledger import (
    GOES_ON,
    PROFILE,
    READ,
    Balance,
    Change,
    Corrected,
    Early,
    Gap,
    Ledger,
    Reason,
    refilled,
)
from omadm.local_time import Zone
from omadm.schedule import Calendar, Periodic, Range, Schedule

MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"
T0 = 1_800_000_000
EVERY = 900
METER, TASK = "KFM1", "t1"


def run(number: int) -> int:
    return T0 + number * EVERY


def gap(first: int, last: int, reason: Reason = Reason.SILENT) -> Gap:
    return Gap(METER, TASK, "", run(first), run(last) if last != GOES_ON else GOES_ON, EVERY, reason)


def begun(latest: int = 0) -> Ledger:
    ledger = Ledger()
    assert ledger.expect(METER, TASK, Periodic(EVERY), run(latest)) == (True, [])
    return ledger


def test_the_newest_run_is_owed_and_no_gap() -> None:
    ledger = begun()
    assert ledger.settle(METER, TASK, run(0), Reason.SILENT) == []
    assert not ledger.unsettled(METER, TASK, run(0))
    assert ledger.unsettled(METER, TASK, run(1))


def test_a_gap_begins_once_and_ends_before_the_run_that_is_read() -> None:
    ledger = begun()
    assert ledger.settle(METER, TASK, run(1), Reason.SILENT) == [Change(None, gap(0, GOES_ON))]
    for number in range(2, 24):
        assert ledger.settle(METER, TASK, run(number), Reason.SILENT) == []
    assert ledger.going_on() == [gap(0, 22)]
    assert ledger.read(METER, TASK, run(23)) == [Change(gap(0, GOES_ON), gap(0, 22))]
    assert ledger.read(METER, TASK, run(24)) == []
    assert ledger.going_on() == []


def test_another_reason_is_another_gap() -> None:
    ledger = begun()
    ledger.settle(METER, TASK, run(3), Reason.SILENT)
    assert ledger.settle(METER, TASK, run(5), Reason.ABSENT) == [
        Change(gap(0, GOES_ON), gap(0, 2)),
        Change(None, gap(3, GOES_ON, Reason.ABSENT)),
    ]


def test_a_task_that_goes_or_changes_its_times_ends_what_goes_on() -> None:
    ledger = begun()
    ledger.settle(METER, TASK, run(3), Reason.SILENT)
    assert ledger.expect(METER, TASK, Periodic(3600), T0 + 7200) == (True, [Change(gap(0, GOES_ON), gap(0, 2))])
    assert ledger.settled(METER, TASK) == T0 + 3600
    assert ledger.release(METER, TASK) == []
    assert ledger.settle(METER, TASK, run(90), Reason.SILENT) == []


def test_after_six_hours_without_power_the_runs_that_passed_are_one_gap() -> None:
    ledger = Ledger()
    assert ledger.load([Balance(METER, TASK, EVERY, 0, run(-5))], [], {(METER, TASK): run(0)}, run(0) + 60.0) == []
    assert ledger.settle(METER, TASK, run(24), Reason.OFF) == [Change(None, gap(1, GOES_ON, Reason.OFF))]
    (change,) = ledger.read(METER, TASK, run(24))
    assert change.gap == gap(1, 23, Reason.OFF)
    assert (change.gap.last - change.gap.first) // EVERY + 1 == 23


def test_a_gap_that_went_on_when_the_power_went_is_told_from_the_outage() -> None:
    ledger = Ledger()
    kept = [Balance(METER, TASK, EVERY, 0, run(-1))]
    assert ledger.load(kept, [gap(0, GOES_ON)], {(METER, TASK): run(-1)}, run(10) + 5.0) == []
    assert ledger.settle(METER, TASK, run(20), Reason.OFF) == [
        Change(gap(0, GOES_ON), gap(0, 9)),
        Change(None, gap(10, GOES_ON, Reason.OFF)),
    ]


def test_a_reading_whose_gap_s_end_was_not_durable_ends_it_in_the_next_life() -> None:
    ledger = Ledger()
    kept = [Balance(METER, TASK, EVERY, 0, run(-1))]
    changes = ledger.load(kept, [gap(0, GOES_ON)], {(METER, TASK): run(7)}, run(7) + 5.0)
    assert changes == [Change(gap(0, GOES_ON), gap(0, 6))]
    assert ledger.settled(METER, TASK) == run(7)


def test_runs_that_were_read_since_the_account_was_written_are_not_listed() -> None:
    ledger = Ledger()
    assert ledger.load([Balance(METER, TASK, EVERY, 0, run(0))], [], {(METER, TASK): run(50)}, run(50)) == []
    assert ledger.settle(METER, TASK, run(51), Reason.OFF) == []


Ranges = Sequence[Range]


def corrected(
    bound: int, *, begun: int = 0, good: Ranges = (), doubted: Ranges = (), wrong: Ranges = (), epoch: int = 1,
    agreeing: Collection[int] = (),
) -> Corrected:  # fmt: skip
    """All of it in numbers of runs."""
    done = max((run(last) for _, last in good), default=0)
    good, doubted, wrong = ([(run(first), run(last)) for first, last in of] for of in (good, doubted, wrong))
    return Corrected(run(bound), begun and run(begun), good, doubted, wrong, done, epoch, epoch - 1, agreeing)


def test_what_was_settled_under_a_clock_that_was_ahead_is_withdrawn_and_listed_again_in_its_time() -> None:
    ledger = begun()
    ledger.settle(METER, TASK, run(50), Reason.SILENT)
    ledger.read(METER, TASK, run(60), run(50))
    ledger.settle(METER, TASK, run(99), Reason.ABSENT)
    listed = [gap(0, 49), gap(61, GOES_ON, Reason.ABSENT)]
    assert ledger.correct(METER, TASK, corrected(5), listed) == [
        Change(gap(0, 49), gap(5, 49), "withdrawn"),
        Change(None, gap(0, 4), told=False),
        Change(gap(61, GOES_ON, Reason.ABSENT), gap(61, 98, Reason.ABSENT)),
        Change(gap(61, 98, Reason.ABSENT), gap(61, 98, Reason.ABSENT), "withdrawn"),
    ]
    assert ledger.settled(METER, TASK) == run(4)
    assert ledger.settle(METER, TASK, run(7), Reason.CLOCK) == [Change(None, gap(5, GOES_ON, Reason.CLOCK))]
    again = ledger.correct(METER, TASK, corrected(80, epoch=2), [gap(0, 4), gap(5, GOES_ON, Reason.CLOCK)])
    assert again == [
        Change(gap(5, GOES_ON, Reason.CLOCK), gap(5, 6, Reason.CLOCK)),
        Change(None, gap(7, 49)),
        Change(None, gap(61, 79, Reason.ABSENT)),
        Change(None, gap(50, 60, Reason.CLOCK)),  # read, by a clock that is not the one of now either
    ]
    assert ledger.settled(METER, TASK) == run(79)
    kept = dict(ledger.ahead())[METER, TASK]
    assert (kept.settled, kept.gaps) == (run(98), (gap(61, 98, Reason.ABSENT),))


def test_a_clock_that_comes_back_finds_all_as_it_left_it_whatever_was_listed_under_one_that_was_behind() -> None:
    ledger = begun()
    ledger.read(METER, TASK, run(50), run(0))
    assert ledger.correct(METER, TASK, corrected(30), [gap(20, 22), gap(40, 41)]) == [
        Change(gap(40, 41), gap(40, 41), "withdrawn")
    ]
    ledger.read(METER, TASK, run(30))
    ledger.settle(METER, TASK, run(35), Reason.SILENT)
    listed = [gap(20, 22), gap(31, GOES_ON)]
    assert ledger.correct(METER, TASK, corrected(55, epoch=2, agreeing={0}, doubted=[(30, 30)]), listed) == [
        Change(gap(31, GOES_ON), gap(31, 34)),
        Change(gap(31, 34), gap(31, 34), "withdrawn"),
        Change(None, gap(40, 41)),
    ]
    assert ledger.settled(METER, TASK) == run(50)
    assert not dict(ledger.ahead())


def test_a_run_of_an_earlier_boot_that_is_the_newest_still_stays_settled() -> None:
    ledger = begun()
    ledger.read(METER, TASK, run(5), run(0))
    assert ledger.correct(METER, TASK, replace(corrected(5), done=run(5), before=None), []) == []
    assert (ledger.settled(METER, TASK), dict(ledger.ahead())) == (run(5), {})
    assert ledger.correct(METER, TASK, corrected(5), []) == [], "it was not good, and is owed again"
    assert (ledger.settled(METER, TASK), dict(ledger.ahead())) == (run(4), {})


def test_doubted_runs_are_missing_and_good_ones_are_not() -> None:
    ledger = begun()
    ledger.read(METER, TASK, run(9), run(0))
    changes = ledger.correct(METER, TASK, corrected(10, good=[(4, 5)], doubted=[(2, 7)]), [gap(3, 3)])
    assert changes == [Change(None, gap(first, last, Reason.CLOCK)) for first, last in ((2, 2), (6, 7))]
    listed = [gap(2, 2, Reason.CLOCK), gap(3, 3), gap(6, 7, Reason.CLOCK)]
    changes = ledger.correct(METER, TASK, corrected(20, good=[(2, 2), (4, 7), (12, 14)]), listed)
    assert changes == [
        Change(gap(2, 2, Reason.CLOCK), gap(2, 2, Reason.CLOCK), READ),
        Change(gap(6, 7, Reason.CLOCK), gap(6, 7, Reason.CLOCK), READ),
        Change(None, gap(10, GOES_ON, Reason.CLOCK)),
        Change(gap(10, GOES_ON, Reason.CLOCK), gap(10, 11, Reason.CLOCK)),
    ]
    assert ledger.settled(METER, TASK) == run(14)


def test_a_meter_that_joined_under_a_clock_that_was_behind_owes_nothing_of_the_time_between() -> None:
    ledger = begun()
    ledger.settle(METER, TASK, run(3), Reason.SILENT)
    changes = ledger.correct(METER, TASK, corrected(3000, begun=2990, doubted=[(0, 1)]), [gap(0, GOES_ON)])
    assert changes == [Change(gap(0, GOES_ON), gap(0, 2)), Change(gap(0, 2), gap(0, 2), "withdrawn")]
    assert ledger.settled(METER, TASK) == run(2989)


def test_what_was_listed_before_a_clock_that_lied_counts_again_with_what_passed_meanwhile() -> None:
    """By the clock that lies a day ahead the meter joined only after all that it had missed."""
    ledger = begun()
    ledger.settle(METER, TASK, run(3), Reason.SILENT)
    ledger.read(METER, TASK, run(3))
    changes = ledger.correct(METER, TASK, corrected(100, begun=96, doubted=[(3, 3)]), [gap(0, 2)])
    assert changes == [Change(gap(0, 2), gap(0, 2), "withdrawn")]
    ((key, kept),) = ledger.early()
    assert (key, kept) == ((METER, TASK), Early(0, run(3), (gap(0, 2), gap(3, 3, Reason.CLOCK))))
    later = begun()
    later.settle(METER, TASK, run(96), Reason.OFF)
    later.remember(key, kept)
    for life in (ledger, later):  # the second began after the process was killed meanwhile
        wrong = life.correct(METER, TASK, corrected(60, epoch=2, agreeing={2}), [])
        assert Change(None, gap(0, 2)) not in wrong, "another clock that is not the one of then"
        known = replace(corrected(6, good=[(3, 3)], epoch=3, agreeing={0, 3}), before=2)
        changes = life.correct(METER, TASK, known, [])
        assert changes[-2:] == [Change(None, gap(0, 2)), Change(None, gap(4, 5, Reason.CLOCK))]
        assert (life.settled(METER, TASK), list(life.early())) == (run(5), [])


def test_nobody_knows_after_a_power_cut_who_was_right_and_what_was_read_before_the_meter_joined_is_listed() -> None:
    """A clock a day ahead is believed, the power fails, and it is found out."""
    ledger, later = begun(), begun()
    ledger.read(METER, TASK, run(3), run(0))
    ledger.correct(METER, TASK, corrected(100, begun=96, doubted=[(0, 3)]), [])
    ((key, kept),) = ledger.early()
    later.settle(METER, TASK, run(100), Reason.OFF)
    later.remember(key, replace(kept, epoch=None))
    changes = later.correct(METER, TASK, corrected(100, epoch=2, agreeing={2}), [])
    assert changes == [Change(None, gap(0, 3, Reason.CLOCK)), Change(None, gap(4, 99, Reason.CLOCK))]


def test_a_clock_that_was_ahead_accounts_for_nothing_before_the_meter_joined_by_it() -> None:
    """It is found out, the clock is set back and forth, and a run passes meanwhile that nobody has read."""
    ledger = begun()
    ledger.read(METER, TASK, run(3), run(0))
    ledger.correct(METER, TASK, corrected(100, begun=96, doubted=[(0, 3)]), [])
    ledger.settle(METER, TASK, run(100), Reason.CLOCK)
    listed = [gap(96, GOES_ON, Reason.CLOCK)]
    back = replace(corrected(5, good=[(0, 3)], epoch=2, agreeing={0, 2}), before=1)
    ledger.correct(METER, TASK, back, listed)
    ledger.read(METER, TASK, run(20), run(4))
    ledger.correct(METER, TASK, corrected(19, good=[(0, 20)], epoch=3, agreeing={3}), [])
    changes = ledger.correct(METER, TASK, corrected(23, good=[(0, 20)], epoch=4, agreeing={0, 2, 4}), [])
    assert changes == [Change(None, gap(21, 22, Reason.CLOCK))]


def test_a_gap_that_went_on_before_a_clock_that_lied_ends_where_it_was_known() -> None:
    ledger = begun()
    ledger.settle(METER, TASK, run(3), Reason.SILENT)
    ledger.correct(METER, TASK, corrected(3000, begun=2990), [gap(0, GOES_ON)])
    changes = ledger.correct(METER, TASK, corrected(5, epoch=2, agreeing={0, 2}), [])
    assert changes == [Change(None, gap(0, 2)), Change(None, gap(3, 4, Reason.CLOCK))]
    assert ledger.settle(METER, TASK, run(6), Reason.SILENT) == [Change(None, gap(5, GOES_ON))]


def test_a_part_is_closed_and_the_rest_stays_open() -> None:
    ledger = begun()
    ended = gap(0, 9)
    assert ledger.close(ended, run(3), run(5), PROFILE) == [
        Change(ended, gap(3, 5), PROFILE),
        Change(None, gap(0, 2), told=False),
        Change(None, gap(6, 9), told=False),
    ]
    assert ledger.close(ended, run(10), run(20), PROFILE) == []


def test_a_gap_that_goes_on_can_be_closed_as_far_as_it_is_known() -> None:
    ledger = begun()
    (change,) = ledger.settle(METER, TASK, run(4), Reason.SILENT)
    assert ledger.close(change.gap, run(0), run(1), PROFILE) == [
        Change(gap(0, GOES_ON), gap(0, 1), PROFILE),
        Change(None, gap(2, GOES_ON), told=False),
    ]
    assert ledger.close(gap(2, GOES_ON), run(0), run(50), PROFILE) == [
        Change(gap(2, GOES_ON), gap(2, 3)),
        Change(gap(2, 3), gap(2, 3), PROFILE),
    ]
    assert ledger.settle(METER, TASK, run(6), Reason.SILENT) == [Change(None, gap(4, GOES_ON))]


def test_what_was_read_and_then_lost_is_listed_around_what_is_listed_already() -> None:
    ledger = begun(99)
    assert ledger.lose(METER, TASK, run(1) + 5.0, run(9) + 5.0, [gap(3, 4), gap(8, 12)]) == [
        Change(None, gap(1, 2, Reason.STORE_LOST)),
        Change(None, gap(5, 7, Reason.STORE_LOST)),
    ]
    assert ledger.lose(METER, TASK, run(6) + 5.0, run(6) + 5.0, []) == [Change(None, gap(6, 6, Reason.STORE_LOST))]
    assert ledger.lose(METER, TASK, run(3) + 5.0, run(3) + 5.0, [gap(3, 4)]) == []
    assert ledger.lose(METER, "other", run(3), run(3), []) == []


def test_what_was_judged_before_the_ledger_was_damaged_is_listed_but_for_what_is_known() -> None:
    ledger = begun(20)
    listed = [gap(3, 4), replace(gap(8, GOES_ON), profile="1.0.99.1.0.255")]
    assert ledger.list_judged(METER, TASK, (run(1) + 7, run(9) + 7), [(run(6), run(6))], listed) == [
        Change(None, gap(2, 2, Reason.CLOCK)),
        Change(None, gap(5, 5, Reason.CLOCK)),
        Change(None, gap(7, 9, Reason.CLOCK)),
    ]
    (beyond,) = ledger.list_judged(METER, TASK, (run(18), run(99)), [], [])
    assert beyond.gap.last == ledger.settled(METER, TASK)
    assert ledger.list_judged(METER, TASK, (run(0), run(99)), [], [gap(0, GOES_ON)]) == []
    assert ledger.list_judged(METER, "other", (run(0), run(9)), [], []) == []


# --- profiles ---


@pytest.mark.parametrize(
    ("rows", "period", "found"),
    [
        ([run(0), run(1), run(2)], 900.0, [(0, 2)]),
        ([run(1) + 3.0, run(2) + 1.0], 900.0, [(1, 2)]),
        ([run(0), run(2), run(7)], 900.0, [(0, 0), (2, 2), (7, 7)]),
        ([run(-1), run(10), run(11)], 900.0, []),
        ([run(0), run(0) + 300.0, run(0) + 600.0, run(1)], 300.0, [(0, 1)]),
        ([run(0), run(4)], 3600.0, []),
        ([], 900.0, []),
    ],
)
def test_rows_of_a_profile_close_the_slots_in_their_intervals(
    rows: list[float], period: float, found: list[tuple[int, int]]
) -> None:
    assert refilled(gap(0, 9), run(9), rows, period) == [(run(first), run(last)) for first, last in found]


def test_slots_between_the_rows_of_a_finer_profile_lie_in_the_interval_that_ends_after_them() -> None:
    odd = replace(gap(0, 9), first=run(0) + 300, last=run(9) + 300)
    assert refilled(odd, odd.last, [run(1), run(2)], 900.0) == [(run(0) + 300, run(1) + 300)]


# --- a model of single slots ---


class Model:
    """Every slot by itself: what the head-end must think of each after the same changes."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.told: dict[int, str] = {}
        self.going_on: tuple[int, str] | None = None

    def tell(self, changes: list[Change]) -> None:
        for change in changes:
            if not change.told:
                continue
            if change.how:
                for slot in self.schedule.between(change.gap.first, change.gap.last):
                    assert self.told.pop(slot, None) is not None or self._in(slot), "closed and never open"
                if self.going_on is not None and change.gap.last >= self.going_on[0]:
                    for slot in self.schedule.between(self.going_on[0], change.gap.first - 1):
                        self.told[slot] = self.going_on[1]
                    self.going_on = (self.schedule.next(change.gap.last), self.going_on[1])
            elif change.gap.last == GOES_ON:
                assert self.going_on is None
                self.going_on = (change.gap.first, change.gap.reason)
            else:
                if change.was is not None and change.was.last == GOES_ON:
                    self.going_on = None
                for slot in self.schedule.between(change.gap.first, change.gap.last):
                    self.told[slot] = change.gap.reason

    def _in(self, slot: int) -> bool:
        return self.going_on is not None and slot >= self.going_on[0]

    def open(self, settled: int) -> dict[int, str]:
        more = {} if self.going_on is None else dict.fromkeys(self.schedule.between(self.going_on[0], settled), "")
        return self.told | {slot: self.going_on[1] for slot in more if self.going_on is not None}


# Each through both switches of its clocks.
SCHEDULES: dict[str, Schedule] = {
    "every quarter-hour": Periodic(EVERY),
    "local midnight": Calendar("0 0 * * *", Zone(MADRID)),
    "four times on working days": Calendar("30 2,3,14,22 * * mon-fri", Zone(MADRID)),
    "the last of the month": Calendar("0 0 L * *", Zone(MADRID)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SCHEDULES))
@pytest.mark.parametrize("seed", range(30))
def test_every_slot_is_read_or_listed_through_outages_restarts_and_refills(seed: int, kind: str) -> None:
    rng = random.Random(seed)
    schedule = SCHEDULES[kind]
    runs = [schedule.previous(schedule.newest(T0))]
    while len(runs) < 400:
        runs.append(schedule.next(runs[-1]))

    def run(number: int) -> int:
        return runs[number + 1]

    ledger, model = Ledger(), Model(schedule)
    assert ledger.expect(METER, TASK, schedule, run(0)) == (True, [])
    kept: dict[tuple[str, str, str, int], Gap] = {}
    done = run(-1)

    def apply(changes: list[Change]) -> None:
        model.tell(changes)
        for change in changes:
            if change.was is not None:
                kept.pop(change.was.key, None)
            if not change.how:
                kept[change.gap.key] = change.gap

    number, alive = 0, 0.0
    reason = Reason.SILENT
    closed: set[int] = set()
    read: set[int] = set()
    while number < 300:
        number += 1 if rng.random() < 0.9 else rng.randrange(1, 30)
        if rng.random() < 0.1:  # killed, and perhaps away for some runs
            balance = Balance(
                METER, TASK, schedule.every, schedule.phase,
                max(ledger.settled(METER, TASK) if rng.random() < 0.2 else 0, run(-1)), schedule.times,
            )  # fmt: skip
            going_on = [one for one in kept.values() if one.last == GOES_ON]
            if not going_on:
                balance = replace(balance, settled=ledger.settled(METER, TASK))
            ledger = Ledger()
            apply(ledger.load([balance], going_on, {(METER, TASK): done}, alive))
            apply(ledger.settle(METER, TASK, run(number), Reason.OFF))
        reason = rng.choice((Reason.SILENT, Reason.SILENT, Reason.ABSENT, reason))
        apply(ledger.settle(METER, TASK, run(number), reason))
        alive = run(number) + 1.0
        if rng.random() < 0.5:
            apply(ledger.read(METER, TASK, run(number)))
            done = run(number)
            read.add(run(number))
        if rng.random() < 0.1 and kept:
            one = rng.choice(list(kept.values()))
            at = runs.index(one.first) + rng.randrange(3)
            first, last = runs[at], runs[min(at + rng.randrange(10), len(runs) - 1)]
            before = model.open(ledger.settled(METER, TASK))
            apply(ledger.close(one, first, last, PROFILE))
            closed |= set(before) - set(model.open(ledger.settled(METER, TASK)))
        settled = ledger.settled(METER, TASK)
        listed = model.open(settled)
        owed = {run(n) for n in range(number + 1)}
        missing = {slot for slot in owed if slot <= settled} - read - closed
        assert set(listed) == missing
