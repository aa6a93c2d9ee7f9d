"""Values as people type them for `dlms set`: `TYPE=VALUE`, such as `u16=900`, `oct=00ff`, `dt=2026-03-01T00:00:00Z`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from dlms import axdr
from dlms.axdr import Data, Tag
from dlms.cosem.time import CosemDateTime
from dlms.errors import LocalError

_INTEGERS = {
    "i8": Tag.INTEGER, "u8": Tag.UNSIGNED, "i16": Tag.LONG, "u16": Tag.LONG_UNSIGNED, "i32": Tag.DOUBLE_LONG,
    "u32": Tag.DOUBLE_LONG_UNSIGNED, "i64": Tag.LONG64, "u64": Tag.LONG64_UNSIGNED, "enum": Tag.ENUM,
}  # fmt: skip
_FLOATS = {"f32": Tag.FLOAT32, "f64": Tag.FLOAT64}
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def _moment(text: str) -> Data:
    return axdr.octets(CosemDateTime.from_datetime(datetime.fromisoformat(text)).emit())


_OTHERS: dict[str, Callable[[str], Data]] = {
    "null": lambda _text: axdr.null(),
    "bool": lambda text: axdr.boolean(_BOOLEANS[text.lower()]),
    "oct": lambda text: axdr.octets(bytes.fromhex(text)),
    "str": axdr.visible,
    "utf8": axdr.utf8,
    "bits": axdr.bits,
    "dt": _moment,
    "axdr": lambda text: axdr.decode(bytes.fromhex(text)),
}
TYPES = (*_OTHERS, *_INTEGERS, *_FLOATS)


def parse_value(text: str) -> Data:
    """`TYPE=VALUE` as a value. `oct` and `axdr` (a whole encoded value) are hexadecimal, `dt` is ISO 8601 and becomes
    the octet-string that clocks take. Raises `LocalError`, `DecodeError`."""
    kind, equals, rest = text.partition("=")
    if not equals and kind != "null":
        raise LocalError(f"{text!r}: write TYPE=VALUE, with TYPE one of {', '.join(TYPES)}")
    try:
        if kind in _INTEGERS:
            return Data(_INTEGERS[kind], int(rest, 0))
        if kind in _FLOATS:
            return Data(_FLOATS[kind], float(rest))
        maker = _OTHERS.get(kind)
        if maker is None:
            raise LocalError(f"{kind!r} is not a type: use {', '.join(TYPES)}")
        return maker(rest)
    except (ValueError, KeyError) as error:
        raise LocalError(f"{rest!r} is no value of type {kind}") from error
