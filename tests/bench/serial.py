"""Figures of the serial side: USI frames; reading 108 values over a modelled line, beside the floor of its octets and
latencies, which nothing can beat; the same over a line that loses and damages; many meters at once; whole runs of the
collector behind a base node. HDLC frames beside other stacks are in `tests.bench.dlms`.
"""

from __future__ import annotations

import itertools
import random
import socket
import statistics
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from agent.settings.config import ScanConfig
from dlms.client.events import SessionClosed
from dlms.client.knowledge import MeterKnowledge
from plc.prime.messages import Command
from plc.prime.usi import ProtocolId, UsiDecoder, UsiFrame
from tests.agent.metering.test_collector import BUS, EVERY_S, PASSWORD, ROWS, BusRig, provisioning
from tests.bench.dlms import PEERS, gurux_session, peers, rate
from tests.bench.figure import Figure, absent, at_least, at_most, plain
from tests.dlms.line import CONFIGURATIONS, floor_s, session, steady
from tests.plc.network import BAUDRATE, LATENCY_S, interleave
from tests.sim.line import OCTET_BITS, Run, Site, share_lost
from tests.sim.pipes import Slow
from tests.sim.rs485_bus import Bus

BAUDRATES = (9600, 19200, 115200)
LATENCIES_S = (0.02, 0.05)
BAD_LINES = ((9600, 0.02), (115200, 0.02))
SEEDS = 400
METERS = 8
BUS_METERS, BUS_FIRST = 31, 17
DAY_S = 86_400


def run() -> list[Figure]:
    """Returns the figures of all parts."""
    return [*_usi(), *_line(), *_bad_line(), *_many(), *_runs(), *_bus()]


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
    """Time over the floor of `tests.dlms.line` at 9600, 19200 and 115200 baud with 20 and 50 ms of latency, and at
    115200 baud without. The floor is a bound that nothing can beat: the session's own SNRM is 12 octets longer and an
    even division of the lists may take a frame more, so the figures are between 1.00 and 1.02."""
    known = MeterKnowledge()
    session(1024, 7, 115200, 0.0, known)
    figures = []
    for info_max, window in CONFIGURATIONS:
        what = f"108 values, info {info_max}, window {window}"
        for baudrate in BAUDRATES:
            worst = 0.0
            for latency_s in LATENCIES_S:
                measured = session(info_max, window, baudrate, latency_s, known)
                worst = max(worst, measured.seconds / floor_s(info_max, window, baudrate, latency_s))
            figures.append(at_most(f"{what}, {baudrate} baud, 20 and 50 ms: times the floor", worst, 1.05, "x", 3))
        measured = session(info_max, window, 115200, 0.0, known)
        ratio = measured.seconds / floor_s(info_max, window, 115200, 0.0)
        figures.append(at_most(f"{what}, 115200 baud, 0 ms: times the floor", ratio, 1.1, "x", 3))
        figures.append(plain(what, f"{measured.octets} B, {measured.exchanges} exchanges"))
    measured = session(512, 1, 9600, LATENCIES_S[0], known)
    figures.append(at_most("108 values, info 512: exchanges", measured.exchanges, 7, "", 0))
    return figures


def _bad_line() -> list[Figure]:
    """3 % of the bursts lost and 1 % damaged, both ways, in many sessions; what counts as a timeout is in
    `tests.dlms.line`. A session is in time when it takes at most 1.3 times the floor without the timeouts, the bursts
    that the line spoiled among them. With these bursts a session that loses a kilobyte twice takes longer, and no
    protocol could be faster: the last row says how far the sessions are from that bound."""
    known = MeterKnowledge()
    session(1024, 7, 115200, 0.0, known)
    figures = []
    for (info_max, window), (baudrate, latency_s) in itertools.product(CONFIGURATIONS, BAD_LINES):
        what = f"3 % lost, 1 % flipped, info {info_max}, window {window}, {baudrate} baud, {1000 * latency_s:g} ms"
        least_s = floor_s(info_max, window, baudrate, latency_s)
        clean = session(info_max, window, baudrate, latency_s, known)
        runs = [session(info_max, window, baudrate, latency_s, known, seed) for seed in range(0, 2 * SEEDS, 2)]
        right = sum(isinstance(run.events[-1], SessionClosed) and steady(run) == steady(clean) for run in runs)
        busy = [run.busy_s / least_s for run in runs]
        worst = max((run.busy_s - run.spoiled_s) / least_s for run in runs)
        mean, longer = statistics.mean(busy), sum(ratio > 1.3 for ratio in busy)
        over = max(run.busy_s / (least_s + run.spoiled_s) for run in runs)
        silent_s = statistics.mean(run.waited_s for run in runs)
        figures += [
            at_least(f"{what}: sessions complete, every value right, of {SEEDS}", right, SEEDS, "", 0),
            at_most(f"{what}: the worst session, times the floor, without timeouts", worst, 1.3, "x"),
            plain(
                f"{what}: the same with the spoiled bursts, mean and worst; sessions over 1.3",
                f"{mean:.2f} x, {max(busy):.2f} x; {longer}",
            ),
            plain(f"{what}: the worst, times its own bound; mean silence", f"{over:.2f} x; {silent_s:.1f} s"),
        ]
    return figures


def _many() -> list[Figure]:
    """Eight meters at once behind one bridge, on a line that one side uses at a time. Busy is the share of the whole
    time, the latency before the first answer and behind the last one included."""
    known: dict[int, MeterKnowledge] = {}
    fast = Slow(10_000_000)
    interleave(METERS, 0.0, known, fast, fast)
    line = Slow(BAUDRATE, piece_bytes=16)
    seconds = interleave(METERS, LATENCY_S, known, line, line)
    busy = 100 * line.octets * 10 / BAUDRATE / seconds
    what = f"{METERS} meters at once, {BAUDRATE} baud, {1000 * LATENCY_S:g} ms: line busy"
    one_by_one_s = line.octets * 10 / BAUDRATE + line.bursts / 2 * LATENCY_S
    return [
        at_least(what, busy, 95, "%", 1),
        plain("the same meters one after another, and at once", f"{one_by_one_s:.2f} s, {seconds:.2f} s"),
    ]


def _runs() -> list[Figure]:
    """Runs of the collector on a half-duplex line of 115,200 baud and 50 ms, in virtual seconds: exact, whatever the
    machine. Gurux reads one meter after another; what that takes on the same line is the time of its own octets and
    exchanges, which are counted while it reads a simulated meter."""
    few, many = _site(50, 0), _site(200, 0)
    dead = _site(200, 10)
    figures = [
        at_most("200 meters x 108, clean", many.second.seconds, 38, "s"),
        at_most("200 meters x 108, their first run, with every scaler", many.first.seconds, 45, "s", 1),
        plain(
            "octets per meter, first run and the next",
            f"{many.first.octets / 200:,.0f}, {many.second.octets / 200:,.0f}",
        ),
        at_least("200 meters x 108, clean: line busy", 100 * many.second.busy, 95, "%", 1),
        at_most("200 meters x 108, 3 % of the frames lost", many.lossy.seconds, 60, "s"),
        at_most("the same with 10 of them dead", dead.lossy.seconds, 60, "s"),
        at_most("a dead meter's cost in a run after its first", max(0.0, _cost_of_dead(dead, many)), 1, "s", 3),
        at_most("50 meters, 10 % of the confirms lost, longer than clean by", few.confirms_s, 2, "s"),
        at_most("50 meters, one request swallowed, longer than clean by", few.swallowed_s, 2, "s"),
    ]
    what = "gurux, one meter after another, 200 meters"
    counted = gurux_session()
    if counted is None:
        return [*figures, absent(what, "no gurux")]
    exchanges, octets = counted
    gurux_s = 200 * (octets * OCTET_BITS / BAUDRATE + exchanges * LATENCY_S)
    return [*figures, at_least(f"{what}: times the collector's", gurux_s / many.second.seconds, 5, "x", 1)]


@dataclass(frozen=True, slots=True)
class _Measured:
    first: Run
    second: Run
    lossy: Run
    confirms_s: float
    swallowed_s: float


def _site(meters: int, dead: int) -> _Measured:
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as folder:
        site = Site(Path(folder), meters, dead=dead)
        site.join()
        first, second = site.timed_run(), site.timed_run()
        lossy = site.timed_run(lost=share_lost(0.03, 1))
        if not (first.complete and second.complete and lossy.complete):
            raise RuntimeError(f"{lossy.values} of {lossy.wanted} values")
        pick = random.Random(1)
        confirms = site.timed_run(lost=lambda frame, _host: frame.command == Command.DATA_CFM and pick.random() < 0.1)
        requests = iter(range(1_000_000))
        swallowed = site.timed_run(lost=lambda frame, _host: frame.command == Command.DATA_REQ and next(requests) == 40)
        site.close()
    return _Measured(first, second, lossy, confirms.seconds - second.seconds, swallowed.seconds - second.seconds)


def _cost_of_dead(dead: _Measured, alive: _Measured) -> float:
    """Seconds per dead meter that a run takes longer than its living meters alone would take."""
    share = dead.second.wanted / alive.second.wanted
    return (dead.second.seconds - share * alive.second.seconds) / 10


def _bus() -> list[Figure]:
    """Run the collector on an RS-485 bus, and gurux on the same bus behind it: the same stations, one meter after
    another, by a program of its own. Both are counted in the time of the line's octets, without latencies."""
    addresses = tuple(range(BUS_FIRST, BUS_FIRST + BUS_METERS))
    port = replace(BUS, scan=ScanConfig(addresses[0], addresses[-1], every_s=DAY_S))
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as folder:
        rig = BusRig(Path(folder), addresses, port)
        rig.collector.configure(provisioning())
        rig.run(2 * EVERY_S - 60)  # the first run, with scalers, and the next
        run = max(int(str(record["run"])) for record in rig.records())
        values = [float(str(record["received"])) for record in rig.records() if record["run"] == run]
        if len(values) != BUS_METERS * len(ROWS):
            raise RuntimeError(f"{len(values)} values")
        seconds, octets = max(values) - run, _gurux_on(rig.network, addresses)
        rig.reader.close()
        rig.collector.close()
        rig.store.close()
    what = f"{BUS_METERS} meters x {len(ROWS)} on a bus of 9600 baud"
    peer = f"{what}: gurux one after another, times the collector's"
    figures = [plain(what, f"{seconds:.1f} s")]
    if octets is None:
        return [*figures, absent(peer, "no gurux")]
    gurux_s = octets * OCTET_BITS / 9600
    return [*figures, plain(f"{what}: gurux", f"{gurux_s:.1f} s"), at_least(peer, gurux_s / seconds, 2, "x", 1)]


def _gurux_on(bus: Bus, addresses: tuple[int, ...]) -> int | None:
    """Returns the octets, either way, with which gurux has read all stations; None where there is no gurux."""
    octets = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal octets
            connection, _address = listener.accept()
            with connection:
                while data := connection.recv(4096):
                    bus.receive(data, 0.0)
                    answer = b"".join(bus.take_bursts())
                    octets += len(data) + len(answer)
                    connection.sendall(answer)

        options: dict[str, object] = {
            "port": listener.getsockname()[1],
            "servers": addresses,
            "secret": PASSWORD.decode(),
            "read": [[row.class_id, str(row.obis), row.attribute] for row in ROWS],
        }
        if not PEERS.exists():
            return None
        server = threading.Thread(target=serve)
        server.start()
        peers(options)
        server.join()
    return octets
