"""Figures of the serial side: USI frames; reading 108 values over a modelled line, beside the floor of its octets and
latencies; the same over a line that loses and damages; many meters at once. HDLC frames beside other stacks are in
`tests.bench.dlms`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from dlms.knowledge import MeterKnowledge
from dlms.session import SessionClosed
from plc.usi import ProtocolId, UsiDecoder, UsiFrame
from tests.bench.figure import Figure, at_least, at_most, median, plain
from tests.dlms.line import FLOOR, session, steady
from tests.plc.network import BAUDRATE, LATENCY_S, interleave
from tests.sim.pipes import Slow

ROUNDS = 5
ROUND_S = 0.2
BAUDRATES = (9600, 19200, 115200)
LATENCIES_S = (0.02, 0.05)
BAD_LINES = 40
METERS = 8


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
    return [*_usi(), *_line(), *_bad_line(), *_many()]


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
    """Time over the floor, on every line the issue names; without latency where the octets go fastest."""
    known = MeterKnowledge()
    session(1024, 7, 115200, 0.0, known)
    figures = []
    for (info_max, window), (octets, exchanges) in FLOOR.items():
        what = f"108 values, info {info_max}, window {window}"
        for baudrate in BAUDRATES:
            worst = 0.0
            for latency_s in LATENCIES_S:
                measured = session(info_max, window, baudrate, latency_s, known)
                worst = max(worst, measured.seconds / (octets * 10 / baudrate + exchanges * latency_s))
            figures.append(at_most(f"{what}, {baudrate} baud, 20 and 50 ms: times the floor", worst, 1.05, "x", 3))
        measured = session(info_max, window, 115200, 0.0, known)
        ratio = measured.seconds / (octets * 10 / 115200)
        figures.append(at_most(f"{what}, 115200 baud, 0 ms: times the floor", ratio, 1.1, "x", 3))
        figures.append(plain(what, f"{measured.octets} B, {measured.exchanges} exchanges"))
    measured = session(512, 1, 9600, LATENCIES_S[0], known)
    figures.append(at_most("108 values, info 512: exchanges", measured.exchanges, 7, "", 0))
    return figures


def _bad_line() -> list[Figure]:
    """3 % of the bursts lost and 1 % damaged, both ways. Time is counted without the waiting for what was lost; what is
    sent again counts, so that one lost burst of 1 KB weighs more than one of 128 octets."""
    known = MeterKnowledge()
    session(1024, 7, 115200, 0.0, known)
    figures = []
    for info_max, window in FLOOR:
        what = f"3 % lost, 1 % flipped, info {info_max}, window {window}"
        clean = session(info_max, window, 9600, LATENCIES_S[0], known)
        runs = [session(info_max, window, 9600, LATENCIES_S[0], known, seed) for seed in range(0, 5 * BAD_LINES, 5)]
        complete = sum(isinstance(run.events[-1], SessionClosed) for run in runs)
        wrong = sum(steady(run) != steady(clean) for run in runs)
        ratios = [(run.seconds - run.waited_s) / clean.seconds for run in runs]
        waited_s = statistics.mean(run.waited_s for run in runs)
        figures += [
            at_least(f"{what}: sessions complete of {BAD_LINES}", complete, BAD_LINES, "", 0),
            at_most(f"{what}: sessions with a wrong or missing value", wrong, 0, "", 0),
            at_most(f"{what}: times the clean session, mean", statistics.mean(ratios), 1.3, "x"),
            plain(f"{what}: the worst one, and the mean wait", f"{max(ratios):.2f} x, {waited_s:.1f} s"),
        ]
    return figures


def _many() -> list[Figure]:
    """Eight meters at once behind one bridge, on a line that one side uses at a time."""
    known: dict[int, MeterKnowledge] = {}
    fast = Slow(10_000_000)
    interleave(METERS, 0.0, known, fast, fast)
    line = Slow(BAUDRATE, piece_bytes=16)
    seconds = interleave(METERS, LATENCY_S, known, line, line)
    busy = 100 * line.octets * 10 / BAUDRATE / (seconds - 2 * LATENCY_S)
    what = f"{METERS} meters at once, {BAUDRATE} baud, {1000 * LATENCY_S:g} ms: line busy between first and last answer"
    one_by_one_s = line.octets * 10 / BAUDRATE + line.bursts / 2 * LATENCY_S
    return [
        at_least(what, busy, 95, "%", 1),
        plain("the same meters one after another, and at once", f"{one_by_one_s:.2f} s, {seconds:.2f} s"),
    ]
