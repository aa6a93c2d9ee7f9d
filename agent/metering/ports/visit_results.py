"""What the visits of one port bring, into the store: readings, events, how far profiles were read, what was learned."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.clock import Clock
from agent.metering.events import scaler_check
from agent.metering.events.logbooks import ALARMS, Circumstances, alarm_events, log_events
from agent.metering.ports.held_visits import Taken
from agent.metering.registry.capabilities import Offered
from agent.metering.registry.device_book import DeviceBook
from agent.metering.registry.entry import Meter
from agent.metering.scheduling.tasks import OwedRun, TaskBook
from agent.metering.store.reading_store import Store, StoreDefectError, StoreError
from agent.metering.visit.profile_catchup import ProfileReading
from agent.metering.visit.visit import ProfileKey, Visit, is_profile
from agent.metering.visit.visit_memory import KnowledgeCache, positions, values_stored
from dlms.cosem.time import ClockPolicy
from omadm.readings import EventReport

LOG = logging.getLogger("agent.metering.port")


def _is_of_logs(visit: Visit, owed: OwedRun) -> bool:
    """Whether a run wants nothing but profiles whose rows come at no fixed times, and all were read."""
    profiles = [visit.profiles.get((owed.task.task_id, item.ref.obis)) for item in owed.items.items]
    return all(it is not None and not it.error and it.is_log for it in profiles)


class VisitResults:
    """Keeps what visits bring: `take`, then `commit`, then `stored` or, where there was an error, nothing. The readings
    of a visit and the marks of its runs go into one commit."""

    def __init__(
        self,
        store: Store,
        tasks: TaskBook,
        devices: DeviceBook,
        knowledge: KnowledgeCache,
        clock: Clock,
        policy: ClockPolicy,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._devices = devices
        self._knowledge = knowledge
        self._clock = clock
        self._policy = policy

    def profiles(self, meter: Meter, runs: Sequence[OwedRun]) -> dict[ProfileKey, ProfileReading]:
        """Return the profiles that these runs ask for, each at the position that it was read to."""
        found: dict[ProfileKey, ProfileReading] = {}
        for owed in runs:
            for item in owed.items.items:
                if is_profile(item.ref):
                    position = self._knowledge.position(meter.meter_id, owed.task.task_id, item.ref.obis)
                    found[owed.task.task_id, item.ref.obis] = ProfileReading(item.ref.obis, position, item.rows)
        return found

    def tasks_stored(self, meter: Meter, runs: Sequence[OwedRun]) -> set[str]:
        """Return the tasks of which a visit before, cut while it read profiles, has stored all else for this run."""
        return {owed.task.task_id for owed in runs if owed.trusted and self._knowledge.has_values(meter.meter_id, owed)}

    def take(self, visit: Visit, meter: Meter, *, final: bool) -> Taken:
        """Take what the visit gave since the last time, how far the meter was read, and what was learned; `final`: that
        is all for the visit's runs, unless it `goes_on` with runs that were read before. The visit may go on; it does
        not give the same again. Raises `StoreError`."""
        reads = final and not visit.goes_on
        trusted = self._tasks.vouches(visit.runs)
        # A meter that has only now told its name may have been read for this run by another way.
        still_owed = {(owed.task.task_id, owed.run) for owed in self._tasks.owed(meter.meter_id)}
        runs = [owed for owed in visit.runs if meter is visit.meter or (owed.task.task_id, owed.run) in still_owed]
        if meter is not visit.meter:  # and so may a visit that was cut
            visit.tasks_stored |= self.tasks_stored(meter, runs)
        readings = [reading for owed in runs for reading in visit.readings(owed, meter.meter_id, trusted=trusted)]
        marks = self._tasks.marks(meter.meter_id, runs if trusted else [], final=reads)
        knowledge: dict[str, Mapping[str, object]] = {}
        for owed in runs:
            knowledge |= positions(meter.meter_id, owed.task.task_id, visit.positions(owed))
            if trusted and not final and owed.task.task_id not in visit.tasks_stored:
                knowledge |= values_stored(meter.meter_id, owed)
        happened = self._happened(visit, meter, runs, knowledge, trusted=trusted)
        rescaled = self._scalers_compared(visit, meter)
        happened += rescaled
        learned = visit.knowledge.dump() if rescaled else visit.learned()
        if learned:
            knowledge[meter.key] = learned
        self._report_doubts(visit, meter)
        visit.given()
        periods = {str(profile.obis): profile.period_s for profile in visit.profiles.values()}
        return Taken(visit, meter, runs, readings, marks, knowledge, happened, trusted, final, periods)

    def commit(self, held: Sequence[Taken]) -> list[tuple[Taken, Exception | None]]:
        """Store all of this in one commit. Returns each with the error that it met, `None` when it is durable.

        What the store does not take because of what it is must not keep the others from being stored: each then has
        a commit of its own.
        """
        held = [self._still_true(one) for one in held]
        try:
            if brought := [it for one in held if (it := one.brought()) is not None]:
                self._store.append_all(brought)
        except Exception as error:  # noqa: BLE001 - given back
            if len(held) == 1 or (isinstance(error, StoreError) and not isinstance(error, StoreDefectError)):
                return [(one, error) for one in held]
            return [found for one in held for found in self.commit([one])]
        return [(one, None) for one in held]

    def _still_true(self, taken: Taken) -> Taken:
        """Return this, without a clock to vouch for it where that was set since it was taken: the store would have it
        after what says so."""
        if not taken.trusted or self._tasks.vouches(taken.visit.runs):
            return taken
        readings = [replace(reading, trusted=False) for reading in taken.readings]
        return replace(taken, readings=readings, marks=(), trusted=False)

    def stored(self, taken: Taken) -> None:
        """What was taken is durable: the runs are over, and gaps end."""
        visit, meter_id = taken.visit, taken.meter.meter_id
        if taken.final and not visit.goes_on:
            flawed = {task_id for task_id, flaw in visit.flaws().items() if flaw}
            self._tasks.ended(visit.runs, meter_id, ok=True, final=True, trusted=taken.trusted, flawed=flawed)
        elif taken.final:
            self._tasks.ended(visit.runs, meter_id, ok=False, final=False)  # they have ended before
        self._tasks.stored(taken.readings, taken.periods)
        if taken.final and taken.trusted and not visit.left:
            self._tasks.caught_up(meter_id, [owed for owed in taken.runs if _is_of_logs(visit, owed)])

    def _scalers_compared(self, visit: Visit, meter: Meter) -> list[EventReport]:
        """Return the scalers that are no longer what was known of them, as events."""
        now, trusted = self._clock.wall(), self._clock.trusted()
        return scaler_check.compare(visit, visit.extra, visit.knowledge, meter.meter_id, now, trusted=trusted)

    def _happened(
        self,
        visit: Visit,
        meter: Meter,
        runs: Sequence[OwedRun],
        knowledge: dict[str, Mapping[str, object]],
        *,
        trusted: bool,
    ) -> list[EventReport]:
        """Return the events in what a step of a visit has read: new rows of event logs, new bits of alarm registers,
        which `knowledge` then has."""
        where, wall = f"{meter.port}/{meter.address}", self._clock.wall()
        key = meter.meter_id + ALARMS
        found: list[EventReport] = []
        before: Mapping[str, object] | None = None
        for owed in runs:
            about = Circumstances(meter.meter_id, owed.task.task_id, where, wall, trusted, self._policy)
            for (task_id, obis), profile in visit.profiles.items():
                if task_id == owed.task.task_id:
                    found += log_events(about, obis, profile.rows)
            registers = visit.alarm_registers(owed) if owed.task.task_id not in visit.tasks_stored else []
            if registers:
                if before is None:
                    before = self._store.knowledge(key) or {}
                alarms, now = alarm_events(about, registers, before)
                found += alarms
                if now != before:
                    before = knowledge[key] = now
        return found

    def learn(self, visit: Visit, meter: Meter) -> None:
        """Keep what a visit that went well has shown of the meter itself."""
        opened = visit.opened
        known = visit.knowledge
        self._devices.visited(
            meter, Offered(int(opened.conformance), opened.pdu_size, known.list_max) if opened else None
        )
        if visit.extra:
            self._devices.answered(meter.key)
            after = scaler_check.goes_on_after(known, visit.extra)
            if after is not None:
                self._devices.looked(meter.key, after)
            if self._devices.told(meter.key, {ref: visit.data(ref) for ref in visit.extra}):
                known.forget()  # of another firmware
                self._devices.looked(meter.key, "")

    @staticmethod
    def _report_doubts(visit: Visit, meter: Meter) -> None:
        """Log profiles whose rows began to be doubtful, or are plausible again; rows that were not found."""
        for (task_id, obis), profile in visit.profiles.items():
            doubtful = next((row for row in profile.rows if row.doubt), None)
            if profile.turned and doubtful is not None:
                LOG.warning(
                    "profile %s of %s (task %s): the time stamp %s of a row is %s; the row is kept and marked",
                    obis,
                    meter.meter_id,
                    task_id,
                    doubtful.clock.hex() or "-",
                    doubtful.doubt,
                    extra={"event": "profile.doubtful"},
                )
            elif profile.turned:
                LOG.info(
                    "profile %s of %s (task %s): the time stamps of rows are plausible again",
                    obis,
                    meter.meter_id,
                    task_id,
                    extra={"event": "profile.plausible"},
                )
            profile.turned = False
            if profile.missing:
                LOG.warning(
                    "profile %s of %s (task %s): at least %d rows that the meter must have captured were not found",
                    obis,
                    meter.meter_id,
                    task_id,
                    profile.missing,
                    extra={"event": "profile.rows-missing"},
                )
