"""ACTION (GB 9.5).

```
request   C3 01 i method (00 | 01 data)                        normal
          C3 02 i number(4)                                    next block of the answer
          C3 03 i n method... n data...                        with list
          C3 04 i method block                                 first block of the parameters
          C3 05 i n method... block                            with list, first block
          C3 06 i block                                        further block
response  C7 01 i result (00 | 01 get-data-result)
          C7 02 i block                                        block of the answer
          C7 03 i n (result (00 | 01 get-data-result))...
          C7 04 i number(4)                                    asks for the block after that one
```
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu
from dlms.cosem.obis import MethodRef
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import ActionOutcome, DataBlock, bad_choice, read_count, read_method, read_outcome
from dlms.xdlms.apdu.set import emit_values, read_values

NORMAL, NEXT, LIST, FIRST_BLOCK, LIST_FIRST_BLOCK, BLOCK = 1, 2, 3, 4, 5, 6
RESPONSE_BLOCK, RESPONSE_LIST, RESPONSE_NEXT = 2, 3, 4
METHOD_OCTETS = 9


def _emit_methods(methods: tuple[MethodRef, ...]) -> bytes:
    return length_octets(len(methods)) + b"".join([method.emit() for method in methods])


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """ACTION-request normal; `parameters` None leaves the field out."""

    invoke: int
    method: MethodRef
    parameters: Data | None = None

    def emit(self) -> bytes:
        head = bytes((Apdu.ACTION_REQUEST, NORMAL, self.invoke)) + self.method.emit()
        return head + (b"\x00" if self.parameters is None else b"\x01" + self.parameters.emit())


@dataclass(frozen=True, slots=True)
class ActionNext:
    """ACTION-request for the block of the answer after `number`."""

    invoke: int
    number: int

    def emit(self) -> bytes:
        return bytes((Apdu.ACTION_REQUEST, NEXT, self.invoke)) + self.number.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class ActionListRequest:
    """ACTION-request with list: parameters for every method, null-data for none."""

    invoke: int
    methods: tuple[MethodRef, ...]
    parameters: tuple[Data, ...]

    def __post_init__(self) -> None:
        if len(self.methods) != len(self.parameters):
            raise LocalError(f"{len(self.parameters)} parameters for {len(self.methods)} methods")

    def emit(self) -> bytes:
        head = bytes((Apdu.ACTION_REQUEST, LIST, self.invoke))
        return head + _emit_methods(self.methods) + emit_values(self.parameters)


@dataclass(frozen=True, slots=True)
class ActionFirstBlock:
    """ACTION-request with the first block of the parameters; of the list of parameters when `as_list`."""

    invoke: int
    methods: tuple[MethodRef, ...]
    block: DataBlock
    as_list: bool = False

    def __post_init__(self) -> None:
        if not self.as_list and len(self.methods) != 1:
            raise LocalError("one method is called, or a list is")

    def emit(self) -> bytes:
        if self.as_list:
            head = bytes((Apdu.ACTION_REQUEST, LIST_FIRST_BLOCK, self.invoke)) + _emit_methods(self.methods)
        else:
            head = bytes((Apdu.ACTION_REQUEST, FIRST_BLOCK, self.invoke)) + self.methods[0].emit()
        return head + self.block.emit()


@dataclass(frozen=True, slots=True)
class ActionBlock:
    """ACTION-request with a further block of the parameters."""

    invoke: int
    block: DataBlock

    def emit(self) -> bytes:
        return bytes((Apdu.ACTION_REQUEST, BLOCK, self.invoke)) + self.block.emit()


@dataclass(frozen=True, slots=True)
class ActionResponse:
    """ACTION-response normal."""

    invoke: int
    outcome: ActionOutcome

    def emit(self) -> bytes:
        return bytes((Apdu.ACTION_RESPONSE, NORMAL, self.invoke)) + self.outcome.emit()


@dataclass(frozen=True, slots=True)
class ActionResponseBlock:
    """ACTION-response with a block of the encoded outcome."""

    invoke: int
    block: DataBlock

    def emit(self) -> bytes:
        return bytes((Apdu.ACTION_RESPONSE, RESPONSE_BLOCK, self.invoke)) + self.block.emit()


@dataclass(frozen=True, slots=True)
class ActionListResponse:
    """ACTION-response with list."""

    invoke: int
    outcomes: tuple[ActionOutcome, ...]

    def emit(self) -> bytes:
        head = bytes((Apdu.ACTION_RESPONSE, RESPONSE_LIST, self.invoke)) + length_octets(len(self.outcomes))
        return head + b"".join([outcome.emit() for outcome in self.outcomes])


@dataclass(frozen=True, slots=True)
class ActionBlockAck:
    """ACTION-response that asks for the block of parameters after `number`."""

    invoke: int
    number: int

    def emit(self) -> bytes:
        return bytes((Apdu.ACTION_RESPONSE, RESPONSE_NEXT, self.invoke)) + self.number.to_bytes(4, "big")


ActionRequests = ActionRequest | ActionNext | ActionListRequest | ActionFirstBlock | ActionBlock
ActionResponses = ActionResponse | ActionResponseBlock | ActionListResponse | ActionBlockAck


def parse_request(data: bytes) -> ActionRequests:
    """Parse a request. Raises `DecodeError`."""
    cursor = Cursor(data, "ACTION-request")
    cursor.u8()
    choice = cursor.u8()
    if not NORMAL <= choice <= BLOCK:
        raise bad_choice(cursor, choice)
    invoke = cursor.u8()
    request: ActionRequests
    if choice == NORMAL:
        request = ActionRequest(invoke, read_method(cursor), axdr.read(cursor) if cursor.flag() else None)
    elif choice == NEXT:
        request = ActionNext(invoke, cursor.u32())
    elif choice == FIRST_BLOCK:
        request = ActionFirstBlock(invoke, (read_method(cursor),), DataBlock.read(cursor))
    elif choice == BLOCK:
        request = ActionBlock(invoke, DataBlock.read(cursor))
    else:
        request = _read_list(cursor, choice, invoke)
    cursor.check_end()
    return request


def _read_list(cursor: Cursor, choice: int, invoke: int) -> ActionListRequest | ActionFirstBlock:
    methods = tuple([read_method(cursor) for _ in range(read_count(cursor, METHOD_OCTETS))])
    if choice == LIST_FIRST_BLOCK:
        return ActionFirstBlock(invoke, methods, DataBlock.read(cursor), as_list=True)
    values = read_values(cursor)
    if len(values) != len(methods):
        raise cursor.error(f"{len(values)} parameters for {len(methods)} methods")
    return ActionListRequest(invoke, methods, values)


def parse_response(data: bytes) -> ActionResponses:
    """Parse a response. Raises `DecodeError`."""
    cursor = Cursor(data, "ACTION-response")
    cursor.u8()
    choice = cursor.u8()
    if not NORMAL <= choice <= RESPONSE_NEXT:
        raise bad_choice(cursor, choice)
    invoke = cursor.u8()
    response: ActionResponses
    if choice == NORMAL:
        response = ActionResponse(invoke, read_outcome(cursor))
    elif choice == RESPONSE_BLOCK:
        response = ActionResponseBlock(invoke, DataBlock.read(cursor))
    elif choice == RESPONSE_LIST:
        count = read_count(cursor, 2)
        response = ActionListResponse(invoke, tuple([read_outcome(cursor) for _ in range(count)]))
    else:
        response = ActionBlockAck(invoke, cursor.u32())
    cursor.check_end()
    return response
