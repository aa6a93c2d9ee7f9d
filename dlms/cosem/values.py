"""Conversion between A-XDR values and Python values, guided by the type that the table of classes declares.

| declared | in Python |
| --- | --- |
| a structure | a dict, by the names of its members |
| an array | a list |
| `logical-name` | `Obis` |
| `datetime`, `date-time`; `date`; `time` | `CosemDateTime`; `CosemDate`; `CosemTime` |
| an enum whose numbers have names | `Named`, an int that knows its name |
| other types | `Data.value` |
| a CHOICE inside a structure or array, and whatever differs from its declaration | `Data`, unchanged |

A value that was read can be changed and written back: `encode` accepts everything that `typed` returns, and also times
and codes as text, octets as hexadecimal text, enum values by name, and structures as sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Self, TypeVar

from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS, CompactArray, Data, Tag
from dlms.cosem.obis import OBIS_OCTETS, Obis
from dlms.cosem.time import (
    DATE_OCTETS,
    STANDARD_CLOCK,
    TIME_OCTETS,
    ClockPolicy,
    CosemDate,
    CosemDateTime,
    CosemTime,
)
from dlms.cosem.types import TAGS, CosemType
from dlms.errors import DecodeError, LocalError

KindT = TypeVar("KindT")


class Named(int):
    """The value of an enum: an int with the `name` that the Blue Book gives it."""

    name: str

    def __new__(cls, number: int, name: str) -> Self:
        made = super().__new__(cls, number)
        made.name = name
        return made

    def __str__(self) -> str:
        return f"{int(self)} {self.name}"

    __repr__ = __str__


Typed = axdr.Value | Data | Obis | CosemDateTime | CosemDate | CosemTime | Named | dict[str, "Typed"] | list["Typed"]

# --------------------------------------------------------------------------------------------------------- reading

_TIMES: dict[str, tuple[int, Callable[[bytes], Obis | CosemDateTime | CosemDate | CosemTime]]] = {
    "logical-name": (OBIS_OCTETS, Obis),
    "datetime": (DATE_TIME_OCTETS, CosemDateTime.parse),
    "date-time": (DATE_TIME_OCTETS, CosemDateTime.parse),
    "date": (DATE_OCTETS, CosemDate.parse),
    "time": (TIME_OCTETS, CosemTime.parse),
}
_LIKE_OCTETS = frozenset({Tag.OCTET_STRING, Tag.DATE_TIME, Tag.DATE, Tag.TIME})


def typed(declared: CosemType, data: Data) -> Typed:
    """Convert `data` according to its declared type; parts that differ from the declaration stay `Data`."""
    if declared.name in ("structure", "array"):
        found = _parts(declared, data)
        return data if found is None else found
    if declared.name in _TIMES:
        size, make = _TIMES[declared.name]
        fits = data.tag in _LIKE_OCTETS and isinstance(data.value, bytes) and len(data.value) == size
        return make(data.octets()) if fits else data
    if declared.tag is None or data.tag != declared.tag:
        return data
    value = data.value
    if isinstance(value, int) and value in declared.numbers:
        return Named(value, declared.numbers[value])
    return value


def _parts(declared: CosemType, data: Data) -> Typed | None:
    members = data.value
    if declared.element is not None:
        if isinstance(members, CompactArray):
            try:
                members = members.elements()
            except DecodeError:
                return None
        if data.tag not in (Tag.ARRAY, Tag.COMPACT_ARRAY) or not isinstance(members, tuple):
            return None
        return [typed(declared.element, member) for member in members]
    if data.tag != Tag.STRUCTURE or not isinstance(members, tuple) or len(members) != len(declared.members):
        return None
    return {name: typed(member, part) for (name, member), part in zip(declared.members, members, strict=True)}


# --------------------------------------------------------------------------------------------------------- writing


def encode(declared: CosemType, value: object, policy: ClockPolicy = STANDARD_CLOCK, what: str = "value") -> Data:
    """Encode `value` in its declared type. A `Data` is taken unchanged; a `datetime` is written by the clock `policy`.

    Raises `LocalError`, which names the part of `what` that does not fit.
    """
    if isinstance(value, Data):
        return value
    if declared.name == "structure":
        return axdr.structure(*_members(declared, value, policy, what))
    if declared.element is not None:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise LocalError(f"{what}: an array is written as a list, not as {value!r}")
        parts = [encode(declared.element, part, policy, f"{what}[{at}]") for at, part in enumerate(value)]
        return axdr.array(parts)
    try:
        return _simple(declared, value, policy)
    except (LocalError, ValueError) as error:
        raise LocalError(f"{what}: {error}") from error


def _members(declared: CosemType, value: object, policy: ClockPolicy, what: str) -> list[Data]:
    names = [name for name, _ in declared.members]
    if isinstance(value, Mapping):
        if set(value) != set(names):
            raise LocalError(f"{what}: has the members {', '.join(names)}, not {', '.join(map(str, value))}")
        given = [value[name] for name in names]
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == len(names):
        given = list(value)
    else:
        raise LocalError(f"{what}: has the members {', '.join(names)}, not {value!r}")
    pairs = zip(declared.members, given, strict=True)
    return [encode(member, part, policy, f"{what}.{name}") for (name, member), part in pairs]


def _simple(declared: CosemType, value: object, policy: ClockPolicy) -> Data:
    name = declared.name
    if name == "any":
        return _any(value)
    if name in _TIMES:
        octets = _octets(name, value, policy)
        if len(octets) != _TIMES[name][0]:
            raise LocalError(f"a {name} has {_TIMES[name][0]} octets, not {len(octets)}")
        return Data(TAGS[name], octets)
    if name == "-":
        return axdr.i8(0)
    tag = TAGS[name]
    if tag == Tag.OCTET_STRING:
        value = bytes.fromhex(value) if isinstance(value, str) else value
        value = bytes(value) if isinstance(value, bytearray | memoryview) else value
    elif tag in (Tag.FLOAT32, Tag.FLOAT64) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif declared.numbers and isinstance(value, str):
        value = next((number for number, known in declared.numbers.items() if known == value), value)
    elif isinstance(value, Named):
        value = int(value)
    return Data(tag, value)  # type: ignore[arg-type] # `Data` refuses what does not fit the tag


def _any(value: object) -> Data:
    """Encode a value for a CHOICE: only Python types that have exactly one A-XDR type."""
    if value is None:
        return axdr.null()
    if isinstance(value, bool):
        return axdr.boolean(value)
    if isinstance(value, bytes):
        return axdr.octets(value)
    if isinstance(value, Obis | CosemDateTime | CosemDate | CosemTime):
        return axdr.octets(value.code if isinstance(value, Obis) else value.emit())
    raise LocalError(f"the type is a choice: {value!r} must be a Data, such as axdr.u16(...)")


def _octets(name: str, value: object, policy: ClockPolicy) -> bytes:
    """The octets of a code or a time, from the many ways to write one."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and _is_hex(value, 2 * _TIMES[name][0]):
        return bytes.fromhex(value)
    if name == "logical-name":
        return Obis.parse(value).code if isinstance(value, str) else _own(value, Obis).code
    if name == "date":
        if isinstance(value, date) and not isinstance(value, datetime):
            return CosemDate.of(value.isoformat()).emit()
        return (CosemDate.of(value) if isinstance(value, str) else _own(value, CosemDate)).emit()
    if name == "time":
        if isinstance(value, time):
            return CosemTime(value.hour, value.minute, value.second, value.microsecond // 10_000).emit()
        return (CosemTime.of(value) if isinstance(value, str) else _own(value, CosemTime)).emit()
    if isinstance(value, datetime):
        return CosemDateTime.from_instant(value, policy).emit()
    if isinstance(value, str):
        try:
            return CosemDateTime.from_instant(datetime.fromisoformat(value), policy).emit()
        except ValueError:
            return CosemDateTime.of(value).emit()
    return _own(value, CosemDateTime).emit()


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and all(digit in "0123456789abcdefABCDEF" for digit in text)


def _own(value: object, declared: type[KindT]) -> KindT:
    if not isinstance(value, declared):
        raise LocalError(f"{value!r} is no {declared.__name__}")
    return value
