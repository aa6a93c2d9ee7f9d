"""The tasks in force: what each meter owes, and what became of each run. Shared by the port threads and the tree."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.clock import Clock
from agent.metering.ledger import gap_table
from agent.metering.ledger.keeper import Code, LedgerKeeper
from agent.metering.ledger.ledger import Corrected, Gap, Reason
from agent.metering.ledger.ledger import Verdict as Judgement
from agent.metering.scheduling.epochs import EpochBook
from agent.metering.scheduling.readinglist import ReadingList, ReadingListError, ReadingLists
from agent.metering.scheduling.run_tally import Count, RunTally, Troubles, count
from agent.metering.scheduling.schedule import Hours
from agent.metering.scheduling.selection import NAME_UNKNOWN, Fit, Verdict, groups_of, shown, verdict
from agent.metering.scheduling.slots import CORRECTION_S, Correction, Moment, Slots
from agent.metering.store.reading_store import Progress, Store, StoreError
from agent.settings.provisioning import MeterSelection, Provisioning, ReadingTask, TaskStatus
from agent.status import MeterStatus
from omadm.local_time import DayTimes, Zone
from omadm.readings import Reading

LOG = logging.getLogger("agent.metering.scheduling.tasks")

RESULT_CHARS_MAX = 160
UNSELECTED_SHOWN = 200  # meters of one task that are not in it, with the reason
UNTRUSTED_HOLD_S = 120.0  # so long after start, readings wait for a clock that nothing has vouched for yet
SWEEP_EVERY_S = 10.0  # how often meters that came or went are noticed; new runs are swept at once


@dataclass(frozen=True, slots=True)
class OwedRun:
    """A run of a task that a meter owes: `items` are to be read. `trusted`: something vouches for the clock that it was
    reckoned with, which was monotonic time plus `offset`, in this `boot` ("" where nobody knows)."""

    task: ReadingTask
    run: int
    items: ReadingList
    trusted: bool = True
    offset: float = 0.0
    boot: str = ""

    def is_of(self, run: int, offset: float) -> bool:
        """Whether what was noted of a run under a clock with this offset was of this run's slot: under a clock that was
        a day wrong, it was of another one with the same name."""
        return run == self.run and abs(offset - self.offset) <= CORRECTION_S


class TaskBook:
    """Thread-safe. What a meter was read for is remembered durably by the store, in the readings' own transaction, once
    the clock is trusted; until then here only. `meters` are all meters that ought to be read; `port_problem` says what
    is wrong with a port, "" for nothing; `device` is whose tasks these are; `boot` tells this boot from others, ""
    where nobody knows."""

    def __init__(
        self,
        store: Store,
        lists: ReadingLists,
        clock: Clock,
        *,
        catch_up_s: int,
        meters: Callable[[], Sequence[MeterStatus]] = lambda: (),
        port_problem: Callable[[str], str] = lambda _port: "",
        device: str = "",
        boot: str = "",
    ) -> None:
        self._store = store
        self._epochs, self._boot = EpochBook(store, boot), boot
        self._lists = lists
        self._clock = clock
        self._hours = Hours(catch_up_s=catch_up_s, device=device)
        self._meters = meters
        self._port_problem = port_problem
        self._started = clock.monotonic()
        self._lock = threading.RLock()
        self._provisioning = Provisioning()
        self._verdicts: dict[MeterSelection, dict[str, Verdict]] = {}  # by meter; of selections that do not take all
        self._judged_at: float | None = None
        self._slots = Slots()
        self._kept_in: int | None = None  # the number of the epoch in which the ledger was in order last
        self._loaded = False
        self._keeper = LedgerKeeper(store)
        self._troubles = Troubles(clock.monotonic)
        self._tallies: dict[str, RunTally] = {}
        self._reading_lists: dict[str, ReadingList | ReadingListError] = {}  # what was found, or why not
        self._corrected: float | None = None  # the offset that the store agrees with
        self._swept: tuple[int, ...] = ()  # the newest runs of all tasks
        self._sweep_at = 0.0
        self._unlisted = Reason.LATE  # why slots passed before the next sweep; `LATE` where each meter has its reason
        self._store_failed = False  # since the last sweep
        self._configured = False
        self._unswept = True  # what passed before this process started has yet to be listed
        self.generation = 0

    # --- settings ---

    def configure(self, provisioning: Provisioning) -> None:
        """Follow these tasks and this meter access from now on."""
        with self._lock:
            self._configured = True
            if replace(provisioning, uplink=self._provisioning.uplink) == self._provisioning:
                self._provisioning = provisioning
                return
            self._provisioning = provisioning
            self._tallies = {task.task_id: self._tallies.get(task.task_id, RunTally()) for task in provisioning.tasks}
            quiet = DayTimes(provisioning.quiet_hours, Zone(provisioning.zone))
            self._hours = replace(self._hours, quiet=quiet)
            self._judged_at = None
            self._reading_lists.clear()
            self._lists.want({task.reading_list: task.task_id for task in provisioning.tasks if not task.codes})
            self._recall()
            self._sweep_at = 0.0
            self.generation += 1
        LOG.info(
            "%d reading tasks in force: %s",
            len(provisioning.tasks),
            ", ".join(f"{task.task_id} {_times(task)}" for task in provisioning.tasks) or "none",
            extra={"event": "tasks.configured"},
        )

    def lists_changed(self) -> None:
        """Look for the reading lists again: a software package was activated or removed."""
        with self._lock:  # both at once: a list that is just being read must not be kept as a new one
            self._lists.changed()
            self._reading_lists.clear()
            self.generation += 1

    @property
    def in_force(self) -> bool:
        """Whether there is anything to read: without a task nobody has said yet how meters are talked to."""
        return bool(self._provisioning.tasks)

    def ids(self) -> Collection[str]:
        """The ids of all tasks, those that are disabled or cannot run among them."""
        with self._lock:
            return frozenset(self._tallies)

    def tidy(self) -> None:
        """Have the store forget the progress of tasks that are gone. Raises `StoreError`."""
        with self._lock:
            self._load()
            gone = self._slots.tasks() - {task.task_id for task in self._provisioning.tasks}
            self._slots.forget(gone)
        if gone:
            self._store.forget(tasks=gone)

    # --- what is owed ---

    def owed(self, meter_id: str) -> list[OwedRun]:
        """Return what the meter owes now, the most important first.

        Raises `StoreError` while it is not known what the meter was read for.
        """
        now = self._now()
        if not now.trusted and now.monotonic - self._started < UNTRUSTED_HOLD_S:
            return []
        with self._lock:
            self._load()
            # What passed is listed before anything that ends it can be read, and the epoch is durable before anything
            # is read in it.
            if now.trusted and (self._newest(now) != self._swept or not self._is_corrected(now)):
                self._account(now)
            self._slots.begin(now, self._store.file.uuid, self._store.next_id)
            if self._slots.changed:
                self._keep_epochs(now)
            runs: list[OwedRun] = []
            for task in self._provisioning.tasks:
                if not self._hours.may_visit(task, now.wall) or self._verdict(task, meter_id, now).fit is not Fit.IN:
                    continue
                run = self._slots.owed(task, meter_id, now, self._hours.limit(task))
                items = self._list_of(task) if run is not None else None
                if run is not None and items is not None:
                    runs.append(OwedRun(task, run, items, now.trusted, now.offset, self._boot))
            return sorted(runs, key=lambda owed: (-owed.task.priority, owed.run, owed.task.task_id))

    def open_runs(self, meter_id: str, runs: Iterable[OwedRun]) -> list[OwedRun]:
        """Return those of these runs, which the meter was read for, for which it may be visited still: they are the
        newest of their tasks, and this is a time for it."""
        now = self._now()
        with self._lock:
            tasks = {task.task_id: task for task in self._provisioning.tasks if task.enabled}
            return [
                owed
                for owed in runs
                if tasks.get(owed.task.task_id) == owed.task
                and owed.is_of(owed.task.schedule.newest(now.wall), now.offset)
                and self._hours.may_visit(owed.task, now.wall)
                and self._verdict(owed.task, meter_id, now).fit is Fit.IN
            ]

    def next_start(self) -> float | None:
        """Return the seconds until some task may have something to do that it had not before; `None` without an enabled
        task."""
        wall = self._clock.wall()
        at = self._hours.next_start(self._provisioning.tasks, wall)
        return None if at is None else max(0.0, at - wall)

    def quiet(self) -> bool:
        """Whether nothing may go over the lines now but what somebody has ordered."""
        return self._hours.quiet.hold(self._clock.wall())

    def wants_name(self, meter_id: str) -> bool:
        """Whether a meter would be in a task, or not, if only its name were known."""
        now = self._now()
        with self._lock:
            return any(
                task.enabled and self._verdict(task, meter_id, now).why == NAME_UNKNOWN
                for task in self._provisioning.tasks
            )

    # --- what became of it ---

    def began(self, runs: Iterable[OwedRun]) -> None:
        with self._lock:
            for owed in runs:
                self._tally_of(owed).active += 1

    def vouches(self, runs: Iterable[OwedRun]) -> bool:
        """Return whether the clock was trusted when these runs were reckoned, and still is, and was not corrected in
        between: a clock that was set in the middle of a visit makes neither the run nor the times before it true."""
        now = self._now()
        return now.trusted and all(owed.trusted and abs(owed.offset - now.offset) <= CORRECTION_S for owed in runs)

    def marks(self, meter_id: str, runs: Iterable[OwedRun], *, final: bool) -> list[Progress]:
        """Return what the store is to hold of these runs together with their readings, whose clock was trusted, when
        that is all of them."""
        with self._lock:
            for owed in runs:
                self._slots.touch(owed.task, meter_id)
        return [Progress(meter_id, owed.task.task_id, owed.run) for owed in runs] if final else []

    def ended(
        self, runs: Sequence[OwedRun], meter_id: str, *, ok: bool, final: bool, trusted: bool = False,
        trouble: Reason | None = None, flawed: Collection[str] = (),
    ) -> None:  # fmt: skip
        """Record that a visit for these runs is over. `ok`: the readings are stored, `trusted` as `vouches` said,
        `flawed`: the tasks with errors in the place of values; `final`: no retry will follow; `trouble`: what is wrong
        with the meter, where it is to blame."""
        with self._lock:
            if ok and runs:
                self._troubles.over(meter_id)
            elif trouble is not None:
                self._troubles.note(meter_id, trouble, final=final)
            for owed in runs:
                tally = self._tally_of(owed)
                tally.active = max(0, tally.active - 1)
                if ok:
                    self._note_done(meter_id, owed, trusted)
                if ok and tally.run == owed.run:
                    tally.read.add(meter_id)
                    if owed.task.task_id in flawed:
                        tally.flawed.add(meter_id)

    def renamed(self, old: str, new: str) -> None:
        """A meter that was known by the way it is reached has told its name."""
        with self._lock:
            self._judged_at = None
            try:
                self._load()
                self._keeper.rename(old, new)
            except StoreError as error:
                LOG.debug("gaps of %s stay under that name: %s", old, error)

    def stored(self, readings: Sequence[Reading], periods: Mapping[str, float]) -> None:
        """Close the gaps that rows of profiles among these readings of one meter fill. `periods`: the capture period of
        each profile, by its logical name, 0 for one whose rows come at no fixed times."""
        with self._lock:
            try:
                self._keeper.refill(readings, periods, self._codes_of)
            except StoreError as error:
                LOG.debug("gaps that a profile fills stay open: %s", error)

    def caught_up(self, meter_id: str, runs: Iterable[OwedRun]) -> None:
        """Close the gaps of tasks that read logs alone, which these runs have read to their ends."""
        with self._lock:
            for owed in runs:
                try:
                    self._keeper.caught_up(meter_id, owed.task.task_id, owed.run)
                except StoreError as error:
                    LOG.debug("gaps of logs stay open: %s", error)

    def count(self, meters: Sequence[MeterStatus]) -> Count:
        """Sort these meters by whether they can be read now, apart from any run."""
        with self._lock:
            return count({meter.meter_id for meter in meters if meter.state == "read"}, meters, self._troubles)

    def status(self, task_id: str) -> TaskStatus:
        """Return the status of one task, for the management tree, and of one that cannot run yet."""
        with self._lock:
            task = next((task for task in self._provisioning.tasks if task.task_id == task_id), None)
            tally = self._tallies.get(task_id)
            if task is None or tally is None:
                return TaskStatus(state="incomplete", last_result="settings are missing, or contradict each other")
            wall = self._clock.wall()
            at_rest = "closed" if self._hours.closed(task, wall) else "idle"
            state = "disabled" if not task.enabled else "running" if tally.active else at_rest
            items = self._list_of(task)
            selected, waiting, left_out = self._sorted(task)
            result = tally.count(selected, self._troubles).text() if tally.run else ""
            if waiting and result:
                result += f", {len(waiting)} undecided"
            if items is None:
                result = str(self._reading_lists[_list_name(task)]).splitlines()[0]
            following = task.schedule.next(wall) if task.enabled else 0
            return TaskStatus(
                state=state,
                last_run=tally.run,
                next_run=following,
                last_result=result[:RESULT_CHARS_MAX],
                local=_local(following, task) if following else "",
                times=_times(task),
                windows=task.windows,
                selection=shown(task.selection),
                meters=len(selected),
                waiting=tuple(waiting.items())[:UNSELECTED_SHOWN],
                left_out=tuple(left_out.items())[:UNSELECTED_SHOWN],
            )

    def statuses(self) -> dict[str, TaskStatus]:
        return {task.task_id: self.status(task.task_id) for task in self._provisioning.tasks}

    # --- the ledger ---

    def tick(self) -> None:
        """Take note of what time alone brings: corrections of the clock, runs that passed. Called about every second.
        What the store does not take now is tried again."""
        now = self._now()
        self._store_failed |= bool(self._store.problem)
        if self._store.waits():
            return
        try:
            with self._lock:
                self._load()
                if not self._unswept:
                    self._keeper.list_losses()
                self._account(now)
        except StoreError as error:
            LOG.debug("the ledger waits: %s", error)

    def gaps(self, meter_id: str = "", limit: int = gap_table.GAPS_MAX) -> list[tuple[Gap, bool]]:
        """Return the open gaps, with the last slot that is listed in each, and whether they go on. Raises
        `StoreError`."""
        with self._lock:
            self._load()
            return self._keeper.listing(meter_id, limit)

    def gap_count(self) -> tuple[int, int]:
        """Return how many gaps are open, and how many of them go on. Raises `StoreError`."""
        with self._lock:
            self._load()
            return self._keeper.count()

    def give_up(self, meter_id: str, task_id: str, why: str) -> int:
        """Close the open gaps of a meter, or of one task of it, for a person's reason. Returns how many. Raises
        `StoreError`."""
        with self._lock:
            self._load()
            closed = self._keeper.give_up(meter_id, task_id, why)
            self._keeper.flush(self._clock.wall(), alive=False)
            return closed

    # --- inside ---

    def _now(self) -> Moment:
        return Moment(self._clock.monotonic(), self._clock.wall(), self._clock.trusted())

    def _is_corrected(self, now: Moment) -> bool:
        """Whether the store agrees with the clock, and is the one that did."""
        same = self._corrected is not None and abs(now.offset - self._corrected) < 1.0
        return same and self._slots.epochs[-1].store == self._store.file.uuid

    def _load(self) -> None:
        if self._loaded:
            return
        if not self._keeper.loaded:
            self._keeper.load(self._store.progress())
        joined = {meter.meter_id: meter.joined for meter in self._meters()}
        ledger = self._keeper.ledger
        self._slots = self._epochs.load(ledger, self._keeper.by_account(), joined)
        self._kept_in = self._slots.epochs[-1].number if self._slots.epochs else None
        self._loaded = True
        self._recall()

    def _recall(self) -> None:
        """Take over the last runs of an earlier life of this process from the store's progress."""
        for (meter, task_id), run in self._slots.durable():
            tally = self._tallies.get(task_id)
            if tally is not None and not tally.begun:
                tally.recall(meter, run)

    def _account(self, now: Moment) -> None:
        if now.trusted:
            unswept = self._unswept
            self._correct(now)
            self._say_again(now)
            self._sweep(now)
            if unswept and not self._unswept:  # a new account may be there for the one that was lost
                self._keeper.list_losses()
            if not self._unswept:
                self._list_judged(now)
            if self._slots.changed:
                self._keep_epochs(now)
        else:
            self._unlisted, self._corrected, self._swept = Reason.CLOCK, None, ()
        self._keeper.flush(now.wall, alive=now.trusted and not self._unswept)

    def _newest(self, now: Moment) -> tuple[int, ...]:
        """The runs of all tasks before which nothing will be read any more."""
        return tuple(self._hours.settled(task, now.wall) if task.enabled else 0 for task in self._provisioning.tasks)

    # --- which meters ---

    def _verdict(self, task: ReadingTask, meter_id: str, now: Moment) -> Verdict:
        if task.selection == _ALL:
            return _SELECTED
        return self._judged(task.selection, now, meter_id).get(meter_id, _UNREGISTERED)

    def _judged(self, selection: MeterSelection, now: Moment, meter_id: str = "") -> dict[str, Verdict]:
        """The verdicts on all meters, not older than some seconds; on `meter_id`, who may have joined just now, too."""
        aged = self._judged_at is None or now.monotonic - self._judged_at >= SWEEP_EVERY_S
        found = self._verdicts.get(selection)
        if aged or found is None or (meter_id and meter_id not in found and now.monotonic != self._judged_at):
            meters, groups = self._meters(), groups_of(self._provisioning.access_rules)
            wanted = {task.selection for task in self._provisioning.tasks if task.selection != _ALL} | {selection}
            self._verdicts = {one: {meter.meter_id: verdict(one, meter, groups) for meter in meters} for one in wanted}
            self._judged_at = now.monotonic
            found = self._verdicts[selection]
        return found

    def _sorted(self, task: ReadingTask) -> tuple[list[MeterStatus], dict[str, str], dict[str, str]]:
        """The meters that are in a task, and why others may be later, or are not."""
        meters = list(self._meters())
        if task.selection == _ALL:
            return meters, {}, {}
        groups = groups_of(self._provisioning.access_rules)
        found = [(meter, verdict(task.selection, meter, groups)) for meter in meters]
        return (
            [meter for meter, one in found if one.fit is Fit.IN],
            {meter.meter_id: one.why for meter, one in found if one.fit is Fit.WAITS},
            {meter.meter_id: one.why for meter, one in found if one.fit is Fit.OUT},
        )

    def _members(self, task: ReadingTask, meters: Sequence[MeterStatus], now: Moment) -> Sequence[MeterStatus]:
        if task.selection == _ALL:
            return meters
        judged = self._judged(task.selection, now)
        return [meter for meter in meters if judged.get(meter.meter_id, _UNREGISTERED).fit is Fit.IN]

    # --- corrections and sweeps ---

    def _correct(self, now: Moment) -> None:
        """Have the store agree with the clock, after it was corrected or came to be trusted."""
        if self._is_corrected(now):
            return
        keeper, tasks = self._keeper, {task.task_id: task for task in self._provisioning.tasks}
        listed = keeper.by_account()  # before anything changes here: the store may not answer
        next_id = self._store.next_id()
        self._slots.begin(now, self._store.file.uuid, lambda: next_id)
        self._epochs.follow(self._store.file.uuid)
        self._say_again(now)
        schedules = {key: keeper.ledger.schedule(*key) for key in keeper.ledger.series()}
        verdicts, corrections = self._slots.correct(now, next_id, schedules)
        self._judge(verdicts, now)
        self._epochs.note(verdicts)
        joined = {meter.meter_id: meter.joined for meter in self._meters()}
        moved, recounted, changed = set[str](), set[str](), False
        for one in corrections:
            task = tasks.get(one.task)
            if task is not None and task.enabled:
                known = self._corrected_of(one, task, joined.get(one.meter, 0.0), now)
                changed |= keeper.correct(one.meter, one.task, known, listed.get((one.meter, one.task), ()))
            if one.done != one.was:
                moved.add(one.meter)
                recounted.add(one.task)
                keeper.mark(Progress(one.meter, one.task, one.done))
        if verdicts:
            self._unlisted = Reason.CLOCK
        self._slots.changed |= changed
        self._corrected, self._sweep_at = now.offset, 0.0
        self._kept_in = self._slots.epochs[-1].number
        self._keep_epochs(now)
        # A run that has not come yet was of the clock of before, also where nobody was read for it.
        recounted |= {task_id for task_id, tally in self._tallies.items() if tally.run > now.wall + CORRECTION_S}
        self._recount(recounted, now)
        if moved:
            LOG.warning(
                "the clock was corrected: runs of %d meters are counted anew",
                len(moved),
                extra={"event": "tasks.clock"},
            )

    def _recount(self, task_ids: set[str], now: Moment) -> None:
        """A run of the same name may be of a clock that was wrong: what counts is what meters were read for by now."""
        meters = [meter.meter_id for meter in self._meters()]
        for task_id in task_ids & self._tallies.keys():
            done = {meter: self._slots.done(meter, task_id, now) for meter in meters}
            tally, run = self._tallies[task_id], max(done.values(), default=0)
            told, flawed = tally.told and tally.run == run, tally.flawed if tally.run == run else set()
            tally.begin(run)
            tally.read.update(meter for meter in meters if run and done[meter] == run)
            tally.told, tally.flawed = told, flawed & tally.read

    def _say_again(self, now: Moment) -> None:
        """Tell the head-end once more what it may have lost of what it was told of the trust of readings."""
        again = self._epochs.to_say_again(self._store.resends_asked())
        self._judge(again, now)
        self._slots.changed |= bool(again)

    def _list_judged(self, now: Moment) -> None:
        """List what was judged before the store was damaged: the ledger may have lost what it made of that, and the
        head-end may not have heard of it. What it has and trusts is not missing there, whatever is listed here."""
        judged = self._epochs.to_list_again
        if not judged:
            return
        damaged = any(loss.reason != "full" for loss in self._store.losses())
        for meter in self._meters() if damaged else ():
            begun = self._slots.reckoned(meter.joined, now) or meter.joined
            for one in judged:
                schedule = self._keeper.ledger.schedule(meter.meter_id, one.task)
                if schedule is None or one.meter not in ("", meter.meter_id):
                    continue
                runs = max(one.first, schedule.newest(begun)), one.last
                if runs[0] <= runs[1]:
                    good = self._slots.good(meter.meter_id, one.task, now)
                    self._keeper.list_judged(meter.meter_id, one.task, runs, good)
        self._epochs.listed_again()
        self._slots.changed = True

    def _judge(self, verdicts: Iterable[Judgement], now: Moment) -> None:
        tasks = {task.task_id: task for task in self._provisioning.tasks}
        for said in verdicts:
            task = tasks.get(said.task)
            self._keeper.judge(said, task.schedule if task is not None else None, now.wall, self._epochs.generation)

    def _corrected_of(self, one: Correction, task: ReadingTask, joined: float, now: Moment) -> Corrected:
        """What is known of one account now. A meter that joined under a clock that was wrong joined at another time."""
        begun = self._slots.reckoned(joined, now) if joined else None
        return Corrected(
            bound=self._hours.settled(task, now.wall),
            begun=0 if begun is None else task.schedule.newest(begun),
            good=one.good,
            doubted=one.doubted,
            wrong=one.wrong,
            done=one.done,
            epoch=self._slots.epochs[-1].number,
            before=self._kept_in,
            agreeing={epoch.number for epoch in self._slots.epochs if epoch.agrees(now)},
        )

    def _keep_epochs(self, now: Moment) -> None:
        """Make durable what was corrected, with the epochs that it follows from."""
        slots, ledger = self._slots, self._keeper.ledger
        if slots.changed:
            self._epochs.save(slots)
        beside = (lambda db: self._epochs.write(db, slots, ledger)) if slots.changed else None
        self._keeper.flush(now.wall, alive=False, beside=beside)
        self._slots.changed = False

    def _sweep(self, now: Moment) -> None:
        """List what passed unread before the newest runs, and begin to expect meters that are new."""
        newest = self._newest(now)
        if not self._configured:  # nobody has said yet which tasks there are: that no account is wanted is not known
            return
        if newest == self._swept and now.monotonic < self._sweep_at:
            return
        meters = self._meters()
        wanted: set[tuple[str, str]] = set()
        for task, bound in zip(self._provisioning.tasks, newest, strict=True):
            if not task.enabled or bound <= 0:
                continue
            members = self._members(task, meters, now)
            for meter in members:
                wanted.add((meter.meter_id, task.task_id))
                self._settle(meter, task, bound, now)
            tally = self._tallies[task.task_id]
            if members and now.wall >= bound > tally.run:
                self._summarise(task, tally)
                tally.begin(bound)
            over = bound > now.wall or not tally.count(members, self._troubles).waiting
            if tally.run and not tally.told and over:
                self._summarise(task, tally)
        for meter_id, task_id in self._keeper.ledger.series():
            if (meter_id, task_id) not in wanted:
                self._keeper.release(meter_id, task_id)
        if self._unswept:
            self._say_unknown(meters, now)
        self._swept, self._sweep_at = newest, now.monotonic + SWEEP_EVERY_S
        self._unlisted, self._unswept, self._store_failed = Reason.LATE, False, False

    def _settle(self, meter: MeterStatus, task: ReadingTask, bound: int, now: Moment) -> None:
        """List what is missing before the run `bound`."""
        keeper, meter_id = self._keeper, meter.meter_id
        if keeper.expect(meter_id, task.task_id, task.schedule, bound, self._settled_before(meter, task, now)):
            done = self._slots.done(meter_id, task.task_id, now)
            if done >= bound:
                keeper.read(meter_id, task.task_id, bound)
        if self._unswept:
            started = self._hours.settled(task, now.wall - (now.monotonic - self._started))
            last_alive = keeper.alive_before(now.wall)
            if keeper.orphaned and last_alive:  # what passed while it was alive was listed, and that was lost
                alive = self._hours.settled(task, last_alive)
                keeper.settle(meter_id, task.task_id, min(alive, started, bound), Reason.STORE_LOST)
            keeper.settle(meter_id, task.task_id, min(started, bound), Reason.OFF)
        if keeper.ledger.unsettled(meter_id, task.task_id, bound):
            keeper.settle(meter_id, task.task_id, bound, self._reason(meter, task, deadline=bound > now.wall))

    def _say_unknown(self, meters: Sequence[MeterStatus], now: Moment) -> None:
        started = now.wall - (now.monotonic - self._started)
        known = sum(0 < meter.joined < started for meter in meters)
        keeper = self._keeper
        alive = keeper.alive_before(now.wall)
        if keeper.orphaned and keeper.last_sign > alive:
            LOG.warning(
                "the last sign of life is of %.0f, which has not come yet: a clock was wrong; what counts is %s",
                keeper.last_sign,
                f"the one of {alive:.0f}" if alive else "none",
                extra={"event": "ledger.ahead"},
            )
        if known and keeper.orphaned and not alive:
            LOG.error(
                "the store is new, and nothing tells when the ledger was in order last: what %d meters missed until now"
                " may be listed nowhere",
                known,
                extra={"event": "ledger.unknown"},
            )

    def _settled_before(self, meter: MeterStatus, task: ReadingTask, now: Moment) -> int | None:
        """The last run that an account accounted for which is lost with its store; `None` where there was none.

        That is the run that was read last. Where that is lost as well, the ledger was in order at its last sign of
        life. Without a sign nobody knows, and `_sweep` says so.
        """
        if not self._unswept or not self._keeper.orphaned:
            return None
        done = self._slots.done(meter.meter_id, task.task_id, now)
        if done:
            return done
        known = self._keeper.alive_before(now.wall)
        since = max(known, meter.joined)
        return task.schedule.previous(task.schedule.newest(since)) if known and since <= now.wall else None

    def _reason(self, meter: MeterStatus, task: ReadingTask, *, deadline: bool) -> Reason:
        if self._unlisted is not Reason.LATE:
            return self._unlisted
        if self._list_of(task) is None:
            return Reason.LIST
        if self._port_problem(meter.port):
            return Reason.PORT
        if meter.state == "left":
            return Reason.ABSENT
        trouble = self._troubles.of(meter.meter_id)
        if trouble is not None:
            return trouble
        if meter.away:  # it has not left yet, and could not be read all the same
            return Reason.ABSENT
        return Reason.STORE if self._store_failed else Reason.DEADLINE if deadline else Reason.LATE

    def _summarise(self, task: ReadingTask, tally: RunTally) -> None:
        """Log how a run went, once."""
        if not tally.run or tally.told:
            return
        tally.told = True
        text = tally.count(self._members(task, self._meters(), self._now()), self._troubles).text()
        LOG.info("task %s, run %d: %s", task.task_id, tally.run, text, extra={"event": "tasks.run"})

    def _note_done(self, meter_id: str, owed: OwedRun, trusted: bool) -> None:
        now = self._now()
        self._slots.begin(now, self._store.file.uuid, self._store.next_id)
        if not self._slots.epochs[-1].agrees(Moment(now.monotonic, now.monotonic + owed.offset, owed.trusted)):
            return  # the clock was set in the middle of the visit: of which slot the readings are nobody knows
        self._slots.note(owed.task, meter_id, owed.run, trusted=trusted)
        if not trusted:
            self._corrected = None  # the clock may prove to have been right
            return
        try:
            self._keeper.read(meter_id, owed.task.task_id, owed.run)
        except StoreError as error:  # the readings are durable; a later life ends the gap
            LOG.debug("the ledger waits: %s", error)

    def _tally_of(self, owed: OwedRun) -> RunTally:
        """Return the counts of the task; a new run begins with zeros."""
        tally = self._tallies.setdefault(owed.task.task_id, RunTally())
        if tally.run != owed.run and (tally.active == 0 or owed.run > tally.run):
            self._summarise(owed.task, tally)
            tally.begin(owed.run)
        tally.begun = True
        return tally

    def _codes_of(self, task_id: str) -> frozenset[Code]:
        """The attributes whose present values a task reads; none for a task that is no more."""
        task = next((task for task in self._provisioning.tasks if task.task_id == task_id), None)
        items = self._list_of(task) if task is not None else None
        refs = (item.ref for item in items.items if item.billing is None) if items is not None else ()
        return frozenset((ref.class_id, str(ref.obis), ref.attribute) for ref in refs)

    def _list_of(self, task: ReadingTask) -> ReadingList | None:
        name = _list_name(task)
        if name not in self._reading_lists:
            try:
                own = ReadingList(task.task_id, task.items) if task.items else None
                self._reading_lists[name] = own or self._lists.get(name)
            except ReadingListError as error:
                self._reading_lists[name] = error
                LOG.warning("task %s cannot run: %s", task.task_id, error, extra={"event": "tasks.list"})
        items = self._reading_lists[name]
        return None if isinstance(items, ReadingListError) else items


def _list_name(task: ReadingTask) -> str:
    return task.codes or task.reading_list


_ALL = MeterSelection()
_SELECTED = Verdict(Fit.IN)
_UNREGISTERED = Verdict(Fit.OUT, "it is not registered")


def _times(task: ReadingTask) -> str:
    """When a task runs, in words as of the settings."""
    if task.times:
        return f"{task.times} ({task.zone})"
    return f"every {task.every_s} s" + (f" + {task.offset_s} s" if task.offset_s else "")


def _local(run: int, task: ReadingTask) -> str:
    """A run as a clock of the task's zone shows it, with the zone's offset."""
    zone = Zone(task.zone)
    local, minutes = time.gmtime(zone.local(run)), abs(zone.offset(run)) // 60
    sign = "-" if zone.offset(run) < 0 else "+"
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', local)}{sign}{minutes // 60:02d}:{minutes % 60:02d}"
