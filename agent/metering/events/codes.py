"""What the numbers of events and the bits of alarm registers mean, where a public profile of DLMS/COSEM says so.
Sans-IO.

Names are those of the IDIS companion profile (package 2), whose logs are 0.0.99.98.e.255 with the codes of the objects
0.0.96.11.e.255. The profile is sold, not published: the names were compared with a public implementation of it,
EnergyICT's for the AM500, AM130 and AM540 (`com.energyict.protocolimpl.dlms.idis`: `events` and
`registers.AlarmBitsRegister`; `com.energyict.protocolimplv2.dlms.idis.am130`: `events` and
`registers.AlarmBitsRegister2`). Of the events 1 to 19 and 40 to 47 and the bits 0 to 23 of register 0 the Dutch DSMR
makes the same (OSGP/open-smart-grid-platform: `EventServiceTest`, `AlarmHelperService`); what that numbers otherwise is
named here as IDIS has it.
Other profiles use the same objects with numbers of their own; a number that is not here has no name.
"""

from __future__ import annotations

from dlms.axdr import Data, Tag
from dlms.cosem.obis import Obis

_STANDARD = {
    1: "power down", 2: "power up", 3: "daylight saving time enabled or disabled", 4: "clock adjusted (old time)",
    5: "clock adjusted (new time)", 6: "clock invalid", 7: "replace battery", 8: "battery voltage low",
    9: "tariff activated", 10: "error register cleared", 11: "alarm register cleared", 12: "program memory error",
    13: "RAM error", 14: "non-volatile memory error", 15: "watchdog error", 16: "measurement system error",
    17: "firmware ready for activation", 18: "firmware activated", 19: "passive tariff programmed",
    20: "external alert detected", 21: "end of a non-periodic billing interval", 47: "parameters changed",
    48: "global key changed", 51: "firmware verification failed", 52: "unexpected consumption",
    254: "load profile cleared",
}  # fmt: skip
_FRAUD = {
    40: "terminal cover removed", 41: "terminal cover closed", 42: "strong DC field detected",
    43: "strong DC field no more", 44: "meter cover removed", 45: "meter cover closed",
    46: "authentication failed repeatedly", 49: "decryption or authentication failure", 50: "replay attack",
}  # fmt: skip
_DISCONNECTOR = {
    59: "disconnector ready for manual reconnection", 60: "manual disconnection", 61: "manual connection",
    62: "remote disconnection", 63: "remote connection", 64: "local disconnection", 65: "limiter threshold exceeded",
    66: "limiter threshold kept again", 67: "limiter threshold changed", 68: "disconnection or reconnection failed",
    69: "local reconnection", 70: "supervision monitor 1 threshold exceeded",
    71: "supervision monitor 1 threshold kept again", 72: "supervision monitor 2 threshold exceeded",
    73: "supervision monitor 2 threshold kept again", 74: "supervision monitor 3 threshold exceeded",
    75: "supervision monitor 3 threshold kept again",
}  # fmt: skip
_QUALITY = {
    76: "undervoltage L1", 77: "undervoltage L2", 78: "undervoltage L3", 79: "overvoltage L1", 80: "overvoltage L2",
    81: "overvoltage L3", 82: "voltage missing L1", 83: "voltage missing L2", 84: "voltage missing L3",
    85: "voltage normal L1", 86: "voltage normal L2", 87: "voltage normal L3", 88: "phase sequence reversed",
    89: "neutral missing", 90: "phase asymmetry", 91: "current reversed", 92: "bad voltage quality L1",
    93: "bad voltage quality L2", 94: "bad voltage quality L3",
}  # fmt: skip
EVENTS = {**_STANDARD, **_FRAUD, **_DISCONNECTOR, **_QUALITY}
CLEARED = 255  # of any log

_CHANNELS = (1, 2, 3, 4)
ALARMS: dict[int, dict[int, str]] = {
    0: {
        0: "clock invalid", 1: "replace battery", 8: "program memory error", 9: "RAM error",
        10: "non-volatile memory error", 11: "measurement system error", 12: "watchdog error", 13: "fraud attempt",
        **{15 + channel: f"M-Bus channel {channel}: communication error" for channel in _CHANNELS},
        **{19 + channel: f"M-Bus channel {channel}: fraud attempt" for channel in _CHANNELS},
        # DSMR: a new device was found
        **{23 + channel: f"M-Bus channel {channel}: permanent error" for channel in _CHANNELS},
        **{27 + channel: f"M-Bus channel {channel}: battery low" for channel in _CHANNELS},
    },
    1: {
        0: "total power failure", 1: "power back", 2: "voltage missing L1", 3: "voltage missing L2",
        4: "voltage missing L3", 5: "voltage normal L1", 6: "voltage normal L2", 7: "voltage normal L3",
        8: "neutral missing", 9: "phase asymmetry", 10: "current reversed", 11: "phase sequence reversed",
        12: "unexpected consumption", 13: "keys exchanged", 14: "bad voltage quality L1",
        15: "bad voltage quality L2", 16: "bad voltage quality L3", 17: "external alert detected",
        18: "local communication attempt", 31: "disconnection or reconnection failed",
        **{18 + channel: f"M-Bus channel {channel}: new device" for channel in _CHANNELS},
        **{26 + channel: f"M-Bus channel {channel}: valve alarm" for channel in _CHANNELS},
    },
}  # fmt: skip

_GRAVE_EVENTS = frozenset({6, 7, 12, 13, 14, 15, 16, 40, 42, 44, 46, 49, 50, 51, 52, 68, 89})
# By register: what says that something is well again, or was done on purpose.
_HARMLESS_ALARMS = {1: frozenset({1, 5, 6, 7, 13, 19, 20, 21, 22})}


def log_of(obis: Obis) -> int | None:
    """The number e of an event log 0.0.99.98.e.255 or of its code object 0.0.96.11.e.255; `None` for all else."""
    a, b, c, d, e, f = obis.code
    return e if (a, b, f) == (0, 0, 255) and (c, d) in ((99, 98), (96, 11)) else None


def is_event_log(obis: Obis) -> bool:
    """Whether this is the logical name of an event log."""
    return log_of(obis) is not None and obis.code[2] == 99


def is_event_code(obis: Obis) -> bool:
    """Whether this is the logical name of an event code object."""
    return log_of(obis) is not None and obis.code[2] == 96


def alarm_register_of(obis: Obis, *, pushed: bool = False) -> int | None:
    """The number of an alarm register 0.0.97.98.n.255, n from 0 to 9; in what is `pushed`, of an alarm descriptor
    0.0.97.98.(20 + n).255 too, which is what meters push. `None` for all else."""
    a, b, c, d, e, f = obis.code
    if (a, b, c, d, f) != (0, 0, 97, 98, 255):
        return None
    if e <= 9:
        return e
    return e - 20 if pushed and 20 <= e <= 29 else None


def event_name(code: int) -> str:
    """What an event code means; empty when no standard says so."""
    return "event log cleared" if code == CLEARED else EVENTS.get(code, "")


def alarm_name(register: int, bit: int) -> str:
    """What a bit of an alarm register means; empty when no standard says so."""
    return ALARMS.get(register, {}).get(bit, "")


def is_grave_event(code: int) -> bool:
    """Whether a person should know of an event with this code."""
    return code in _GRAVE_EVENTS


def is_grave_alarm(register: int, bit: int) -> bool:
    """Whether a person should know of this bit: of all, but for those that say that something is well again
    or was done on purpose."""
    return bit not in _HARMLESS_ALARMS.get(register, ())


SIGNED_BITS: dict[int, int] = {Tag.INTEGER: 8, Tag.LONG: 16, Tag.DOUBLE_LONG: 32, Tag.LONG64: 64}
REGISTER_OCTETS_MAX = 8


def register_of(data: Data) -> int | None:
    """The value of an alarm register in whatever type a meter gives it: an unsigned number (Blue Book), a signed one
    whose highest bit is an alarm as well, a bit-string, whose first bit is bit 0, or octets; None for anything else."""
    value = data.value
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value & ((1 << SIGNED_BITS[data.tag]) - 1) if data.tag in SIGNED_BITS else value
    if data.tag == Tag.BIT_STRING and isinstance(value, str):
        return sum(1 << bit for bit, character in enumerate(value) if character == "1")
    if isinstance(value, bytes) and 0 < len(value) <= REGISTER_OCTETS_MAX:
        return int.from_bytes(value, "big")
    return None


def bits_of(value: int) -> list[int]:
    """The numbers of the bits that are set, lowest first."""
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]
