"""Notifications: what a meter sends without a request (GB 9.5).

```
data-notification    0F long-invoke-id(4) date-time data              date-time is an octet-string of 0 or 12 octets
  confirm            10 long-invoke-id(4) date-time                   the client's answer, where bit 30 asks for one
event-notification   C2 (00 | 01 date-time) descriptor data
information-report   18 (00 | 01 date-time) n (02 name(2))... n data...
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS, Data
from dlms.codes import Apdu
from dlms.cosem.obis import AttributeRef
from dlms.cosem.time import CosemDateTime
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import read_count, read_ref

VARIABLE_NAME = 2
LONG_ID_MASK = 0x00FF_FFFF


@dataclass(frozen=True, slots=True)
class DataNotification:
    """DataNotification. `invoke` is the whole long-invoke-id-and-priority."""

    invoke: int
    time: CosemDateTime | None
    body: Data

    def emit(self) -> bytes:
        return _emit_head(Apdu.DATA_NOTIFICATION, self.invoke, self.time) + self.body.emit()

    @classmethod
    def parse(cls, data: bytes) -> DataNotification:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "data-notification")
        cursor.u8()
        invoke = cursor.u32()
        time = read_time(cursor)
        body = axdr.read(cursor)
        cursor.check_end()
        return cls(invoke, time, body)


@dataclass(frozen=True, slots=True)
class DataNotificationConfirm:
    """DataNotificationConfirm: the client has the data-notification with the same long-invoke-id-and-priority."""

    invoke: int
    time: CosemDateTime | None = None

    def emit(self) -> bytes:
        return _emit_head(Apdu.DATA_NOTIFICATION_CONFIRM, self.invoke, self.time)

    @classmethod
    def parse(cls, data: bytes) -> DataNotificationConfirm:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "data-notification-confirm")
        if cursor.u8() != Apdu.DATA_NOTIFICATION_CONFIRM:
            raise cursor.error("not a data-notification-confirm", back=1)
        invoke = cursor.u32()
        time = read_time(cursor)
        cursor.check_end()
        return cls(invoke, time)


@dataclass(frozen=True, slots=True)
class EventNotification:
    """EventNotificationRequest of logical-name referencing."""

    time: CosemDateTime | None
    ref: AttributeRef
    value: Data

    def emit(self) -> bytes:
        return bytes((Apdu.EVENT_NOTIFICATION,)) + _emit_time(self.time) + self.ref.emit() + self.value.emit()

    @classmethod
    def parse(cls, data: bytes) -> EventNotification:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "event-notification")
        cursor.u8()
        time = read_time(cursor) if cursor.flag() else None
        ref = read_ref(cursor)
        value = axdr.read(cursor)
        cursor.check_end()
        return cls(time, ref, value)


@dataclass(frozen=True, slots=True)
class InformationReport:
    """InformationReportRequest of short-name referencing: a value for every short name."""

    time: CosemDateTime | None
    names: tuple[int, ...]
    values: tuple[Data, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values):
            raise LocalError(f"{len(self.values)} values for {len(self.names)} names")

    def emit(self) -> bytes:
        names = b"".join([bytes((VARIABLE_NAME,)) + name.to_bytes(2, "big") for name in self.names])
        values = b"".join([value.emit() for value in self.values])
        count = length_octets(len(self.names))
        return bytes((Apdu.INFORMATION_REPORT,)) + _emit_time(self.time) + count + names + count + values

    @classmethod
    def parse(cls, data: bytes) -> InformationReport:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(data, "information-report")
        cursor.u8()
        time = read_time(cursor) if cursor.flag() else None
        names: list[int] = []
        for _ in range(read_count(cursor, 3)):
            kind = cursor.u8()
            if kind != VARIABLE_NAME:
                raise cursor.error(f"variable of kind {kind}, not a short name", back=1)
            names.append(cursor.u16())
        count = read_count(cursor, 1)
        if count != len(names):
            raise cursor.error(f"{count} values for {len(names)} names")
        values = tuple([axdr.read(cursor) for _ in range(count)])
        cursor.check_end()
        return cls(time, tuple(names), values)


Notification = DataNotification | EventNotification | InformationReport

_PARSERS: dict[int, Callable[[bytes], Notification]] = {
    int(Apdu.DATA_NOTIFICATION): DataNotification.parse,
    int(Apdu.EVENT_NOTIFICATION): EventNotification.parse,
    int(Apdu.INFORMATION_REPORT): InformationReport.parse,
}


def parse(data: bytes) -> Notification:
    """Decode any of the three notifications. Raises `DecodeError`."""
    parser = _PARSERS.get(data[0] if data else -1)
    if parser is None:
        raise Cursor(data, "notification").error("not a notification")
    return parser(data)


def read_time(cursor: Cursor) -> CosemDateTime | None:
    """Read an octet-string that is empty or a date-time. Some meters put a tag (09 or 19) before it."""
    if cursor.peek() == axdr.Tag.OCTET_STRING and cursor.remaining > DATE_TIME_OCTETS:
        cursor.u8()
    elif cursor.peek() == axdr.Tag.DATE_TIME:
        cursor.u8()
        return CosemDateTime.parse(cursor.take(DATE_TIME_OCTETS))
    octets = cursor.octets()
    if not octets:
        return None
    if len(octets) != DATE_TIME_OCTETS:
        raise cursor.error(f"a date-time of {len(octets)} octets", back=len(octets))
    return CosemDateTime.parse(octets)


def _emit_head(tag: int, invoke: int, time: CosemDateTime | None) -> bytes:
    when = b"" if time is None else time.emit()
    return bytes((tag,)) + invoke.to_bytes(4, "big") + bytes((len(when),)) + when


def _emit_time(time: CosemDateTime | None) -> bytes:
    return b"\x00" if time is None else b"\x01" + bytes((DATE_TIME_OCTETS,)) + time.emit()
