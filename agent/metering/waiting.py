"""What a port's reader remembers of its meters between two visits: failures, and what was learned of each."""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.clock import Clock
from agent.metering.reading_store import Store, StoreError
from agent.metering.registry import Meter, Registry
from agent.metering.tasks import Job, TaskBook
from agent.metering.uplink import Backoff
from agent.metering.visit import DEVICE_NAME, Taken, Visit
from agent.settings.config import MeteringConfig
from dlms.client.knowledge import MeterKnowledge
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import DlmsError

LOG = logging.getLogger("agent.metering.port")

KNOWLEDGE_KEPT = 64  # meters whose knowledge is in memory, some 30 kB each; that of all others is in the store
RETRY_MAX_S = 900.0
LEFTOVERS_KEPT = 64  # failed visits whose values wait for a retry, some 30 kB each
GOOD_STEP_VALUES = 8


@dataclass(frozen=True, slots=True)
class Ports:
    """What the readers of all ports share. `health(port, problem)`: `""` when the port answers."""

    store: Store
    registry: Registry
    tasks: TaskBook
    clock: Clock
    rng: random.Random
    health: Callable[[str, str], None] = lambda _port, _problem: None


@dataclass(slots=True)
class _Trouble:
    """Failures of one meter in a row. `runs`: task → (run, failures in it)."""

    since: float
    not_before: float = 0.0
    runs: dict[str, tuple[int, int]] = field(default_factory=dict)


class Troubles:
    """Which meters rest after a failure, and which runs have been given up for them."""

    def __init__(self, metering: MeteringConfig, ports: Ports) -> None:
        self._retries_max = metering.retries_max
        self._backoff = Backoff(metering.retry_backoff_s, max(metering.retry_backoff_s, RETRY_MAX_S))
        self._ports = ports
        self._troubles: dict[str, _Trouble] = {}

    def resting(self, meter: Meter, now: float) -> bool:
        trouble = self._troubles.get(meter.key)
        return trouble is not None and now < trouble.not_before

    def since(self, meter: Meter) -> float:
        """For the order of the line: meters without trouble first, then those whose trouble is oldest."""
        trouble = self._troubles.get(meter.key)
        return trouble.since if trouble else 0.0

    def given_up(self, meter: Meter, job: Job) -> bool:
        trouble = self._troubles.get(meter.key)
        run, failures = trouble.runs.get(job.task.task_id, (0, 0)) if trouble else (0, 0)
        return run == job.run and failures > self._retries_max

    def forgive(self, meter: Meter) -> None:
        self._troubles.pop(meter.key, None)

    def forgive_all(self) -> None:
        self._troubles.clear()

    def note(self, meter: Meter, jobs: Sequence[Job], *, gained: int = 0) -> bool:
        """A visit for these jobs failed after it had `gained` values. Answers whether their run is given up now."""
        now = self._ports.clock.monotonic()
        trouble = self._troubles.setdefault(meter.key, _Trouble(since=now))
        failures = 1
        for job in jobs:
            run, before = trouble.runs.get(job.task.task_id, (0, 0))
            before = before if run == job.run else 0
            # A visit that brought the reading a good step forward is no reason to give it up.
            count = before if gained >= GOOD_STEP_VALUES else before + 1
            trouble.runs[job.task.task_id] = (job.run, count)
            failures = max(failures, count)
        trouble.not_before = now + self._backoff.pause(failures, self._ports.rng)
        final = failures > self._retries_max
        if final:
            LOG.warning(
                "meter %s was not read in %d attempts", meter.meter_id, failures, extra={"event": "meter.unread"}
            )
        return final


class Leftovers:
    """What visits read before they failed, for the next visit of the same meter for the same runs."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[frozenset[tuple[str, int]], dict[AttributeRef, Taken]]] = OrderedDict()

    def keep(self, visit: Visit) -> None:
        """All but the name of the meter, which every visit asks for."""
        rest = {ref: taken for ref, taken in visit.taken.items() if ref != DEVICE_NAME}
        self._kept.pop(visit.meter.key, None)
        if rest:
            self._kept[visit.meter.key] = (_runs(visit.jobs), rest)
        while len(self._kept) > LEFTOVERS_KEPT:
            self._kept.popitem(last=False)

    def take(self, meter: Meter, jobs: Sequence[Job]) -> dict[AttributeRef, Taken]:
        """What is left over for these jobs; it is not kept any longer."""
        runs, rest = self._kept.pop(meter.key, (frozenset(), {}))
        return rest if runs == _runs(jobs) else {}


def _runs(jobs: Sequence[Job]) -> frozenset[tuple[str, int]]:
    return frozenset((job.task.task_id, job.run) for job in jobs)


class Knowledge:
    """What was learned about meters: the most recent ones in memory, all of them in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: OrderedDict[str, MeterKnowledge] = OrderedDict()

    def of(self, key: str) -> MeterKnowledge:
        """Never fails: what cannot be recalled is learned again."""
        known = self._recent.pop(key, None) or self._load(key)
        self._recent[key] = known
        while len(self._recent) > KNOWLEDGE_KEPT:
            self._recent.popitem(last=False)
        return known

    def place(self, meter_id: str, task_id: str, obis: Obis) -> bytes:
        """The clock of the last row of a profile that is in the store; empty for none."""
        try:
            found = (self._store.knowledge(_place_key(meter_id, task_id, obis)) or {}).get("clock")
            return bytes.fromhex(found) if isinstance(found, str) else b""
        except (StoreError, ValueError) as error:
            LOG.debug("how far profile %s of %s was read is lost: %s", obis, meter_id, error)
            return b""

    def _load(self, key: str) -> MeterKnowledge:
        try:
            dumped = self._store.knowledge(key)
            return MeterKnowledge.load(dumped) if dumped else MeterKnowledge()
        except (StoreError, DlmsError) as error:
            LOG.debug("what was known of %s is lost: %s", key, error)
            return MeterKnowledge()


def places(meter_id: str, task_id: str, reached: Mapping[Obis, bytes]) -> dict[str, dict[str, object]]:
    """What `Knowledge.place` will find, for the store to keep."""
    return {_place_key(meter_id, task_id, obis): {"clock": clock.hex()} for obis, clock in reached.items()}


def _place_key(meter_id: str, task_id: str, obis: Obis) -> str:
    return f"{meter_id}#{task_id}#{obis}"
