"""What a visit has asked for and not been given, although the line was good: the meter's own errors. Sans-IO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dlms.client.events import ItemError, Value

PASSING = frozenset({"hardware-fault", "temporary-failure"})  # Data-Access-Results that the next request may not get
NOT_THERE = frozenset({"object-undefined", "object-unavailable"})  # a list names what not every model has
GOOD_MIN = 0.1  # of the values that the meter has: with fewer it cannot be said to be read
SHOWN_MAX = 3  # kinds of errors that are named


@dataclass(frozen=True, slots=True)
class Shortfall:
    """`errors`: how often each came, the most frequent first, without those of objects that the meter does not have;
    `good`: how many values came; `profiles`: those that could not be read, with why; `not_there`: how many objects,
    profiles among them, the meter does not have."""

    good: int
    errors: tuple[tuple[str, int], ...]
    profiles: tuple[str, ...] = ()
    not_there: int = 0

    @classmethod
    def of(cls, results: Iterable[Value | ItemError], profiles: Iterable[tuple[str, str]]) -> Shortfall:
        """Sort the results of all attributes that were wanted; `profiles`: the name of each, and what went wrong with
        it, empty for nothing."""
        good, not_there, errors, refused = 0, 0, Counter[str](), list[str]()
        for result in results:
            if isinstance(result, Value):
                good += 1
            elif result.code in NOT_THERE:
                not_there += 1
            else:
                errors[result.code] += 1
        for profile, error in profiles:
            if not error:
                good += 1
            elif error in NOT_THERE:
                not_there += 1
            else:
                refused.append(f"profile {profile}: {error}")
        return cls(good, tuple(errors.most_common()), tuple(refused), not_there)

    @property
    def passing(self) -> bool:
        """Whether another visit may bring more."""
        return any(code in PASSING for code, _ in self.errors)

    @property
    def hopeless(self) -> bool:
        """Whether the meter gives next to nothing of what it has."""
        lacking = sum(times for _, times in self.errors) + len(self.profiles)
        return lacking > 0 and self.good < GOOD_MIN * (self.good + lacking)

    @property
    def text(self) -> str:
        """What is lacking, in a sentence; empty for nothing."""
        if not self.good and self.not_there and not self.errors and not self.profiles:
            return "it has nothing of what is to be read"
        lacking = sum(times for _, times in self.errors)
        codes = ", ".join(code for code, _ in self.errors[:SHOWN_MAX])
        values = [f"{lacking} of {self.good + lacking} values: {codes}"] if lacking else []
        return "; ".join([*values, *self.profiles[:SHOWN_MAX]])
