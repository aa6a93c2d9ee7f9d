"""What is learned of the time that answers take: RFC 6298 by the numbers, within bounds, and nodes apart."""

from __future__ import annotations

import pytest

from dlms.link.roundtrip import DOUBLINGS_MAX, NODES_KEPT, Bounds, NodeRoundTrip, RoundTrip, RoundTrips

BOUNDS = Bounds(first_s=3.0, shortest_s=1.0, longest_s=20.0)


@pytest.mark.parametrize("bounds", [(1.0, 2.0, 3.0), (3.0, 1.0, 2.0), (1.0, 0.0, 2.0), (1.0, -1.0, 2.0)])
def test_bounds_that_cross_are_refused(bounds: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="timeouts of"):
        Bounds(*bounds)


def test_the_mean_and_the_variation_are_those_of_rfc_6298() -> None:
    one = RoundTrip(BOUNDS)
    one.measured(2.0)
    assert one.learned_s == 2.0 + 4 * 1.0
    one.measured(4.0)  # RTTVAR = 3/4 * 1 + 1/4 * |2 - 4| = 1.25, SRTT = 7/8 * 2 + 1/8 * 4 = 2.25
    assert (one.smoothed_s, one.learned_s) == (2.25, 2.25 + 4 * 1.25)


def test_nothing_learned_is_the_first_timeout_and_what_is_learned_stays_within_the_bounds() -> None:
    trips = RoundTrips(BOUNDS)
    assert trips.timeout_s("a") == 3.0
    for _ in range(50):
        trips.measured("a", 0.05)
    assert trips.timeout_s("a") == 1.0
    for _ in range(50):
        trips.measured("a", 60.0)
    assert trips.timeout_s("a") == 20.0


def test_each_expiry_doubles_the_timeout_up_to_the_longest_and_an_answer_ends_that() -> None:
    trips = RoundTrips(BOUNDS)
    trips.measured("a", 0.05)
    waits = []
    for _ in range(DOUBLINGS_MAX + 2):
        waits.append(trips.timeout_s("a"))
        trips.expired("a")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0]
    trips.measured("a", 0.05)
    assert trips.timeout_s("a") == 1.0


def test_a_node_that_was_left_alone_is_waited_for_as_long_as_was_learned_and_not_doubled() -> None:
    trips = RoundTrips(BOUNDS)
    trips.asked_anew("a")
    trips.measured("a", 2.0)
    learned = trips.timeout_s("a")
    for _ in range(3):
        trips.expired("a")
    trips.asked_anew("a")
    assert trips.timeout_s("a") == learned == trips.learned_s == 6.0


def test_doublings_are_bounded_where_the_longest_timeout_is_far() -> None:
    trips = RoundTrips(Bounds(1.0, 1.0, 1e9))
    for _ in range(2000):
        trips.expired("a")
    assert trips.timeout_s("a") == 2.0**DOUBLINGS_MAX


def test_a_node_never_heard_waits_as_long_as_the_port_has_learned() -> None:
    trips = RoundTrips(BOUNDS)
    for _ in range(50):
        trips.measured("a", 2.0)
    assert 2.0 <= trips.timeout_s("new") < 2.1
    trips.expired("new")
    assert 4.0 <= trips.timeout_s("new") < 4.2


def test_a_slow_node_says_nothing_of_the_others_and_a_busy_port_something_of_all() -> None:
    trips = RoundTrips(BOUNDS)
    for _ in range(50):
        trips.measured("fast", 0.1)
    trips.measured("slow", 10.0)
    assert trips.timeout_s("slow") == 20.0
    assert trips.timeout_s("fast") < 1.5
    for node in range(50):
        trips.measured(node, 3.0)  # the line is full now
    assert trips.timeout_s("fast") > 2.9


def test_silence_of_one_node_is_not_held_against_the_others() -> None:
    trips = RoundTrips(BOUNDS)
    trips.measured("a", 0.1)
    for _ in range(5):
        trips.expired("dead")
    assert trips.timeout_s("a") == trips.timeout_s("new") == 1.0


def test_a_node_that_is_forgotten_begins_anew() -> None:
    trips = RoundTrips(BOUNDS)
    trips.expired("a")
    assert trips.timeout_s("a") == 6.0
    trips.forget("a")
    trips.forget("a")
    assert trips.timeout_s("a") == 3.0


def test_only_so_many_nodes_are_remembered_those_used_last() -> None:
    trips = RoundTrips(BOUNDS)
    for node in range(NODES_KEPT + 1):
        trips.expired(node)
    assert trips.timeout_s(0) == 3.0
    assert trips.timeout_s(1) == trips.timeout_s(NODES_KEPT) == 6.0


def test_the_view_of_one_node() -> None:
    trips = RoundTrips(BOUNDS)
    one = NodeRoundTrip(trips, "a", 3)
    assert (one.timeout_s, one.longest_s, one.repeats_max) == (3.0, 20.0, 3)
    one.measured(0.1)
    assert one.timeout_s == trips.timeout_s("a") == 1.0
    one.expired()
    assert one.timeout_s == 2.0
