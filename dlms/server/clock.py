"""The clock of a meter (class 8; BB 4.5.1), kept as an offset from the civil time that it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS, Data
from dlms.codes import DataAccessResult
from dlms.cosem.obis import Obis, Selection
from dlms.cosem.profile import CLOCK_OBIS
from dlms.cosem.time import CosemDateTime
from dlms.errors import LocalError
from dlms.server.objects import DENIED, DONE, UNFIT, CosemObject, Reader, Writer, constant
from dlms.xdlms.apdu.common import ActionOutcome, Result

CLOCK_YEARS = 1970, 2199
SHIFT_S_MAX = 900  # BB 4.5.1: -900 to 900 seconds


class ClockObject:
    """Class 8. `now` returns civil time with a zone; setting the clock changes the offset from it.

    `adjusted` is called with the time before and after every change of the clock. Times outside `CLOCK_YEARS` are
    refused.
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
        # What is written of zone and daylight saving is kept and read back; the clock does not act on it.
        self.parameters: dict[int, Data] = {
            5: axdr.octets(CosemDateTime().emit()),
            6: axdr.octets(CosemDateTime().emit()),
            7: axdr.i8(60),
            8: axdr.boolean(value=False),
        }
        self.item = CosemObject(8, obis)
        self.item.readers = {
            2: lambda _selection: axdr.octets(CosemDateTime.from_datetime(self.time()).emit()),
            3: self._zone,
            4: constant(axdr.u8(0)),
            9: constant(axdr.enum(1)),  # internal crystal
        }
        self.item.writers = {2: self._set, 3: self._parameter_writer(3)}
        for number in self.parameters:
            self.item.readers[number] = self._parameter_reader(number)
            self.item.writers[number] = self._parameter_writer(number)
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
        """Set the clock, if `to` is a time within `CLOCK_YEARS`; return whether it was."""
        if to is None or not CLOCK_YEARS[0] <= to.year <= CLOCK_YEARS[1]:
            return False
        before = self.time()
        self.offset = to - self._now()
        if self._adjusted is not None:
            self._adjusted(before, self.time())
        return True

    def _parameter_reader(self, number: int) -> Reader:
        return lambda _selection: self.parameters[number]

    def _parameter_writer(self, number: int) -> Writer:
        def write(value: Data) -> DataAccessResult:
            present = self.item.get(number, None)
            if not isinstance(present, Data) or value.tag != present.tag:
                return DataAccessResult.TYPE_UNMATCHED
            if isinstance(value.value, bytes) and len(value.value) != DATE_TIME_OCTETS:
                return DataAccessResult.TYPE_UNMATCHED
            self.parameters[number] = value
            return DataAccessResult.SUCCESS

        return write

    def _zone(self, _selection: Selection | None) -> Result:
        if 3 in self.parameters:
            return self.parameters[3]
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
            return UNFIT
        if abs(seconds) > SHIFT_S_MAX:
            return DENIED
        return DONE if self._move(self.time() + timedelta(seconds=seconds)) else DENIED

    def _round(self, period_s: int) -> ActionOutcome:
        """Round the clock to the nearest whole period."""
        seconds = self.time().timestamp()
        to = math.floor(seconds / period_s + 0.5) * period_s
        return DONE if self._move(self.time() + timedelta(seconds=to - seconds)) else DENIED

    def _set_preset(self, parameters: Data | None) -> ActionOutcome:
        """preset_adjusting_time: the time to set, and the interval in which "adjust to preset time" may set it."""
        try:
            members = parameters.members() if parameters is not None else ()
            to, first, last = [CosemDateTime.parse(member.octets()).to_datetime() for member in members]
        except (LocalError, ValueError):
            return UNFIT
        if to is None or first is None or last is None:
            return UNFIT
        self._preset = to, first, last
        return DONE

    def _adjust_to_preset(self, _parameters: Data | None) -> ActionOutcome:
        if self._preset is None or not self._preset[1] <= self.time() <= self._preset[2]:
            return DENIED
        to, self._preset = self._preset[0], None
        return DONE if self._move(to) else DENIED
