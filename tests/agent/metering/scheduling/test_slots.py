"""Slots: what is owed, what counts, and what a trusted moment says of the epochs before it. Unit by unit;
test_corrections.py walks every jump at every moment for every kind of task (docs/decisions/0011)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.metering.ledger.ledger import Verdict
from agent.metering.scheduling.slots import (
    CORRECTION_S,
    EPOCHS_MAX,
    READ_RANGES_MAX,
    Correction,
    Epoch,
    Moment,
    Slots,
)
from agent.settings.provisioning import ReadingTask
from omadm.readings import ID_MAX, RUN_MAX
from omadm.schedule import Schedule

QUARTER, HOUR, DAY = 900, 3600, 86_400
NOON = 1_800_014_400  # 2027-01-15T12:00:00Z
MIDNIGHT = NOON + 12 * HOUR
METER = "KFM1"


def task(every_s: int = QUARTER, offset_s: int = 0, *, enabled: bool = True) -> ReadingTask:
    return ReadingTask("t1", every_s, "residential", offset_s=offset_s, enabled=enabled)


def at(wall: float, *, trusted: bool = True, monotonic: float | None = None) -> Moment:
    """A moment of a clock that never jumped, unless `monotonic` says otherwise."""
    return Moment(wall - NOON + 1000 if monotonic is None else monotonic, wall, trusted)


class Log:
    """Slots, and the ids of what was stored: one record per reading."""

    def __init__(self, earlier: int = 0) -> None:
        self.slots = Slots({(METER, "t1"): earlier} if earlier else {})
        self.store = "s"
        self.next_id = 1

    def read(self, run: int, now: Moment, one: ReadingTask | None = None) -> None:
        self.slots.begin(now, self.store, lambda: self.next_id)
        self.next_id += 1
        self.slots.note(one or task(), METER, run, trusted=now.trusted)

    def correct(self, now: Moment, schedule: Schedule | None = None) -> tuple[list[Verdict], Correction]:
        self.slots.begin(now, self.store, lambda: self.next_id)
        verdicts, corrections = self.slots.correct(now, self.next_id, {(METER, "t1"): schedule})
        (correction,) = corrections
        return verdicts, correction

    def owed(self, now: Moment, one: ReadingTask | None = None, catch_up_s: int = DAY) -> int | None:
        return self.slots.owed(one or task(), METER, now, catch_up_s)


# --- one rule ---


def test_a_meter_owes_the_newest_run_until_it_was_read() -> None:
    log = Log()
    assert log.owed(at(NOON + 5)) == NOON
    log.read(NOON, at(NOON + 5))
    assert log.owed(at(NOON + 5)) is None
    assert log.owed(at(NOON + 900)) == NOON + 900
    assert log.owed(at(NOON + 9005)) == NOON + 9000


def test_what_an_earlier_boot_has_read_counts() -> None:
    log = Log(NOON)
    assert log.owed(at(NOON + 5)) is None
    assert log.owed(at(NOON + 900)) == NOON + 900
    assert log.slots.owed(task(), "another", at(NOON + 5), DAY) == NOON


def test_a_run_is_not_made_up_after_the_catch_up_time() -> None:
    assert Log().owed(at(MIDNIGHT + 3600), task(DAY), 3600) == MIDNIGHT
    assert Log().owed(at(MIDNIGHT + 3601), task(DAY), 3600) is None


def test_a_disabled_task_owes_nothing_and_neither_does_the_time_before_the_first_run() -> None:
    assert Log().owed(at(NOON), task(enabled=False)) is None
    assert Log().owed(at(5.0), task(DAY, 7200)) is None


def test_a_run_of_an_earlier_boot_that_lies_in_the_future_counts_for_nothing_and_is_doubted() -> None:
    log = Log(NOON + DAY)
    log.next_id = 40
    assert log.owed(at(NOON + 5)) == NOON
    verdicts, correction = log.correct(at(NOON + 5))
    assert verdicts == [Verdict(METER, "t1", NOON + DAY, NOON + DAY, 0, 39, trusted=False, store="s")]
    assert (correction.was, correction.done) == (NOON + DAY, 0)
    assert log.correct(at(NOON + 5)) == ([], Correction(METER, "t1", (), (), (), 0, 0))


@pytest.mark.parametrize("back_s", [1, 3, 59, CORRECTION_S - 5])
def test_a_clock_set_back_a_little_waits_and_repeats_nothing(back_s: float) -> None:
    log = Log()
    log.read(NOON, at(NOON + 1))
    later = at(NOON + 2 - back_s, monotonic=1002.0)
    assert log.owed(later) is None
    verdicts, correction = log.correct(later)
    assert (verdicts, correction.good, correction.doubted) == ([], ((NOON, NOON),), ())
    assert log.owed(at(NOON + 900, monotonic=1900 + back_s)) == NOON + 900


def test_many_small_corrections_are_no_step() -> None:
    log = Log()
    log.read(NOON, at(NOON + 1))
    for number in range(1, 9):
        verdicts, correction = log.correct(at(NOON + 10.0 * number, monotonic=1000.0 + 10 * number - 60 * number))
        assert (verdicts, correction.good) == ([], ((NOON, NOON),))


def test_what_was_read_under_a_doubtful_clock_counts_once_the_clock_is_proven() -> None:
    log = Log(NOON - HOUR)
    for run in (NOON, NOON + 900, NOON + 3600):
        log.read(run, at(run + 5, trusted=False))
    verdicts, correction = log.correct(at(NOON + 3700))
    assert verdicts == [Verdict(METER, "t1", NOON, NOON + 3600, 1, 3, trusted=True, store="s")]
    assert correction.good == ((NOON, NOON + 900), (NOON + 3600, NOON + 3600))
    assert (correction.was, correction.done) == (NOON - HOUR, NOON + 3600)
    verdicts, correction = log.correct(at(NOON + 3700))
    assert (verdicts, correction.was) == ([], NOON + 3600)
    assert log.owed(at(NOON + 3700)) is None


def test_what_was_read_under_a_clock_that_was_wrong_is_owed_again() -> None:
    log = Log()
    log.read(NOON, at(NOON + 5))
    ahead = at(NOON + 7205, monotonic=1010.0)
    verdicts, correction = log.correct(ahead)
    assert verdicts == [Verdict(METER, "t1", NOON - 900, NOON, 1, 1, trusted=False, store="s")]
    assert (correction.good, correction.doubted) == ((), ((NOON, NOON),))
    log.read(NOON + 7200, ahead)
    verdicts, correction = log.correct(at(NOON + 20))
    assert verdicts == [
        Verdict(METER, "t1", NOON + 6300, NOON + 7200, 2, 2, trusted=False, store="s"),
        Verdict(METER, "t1", NOON - 900, NOON, 1, 1, trusted=True, store="s"),
    ]
    assert (correction.good, correction.doubted) == (((NOON, NOON),), ((NOON + 7200, NOON + 7200),))
    assert (correction.was, correction.done) == (NOON + 7200, NOON)
    assert log.owed(at(NOON + 20)) is None
    assert log.owed(at(NOON + 7200)) == NOON + 7200


def test_a_run_that_was_read_in_time_and_again_under_a_liar_stays_good() -> None:
    log = Log()
    log.read(NOON, at(NOON + 5))
    back = at(NOON - 900, monotonic=1010.0)
    log.correct(back)
    log.read(NOON, at(NOON + 5, monotonic=1915.0))
    log.read(NOON + 900, at(NOON + 905, monotonic=2815.0))
    verdicts, correction = log.correct(at(NOON + 2000, monotonic=3000.0))
    assert [(one.lowest, one.highest, one.trusted) for one in verdicts] == [(2, 3, False), (1, 1, True)]
    assert (correction.good, correction.doubted) == (((NOON, NOON),), ((NOON + 900, NOON + 900),))


def test_a_task_whose_times_are_changed_is_not_read_twice_for_a_run() -> None:
    log = Log()
    for number in range(3):
        log.read(NOON + HOUR * number, at(NOON + HOUR * number + 5), task(HOUR))
    assert log.owed(at(NOON + 2 * HOUR + 10), task(QUARTER)) is None
    log.read(NOON + 2 * HOUR + QUARTER, at(NOON + 2 * HOUR + QUARTER), task(QUARTER))
    _, correction = log.correct(at(NOON + 3 * HOUR))
    assert correction.good == ((NOON + 2 * HOUR, NOON + 2 * HOUR + QUARTER),), "runs of other times are none of these"


def test_epochs_and_ranges_are_bounded() -> None:
    log = Log()
    for jump in range(20):
        log.read(NOON + jump * HOUR, at(NOON + jump * HOUR, monotonic=1000.0))
        log.correct(at(NOON + jump * HOUR, monotonic=1000.0))
    assert len(log.slots.epochs) == EPOCHS_MAX
    log = Log()
    for jump in range(20):
        log.read(NOON + jump * HOUR, at(NOON + jump * HOUR, monotonic=1000.0, trusted=False))
    assert len(log.slots.epochs) == EPOCHS_MAX, "nothing is to be said of those"
    log = Log()
    for number in range(2 * READ_RANGES_MAX):
        log.read(NOON + 2 * QUARTER * number, at(NOON + 2 * QUARTER * number))
    _, correction = log.correct(at(NOON + 2 * QUARTER * number))
    assert len(correction.good) == READ_RANGES_MAX
    assert correction.good[0][0] == NOON


def test_where_a_clock_comes_back_too_often_the_oldest_of_its_epochs_are_doubted_and_listed() -> None:
    """They agree with now; should that turn out to be wrong, they would not be there any more to be doubted."""
    log = Log()
    for jump in range(EPOCHS_MAX):
        assert log.correct(at(NOON + jump * HOUR))[0] == []
        log.read(NOON + jump * HOUR, at(NOON + jump * HOUR + 5))
        log.read(NOON, at(NOON, monotonic=1.0, trusted=False))
    verdicts, correction = log.correct(at(NOON + DAY))
    assert [(one.lowest, one.highest, one.trusted) for one in verdicts] == [(1, 1, False)]
    assert (correction.doubted, len(log.slots.epochs)) == (((NOON, NOON),), EPOCHS_MAX)
    assert NOON not in [first for first, _ in log.correct(at(NOON + DAY + 9))[1].good]


def later_life(log: Log, *epochs: Epoch) -> Log:
    """The process was killed: of its epochs these are known still, and of what it read what counts."""
    later = Log()
    later.slots, later.next_id = Slots({}, epochs), log.next_id
    return later


def test_an_epoch_that_ended_in_an_earlier_life_is_not_gone_on_with() -> None:
    """It ended when a clock without evidence stepped; the epoch of that one is not kept. Then the clock was right."""
    first = Log()
    first.read(NOON, at(NOON + 5))
    second = later_life(first, Epoch(0, NOON - 1000.0, NOON + 5, "s", 1, trusted=True, inherited=True))
    second.read(NOON + 2 * HOUR, at(NOON + 2 * HOUR + 60, monotonic=1060.0, trusted=False))
    (ended, _) = second.slots.epochs
    assert (ended.last, ended.until, second.slots.changed) == (1, NOON + 60, True)
    third = later_life(second, ended)
    for run in (NOON + HOUR, NOON + 2 * HOUR):
        third.read(run, at(run + 5, trusted=False))
    verdicts, correction = third.correct(at(NOON + 2 * HOUR + 600))
    assert verdicts == [Verdict(METER, "t1", NOON + HOUR, NOON + 2 * HOUR, 3, 4, trusted=True, store="s")]
    assert correction.done == NOON + 2 * HOUR
    assert [(epoch.number, epoch.first, epoch.last) for epoch in third.slots.epochs] == [(0, 1, 1), (1, 3, None)]


def test_an_epoch_ends_once() -> None:
    """What was read after it, in an epoch that is not known any more, is not given to it by a later one."""
    ended = Epoch(0, NOON - 1000.0, NOON, "s", 1, 6, NOON + 60, trusted=True, inherited=True)
    log = later_life(Log(), ended)
    log.next_id = 9
    verdicts, _ = log.correct(at(NOON + DAY, monotonic=1200.0))
    assert (ended.last, ended.until) == (6, NOON + 60)
    assert [(one.lowest, one.highest, one.trusted) for one in verdicts] == [(1, 6, False)]


def test_of_what_several_lives_read_in_doubt_only_what_the_last_one_read_is_confirmed() -> None:
    log = Log()
    log.read(NOON, at(NOON + 5))
    for life in range(2):
        log = later_life(log, Epoch(0, NOON - 1000.0, NOON + 5, "s", 1, trusted=True, inherited=True))
        log.read(NOON + HOUR, at(NOON + HOUR + 60 * life, trusted=False), task(HOUR))
    verdicts, _ = log.correct(at(NOON + HOUR + 600))
    assert verdicts == [Verdict(METER, "t1", NOON + HOUR, NOON + HOUR, 3, 3, trusted=True, store="s")]


GONE, PRESENT = "a" * 32, "b" * 32


def replaced(*epochs: Epoch) -> Log:
    """These were kept of a store that is gone; the one that took its place is empty."""
    log = Log()
    log.slots = Slots({}, epochs)
    log.store = PRESENT
    return log


def of_gone(number: int, offset: float, since: float, first: int, **more: Any) -> Epoch:
    return Epoch(number, offset, since, GONE, first, trusted=True, inherited=True, **more)


def test_of_a_store_that_is_gone_all_is_doubted_that_was_read_under_a_liar_and_listed() -> None:
    log = replaced(of_gone(0, NOON - 1000.0 + DAY, NOON + DAY, 7))
    log.slots.begin(at(NOON + DAY, monotonic=1000.0), PRESENT, lambda: 1)
    verdicts, correction = log.correct(at(NOON + 1800, monotonic=2800.0), task(QUARTER).schedule)
    assert verdicts == [Verdict("", "", 0, RUN_MAX, 7, ID_MAX, trusted=False, store=GONE)]
    assert correction.doubted == ((NOON + DAY - QUARTER, NOON + DAY),), "which of these runs were read is not known"


def test_of_a_store_that_is_gone_what_was_doubted_is_confirmed_task_by_task() -> None:
    held = of_gone(0, NOON - 1000.0, NOON + 5, 7, last=20, until=NOON + HOUR, doubted=True)
    log = replaced(held, of_gone(1, NOON - 1000.0 + DAY, NOON + DAY + HOUR, 21))
    log.slots.begin(at(NOON + DAY + 2 * HOUR, monotonic=1000.0 + 2 * HOUR), PRESENT, lambda: 1)
    log.slots.inherit((METER, "t1"), task(QUARTER).schedule, {}, 0)
    verdicts, correction = log.correct(at(NOON + 3 * HOUR, monotonic=1000.0 + 3 * HOUR))
    assert verdicts == [
        Verdict("", "", 0, RUN_MAX, 21, ID_MAX, trusted=False, store=GONE),
        Verdict("", "t1", NOON - QUARTER, NOON + HOUR, 7, 20, trusted=True, store=GONE),
    ]
    assert correction.doubted == ((NOON + DAY + 3 * QUARTER, NOON + DAY + 2 * HOUR),)
    assert log.correct(at(NOON + 3 * HOUR + 5, monotonic=1005.0 + 3 * HOUR))[0] == [], "it is said once"


def test_an_epoch_of_which_nobody_can_say_more_is_doubted_whatever_the_time_is() -> None:
    log = Log()
    log.slots = Slots({}, [Epoch(0, None, NOON, "s", 1, 4, NOON + HOUR, trusted=True, inherited=True)])
    log.slots.inherit((METER, "t1"), task(QUARTER).schedule, {0: [(NOON, NOON + HOUR)]}, 0)
    verdicts, correction = log.correct(at(NOON + 2 * HOUR))
    assert verdicts == [Verdict(METER, "t1", NOON - QUARTER, NOON + HOUR, 1, 4, trusted=False, store="s")]
    assert (correction.doubted, correction.good) == (((NOON, NOON + HOUR),), ())
    assert log.slots.reckoned(NOON + 60, at(NOON + 2 * HOUR)) is None


def test_a_time_that_two_clocks_have_shown_is_of_the_one_that_is_right() -> None:
    """The clock was two hours behind from 13:00 on, so it said 12:30 twice, and is right again at 14:45."""
    log = Log()
    log.read(NOON, at(NOON + 5))
    log.read(NOON - HOUR, at(NOON - HOUR, monotonic=1000.0 + HOUR))
    now = at(NOON + 3 * HOUR - QUARTER)
    log.correct(now)
    assert log.slots.reckoned(NOON + 2 * QUARTER, now) is None
    assert log.slots.reckoned(NOON - QUARTER, now) == NOON - QUARTER + 2 * HOUR
