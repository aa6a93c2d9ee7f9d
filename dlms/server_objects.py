"""Objects of a meter that do something: clock, profile with selective access, contactor, image transfer, association.

They keep their state in memory and call back where the world should notice. Each has `item`, the `ServerObject` for the
`MeterServer`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from dlms import axdr
from dlms.apdu.common import AccessError, ActionOutcome, Result, Selection
from dlms.axdr import Data
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.classes import interface_class
from dlms.cosem.obis import Obis
from dlms.cosem.profile import CLOCK_OBIS, SELECT_ENTRY, SELECT_RANGE, CaptureObject, columns_of
from dlms.cosem.time import DATE_TIME_OCTETS, STANDARD_CLOCK, CosemDateTime
from dlms.discovery import ASSOCIATION, ObjectInfo, emit_objects
from dlms.errors import DlmsError, LocalError
from dlms.objects import ServerObject, constant
from dlms.server import MeterServer

_DONE = ActionOutcome(ActionResult.SUCCESS)
_UNFIT = ActionOutcome(ActionResult.TYPE_UNMATCHED)
_DENIED = ActionOutcome(ActionResult.READ_WRITE_DENIED)


class ClockObject:
    """Class 8. `now` gives civil time with a zone; setting the clock keeps the difference to it."""

    def __init__(self, now: Callable[[], datetime], obis: Obis = CLOCK_OBIS) -> None:
        self._now = now
        self.offset = timedelta(0)
        self.item = ServerObject(
            8,
            obis,
            readers={2: lambda _selection: axdr.octets(CosemDateTime.from_datetime(self.time()).emit())},
            writers={2: self._set},
            methods={6: self._shift},
        )
        self.item.readers[3] = self._zone
        self.item.readers[4] = constant(axdr.u8(0))

    def time(self) -> datetime:
        """The meter's time."""
        return self._now() + self.offset

    def _zone(self, _selection: Selection | None) -> Result:
        offset = self._now().utcoffset() or timedelta(0)
        return axdr.i16(-round(offset.total_seconds() / 60))

    def _set(self, value: Data) -> DataAccessResult:
        if not isinstance(value.value, bytes) or len(value.value) != DATE_TIME_OCTETS:
            return DataAccessResult.TYPE_UNMATCHED
        when = CosemDateTime.parse(value.value).to_datetime()
        if when is None:
            return DataAccessResult.OTHER_REASON
        self.offset = when - self._now()
        return DataAccessResult.SUCCESS

    def _shift(self, parameters: Data | None) -> ActionOutcome:
        seconds = None if parameters is None else parameters.value
        if type(seconds) is not int:
            return _UNFIT
        self.offset += timedelta(seconds=seconds)
        return _DONE


class ProfileObject:
    """Class 7, first in first out. `rows` hold a value a column; the oldest leave when there would be too many."""

    def __init__(
        self, obis: Obis, columns: Sequence[CaptureObject], *, period_s: int = 900, entries: int = 4000
    ) -> None:
        self.columns = tuple(columns)
        self.rows: list[tuple[Data, ...]] = []
        self._entries = entries
        self._clock = next((at for at, column in enumerate(columns) if column.is_clock), None)
        self.item = ServerObject(7, obis, version=1)
        self.item.readers = {
            2: self._buffer,
            3: constant(axdr.array([column.data() for column in columns])),
            4: constant(axdr.u32(period_s)),
            5: constant(axdr.enum(1)),
            6: constant(axdr.null()),
            7: lambda _selection: axdr.u32(len(self.rows)),
            8: constant(axdr.u32(entries)),
        }
        self.item.methods = {1: self._reset}

    def capture(self, row: Sequence[Data]) -> None:
        """Add a row. Raises `LocalError` when it has not a value for every column."""
        if len(row) != len(self.columns):
            raise LocalError(f"{len(row)} values for {len(self.columns)} columns")
        self.rows.append(tuple(row))
        del self.rows[: max(0, len(self.rows) - self._entries)]

    def _reset(self, _parameters: Data | None) -> ActionOutcome:
        self.rows.clear()
        return _DONE

    def _buffer(self, selection: Selection | None) -> Result:
        columns: Sequence[int] = range(len(self.columns))
        rows = self.rows
        if selection is not None:
            try:
                rows, columns = self._select(selection)
            except (DlmsError, ValueError):
                return AccessError(DataAccessResult.TYPE_UNMATCHED)
        return axdr.array([axdr.structure(*[row[column] for column in columns]) for row in rows])

    def _select(self, selection: Selection) -> tuple[list[tuple[Data, ...]], Sequence[int]]:
        members = selection.parameters.members()
        if selection.selector == SELECT_ENTRY:
            first, last, first_column, last_column = [member.integer() for member in members]
            rows = self.rows[max(0, first - 1) : last or None]
            return rows, range(max(0, first_column - 1), last_column or len(self.columns))
        if selection.selector != SELECT_RANGE:
            raise LocalError(f"selector {selection.selector}")
        restricting, low, high, wanted = members
        column = self.columns.index(CaptureObject.of(restricting))
        bottom, top = _key(low), _key(high)
        rows = [row for row in self.rows if bottom <= _key(row[column]) <= top]
        selected = [self.columns.index(capture) for capture in columns_of(wanted)]
        return rows, selected or range(len(self.columns))


def _key(data: Data) -> float:
    """What rows are compared by: a number, or the instant of a time (the local time, where there is no instant)."""
    raw = data.value
    if isinstance(raw, bytes):
        cosem = CosemDateTime.parse(raw)
        when = cosem.to_datetime(STANDARD_CLOCK) or cosem.local()
        if when is None:
            raise LocalError("a time without an instant")
        return when.replace(tzinfo=UTC).timestamp()
    return float(data.integer())


class DisconnectControl:
    """Class 70, mode 4: disconnect at once, reconnect at once. `switched` is told the new state of the output."""

    def __init__(self, obis: Obis | None = None, switched: Callable[[bool], None] | None = None) -> None:
        self.connected = True
        self._switched = switched
        self.item = ServerObject(
            70,
            obis or Obis.parse("0.0.96.3.10.255"),
            readers={
                2: lambda _selection: axdr.boolean(self.connected),
                3: lambda _selection: axdr.enum(1 if self.connected else 0),
                4: constant(axdr.enum(4)),
            },
            methods={1: lambda _parameters: self._switch(to=False), 2: lambda _parameters: self._switch(to=True)},
        )

    def _switch(self, *, to: bool) -> ActionOutcome:
        self.connected = to
        if self._switched is not None:
            self._switched(to)
        return _DONE


class ImageTransfer:
    """Class 18. `verify` says whether an image is good; `activated` gets the one that is switched to."""

    def __init__(
        self,
        *,
        block_octets: int = 128,
        verify: Callable[[bytes], bool] = bool,
        activated: Callable[[bytes], None] | None = None,
        image_max: int = 4 * 1024 * 1024,
    ) -> None:
        self._block_octets = block_octets
        self._verify_image = verify
        self._activated = activated
        self._image_max = image_max
        self._identifier = b""
        self._image = bytearray()
        self._received: list[bool] = []
        self._status = 0
        self.item = ServerObject(
            18,
            Obis.parse("0.0.44.0.0.255"),
            readers={
                2: constant(axdr.u32(block_octets)),
                3: lambda _selection: axdr.bits("".join("01"[got] for got in self._received)),
                4: lambda _selection: axdr.u32(self._first_missing()),
                5: constant(axdr.boolean(value=True)),
                6: lambda _selection: axdr.enum(self._status),
                7: self._to_activate,
            },
            methods={1: self._initiate, 2: self._block, 3: self._verify, 4: self._activate},
        )

    def forget(self, number: int) -> None:
        """Lose a block that came, as a fault would."""
        self._received[number] = False

    def _first_missing(self) -> int:
        return self._received.index(False) if False in self._received else len(self._received)

    def _to_activate(self, _selection: Selection | None) -> Result:
        if self._status != 3:
            return axdr.array([])
        signature = zlib.crc32(bytes(self._image)).to_bytes(4, "big")
        size = axdr.u32(len(self._image))
        return axdr.array([axdr.structure(size, axdr.octets(self._identifier), axdr.octets(signature))])

    def _initiate(self, parameters: Data | None) -> ActionOutcome:
        try:
            identifier, size = parameters.members() if parameters is not None else ()
            self._identifier, octets = identifier.octets(), size.integer()
        except (LocalError, ValueError):
            return _UNFIT
        if octets > self._image_max:
            return _DENIED
        self._image = bytearray(octets)
        self._received = [False] * -(-octets // self._block_octets)
        self._status = 1
        return _DONE

    def _block(self, parameters: Data | None) -> ActionOutcome:
        try:
            number, piece = parameters.members() if parameters is not None else ()
            at, data = number.integer(), piece.octets()
        except (LocalError, ValueError):
            return _UNFIT
        start = at * self._block_octets
        if self._status != 1 or at >= len(self._received) or len(data) > self._block_octets:
            return _DENIED
        self._image[start : start + len(data)] = data
        self._received[at] = True
        return _DONE

    def _verify(self, _parameters: Data | None) -> ActionOutcome:
        good = self._status == 1 and all(self._received) and self._verify_image(bytes(self._image))
        self._status = 3 if good else 4
        return _DONE if good else ActionOutcome(ActionResult.OTHER_REASON)

    def _activate(self, _parameters: Data | None) -> ActionOutcome:
        if self._status != 3:
            return _DENIED
        self._status = 6
        if self._activated is not None:
            self._activated(bytes(self._image))
        return _DONE


def association_object(server: MeterServer) -> ServerObject:
    """Class 15 version 1, with the object list of everything that `server` has at the moment it is asked."""

    def object_list(_selection: Selection | None) -> Result:
        return emit_objects([_info(item) for item in server.objects()])

    return ServerObject(15, ASSOCIATION.obis, version=1, readers={2: object_list, 8: constant(axdr.enum(2))})


def _info(item: ServerObject) -> ObjectInfo:
    known = interface_class(item.class_id, item.version)
    numbers = {1, *(known.attributes if known else ()), *item.readers, *item.writers}
    readable = {1, *item.readers}
    modes = {number: (number in readable) + 2 * (number in item.writers) for number in numbers}
    return ObjectInfo(item.class_id, item.version, item.obis, modes, dict.fromkeys(item.methods, 1))
