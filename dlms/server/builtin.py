"""Objects of a meter that do something: clock, profile with selective access, association. (What switches is in
`dlms.server.control`, image transfer in `dlms.server.image`, push in `dlms.server.push`.)

They keep their state in memory and call back where the world should notice. Each has `item`, the `ServerObject` for the
`MeterServer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.associations import ASSOCIATION
from dlms.cosem.obis import Obis, Selection
from dlms.cosem.profile import CLOCK_OBIS, SELECT_ENTRY, SELECT_RANGE, CaptureObject, columns_of
from dlms.cosem.time import DATE_TIME_OCTETS, STANDARD_CLOCK, CosemDateTime
from dlms.errors import DlmsError, LocalError
from dlms.server.objects import ServerObject, constant
from dlms.server.rights import MANAGEMENT, object_list
from dlms.server.server import MeterServer
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Result

_DONE = ActionOutcome(ActionResult.SUCCESS)
_UNFIT = ActionOutcome(ActionResult.TYPE_UNMATCHED)
_DENIED = ActionOutcome(ActionResult.READ_WRITE_DENIED)
CLOCK_YEARS = 1970, 2199
SHIFT_S_MAX = 900  # BB 4.5.1: -900 to 900 seconds


class ClockObject:
    """Class 8. `now` gives civil time with a zone; setting the clock keeps the difference to it.

    `adjusted` is told the time before and after, whoever moved the clock. Times outside `CLOCK_YEARS` are refused.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        obis: Obis = CLOCK_OBIS,
        *,
        adjusted: Callable[[datetime, datetime], None] | None = None,
        measuring_period_s: int = 900,
    ) -> None:
        self._now = now
        self._adjusted = adjusted
        self._preset: tuple[datetime, datetime, datetime] | None = None
        self.offset = timedelta(0)
        self.item = ServerObject(8, obis)
        self.item.readers = {
            2: lambda _selection: axdr.octets(CosemDateTime.from_datetime(self.time()).emit()),
            3: self._zone,
            4: constant(axdr.u8(0)),
            5: constant(axdr.octets(CosemDateTime().emit())),
            6: constant(axdr.octets(CosemDateTime().emit())),
            7: constant(axdr.i8(60)),
            8: constant(axdr.boolean(value=False)),
            9: constant(axdr.enum(1)),  # internal crystal
        }
        self.item.writers = {2: self._set}
        self.item.methods = {
            1: lambda _parameters: self._round(900),
            2: lambda _parameters: self._round(measuring_period_s),
            3: lambda _parameters: self._round(60),
            4: self._adjust_to_preset,
            5: self._set_preset,
            6: self._shift,
        }

    def time(self) -> datetime:
        """The meter's time."""
        return self._now() + self.offset

    def _move(self, to: datetime | None) -> bool:
        """Whether the clock could be set to that."""
        if to is None or not CLOCK_YEARS[0] <= to.year <= CLOCK_YEARS[1]:
            return False
        before = self.time()
        self.offset = to - self._now()
        if self._adjusted is not None:
            self._adjusted(before, self.time())
        return True

    def _zone(self, _selection: Selection | None) -> Result:
        offset = self._now().utcoffset() or timedelta(0)
        return axdr.i16(-round(offset.total_seconds() / 60))

    def _set(self, value: Data) -> DataAccessResult:
        if not isinstance(value.value, bytes) or len(value.value) != DATE_TIME_OCTETS:
            return DataAccessResult.TYPE_UNMATCHED
        moved = self._move(CosemDateTime.parse(value.value).to_datetime())
        return DataAccessResult.SUCCESS if moved else DataAccessResult.OTHER_REASON

    def _shift(self, parameters: Data | None) -> ActionOutcome:
        seconds = None if parameters is None else parameters.value
        if type(seconds) is not int:
            return _UNFIT
        if abs(seconds) > SHIFT_S_MAX:
            return _DENIED
        return _DONE if self._move(self.time() + timedelta(seconds=seconds)) else _DENIED

    def _round(self, period_s: int) -> ActionOutcome:
        """To the nearest whole period."""
        seconds = self.time().timestamp()
        to = math.floor(seconds / period_s + 0.5) * period_s
        return _DONE if self._move(self.time() + timedelta(seconds=to - seconds)) else _DENIED

    def _set_preset(self, parameters: Data | None) -> ActionOutcome:
        """A time to set the clock to, if "adjust to preset time" comes between two others."""
        try:
            members = parameters.members() if parameters is not None else ()
            to, first, last = [CosemDateTime.parse(member.octets()).to_datetime() for member in members]
        except (LocalError, ValueError):
            return _UNFIT
        if to is None or first is None or last is None:
            return _UNFIT
        self._preset = to, first, last
        return _DONE

    def _adjust_to_preset(self, _parameters: Data | None) -> ActionOutcome:
        if self._preset is None or not self._preset[1] <= self.time() <= self._preset[2]:
            return _DENIED
        to, self._preset = self._preset[0], None
        return _DONE if self._move(to) else _DENIED


class ProfileObject:
    """Class 7, first in first out. `rows` hold a value a column; the oldest leave when there would be too many.

    `sample` gives a row of this moment, for the method "capture"; without it the method is denied.
    """

    def __init__(
        self,
        obis: Obis,
        columns: Sequence[CaptureObject],
        *,
        period_s: int = 900,
        entries: int = 4000,
        sample: Callable[[], Sequence[Data]] | None = None,
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
        if sample is not None:
            self.item.methods[2] = lambda _parameters: self._capture_now(sample())

    def _capture_now(self, row: Sequence[Data]) -> ActionOutcome:
        self.capture(row)
        return _DONE

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
            first, last, first_column, last_column = [max(0, member.integer()) for member in members]
            rows = self.rows[max(0, first - 1) : last or None]
            end = min(last_column or len(self.columns), len(self.columns))
            return rows, range(max(0, first_column - 1), end)
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


def association_object(server: MeterServer) -> ServerObject:
    """Class 15 version 1, with the object list of everything that `server` has at the moment it is asked.

    A client that asks for it gets its own association instead: see `dlms.server.view`.
    """
    return ServerObject(
        15,
        ASSOCIATION.obis,
        version=1,
        readers={2: lambda _selection: object_list(server.objects(), MANAGEMENT), 8: constant(axdr.enum(2))},
    )
