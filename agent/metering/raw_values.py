"""COSEM values as tag and raw value of a record of the uplink (docs/uplink.md, `omadm.readings`)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from omadm.readings import DEPTH_MAX, RAW_CHARS_MAX, Raw

if TYPE_CHECKING:
    from dlms.axdr import Data

# A-XDR tag → (tag of the record, how the value becomes `raw`)
_PLAIN: dict[int, str] = {
    3: "bool",
    4: "bits",
    5: "i32",
    6: "u32",
    13: "u8",  # bcd: its octet
    15: "i8",
    16: "i16",
    17: "u8",
    18: "u16",
    20: "i64",
    21: "u64",
    22: "enum",
    28: "i8",  # the delta types of a profile's compressed columns
    29: "i16",
    30: "i32",
    31: "u8",
    32: "u16",
    33: "u32",
}
_TEXTS = (10, 12)
_OCTETS: dict[int, str] = {9: "oct", 25: "dt", 26: "date", 27: "time"}
_FLOATS: dict[int, str] = {23: "f32", 24: "f64"}
_LISTS: dict[int, str] = {1: "array", 2: "struct", 19: "array"}
_NOTHING = (0, 255)

DATE_TIME_BYTES = 12
LIST_ENTRIES_MAX = RAW_CHARS_MAX // 8  # an entry is at least `["u8",0]` and a comma


class UnstorableError(ValueError):
    """The meter sent a value that a record cannot say: of an unknown type, too large, or nested too deep."""


def encode(data: Data, *, date_time: bool = False) -> tuple[str, Raw]:
    """Tag and raw value of a COSEM value. `date_time`: twelve octets are a date-time, whatever their type says.

    Raises `UnstorableError`.
    """
    tag, raw = _encode(data, date_time, 0)
    if isinstance(raw, list | str) and len(json.dumps(raw)) > RAW_CHARS_MAX:
        raise UnstorableError("too-large")
    return tag, raw


def _encode(data: Data, date_time: bool, depth: int) -> tuple[str, Raw]:
    tag, value = int(data.tag), data.value
    if tag in _NOTHING:
        return "null", None
    if tag in _PLAIN and isinstance(value, bool | int | str):
        return _PLAIN[tag], value
    if tag in _OCTETS and isinstance(value, bytes):
        is_date_time = date_time and tag == 9 and len(value) == DATE_TIME_BYTES
        return ("dt" if is_date_time else _OCTETS[tag]), value.hex()
    if tag in _TEXTS and isinstance(value, str):
        # Octets that are no UTF-8 arrive as lone surrogates, which no JSON reader has to accept.
        return "str", value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if tag in _FLOATS and isinstance(value, float):
        return _FLOATS[tag], _float(value)
    if tag in _LISTS:
        members = data.members()
        if depth >= DEPTH_MAX:
            raise UnstorableError("too-deep")
        if len(members) > LIST_ENTRIES_MAX:
            raise UnstorableError("too-large")
        return _LISTS[tag], [list(_encode(member, date_time, depth + 1)) for member in members]
    raise UnstorableError("unknown-type")


def _float(value: float) -> float | str:
    """JSON has no word for what is no number; the head-end takes these."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
