"""What the reader of a port remembers of its meters between two visits: failures, leftovers, and what was learned."""

from __future__ import annotations

import logging
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agent.clock import Clock
from agent.metering.registry.entry import Meter
from agent.metering.scheduling.schedule import Backoff
from agent.metering.scheduling.tasks import OwedRun
from agent.metering.store.reading_store import Store, StoreError
from agent.metering.visit.profile_position import ProfilePosition
from agent.metering.visit.shortfall import NOT_THERE
from agent.metering.visit.visit import AttributeResult, ProfileKey, Visit
from agent.settings.config import MeteringConfig
from dlms.client.events import ItemError, Value
from dlms.client.knowledge import MeterKnowledge
from dlms.cosem.obis import CLOCK_TIME, DEVICE_NAME, AttributeRef, Obis
from dlms.errors import DlmsError

LOG = logging.getLogger("agent.metering.port")

# Meters whose knowledge stays in memory, some 15 kB each. The store has that of all, and who reads hundreds one after
# another finds none of them here, however many are kept; but that sessions were lost on a list is known here only.
# Not fewer than visits are under way at once: at 9600 baud a run then asked 5 to 9 % more than it had to.
KNOWLEDGE_KEPT = 16
UNSAVED_KEPT = 64
RETRY_MAX_S = 900.0  # the longest pause before a retry: several fit into an hourly run
ASK_NAME = Backoff(60.0, 3600.0)
LEFTOVERS_KEPT = 64  # failed visits whose values wait for a retry, some 30 kB each
VALUES = "values"  # beside the logical names of profiles
GOOD_STEP_VALUES = 8  # a failed visit that read so many values counts as progress

_NO_RUN = (0, 0.0, 0)


@dataclass(slots=True)
class _Failures:
    """Failures of one meter in a row. `runs`: task → (run, offset of the clock, failures in it)."""

    since: float
    not_before: float = 0.0
    runs: dict[str, tuple[int, float, int]] = field(default_factory=dict)


class Retries:
    """Decides which meters rest after a failure, and which runs have been given up for them."""

    def __init__(self, metering: MeteringConfig, clock: Clock, jitter: Callable[[], float]) -> None:
        self._retries_max = metering.retries_max
        self._backoff = Backoff(metering.retry_backoff_s, max(metering.retry_backoff_s, RETRY_MAX_S))
        self._clock = clock
        self._jitter = jitter
        self._meters: dict[str, _Failures] = {}

    def resting(self, meter: Meter, now: float) -> bool:
        failed = self._meters.get(meter.key)
        return failed is not None and now < failed.not_before

    def next_end(self, now: float) -> float:
        """Return when the next meter has rested long enough; infinity when none rests."""
        return min((failed.not_before for failed in self._meters.values() if failed.not_before > now), default=math.inf)

    def since(self, meter: Meter) -> float:
        """Return since when visits of this meter have failed (monotonic seconds); 0 when the last one went well.

        Sorted by this, meters without failures come first, then those that have waited longest.
        """
        failed = self._meters.get(meter.key)
        return failed.since if failed else 0.0

    def given_up(self, meter: Meter, owed: OwedRun) -> bool:
        failed = self._meters.get(meter.key)
        run, offset, failures = failed.runs.get(owed.task.task_id, _NO_RUN) if failed else _NO_RUN
        return owed.is_of(run, offset) and failures > self._retries_of(owed)

    def reset(self, meter: Meter) -> None:
        self._meters.pop(meter.key, None)

    def reset_all(self) -> None:
        self._meters.clear()

    def is_last(self, meter: Meter, runs: Sequence[OwedRun]) -> bool:
        """Whether a failure now would have one of these runs given up."""
        failed = self._meters.get(meter.key)
        for owed in runs:
            run, offset, before = failed.runs.get(owed.task.task_id, _NO_RUN) if failed else _NO_RUN
            if (before if owed.is_of(run, offset) else 0) >= self._retries_of(owed):
                return True
        return not runs

    def note(self, meter: Meter, runs: Sequence[OwedRun], *, gained: int = 0) -> bool:
        """Record that a visit for these runs failed after it had read `gained` values.

        Returns whether one of the runs is given up now.
        """
        now = self._clock.monotonic()
        failed = self._meters.setdefault(meter.key, _Failures(since=now))
        failures, final = 1, not runs and self._retries_max == 0
        for owed in runs:
            run, offset, before = failed.runs.get(owed.task.task_id, _NO_RUN)
            before = before if owed.is_of(run, offset) else 0
            # A visit that brought the reading a good step forward is no reason to give it up.
            count = before if gained >= GOOD_STEP_VALUES else before + 1
            failed.runs[owed.task.task_id] = (owed.run, owed.offset, count)
            failures = max(failures, count)
            final = final or count > self._retries_of(owed)
        failed.not_before = now + self._backoff.pause(failures, self._jitter)
        if final:
            LOG.debug("meter %s was not read in %d attempts", meter.meter_id, failures)
        return final

    def _retries_of(self, owed: OwedRun) -> int:
        return self._retries_max if owed.task.retries_max is None else owed.task.retries_max


class NameQuestions:
    """Decides when a meter that is in no task for want of its name is asked for it, again after pauses that grow."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._meters: dict[str, tuple[int, float]] = {}  # how often it was asked, and not again before

    def due(self, meter: Meter, now: float) -> bool:
        return now >= self._meters.get(meter.key, (0, 0.0))[1]

    def asked(self, meter: Meter, now: float) -> None:
        """It is asked now."""
        times = self._meters.get(meter.key, (0, 0.0))[0] + 1
        self._meters[meter.key] = times, now + ASK_NAME.pause(times, self._jitter)

    def reset(self, meter: Meter) -> None:
        self._meters.pop(meter.key, None)


class Rests:
    """Runs that were read but for rows of profiles, for which their visits had no time: what goes on when nobody else
    needs the line. In memory: after a restart the next run does it."""

    def __init__(self) -> None:
        self._meters: dict[str, tuple[dict[str, OwedRun], set[ProfileKey]]] = {}  # the one that waits longest first

    def note(self, visit: Visit, left: Collection[ProfileKey]) -> None:
        """A visit has left rows of these profiles."""
        runs, keys = self._meters.pop(visit.meter.key, ({}, set()))
        runs |= {owed.task.task_id: owed for owed in visit.runs if any(task == owed.task.task_id for task, _ in left)}
        self._meters[visit.meter.key] = runs, keys | set(left)

    def waiting(self) -> list[str]:
        """The meters (`Meter.key`) in the order in which they go on."""
        return list(self._meters)

    def take(self, key: str) -> tuple[list[OwedRun], set[ProfileKey]]:
        """Return what is to go on of a meter, and forget it."""
        runs, left = self._meters.pop(key, ({}, set()))
        return list(runs.values()), left


class Leftovers:
    """Keeps what visits read before they failed, for the next visit of the same meter for the same slots."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[dict[str, OwedRun], dict[AttributeRef, AttributeResult]]] = OrderedDict()

    def keep(self, visit: Visit) -> None:
        """Keep all values of a failed visit but those that every visit reads anew: the name of the meter, its clock,
        and what its profiles are. What the meter had an error for is asked again, unless it does not have it."""
        anew = {DEVICE_NAME, CLOCK_TIME} | {ref for profile in visit.profiles.values() for ref in profile.descriptors}
        rest = {ref: taken for ref, taken in visit.taken.items() if ref not in anew and _lasts(taken.result)}
        self._kept.pop(visit.meter.key, None)
        if rest:
            self._kept[visit.meter.key] = ({owed.task.task_id: owed for owed in visit.runs}, rest)
        while len(self._kept) > LEFTOVERS_KEPT:
            self._kept.popitem(last=False)

    def take(self, meter: Meter, runs: Sequence[OwedRun]) -> dict[AttributeRef, AttributeResult]:
        """Return what is left over for exactly these slots, and forget it."""
        before, rest = self._kept.pop(meter.key, ({}, {}))
        same = [owed for owed in runs if (of := before.get(owed.task.task_id)) and owed.is_of(of.run, of.offset)]
        return rest if len(same) == len(runs) == len(before) else {}


class KnowledgeCache:
    """What was learned about meters: that of recent ones in memory, all of it in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: OrderedDict[str, MeterKnowledge] = OrderedDict()

    def of(self, key: str) -> MeterKnowledge:
        """Return the knowledge of one meter. Never raises: what cannot be recalled is learned again."""
        known = self._recent.pop(key, None) or self._load(key)
        self._recent[key] = known
        saved = [other for other, of in self._recent.items() if not of.list_failures]
        for other in saved[:-KNOWLEDGE_KEPT]:
            del self._recent[other]
        while len(self._recent) > UNSAVED_KEPT:
            self._recent.popitem(last=False)
        return known

    def position(self, meter_id: str, task_id: str, obis: Obis) -> ProfilePosition:
        """Return how far a profile was read; an empty position for one that was not, when that cannot be recalled, or
        when the store has lost readings that may have been of it: they are read again."""
        found = ProfilePosition.load(self._recall(_key(meter_id, task_id, str(obis))))
        try:
            store, seq, since = self._store.lost_since(meter_id, found.losses)
        except StoreError as error:  # nothing can be stored now either; the next visit hears of it
            LOG.debug("what was lost of %s is not known now: %s", meter_id, error)
            return found
        position = found.heard(store, seq, since, secrets.token_hex(16))
        if found.known and not position.known:
            LOG.warning(
                "profile %s of %s (task %s) is read again, since readings of it may have been lost",
                obis,
                meter_id,
                task_id,
                extra={"event": "profile.reread"},
            )
        return position

    def has_values(self, meter_id: str, owed: OwedRun) -> bool:
        """Whether all values of this slot but rows of profiles are in the store.

        Monotonic time begins anew with each boot, so an offset says nothing of a clock of another boot: a visit that a
        power cut ended is made once more, and the head-end knows what it reads for a repetition.
        """
        found = self._recall(_key(meter_id, owed.task.task_id, VALUES))
        run, offset = found.get("run"), found.get("offset")
        if found.get("boot") != owed.boot or not isinstance(run, int) or not isinstance(offset, float):
            return False
        return owed.is_of(run, offset)

    def _recall(self, key: str) -> dict[str, object]:
        try:
            return self._store.knowledge(key) or {}
        except StoreError as error:
            LOG.debug("what was known of %s is lost: %s", key, error)
            return {}

    def _load(self, key: str) -> MeterKnowledge:
        try:
            dumped = self._store.knowledge(key)
            return MeterKnowledge.load(dumped) if dumped else MeterKnowledge()
        except (StoreError, DlmsError) as error:
            LOG.debug("what was known of %s is lost: %s", key, error)
            return MeterKnowledge()


def _lasts(result: Value | ItemError) -> bool:
    return isinstance(result, Value) or result.code in NOT_THERE


def positions(
    meter_id: str, task_id: str, reached: Mapping[Obis, Mapping[str, object]]
) -> dict[str, Mapping[str, object]]:
    """Return how far profiles were read in the form in which `KnowledgeCache.position` finds it in the store."""
    return {_key(meter_id, task_id, str(obis)): position for obis, position in reached.items()}


def values_stored(meter_id: str, owed: OwedRun) -> dict[str, Mapping[str, object]]:
    """Return, for the store, that the values of this run are there, while rows of profiles may be missing still."""
    return {_key(meter_id, owed.task.task_id, VALUES): {"run": owed.run, "offset": owed.offset, "boot": owed.boot}}


def _key(meter_id: str, task_id: str, what: str) -> str:
    return f"{meter_id}#{task_id}#{what}"
