"""When sessions are held."""

from __future__ import annotations

import pytest

from agent.dm.scheduling import Timing


def timing(rng: float = 1.0) -> Timing:
    return Timing(3600.0, 5.0, 600.0, lambda: rng)


def test_nothing_is_due_without_a_wish_until_the_poll() -> None:
    one = timing()
    assert one.due(0.0) is None
    assert one.due(3599.0) is None
    assert one.due(3600.0) == ("poll", "")
    assert one.due(3601.0) is None


def test_one_session_serves_all_wishes_and_the_urgent_one_names_it() -> None:
    one = timing()
    one.ask("alert")
    one.ask("push", "1F")
    assert one.due(0.0) == ("push", "1F")
    assert one.due(0.0) is None


@pytest.mark.parametrize(("rng", "share"), [(0.0, 0.5), (1.0, 1.0)])
def test_waits_double_up_to_the_longest_and_half_of_each_is_random(rng: float, share: float) -> None:
    one = timing(rng)
    now = 0.0
    waits = []
    for _ in range(10):
        one.failed(now)
        one.ask("boot")
        before = now
        while one.due(now) is None:
            now += 0.5
        waits.append(now - before)
    assert waits == [max(wait * share, 0.5) for wait in (5, 10, 20, 40, 80, 160, 320, 600, 600, 600)]


def test_success_ends_the_waiting_and_puts_the_poll_off() -> None:
    one = timing()
    one.failed(0.0)
    one.succeeded(1.0)
    one.ask("alert")
    assert one.due(1.0) == ("alert", "")
    assert one.due(3600.0) is None
    assert one.due(3601.0) == ("poll", "")


@pytest.mark.parametrize("trigger", ["push", "user", "bootstrap"])
def test_an_urgent_wish_does_not_wait(trigger: str) -> None:
    one = timing()
    one.failed(0.0, slow=True)
    one.ask(trigger)
    assert one.due(0.0) == (trigger, "")


def test_an_alert_that_the_server_leaves_unanswered_comes_again_ever_more_rarely() -> None:
    one = timing()
    now = 0.0
    waits = []
    one.ask("alert")
    assert one.due(now) is not None
    for _ in range(4):
        one.succeeded(now, unanswered=True)
        before = now
        while one.due(now) is None:
            now += 1.0
        waits.append(now - before)
    assert waits == [5.0, 10.0, 20.0, 40.0]


def test_the_worker_sleeps_no_longer_than_until_something_is_due() -> None:
    one = timing()
    assert one.wait(0.0, 1.0) == 1.0
    one.ask("alert")
    assert one.wait(0.0, 1.0) == 0.0
    one.due(0.0)
    one.failed(0.0)
    one.ask("alert")
    assert one.wait(4.5, 1.0) == 0.5


def test_the_worker_wakes_for_the_poll() -> None:
    one = timing()
    one.succeeded(1000.0)
    assert one.wait(1000.0, 1e6) == 3600.0
    assert one.wait(4599.5, 1.0) == 0.5
    assert one.wait(4600.5, 1.0) == 0.0


def test_what_failed_is_wanted_again_when_the_wait_is_over() -> None:
    one = timing()
    one.ask("user", "2A")
    assert one.due(0.0) == ("user", "2A")
    one.failed(0.0)
    one.again("user", "2A")
    assert one.due(4.9) is None
    assert one.due(5.0) == ("user", "2A")


def test_a_poll_that_is_due_gives_way_to_what_somebody_wants() -> None:
    one = timing()
    assert one.due(0.0) is None
    one.ask("alert")
    assert one.due(3600.0) == ("alert", "")


def test_a_session_puts_the_poll_off_also_when_it_was_not_asked_for_here() -> None:
    one = timing()
    assert one.due(0.0) is None
    one.succeeded(10.0)
    assert one.due(3609.0) is None
    assert one.due(3610.0) == ("poll", "")


def test_success_begins_the_waits_anew() -> None:
    one = timing()
    one.failed(0.0)
    one.failed(5.0)
    one.succeeded(15.0)
    one.failed(20.0)
    assert not one.may_register(24.9)
    assert one.may_register(25.0)


def test_an_answer_begins_the_waits_of_alerts_anew_and_ends_the_one_there_is() -> None:
    one = timing()
    one.succeeded(0.0, unanswered=True)
    one.succeeded(5.0, unanswered=True)
    one.succeeded(6.0)
    one.ask("alert")
    assert one.due(6.0) == ("alert", "")
    one.succeeded(7.0, unanswered=True)
    assert one.due(11.9) is None
    assert one.due(12.0) == ("alert", "")


def test_the_worker_wakes_in_the_very_moment_that_a_wait_ends() -> None:
    one = timing()
    one.failed(0.0)
    assert one.wait(5.0, 1.0) == 1.0  # the wait is over, and nothing is wanted
    one.ask("alert")
    assert one.wait(5.0, 1.0) == 0.0
    late = timing()
    late.succeeded(0.0, unanswered=True)
    assert late.wait(4.0, 0.5) == 0.5
    assert late.wait(4.0, 10.0) == 1.0
    assert late.wait(5.0, 1.0) == 0.0
    late.ask("push")
    assert late.wait(4.0, 10.0) == 0.0  # which does not wait for what reports of alerts have to


def test_waits_have_a_longest_even_where_the_settings_have_none() -> None:
    one = Timing(3600.0, 1.0, 1e9, lambda: 1.0)
    one.failed(0.0, slow=True)
    assert not one.may_register(2.0**16 - 0.5)
    assert one.may_register(2.0**16)
