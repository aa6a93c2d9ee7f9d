"""GET (GB 9.5).

```
request   C0 01 i descriptor selection?         normal      response  C4 01 i 00 data | 01 result
          C0 02 i block-number(4)               next                  C4 02 i last number(4) 00 octets | 01 result
          C0 03 i n (descriptor selection?)...  with list             C4 03 i n (00 data | 01 result)...
```
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms.codes import Apdu
from dlms.cursor import Cursor, length_octets
from dlms.xdlms.apdu.common import (
    AccessError,
    Item,
    Result,
    bad_choice,
    emit_result,
    emit_results,
    read_count,
    read_item,
    read_result,
    read_results,
)

NORMAL, BLOCK, LIST = 1, 2, 3
ITEM_OCTETS_MIN = 10  # class 2, name 6, attribute 1, selection flag 1
LIST_HEAD_OCTETS = 3  # tag, choice, invoke id; the count follows


@dataclass(frozen=True, slots=True)
class GetRequest:
    """GET-request normal."""

    invoke: int
    item: Item

    def emit(self) -> bytes:
        return bytes((Apdu.GET_REQUEST, NORMAL, self.invoke)) + self.item.emit()


@dataclass(frozen=True, slots=True)
class GetNext:
    """GET-request for the block after `number`."""

    invoke: int
    number: int

    def emit(self) -> bytes:
        return bytes((Apdu.GET_REQUEST, BLOCK, self.invoke)) + self.number.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class GetListRequest:
    """GET-request with list."""

    invoke: int
    items: tuple[Item, ...]

    def emit(self) -> bytes:
        head = bytes((Apdu.GET_REQUEST, LIST, self.invoke)) + length_octets(len(self.items))
        return head + b"".join([item.emit() for item in self.items])


@dataclass(frozen=True, slots=True)
class GetResponse:
    """GET-response normal."""

    invoke: int
    result: Result

    def emit(self) -> bytes:
        return bytes((Apdu.GET_RESPONSE, NORMAL, self.invoke)) + emit_result(self.result)


@dataclass(frozen=True, slots=True)
class GetBlock:
    """GET-response with a block of the encoded answer, or with the reason why there is none."""

    invoke: int
    last: bool
    number: int
    content: bytes | AccessError

    def emit(self) -> bytes:
        head = bytes((Apdu.GET_RESPONSE, BLOCK, self.invoke, self.last)) + self.number.to_bytes(4, "big")
        if isinstance(self.content, AccessError):
            return head + bytes((1, self.content.code))
        return head + b"\x00" + length_octets(len(self.content)) + self.content


@dataclass(frozen=True, slots=True)
class GetListResponse:
    """GET-response with list."""

    invoke: int
    results: tuple[Result, ...]

    def emit(self) -> bytes:
        return bytes((Apdu.GET_RESPONSE, LIST, self.invoke)) + emit_results(self.results)


def parse_request(data: bytes) -> GetRequest | GetNext | GetListRequest:
    """Parse a request. Raises `DecodeError`."""
    cursor = Cursor(data, "GET-request")
    cursor.u8()
    choice = cursor.u8()
    if choice not in (NORMAL, BLOCK, LIST):
        raise bad_choice(cursor, choice)
    invoke = cursor.u8()
    request: GetRequest | GetNext | GetListRequest
    if choice == NORMAL:
        request = GetRequest(invoke, read_item(cursor))
    elif choice == BLOCK:
        request = GetNext(invoke, cursor.u32())
    else:
        count = read_count(cursor, ITEM_OCTETS_MIN)
        request = GetListRequest(invoke, tuple([read_item(cursor) for _ in range(count)]))
    cursor.check_end()
    return request


def parse_response(data: bytes) -> GetResponse | GetBlock | GetListResponse:
    """Parse a response. Raises `DecodeError`."""
    cursor = Cursor(data, "GET-response")
    cursor.u8()
    choice = cursor.u8()
    if choice not in (NORMAL, BLOCK, LIST):
        raise bad_choice(cursor, choice)
    invoke = cursor.u8()
    response: GetResponse | GetBlock | GetListResponse
    if choice == NORMAL:
        response = GetResponse(invoke, read_result(cursor))
    elif choice == BLOCK:
        response = _read_block(cursor, invoke)
    else:
        response = GetListResponse(invoke, read_results(cursor))
    cursor.check_end()
    return response


def parse_block(data: bytes) -> GetBlock:
    """A GET-response known to be a block. Raises `DecodeError`."""
    cursor = Cursor(data, "GET-response")
    cursor.take(2)
    block = _read_block(cursor, cursor.u8())
    cursor.check_end()
    return block


def _read_block(cursor: Cursor, invoke: int) -> GetBlock:
    last = cursor.flag()
    number = cursor.u32()
    return GetBlock(invoke, last, number, AccessError(cursor.u8()) if cursor.flag() else cursor.octets())
