"""A load profile of a meter (class 7, Profile Generic; BB 4.3.6): first in first out, with selective access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import DataAccessResult
from dlms.cosem.obis import Obis, Selection
from dlms.cosem.profile import SELECT_ENTRY, SELECT_RANGE, CaptureObject, columns_of
from dlms.cosem.time import STANDARD_CLOCK, CosemDateTime
from dlms.errors import DlmsError, LocalError
from dlms.server.objects import DONE, CosemObject, constant
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Result


class ProfileObject:
    """Class 7, first in first out. Each row has one value per column; beyond `entries` rows the oldest is dropped.

    `sample` returns a row of present values for the method "capture"; without it the method is denied.
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
        self.item = CosemObject(7, obis, version=1)
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
        return DONE

    def capture(self, row: Sequence[Data]) -> None:
        """Add a row. Raises `LocalError` unless it has one value per column."""
        if len(row) != len(self.columns):
            raise LocalError(f"{len(row)} values for {len(self.columns)} columns")
        self.rows.append(tuple(row))
        del self.rows[: max(0, len(self.rows) - self._entries)]

    def _reset(self, _parameters: Data | None) -> ActionOutcome:
        self.rows.clear()
        return DONE

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
    """The sort key for selection by range: a number, or the instant of a time, or its local time if it has none."""
    raw = data.value
    if isinstance(raw, bytes):
        cosem = CosemDateTime.parse(raw)
        when = cosem.to_datetime(STANDARD_CLOCK) or cosem.local()
        if when is None:
            raise LocalError("a time without an instant")
        return when.replace(tzinfo=UTC).timestamp()
    return float(data.integer())
