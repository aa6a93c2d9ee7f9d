"""SET (GB 9.5).

```
request   C1 01 i descriptor selection? data                      normal
          C1 02 i descriptor selection? block                     first block
          C1 03 i block                                           further block
          C1 04 i n (descriptor selection?)... n data...          with list
          C1 05 i n (descriptor selection?)... block              with list, first block
response  C5 01 i result | C5 02 i number(4) | C5 03 i result number(4)
          C5 04 i n result... number(4) | C5 05 i n result...
block     last(1) number(4) octets
```
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import DataBlock, Item, bad_choice, read_count, read_item
from dlms.xdlms.apdu.get import ITEM_OCTETS_MIN

NORMAL, FIRST_BLOCK, BLOCK, LIST, LIST_FIRST_BLOCK = 1, 2, 3, 4, 5
ACK_BLOCK, LAST_BLOCK, LAST_BLOCK_LIST, LIST_RESULT = 2, 3, 4, 5


def _emit_items(items: tuple[Item, ...]) -> bytes:
    return length_octets(len(items)) + b"".join([item.emit() for item in items])


def emit_values(values: tuple[Data, ...]) -> bytes:
    """SEQUENCE OF Data, as the lists of SET and ACTION carry it."""
    return length_octets(len(values)) + b"".join([value.emit() for value in values])


def read_values(cursor: Cursor) -> tuple[Data, ...]:
    return tuple([axdr.read(cursor) for _ in range(read_count(cursor, 1))])


@dataclass(frozen=True, slots=True)
class SetRequest:
    """SET-request normal."""

    invoke: int
    item: Item
    value: Data

    def emit(self) -> bytes:
        return bytes((Apdu.SET_REQUEST, NORMAL, self.invoke)) + self.item.emit() + self.value.emit()


@dataclass(frozen=True, slots=True)
class SetListRequest:
    """SET-request with list: as many values as items."""

    invoke: int
    items: tuple[Item, ...]
    values: tuple[Data, ...]

    def __post_init__(self) -> None:
        if len(self.items) != len(self.values):
            raise LocalError(f"{len(self.values)} values for {len(self.items)} attributes")

    def emit(self) -> bytes:
        head = bytes((Apdu.SET_REQUEST, LIST, self.invoke))
        return head + _emit_items(self.items) + emit_values(self.values)


@dataclass(frozen=True, slots=True)
class SetFirstBlock:
    """SET-request with the first block of the encoded value; of the encoded list of values when `as_list`."""

    invoke: int
    items: tuple[Item, ...]
    block: DataBlock
    as_list: bool = False

    def __post_init__(self) -> None:
        if not self.as_list and len(self.items) != 1:
            raise LocalError("one attribute is set, or a list is")

    def emit(self) -> bytes:
        if self.as_list:
            head = bytes((Apdu.SET_REQUEST, LIST_FIRST_BLOCK, self.invoke)) + _emit_items(self.items)
        else:
            head = bytes((Apdu.SET_REQUEST, FIRST_BLOCK, self.invoke)) + self.items[0].emit()
        return head + self.block.emit()


@dataclass(frozen=True, slots=True)
class SetBlock:
    """SET-request with a further block."""

    invoke: int
    block: DataBlock

    def emit(self) -> bytes:
        return bytes((Apdu.SET_REQUEST, BLOCK, self.invoke)) + self.block.emit()


@dataclass(frozen=True, slots=True)
class SetResponse:
    """SET-response: one Data-Access-Result code per attribute.

    `number` acknowledges the last block of a request in blocks; `as_list` says that the request was a list.
    """

    invoke: int
    results: tuple[int, ...]
    number: int | None = None
    as_list: bool = False

    def emit(self) -> bytes:
        if self.as_list:
            choice = LIST_RESULT if self.number is None else LAST_BLOCK_LIST
            body = length_octets(len(self.results)) + bytes(self.results)
        else:
            choice = NORMAL if self.number is None else LAST_BLOCK
            body = bytes(self.results)
        tail = b"" if self.number is None else self.number.to_bytes(4, "big")
        return bytes((Apdu.SET_RESPONSE, choice, self.invoke)) + body + tail


@dataclass(frozen=True, slots=True)
class SetBlockAck:
    """SET-response that asks for the block after `number`."""

    invoke: int
    number: int

    def emit(self) -> bytes:
        return bytes((Apdu.SET_RESPONSE, ACK_BLOCK, self.invoke)) + self.number.to_bytes(4, "big")


SetRequests = SetRequest | SetListRequest | SetFirstBlock | SetBlock


def parse_request(data: bytes) -> SetRequests:
    """Parse a request. Raises `DecodeError`."""
    cursor = Cursor(data, "SET-request")
    cursor.u8()
    choice = cursor.u8()
    if not NORMAL <= choice <= LIST_FIRST_BLOCK:
        raise bad_choice(cursor, choice)
    invoke = cursor.u8()
    request: SetRequests
    if choice == NORMAL:
        request = SetRequest(invoke, read_item(cursor), axdr.read(cursor))
    elif choice == BLOCK:
        request = SetBlock(invoke, DataBlock.read(cursor))
    elif choice == FIRST_BLOCK:
        request = SetFirstBlock(invoke, (read_item(cursor),), DataBlock.read(cursor))
    else:
        items = tuple([read_item(cursor) for _ in range(read_count(cursor, ITEM_OCTETS_MIN))])
        if choice == LIST_FIRST_BLOCK:
            request = SetFirstBlock(invoke, items, DataBlock.read(cursor), as_list=True)
        else:
            values = read_values(cursor)
            if len(values) != len(items):
                raise cursor.error(f"{len(values)} values for {len(items)} attributes")
            request = SetListRequest(invoke, items, values)
    cursor.check_end()
    return request


def parse_response(data: bytes) -> SetResponse | SetBlockAck:
    """Parse a response. Raises `DecodeError`."""
    cursor = Cursor(data, "SET-response")
    cursor.u8()
    choice = cursor.u8()
    if not NORMAL <= choice <= LIST_RESULT:
        raise bad_choice(cursor, choice)
    invoke = cursor.u8()
    response: SetResponse | SetBlockAck
    if choice == ACK_BLOCK:
        response = SetBlockAck(invoke, cursor.u32())
    else:
        as_list = choice in (LAST_BLOCK_LIST, LIST_RESULT)
        results = tuple(cursor.take(read_count(cursor, 1) if as_list else 1))
        number = cursor.u32() if choice in (LAST_BLOCK, LAST_BLOCK_LIST) else None
        response = SetResponse(invoke, results, number, as_list)
    cursor.check_end()
    return response
