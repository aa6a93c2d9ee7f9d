"""One visit of one meter: a session over a channel of the bridge, driven by the port's thread.

Every visit also reads the logical device name, whatever the lists say: a modem can be moved to another meter, and an
address on a bus can be given to another one; readings must carry the name of the meter that gave them.

A visit is over when `outcome` is set. What was read is complete by then (`ok`), or there is an `error`; how the
association is released after the last value changes nothing about that. After a failure, what was read so far may be
given to the next visit for the same runs (`taken`), which then asks for the rest only: over a line that loses packets
and repeats none, a long list would otherwise never come to its end.

A visit asks in steps: first all attributes at once, with what describes the profiles; then the profiles' rows, some
seconds of line time per step, with the scalers of their columns before the first rows, where they are not known yet.
After each step `due` is set, and the visit waits: what was read so far and how far is to be taken (`readings`,
`positions`, then `given`) before `go_on`. So a failure costs one step at most, and a power cut what is not stored by
then as well. Rows for which there is no time left in the visit are for another one (`left`), of the same run where the
line has time for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar, Protocol

from agent.metering.registry.entry import Meter, meter_name
from agent.metering.scheduling.tasks import OwedRun
from agent.metering.visit.profile_catchup import (
    ROWS_NOT_FOUND,
    MeterFacts,
    ProfileReading,
    iso_time,
)
from agent.metering.visit.raw_values import UNRESOLVED_ERROR, UnstorableError, encode
from agent.metering.visit.shortfall import PASSING, Shortfall
from agent.settings.reading_codes import ReadingItem
from dlms import axdr
from dlms.axdr import Data
from dlms.client.events import (
    ItemError,
    ItemRead,
    ReadDone,
    Replied,
    SessionClosed,
    SessionEvent,
    SessionFailed,
    SessionOpened,
    Value,
)
from dlms.client.knowledge import MeterKnowledge
from dlms.client.session import MeterSession
from dlms.cosem.obis import ALARM_OBJECTS, CLOCK_TIME, DEVICE_NAME, AttributeRef, Obis
from dlms.cosem.profile import BUFFER, PROFILE_CLASS, Unresolved
from dlms.cosem.time import STANDARD_CLOCK, ClockPolicy, CosemDateTime
from dlms.errors import DlmsError, LocalError, PeerError
from dlms.xdlms.apdu.common import AccessError, Result
from dlms.xdlms.exchange import Answer, GetAnswer, GetExchange
from omadm.readings import Reading
from plc.errors import PlcLocalError
from plc.events import DataConfirmed, DataFailed, DataReceived, FailReason

# The billing period counter, abstract and of electricity, channel 0; and the F of values that are stored by their age.
BILLING_COUNTERS = AttributeRef.parse("1/0.0.0.1.0.255/2"), AttributeRef.parse("1/1.0.0.1.0.255/2")
RESETS_MODULO = 100
FIRST_STORED = 101
OTHER_REASON = 250  # Data-Access-Result
CLOSE_S = 5.0  # for the release, once everything was read
AGAIN_MAX = 2  # so often a visit asks again for what the meter had an error for that may pass
STEP_MARGIN = 2.5  # a step may take so many times what the one before it took: it may be twice as long

ProfileKey = tuple[str, Obis]  # task, profile
ChannelEvent = DataReceived | DataConfirmed | DataFailed


class Channel(Protocol):
    """The part of `plc.bridge.Channel` that a visit uses."""

    def send(self, data: bytes, now: float) -> int: ...

    def next_event(self) -> ChannelEvent | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a visit ended. `reached`: the meter answered something, whatever it was. `cause`: the error as a value, where
    there is one."""

    error: str
    reached: bool
    cause: DlmsError | None = None

    @property
    def ok(self) -> bool:
        return not self.error


@dataclass(slots=True)
class AttributeResult:
    """What one attribute gave, and when (civil seconds)."""

    result: Value | ItemError
    received: float


@dataclass(slots=True)
class Visit:
    """Drive it with `step`; `deadline` says when at the latest.

    `profiles` are to be read for the task they are filed under; `first_s` is how far back where nothing of them was
    read yet. Of `tasks_stored` everything but the profiles is stored for this run already. `extra` is read beside what
    the runs want: `agent.metering.registry.device_book` asks for it in idle time. `best_now` says what time it
    is, in UTC, `None` while our clock cannot be trusted. `for_order`: whether it is an
    `agent.metering.orders.order_visit.OrderVisit`. `goes_on`: the runs are read but for rows of these profiles, for
    which the visit before had no time. `left` are those for which this one has none, `steps` how many it has taken.
    """

    for_order: ClassVar[bool] = False

    meter: Meter
    runs: Sequence[OwedRun]
    session: MeterSession
    channel: Channel
    until: float
    knowledge: MeterKnowledge
    learned_before: tuple[object, ...] = ()
    policy: ClockPolicy = STANDARD_CLOCK
    profiles: dict[ProfileKey, ProfileReading] = field(default_factory=dict)
    taken: dict[AttributeRef, AttributeResult] = field(default_factory=dict)
    taken_before: int = 0
    outcome: Outcome | None = None
    complete: bool = False
    first_s: float = 86_400.0
    best_now: Callable[[], datetime | None] = lambda: None
    tasks_stored: set[str] = field(default_factory=set)
    positions_stored: dict[ProfileKey, Mapping[str, object]] = field(default_factory=dict)
    due: bool = False
    described: bool = False
    asked: ProfileReading | None = None
    asked_at: float = 0.0
    step_s: float = 0.0
    profiles_at: float = 0.0
    reached: bool = False
    gives_way: bool = False
    billing_asked: bool = False
    asked_again: int = 0
    extra: tuple[AttributeRef, ...] = ()
    opened: SessionOpened | None = None
    goes_on: bool = False
    left: set[ProfileKey] = field(default_factory=set)
    steps: int = 0

    def start(self, now: float) -> None:
        self.learned_before = signature(self.knowledge)
        self.taken_before = len(self.taken)
        self.profiles_from(self.profiles)
        items = self._items()
        wanted = {DEVICE_NAME: None} | dict.fromkeys(self.extra)
        wanted |= {item.ref: None for item in items if item.billing is None}
        if any(item.billing is not None for item in items):
            wanted |= dict.fromkeys(BILLING_COUNTERS)
        if self.profiles:
            wanted[CLOCK_TIME] = None
            wanted |= {ref: None for profile in self.profiles.values() for ref in profile.descriptors}
        self.session.read([ref for ref in wanted if ref not in self.taken], now)
        self._write(now)

    def profiles_from(self, profiles: dict[ProfileKey, ProfileReading]) -> None:
        """Read these profiles, each from its position on. To be called before rows are asked for."""
        self.profiles = profiles
        self.positions_stored = {key: profile.position.dump() for key, profile in profiles.items()}

    def give_way(self, now: float) -> None:
        """End the visit with the answer to what was asked last. What was read is there as after a failure."""
        if not self.gives_way and not self.complete:
            self.gives_way = True
            self.session.finish(now)
            self._write(now)

    def go_on(self, now: float, wall: float) -> None:
        """What was due is taken: ask for the next step."""
        self.due = False
        if not self.gives_way:
            self._go_on(now)
        self._carry(now, wall)

    def step(self, now: float, wall: float) -> None:
        """Take in what the channel has, pass on what the session wants, notice what is over."""
        while (event := self.channel.next_event()) is not None:
            if isinstance(event, DataReceived):
                self.reached = True
                self.session.receive(event.lsdu, now)
            elif isinstance(event, DataFailed):
                self._packet_failed(event, now)
        deadline = self.session.next_deadline()
        if deadline is not None and deadline <= now:
            self.session.on_deadline(now)
        self._carry(now, wall)
        if now >= self.until:
            self._fail("the visit took too long", now)

    def _packet_failed(self, failed: DataFailed, now: float) -> None:
        """The bridge gave a packet up. What becomes of the request is for the session, which knows what may be asked
        again: at once where the packet has not arrived, after its own timeout where nobody knows."""
        reason = failed.reason
        if reason in (FailReason.NODE_TIMEOUT, FailReason.BASE_NODE_RESTARTED):
            self.session.packet_lost(now)
        elif reason not in (FailReason.NO_CONFIRM, FailReason.BUSY):
            self._fail(failed.why, now)

    @property
    def waits_idly(self) -> bool:
        """Whether this visit is no reason to leave another meter waiting: the meter has let the time pass in which it
        used to answer, or everything was read and only the release is still to come."""
        return self.complete or self.session.overdue

    def deadline(self) -> float:
        below = self.session.next_deadline()
        return self.until if below is None else min(below, self.until)

    @property
    def gained(self) -> int:
        """How many attributes and rows this visit itself has brought."""
        return len(self.taken) - self.taken_before + sum(profile.taken for profile in self.profiles.values())

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

    def readings(self, owed: OwedRun, meter_id: str, *, trusted: bool) -> list[Reading]:
        """The readings of one run that are not stored yet: attributes in the order of its list, then rows of profiles
        in the order of the meter, and at the end of the visit the profiles that could not be read."""
        maker = _Maker(owed, meter_id, self._iso(self.data(CLOCK_TIME)), trusted)
        found: list[Reading] = []
        for item in owed.items.items if owed.task.task_id not in self.tasks_stored else ():
            ref = self._ref_of(item)
            taken = self.taken.get(ref)
            if taken is not None:  # the session answers for every attribute; one that it does not is not made up
                found.append(maker.reading(ref, taken.result, taken.received, date_time=item.date_time))
        for (task_id, _), profile in self.profiles.items():
            if task_id == owed.task.task_id:
                found += self._rows(maker, profile)
        return found

    def shortfall(self, of: OwedRun | None = None) -> Shortfall:
        """What the runs, or one `of` them, want and the meter had errors for, of what was asked in this visit."""
        runs = self.runs if of is None else [of]
        refs = {self._ref_of(item) for owed in runs for item in owed.items.items if not is_profile(item.ref)}
        results = [self.taken[ref].result for ref in refs if ref in self.taken]
        tasks = {owed.task.task_id for owed in runs}
        profiles = [(str(it.obis), it.error) for (task_id, _), it in self.profiles.items() if task_id in tasks]
        return Shortfall.of(results, profiles if self.complete else ())

    def flaws(self) -> dict[str, str]:
        """What is lacking, in a sentence, by task: empty for one that lacks nothing."""
        return {owed.task.task_id: self.shortfall(owed).text for owed in self.runs}

    def alarm_registers(self, owed: OwedRun) -> list[tuple[AttributeRef, Data]]:
        """The alarm registers (0.0.97.98.0-9.255) among what was read for a run, with their values."""
        wanted = [item.ref for item in owed.items.items if _is_alarm_register(item.ref)]
        return [(ref, data) for ref in wanted if (data := self.data(ref)) is not None]

    def positions(self, owed: OwedRun) -> dict[Obis, Mapping[str, object]]:
        """How far each profile of a run has been read now, where that is not stored yet."""
        return {
            key[1]: dumped
            for key, profile in self.profiles.items()
            if key[0] == owed.task.task_id and (dumped := profile.position.dump()) != self.positions_stored.get(key)
        }

    def given(self) -> None:
        """Everything that `readings` and `positions` gave is kept by who asked: it is not to be given again."""
        self.tasks_stored |= {owed.task.task_id for owed in self.runs}
        self.positions_stored = {key: profile.position.dump() for key, profile in self.profiles.items()}
        self.learned_before = signature(self.knowledge)
        for profile in self.profiles.values():
            profile.rows, profile.missing = [], 0

    # --- inside ---

    def _carry(self, now: float, wall: float) -> None:
        """Write what the session wants, take in what it tells, until there is neither."""
        self._write(now)
        while (event := self.session.next_event()) is not None:
            self._on_event(event, now, wall)
            self._write(now)

    def _on_event(self, event: SessionEvent, now: float, wall: float) -> None:
        match event:
            case SessionOpened():
                self.reached = True
                self.opened = event
            case ItemRead(ref=ref, result=result):
                self.taken[ref] = AttributeResult(result, wall)
            case ReadDone():
                if self._ask_billing(now) or self._ask_again(now):
                    pass
                elif self.profiles and not self.described:
                    self.due = True
                else:
                    self._go_on(now)
            case Replied(outcome=outcome):
                self.profiles_at = wall
                self.step_s = now - self.asked_at
                self.steps += 1
                if self.asked is not None:
                    self.asked.answer(_result(outcome), self.step_s)
                self.due = True
            case SessionClosed():
                self._end("" if self.complete else "the session ended before everything was read")
            case SessionFailed(error=error):
                self._end("" if self.complete else str(error), error)

    def _items(self) -> list[ReadingItem]:
        """What is to be read and is no profile, and not stored yet."""
        return [
            item
            for owed in self.runs
            if owed.task.task_id not in self.tasks_stored
            for item in owed.items.items
            if not is_profile(item.ref)
        ]

    def _ask_billing(self, now: float) -> bool:
        """Ask for the values of billing resets, now that it is known how many resets there were. Returns whether there
        is anything to ask for."""
        if self.billing_asked:
            return False
        self.billing_asked = True
        refs = dict.fromkeys(self._ref_of(item) for item in self._items() if item.billing is not None)
        missing = [ref for ref in refs if ref not in self.taken]
        if missing:
            try:
                self.session.read(missing, now)
            except DlmsError as error:  # the session ended behind its last answer
                self._end(str(error))
        return bool(missing)

    def _ask_again(self, now: float) -> bool:
        """Ask again for what may have failed for the moment only. Returns whether there is any."""
        failed = [
            ref for ref, taken in self.taken.items()
            if isinstance(taken.result, ItemError) and taken.result.code in PASSING
        ]  # fmt: skip
        if not failed or self.asked_again >= AGAIN_MAX:
            return False
        self.asked_again += 1
        try:
            self.session.read(failed, now)
        except DlmsError as error:  # the session ended behind its last answer
            self._end(str(error), error)
        return True

    def _ref_of(self, item: ReadingItem) -> AttributeRef:
        """Return the attribute that has the value of a billing reset: with the number of the reset for F, modulo 100;
        where the meter does not count its resets, with 101 for the last one, 102 for the one before."""
        if item.billing is None:
            return item.ref
        counter = next((count for ref in BILLING_COUNTERS if (count := self._count(ref)) is not None), None)
        stored = FIRST_STORED + item.billing if counter is None else (counter - item.billing) % RESETS_MODULO
        return replace(item.ref, obis=Obis(item.ref.obis.code[:5] + bytes([stored])))

    def _count(self, ref: AttributeRef) -> int | None:
        data = self.data(ref)
        value = data.value if data is not None else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def _go_on(self, now: float) -> None:
        """Everything asked for was answered: ask for what follows from it, or be content."""
        try:
            self._ask_more(now)
        except DlmsError as error:  # the session ended behind its last answer
            self._end(str(error), error)

    def _ask_more(self, now: float) -> None:
        if not self.described:
            self.described = True
            facts = MeterFacts(self._clock(), self.best_now(), self.policy, self.first_s)
            for profile in self.profiles.values():
                self._describe(profile, facts)
            unscaled = {ref: None for profile in self.profiles.values() for ref in profile.unscaled(self.knowledge)}
            if unscaled:
                self.session.read(list(unscaled), now)
                return
        # A step that would not come to its end in this visit is for the next one; what was read is stored.
        in_time = now + STEP_MARGIN * self.step_s + CLOSE_S < self.until
        for key, profile in self.profiles.items():
            if in_time and (error := self._scaler_error(profile)):
                profile.put_off(error)
            item = profile.next_item()
            if item is not None and not in_time:
                self.left.add(key)
            elif item is not None:
                self.asked, self.asked_at = profile, now
                self.session.request(GetExchange((item,)), now)
                return
        self.asked = None
        self.complete = True
        self.until = min(self.until, now + CLOSE_S)
        self.session.close(now)

    def _describe(self, profile: ProfileReading, facts: MeterFacts) -> None:
        """Have a profile know what the meter says of it. What it does not say now, it may say next time: with another
        guess in its place, rows in the wrong order would get the wrong times."""
        if error := self._passing_error(profile.descriptors):
            profile.put_off(error)
            return
        captures = self.taken.get(profile.descriptors[0])
        refused = captures.result.code if captures and isinstance(captures.result, ItemError) else ""
        profile.describe([self.data(ref) for ref in profile.descriptors], facts, refused)

    def _scaler_error(self, profile: ProfileReading) -> str:
        """The error for which the scaler of a column is not known now; without it no row is right. Empty for none."""
        return self._passing_error(profile.unscaled(self.knowledge))

    def _passing_error(self, refs: Iterable[AttributeRef]) -> str:
        """The error that one of these gave now and may not give the next time; empty for none."""
        results = [self.taken[ref].result for ref in refs if ref in self.taken]
        failed = (one.code for one in results if isinstance(one, ItemError) and one.code in PASSING)
        return next(failed, "")

    def data(self, ref: AttributeRef) -> Data | None:
        """What an attribute gave, `None` where it was refused or is not there yet."""
        taken = self.taken.get(ref)
        return taken.result.data if taken is not None and isinstance(taken.result, Value) else None

    def _clock(self) -> CosemDateTime | None:
        data = self.data(CLOCK_TIME)
        try:
            return CosemDateTime.parse(data.value) if data is not None and isinstance(data.value, bytes) else None
        except DlmsError:
            return None

    def _write(self, now: float) -> None:
        while self.outcome is None and (output := self.session.take_output()):
            try:
                self.channel.send(output, now)
            except PlcLocalError as error:  # longer than the bridge carries, or its queue is full
                self._fail(str(error), now, LocalError(str(error)))
                return

    def _fail(self, why: str, now: float, cause: DlmsError | None = None) -> None:
        """End the visit because of the line or of ours, not because of what the meter said."""
        self.session.receive_eof(now)
        self._end("" if self.complete else why, cause)

    def _end(self, error: str, cause: DlmsError | None = None) -> None:
        if self.outcome is None:
            self.outcome = Outcome(error, self.reached, cause)
            self.channel.close()

    def _rows(self, maker: _Maker, profile: ProfileReading) -> list[Reading]:
        found: list[Reading] = []
        for row in profile.rows:
            instant = None if row.repeated else iso_time(row.clock, self.policy) if row.clock else None
            of_row = replace(
                maker,
                meter_time=instant,
                profile=str(profile.obis),
                doubt=row.doubt or None,
                reread=profile.position.reread or None,
            )
            if (instant is None or row.doubt) and row.clock_ref is not None and row.clock:
                found.append(
                    of_row.reading(row.clock_ref, Value(axdr.octets(row.clock)), self.profiles_at, date_time=True)
                )
            for column, data in profile.wanted(row.cells):
                found.append(of_row.reading(column, self._cell(column, data), self.profiles_at))
        errors = [profile.error] if profile.error and self.complete else []
        errors += [ROWS_NOT_FOUND] if profile.missing else []
        ref = AttributeRef(PROFILE_CLASS, profile.obis, BUFFER)
        return found + [maker.reading(ref, ItemError(error), self.profiles_at) for error in errors]

    def _cell(self, column: AttributeRef, data: Data | Unresolved) -> Value | ItemError:
        if isinstance(data, Unresolved):
            return ItemError(UNRESOLVED_ERROR)
        scaler = self.knowledge.scaler_of(column)
        return Value(data, scaler.scaler, scaler.unit) if scaler else Value(data)

    def _iso(self, data: Data | None) -> str | None:
        return iso_time(data.value, self.policy) if data is not None and isinstance(data.value, bytes) else None


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the readings of one run, or of one row."""

    owed: OwedRun
    meter_id: str
    meter_time: str | None
    trusted: bool
    profile: str | None = None
    doubt: str | None = None
    reread: str | None = None

    def reading(
        self, ref: AttributeRef, result: Value | ItemError, received: float, *, date_time: bool = False
    ) -> Reading:
        tag, raw = "null", None
        scaler = unit = error = None
        if isinstance(result, ItemError):
            error = result.code
        else:
            scaler, unit = result.scaler, result.unit
            try:
                tag, raw = encode(result.data, date_time=date_time)
            except UnstorableError as unstorable:
                error = str(unstorable)
        return Reading(
            task=self.owed.task.task_id,
            meter=self.meter_id,
            cls=ref.class_id,
            obis=str(ref.obis),
            attr=ref.attribute,
            tag=tag,
            raw=raw,
            scaler=scaler,
            unit=unit,
            meter_time=self.meter_time,
            received=round(received, 3),
            trusted=self.trusted,
            error=error,
            run=self.owed.run,
            profile=self.profile,
            doubt=self.doubt,
            reread=self.reread,
        )


def is_profile(ref: AttributeRef) -> bool:
    """Whether this names the buffer of a profile, whose rows are read one by one."""
    return ref.class_id == PROFILE_CLASS and ref.attribute == BUFFER


def _is_alarm_register(ref: AttributeRef) -> bool:
    code = ref.obis.code
    return ref.attribute == 2 and code[:4] == ALARM_OBJECTS and code[4] <= 9 and code[5] == 255


def _result(outcome: Answer | PeerError) -> Result:
    """The answer to the request of a profile's window."""
    if isinstance(outcome, GetAnswer):
        try:
            return outcome.results()[0]
        except DlmsError:
            return AccessError(OTHER_REASON)
    return AccessError(OTHER_REASON)


def signature(knowledge: MeterKnowledge) -> tuple[object, ...]:
    """Changes when something worth storing was learned; sizes of answers alone are not."""
    return (
        len(knowledge.scalers),
        len(knowledge.undefined),
        len(knowledge.sizes),
        knowledge.list_max,
        knowledge.lists_work,
    )
