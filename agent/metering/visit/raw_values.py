"""COSEM values as tag and raw value of a record of the uplink (docs/uplink.md, `omadm.readings`)."""

from __future__ import annotations

import json
import math

from dlms.axdr import DATE_TIME_OCTETS, FLOAT_TAGS, INTEGER_TAGS, TYPE_NAMES, Data, Tag
from omadm.readings import DEPTH_MAX, RAW_CHARS_MAX, Raw

# Tag of the COSEM value → tag of the record, for values that go as they are.
_PLAIN: dict[int, str] = {
    **{tag: TYPE_NAMES[tag] for tag in (Tag.BOOLEAN, Tag.BIT_STRING, *INTEGER_TAGS)},
    Tag.BCD: TYPE_NAMES[Tag.UNSIGNED],  # its octet
}
_TEXTS = (Tag.VISIBLE_STRING, Tag.UTF8_STRING)
_OCTETS: dict[int, str] = {tag: TYPE_NAMES[tag] for tag in (Tag.OCTET_STRING, Tag.DATE_TIME, Tag.DATE, Tag.TIME)}
_FLOATS: dict[int, str] = {tag: TYPE_NAMES[tag] for tag in FLOAT_TAGS}
_LISTS: dict[int, str] = {
    Tag.ARRAY: TYPE_NAMES[Tag.ARRAY],
    Tag.STRUCTURE: TYPE_NAMES[Tag.STRUCTURE],
    Tag.COMPACT_ARRAY: TYPE_NAMES[Tag.ARRAY],
}
_NOTHING = (Tag.NULL, Tag.DONT_CARE)
_DELTAS = range(Tag.DELTA_INTEGER, Tag.DELTA_DOUBLE_LONG_UNSIGNED + 1)  # in rows, `RowDecoder` has resolved them

UNRESOLVED_ERROR = "unresolved"
LIST_ENTRIES_MAX = RAW_CHARS_MAX // 8  # an entry is at least `["u8",0]` and a comma


class UnstorableError(ValueError):
    """The meter sent a value that a record cannot hold: of an unknown type, relative to a value that is not known, too
    large, or nested too deep."""


def encode(data: Data, *, date_time: bool = False) -> tuple[str, Raw]:
    """Return tag and raw value of a COSEM value. `date_time`: twelve octets are a date-time, whatever their type says.

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
        is_date_time = date_time and tag == Tag.OCTET_STRING and len(value) == DATE_TIME_OCTETS
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
    raise UnstorableError(UNRESOLVED_ERROR if tag in _DELTAS else "unknown-type")


def _float(value: float) -> float | str:
    """Return the number, or for what JSON cannot write as a number a word that the head-end takes."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
