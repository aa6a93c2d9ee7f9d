"""Reading 108 values over a modelled serial line, and the floor for the same parameters.

The floor is what no session can be faster than that reads these values by GET-with-list in one association with LLS
over one-octet addresses: the fewest octets at 10 bits each, plus the latency of the fewest exchanges. It is reckoned
from the layouts of the standard, not from what the package sends:

* A frame is 11 octets around its information field (9 without one), an APDU has 3 octets of LLC.
* SNRM and UA carry what differs from the default, in the shortest form; DISC and its UA carry nothing.
* The AARQ has 56 octets (LLS with 8 octets, InitiateRequest without options), the AARE 43.
* 108 items are 10 octets each in a request; in an answer 633 octets of values and 108 of results. The head of a list is
  4 octets each way.
* In one exchange at most a window of frames goes each way, and an APDU is no longer than the PDU size. That gives the
  least number of lists; together they need as many frames as their octets fill, and each at least one.

On a line that loses and damages, `Run.waited_s` is the time in which the line was silent because somebody waited for
what did not come: what is left of the response and inter-octet timeouts once the line is still. `Run.spoiled_s` is the
time the line carried bursts that it lost or damaged; it belongs to the same timeouts, which run from the end of the
command, or repeats it. No protocol is faster on that line than the floor and `spoiled_s`, since what was spoiled has to
travel again; `Run.busy_s` is everything but the silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlms.client.events import ItemRead, ReadDone, SessionClosed, SessionEvent, SessionFailed, Value
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.cosem.obis import AttributeRef
from dlms.link.datalink import ApduReceived
from dlms.link.hdlc.primary import HdlcClientLink, HdlcServerLink
from dlms.security.settings import Lls
from dlms.simulator.reading_list import rows_from_csv
from tests.sim.meters import SimMeter
from tests.sim.pipes import Line, Loop, Slow, Spoiling

ROWS = rows_from_csv(Path(__file__).parents[2] / "etc" / "reading-lists" / "residential-108.csv")
REFS = [AttributeRef(row.class_id, row.obis, row.attribute) for row in ROWS]
PASSWORD = b"12345678"

PDU_OCTETS = 1024
LOSS, FLIP = 0.03, 0.01  # of the bursts, on a bad line
CONFIGURATIONS = ((128, 1), (128, 7), (1024, 1))  # information field, window


def floor(info_max: int, window: int) -> tuple[int, int]:
    """Octets and exchanges of the floor; see the module."""
    frame, bare, llc, head, item = 11, 9, 3, 4, 10
    requests, answers = len(REFS) * item, 633 + len(REFS)
    lists = 1
    while requests + lists * (llc + head) > lists * min(window * info_max, PDU_OCTETS + llc):
        lists += 1
    parameters = (2 * 4 if info_max > 0xFF else 2 * 3 if info_max != 128 else 0) + (2 * 3 if window != 1 else 0)
    octets = 2 * (frame + 3 + parameters if parameters else bare) + 2 * bare
    octets += frame + llc + 56 + frame + llc + 43
    for payload in (requests, answers):
        apdus = payload + lists * (llc + head)
        octets += apdus + frame * max(lists, -(-apdus // info_max))
    return octets, 3 + lists


def floor_s(info_max: int, window: int, baudrate: int, latency_s: float) -> float:
    """The floor in seconds."""
    octets, exchanges = floor(info_max, window)
    return octets * 10 / baudrate + exchanges * latency_s


@dataclass(slots=True)
class Run:
    """What one session took."""

    seconds: float
    waited_s: float
    spoiled: int
    spoiled_s: float
    octets: int
    exchanges: int
    events: list[SessionEvent]
    meter: SimMeter

    @property
    def busy_s(self) -> float:
        return self.seconds - self.waited_s

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
    """One session over a line; `loss` seeds a bad one."""
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
            if isinstance(happened, ReadDone):
                reader.close(now)
        return bool(events) and isinstance(events[-1], SessionClosed | SessionFailed)

    there, back = Slow(baudrate, latency_s / 2), Slow(baudrate, latency_s / 2)
    left: Line = there
    right: Line = back
    bad: list[Spoiling] = []
    if loss is not None:
        bad = [Spoiling(LOSS, FLIP, loss, there), Spoiling(LOSS, FLIP, loss + 1, back)]
        left, right = bad
    loop = Loop(reader, server, left, right, turn)
    loop.run(limit_s=600.0)
    return Run(
        loop.now,
        loop.waited_s,
        sum(line.spoiled for line in bad),
        sum(line.spoiled_s for line in bad),
        there.octets + back.octets,
        there.bursts,
        events,
        meter,
    )


def steady(run: Run) -> dict[str, object]:
    """The values that are the same in every session: all but the clock's."""
    return {ref: value for ref, value in run.values.items() if ref != "8/0.0.1.0.0.255/2"}
