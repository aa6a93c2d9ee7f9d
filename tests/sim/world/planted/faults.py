"""The faults that collection once had, each as it was, to be planted into the daemon: a world that does not notice them
is no judge. `FAULTS` has them in the order in which they were told of, with worlds that find them.

What a seed finds planted it must find right otherwise: all of them are among those that `test_world.py` runs.
"""

from __future__ import annotations

import fcntl
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agent.daemon import instance
from agent.metering.collector import Collector
from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.ports import portreader, visit_results
from agent.metering.ports.held_visits import Taken
from agent.metering.scheduling import run_tally
from agent.metering.scheduling.run_tally import RunTally, Troubles
from agent.metering.scheduling.slots import Epoch, Moment, Slots
from agent.metering.store import recovery
from agent.metering.store.reading_store import Store
from agent.metering.store.salvage import SalvageReader
from agent.metering.visit import visit
from agent.metering.visit.profile_catchup import ProfileReading
from agent.metering.visit.profile_cursors import EntryCursor, RangeCursor
from agent.metering.visit.profile_position import CapturedRow
from agent.metering.visit.visit_memory import positions
from agent.settings.provisioning import ReadingTask
from dlms.cosem import profile
from dlms.cosem.time import CosemDateTime
from dlms.link.roundtrip import Bounds
from headend.metering import repeats
from plc.prime.link import PlcLink
from plc.prime.messages import DataIndication
from tests.sim.world import world

Plant = Callable[[pytest.MonkeyPatch], None]


def deltas_as_values(patch: pytest.MonkeyPatch) -> None:
    """A cell that is coded as a difference from the row before is taken for the value itself."""
    patch.setattr(profile, "DELTAS", frozenset())


def progress_on_success(patch: pytest.MonkeyPatch) -> None:
    """A visit goes on until it has read all there is, and how far it came is kept only then."""
    patch.setattr(visit, "STEP_MARGIN", -math.inf)
    take = visit_results.VisitResults.take
    ends = [False]

    def keep(self: Any, of: visit.Visit, meter: Any, *, final: bool) -> Taken:
        ends[0] = final
        taken = take(self, of, meter, final=final)
        if not final:
            of.positions_stored = {}
        return taken

    patch.setattr(visit_results.VisitResults, "take", keep)
    patch.setattr(visit_results, "positions", lambda *given: positions(*given) if ends[0] else {})


def place_of_any_row(patch: pytest.MonkeyPatch) -> None:
    """Each row moves the place from which a profile is read on, whatever time it is stamped with."""
    patch.setattr(ProfileReading, "_doubt", lambda *_: "")
    patch.setattr(ProfileReading, "_heal", lambda _self: None)
    _begin_at_place(patch)


def later_than_place(patch: pytest.MonkeyPatch) -> None:
    """Rows are new when they are stamped later than the last one."""

    def only_later(take: Callable[..., list[CapturedRow]]) -> Callable[..., list[CapturedRow]]:
        def taken(self: Any, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
            known = self._place.local
            return [row for row in take(self, rows) if known is None or row.local is None or row.local > known]

        return taken

    for cursor in (EntryCursor, RangeCursor):
        patch.setattr(cursor, "take", only_later(cursor.take))


def _begin_at_place(patch: pytest.MonkeyPatch) -> None:
    begin = RangeCursor._begin

    def at_place(self: RangeCursor) -> CosemDateTime:
        clock = self._place.clock
        return CosemDateTime.parse(clock) if clock else begin(self)

    patch.setattr(RangeCursor, "_begin", at_place)
    patch.setattr(RangeCursor, "_differs", lambda *_: False)


def runs_by_name(patch: pytest.MonkeyPatch) -> None:
    """A run was read for when one of its name or a later one was, whatever clock that was under: after a day ahead
    tomorrow's midnight is done."""
    patch.setattr(Epoch, "agrees", lambda *_: True)


def last_run_alone(patch: pytest.MonkeyPatch) -> None:
    """A meter is done when the run that it was read for last is the newest one, whatever clock that was under: after a
    step back the same slots are read once more."""
    begin = Slots.begin

    def one_epoch(self: Slots, now: Moment, store: str, place: Callable[[], int]) -> None:
        if self.epochs:
            self.epochs[-1].offset, self.epochs[-1].trusted = now.offset, now.trusted
        else:
            begin(self, now, store, place)

    def owed(self: Slots, task: ReadingTask, meter: str, now: Moment, _catch_up_s: int) -> int | None:
        run = task.schedule.newest(now.wall)
        return run if task.enabled and dict(self.durable()).get((meter, task.task_id)) != run else None

    patch.setattr(Slots, "begin", one_epoch)
    patch.setattr(Slots, "owed", owed)


def repetitions_shown(patch: pytest.MonkeyPatch) -> None:
    """The head-end takes what is read again for something new."""
    patch.setattr(repeats, "_digest", lambda _parts: None)


def store_given_up(patch: pytest.MonkeyPatch) -> None:
    """A store with a bad page is given up whole, and nothing of it counts as lost."""
    patch.setattr(SalvageReader, "blocks", lambda *_: iter(()))
    patch.setattr(recovery, "note_loss", lambda *_: None)
    patch.setattr(Store, "lost_since", lambda self, _meter, heard: (self.file.uuid, heard[1], None))


def held_in_flight(patch: pytest.MonkeyPatch) -> None:
    """What is lost on its way is waited for as long as hosts in the field wait for a confirm."""
    held = Bounds(40.0, 40.0, 40.0)
    patch.setattr(portreader, "answer_bounds", lambda *_: held)
    patch.setattr(world, "PORTS", tuple(replace(port, response_timeout_s=40.0) for port in world.PORTS))
    defaults = PlcLink.__init__.__kwdefaults__
    assert defaults is not None
    patch.setitem(defaults, "confirm_bounds", held)


def silence_asked_once(patch: pytest.MonkeyPatch) -> None:
    """A meter that was silent is asked once and no more, so that a frame that is lost when it is back is waited for as
    long as an answer may take."""
    patch.setattr(portreader, "REPEATS_SILENT", 0)


def lost_confirm_holds(patch: pytest.MonkeyPatch) -> None:
    """A request is in flight until it is confirmed, whatever its node has answered, and that is waited for as long as
    hosts in the field wait."""
    defaults = PlcLink.__init__.__kwdefaults__
    assert defaults is not None
    patch.setitem(defaults, "confirm_bounds", Bounds(40.0, 40.0, 40.0))
    take = PlcLink._on_data

    def answered_only(self: PlcLink, payload: DataIndication, now: float) -> None:
        flying, self._in_flight = self._in_flight, {}
        take(self, payload, now)
        self._in_flight = flying

    patch.setattr(PlcLink, "_on_data", answered_only)


def no_ledger(patch: pytest.MonkeyPatch) -> None:
    """What passed unread is told to nobody."""
    patch.setattr(LedgerKeeper, "flush", lambda *_, **__: None)


def failed_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """The last result counts those that were read, and no others."""
    count = run_tally.count

    def rosy(*given: Any) -> run_tally.Count:
        read = count(*given).read
        return run_tally.Count(read, read)

    patch.setattr(RunTally, "count", lambda self, *given: rosy(self.read, *given))


def health_is_good(patch: pytest.MonkeyPatch) -> None:
    """The check of the meters is good, whoever cannot be read."""
    report = Collector._report_meters

    def rosy(self: Collector) -> None:
        tell = self._meters_health
        self._meters_health = lambda _ok, detail: tell(*(True, detail))
        report(self)
        self._meters_health = tell

    patch.setattr(Collector, "_report_meters", rosy)


def a_warning_per_run(patch: pytest.MonkeyPatch) -> None:
    """Each run in which a meter cannot be read is said in the log."""
    note = Troubles.note

    def loud(self: Troubles, meter_id: str, *given: Any, final: bool) -> None:
        if final and meter_id in self._of:
            self._of[meter_id].told = False
        note(self, meter_id, *given, final=final)

    patch.setattr(Troubles, "note", loud)


class _NoLocks:
    """fcntl, whose locks keep nobody out."""

    LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

    @staticmethod
    def flock(_descriptor: int, _operation: int) -> None:
        """Nobody else has it."""


def two_on_one_folder(patch: pytest.MonkeyPatch) -> None:
    """Nothing keeps a second daemon off the folder of the first."""
    patch.setattr(instance, "fcntl", _NoLocks)


def never_reopened(patch: pytest.MonkeyPatch) -> None:
    """A port that takes what it is given, and gives nothing, stays open."""
    patch.setattr("plc.bridge.Bridge._check_silence", lambda *_: None)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by its number, how it is planted, and worlds of which at least one finds it. `beside`: what the head-end
    is kept from as well, so that it does not make up for the fault; without the fault, nothing is wrong then."""

    number: int
    plant: Plant
    seeds: tuple[int, ...]
    beside: Plant | None = None


FAULTS = (
    Fault(1, deltas_as_values, (1,)),
    Fault(2, progress_on_success, (6,)),
    Fault(3, place_of_any_row, (4, 12)),
    Fault(4, later_than_place, (120, 81)),
    Fault(5, runs_by_name, (29, 12)),
    Fault(5, last_run_alone, (10, 93), beside=repetitions_shown),
    Fault(6, store_given_up, (26, 61)),
    Fault(7, held_in_flight, (47, 22)),
    Fault(7, lost_confirm_holds, (3, 7)),
    Fault(7, silence_asked_once, (51,)),
    Fault(8, no_ledger, (1,)),
    Fault(9, failed_are_not_counted, (53,)),
    Fault(9, health_is_good, (53,)),
    Fault(9, a_warning_per_run, (131,)),
    Fault(10, two_on_one_folder, (16,)),
    Fault(11, never_reopened, (20, 31)),
)
