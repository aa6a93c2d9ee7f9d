"""The ledger: which slots of which meter are owed, and which are missing and why. A sans-IO core.

A *gap* is a range of slots of one meter and one task (or, with `profile`, of intervals of a profile) that is missing.
A gap *goes on* while its last slot is not known yet; it costs nothing per run then, however long it lasts. What becomes
of gaps leaves as `Change`s, in order: the caller makes them durable and reports them to the head-end in one transaction
(docs/collection.md draws the states).

The newest slot of a task is never a gap: it can still be read. It is *settled* when it was read, or when the next one
has begun and it is listed. Everything up to `settled` is accounted for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from omadm.schedule import Range, Schedule, same, schedule_of, without

GOES_ON = 0  # in place of the last slot
EARLY_MAX = 8  # clocks of which an account keeps in mind what it listed before it began by a later one
READ, PROFILE, WITHDRAWN, RENAMED = "read", "profile", "withdrawn", "renamed"  # how a gap is closed, or a sentence


class Reason(StrEnum):
    """Why slots are missing."""

    OFF = "concentrator-off"
    CLOCK = "clock-unknown"
    PORT = "port-lost"
    ABSENT = "meter-absent"  # not in the network, or not found on the bus
    SILENT = "meter-silent"  # there, and answers nothing
    FAILING = "meter-failing"  # answers, and could not be read
    LIST = "no-reading-list"
    STORE = "store-failed"
    STORE_LOST = "store-lost"  # read, and lost before the head-end had it
    LATE = "not-reached"  # nobody's fault but the line's: other meters took its time
    DEADLINE = "deadline"  # the same, before the run's deadline


@dataclass(frozen=True, slots=True)
class Gap:
    """Slots `first` to `last`, one every `every` seconds, or at the run times of the calendar `times`; `last` is
    `GOES_ON` while it goes on. `profile`: the logical name of the profile whose intervals these are, empty for runs of
    the task."""

    meter: str
    task: str
    profile: str
    first: int
    last: int
    every: int
    reason: str
    times: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.meter, self.task, self.profile, self.first)

    @property
    def schedule(self) -> Schedule:
        """When its slots are."""
        return schedule_of(self.every, self.first % self.every, self.times)


@dataclass(frozen=True, slots=True)
class Change:
    """`was`, where there was one, becomes `gap`. With `how`, the slots of `gap` are closed: they are no gap any more.
    `told`: the head-end is to know; a remainder of a closed gap follows from what it knows."""

    was: Gap | None
    gap: Gap
    how: str = ""
    told: bool = True


@dataclass(slots=True)
class _Account:
    """One meter and one task. `ahead`: what was accounted for under a clock that was ahead of the one of now, should it
    prove right in the end; `early`: the same of clocks by which it began earlier than by the one of now."""

    schedule: Schedule
    settled: int
    open: Gap | None = None
    ahead: Ahead | None = None
    early: tuple[Early, ...] = ()


@dataclass(frozen=True, slots=True)
class Ahead:
    """All after `start` and up to `settled` was read, but for `gaps`, as the clock of `epoch` had it (`None`: that of
    an earlier boot)."""

    epoch: int | None
    start: int
    settled: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Early:
    """Up to `settled` all was accounted for, as the clock of `epoch` had it (`None`: that of an earlier boot); of that,
    `gaps` lie before the account began by the clock that came after it, also what was read then and is doubted."""

    epoch: int | None
    settled: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Balance:
    """What the store keeps of an account."""

    meter: str
    task: str
    every: int
    phase: int
    settled: int
    times: str = ""


@dataclass(frozen=True, slots=True)
class Corrected:
    """What is known of an account at a moment at which the clock was corrected. `bound`: the first run that is not
    over; `begun`: the first one that it can owe, should all that is known of it be of one wrong clock, or 0; `good`:
    all runs that were read; `doubted`: those of which that turns out not to be true only now; `wrong`: all such;
    `done`: the last run that was read, also in an earlier boot. `epoch`: the number of the one that begins, `before`:
    of the one that the ledger was kept in until now, `None` for one of an earlier boot; `agreeing`: of all whose clock
    was that of now."""

    bound: int
    begun: int
    good: Sequence[Range]
    doubted: Sequence[Range]
    wrong: Sequence[Range]
    done: int
    epoch: int = 0
    before: int | None = None
    agreeing: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Readings of a meter (empty: of all) and a task (empty: of all) with ids `lowest` to `highest` in `store`, of the
    runs `first` to `last`, are `trusted`, or not, whatever was said of them before."""

    meter: str
    task: str
    first: int
    last: int
    lowest: int
    highest: int
    trusted: bool
    store: str


class Ledger:
    """All accounts of this concentrator. Not thread-safe."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}

    def load(self, balances: Iterable[Balance], going_on: Iterable[Gap], done: dict[tuple[str, str], int],
             alive: float) -> list[Change]:  # fmt: skip
        """Take up what an earlier life left. `going_on`: gaps without an end; `done`: the last runs that were read;
        `alive`: when that life last looked at its accounts, seconds since the epoch."""
        changes: list[Change] = []
        gaps = {(gap.meter, gap.task): gap for gap in going_on if not gap.profile}
        for balance in balances:
            key = (balance.meter, balance.task)
            schedule = schedule_of(balance.every, balance.phase, balance.times)
            account = _Account(schedule, balance.settled, gaps.pop(key, None))
            self._accounts[key] = account
            if account.open is not None and alive:
                # Slots of a gap that goes on are settled without a trace in the store: by then they were.
                account.settled = max(account.settled, schedule.previous(schedule.newest(alive)))
            run = done.get(key, 0)
            if account.open is None:
                changes += self.read(*key, run, schedule.next(account.settled))
            elif run >= account.open.first:  # the reading is durable, and the end of the gap was not yet
                account.settled = min(account.settled, schedule.previous(run))
                changes += self.read(*key, run)
        for gap in gaps.values():  # its account is lost: nobody would ever end it
            changes += _ended(gap, gap.first)
        return changes

    def balances(self) -> list[Balance]:
        """All accounts, as the store keeps them."""
        return [
            Balance(meter, task, when.every, when.phase, account.settled, when.times)
            for (meter, task), account in self._accounts.items()
            for when in (account.schedule,)
        ]

    def expect(
        self, meter: str, task: str, schedule: Schedule, latest: int, settled: int | None = None
    ) -> tuple[bool, list[Change]]:
        """The meter owes this task its run `latest` and all after it. Returns whether that is news, and what follows
        from it. A task whose times were changed begins anew. `settled`: an account of before is lost, and this run was
        the last that is known to have been accounted for."""
        account = self._accounts.get((meter, task))
        if account is not None and same(account.schedule, schedule):
            return False, []
        changes = self._end(account) if account is not None else []
        before = schedule.previous(latest)
        self._accounts[meter, task] = _Account(schedule, before if settled is None else min(settled, before))
        return True, changes

    def release(self, meter: str, task: str) -> list[Change]:
        """The meter owes this task nothing from now on: the task is gone or disabled, or the meter is. Gaps of the
        past stay."""
        account = self._accounts.pop((meter, task), None)
        return self._end(account) if account is not None else []

    def read(self, meter: str, task: str, run: int, since: int | None = None) -> list[Change]:
        """The meter was read for this run, and for all from `since` on; what was missed before is listed. The run must
        not be settled yet."""
        account = self._accounts.get((meter, task))
        if account is None or run <= account.settled:
            return []
        first = run if since is None else min(since, run)
        gap = account.open
        changes = self.settle(meter, task, first, Reason(gap.reason) if gap is not None else Reason.LATE)
        if account.open is not None:
            changes += _ended(account.open, account.schedule.previous(first))
            account.open = None
        account.settled = run
        return changes

    def settle(self, meter: str, task: str, latest: int, reason: Reason) -> list[Change]:
        """List what is missing before the run `latest`, which is the newest one, for this reason."""
        account = self._accounts.get((meter, task))
        if account is None:
            return []
        schedule, settled = account.schedule, account.settled
        last = schedule.previous(latest)
        if last <= settled:
            return []
        first, account.settled = schedule.next(settled), last
        if account.open is not None and account.open.reason == reason:
            return []
        before = account.open
        account.open = Gap(meter, task, "", first, GOES_ON, schedule.every, reason, schedule.times)
        opened = Change(None, account.open)
        return [opened] if before is None else [*_ended(before, settled), opened]

    def schedule(self, meter: str, task: str) -> Schedule | None:
        """When the slots of an account are; `None` without one."""
        account = self._accounts.get((meter, task))
        return account.schedule if account is not None else None

    def unsettled(self, meter: str, task: str, latest: int) -> bool:
        """Whether something is missing before the run `latest` that is not listed yet."""
        account = self._accounts.get((meter, task))
        return account is not None and account.schedule.previous(latest) > account.settled

    def correct(self, meter: str, task: str, now: Corrected, listed: Sequence[Gap]) -> list[Change]:
        """The clock was corrected. `listed` are the gaps of this account.

        What was listed of a time that is to come, or from before the meter was there, is no gap. What was accounted for
        before, under a clock that was so far ahead, counts again; where it is the clock of now, in place of all that
        came after it. So does what was listed before the meter was there by another clock. Doubted runs are missing,
        good ones are not, and what lies between good ones is.
        """
        account = self._accounts.get((meter, task))
        if account is None:
            return []
        schedule, changes = account.schedule, list[Change]()
        held = {gap.key: gap for gap in listed if not gap.profile}

        def take(new: list[Change]) -> None:
            changes.extend(new)
            apply(held, new)

        limit = max(schedule.previous(now.bound), now.done)
        stepped, settled, was_settled = now.before != now.epoch, account.settled, account.settled
        begun = now.begun if account.ahead is None else 0
        ahead = account.ahead if stepped else None
        doubted = list(now.doubted)
        if ahead is not None and (ahead.epoch is None or ahead.epoch in now.agreeing):
            take(self._withdraw(account, ahead.start, list(held.values())))
            doubted = [(first, min(last, ahead.start)) for first, last in doubted if first <= ahead.start]
            account.ahead = ahead
        elif ahead is not None:
            doubted.append((settled + 1, ahead.settled))  # by that clock the meter may not have been there yet
        limit = max(schedule.previous(now.bound), now.done)
        take(self._restore(account, limit) if stepped else [])
        settled = account.settled
        take(self._withdraw(account, limit, list(held.values())))
        if settled > max(limit, now.bound) and stepped:
            self._keep_ahead(account, now.before, settled, listed)
        for early in account.early if stepped else ():
            if early.epoch is None or early.epoch in now.agreeing:
                missing = [gap for gap in early.gaps if gap.key not in held and gap.first <= account.settled]
                take([Change(None, rest) for gap in missing for rest in _unread(gap, now.good)])
                doubted.append((early.settled + 1, account.settled))  # nobody has listed what passed meanwhile
                account.early = tuple(one for one in account.early if one is not early)
        if begun:
            read = [Gap(meter, task, "", *one, schedule.every, Reason.CLOCK, schedule.times) for one in now.doubted]
            self._keep_early(account, now.before, was_settled, begun, [*listed, *read])
            take(self._begin_at(account, begun, list(held.values())))
        spans = [(gap.first, gap.last or account.settled) for gap in held.values()]
        for first, last in without(without(doubted, now.good, schedule), spans, schedule):
            first, last = max(schedule.next(first - 1), begun), min(last, account.settled)
            if 0 < first <= last:
                take([Change(None, Gap(meter, task, "", first, last, schedule.every, Reason.CLOCK, schedule.times))])
        for first, last in now.good:
            for gap in list(held.values()):
                take(self.close(gap, first, last, READ))
            if last > account.settled:
                first = max(first, schedule.next(account.settled))
                take(self.settle(meter, task, first, Reason.CLOCK))
                take(self.read(meter, task, last, first))
        return changes

    def _withdraw(self, account: _Account, upto: int, listed: Iterable[Gap]) -> list[Change]:
        """Take back what was settled after `upto`."""
        settled = account.settled
        if settled <= upto:
            return []
        account.settled = upto
        changes: list[Change] = []
        for gap in listed:
            ended = replace(gap, last=gap.last or max(settled, gap.first))
            if gap.first > upto:
                if gap.last == GOES_ON:
                    changes += _ended(gap, ended.last)
                    account.open = None
                changes.append(Change(ended, ended, WITHDRAWN))
            elif gap.last > upto:
                changes.append(Change(gap, replace(gap, first=gap.schedule.next(upto)), WITHDRAWN))
                changes.append(Change(None, replace(gap, last=gap.schedule.newest(upto)), told=False))
        return changes

    def _keep_ahead(self, account: _Account, epoch: int | None, settled: int, listed: Iterable[Gap]) -> None:
        """Keep in mind what was withdrawn: all after what is settled now, up to `settled`. Where something was kept
        before, that stays, and what lies before it is added."""
        start, end = account.settled, settled
        kept: list[Gap] = []
        if account.ahead is not None:
            epoch, settled, kept = account.ahead.epoch, account.ahead.settled, list(account.ahead.gaps)
            start, end = min(start, account.ahead.start), min(end, account.ahead.start)
        for gap in listed:
            first, last = max(gap.first, gap.schedule.next(start)), min(gap.last or end, gap.schedule.newest(end))
            if not gap.profile and first <= last:
                kept.append(replace(gap, first=first, last=last))
        account.ahead = Ahead(epoch, start, settled, tuple(kept))

    def _keep_early(
        self, account: _Account, epoch: int | None, settled: int, begun: int, listed: Iterable[Gap]
    ) -> None:
        """Keep in mind what was listed before the run `begun`, as the clock had it until now."""
        kept: list[Gap] = []
        for gap in listed:
            last = min(gap.last or settled, gap.schedule.newest(begun - 1))
            if not gap.profile and gap.first <= last:
                kept.append(replace(gap, last=last))
        if kept or settled < begun:
            account.early = (*account.early, Early(epoch, settled, tuple(kept)))[-EARLY_MAX:]

    def _restore(self, account: _Account, upto: int) -> list[Change]:
        """Let what was accounted for under a clock that was ahead count again, as far as that time has come."""
        ahead, settled = account.ahead, account.settled
        if ahead is None or min(upto, ahead.settled) <= settled:
            account.ahead = ahead if ahead is not None and ahead.settled > settled else None
            return []
        upto = min(upto, ahead.settled)
        changes = self._end(account)
        for gap in ahead.gaps:
            if gap.last > settled and gap.first <= upto:
                first, last = max(gap.first, gap.schedule.next(settled)), min(gap.last, gap.schedule.newest(upto))
                changes.append(Change(None, replace(gap, first=first, last=last)))
        account.settled = upto
        rest = tuple(gap for gap in ahead.gaps if gap.last > upto)
        account.ahead = Ahead(ahead.epoch, upto, ahead.settled, rest) if ahead.settled > upto else None
        return changes

    def _begin_at(self, account: _Account, first: int, listed: Iterable[Gap]) -> list[Change]:
        """The meter was not there before the run `first`: nothing was owed."""
        changes: list[Change] = []
        for gap in listed:
            end = gap.last or max(account.settled, gap.first)
            if gap.first >= first:
                continue
            last = min(end, gap.schedule.newest(first - 1))
            if gap.last == GOES_ON:
                changes += _ended(gap, end)
                account.open, gap = None, replace(gap, last=end)
            changes.append(Change(gap, replace(gap, last=last), WITHDRAWN))
            if end > last:
                changes.append(Change(None, replace(gap, first=gap.schedule.next(last)), told=False))
        account.settled = max(account.settled, account.schedule.newest(first - 1))
        return changes

    def ahead(self) -> Iterator[tuple[tuple[str, str], Ahead]]:
        """What is kept in mind of a time to come, by account."""
        return ((key, account.ahead) for key, account in self._accounts.items() if account.ahead is not None)

    def early(self) -> Iterator[tuple[tuple[str, str], Early]]:
        """What is kept in mind of the time before an account began, by account."""
        return ((key, early) for key, account in self._accounts.items() for early in account.early)

    def remember(self, key: tuple[str, str], kept: Ahead | Early) -> None:
        """Take up what an earlier life kept in mind."""
        account = self._accounts.get(key)
        if account is None:
            return
        if isinstance(kept, Early):
            account.early = (*account.early, kept)[-EARLY_MAX:]
        else:
            account.ahead = kept

    def lose(self, meter: str, task: str, since: float, until: float, listed: Sequence[Gap]) -> list[Change]:
        """What was read from `since` to `until`, seconds since the epoch, is lost: list its slots, but for those that
        are `listed` already."""
        account = self._accounts.get((meter, task))
        if account is None:
            return []
        schedule = account.schedule
        first, last = schedule.newest(since), min(schedule.newest(until), account.settled)
        changes: list[Change] = []
        for gap in sorted((gap for gap in listed if not gap.profile), key=lambda gap: gap.first):
            end = account.settled if gap.last == GOES_ON else gap.last
            if gap.first > last or end < first:
                continue
            changes += self._lost(meter, task, account, first, schedule.previous(gap.first))
            first = schedule.next(end)
        return changes + self._lost(meter, task, account, first, last)

    def list_judged(
        self, meter: str, task: str, runs: Range, good: Sequence[Range], listed: Sequence[Gap]
    ) -> list[Change]:
        """The readings of these runs were judged, and what was listed, withdrawn or closed with that may be lost: list
        those that are not known to be `good`, and not `listed` already."""
        account = self._accounts.get((meter, task))
        if account is None:
            return []
        schedule, changes = account.schedule, list[Change]()
        spans = [(gap.first, gap.last or account.settled) for gap in listed if not gap.profile]
        for first, last in without(without([runs], good, schedule), spans, schedule):
            first, last = schedule.next(first - 1), min(schedule.newest(last), account.settled)
            if 0 < first <= last:
                gap = Gap(meter, task, "", first, last, schedule.every, Reason.CLOCK, schedule.times)
                changes.append(Change(None, gap))
        return changes

    def _lost(self, meter: str, task: str, account: _Account, first: int, last: int) -> list[Change]:
        if not 0 < first <= last:
            return []
        when = account.schedule
        return [Change(None, Gap(meter, task, "", first, last, when.every, Reason.STORE_LOST, when.times))]

    def rename(self, old: str, new: str, listed: Sequence[Gap]) -> list[Change]:
        """A meter has told its name: what it owed under `old` it owes under `new`. `listed` are its gaps."""
        changes: list[Change] = []
        for gap in listed:
            settled = self.settled(old, gap.task)
            ended = replace(gap, last=gap.last or max(settled, gap.first))
            if gap.last == GOES_ON:
                changes += _ended(gap, ended.last)
            changes.append(Change(ended, ended, RENAMED))
            changes.append(Change(None, replace(gap, meter=new)))
        for meter, task in list(self._accounts):
            if meter == old:
                account = self._accounts.pop((meter, task))
                if (new, task) in self._accounts:  # read by another way before: that account goes on
                    changes += [Change(c.gap, replace(c.gap, last=max(c.gap.first, account.settled)))
                                for c in changes
                                if c.gap.meter == new and c.gap.task == task and c.gap.last == GOES_ON]  # fmt: skip
                    continue
                if account.open is not None:
                    account.open = replace(account.open, meter=new)
                self._accounts[new, task] = account
        return changes

    def series(self) -> list[tuple[str, str]]:
        """(meter, task) of all accounts."""
        return list(self._accounts)

    def going_on(self) -> list[Gap]:
        """The gaps that have no end yet, with the last slot that is listed in each."""
        return [replace(a.open, last=a.settled) for a in self._accounts.values() if a.open is not None]

    def settled(self, meter: str, task: str) -> int:
        """Everything up to this run is read or listed; 0 without an account."""
        account = self._accounts.get((meter, task))
        return account.settled if account is not None else 0

    def close(self, gap: Gap, first: int, last: int, how: str) -> list[Change]:
        """Close the slots `first` to `last` of a gap; what is left of it stays open."""
        account = self._accounts.get((gap.meter, gap.task)) if not gap.profile else None
        going_on = gap.last == GOES_ON
        end = account.settled if going_on and account is not None else gap.last
        low, high = max(gap.first, first), min(end, last)
        if low > high:
            return []
        changes: list[Change] = []
        if going_on and high == end:  # all that is known of it: it begins anew when the next slot is missed
            changes += _ended(gap, end)
            gap, going_on = replace(gap, last=end), False
            if account is not None:
                account.open = None
        changes.append(Change(gap, replace(gap, first=low, last=high), how))
        if low > gap.first:
            changes.append(Change(None, replace(gap, last=gap.schedule.previous(low)), told=False))
        if high < end:
            rest = replace(gap, first=gap.schedule.next(high))
            changes.append(Change(None, rest, told=False))
            if going_on and account is not None:
                account.open = rest
        return changes

    def _end(self, account: _Account) -> list[Change]:
        gap, account.open = account.open, None
        return [] if gap is None else _ended(gap, account.settled)


def apply(held: dict[tuple[str, str, str, int], Gap], changes: Iterable[Change]) -> None:
    """Bring open gaps, by their keys, up to date."""
    for change in changes:
        if change.was is not None:
            held.pop(change.was.key, None)
        if not change.how:
            held[change.gap.key] = change.gap


def _unread(gap: Gap, good: Sequence[Range]) -> Iterator[Gap]:
    """What is left of a gap without the runs that are known to be good."""
    for first, last in without([(gap.first, gap.last)], good, gap.schedule):
        yield replace(gap, first=first, last=last)


def _ended(gap: Gap, last: int) -> list[Change]:
    """The gap goes on no more. One in which no slot is left was none."""
    if last >= gap.first:
        return [Change(gap, replace(gap, last=last))]
    ended = replace(gap, last=gap.first)
    return [Change(gap, ended), Change(ended, ended, READ)]


def refilled(gap: Gap, end: int, times: Sequence[float], period: float) -> list[tuple[int, int]]:
    """Return which slots of `gap`, up to `end`, lie in intervals of a profile: ranges of first and last slot.

    `times` are the time stamps of rows, ascending, each of which holds the interval of `period` seconds that ends with
    it. A profile with longer intervals than the task's tells nothing of its slots.
    """
    schedule = gap.schedule
    found: list[tuple[int, int]] = []
    for at in times:
        # The slots after at - period, up to at; a meter stamps some seconds late as well.
        slot = schedule.newest(at)
        if not (gap.first <= slot <= end and slot > at - period) or slot - schedule.previous(slot) < period:
            continue
        if found and slot <= found[-1][1]:
            continue
        if found and slot == schedule.next(found[-1][1]):
            found[-1] = (found[-1][0], slot)
        else:
            found.append((slot, slot))
    return found
