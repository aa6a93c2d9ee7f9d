"""How long addresses are asked, and when again."""

from __future__ import annotations

import pytest

from agent.metering.ports.patience import (
    FIRST,
    FULL_EVERY,
    PAUSE_MAX_S,
    PAUSE_MIN_S,
    SHORT_MIN_S,
    SHORT_UNKNOWN_S,
    Patience,
)
from plc.protocols import Asking

FULL_S = 1.5
NOBODY = 9


def silent(times: int, *, slowest_s: float | None = None) -> Patience:
    patience = Patience(FULL_S)
    if slowest_s is not None:
        patience.answered(1, slowest_s)
    for number in range(times):
        patience.unanswered(NOBODY, number * 1.0)
    return patience


@pytest.mark.parametrize("habit", [FIRST, Asking()])
def test_an_address_that_was_never_silent_is_asked_by_habit(habit: Asking) -> None:
    assert silent(0).asking(NOBODY, habit) == habit


@pytest.mark.parametrize(
    ("slowest_s", "wait_s"),
    [
        (None, SHORT_UNKNOWN_S),
        (0.01, SHORT_MIN_S),
        (0.2, 0.6),
        (1.0, FULL_S),  # never longer than the whole time
    ],
)
def test_a_silent_address_is_asked_once_for_three_times_what_the_slowest_meter_needs(
    slowest_s: float | None, wait_s: float
) -> None:
    asking = silent(1, slowest_s=slowest_s).asking(NOBODY, FIRST)
    assert asking.tries == 1
    assert asking.wait_s == pytest.approx(wait_s)


def test_the_slowest_meter_counts_and_one_that_had_to_be_asked_again_teaches_nothing() -> None:
    patience = silent(1, slowest_s=0.3)
    patience.answered(2, 0.1)
    patience.answered(3, None)
    assert patience.asking(NOBODY, FIRST).wait_s == pytest.approx(0.9)


def test_one_question_in_eight_has_the_whole_time() -> None:
    waits = [silent(times).asking(NOBODY, FIRST).wait_s for times in range(1, 2 * FULL_EVERY + 1)]
    assert [times for times, wait_s in enumerate(waits, 1) if wait_s is None] == [FULL_EVERY, 2 * FULL_EVERY]


def test_pauses_double_up_to_a_limit_and_retries_in_a_row_are_one_experience() -> None:
    patience, now, pauses = Patience(FULL_S), 0.0, []
    for _ in range(6):
        begin = now
        for retry in range(3):
            patience.unanswered(NOBODY, now + retry)
        assert not patience.is_due(NOBODY, now + 3)
        while not patience.is_due(NOBODY, now):
            now += 1.0
        pauses.append(now - begin)
    assert pauses == [PAUSE_MIN_S * factor for factor in (1, 2, 4, 8)] + [PAUSE_MAX_S] * 2


def test_an_answer_ends_it_all() -> None:
    patience = silent(5)
    patience.answered(NOBODY, 0.1)
    assert patience.is_due(NOBODY, 0.0)
    assert patience.asking(NOBODY, FIRST) == FIRST


def test_the_speed_of_last_time_is_kept_through_silence() -> None:
    patience = silent(0)
    patience.met(NOBODY, 4800)
    assert patience.asking(NOBODY, FIRST) == Asking(tries=2, last_baudrate=4800)
    patience.unanswered(NOBODY, 0.0)
    assert patience.asking(NOBODY, FIRST).last_baudrate == 4800
    assert patience.asking(1, FIRST).last_baudrate is None
