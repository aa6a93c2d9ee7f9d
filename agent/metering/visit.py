"""One visit of one meter: a session over a channel of the bridge, driven by the port's thread.

Every visit also reads the logical device name, whatever the lists say: a modem can be moved to another meter, and an
address on a bus can be given to another one; readings must carry the name of the meter that gave them.

A visit is over when `outcome` is set. What was read is complete by then (`ok`), or there is an `error`; how the
association is released after the last value changes nothing about that. After a failure, what was read so far may be
given to the next visit for the same runs (`taken`), which then asks for the rest only: over a line that loses packets
and repeats none, a long list would otherwise never come to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Protocol

from agent.metering.reading import Reading, UnstorableError, encode
from agent.metering.registry import Meter, meter_name
from agent.metering.tasks import Job
from dlms.cosem.obis import AttributeRef
from dlms.session import ItemError, ItemRead, MeterSession, ReadDone, SessionClosed, SessionFailed, SessionOpened, Value
from plc.errors import PlcLocalError
from plc.events import DataConfirmed, DataFailed, DataReceived

if TYPE_CHECKING:
    from dlms.knowledge import MeterKnowledge

DEVICE_NAME = AttributeRef.parse("1/0.0.42.0.0.255/2")
CLOCK_TIME = AttributeRef.parse("8/0.0.1.0.0.255/2")
CLOSE_S = 5.0  # for the release, once everything was read

ChannelEvent = DataReceived | DataConfirmed | DataFailed


class Channel(Protocol):
    """The part of `plc.bridge.Channel` that a visit uses."""

    def send(self, data: bytes, now: float) -> int: ...

    def next_event(self) -> ChannelEvent | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a visit ended. `reached`: the meter answered something, whatever it was."""

    error: str
    reached: bool

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass(slots=True)
class Taken:
    """What one attribute gave, and when (civil seconds)."""

    result: Value | ItemError
    received: float


@dataclass(slots=True)
class Visit:
    """Drive it with `step`; `deadline` says when at the latest. `packets`: the channel takes whole APDUs."""

    meter: Meter
    jobs: Sequence[Job]
    session: MeterSession
    channel: Channel
    packets: bool
    until: float
    knowledge: MeterKnowledge
    learned_before: tuple[object, ...] = ()
    taken: dict[AttributeRef, Taken] = field(default_factory=dict)
    taken_before: int = 0
    outcome: Outcome | None = None
    complete: bool = False
    reached: bool = False
    closed: bool = False

    def start(self, now: float) -> None:
        self.learned_before = signature(self.knowledge)
        self.taken_before = len(self.taken)
        wanted = {DEVICE_NAME: None} | {item.ref: None for job in self.jobs for item in job.items.items}
        self.session.read([ref for ref in wanted if ref not in self.taken], now)
        self._write(now)

    def step(self, now: float, wall: float) -> None:
        """Take in what the channel has, pass on what the session wants, notice what is over."""
        while (event := self.channel.next_event()) is not None:
            if isinstance(event, DataReceived):
                self.reached = True
                self.session.receive(event.lsdu, now)
            elif isinstance(event, DataFailed):
                self._fail(f"{event.reason.value}", now)
        deadline = self.session.next_deadline()
        if deadline is not None and deadline <= now:
            self.session.on_deadline(now)
        self._write(now)
        self._events(now, wall)
        self._write(now)
        if now >= self.until:
            self._fail("the visit took too long", now)

    def deadline(self) -> float:
        below = self.session.next_deadline()
        return self.until if below is None else min(below, self.until)

    @property
    def gained(self) -> int:
        """How many attributes this visit itself has brought."""
        return len(self.taken) - self.taken_before

    def learned(self) -> dict[str, object] | None:
        """What is new to know about the meter, in a form to store; `None` when nothing is."""
        return None if signature(self.knowledge) == self.learned_before else self.knowledge.dump()

    def device_name(self) -> str:
        """The name the meter gave in this visit; empty when it would not."""
        taken = self.taken.get(DEVICE_NAME)
        if taken is None or not isinstance(taken.result, Value):
            return ""
        value = taken.result.data.value
        if isinstance(value, bytes):
            return meter_name(value)
        return meter_name(value.encode("utf-8", "replace")) if isinstance(value, str) else ""

    def readings(self, job: Job, meter_id: str, *, trusted: bool) -> list[Reading]:
        """The readings of one job, in the order of its list."""
        meter_time = self._meter_time()
        found: list[Reading] = []
        for item in job.items.items:
            taken = self.taken.get(item.ref)
            if taken is None:
                continue  # the session answers for every attribute; one that it does not is not made up
            tag, raw, error = "null", None, None
            scaler = unit = None
            if isinstance(taken.result, ItemError):
                error = taken.result.code
            else:
                scaler, unit = taken.result.scaler, taken.result.unit
                try:
                    tag, raw = encode(taken.result.data, date_time=item.date_time)
                except UnstorableError as unstorable:
                    error = str(unstorable)
            found.append(
                Reading(
                    task=job.task.task_id,
                    meter=meter_id,
                    cls=item.ref.class_id,
                    obis=str(item.ref.obis),
                    attr=item.ref.attribute,
                    tag=tag,
                    raw=raw,
                    scaler=scaler,
                    unit=unit,
                    meter_time=meter_time,
                    received=round(taken.received, 3),
                    trusted=trusted,
                    error=error,
                    run=job.run,
                )
            )
        return found

    # --- inside ---

    def _events(self, now: float, wall: float) -> None:
        while (event := self.session.next_event()) is not None:
            match event:
                case SessionOpened():
                    self.reached = True
                case ItemRead(ref=ref, result=result):
                    self.taken[ref] = Taken(result, wall)
                case ReadDone():
                    self.complete = True
                    self.until = min(self.until, now + CLOSE_S)
                case SessionClosed():
                    self._end("" if self.complete else "the session ended before everything was read")
                case SessionFailed(error=error):
                    self._end("" if self.complete else str(error))
                case _:
                    pass

    def _write(self, now: float) -> None:
        """HDLC: bytes in one go. Packets: one APDU each."""
        while self.outcome is None and (output := self.session.take_output()):
            try:
                self.channel.send(output, now)
            except PlcLocalError as error:  # longer than the bridge carries, or its queue is full
                self._fail(str(error), now)
                return
            if not self.packets:
                return

    def _fail(self, why: str, now: float) -> None:
        self.session.receive_eof(now)
        self._end("" if self.complete else why)

    def _end(self, error: str) -> None:
        if self.outcome is None:
            self.outcome = Outcome(error, self.reached)
            self.channel.close()

    def _meter_time(self) -> str | None:
        """The meter's own clock as it was read in this visit, ISO 8601 in UTC, where that can be said."""
        taken = self.taken.get(CLOCK_TIME)
        if taken is None or not isinstance(taken.result, Value) or not isinstance(taken.result.data.value, bytes):
            return None
        from dlms.cosem.time import CosemDateTime
        from dlms.errors import DlmsError

        try:
            moment = CosemDateTime.parse(taken.result.data.value).to_datetime()
        except DlmsError:
            return None
        return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def signature(knowledge: MeterKnowledge) -> tuple[object, ...]:
    """Changes when something worth storing was learned; sizes of answers alone are not."""
    return (
        len(knowledge.scalers),
        len(knowledge.undefined),
        len(knowledge.sizes),
        knowledge.list_max,
        knowledge.lists_work,
    )
