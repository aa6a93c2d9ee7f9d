"""The ledger: which slots of which meter are owed, and which are missing and why. A sans-IO core.

A *gap* is a range of slots of one meter and one task (or, with `profile`, of intervals of a profile) that is missing.
A gap *goes on* while its last slot is not known yet; it costs nothing per run then, however long it lasts. What becomes
of gaps leaves as `Change`s, in order: the caller makes them durable and reports them to the head-end in one transaction
(docs/collection.md draws the states).

The newest slot of a task is never a gap: it can still be read. It is *settled* when it was read, or when the next one
has begun and it is listed. Everything up to `settled` is accounted for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from omadm.schedule import Schedule, schedule_of

GOES_ON = 0  # in place of the last slot
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
    """One meter and one task."""

    schedule: Schedule
    settled: int
    open: Gap | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """What the store keeps of an account."""

    meter: str
    task: str
    every: int
    phase: int
    settled: int
    times: str = ""


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
        if account is not None and _same(account.schedule, schedule):
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

    def unsettled(self, meter: str, task: str, latest: int) -> bool:
        """Whether something is missing before the run `latest` that is not listed yet."""
        account = self._accounts.get((meter, task))
        return account is not None and account.schedule.previous(latest) > account.settled

    def reopen(self, meter: str, task: str, run: int, listed: Sequence[Gap]) -> list[Change]:
        """Runs after `run` were read or listed under a clock that was wrong; `listed` are the gaps of this account."""
        account = self._accounts.get((meter, task))
        if account is None:
            return []
        settled, account.settled, account.open = account.settled, min(account.settled, run), None
        changes: list[Change] = []
        for gap in listed:
            if gap.last == GOES_ON:
                changes += _ended(gap, max(settled, gap.first))
            ended = replace(gap, last=gap.last or max(settled, gap.first))
            if gap.first > run:
                changes.append(Change(ended, ended, WITHDRAWN))
            elif ended.last > run:
                changes.append(Change(ended, replace(gap, first=gap.schedule.next(run), last=ended.last), WITHDRAWN))
                changes.append(Change(None, replace(gap, last=run), told=False))
        return changes

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


def _same(one: Schedule, other: Schedule) -> bool:
    return (one.every, one.phase, one.times) == (other.every, other.phase, other.times)
