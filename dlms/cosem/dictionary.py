"""What an OBIS code means and which interface class its object usually has (IEC 62056-6-1).

`describe` composes a name from the value groups for electricity (A = 1), and uses lists for the abstract objects
(A = 0) and the quantities of other media. `usual_class` is a guess for use before the meter's own object list has been
read.
"""

from __future__ import annotations

from functools import cache

from dlms.cosem.code_table import (
    ABSTRACT,
    ANGLE_PHASES,
    GENERAL,
    HARMONICS_MAX,
    INTEGRALS,
    MEDIA,
    PHASE_BASES,
    PROCESSING,
    QUANTITIES,
)
from dlms.cosem.obis import CURRENT, Obis

_DATA, _REGISTER, _REGISTER_WITH_TIME, _DEMAND, _PROFILE = 1, 3, 4, 5, 7
_LIST, _PROFILES = 98, 99
_SERVICE_MIN = 93  # values of C from here on mean the same for every medium, or are free for the maker to use
_SERVICES = (96, 97)
_ABSTRACT_MEDIUM, _ELECTRICITY = 0, 1
_ANGLES = 81
_HARMONIC_QUANTITIES = frozenset({11, 12, 15, 31, 32, 35, 51, 52, 55, 71, 72, 75, 90, 91, 92})
_POWER_FACTORS = frozenset({13, 33, 53, 73, 84, 85, 86, 87})
_INSTANTANEOUS = 7


def describe(obis: Obis) -> str:
    """A name in English; "" for an unknown code."""
    medium, channel, c, d, e, f = obis.code
    if medium == _ELECTRICITY:
        name = _electricity(c, d, e)
    elif medium == _ABSTRACT_MEDIUM:
        name = _abstract(c, d, e)
    else:
        name = _other(medium, c, d, e)
    if name and channel:
        name += f", channel {channel}"
    return f"{name}, billing period {f}" if name and f != CURRENT else name


def _abstract(c: int, d: int, e: int) -> str:
    found = _entry(c, d, e)
    return found[0] if found else ""


def _electricity(c: int, d: int, e: int) -> str:
    if c == 0:
        general = _general()
        return general.get((d, e)) or general.get((d, None), "") or _abstract(c, d, e)
    if c >= _SERVICE_MIN:
        return _abstract(c, d, e)
    quantity = _quantity(c)
    processing = PROCESSING.get(d, "")
    if not quantity or not processing:
        return ""
    if c == _ANGLES and d == _INSTANTANEOUS:
        return _angle(e)
    if d == _INSTANTANEOUS and c in _HARMONIC_QUANTITIES:
        return f"{quantity}, {processing}" + (f", harmonic {e}" if 0 < e <= HARMONICS_MAX else "")
    if d in INTEGRALS and "power " in quantity and c not in _POWER_FACTORS:
        quantity, processing = quantity.replace("power", "energy"), processing.removeprefix("energy").strip()
    return ", ".join(filter(None, (quantity, processing, f"tariff {e}" if e else "")))


def _quantity(c: int) -> str:
    for base, phase in PHASE_BASES.items():
        if base <= c < base + 10 or base + 14 <= c < base + 20:
            return f"{QUANTITIES[c - base + 1]} {phase}"
    return QUANTITIES.get(c, "")


def _angle(e: int) -> str:
    """Phase angle `10 x to + from` (IEC 62056-6-1, table of extended angles)."""
    tens, ones = divmod(e, 10)
    if max(tens, ones) >= len(ANGLE_PHASES) or not ANGLE_PHASES[tens] or not ANGLE_PHASES[ones]:
        return ""
    return f"phase angle of {ANGLE_PHASES[ones]} to {ANGLE_PHASES[tens]}"


def _other(medium: int, c: int, d: int, e: int) -> str:
    known = MEDIA.get(medium)
    if known is None:
        return ""
    name, quantities = known
    if c >= _SERVICE_MIN or c == 0:
        service = _abstract(c, d, e)
        return f"{name} {service}" if service else ""
    quantity = quantities.get(c, "")
    return f"{name} {quantity}" if quantity else ""


def usual_class(obis: Obis) -> int:
    """The interface class that an object with this code usually has."""
    medium, _channel, c, d, e, _f = obis.code
    if c in (_PROFILES, _LIST):
        return _PROFILE
    if medium == _ABSTRACT_MEDIUM or c in _SERVICES:
        found = _entry(c, d, e)
        return found[1] if found else _DATA
    if medium != _ELECTRICITY:
        return _DATA if c == 0 else _REGISTER
    if c == 0:
        return _REGISTER if d in (3, 6, 8) else _DATA
    return {6: _REGISTER_WITH_TIME, 4: _DEMAND, 5: _DEMAND}.get(d, _REGISTER)


# ----------------------------------------------------------------------------------------------- reading the texts


def _entry(c: int, d: int, e: int) -> tuple[str, int] | None:
    """Name and class of an abstract object."""
    for d_low, d_high, e_low, e_high, class_id, name in _abstract_entries().get(c, ()):
        if d_low <= d <= d_high and e_low <= e <= e_high:
            text, counted, first = name.partition(" +")
            return (f"{text} {e + int(first)}" if counted else text), class_id
    return None


@cache
def _abstract_entries() -> dict[int, list[tuple[int, int, int, int, int, str]]]:
    """By value group C: ranges of D and E, class and name; the first range that fits counts."""
    entries: dict[int, list[tuple[int, int, int, int, int, str]]] = {}
    for line in ABSTRACT.strip().splitlines():
        code, class_id, name = line.split(" ", 2)
        c, d, e = code.split(".")
        entries.setdefault(int(c), []).append((*_range(d), *_range(e), int(class_id), name))
    return entries


@cache
def _general() -> dict[tuple[int, int | None], str]:
    found: dict[tuple[int, int | None], str] = {}
    for line in GENERAL.strip().splitlines():
        code, name = line.split(" ", 1)
        _, d, e = code.split(".")
        found[int(d), None if e == "*" else int(e)] = name
    return found


def _range(text: str) -> tuple[int, int]:
    if text == "*":
        return 0, 255
    low, _, high = text.partition("-")
    return int(low), int(high or low)
