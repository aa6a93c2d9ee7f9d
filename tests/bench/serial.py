"""Figures of the serial side: USI frames, and reading 108 values over a modelled line, beside the floor of its octets
and latencies. HDLC frames beside other stacks are in `tests.bench.dlms`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dlms.knowledge import MeterKnowledge
from plc.usi import ProtocolId, UsiDecoder, UsiFrame
from tests.bench.figure import Figure, at_most, median, plain
from tests.dlms.test_line_time import FLOOR, session

ROUNDS = 5
ROUND_S = 0.2
LATENCY_S = 0.02


def rate(call: Callable[[], object]) -> float:
    """Calls a second, the median of some rounds."""
    rates = []
    for _ in range(ROUNDS):
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < ROUND_S:
            for _ in range(200):
                call()
            count += 200
        rates.append(count / (time.perf_counter() - begin))
    return median(rates)


def run() -> list[Figure]:
    """All of them."""
    return [*_usi(), *_line()]


def _usi() -> list[Figure]:
    frame = UsiFrame(ProtocolId.PRIME_API, bytes(range(117)), 0x38)
    wire, decoder = frame.emit(), UsiDecoder()

    def decode() -> None:
        decoder.feed(wire)
        decoder.next()

    return [
        plain("USI frames of 120 octets, encoded", f"{rate(frame.emit):.0f}/s"),
        plain("USI frames of 120 octets, decoded", f"{rate(decode):.0f}/s"),
    ]


def _line() -> list[Figure]:
    known = MeterKnowledge()
    session(1024, 7, 115200, 0.0, known)
    figures = []
    for (info_max, window), (octets, exchanges) in FLOOR.items():
        for baudrate in (9600, 19200, 115200):
            measured = session(info_max, window, baudrate, LATENCY_S, known)
            floor_s = octets * 10 / baudrate + exchanges * LATENCY_S
            what = f"108 values, info {info_max}, window {window}, {baudrate} baud, 20 ms: times the floor"
            figures.append(at_most(what, measured.seconds / floor_s, 1.05, "x", 3))
        counts = f"{measured.octets} B, {measured.exchanges} exchanges"
        figures.append(plain(f"info {info_max}, window {window}", counts))
    return figures
