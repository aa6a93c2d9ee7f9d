"""Typed JSON to COSEM values: what `agent.metering.visit.raw_values.encode` makes of a value, read back.

A value is `[tag, raw]` with the tags of docs/uplink.md: `["u16", 5]`, `["oct", "01ff"]`, `["struct", [["i8", 0], …]]`.
`dt`, `date` and `time` are the types of these names; a date-time that a meter holds as an octet-string is an `oct`.
Beyond those tags there is `utf8`, for a string of that type; `str` is a visible-string.
"""

from __future__ import annotations

import math
import re

from dlms.axdr import FLOAT_TAGS, INTEGER_TAGS, Data, Tag, tags_by_name
from dlms.errors import LocalError
from omadm.readings import DEPTH_MAX, NOT_NUMBERS

_PLAIN = tags_by_name((Tag.BOOLEAN, Tag.BIT_STRING, *INTEGER_TAGS, Tag.VISIBLE_STRING, Tag.UTF8_STRING))
_OCTETS = tags_by_name((Tag.OCTET_STRING, Tag.DATE_TIME, Tag.DATE, Tag.TIME))
_FLOATS = tags_by_name(FLOAT_TAGS)
_LISTS = tags_by_name((Tag.ARRAY, Tag.STRUCTURE))
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*", re.ASCII)


class TypedJsonError(ValueError):
    """What was given is no value; the text says what and why."""


def decode(value: object) -> Data:
    """Return the COSEM value of `[tag, raw]`. Raises `TypedJsonError`."""
    return _decode(value, 0)


def _decode(value: object, depth: int) -> Data:
    if not isinstance(value, list | tuple) or len(value) != 2 or not isinstance(value[0], str):
        raise TypedJsonError(f'a pair of tag and value is expected, as ["u16",5], not {str(value)[:60]!r}')
    tag, raw = value
    try:
        if tag == "null" and raw is None:
            return Data(Tag.NULL, None)
        if tag in _PLAIN and isinstance(raw, bool | int | str):
            return Data(_PLAIN[tag], raw)
        if tag in _OCTETS and isinstance(raw, str) and _HEX.fullmatch(raw):
            return Data(_OCTETS[tag], bytes.fromhex(raw))
        if tag in _FLOATS:
            return Data(_FLOATS[tag], _float(raw))
        if tag in _LISTS and isinstance(raw, list | tuple):
            if depth >= DEPTH_MAX:
                raise TypedJsonError(f"nested deeper than {DEPTH_MAX}")
            return Data(_LISTS[tag], tuple(_decode(member, depth + 1) for member in raw))
    except LocalError as error:
        raise TypedJsonError(f"{tag}: {error}") from error
    raise TypedJsonError(f"{str(raw)[:60]!r} is no value of tag {tag[:20]!r}")


def _float(raw: object) -> float:
    if isinstance(raw, str) and raw in NOT_NUMBERS:
        return float(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise TypedJsonError(f"{str(raw)[:60]!r} is no number")
    return float(raw)
