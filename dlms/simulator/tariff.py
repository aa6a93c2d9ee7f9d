"""The tariff objects of a simulated meter: activity calendar (class 20) and special days (class 11).

They keep what is written and act on none of it. A calendar changes by its passive attributes, which an activation
copies into the active ones, at once or at `activate_passive_calendar_time` (BB 4.5.5).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS, Data, Tag
from dlms.codes import DataAccessResult
from dlms.cosem.obis import Obis
from dlms.cosem.time import CosemDateTime
from dlms.errors import LocalError
from dlms.server.objects import DONE, UNFIT, CosemObject, Reader, Writer
from dlms.xdlms.apdu.common import ActionOutcome

CALENDAR = Obis.parse("0.0.13.0.0.255")
SPECIAL_DAYS = Obis.parse("0.0.11.0.0.255")
ENTRIES_MAX = 400
_PASSIVE_OF = {2: 6, 3: 7, 4: 8, 5: 9}
_TIME = 10


class ActivityCalendar:
    """Class 20. `now` returns the meter's local time; `activations` counts how often a calendar was activated."""

    def __init__(self, now: Callable[[], datetime], obis: Obis = CALENDAR) -> None:
        self._now = now
        self.activations = 0
        self.attributes: dict[int, Data] = {number: axdr.array([]) for number in (3, 4, 5, 7, 8, 9)}
        self.attributes |= {number: axdr.octets(b"") for number in (2, 6)}
        self.attributes[_TIME] = axdr.octets(CosemDateTime().emit())
        self.item = CosemObject(20, obis)
        self.item.readers = {number: self._reader(number) for number in self.attributes}
        self.item.writers = {number: self._writer(number) for number in (*_PASSIVE_OF.values(), _TIME)}
        self.item.methods = {1: lambda _parameters: self.activate()}

    def activate(self) -> ActionOutcome:
        """Make the passive calendar the active one."""
        for active, passive in _PASSIVE_OF.items():
            self.attributes[active] = self.attributes[passive]
        self.activations += 1
        return DONE

    def tick(self) -> None:
        """Activate when the time for it has come. A time with wildcards is none."""
        when = CosemDateTime.parse(self.attributes[_TIME].octets()).local()
        if when is not None and self._now().replace(tzinfo=None) >= when:
            self.attributes[_TIME] = axdr.octets(CosemDateTime().emit())
            self.activate()

    def _reader(self, number: int) -> Reader:
        return lambda _selection: self.attributes[number]

    def _writer(self, number: int) -> Writer:
        def write(value: Data) -> DataAccessResult:
            if value.tag != self.attributes[number].tag:
                return DataAccessResult.TYPE_UNMATCHED
            if number == _TIME and len(value.octets()) != DATE_TIME_OCTETS:
                return DataAccessResult.TYPE_UNMATCHED
            self.attributes[number] = value
            return DataAccessResult.SUCCESS

        return write


class SpecialDays:
    """Class 11 (BB 4.5.4). An inserted entry overwrites one with its index or its date."""

    def __init__(self, obis: Obis = SPECIAL_DAYS) -> None:
        self.entries: dict[int, Data] = {}
        self.item = CosemObject(11, obis)
        self.item.readers = {2: lambda _selection: axdr.array(self.entries.values())}
        self.item.writers = {2: self._replace}
        self.item.methods = {1: self._insert, 2: self._delete}

    def _replace(self, value: Data) -> DataAccessResult:
        if value.tag != Tag.ARRAY or len(value.members()) > ENTRIES_MAX:
            return DataAccessResult.TYPE_UNMATCHED
        try:
            self.entries = {_index(entry): entry for entry in value.members()}
        except (LocalError, ValueError):
            return DataAccessResult.TYPE_UNMATCHED
        return DataAccessResult.SUCCESS

    def _insert(self, parameters: Data | None) -> ActionOutcome:
        try:
            index = -1 if parameters is None else _index(parameters)
        except (LocalError, ValueError):
            index = -1
        if parameters is None or index < 0 or len(self.entries) >= ENTRIES_MAX:
            return UNFIT
        date = parameters.members()[1].value
        kept = {at: entry for at, entry in self.entries.items() if at != index and entry.members()[1].value != date}
        self.entries = kept | {index: parameters}
        return DONE

    def _delete(self, parameters: Data | None) -> ActionOutcome:
        index = None if parameters is None else parameters.value
        if not isinstance(index, int) or index not in self.entries:
            return UNFIT
        del self.entries[index]
        return DONE


def _index(entry: Data) -> int:
    """The index of an entry. Raises `LocalError` or `ValueError` for what is none."""
    index, date, day = entry.members()
    if day.tag != Tag.UNSIGNED or len(date.octets()) != 5:
        raise LocalError("not an entry of special days")
    return index.integer()
