"""One measured figure, what a module of benchmarks offers a list of: `run() -> list[Figure]`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

OK, MISSED, MISSING = "ok", "MISSED", "not here"


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, the value with its unit, and what was wanted of it.

    `good` is None where nothing was wanted; a figure that could not be measured on this machine says so (`missing`)
    and is neither good nor bad.
    """

    what: str
    value: str
    wanted: str = ""
    good: bool | None = None
    missing: bool = False

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, `not here`, or nothing where nothing was wanted."""
        if self.missing:
            return MISSING
        return "" if self.good is None else OK if self.good else MISSED

    @property
    def ratio(self) -> float | None:
        """The last factor in the value ("1.28 x"), None where it has none."""
        factors = re.findall(r"([\d.,]*\d) x(?! ?\w)", self.value)
        return float(factors[-1].replace(",", "")) if factors else None


def plain(what: str, value: str) -> Figure:
    """A figure for comparing by eye."""
    return Figure(what, value)


def at_most(what: str, value: float, limit: float, unit: str, digits: int = 2) -> Figure:
    """A figure that is good up to `limit`."""
    return Figure(what, f"{value:.{digits}f} {unit}", f"at most {limit:g} {unit}", value <= limit)


def less_than(what: str, value: float, limit: float, unit: str, digits: int = 2) -> Figure:
    """A figure that is good below `limit`."""
    return Figure(what, f"{value:.{digits}f} {unit}", f"less than {limit:g} {unit}", value < limit)


def at_least(what: str, value: float, limit: float, unit: str, digits: int = 2) -> Figure:
    """A figure that is good from `limit` on."""
    return Figure(what, f"{value:.{digits}f} {unit}", f"at least {limit:g} {unit}", value >= limit)


def absent(what: str, why: str) -> Figure:
    """A figure that needs something this machine does not have."""
    return Figure(what, why, missing=True)


def median(values: Sequence[float]) -> float:
    """The middle one, which one slow round does not move."""
    return statistics.median(values)
