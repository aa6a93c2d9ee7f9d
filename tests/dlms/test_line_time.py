"""How long reading 108 values takes on a modelled serial line, against the floor for the same parameters."""

from __future__ import annotations

import pytest

from dlms.knowledge import MeterKnowledge
from dlms.session import SessionClosed
from tests.dlms.line import FLOOR, session, steady


@pytest.fixture(scope="module")
def known() -> MeterKnowledge:
    """Scalers and units are read once in a meter's life."""
    knowledge = MeterKnowledge()
    assert len(session(1024, 7, 115200, 0.0, knowledge).values) == 108
    return knowledge


@pytest.mark.parametrize(("info_max", "window"), FLOOR)
@pytest.mark.parametrize("latency_s", [0.02, 0.05])
@pytest.mark.parametrize("baudrate", [9600, 19200, 115200])
def test_a_session_takes_at_most_five_percent_more_than_the_floor(
    info_max: int, window: int, baudrate: int, latency_s: float, known: MeterKnowledge
) -> None:
    octets, exchanges = FLOOR[info_max, window]
    run = session(info_max, window, baudrate, latency_s, known)
    assert len(run.values) == 108
    assert run.seconds <= 1.05 * (octets * 10 / baudrate + exchanges * latency_s)
    assert run.waited_s == 0.0


@pytest.mark.parametrize(("info_max", "window"), FLOOR)
def test_without_latency_at_115200_it_takes_at_most_ten_percent_more(
    info_max: int, window: int, known: MeterKnowledge
) -> None:
    octets, _ = FLOOR[info_max, window]
    assert session(info_max, window, 115200, 0.0, known).seconds <= 1.1 * octets * 10 / 115200


@pytest.mark.parametrize(("info_max", "exchanges_max"), [(128, 20), (512, 7), (1024, 7)])
def test_octets_and_exchanges_stay_under_their_targets(
    info_max: int, exchanges_max: int, known: MeterKnowledge
) -> None:
    run = session(info_max, 1, 9600, 0.02, known)
    assert run.exchanges <= exchanges_max
    assert run.octets <= 2400


@pytest.mark.parametrize("loss", range(0, 200, 10))
def test_with_bursts_lost_and_damaged_every_value_arrives_right_and_in_time(loss: int, known: MeterKnowledge) -> None:
    clean = session(128, 1, 9600, 0.02, known)
    run = session(128, 1, 9600, 0.02, known, loss)
    assert isinstance(run.events[-1], SessionClosed)
    assert steady(run) == steady(clean)
    assert run.seconds - run.waited_s <= 1.3 * clean.seconds
