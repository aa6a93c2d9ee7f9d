"""Slots: which runs a meter was read for, and under which clock. A sans-IO core: time and trust are arguments.

A *slot* is (meter, task, run); the run is an aligned civil time. An *epoch* is a stretch of time in which the offset
between civil and monotonic time stayed the same, give or take two minutes: each step of the clock begins another one,
also a step back to an offset that there was before. Which runs a meter was read for is kept apart for each epoch.

At a trusted moment the offset of now says which epochs were right. Of one account follow three sets of runs:

* *good*: those of the epochs that agree with now;
* *doubted*: those that were said to be trusted in an epoch that does not agree, without the good ones;
* *owed*: the newest, unless it is good.

A step of the clock changes no set but by changing which epochs agree. So a clock that comes back to where it was finds
everything as it left it, whoever read what in between (`agent.metering.ledger.ledger.Ledger.correct` does the listing).

Epochs belong to a boot, since monotonic time begins anew with each, and are kept for later lives of the process
(`agent.metering.scheduling.epochs`), also where another store takes the place of the one that they have read into. Runs
of earlier boots count, unless they lie in the future.

Where nobody can find out any more whether an epoch was right, it agrees with no moment: what was read in it is doubted.

docs/decisions/0011-slots-and-trust.md tells why; tests/agent/metering/scheduling/test_slots.py enumerates the jumps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.metering.ledger.ledger import Verdict
from agent.settings.provisioning import ReadingTask
from omadm.readings import ID_MAX, RUN_MAX
from omadm.schedule import Range, Schedule, joined, same, without

CORRECTION_S = 120.0  # a clock that is corrected by this or less keeps its runs; larger steps put an end to an epoch
EPOCHS_MAX = 8  # of one boot: of a clock that jumps more often nobody can say when it was right
READ_RANGES_MAX = 64  # of one account in one epoch; then the oldest are taken for one, with what is between them

Key = tuple[str, str]  # meter, task


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks at one instant, in seconds, and whether something vouches for the civil one."""

    monotonic: float
    wall: float
    trusted: bool

    @property
    def offset(self) -> float:
        return self.wall - self.monotonic


@dataclass(slots=True)
class Epoch:
    """Civil time was monotonic time plus `offset`, from `since` to `until` by that civil time (0 while it lasts). What
    was read meanwhile has ids from `first` to `last` (`None` while it lasts) in `store`. `trusted`: something vouched
    for its clock; `doubted`: that was told to be wrong. `inherited`: it began in an earlier life of this process, and
    `resumed` is the id from which on it is of this one. Without an `offset` nobody can find out any more whether its
    clock was right."""

    number: int
    offset: float | None
    since: float
    store: str
    first: int
    last: int | None = None
    until: float = 0.0
    trusted: bool = False
    doubted: bool = False
    inherited: bool = False
    resumed: int | None = None

    def lasts(self, now: Moment, store: str) -> bool:
        """Whether it goes on now. One that has ended does not, also where the one after it is not known any more, which
        was of an earlier life and of a clock that nothing vouched for: what was read in that is not of this one."""
        return self.last is None and self.store == store and self.agrees(now)

    def agrees(self, now: Moment) -> bool:
        return self.offset is not None and abs(self.offset - now.offset) <= CORRECTION_S


@dataclass(slots=True)
class Reads:
    """The runs of one account that were read in one epoch: under trust, and before anything vouched for its clock."""

    trusted: list[Range] = field(default_factory=list)
    plain: list[Range] = field(default_factory=list)

    def last(self) -> int:
        return max((ranges[-1][1] for ranges in (self.trusted, self.plain) if ranges), default=0)

    def holds(self, run: int) -> bool:
        found = self.trusted + self.plain
        return bool(found) and min(found)[0] <= run <= self.last()


@dataclass(slots=True)
class _Account:
    """One meter and one task. `earlier`: the last run of earlier boots; `durable`: the last run as the store says;
    `reads`: by the numbers of epochs, in their order."""

    earlier: int = 0
    durable: int = 0
    schedule: Schedule | None = None
    reads: dict[int, Reads] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Correction:
    """What a trusted moment says of an account: all that is `good`, all that is `wrong`, and of that what is `doubted`
    only now. `was`: the last run as the store says, `done`: as it should."""

    meter: str
    task: str
    good: tuple[Range, ...]
    doubted: tuple[Range, ...]
    wrong: tuple[Range, ...]
    was: int
    done: int


class Slots:
    """What all meters were read for. Not thread-safe."""

    def __init__(self, earlier: Mapping[Key, int] | None = None, epochs: Sequence[Epoch] = ()) -> None:
        self._accounts = {key: _Account(run, run) for key, run in (earlier or {}).items()}
        self.epochs = list(epochs)
        self.changed = False  # what a later life of this boot has to know; whoever writes it down takes it back

    # --- epochs ---

    def begin(self, now: Moment, store: str, place: Callable[[], int]) -> None:
        """Whatever is read from now on is of the epoch of now. `place`: the id of the next record of the `store`."""
        current = self.epochs[-1] if self.epochs else None
        if current is not None and current.lasts(now, store):
            if current.inherited and current.resumed is None:
                current.resumed = place()
            if now.trusted:
                self.changed |= not current.trusted
                current.offset, current.trusted = now.offset, True
            return
        next_id, number = place(), 0
        if current is not None:
            self._end(current, now, store, next_id)
            number = current.number + 1
        self.epochs.append(Epoch(number, now.offset, now.wall, store, next_id, trusted=now.trusted))
        self.changed |= now.trusted or (current is not None and current.trusted)
        self._bound(now)

    def _end(self, epoch: Epoch, now: Moment, store: str, next_id: int) -> None:
        if epoch.offset is not None and epoch.last is None:  # else it ended with its boot, or in an earlier life
            epoch.until = now.monotonic + epoch.offset
            epoch.last = next_id - 1 if store == epoch.store else ID_MAX  # a store that is gone gets no more

    def _bound(self, now: Moment) -> None:
        """Forget epochs when there are too many: only those of which nothing has to be said any more, first those of
        another clock than now."""
        while len(self.epochs) > EPOCHS_MAX:
            told = [epoch for epoch in self.epochs[:-1] if epoch.doubted or not epoch.trusted]
            gone = min(told, key=lambda epoch: (epoch.agrees(now), epoch.trusted), default=None)
            if gone is None:
                return
            self.epochs.remove(gone)
            for account in self._accounts.values():
                account.reads.pop(gone.number, None)

    def _give_up(self) -> None:
        """Give up the oldest epochs when there are too many: nobody will be able to say whether they were right."""
        surplus = max(0, len(self.epochs) - EPOCHS_MAX)
        for epoch in [epoch for epoch in self.epochs[:-1] if not epoch.doubted][:surplus]:
            epoch.offset = None

    # --- what is owed ---

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
        done = self._done(account, now) >= run if now.trusted else self._given(account, run, now, catch_up_s)
        return None if done else run

    def done(self, meter: str, task_id: str, now: Moment) -> int:
        """Return the last run the meter was read for, as far as is known at this moment; 0 for none."""
        account = self._accounts.get((meter, task_id))
        return self._done(account, now) if account is not None else 0

    def good(self, meter: str, task_id: str, now: Moment) -> tuple[Range, ...]:
        """Return the runs that the meter was read for under the clock of this moment, as far as is known."""
        account = self._accounts.get((meter, task_id))
        return self._runs(account, {epoch.number for epoch in self.epochs if epoch.agrees(now)}) if account else ()

    # --- what was read ---

    def touch(self, task: ReadingTask, meter: str) -> Reads:
        """Something that was read for a task is being stored in this epoch. The run may never be done."""
        account = self._accounts.setdefault((meter, task.task_id), _Account())
        if account.schedule is not None and not same(account.schedule, task.schedule):  # of which the last run counts
            for reads in account.reads.values():
                reads.trusted[:] = [(last, last) for _, last in reads.trusted[-1:]]
                reads.plain[:] = [(last, last) for _, last in reads.plain[-1:]]
        account.schedule = task.schedule
        return account.reads.setdefault(self.epochs[-1].number, Reads())

    def note(self, task: ReadingTask, meter: str, run: int, *, trusted: bool) -> None:
        """The meter was read for this run in this epoch, and the store has it, as its last where that was `trusted`."""
        reads = self.touch(task, meter)
        ranges = reads.trusted if trusted else reads.plain
        ranges[:] = joined([*ranges, (run, run)], task.schedule)
        if len(ranges) > READ_RANGES_MAX:
            ranges[:2] = [(ranges[0][0], ranges[1][1])]
        if trusted:
            self._accounts[meter, task.task_id].durable = run

    def inherit(self, key: Key, schedule: Schedule | None, runs: Mapping[int, Iterable[Range]], durable: int) -> None:
        """What an earlier life of this process read for an account, by the numbers of epochs; and its last run as the
        store says."""
        account = self._accounts.setdefault(key, _Account())
        account.schedule, account.durable = schedule, durable
        for epoch in self.epochs:
            if epoch.number in runs:
                account.reads[epoch.number] = Reads(list(runs[epoch.number]))

    # --- corrections ---

    def correct(
        self, now: Moment, next_id: int, known: Mapping[Key, Schedule | None]
    ) -> tuple[list[Verdict], list[Correction]]:
        """Return what is to be said of readings, which follows from what has been said before, and what is to be listed
        at this trusted moment, of all accounts. `known`: accounts that may not be known here, with their schedules."""
        self._give_up()
        for key in known:
            if key in self._accounts and self._accounts[key].schedule is None:
                self._accounts[key].schedule = known[key]
        doubted = [e for e in self.epochs if e.trusted and not e.doubted and not e.agrees(now)]
        confirmed = [e for e in self.epochs if e.doubted and e.agrees(now)]
        keys = sorted({*self._accounts, *known})
        spans = [epoch for epoch in doubted if epoch.inherited and not self._of_present_store(epoch)]
        verdicts = [one for epoch in doubted for one in self._verdicts(epoch, keys, trusted=False)]
        verdicts += [one for epoch in confirmed for one in self._verdicts(epoch, keys, trusted=True)]
        verdicts += self._proven(now, next_id)
        for epoch in (*doubted, *confirmed):
            epoch.doubted, self.changed = not epoch.doubted, True
        new, agreeing = {epoch.number for epoch in doubted}, {e.number for e in self.epochs if e.agrees(now)}
        opposed = {epoch.number for epoch in self.epochs} - agreeing
        corrections: list[Correction] = []
        for key in keys:
            account = self._accounts.get(key) or _Account(schedule=known.get(key))
            if account.earlier > now.wall + CORRECTION_S:
                verdicts.append(self._of_the_future(key, account, now))
                account.earlier = 0
            done = self._done(account, now)
            good = self._runs(account, agreeing)
            unknown = [one for epoch in spans for one in self._all_of(epoch, account)]
            read = [*self._runs(account, new), *unknown]
            doubtful, wrong = (self._without(these, good, account) for these in (read, self._runs(account, opposed)))
            corrections.append(Correction(*key, good, doubtful, wrong, account.durable, done))
            account.durable = done
        self._bound(now)
        return verdicts, corrections

    def _of_present_store(self, epoch: Epoch) -> bool:
        return epoch.store == self.epochs[-1].store

    def _all_of(self, epoch: Epoch, account: _Account) -> Iterator[Range]:
        """All runs of an account in an epoch: which of them were read was known in a store that is gone."""
        if account.schedule is not None:
            first = account.schedule.newest(epoch.since - CORRECTION_S)
            if 0 < first <= (last := account.schedule.newest(epoch.until)):
                yield first, last

    def _runs(self, account: _Account, numbers: set[int]) -> tuple[Range, ...]:
        found = [one for number, reads in account.reads.items() if number in numbers for one in reads.trusted]
        return tuple(joined(found, account.schedule)) if account.schedule is not None else ()

    def _without(self, runs: Sequence[Range], good: tuple[Range, ...], account: _Account) -> tuple[Range, ...]:
        if account.schedule is None:
            return ()
        return tuple(without(joined(runs, account.schedule), good, account.schedule))

    def _verdicts(self, epoch: Epoch, keys: Iterable[Key], *, trusted: bool) -> Iterator[Verdict]:
        """The verdict on all that was read in an epoch. Which runs these were is known from its times; of an epoch that
        an earlier life began it is not known of whom. Of a store that is gone it is not even known of which tasks: all
        that is in it is doubted, and what is confirmed is of the times of the tasks there are."""
        if epoch.last is None or epoch.last < epoch.first:
            return
        ids = (epoch.first, epoch.last)
        if self._of_present_store(epoch):
            for key in keys:
                account = self._accounts.get(key, _Account())
                if epoch.inherited or epoch.number in account.reads:
                    yield Verdict(*key, *_span(epoch, account.schedule), *ids, trusted=trusted, store=epoch.store)
        elif not trusted:
            yield Verdict("", "", 0, RUN_MAX, *ids, trusted=trusted, store=epoch.store)
        else:
            schedules = {task: account.schedule for (_, task), account in self._accounts.items() if account.schedule}
            for task, schedule in sorted(schedules.items()):
                yield Verdict("", task, *_span(epoch, schedule), *ids, trusted=trusted, store=epoch.store)

    def _proven(self, now: Moment, next_id: int) -> Iterator[Verdict]:
        """What was read in this life when nothing vouched for the clock, and now turns out to have been right. What
        earlier lives read so is forgotten, and was read again where there was time: it stays as it is."""
        for (meter, task), account in self._accounts.items():
            for epoch in self.epochs:
                reads = account.reads.get(epoch.number)
                if reads is None or not reads.plain or not epoch.agrees(now):
                    continue
                last = next_id - 1 if epoch.last is None else epoch.last
                first = epoch.first if epoch.resumed is None else epoch.resumed
                if first <= last:
                    runs = (reads.plain[0][0], reads.plain[-1][1])
                    yield Verdict(meter, task, *runs, first, last, trusted=True, store=epoch.store)
                found = reads.trusted + reads.plain
                reads.trusted = joined(found, account.schedule) if account.schedule is not None else sorted(found)
                reads.plain, self.changed = [], True

    def _of_the_future(self, key: Key, account: _Account, now: Moment) -> Verdict:
        """Runs that an earlier boot stored and that lie in the future were read under a clock that was wrong."""
        first = account.earlier
        if account.schedule is not None:
            first = min(first, account.schedule.next(now.wall + CORRECTION_S))
        oldest = next(epoch for epoch in self.epochs if self._of_present_store(epoch))
        return Verdict(*key, first, account.earlier, 0, oldest.first - 1, trusted=False, store=oldest.store)

    # --- for everybody ---

    def reckoned(self, civil: float, now: Moment) -> float | None:
        """A civil time as it was told under a clock that turns out to have been wrong, by the one of now; `None` where
        that clock is not known, or where a clock that was right has shown that time too."""
        told: float | None = None
        for epoch in reversed(self.epochs):
            if not epoch.trusted or not epoch.since - CORRECTION_S <= civil <= (epoch.until or now.wall):
                continue
            if epoch.offset is None or epoch.agrees(now):
                return None
            if told is None:
                told = civil - epoch.offset + now.offset
        return told

    def runs(self) -> Iterator[tuple[Key, int, Sequence[Range]]]:
        """What was read under trust: account, number of the epoch, runs."""
        for key, account in self._accounts.items():
            for number, reads in account.reads.items():
                yield key, number, reads.trusted

    def forget(self, tasks: Iterable[str]) -> None:
        """Forget everything about these tasks."""
        gone = set(tasks)
        self._accounts = {key: account for key, account in self._accounts.items() if key[1] not in gone}

    def tasks(self) -> set[str]:
        """The tasks that anything is known about."""
        return {task_id for _, task_id in self._accounts}

    def durable(self) -> Iterable[tuple[Key, int]]:
        """(meter, task) and the run that the store holds."""
        return [(key, account.durable) for key, account in self._accounts.items()]

    # --- inside ---

    def _done(self, account: _Account, now: Moment) -> int:
        earlier = account.earlier if account.earlier <= now.wall + CORRECTION_S else 0
        return max(earlier, *(reads.last() for epoch, reads in self._read_in(account) if epoch.agrees(now)), 0)

    def _read_in(self, account: _Account) -> Iterator[tuple[Epoch, Reads]]:
        return ((epoch, account.reads[epoch.number]) for epoch in self.epochs if epoch.number in account.reads)

    def _given(self, account: _Account, run: int, now: Moment, catch_up_s: int) -> bool:
        """Whether this run may have been read already, while nothing vouches for the clock: a clock that was set back
        comes by runs that it has been at before, and there is no telling which of the two times was right."""
        if account.earlier - catch_up_s <= run <= account.earlier:
            return True
        found = list(self._read_in(account))
        agreeing = [at for at, (epoch, _) in enumerate(found) if epoch.agrees(now)]
        before = found[: agreeing[0]] if agreeing else found
        return any(reads.holds(run) for _, reads in before) or any(run <= found[at][1].last() for at in agreeing)


def _span(epoch: Epoch, schedule: Schedule | None) -> Range:
    """The first and the last run that may have been read in an epoch."""
    first, last = int(epoch.since), int(epoch.until)
    if schedule is not None:
        first, last = schedule.newest(first - CORRECTION_S), schedule.newest(last)
    first = max(0, first)
    return first, max(first, last)
