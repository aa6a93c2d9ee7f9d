"""ACCESS: gets, sets and actions in one list (GB 9.5).

```
request   D9 long-invoke-id(4) date-time  n specification...            n data...
response  DA long-invoke-id(4) date-time  (00 | 01 n specification...)  n data...  n (choice result)...
specification   01 descriptor | 02 descriptor | 03 method | 04 descriptor selection | 05 descriptor selection
```

For each specification the request has one datum (null-data for a get), and so has the response (null-data for a set).
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu
from dlms.cosem.obis import MethodRef, Selection
from dlms.cosem.time import CosemDateTime
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import Item, read_count, read_method, read_ref
from dlms.xdlms.apdu.notify import read_time
from dlms.xdlms.apdu.set import emit_values, read_values

GET, SET, ACTION, GET_SELECTED, SET_SELECTED = 1, 2, 3, 4, 5
SPECIFICATION_OCTETS_MIN = 10
HIGH_PRIORITY = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Access:
    """One specification with its datum: get `target` (an item without `value`), set it (with one), or call a method."""

    target: Item | MethodRef
    value: Data | None = None

    @property
    def choice(self) -> int:
        """The choice of Access-Request-Specification."""
        if isinstance(self.target, MethodRef):
            return ACTION
        if self.value is None:
            return GET if self.target.selection is None else GET_SELECTED
        return SET if self.target.selection is None else SET_SELECTED

    def emit(self) -> bytes:
        """The specification, without the value."""
        if isinstance(self.target, MethodRef):
            return bytes((ACTION,)) + self.target.emit()
        selection = b"" if self.target.selection is None else self.target.selection.emit()
        return bytes((self.choice,)) + self.target.ref.emit() + selection


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """Access-Request."""

    invoke: int
    items: tuple[Access, ...]
    time: CosemDateTime | None = None

    def emit(self) -> bytes:
        values = tuple([axdr.null() if item.value is None else item.value for item in self.items])
        head = bytes((Apdu.ACCESS_REQUEST,)) + self.invoke.to_bytes(4, "big") + _emit_time(self.time)
        specifications = b"".join([item.emit() for item in self.items])
        return head + length_octets(len(self.items)) + specifications + emit_values(values)

    @classmethod
    def parse(cls, data: bytes) -> AccessRequest:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "access-request")
        cursor.u8()
        invoke = cursor.u32()
        time = read_time(cursor)
        specifications = _read_specifications(cursor)
        values = read_values(cursor)
        cursor.check_end()
        if len(values) != len(specifications):
            raise cursor.error(f"{len(values)} data for {len(specifications)} specifications")
        items = [
            Access(target, None if choice in (GET, GET_SELECTED) else value)
            for (choice, target), value in zip(specifications, values, strict=True)
        ]
        return cls(invoke, tuple(items), time)


@dataclass(frozen=True, slots=True)
class AccessOutcome:
    """The result of one specification: a Data-Access-Result (`ACTION`: an Action-Result) as `code`, and its datum.

    `choice` is `GET`, `SET` or `ACTION`.
    """

    choice: int
    code: int
    value: Data


@dataclass(frozen=True, slots=True)
class AccessResponse:
    """Access-Response."""

    invoke: int
    outcomes: tuple[AccessOutcome, ...]
    time: CosemDateTime | None = None

    def __post_init__(self) -> None:
        if any(outcome.choice not in (GET, SET, ACTION) for outcome in self.outcomes):
            raise LocalError("an outcome is of a get, a set or an action")

    def emit(self) -> bytes:
        head = bytes((Apdu.ACCESS_RESPONSE,)) + self.invoke.to_bytes(4, "big") + _emit_time(self.time)
        values = emit_values(tuple([outcome.value for outcome in self.outcomes]))
        results = b"".join([bytes((outcome.choice, outcome.code)) for outcome in self.outcomes])
        return head + b"\x00" + values + length_octets(len(self.outcomes)) + results

    @classmethod
    def parse(cls, data: bytes) -> AccessResponse:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "access-response")
        cursor.u8()
        invoke = cursor.u32()
        time = read_time(cursor)
        if cursor.flag():
            _read_specifications(cursor)
        values = read_values(cursor)
        count = read_count(cursor, 2)
        if count != len(values):
            raise cursor.error(f"{count} results for {len(values)} data")
        outcomes: list[AccessOutcome] = []
        for value in values:
            choice = cursor.u8()
            if choice not in (GET, SET, ACTION):
                raise cursor.error(f"{choice} is not the result of a get, set or action", back=1)
            outcomes.append(AccessOutcome(choice, cursor.u8(), value))
        cursor.check_end()
        return cls(invoke, tuple(outcomes), time)


def _read_specifications(cursor: Cursor) -> list[tuple[int, Item | MethodRef]]:
    found: list[tuple[int, Item | MethodRef]] = []
    for _ in range(read_count(cursor, SPECIFICATION_OCTETS_MIN)):
        choice = cursor.u8()
        if choice == ACTION:
            found.append((choice, read_method(cursor)))
        elif choice in (GET, SET):
            found.append((choice, Item(read_ref(cursor))))
        elif choice in (GET_SELECTED, SET_SELECTED):
            ref = read_ref(cursor)
            selector = cursor.u8()
            found.append((choice, Item(ref, Selection(selector, axdr.read(cursor)))))
        else:
            raise cursor.error(f"{choice} is not a specification of the access service", back=1)
    return found


def _emit_time(time: CosemDateTime | None) -> bytes:
    when = b"" if time is None else time.emit()
    return bytes((len(when),)) + when
