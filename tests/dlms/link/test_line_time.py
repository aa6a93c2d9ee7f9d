"""How long reading 108 values takes on a modelled serial line, against the floor for the same parameters."""

from __future__ import annotations

import pytest

from dlms.client.events import SessionClosed
from dlms.client.knowledge import MeterKnowledge
from tests.dlms.line import CONFIGURATIONS, floor, floor_s, session, steady


@pytest.fixture(scope="module")
def known() -> MeterKnowledge:
    """Scalers and units are read once in a meter's life."""
    knowledge = MeterKnowledge()
    assert len(session(1024, 7, 115200, 0.0, knowledge).values) == 108
    return knowledge


@pytest.mark.parametrize(("info_max", "window"), CONFIGURATIONS)
@pytest.mark.parametrize("latency_s", [0.02, 0.05])
@pytest.mark.parametrize("baudrate", [9600, 19200, 115200])
def test_a_session_takes_the_floor_and_at_most_five_percent_more(
    info_max: int, window: int, baudrate: int, latency_s: float, known: MeterKnowledge
) -> None:
    run = session(info_max, window, baudrate, latency_s, known)
    assert len(run.values) == 108
    assert 1.0 <= round(run.seconds / floor_s(info_max, window, baudrate, latency_s), 6) <= 1.05
    assert run.waited_s == 0.0


@pytest.mark.parametrize(("info_max", "window"), CONFIGURATIONS)
def test_without_latency_at_115200_it_takes_at_most_ten_percent_more(
    info_max: int, window: int, known: MeterKnowledge
) -> None:
    assert session(info_max, window, 115200, 0.0, known).seconds <= 1.1 * floor_s(info_max, window, 115200, 0.0)


def test_no_session_can_have_fewer_octets_or_exchanges_than_the_floor(known: MeterKnowledge) -> None:
    for info_max, window in CONFIGURATIONS:
        run = session(info_max, window, 9600, 0.02, known)
        octets, exchanges = floor(info_max, window)
        assert run.octets >= octets
        assert run.exchanges == exchanges


@pytest.mark.parametrize(("info_max", "exchanges_max"), [(128, 20), (512, 7), (1024, 7)])
def test_octets_and_exchanges_stay_under_their_targets(
    info_max: int, exchanges_max: int, known: MeterKnowledge
) -> None:
    run = session(info_max, 1, 9600, 0.02, known)
    assert run.exchanges <= exchanges_max
    assert run.octets <= 2400


@pytest.mark.parametrize(("info_max", "window"), CONFIGURATIONS)
@pytest.mark.parametrize(("baudrate", "latency_s"), [(9600, 0.02), (9600, 0.05), (115200, 0.02)])
def test_with_bursts_lost_and_damaged_every_value_arrives_right_and_in_time(
    info_max: int, window: int, baudrate: int, latency_s: float, known: MeterKnowledge
) -> None:
    """In every single session, the silences of the timeouts and the bursts that the line spoiled taken off."""
    clean = steady(session(info_max, window, baudrate, latency_s, known))
    spoiled = 0
    for seed in range(0, 60, 2):
        run = session(info_max, window, baudrate, latency_s, known, seed)
        assert isinstance(run.events[-1], SessionClosed)
        assert steady(run) == clean
        assert run.busy_s - run.spoiled_s <= 1.3 * floor_s(info_max, window, baudrate, latency_s)
        spoiled += run.spoiled_s > 0
    assert spoiled > 5


@pytest.mark.parametrize(("info_max", "window"), CONFIGURATIONS)
def test_time_over_the_floor_on_a_bad_line_is_what_the_line_spoiled_and_a_question_each(
    info_max: int, window: int, known: MeterKnowledge
) -> None:
    """So a session that takes more than 1.3 times the floor could not have taken less: see `tests.dlms.line`."""
    baudrate, latency_s = 9600, 0.02
    least_s = floor_s(info_max, window, baudrate, latency_s)
    clean_s = session(info_max, window, baudrate, latency_s, known).seconds
    question_s = (34 + 9) * 10 / baudrate + latency_s  # SNRM is the longest question; RR the usual answer
    for seed in range(0, 400, 2):
        run = session(info_max, window, baudrate, latency_s, known, seed)
        assert run.busy_s <= clean_s + run.spoiled_s + run.spoiled * question_s + 1e-6
        assert run.busy_s - run.spoiled_s <= 1.1 * least_s
