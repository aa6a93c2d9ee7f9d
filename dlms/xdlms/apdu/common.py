"""Parts that several services share: references with a selection, results, data blocks (GB 9.5)."""

from __future__ import annotations

from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import action_result_text, data_access_text
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError

INVOKE_ID_MASK = 0x0F
HIGH_PRIORITY = 0x80
LONG_CONFIRMED = 0x4000_0000  # service class bit of long-invoke-id-and-priority
BLOCK_NUMBER_MAX = 0xFFFF_FFFF
LIST_MAX = 0xFFFF  # items of a list; meters take a few dozen


@dataclass(frozen=True, slots=True)
class Item:
    """An attribute, or the part of it that `selection` chooses (selective access)."""

    ref: AttributeRef
    selection: Selection | None = None

    def emit(self) -> bytes:
        """Cosem-Attribute-Descriptor-With-Selection."""
        if self.selection is None:
            return self.ref.emit() + b"\x00"
        return self.ref.emit() + b"\x01" + self.selection.emit()


@dataclass(frozen=True, slots=True)
class AccessError:
    """A Data-Access-Result other than success, in the place of a value."""

    code: int

    @property
    def text(self) -> str:
        return data_access_text(self.code)


Result = Data | AccessError


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """An Action-Result, and what the method returned, if anything."""

    code: int
    returned: Result | None = None

    @property
    def text(self) -> str:
        return action_result_text(self.code)

    def emit(self) -> bytes:
        """Action-Response-With-Optional-Data."""
        if self.returned is None:
            return bytes((self.code, 0))
        return bytes((self.code, 1)) + emit_result(self.returned)


@dataclass(frozen=True, slots=True)
class DataBlock:
    """DataBlock-SA: a piece of an encoded service parameter."""

    last: bool
    number: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.number <= BLOCK_NUMBER_MAX:
            raise LocalError(f"block number {self.number} does not fit four octets")

    def emit(self) -> bytes:
        head = bytes((self.last,)) + self.number.to_bytes(4, "big")
        return head + length_octets(len(self.data)) + self.data

    @classmethod
    def read(cls, cursor: Cursor) -> DataBlock:
        last = cursor.flag()
        number = cursor.u32()
        return cls(last, number, cursor.octets())


def read_ref(cursor: Cursor) -> AttributeRef:
    class_id = cursor.u16()
    obis = Obis(cursor.take(6))
    return AttributeRef(class_id, obis, cursor.i8())


def read_method(cursor: Cursor) -> MethodRef:
    class_id = cursor.u16()
    obis = Obis(cursor.take(6))
    return MethodRef(class_id, obis, cursor.i8())


def read_item(cursor: Cursor) -> Item:
    ref = read_ref(cursor)
    if not cursor.flag():
        return Item(ref)
    selector = cursor.u8()
    return Item(ref, Selection(selector, axdr.read(cursor)))


def read_count(cursor: Cursor, octets_each: int) -> int:
    """The number of elements of a list, each of at least `octets_each` octets."""
    count = cursor.length()
    if count > LIST_MAX or count * octets_each > cursor.remaining:
        raise cursor.error(f"{count} elements cannot fit the {cursor.remaining} octets that are left")
    return count


def read_result(cursor: Cursor) -> Result:
    """Get-Data-Result: 00 and a value, or 01 and a reason."""
    choice = cursor.u8()
    if choice == 0:
        return axdr.read(cursor)
    if choice == 1:
        return AccessError(cursor.u8())
    raise cursor.error(f"result choice {choice} is neither data (0) nor error (1)", back=1)


def emit_result(result: Result) -> bytes:
    if isinstance(result, Data):
        return b"\x00" + result.emit()
    return bytes((1, result.code))


def read_results(cursor: Cursor) -> tuple[Result, ...]:
    """A list of Get-Data-Result."""
    return tuple([read_result(cursor) for _ in range(read_count(cursor, 2))])


def emit_results(results: tuple[Result, ...]) -> bytes:
    return length_octets(len(results)) + b"".join([emit_result(result) for result in results])


def read_outcome(cursor: Cursor) -> ActionOutcome:
    code = cursor.u8()
    return ActionOutcome(code, read_result(cursor) if cursor.flag() else None)


def bad_choice(cursor: Cursor, choice: int) -> Exception:
    return cursor.error(f"{choice} is not a form of this service", back=1)


NO_PARAMETER = axdr.i8(0)
"""What a method that takes nothing is called with (BB: integer (0))."""
