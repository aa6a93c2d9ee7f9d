"""Results as text and as JSON."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal

import click

from dlms.axdr import TYPE_NAMES, CompactArray, Data, Tag
from dlms.client.reading import Failed, Reading
from dlms.codes import kebab
from dlms.cosem.classes import attribute_name
from dlms.cosem.dictionary import describe
from dlms.cosem.obis import Obis
from dlms.cosem.profile import Unresolved
from dlms.cosem.time import CosemDate, CosemDateTime, CosemTime
from dlms.cosem.values import Named
from dlms.errors import DlmsError
from dlms.explain.node import octets_text

EXACT_DIGITS = 15  # decimal digits that survive a double: more are given as text


def type_name(tag: int) -> str:
    """`u32`, `oct`, … as reading lists and `dlms set` write types."""
    known = Tag(tag)
    return TYPE_NAMES.get(known, kebab(known))


def plain(value: object) -> object:
    """A value as JSON has it: octets in hexadecimal, times in ISO 8601, what has no names as lists."""
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, CosemDateTime | CosemDate | CosemTime | Obis | Unresolved):
        return str(value)
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, Named):
        return int(value)
    if isinstance(value, Data):
        return plain(value.value)
    if isinstance(value, CompactArray):
        try:
            return plain(value.elements())
        except DlmsError:
            return value.contents.hex()
    if isinstance(value, tuple | list):
        return [plain(member) for member in value]
    return value


def _number(value: Decimal) -> int | float | str:
    if value == value.to_integral_value():
        return int(value)
    return float(value) if len(value.as_tuple().digits) <= EXACT_DIGITS else str(value)


def result_json(result: Reading | Failed) -> dict[str, object]:
    """One object of `results`."""
    ref = result.ref
    found: dict[str, object] = {"obis": str(ref.obis), "class_id": ref.class_id, "attribute": ref.attribute}
    if isinstance(result, Failed):
        return {**found, "value": None, "unit": None, "raw": None, "type": None, "scaler": None, "error": result.error}
    return {
        **found,
        "value": plain(result.value),
        "unit": result.unit or None,
        "raw": plain(result.raw),
        "type": type_name(result.raw.tag),
        "scaler": result.scaler,
        "quality": result.quality,
        "error": None,
    }


def result_text(result: Reading | Failed) -> str:
    """One line: reference, value with unit, meaning of the code."""
    ref = result.ref
    meaning = describe(ref.obis)
    head = f"{ref!s:<24} "
    if isinstance(result, Failed):
        return f"{head}{result.error}" + (f"  ({meaning})" if meaning else "")
    unit = f" {result.unit}" if result.unit else ""
    quality = "" if result.quality == "good" else f" [{result.quality}]"
    tail = f"  ({meaning})" if meaning else ""
    if isinstance(result.value, list | dict) and result.value:
        return "\n".join([f"{head}{attribute_name(ref.class_id, ref.attribute)}{tail}", *tree(result.value)])
    return f"{head}{value_text(result.value)}{unit}{quality}{tail}"


def value_text(value: object) -> str:
    """A value without parts, for people."""
    if isinstance(value, bytes):
        return octets_text(value)
    if isinstance(value, Named):
        return str(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Data):
        return f"{type_name(value.tag)}={plain(value)}"
    return str(plain(value))


def tree(value: object, indent: str = "  ") -> list[str]:
    """Lines of a structure or an array, a member a line."""
    lines: list[str] = []
    named = value.items() if isinstance(value, dict) else enumerate(value, start=1) if isinstance(value, list) else ()
    for name, member in named:
        if isinstance(member, list | dict) and member:
            lines += [f"{indent}{name}", *tree(member, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value_text(member)}")
    return lines


def echo_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
