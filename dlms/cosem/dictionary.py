"""What an OBIS code means and which interface class its object usually has (IEC 62056-6-1).

`describe` puts a name together from the value groups for electricity (A = 1), and has a list for the abstract objects
(A = 0). `usual_class` is a guess for when the meter's own object list has not been read.
"""

from __future__ import annotations

from dlms.cosem.obis import CURRENT, Obis

_QUANTITIES: dict[int, str] = {
    1: "active power +", 2: "active power -", 3: "reactive power +", 4: "reactive power -", 5: "reactive power QI",
    6: "reactive power QII", 7: "reactive power QIII", 8: "reactive power QIV", 9: "apparent power +",
    10: "apparent power -", 11: "current any phase", 12: "voltage any phase", 13: "power factor", 14: "frequency",
    15: "active power absolute", 16: "active power net", 31: "current L1", 32: "voltage L1", 33: "power factor L1",
    51: "current L2", 52: "voltage L2", 53: "power factor L2", 71: "current L3", 72: "voltage L3",
    73: "power factor L3", 81: "phase angle", 91: "current neutral", 92: "voltage neutral",
}  # fmt: skip
_PHASE_BASES = {21: "L1", 41: "L2", 61: "L3"}  # C = base + n: quantity n + 1 of one phase
_KINDS: dict[int, str] = {
    2: "cumulative maximum", 4: "current average", 5: "last average", 6: "maximum", 7: "instantaneous",
    8: "energy", 9: "energy of the billing period", 24: "average", 29: "energy of the interval", 31: "threshold under",
    35: "threshold over",
}  # fmt: skip
_ABSTRACT: dict[tuple[int, int, int], tuple[str, int]] = {
    (1, 0, 0): ("clock", 8),
    (10, 0, 0): ("global meter reset script", 9),
    (10, 0, 1): ("MDI reset script", 9),
    (10, 0, 100): ("tariffication script", 9),
    (10, 0, 106): ("disconnect script", 9),
    (11, 0, 0): ("special days", 11),
    (12, 0, 0): ("schedule", 10),
    (13, 0, 0): ("activity calendar", 20),
    (14, 0, 0): ("register activation", 6),
    (15, 0, 0): ("end of billing period", 22),
    (16, 1, 0): ("register monitor", 21),
    (17, 0, 0): ("limiter", 71),
    (22, 0, 0): ("HDLC setup", 23),
    (24, 1, 0): ("M-Bus client", 72),
    (25, 9, 0): ("push setup", 40),
    (40, 0, 0): ("current association", 15),
    (41, 0, 0): ("SAP assignment", 17),
    (42, 0, 0): ("COSEM logical device name", 1),
    (43, 0, 0): ("security setup", 64),
    (43, 1, 0): ("invocation counter", 1),
    (44, 0, 0): ("image transfer", 18),
    (96, 1, 0): ("device id 1", 1),
    (96, 1, 1): ("device id 2", 1),
    (96, 3, 10): ("disconnect control", 70),
    (96, 5, 0): ("operating status", 1),
    (96, 14, 0): ("active tariff", 1),
    (0, 1, 0): ("billing period counter", 1),
    (0, 1, 2): ("end of the last billing period", 1),
    (96, 2, 0): ("configuration change counter", 1),
    (96, 2, 1): ("time of the last configuration change", 1),
    (96, 6, 0): ("battery use time", 3),
    (96, 6, 3): ("battery voltage", 3),
    (96, 6, 6): ("battery remaining time", 3),
    (96, 7, 0): ("power failures, all phases", 1),
    (96, 7, 9): ("long power failures, any phase", 1),
    (96, 7, 19): ("duration of the last long power failure", 3),
    (96, 7, 21): ("power failures, any phase", 1),
    (96, 8, 0): ("operating time", 3),
    (96, 9, 0): ("ambient temperature", 3),
    (96, 10, 1): ("profile status", 1),
    (96, 20, 0): ("meter cover open counter", 1),
    (96, 20, 5): ("terminal cover open counter", 1),
    (96, 20, 15): ("strong magnetic field counter", 1),
    (97, 97, 0): ("error register", 1),
    (97, 98, 0): ("alarm register", 1),
    (98, 1, 0): ("billing profile", 7),
    (99, 98, 0): ("event log", 7),
    (99, 98, 1): ("fraud log", 7),
}
_PARAMETERS: dict[tuple[int, int], str] = {
    (0, 0): "customer number", (2, 0): "firmware id", (2, 1): "parameter record number", (2, 8): "firmware signature",
    (3, 0): "meter constant, active energy", (3, 1): "meter constant, reactive energy",
    (4, 2): "current transformer ratio", (4, 3): "voltage transformer ratio", (8, 0): "demand period",
    (8, 4): "load profile period", (8, 5): "daily profile period",
}  # fmt: skip
"""Electricity, C = 0: by D and E."""
_REGISTER_WITH_TIME, _DEMAND, _REGISTER, _DATA, _PROFILE = 4, 5, 3, 1, 7
_ASSOCIATIONS, _LIST, _PROFILES = 40, 98, 99
_SECURITY = 43
_DATA_GROUP_C = 0


def describe(obis: Obis) -> str:
    """A name in English, "" for a code nothing is known of."""
    medium, channel, c, d, e, f = obis.code
    if medium == 0:
        found = _ABSTRACT.get((c, d, e)) or _ABSTRACT.get((c, d, 0)) or _ABSTRACT.get((c, 0, 0))
        name = found[0] if found else ""
    else:
        name = _electricity(c, d, e) if medium == 1 else ""
    if name and channel:
        name += f", channel {channel}"
    return f"{name}, billing period {f}" if name and f != CURRENT else name


def _electricity(c: int, d: int, e: int) -> str:
    if c == _PROFILES:
        return f"load profile {d}" if d in (1, 2) else "profile"
    if c == _DATA_GROUP_C:
        return _PARAMETERS.get((d, e), "")
    quantity = _QUANTITIES.get(c, "")
    for base, phase in _PHASE_BASES.items():
        if base <= c < base + 10:
            quantity = f"{_QUANTITIES.get(c - base + 1, '')} {phase}"
    kind = _KINDS.get(d, "")
    if not quantity or not kind:
        return ""
    return f"{quantity}, {kind}" + (f", tariff {e}" if e else "")


def usual_class(obis: Obis) -> int:
    """The interface class that an object with this code usually has."""
    medium, _channel, c, d, e, _f = obis.code
    if c in (_PROFILES, _LIST):
        return _PROFILE
    if medium == 0:
        return _abstract_class(c, d, e)
    if c == _DATA_GROUP_C:
        return _REGISTER if d in (3, 8) else _DATA
    return {6: _REGISTER_WITH_TIME, 4: _DEMAND, 5: _DEMAND}.get(d, _REGISTER)


def _abstract_class(c: int, d: int, e: int) -> int:
    found = _ABSTRACT.get((c, d, e))
    if found:
        return found[1]
    if c == _ASSOCIATIONS:
        return 15
    if c == _SECURITY:
        return 64 if d == 0 else _DATA
    if c in (10, 15, 22, 24, 25):
        return next(class_id for key, (_name, class_id) in _ABSTRACT.items() if key[0] == c)
    return _DATA
