"""Many meters behind one bridge at once: while one thinks, the line carries another's bytes."""

from __future__ import annotations

import pytest

from dlms.client.knowledge import MeterKnowledge
from plc.prime.link import IN_FLIGHT_MAX
from tests.plc.network import BAUDRATE, LATENCY_S, Host, Network, interleave
from tests.sim.pipes import Loop, Slow


@pytest.mark.parametrize("meters", [8, 16])
def test_a_line_that_one_side_uses_at_a_time_is_busy_nearly_all_the_time(meters: int) -> None:
    known: dict[int, MeterKnowledge] = {}
    fast = Slow(10_000_000)
    interleave(meters, 0.0, known, fast, fast)  # scalers and units are read once in a meter's life
    line = Slow(BAUDRATE, piece_bytes=16)
    seconds = interleave(meters, LATENCY_S, known, line, line)
    carrying_s = line.octets * 10 / BAUDRATE
    assert carrying_s / seconds >= 0.95
    # One after another each of the exchanges would have its own latency.
    assert seconds < 0.6 * (carrying_s + line.bursts / 2 * LATENCY_S)


def test_a_duplex_line_takes_less_time_than_its_octets_one_after_another() -> None:
    known: dict[int, MeterKnowledge] = {}
    fast = Slow(10_000_000)
    interleave(8, 0.0, known, fast, fast)
    there, back = Slow(BAUDRATE, piece_bytes=16), Slow(BAUDRATE, piece_bytes=16)
    seconds = interleave(8, LATENCY_S, known, there, back)
    assert seconds < (there.octets + back.octets) * 10 / BAUDRATE


def test_never_more_than_five_requests_are_unconfirmed() -> None:
    class Counting(Network):
        most = 0

        def next_deadline(self) -> float | None:
            Counting.most = max(Counting.most, len(host.link._in_flight))
            return super().next_deadline()

    host = Host(16, {})
    loop = Loop(host.link, Counting(16, LATENCY_S), Slow(BAUDRATE), Slow(BAUDRATE), host.turn)
    loop.run(limit_s=120.0)
    assert Counting.most == IN_FLIGHT_MAX
