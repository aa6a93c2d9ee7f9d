"""How long the client waits for an answer, and what it does when none came."""

from __future__ import annotations

import pytest

from dlms.link.datalink import ApduReceived
from dlms.link.hdlc.primary import ACK_TIMEOUT_S, RETRIES, HdlcClientLink, State
from dlms.link.hdlc.timer import SHORTEST_S, TURNAROUND_FACTOR, ResponseTimer
from tests.dlms.hdlc_frames import METER, UA, events, i_frame, rr, shown

OCTET_S = 10 / 115200


def answer(timer: ResponseTimer, at: float, turnaround_s: float, *, again: bool = False) -> float:
    """One question of ten octets and its answer of twenty; when that was over."""
    left_at = timer.asked(10, at, again=again)
    over_at = left_at + turnaround_s + 20 * OCTET_S
    timer.heard(20, over_at)
    timer.answered()
    return over_at


def known(turnaround_s: float) -> ResponseTimer:
    timer = ResponseTimer(3.0, OCTET_S)
    answer(timer, 0.0, 0.01)
    answer(timer, 10.0, turnaround_s)
    return timer


def test_the_full_timeout_is_waited_until_the_meter_is_known() -> None:
    timer = ResponseTimer(3.0, OCTET_S)
    for at in (0.0, 1.0):
        assert timer.wait_s == 3.0
        answer(timer, at, 0.05)
    assert timer.wait_s == SHORTEST_S


@pytest.mark.parametrize(("turnaround_s", "wait_s"), [(0.05, SHORTEST_S), (0.5, TURNAROUND_FACTOR * 0.5), (2.0, 3.0)])
def test_the_wait_follows_the_slowest_answer_between_its_bounds(turnaround_s: float, wait_s: float) -> None:
    assert known(turnaround_s).wait_s == pytest.approx(wait_s)


def test_waits_in_vain_are_doubled_up_to_the_full_one_which_is_the_only_failure() -> None:
    timer = known(0.05)
    waits = []
    for at in (20.0, 30.0, 40.0):
        timer.asked(10, at, again=True)
        waits.append((timer.wait_s, timer.expired()))
    assert waits == [(1.0, False), (2.0, False), (3.0, True)]


def test_the_answer_to_a_repeated_question_teaches_nothing() -> None:
    timer = known(0.05)
    timer.asked(10, 20.0, again=False)
    timer.expired()
    answer(timer, 21.0, 0.9, again=True)
    assert timer.wait_s == 2.0
    answer(timer, 30.0, 0.9)
    assert timer.wait_s == pytest.approx(TURNAROUND_FACTOR * 0.9)


def test_the_echo_of_the_own_question_is_no_answer() -> None:
    timer = known(0.05)
    left_at = timer.asked(1000, 20.0, again=False)
    timer.heard(1000, left_at - 0.001)
    assert timer.silent
    timer.heard(1, left_at + 0.8)
    timer.answered()
    assert timer.wait_s == pytest.approx(TURNAROUND_FACTOR * 0.8, abs=0.001)


def test_where_the_time_of_an_octet_is_not_known_the_full_timeout_is_waited() -> None:
    timer = ResponseTimer(3.0, 0.0)
    for at in range(5):
        timer.asked(10, float(at), again=False)
        timer.heard(20, at + 0.1)
        timer.answered()
    assert timer.wait_s == 3.0


# ---- the link


def talking(turnaround_s: float, octet_s: float = OCTET_S) -> tuple[HdlcClientLink, float]:
    """A link that has exchanged something with a meter of that turnaround; the time."""
    link = HdlcClientLink(17, METER, octet_s=octet_s)
    link.connect(0.0)
    link.receive(UA, (len(link.take_output()) + len(UA)) * octet_s + turnaround_s)
    link.send(b"one", 1.0)
    frame = i_frame(0, 1, b"ONE")
    link.receive(frame, 1.0 + (len(link.take_output()) + len(frame)) * octet_s + turnaround_s)
    assert len(events(link)) == 2
    return link, 2.0


def expire(link: HdlcClientLink) -> float:
    deadline = link.next_deadline()
    assert deadline is not None
    link.on_deadline(deadline)
    return deadline


def test_a_command_that_is_shorter_than_the_question_for_it_is_sent_again_at_once_and_then_asked_for() -> None:
    link, now = talking(0.1)
    link.send(b"two", now)
    assert shown(link.take_output()) == ["I 1 1 P"]
    expire(link)
    assert shown(link.take_output()) == ["I 1 1 P"]
    now = expire(link)
    assert shown(link.take_output()) == ["RR 1 P"]
    link.receive(rr(1), now + 0.1)
    assert shown(link.take_output()) == ["I 1 1 P"]
    expire(link)
    assert shown(link.take_output()) == ["RR 1 P"]


def test_both_answers_to_a_command_that_was_sent_again_are_one() -> None:
    link, now = talking(0.1)
    link.send(b"two", now)
    now = expire(link)
    link.take_output()
    link.receive(i_frame(1, 2, b"TWO"), now + 0.1)
    assert events(link) == [ApduReceived(b"TWO")]
    link.send(b"three", now + 0.1)
    assert shown(link.take_output()) == ["I 2 2 P"]
    link.receive(i_frame(1, 2, b"TWO"), now + 0.2)
    assert events(link) == []
    assert link.state is State.WAITING
    link.receive(i_frame(2, 3, b"THREE"), now + 0.3)
    assert events(link) == [ApduReceived(b"THREE")]


@pytest.mark.parametrize(("turnaround_s", "octets"), [(0.001, 100), (0.002, 60)])
def test_a_command_that_is_longer_than_the_question_for_it_is_asked_for(turnaround_s: float, octets: int) -> None:
    link, now = talking(turnaround_s)
    link.send(bytes(octets), now)
    link.take_output()
    expire(link)
    assert shown(link.take_output()) == ["RR 1 P"]


def test_a_command_whose_answer_came_damaged_is_asked_for() -> None:
    link, now = talking(0.1)
    link.send(b"two", now)
    link.take_output()
    damaged = bytearray(i_frame(1, 2, b"TWO"))
    damaged[-3] ^= 1
    link.receive(bytes(damaged), now + 0.2)
    expire(link)
    assert shown(link.take_output()) == ["RR 1 P"]


def test_a_meter_that_falls_silent_has_no_less_patience_for_having_been_quick() -> None:
    link, now = talking(0.01)
    link.send(b"two", now)
    while link.next_deadline() is not None:
        until = expire(link)
    assert until - now > (RETRIES + 1) * ACK_TIMEOUT_S
