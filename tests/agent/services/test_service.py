"""One service's life, without a program: every pair of state and step, back-off, readiness, limits."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from agent.services.service import STOP_S, TRANSITIONS, UP, Command, Exit, Service, State, Step, StepError
from updateagent.software.component import Limits, Ready, Restart, ServiceSpec

CRASH = Exit(-11)


def made(**more: object) -> Service:
    more.setdefault("ready", Ready(after_s=5))
    return Service(ServiceSpec("run", **more), 0.0)  # type: ignore[arg-type]


def commands(one: Service) -> list[Command]:
    found: list[Command] = []
    while (command := one.next_event()) is not None:
        found.append(command)
    return found


def up(one: Service, now: float = 0.0) -> float:
    """Start it and let it get ready; returns the time."""
    one.start(now)
    one.on_deadline(now + 5)
    assert one.state is State.RUNNING
    assert commands(one) == [Command.START]
    return now + 5


def test_a_program_that_stays_up_is_ready() -> None:
    one = made()
    one.start(100.0)
    assert (one.state, one.next_deadline(), commands(one)) == (State.STARTING, 105.0, [Command.START])
    one.on_deadline(104.9)
    assert one.state is State.STARTING
    one.on_deadline(105.0)
    assert (one.state, one.next_deadline(), one.since, one.failed_starts) == (State.RUNNING, None, 105.0, 0)


def test_waits_double_to_the_longest_and_are_short_again_after_a_steady_minute() -> None:
    one = made(restart_min_s=1, restart_max_s=8)
    now = 0.0
    one.start(now)
    waits = []
    for _ in range(6):
        one.ended(CRASH, now)
        deadline = one.next_deadline()
        assert deadline is not None
        waits.append(deadline - now)
        now = deadline
        one.on_deadline(now)
        assert one.state is State.STARTING
    assert waits == [1, 2, 4, 8, 8, 8]
    assert (one.failed_starts, one.restarts) == (6, 6)
    one.on_deadline(now + 5)
    one.ended(CRASH, now + 59.9)
    assert one.next_deadline() == now + 59.9 + 8
    one.on_deadline(now + 70)
    one.on_deadline(now + 75)
    one.ended(CRASH, now + 130)
    assert one.next_deadline() == now + 131
    assert one.detail == "ended by signal 11"


@pytest.mark.parametrize(
    ("restart", "how", "state"),
    [
        (Restart.ALWAYS, Exit(0), State.WAITING),
        (Restart.ALWAYS, CRASH, State.WAITING),
        (Restart.ON_FAILURE, Exit(0), State.OVER),
        (Restart.ON_FAILURE, Exit(1), State.WAITING),
        (Restart.ON_FAILURE, Exit(None, "no such file"), State.WAITING),
        (Restart.NEVER, Exit(0), State.OVER),
        (Restart.NEVER, CRASH, State.OVER),
    ],
)
def test_whether_it_is_started_again_is_its_packages_choice(restart: Restart, how: Exit, state: State) -> None:
    one = made(restart=restart)
    now = up(one)
    one.ended(how, now)
    assert one.state is state
    assert (one.next_deadline() is None) == (state is State.OVER)
    one.stop(now)
    assert (one.state, one.next_deadline(), commands(one)) == (State.STOPPED, None, [])


def test_a_stop_asks_then_kills_and_waits_for_the_end() -> None:
    one = made()
    now = up(one)
    one.stop(now)
    assert (one.state, commands(one)) == (State.STOPPING, [Command.TERMINATE])
    one.stop(now + 1)
    one.on_deadline(now + STOP_S - 0.1)
    assert commands(one) == []
    one.on_deadline(now + STOP_S)
    assert (one.state, commands(one)) == (State.STOPPING, [Command.KILL])
    one.ended(Exit(-9), now + STOP_S)
    assert (one.state, one.next_deadline(), one.detail) == (State.STOPPED, None, "")


def test_a_ready_command_is_asked_until_it_says_yes() -> None:
    one = made(ready=Ready(0, ("ready",), 10))
    one.start(0.0)
    commands(one)
    one.on_deadline(1.0)
    assert commands(one) == [Command.CHECK]
    one.on_deadline(2.0)
    assert commands(one) == []  # the first has not answered
    one.checked(2.0, ready=False)
    one.on_deadline(3.0)
    assert commands(one) == [Command.CHECK]
    one.checked(3.5, ready=True)
    assert one.state is State.RUNNING
    one.checked(4.0, ready=False)
    assert one.state is State.RUNNING


def test_what_is_not_ready_in_time_is_ended_and_counts_as_failed() -> None:
    one = made(ready=Ready(0, ("ready",), 10))
    one.start(0.0)
    one.on_deadline(1.0)
    one.on_deadline(10.0)
    assert (one.state, commands(one)) == (State.ENDING, [Command.START, Command.CHECK, Command.TERMINATE])
    assert one.detail == "not ready after 10 s"
    one.ended(Exit(0), 11.0)
    assert (one.state, one.failed_starts, one.detail) == (State.WAITING, 1, "not ready after 10 s")


def test_who_uses_too_much_of_the_processor_is_started_again() -> None:
    one = made(limits=Limits(cpu_percent=20))
    now = up(one)
    for second in range(0, 60, 10):
        one.used(second * 0.9, 1, now + second)
        assert one.state is State.RUNNING
    one.used(54.0, 1, now + 60)
    assert (one.state, commands(one)) == (State.ENDING, [Command.TERMINATE])
    assert one.detail == "used 90 % of a processor for a minute, 20 % are allowed"
    one.ended(Exit(-15), now + 61)
    assert (one.state, one.failed_starts) == (State.WAITING, 0)


def test_a_short_burst_is_no_overuse() -> None:
    one = made(limits=Limits(cpu_percent=20))
    now = up(one)
    used = 0.0
    for second in range(0, 3600, 10):
        used += 9.0 if second % 60 == 0 else 0.0  # 15 %
        one.used(used, 1, now + second)
    assert one.state is State.RUNNING


def test_who_is_too_many_is_ended() -> None:
    one = made(limits=Limits(processes=4))
    now = up(one)
    one.used(0.0, 4, now)
    assert one.state is State.RUNNING
    one.used(0.0, 5, now)
    assert (one.state, one.detail) == (State.ENDING, "5 processes and threads, 4 are allowed")


@pytest.mark.parametrize("restart", Restart)
def test_who_keeps_too_much_is_ended_and_not_started_again(restart: Restart) -> None:
    one = Service(ServiceSpec("run", ready=Ready(after_s=5), restart=restart), 0.0, 1000)
    one.keeps(0, 0.0)
    now = up(one)
    one.keeps(1000, now)
    assert commands(one) == []
    one.keeps(1004, now)
    assert (one.state, commands(one)) == (State.ENDING, [Command.TERMINATE])
    one.keeps(1008, now)
    one.ended(CRASH, now + 1)
    assert (one.state, one.next_deadline(), one.keeps_too_much) == (State.OVER, None, True)
    assert one.detail == "keeps 1004 KiB in its folder, 1000 KiB are allowed"
    one.keeps(1008, now + 2)
    assert commands(one) == []


def test_who_ends_by_itself_and_keeps_too_much_is_not_started_again() -> None:
    one = Service(ServiceSpec("run", ready=Ready(after_s=5)), 0.0, 1000)
    one.keeps(0, 0.0)
    now = up(one)
    one.ended(CRASH, now)
    assert one.state is State.WAITING
    one.keeps(1004, now)
    one.on_deadline(now + 1000)
    assert (one.state, commands(one)) == (State.OVER, [])


VERBS: dict[Step, Callable[[Service], object]] = {
    Step.START: lambda one: one.start(1000.0),
    Step.ENDED: lambda one: one.ended(Exit(1), 1000.0),
    Step.STOP: lambda one: one.stop(1000.0),
}


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, VERBS)), ids=str)
def test_every_verb_in_every_state_moves_by_the_table_or_changes_nothing(state: State, step: Step) -> None:
    one = made()
    one._state = state
    following = TRANSITIONS.table.get((state, step))
    if following is None:
        with pytest.raises(StepError):
            VERBS[step](one)
        assert (one.state, commands(one), one.next_deadline()) == (state, [], None)
    else:
        VERBS[step](one)
        assert one.state is following


def test_there_is_a_program_in_exactly_the_states_that_can_see_it_end() -> None:
    assert {state for state, step in TRANSITIONS.table if step is Step.ENDED} == UP
