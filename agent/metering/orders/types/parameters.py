"""Checking the parameters of orders before anything is sent: a refusal names the path of what is wrong. Sans-IO.

Every function raises `OrderRefusedError`, whose text begins with the name of the parameter, as `days[1].actions[0].at`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from agent.metering.orders.order import OrderRefusedError, Permission
from agent.metering.orders.types.typed_json import TypedJsonError, decode
from dlms.axdr import Data
from dlms.client.image_steps import IMAGE_TRANSFER
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import LocalError

# What else can cut the supply: disconnect control, limiter, arbitrator, and the script table and schedule that are
# there to call the disconnect control (BB 4.5.8, 4.5.9, 4.5.12; 6.2.7, 6.2.8).
_SUPPLY_CLASSES = frozenset({68, 70, 71})
SCRIPT_TABLE, _SINGLE_ACTION_SCHEDULE, SECURITY_SETUP = 9, 22, 64
NAME_OCTETS_MAX = 32
_PRINTABLE = re.compile(r"[!-~][ -~]*", re.ASCII)

Checked = tuple[dict[str, object], Permission]
ValueT = TypeVar("ValueT")


def needed(class_id: int, obis: Obis) -> Permission:
    """Return what writing to an object needs: what can cut the supply is not to be had under another name."""
    _, _, c, d, e, _ = obis.code
    scripts = class_id == SCRIPT_TABLE and (c, d, e) == (10, 0, 106)
    by_schedule = class_id == _SINGLE_ACTION_SCHEDULE and (c, d, e) == (15, 0, 1)
    if class_id in _SUPPLY_CLASSES or scripts or by_schedule:
        return Permission.SUPPLY
    return Permission.FIRMWARE if class_id == IMAGE_TRANSFER else Permission.CHANGE


def only(given: Mapping[str, object], *names: str, path: str = "") -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise OrderRefusedError(
            f"{path and f'{path}: '}unknown parameter {', '.join(unknown)}; known: {', '.join(names) or 'none'}"
        )


def text(given: Mapping[str, object], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise OrderRefusedError(f"{name}: a text is expected")
    return value


def obis(given: Mapping[str, object], name: str = "obis") -> Obis:
    return at(name, Obis.parse, text(given, name))


def flag(given: Mapping[str, object], name: str) -> bool:
    value = given[name]
    if not isinstance(value, bool):
        raise OrderRefusedError(f"{name}: true or false is expected")
    return value


def number(value: object, path: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OrderRefusedError(f"{path}: {low} to {high} is expected, not {str(value)[:40]!r}")
    return value


def seconds(given: Mapping[str, object], name: str, highest: float) -> float:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise OrderRefusedError(f"{name}: a number of seconds is expected")
    if not 0 <= value <= highest:
        raise OrderRefusedError(f"{name}: 0 to {highest:.0f} s are expected")
    return float(value)


def members(value: object, path: str, low: int, high: int) -> list[object]:
    """A list of `low` to `high` entries."""
    if not isinstance(value, list) or not low <= len(value) <= high:
        raise OrderRefusedError(f"{path}: a list of {low} to {high} is expected")
    return value


def record(value: object, path: str, names: Collection[str], optional: Collection[str] = ()) -> dict[str, object]:
    """An object with exactly these members."""
    if not isinstance(value, dict):
        raise OrderRefusedError(f"{path}: an object with {', '.join(names)} is expected")
    only(value, *names, *optional, path=path)
    missing = [name for name in names if name not in value]
    if missing:
        raise OrderRefusedError(f"{path}: {', '.join(missing)} is missing")
    return value


def name(value: object, path: str) -> bytes:
    """A short name of printable ASCII characters, as octets."""
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value) or len(value) > NAME_OCTETS_MAX:
        raise OrderRefusedError(f"{path}: 1 to {NAME_OCTETS_MAX} printable ASCII characters are expected")
    return value.encode("ascii")


def value(given: object, path: str) -> Data:
    """A value as typed JSON."""
    return at(path, decode, given)


def attribute(given: object, path: str) -> AttributeRef:
    if not isinstance(given, str):
        raise OrderRefusedError(f"{path}: a code as 3/1.0.1.8.0.255/2 is expected")
    return at(path, AttributeRef.parse, given)


def at(path: str, parse: Callable[..., ValueT], *arguments: object) -> ValueT:
    """`parse(*arguments)`, whose refusal is said to be at this path."""
    try:
        return parse(*arguments)
    except (LocalError, TypedJsonError) as error:
        raise OrderRefusedError(f"{path}: {error}") from error
