"""How long reading 108 values takes on a modelled serial line, against the floor for the same parameters.

The floor is what the octets of a GET-with-list take at 10 bits each, plus the latency of each exchange, for one
association with LLS and one-octet addresses: 633 octets of values, 11 of HDLC a frame, 3 of LLC an APDU, 9 an RR.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

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
    clock = "8/0.0.1.0.0.255/2"
    assert {ref: value for ref, value in run.values.items() if ref != clock} == {
        ref: value for ref, value in clean.values.items() if ref != clock
    }
    assert run.seconds - run.waited_s <= 1.3 * clean.seconds
