"""Short-name referencing: READ, WRITE (GB 9.5).

```
read-request    05 n variable...              variable    02 name(2) | 04 name(2) selector data | 05 block-number(2)
read-response   0C n result...                result      00 data | 01 error | 02 last number(2) octets | 03 number(2)
write-request   06 n variable... n data...
write-response  0D n result...                result      00 | 01 error | 02 number(2)
unconfirmed     16 n variable... n data...     no answer
```

A read-response that holds only data and errors has the form of a list of Get-Data-Result.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu
from dlms.cosem.obis import Selection
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import DataBlock, Result, emit_results, read_count, read_result
from dlms.xdlms.apdu.set import emit_values, read_values

NAME, PARAMETERIZED, BLOCK_NUMBER = 2, 4, 5
RESULT_BLOCK = 2


@dataclass(frozen=True, slots=True)
class Variable:
    """A short name, with selective access or a method's parameters in `selection`."""

    name: int
    selection: Selection | None = None

    def emit(self) -> bytes:
        name = self.name.to_bytes(2, "big")
        if self.selection is None:
            return bytes((NAME,)) + name
        return bytes((PARAMETERIZED,)) + name + self.selection.emit()


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """ReadRequest of variables."""

    variables: tuple[Variable, ...]

    def emit(self) -> bytes:
        head = bytes((Apdu.READ_REQUEST,)) + length_octets(len(self.variables))
        return head + b"".join([variable.emit() for variable in self.variables])


@dataclass(frozen=True, slots=True)
class ReadNext:
    """ReadRequest for the block after `number`."""

    number: int

    def emit(self) -> bytes:
        return bytes((Apdu.READ_REQUEST, 1, BLOCK_NUMBER)) + self.number.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class ReadResponse:
    """ReadResponse with one result per variable."""

    results: tuple[Result, ...]

    def emit(self) -> bytes:
        return bytes((Apdu.READ_RESPONSE,)) + emit_results(self.results)


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """ReadResponse with a block of the encoded results."""

    block: DataBlock

    def emit(self) -> bytes:
        head = bytes((Apdu.READ_RESPONSE, 1, RESULT_BLOCK, self.block.last)) + self.block.number.to_bytes(2, "big")
        return head + length_octets(len(self.block.data)) + self.block.data


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """WriteRequest: as many values as variables. `confirmed` is False for UnconfirmedWriteRequest."""

    variables: tuple[Variable, ...]
    values: tuple[Data, ...]
    confirmed: bool = True

    def __post_init__(self) -> None:
        if len(self.variables) != len(self.values):
            raise LocalError(f"{len(self.values)} values for {len(self.variables)} variables")

    def emit(self) -> bytes:
        tag = Apdu.WRITE_REQUEST if self.confirmed else Apdu.UNCONFIRMED_WRITE_REQUEST
        head = bytes((tag,)) + length_octets(len(self.variables))
        return head + b"".join([variable.emit() for variable in self.variables]) + emit_values(self.values)


@dataclass(frozen=True, slots=True)
class WriteResponse:
    """WriteResponse: one Data-Access-Result code per variable, 0 for success."""

    results: tuple[int, ...]

    def emit(self) -> bytes:
        results = [b"\x00" if code == 0 else bytes((1, code)) for code in self.results]
        return bytes((Apdu.WRITE_RESPONSE,)) + length_octets(len(self.results)) + b"".join(results)


def parse_read_request(data: bytes) -> ReadRequest | ReadNext:
    """Parse a read-request. Raises `DecodeError`."""
    cursor = Cursor(data, "read-request")
    cursor.u8()
    count = read_count(cursor, 3)
    if count == 1 and cursor.peek() == BLOCK_NUMBER:
        cursor.u8()
        request: ReadRequest | ReadNext = ReadNext(cursor.u16())
    else:
        request = ReadRequest(tuple([_read_variable(cursor) for _ in range(count)]))
    cursor.check_end()
    return request


def parse_write_request(data: bytes) -> WriteRequest:
    """Parse a write-request or unconfirmed-write-request. Raises `DecodeError`."""
    cursor = Cursor(data, "write-request")
    confirmed = cursor.u8() != Apdu.UNCONFIRMED_WRITE_REQUEST
    variables = tuple([_read_variable(cursor) for _ in range(read_count(cursor, 3))])
    values = read_values(cursor)
    if len(values) != len(variables):
        raise cursor.error(f"{len(values)} values for {len(variables)} variables")
    cursor.check_end()
    return WriteRequest(variables, values, confirmed)


def _read_variable(cursor: Cursor) -> Variable:
    kind = cursor.u8()
    if kind == NAME:
        return Variable(cursor.u16())
    if kind == PARAMETERIZED:
        name = cursor.u16()
        selector = cursor.u8()
        return Variable(name, Selection(selector, axdr.read(cursor)))
    raise cursor.error(f"variable of kind {kind}", back=1)


def parse_read_response(data: bytes) -> ReadResponse | ReadBlock:
    """Parse a read-response. Raises `DecodeError`."""
    cursor = Cursor(data, "read-response")
    cursor.u8()
    count = read_count(cursor, 2)
    response: ReadResponse | ReadBlock
    if count == 1 and cursor.peek() == RESULT_BLOCK:
        cursor.u8()
        last, number = cursor.flag(), cursor.u16()
        response = ReadBlock(DataBlock(last, number, cursor.octets()))
    else:
        response = ReadResponse(tuple([read_result(cursor) for _ in range(count)]))
    cursor.check_end()
    return response


def parse_write_response(data: bytes) -> WriteResponse:
    """Parse a write-response. Raises `DecodeError`."""
    cursor = Cursor(data, "write-response")
    cursor.u8()
    codes: list[int] = []
    for _ in range(read_count(cursor, 1)):
        kind = cursor.u8()
        if kind not in (0, 1):
            raise cursor.error(f"write result of kind {kind}", back=1)
        codes.append(cursor.u8() if kind else 0)
    cursor.check_end()
    return WriteResponse(tuple(codes))
