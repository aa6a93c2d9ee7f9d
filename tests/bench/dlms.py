"""The DLMS/COSEM stack beside its peers: frames, profiles, ciphering, and a session that reads 108 values over HDLC.

The peers (gurux-dlms, dlms-cosem) run in an environment of their own, whose Python is named by DLMS_PEERS_PYTHON or
found at `.venv-peers/bin/python`; without it, figures that need them are reported as missing.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dlms import axdr
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject, RowDecoder
from dlms.cosem.time import CosemDateTime
from dlms.link.hdlc.frames import HdlcDecoder, emit_frame
from dlms.security.ciphering import Ciphering
from dlms.security.settings import Lls, MemoryCounters, Security
from dlms.server.objects import objects_from_rows
from dlms.server.server import MeterServer
from dlms.simulator.reading_list import rows_from_csv
from tests.bench.figure import Figure, plain
from tests.dlms.meter_port import MeterPort

REPO = Path(__file__).parents[2]
PEERS = Path(os.environ.get("DLMS_PEERS_PYTHON", REPO / ".venv-peers" / "bin" / "python"))
PEER_SCRIPT = Path(__file__).parent / "peers" / "dlms_speed.py"
ROWS = rows_from_csv(REPO / "etc" / "reading-lists" / "residential-108.csv")
INFO = bytes.fromhex("e6e600") + bytes(range(117))
EK, AK = bytes(range(16)), bytes(range(0xD0, 0xE0))
TITLE = bytes.fromhex("4d4d4d0000bc614e")
SECRET = "12345678"
SLICES = 24
COLUMNS = [CaptureObject(AttributeRef(8, CLOCK_OBIS, 2))] + [
    CaptureObject(AttributeRef(3, Obis(bytes((1, 0, c, 8, 0, 255))), 2)) for c in range(1, 8)
]
PLAIN = bytes.fromhex("c401c100") + axdr.octets(bytes(1020)).emit()


def rate(work: Callable[[], object], seconds: float = 1.2) -> float:
    """Calls per second of CPU, the best of many short runs, so that other work on the machine does not count."""
    count, used = 1, 0.0
    while used < seconds / SLICES / 2:  # so many calls in a run that looking at the clock costs nothing beside them
        count *= 2
        used = _cpu_s(work, count)
    return count / min(_cpu_s(work, count) for _ in range(SLICES))


def _cpu_s(work: Callable[[], object], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        work()
    return time.process_time() - begin


def profile_buffer() -> bytes:
    """A thousand quarter-hours of a clock and seven counters."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return axdr.array(
        axdr.structure(
            axdr.octets(CosemDateTime.from_datetime(start + timedelta(minutes=15 * at)).emit()),
            *[axdr.u32(at * column) for column in range(7)],
        )
        for at in range(1000)
    ).emit()


def peers(options: dict[str, object]) -> dict[str, Any] | None:
    """What the peers' program measured; None where there are no peers."""
    if not PEERS.exists():
        return None
    command = [str(PEERS), str(PEER_SCRIPT), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def ratio(what: str, ours: float, theirs: float | None, wanted: float, peer: str) -> Figure:
    if theirs is None:
        return Figure(what, f"{ours:,.0f} /s", f">= {wanted:g} x {peer}", missing=True)
    factor = ours / theirs
    value = f"{ours:,.0f} /s, {peer} {theirs:,.0f} /s: {factor:.1f} x"
    return Figure(what, value, f">= {wanted:g} x {peer}", good=factor >= wanted)


def _best(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any]:
    """The better figure of two runs of the peers, so that a busy moment of the machine does not count against them."""
    if first is None or second is None:
        return {}
    return {
        name: min(first[name], second[name]) if name.endswith("import") else max(first[name], second[name])
        for name in first
    }


def _frames() -> tuple[float, float]:
    addresses = b"\x03\x21"
    frame = emit_frame(addresses, 0x10, INFO)

    decoder = HdlcDecoder()

    def decode() -> object:
        decoder.feed(frame)
        return decoder.next()

    return rate(lambda: emit_frame(addresses, 0x10, INFO)), rate(decode)


def _ciphering() -> tuple[float, float]:
    sender = Ciphering(Security(TITLE, EK, AK, counters=MemoryCounters(5)))
    sealed = sender.protect(PLAIN)

    class Amnesia(MemoryCounters):
        """Takes the same APDU again and again."""

        def note(self, counter: int) -> None:
            pass

    receiver = Ciphering(Security(bytes(8), EK, AK, counters=Amnesia(), peer_title=TITLE))
    return rate(lambda: sender.protect(PLAIN)), rate(lambda: receiver.unprotect(sealed))


# ------------------------------------------------------------------------------------------- a session over a socket

_OURS = """
import json, sys, time
begin = time.perf_counter()
from dlms import Lls, Meter
imported = time.perf_counter() - begin
options = json.loads(sys.argv[1])
out = []
known = None
for _ in range(4):
    counted = [0, 0]
    def trace(way, when, data):
        counted[0] += way == ">"
        counted[1] += len(data)
    meter = Meter(f"socket://127.0.0.1:{options['port']}", auth=Lls(options["secret"]), known=known,
                  info_max=options["info"], trace=trace)
    begin = time.process_time()
    with meter:
        results = meter.read_many([f"{c}/{o}/{a}" for c, o, a in options["read"]])
    out.append((time.process_time() - begin, counted[0], counted[1]))
    known = meter.known
assert all(hasattr(result, "value") for result in results)
# not ru_maxrss: that keeps the size of the process that started this one
rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"first": out[0], "again": min(out[1:]), "import_s": imported, "rss_kib": rss}))
"""


def _value(class_id: int, obis: Obis, attribute: int) -> axdr.Data:
    row = next(row for row in ROWS if (row.class_id, row.obis, row.attribute) == (class_id, obis, attribute))
    if row.tag is axdr.Tag.BOOLEAN:
        return axdr.boolean(value=True)
    return axdr.octets(bytes(row.octets)) if row.tag is axdr.Tag.OCTET_STRING else axdr.Data(row.tag, 100)


class _Served:
    """The meter with all rows on a TCP port, HDLC inside."""

    def __init__(self, info_max: int) -> None:
        self._meter = MeterServer(objects_from_rows(ROWS, _value, phases=3), auth=Lls(SECRET))
        self._info_max = info_max
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                connection, _address = self._listener.accept()
                with connection:
                    port = MeterPort(self._meter, "hdlc", info_max=self._info_max)
                    while data := connection.recv(4096):
                        port.write(data)
                        connection.sendall(port.read(None) or b"")
        except OSError:
            return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _session(info_max: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    served = _Served(info_max)
    options: dict[str, object] = {
        "port": served.port,
        "secret": SECRET,
        "info": info_max,
        "read": [[row.class_id, str(row.obis), row.attribute] for row in ROWS],
    }
    try:
        command = [sys.executable, "-c", _OURS, json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=REPO)
        return json.loads(done.stdout), peers(options) if info_max == 128 else None
    finally:
        served.close()


def gurux_cpu_s() -> float | None:
    """CPU seconds of a gurux client that reads all rows of one meter; None where there is no gurux."""
    _ours, gurux = _session(128)
    return float(gurux["cpu_s"]) if gurux is not None else None


def gurux_session() -> tuple[int, int] | None:
    """Exchanges and octets of a gurux client that reads all rows of one meter; None where there is no gurux."""
    _ours, gurux = _session(128)
    return (int(gurux["exchanges"]), int(gurux["octets"])) if gurux is not None else None


def _session_figures() -> list[Figure]:
    ours, gurux = _session(128)
    cpu, exchanges, octets = ours["again"]
    wide, _none = _session(1024)
    figures = [
        Figure("108 values, info 128: exchanges", f"{exchanges}", "<= 20", good=exchanges <= 20),
        Figure("108 values, info 128: octets both ways", f"{octets:,}", "<= 2,400", good=octets <= 2400),
        plain("the first time, with every scaler", f"{ours['first'][1]} exchanges, {ours['first'][2]:,} octets"),
        Figure("108 values, info 1024: exchanges", f"{wide['again'][1]}", "<= 7", good=wide["again"][1] <= 7),
    ]
    if gurux is None:
        figures.append(Figure("108 values: CPU", f"{cpu * 1000:.1f} ms", "<= half of gurux", missing=True))
    else:
        value = f"{cpu * 1000:.1f} ms; gurux {gurux['cpu_s'] * 1000:.1f} ms"
        figures.append(Figure("108 values: CPU", value, "<= half of gurux", good=cpu <= gurux["cpu_s"] / 2))
        octets_and_turns = f"{gurux['exchanges']} exchanges, {gurux['octets']:,} octets"
        figures.append(plain("gurux, an object at a time", octets_and_turns))
    return figures


def _start_figures(measured: dict[str, Any]) -> list[Figure]:
    # CPU time, so that other work on the machine does not count
    code = "import time; t = time.process_time(); from dlms import Meter; print(time.process_time() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout)
        for _ in range(5)
    ]
    memory = min(_session(128)[0]["rss_kib"] for _ in range(2)) / 1024
    figures = [
        Figure("peak memory of a client that read 108 values", f"{memory:.1f} MB", "<= 25 MB", good=memory <= 25),
    ]
    own_ms = min(runs) * 1000
    if measured:
        gurux_ms = measured["gurux_import"][0] * 1000
        value = f"{own_ms:.0f} ms; gurux {gurux_ms:.0f} ms"
        figures.append(Figure("import of the client, CPU", value, "<= gurux", good=own_ms <= gurux_ms))
        for name in ("gurux", "cosem"):
            seconds, kib = measured[f"{name}_import"]
            figures.append(plain(f"{name}: import alone, CPU", f"{seconds * 1000:.0f} ms, {kib / 1024:.1f} MB"))
    else:
        figures.append(Figure("import of the client, CPU", f"{own_ms:.0f} ms", "<= gurux", missing=True))
    return figures


def run() -> list[Figure]:
    """Measure everything."""
    buffer = profile_buffer()
    given: dict[str, object] = {
        "info": INFO.hex(),
        "buffer": buffer.hex(),
        "columns": [[one.ref.class_id, list(one.ref.obis.code), one.ref.attribute] for one in COLUMNS],
        "plain": PLAIN.hex(),
        "ek": EK.hex(),
        "ak": AK.hex(),
        "title": TITLE.hex(),
    }
    before = peers(given)
    encode, decode = _frames()
    seal, opened = _ciphering()
    rows = rate(lambda: RowDecoder(tuple(COLUMNS)).decode(buffer), 2.0)
    theirs = _best(before, peers(given))
    return [
        ratio("HDLC frame of 120 octets, encoded", encode, theirs.get("gurux_hdlc_encode"), 10, "gurux"),
        ratio("HDLC frame of 120 octets, decoded", decode, theirs.get("gurux_hdlc_decode"), 10, "gurux"),
        ratio("profile of 1000 x 8 to typed rows", rows, theirs.get("cosem_profile"), 15, "dlms-cosem"),
        ratio("APDU of 1 KB, ciphered", seal, theirs.get("cosem_seal"), 1, "dlms-cosem"),
        ratio("APDU of 1 KB, deciphered", opened, theirs.get("cosem_open"), 1, "dlms-cosem"),
        *_session_figures(),
        *_start_figures(theirs),
    ]
