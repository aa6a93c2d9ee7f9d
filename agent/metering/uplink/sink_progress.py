"""What a further sink has of the records behind its position in the store, and what it did not take: sans-IO.

A sink may take some records of a batch and refuse others, for their topic say. Those that it took are not offered
again. The others are *held*: they are offered again, in passes with pauses in between, while what lies behind them goes
on. A record that was refused `REFUSALS_MAX` times is set aside, so that it holds the position up no longer; but only by
a sink that has taken another record since it refused this one first, or in the same batch. A sink that refuses
everything, for a mistake in its access list say, must not empty the store.

Held records are kept as ranges of ids, and only in memory: after a restart all records behind the position are offered
once more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

REFUSALS_MAX = 5  # with pauses of 2, 4, 8, 16 s in between: who is repairing an access list has half a minute
RANGES_MAX = 256  # while more are held, nothing new is offered; a range is a visit of a meter, more or less


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the records that a sink was offered, by their ids. `taken`: they are where they belong. `refused`:
    the sink said no, with its reason, which names the topic; it may think better of it. `never`: they cannot be sent
    at all. What is in none of these is not known. `failed`: why that is so, empty where all is known."""

    taken: Collection[int] = ()
    refused: Mapping[int, str] = field(default_factory=dict)
    never: Mapping[int, str] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Records that are to be offered again: the ids `first` to `last`. `refusals`: how often they were refused, for
    `why` last; 0 where the connection broke. `since`: how many records the sink had taken before it refused them
    first."""

    first: int
    last: int
    refusals: int
    since: int
    why: str


class SinkProgress:
    """How far a sink is in the store `store`: all ids up to `reached` were offered."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.reached = 0
        self.held: list[Held] = []
        self._taken = 0
        self._cursor = 0  # of the pass over what is held

    def position(self) -> int:
        """Return the id up to which everything is dealt with."""
        return self.held[0].first - 1 if self.held else self.reached

    def ahead(self) -> int:
        """Return how many ids behind the position are dealt with."""
        return self.reached - self.position() - sum(each.last - each.first + 1 for each in self.held)

    def refused(self) -> Held | None:
        """Return the first records that are held because they were refused."""
        return next((each for each in self.held if each.refusals), None)

    def may_go_on(self) -> bool:
        """Whether new records may be offered."""
        return len(self.held) < RANGES_MAX

    def others_taken(self, first: int, last: int) -> bool:
        """Whether the sink has taken others since it refused one of these first."""
        near = [each for each in self.held if each.refusals and each.first <= last and each.last >= first]
        return any(self._taken > each.since for each in near)

    def next_held(self) -> tuple[int, int] | None:
        """Return the ids that are offered next in this pass over what is held; `None` at its end."""
        for each in self.held:
            if each.last > self._cursor:
                return max(each.first, self._cursor + 1), each.last
        self._cursor = 0
        return None

    def passed(self, last: int) -> None:
        """The pass goes on behind this id."""
        self._cursor = last

    def settle(self, first: int, last: int, offered: Sequence[int], delivery: Delivery) -> dict[int, str]:
        """The records `offered`, ascending, which are all that there are of the ids `first` to `last`, had this
        `delivery`. Returns the ids that are set aside now, with the reasons."""
        before, self._taken = self._taken, self._taken + len(delivery.taken)
        known = [each for each in self.held if each.first <= last and each.last >= first]
        rest = [part for each in self.held for part in _outside(each, first, last)]
        aside: dict[int, str] = {}
        for number in offered:
            if number in delivery.taken:
                continue
            held = next((each for each in known if each.first <= number <= each.last), Held(0, 0, 0, before, ""))
            if number in delivery.never:
                aside[number] = delivery.never[number]
                continue
            if number in delivery.refused:
                since = held.since if held.refusals else before
                held = replace(held, refusals=held.refusals + 1, since=since, why=delivery.refused[number])
                if held.refusals >= REFUSALS_MAX and self._taken > held.since:
                    aside[number] = held.why
                    continue
            rest.append(replace(held, first=number, last=number))
        self.held = _joined(rest)
        self.reached = max(self.reached, last)
        return aside


def _outside(held: Held, first: int, last: int) -> list[Held]:
    """Return what is left of a range without the ids `first` to `last`."""
    before, behind = replace(held, last=min(held.last, first - 1)), replace(held, first=max(held.first, last + 1))
    return [part for part in (before, behind) if part.first <= part.last]


def _joined(ranges: list[Held]) -> list[Held]:
    """Return the ranges in order, those of one fate that continue each other as one."""
    found: list[Held] = []
    for each in sorted(ranges, key=lambda held: held.first):
        if found and (found[-1].last + 1, found[-1].refusals, found[-1].why) == (each.first, each.refusals, each.why):
            found[-1] = replace(found[-1], last=each.last, since=max(found[-1].since, each.since))
        else:
            found.append(each)
    return found
