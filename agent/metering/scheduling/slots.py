"""Slots: which runs a meter was read for, and under which clock. A sans-IO core: time and trust are arguments.

A *slot* is (meter, task, run); the run is an aligned civil time. A slot that was read is remembered with the *offset*
between civil and monotonic time that its run was reckoned with. Runs with about the same offset form an *era*. What
counts at a moment are the eras that agree with the civil time of that moment, or that met their slot all the same. So a
correction of the clock re-opens by itself what was done under a wrong one, and a clock that comes back to where it was
finds everything as it left it.

Runs of earlier lives of this process count, unless they lie in the future, or were read since this boot under an offset
that does not agree: a process that is killed under a clock that lies leaves its era to the next one. Then the run
before their era counts. Of earlier boots there is no offset, since monotonic time begins anew with each.

docs/decisions/0011-slots-and-trust.md tells why; tests/agent/metering/scheduling/test_slots.py enumerates the jumps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.settings.provisioning import ReadingTask

CORRECTION_S = 120.0  # a clock that is corrected by this or less keeps its runs; larger steps put an end to an era
ERAS_MAX = 4  # per meter and task: a clock that jumps more often is known not to be right

READS_KEPT = 3  # per era: what a step of less than a period can bring back is among the newest
HOLES_MAX = 32  # of one era; older ones are merged

Key = tuple[str, str]  # meter, task
Range = tuple[int, int]  # first and last run


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks at one instant, in seconds, and whether something vouches for the civil one."""

    monotonic: float
    wall: float
    trusted: bool

    @property
    def offset(self) -> float:
        return self.wall - self.monotonic


@dataclass(frozen=True, slots=True)
class Done:
    """The last run a meter was read for under a trusted clock, as the store keeps it; `before`: the last one of an
    earlier era or life, which counts again when `run` turns out to lie in the future. For a run that an earlier life
    read since this boot, `offset` is that of its era, which began at `since` by its own civil time; else `None`."""

    run: int = 0
    before: int = 0
    offset: float | None = None
    since: float = 0.0

    def agrees(self, now: Moment) -> bool:
        return self.offset is None or abs(self.offset - now.offset) <= CORRECTION_S


@dataclass(slots=True)
class _Era:
    """Runs from `first` to `last`, without `holes`, were read while civil time was monotonic time plus `offset`; the
    newest ones at the times in `reads` (run, monotonic seconds). `trusted`: some of them were; `doubted`: the runs of
    which that was told to be wrong, `None` for none."""

    task: ReadingTask
    offset: float
    first: int
    last: int
    reads: list[tuple[int, float]]
    trusted: bool = False
    doubted: Range | None = None
    holes: list[Range] = field(default_factory=list)

    def agrees(self, now: Moment) -> bool:
        return abs(self.offset - now.offset) <= CORRECTION_S

    def done(self, now: Moment) -> int:
        """The last run that was read in its slot, reckoned with the civil time of now; 0 for none. A clock that was
        two hours wrong has still read this day's slot on this day."""
        if self.agrees(now):
            return self.last
        met = (run for run, at in self.reads if self.task.schedule.newest(at + now.offset) == run)
        return max(met, default=0)


@dataclass(slots=True)
class _Account:
    """One meter and one task. `stored`: of earlier lives. `durable`: what the store holds now."""

    stored: Done = Done()
    durable: Done = Done()
    eras: list[_Era] = field(default_factory=list)
    doubted: bool = False  # `stored` was told to be wrong


@dataclass(frozen=True, slots=True)
class Correction:
    """The store has to be told that a meter is done up to another run than it holds. Where `done.run` is less than
    `was`, runs after it were read under a clock that is now known to have been wrong; where it is more, a clock that
    was doubtful then is proven: the meter was read from `first` on, but for `missed`."""

    meter: str
    task: str
    was: int
    done: Done
    first: int = 0
    missed: tuple[Range, ...] = ()


class Slots:
    """What all meters were read for. Not thread-safe."""

    def __init__(self, stored: Mapping[Key, Done] | None = None) -> None:
        self._accounts = {key: _Account(done, done) for key, done in (stored or {}).items()}

    def owed(self, task: ReadingTask, meter: str, now: Moment, catch_up_s: int) -> int | None:
        """Return the run that the meter has yet to be read for, or `None`: the newest, while it is not too old."""
        if not task.enabled:
            return None
        run = task.schedule.newest(now.wall)
        if run <= 0 or now.wall - run > catch_up_s:
            return None
        account = self._accounts.get((meter, task.task_id))
        if account is None:
            return run
        if now.trusted:
            return None if _done(account, now) >= run else run
        return None if _given(account, run, now, catch_up_s) else run

    def done(self, meter: str, task_id: str, now: Moment) -> int:
        """Return the last run the meter was read for, as far as is known at this moment; 0 for none."""
        account = self._accounts.get((meter, task_id))
        return _done(account, now) if account is not None else 0

    def next(self, meter: str, task_id: str, run: int, now: Moment) -> Done:
        """Return what the store is to hold when the meter is read for `run` at a trusted moment."""
        account = self._accounts.get((meter, task_id), _Account())
        others = [era.last for era in account.eras if era.trusted and not era.agrees(now) and era.last < run]
        return Done(max(run, _done(account, now)), max([_stored(account, now), *others]))

    def note(
        self, task: ReadingTask, meter: str, run: int, offset: float, monotonic: float, durable: Done | None
    ) -> None:
        """The meter was read at `monotonic` for this run, which was reckoned with this offset. `durable`: what the
        store holds of it, `None` where the clock was not trusted."""
        account = self._accounts.setdefault((meter, task.task_id), _Account())
        if durable is not None:
            account.durable = durable
        for era in account.eras:
            if abs(era.offset - offset) <= CORRECTION_S:
                first_missed = task.schedule.next(era.last)
                if run > first_missed:
                    era.holes.append((first_missed, task.schedule.previous(run)))
                    if len(era.holes) > HOLES_MAX:
                        era.holes[:2] = [(era.holes[0][0], era.holes[1][1])]
                era.task, era.offset, era.last = task, offset, max(era.last, run)
                era.reads = [*era.reads, (run, monotonic)][-READS_KEPT:]
                break
        else:
            era = _Era(task, offset, run, run, [(run, monotonic)])
            account.eras = [*account.eras, era][-ERAS_MAX:]
        era.trusted = era.trusted or durable is not None

    def doubtful(self, now: Moment) -> list[tuple[str, str, Range]]:
        """Return, once each, the runs that were read under trust and a clock that is now, at a trusted moment, known to
        have been wrong: meter, task, first and last run. See `confirmed`."""
        found: list[tuple[str, str, Range]] = []
        for (meter, task_id), account in self._accounts.items():
            stored = account.stored
            if stored.run and not account.doubted and not stored.agrees(now):
                account.doubted = True
                found.append((meter, task_id, (min(int(stored.since), stored.run), stored.run)))
            for era in account.eras:
                if era.trusted and era.doubted is None and not era.agrees(now):
                    era.doubted = (era.first, era.last)
                    found.append((meter, task_id, era.doubted))
        return found

    def confirmed(self, now: Moment) -> list[tuple[str, str, Range]]:
        """Return, once each, what `doubtful` returned before and what is now, at a trusted moment, known to have been
        right: whoever contradicted that clock was wrong himself."""
        found: list[tuple[str, str, Range]] = []
        for (meter, task_id), account in self._accounts.items():
            stored = account.stored
            if account.doubted and stored.agrees(now):
                account.doubted = False
                found.append((meter, task_id, (min(int(stored.since), stored.run), stored.run)))
            for era in account.eras:
                if era.doubted is not None and era.agrees(now):
                    found.append((meter, task_id, era.doubted))
                    era.doubted = None
        return found

    def corrections(self, now: Moment) -> list[Correction]:
        """Return where the store says something else than is known at this trusted moment; see `corrected`."""
        found: list[Correction] = []
        for (meter, task_id), account in self._accounts.items():
            done, was = _done(account, now), account.durable.run
            if done != was:
                proven = [era for era in account.eras if era.done(now) > was]
                missed = [(max(low, was + 1), high) for era in proven for low, high in era.holes if high > was]
                first = min((era.first for era in proven), default=0)
                correct = Done(done, min(done, _stored(account, now)))
                found.append(Correction(meter, task_id, was, correct, first, tuple(missed)))
        return found

    def corrected(self, corrections: Iterable[Correction]) -> None:
        """The store holds these now."""
        for correction in corrections:
            account = self._accounts.get((correction.meter, correction.task))
            if account is not None:
                account.durable = correction.done

    def forget(self, tasks: Iterable[str]) -> None:
        """Forget everything about these tasks."""
        gone = set(tasks)
        self._accounts = {key: account for key, account in self._accounts.items() if key[1] not in gone}

    def tasks(self) -> set[str]:
        """The tasks that anything is known about."""
        return {task_id for _, task_id in self._accounts}

    def durable(self) -> Iterable[tuple[Key, int]]:
        """(meter, task) and the run that the store holds."""
        return [(key, account.durable.run) for key, account in self._accounts.items()]


def _stored(account: _Account, now: Moment) -> int:
    """The last run of earlier lives. One in the future was read under a wrong clock, and so was one of this boot whose
    offset does not agree; the one before it then counts."""
    stored = account.stored
    for run, right in ((stored.run, stored.agrees(now)), (stored.before, True)):
        if right and run <= now.wall + CORRECTION_S:
            return run
    return 0


def _done(account: _Account, now: Moment) -> int:
    return max(_stored(account, now), *(era.done(now) for era in account.eras), 0)


def _given(account: _Account, run: int, now: Moment, catch_up_s: int) -> bool:
    """Whether this run may have been read already, while nothing vouches for the clock: a clock that was set back comes
    by runs that it has been at before, and there is no telling which of the two times was right."""
    if account.stored.run - catch_up_s <= run <= account.stored.run:
        return True
    for era in account.eras:  # in the order of their beginning
        if era.agrees(now):
            return run <= era.last
        if era.first <= run <= era.last:
            return True
    return False
