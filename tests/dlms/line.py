"""Reading 108 values over a modelled serial line, and the floor for the same parameters.

The floor is what the octets of a GET-with-list take at 10 bits each, plus the latency of each exchange, for one
association with LLS and one-octet addresses: 633 octets of values, 11 of HDLC a frame, 3 of LLC an APDU, 9 an RR.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlms.cosem.obis import AttributeRef
from dlms.datalink import ApduReceived
from dlms.hdlc_link import HdlcClientLink, HdlcServerLink
from dlms.knowledge import MeterKnowledge
from dlms.objects import rows_from_csv
from dlms.security import Lls
from dlms.session import ItemRead, MeterSession, SessionClosed, SessionEvent, SessionFailed, Value
from tests.sim.meters import SimMeter
from tests.sim.pipes import Flipping, Line, Loop, Lossy, Slow

ROWS = rows_from_csv(Path(__file__).parents[2] / "etc" / "reading-lists" / "residential-108.csv")
REFS = [AttributeRef(row.class_id, row.obis, row.attribute) for row in ROWS]
PASSWORD = b"12345678"

# (information field, window) → octets and exchanges of the floor.
FLOOR = {(128, 1): (2339, 17), (128, 7): (2240, 6), (1024, 1): (2083, 5)}


@dataclass(slots=True)
class Run:
    """What one session took."""

    seconds: float
    waited_s: float
    octets: int
    exchanges: int
    events: list[SessionEvent]
    meter: SimMeter

    @property
    def values(self) -> dict[str, object]:
        return {
            str(event.ref): event.result.data.value
            for event in self.events
            if isinstance(event, ItemRead) and isinstance(event.result, Value)
        }


def session(
    info_max: int, window: int, baudrate: int, latency_s: float, known: MeterKnowledge, loss: int | None = None
) -> Run:
    """One session over a line; `loss` seeds a line that loses 3 % of the bursts and damages 1 %."""
    meter = SimMeter(1, ROWS, 3, PASSWORD)
    client = HdlcClientLink(17, 1, info_max=info_max, window=window, octet_s=10 / baudrate)
    server = HdlcServerLink(1, info_max=info_max, window=window)
    reader = MeterSession(client, client=17, server=1, auth=Lls(PASSWORD), known=known)
    reader.open(0.0)
    reader.read(REFS, 0.0)
    events: list[SessionEvent] = []

    def turn(now: float) -> bool:
        while (event := server.next_event()) is not None:
            if isinstance(event, ApduReceived):
                for answer in meter.receive_apdu(17, event.apdu, now):
                    server.send(answer, now)
        while (happened := reader.next_event()) is not None:
            events.append(happened)
        return bool(events) and isinstance(events[-1], SessionClosed | SessionFailed)

    there, back = Slow(baudrate, latency_s / 2), Slow(baudrate, latency_s / 2)
    left: Line = there
    right: Line = back
    if loss is not None:
        left = Lossy(0.03, loss, Flipping(0.01, loss + 1, there))
        right = Lossy(0.03, loss + 2, Flipping(0.01, loss + 3, back))
    loop = Loop(reader, server, left, right, turn)
    loop.run(limit_s=600.0)
    return Run(loop.now, loop.waited_s, there.octets + back.octets, there.bursts, events, meter)


def steady(run: Run) -> dict[str, object]:
    """The values that are the same in every session: all but the clock's."""
    return {ref: value for ref, value in run.values.items() if ref != "8/0.0.1.0.0.255/2"}
