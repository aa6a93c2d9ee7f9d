"""The list query of the management plane: USI protocols 0x06 (ask) and 0x07 (answer). Numbers are big-endian.

query     0E  PIB(2)  max  iterator(2)
answer    0F  PIB(2)  n  recLen  then n times: iterator(2)  record(recLen)

record of list 0x8250 (4-32 nodes)   addr(2)  id(16, padded)  idLen  EUI-48

The records of the other two lists are in `plc.prime.topology`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from plc.errors import PlcLocalError
from plc.prime.cursor import PayloadCursor
from plc.prime.messages import EUI48_BYTES, check_address, check_eui48, check_octet

DLMS_ID_BYTES_MAX = 16
LIST_QUERY_TAG = 0x0E
LIST_RESPONSE_TAG = 0x0F


class ListPib(enum.IntEnum):
    """Lists of the management plane."""

    REGISTERED_DEVICES = 0x0050
    PHY_LINKS = 0x0057
    NODES_432 = 0x8250  # vendor-specific


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Ask for at most `count_max` records of a list, from `iterator` on."""

    pib: int
    count_max: int
    iterator: int

    def __post_init__(self) -> None:
        check_octet("count", self.count_max)
        for value in (self.pib, self.iterator):
            if not 0 <= value <= 0xFFFF:
                raise PlcLocalError(f"{value} is not sixteen bits")

    def emit(self) -> bytes:
        pib, iterator = self.pib.to_bytes(2, "big"), self.iterator.to_bytes(2, "big")
        return bytes((LIST_QUERY_TAG,)) + pib + bytes((self.count_max,)) + iterator

    @classmethod
    def parse(cls, data: bytes) -> ListQuery:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "list query")
        if cursor.u8() != LIST_QUERY_TAG:
            raise cursor.error(f"tag 0x{data[0]:02x}", back=1)
        query = cls(cursor.u16(), cursor.u8(), cursor.u16())
        cursor.check_end()
        return query


@dataclass(frozen=True, slots=True)
class ListResponse:
    """Some records of a list, each with its iterator, ascending."""

    pib: int
    record_bytes: int
    records: tuple[tuple[int, bytes], ...]

    def __post_init__(self) -> None:
        check_octet("record size", self.record_bytes)
        check_octet("number of records", len(self.records))
        if not 0 <= self.pib <= 0xFFFF:
            raise PlcLocalError(f"PIB {self.pib}")
        for iterator, record in self.records:
            if not 0 <= iterator <= 0xFFFF or len(record) != self.record_bytes:
                raise PlcLocalError(f"record {iterator} of {len(record)} bytes")

    def emit(self) -> bytes:
        head = bytes((LIST_RESPONSE_TAG,)) + self.pib.to_bytes(2, "big")
        head += bytes((len(self.records), self.record_bytes))
        return head + b"".join(iterator.to_bytes(2, "big") + record for iterator, record in self.records)

    @classmethod
    def parse(cls, data: bytes) -> ListResponse:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "list answer")
        if cursor.u8() != LIST_RESPONSE_TAG:
            raise cursor.error(f"tag 0x{data[0]:02x}", back=1)
        pib, count, size = cursor.u16(), cursor.u8(), cursor.u8()
        records = tuple((cursor.u16(), cursor.take(size)) for _ in range(count))
        cursor.check_end()
        return cls(pib, size, records)


@dataclass(frozen=True, slots=True)
class Node432:
    """One record of the list of 4-32 nodes."""

    SIZE: ClassVar[int] = 2 + DLMS_ID_BYTES_MAX + 1 + EUI48_BYTES
    address: int
    dlms_id: bytes
    eui48: bytes

    def __post_init__(self) -> None:
        check_address("address", self.address)
        check_eui48(self.eui48)
        if len(self.dlms_id) > DLMS_ID_BYTES_MAX:
            raise PlcLocalError(f"DLMS id of {len(self.dlms_id)} bytes")

    def emit(self) -> bytes:
        padded = self.dlms_id.ljust(DLMS_ID_BYTES_MAX, b"\x00")
        return self.address.to_bytes(2, "big") + padded + bytes((len(self.dlms_id),)) + self.eui48

    @classmethod
    def parse(cls, data: bytes) -> Node432:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "4-32 node")
        address = cursor.address()
        padded = cursor.take(DLMS_ID_BYTES_MAX)
        length = cursor.u8()
        if length > DLMS_ID_BYTES_MAX:
            raise cursor.error(f"id of {length} bytes", back=1)
        eui48 = cursor.take(EUI48_BYTES)
        cursor.check_end()
        return cls(address, padded[:length], eui48)
