"""The control objects of a meter: disconnect control, script table, single action schedule, limiter (BB 4.5).

Scripts act on the meter itself (`actor` is its `MeterServer`), whatever rights the caller has. `run(since, until)` lets
the time pass for the objects that depend on it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.obis import AttributeRef, MethodRef, Obis, Selection
from dlms.cosem.time import ANY, ANY_YEAR, DATE_OCTETS, LAST_DAY, SECOND_LAST_DAY, TIME_OCTETS
from dlms.errors import LocalError
from dlms.server.objects import DENIED, DONE, OTHER_REASON, UNFIT, CosemObject, Reader, constant
from dlms.server.services import ObjectAccess
from dlms.statemachine import Stateful, Transitions
from dlms.xdlms.apdu.common import NO_PARAMETER, AccessError, ActionOutcome, Item

ACTIONS_MAX = 64  # of one script
TIMES_MAX = 64  # of one schedule
CATCH_UP_MINUTES_MAX = 24 * 60  # execution times missed longer ago are not made up for


# ---------------------------------------------------------------------------------------------- disconnect control


class ControlState(enum.IntEnum):
    """The attribute `control_state` (BB 4.5.8)."""

    DISCONNECTED = 0
    CONNECTED = 1
    READY = 2  # for reconnection, by hand


class ControlEvent(enum.Enum):
    """What asks for a change of the output."""

    REMOTE_DISCONNECT = enum.auto()
    REMOTE_RECONNECT = enum.auto()
    MANUAL_DISCONNECT = enum.auto()
    MANUAL_RECONNECT = enum.auto()
    LOCAL_DISCONNECT = enum.auto()  # the meter itself: a limiter, a tariff
    LOCAL_RECONNECT = enum.auto()


_C, _W = ControlState, ControlEvent
# The transitions a to h of BB 4.5.8; CONTROL_MODES says which of them each control_mode allows.
_A = {(_C.DISCONNECTED, _W.REMOTE_RECONNECT): _C.CONNECTED}
_BC = {(_C.CONNECTED, _W.REMOTE_DISCONNECT): _C.DISCONNECTED, (_C.READY, _W.REMOTE_DISCONNECT): _C.DISCONNECTED}
_D = {(_C.DISCONNECTED, _W.REMOTE_RECONNECT): _C.READY}
_E = {(_C.READY, _W.MANUAL_RECONNECT): _C.CONNECTED}
_F = {(_C.CONNECTED, _W.MANUAL_DISCONNECT): _C.READY}
_G = {(_C.CONNECTED, _W.LOCAL_DISCONNECT): _C.READY}
_H = {(_C.READY, _W.LOCAL_RECONNECT): _C.CONNECTED}
CONTROL_MODES: dict[int, Transitions[ControlState, ControlEvent]] = {
    0: Transitions(),
    1: Transitions(_BC | _D | _E | _F | _G),
    2: Transitions(_A | _BC | _E | _F | _G),
    3: Transitions(_BC | _D | _E | _G),
    4: Transitions(_A | _BC | _E | _G),
    5: Transitions(_BC | _D | _E | _F | _G | _H),
    6: Transitions(_BC | _D | _E | _G | _H),
}


class DisconnectControl(Stateful[ControlState, ControlEvent]):
    """Class 70. `switched` is called with the new state of the output when it changes.

    A request for the present state succeeds and changes nothing; a transition that the mode does not have is denied.
    """

    def __init__(
        self, obis: Obis | None = None, switched: Callable[[bool], None] | None = None, *, mode: int = 4
    ) -> None:
        super().__init__(ControlState.CONNECTED, CONTROL_MODES[mode])
        self._mode = mode
        self._switched = switched
        self.item = CosemObject(
            70,
            obis or Obis.parse("0.0.96.3.10.255"),
            readers={
                2: lambda _selection: axdr.boolean(self.connected),
                3: lambda _selection: axdr.enum(self._state),
                4: lambda _selection: axdr.enum(self.mode),
            },
            writers={4: self._set_mode},
            methods={
                1: lambda _parameters: self.switch(ControlEvent.REMOTE_DISCONNECT),
                2: lambda _parameters: self.switch(ControlEvent.REMOTE_RECONNECT),
            },
        )

    @property
    def mode(self) -> int:
        """The attribute `control_mode`; it chooses the table of transitions."""
        return self._mode

    @mode.setter
    def mode(self, mode: int) -> None:
        self._mode, self.transitions = mode, CONTROL_MODES[mode]

    @property
    def connected(self) -> bool:
        """Whether the output is on."""
        return self._state is ControlState.CONNECTED

    def switch(self, step: ControlEvent) -> ActionOutcome:
        """Handle a request to switch the output."""
        if (self._state, step) not in self.transitions:
            return DONE if self._reached(step) else DENIED
        before = self.connected
        self._step(step)
        if self.connected != before and self._switched is not None:
            self._switched(self.connected)
        return DONE

    def _reached(self, step: ControlEvent) -> bool:
        """Whether the present state is one that the request leads to in this mode."""
        ends = {to for (_state, known), to in self.transitions.items() if known is step}
        return self._state in ends or (self.connected and step is ControlEvent.REMOTE_RECONNECT and self.mode != 0)

    def _set_mode(self, value: Data) -> DataAccessResult:
        if value.tag != axdr.Tag.ENUM or value.value not in CONTROL_MODES:
            return DataAccessResult.TYPE_UNMATCHED
        self.mode = value.integer()
        if self.mode == 0 and not self.connected:  # mode 0: always connected (BB 4.5.8)
            self._state = ControlState.CONNECTED
            if self._switched is not None:
                self._switched(True)  # noqa: FBT003 - the state of the output
        return DataAccessResult.SUCCESS


# -------------------------------------------------------------------------------------------------------- scripts


def action(class_id: int, obis: str, method: int, parameter: Data = NO_PARAMETER) -> Data:
    """Encode an action of a script that calls a method."""
    name = axdr.octets(Obis.parse(obis).code)
    return axdr.structure(axdr.enum(2), axdr.u16(class_id), name, axdr.i8(method), parameter)


def script(number: int, *actions: Data) -> Data:
    """Encode a script with the identifier `number`."""
    return axdr.structure(axdr.u16(number), axdr.array(actions))


class ScriptTable:
    """Class 9. A script runs on after a failure and returns the first one; a script cannot call itself."""

    def __init__(self, actor: ObjectAccess, obis: Obis, scripts: Iterable[Data] = ()) -> None:
        self._actor = actor
        self._scripts = axdr.array(scripts)
        self._running = False
        self.item = CosemObject(
            9,
            obis,
            readers={2: lambda _selection: self._scripts},
            writers={2: self._write},
            methods={1: self._execute},
        )

    def _write(self, value: Data) -> DataAccessResult:
        try:
            scripts = [member.members() for member in value.members()]
            for number, actions in scripts:
                number.integer()
                for one in actions.members()[:ACTIONS_MAX]:
                    _action_of(one)
        except (LocalError, ValueError):
            return DataAccessResult.TYPE_UNMATCHED
        self._scripts = value
        return DataAccessResult.SUCCESS

    def _execute(self, parameters: Data | None) -> ActionOutcome:
        if parameters is None or type(parameters.value) is not int:
            return UNFIT
        return self.execute(parameters.value)

    def execute(self, number: int) -> ActionOutcome:
        """Execute one script."""
        if self._running:
            return OTHER_REASON
        for member in self._scripts.members():
            identifier, actions = member.members()
            if identifier.integer() == number:
                self._running = True
                try:
                    outcomes = [self._one(one) for one in actions.members()[:ACTIONS_MAX]]
                finally:
                    self._running = False
                return next((outcome for outcome in outcomes if outcome.code), DONE)
        return ActionOutcome(ActionResult.OBJECT_UNDEFINED)

    def _one(self, data: Data) -> ActionOutcome:
        target, parameter = _action_of(data)
        if isinstance(target, MethodRef):
            return self._actor.act(target, parameter)
        return ActionOutcome(self._actor.set(Item(target), parameter))


def _action_of(data: Data) -> tuple[AttributeRef | MethodRef, Data]:
    """What an action of a script sets or calls, and with which value. Raises `LocalError`, `ValueError`."""
    service, class_id, name, index, parameter = data.members()
    kind = AttributeRef if service.integer() == 1 else MethodRef
    return kind(class_id.integer(), Obis(name.octets()), index.integer()), parameter


def run_script(actor: ObjectAccess, name: Obis, selector: int) -> ActionOutcome:
    """Execute the script `selector` of the script table `name`; selector 0 means no script."""
    if not selector:
        return DONE
    return actor.act(MethodRef(9, name, 1), axdr.u16(selector))


class _ScriptRef:
    """`script_logical_name` and `script_selector`: a reference to a script, as written in an attribute."""

    def __init__(self, name: Obis, selector: int) -> None:
        self.name, self.selector = name, selector

    def data(self) -> Data:
        return axdr.structure(axdr.octets(self.name.code), axdr.u16(self.selector))

    @classmethod
    def of(cls, data: Data) -> _ScriptRef:
        """Decode. Raises `LocalError`, ValueError."""
        name, selector = data.members()
        number = selector.integer()
        if not 0 <= number <= 0xFFFF:
            raise LocalError(f"script selector {number}")
        return cls(Obis(name.octets()), number)


# ------------------------------------------------------------------------------------------------- action schedule


class SingleActionSchedule:
    """Class 22. `times` are pairs: the octets of a time and of a date, with wildcards."""

    def __init__(
        self, actor: ObjectAccess, obis: Obis, name: Obis, selector: int, times: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        self._actor = actor
        self._script = _ScriptRef(name, selector)
        self._times = list(times)
        self.item = CosemObject(
            22,
            obis,
            readers={
                2: lambda _selection: self._script.data(),
                3: constant(axdr.enum(5)),  # times with any date, each its own
                4: lambda _selection: axdr.array(
                    axdr.structure(axdr.octets(time), axdr.octets(date)) for time, date in self._times
                ),
            },
            writers={2: self._write_script, 4: self._write_times},
        )

    def run(self, since: datetime, until: datetime) -> None:
        """Execute the script for every execution time after `since` up to `until`, in the meter's local time."""
        minute = max(since, until - timedelta(minutes=CATCH_UP_MINUTES_MAX)).replace(second=0, microsecond=0)
        while minute <= until and self._times:
            for time, date in self._times:
                moment = minute + timedelta(seconds=time[2] if time[2] < 60 else 0)
                if since < moment <= until and _matches(moment, time, date):
                    run_script(self._actor, self._script.name, self._script.selector)
            minute += timedelta(minutes=1)

    def _write_script(self, value: Data) -> DataAccessResult:
        try:
            self._script = _ScriptRef.of(value)
        except (LocalError, ValueError):
            return DataAccessResult.TYPE_UNMATCHED
        return DataAccessResult.SUCCESS

    def _write_times(self, value: Data) -> DataAccessResult:
        try:
            times = [(time.octets(), date.octets()) for time, date in (one.members() for one in value.members())]
        except (LocalError, ValueError):
            return DataAccessResult.TYPE_UNMATCHED
        if len(times) > TIMES_MAX or any(len(time) != TIME_OCTETS or len(date) != DATE_OCTETS for time, date in times):
            return DataAccessResult.TYPE_UNMATCHED
        self._times = times
        return DataAccessResult.SUCCESS


def _matches(moment: datetime, time: bytes, date: bytes) -> bool:
    """Whether `moment` matches hour, minute and date of a pattern with wildcards."""
    year = int.from_bytes(date[:2], "big")
    tomorrow, after = moment + timedelta(days=1), moment + timedelta(days=2)
    day = {
        ANY: True,
        LAST_DAY: tomorrow.month != moment.month,
        SECOND_LAST_DAY: tomorrow.month == moment.month != after.month,
    }.get(date[3], date[3] == moment.day)
    return (
        time[0] in (ANY, moment.hour)
        and time[1] in (ANY, moment.minute)
        and year in (ANY_YEAR, moment.year)
        and date[2] in (ANY, moment.month)
        and day
        and date[4] in (ANY, moment.isoweekday())
    )


# --------------------------------------------------------------------------------------------------------- limiter


class Limiter:
    """Class 71: executes a script when a value has been above its threshold, or back below it, for long enough.
    Initially no script is set for either. The emergency profile, its groups and its threshold are kept, and do not come
    into force."""

    def __init__(
        self, actor: ObjectAccess, obis: Obis, monitored: AttributeRef, threshold: Data, scripts: Obis
    ) -> None:
        self._actor = actor
        self._monitored = monitored
        self._normal = threshold
        self._durations = {6: 0, 7: 0}
        self._actions = {True: _ScriptRef(scripts, 0), False: _ScriptRef(scripts, 0)}
        self._over = False
        self._changing_since: datetime | None = None
        self.item = CosemObject(71, obis)
        self._emergency = {
            5: threshold,
            8: axdr.structure(axdr.u16(0), axdr.octets(b""), axdr.u32(0)),
            9: axdr.array([]),
        }
        self.item.readers = {
            2: self._read_monitored,
            3: lambda _selection: self._normal,
            4: lambda _selection: self._normal,
            6: lambda _selection: axdr.u32(self._durations[6]),
            7: lambda _selection: axdr.u32(self._durations[7]),
            10: constant(axdr.boolean(value=False)),
            11: lambda _selection: axdr.structure(self._actions[True].data(), self._actions[False].data()),
        }
        self.item.writers = {4: self._write_threshold, 11: self._write_actions}
        for number in self._durations:
            self.item.writers[number] = self._duration_writer(number)
        for number in self._emergency:
            self.item.readers[number] = self._emergency_reader(number)
            self.item.writers[number] = self._emergency_writer(number)

    def run(self, since: datetime, until: datetime) -> None:
        """Compare the monitored value with the threshold at the time `until`."""
        del since
        value = self._actor.get(Item(self._monitored))
        if isinstance(value, AccessError) or type(value.value) is not int or type(self._normal.value) is not int:
            return
        over = value.value > self._normal.value
        if over == self._over:
            self._changing_since = None
            return
        if self._changing_since is None or self._changing_since > until:
            self._changing_since = until
        if until - self._changing_since >= timedelta(seconds=self._durations[6 if over else 7]):
            self._over, self._changing_since = over, None
            ref = self._actions[over]
            run_script(self._actor, ref.name, ref.selector)

    def _read_monitored(self, _selection: Selection | None) -> Data:
        ref = self._monitored
        return axdr.structure(axdr.u16(ref.class_id), axdr.octets(ref.obis.code), axdr.i8(ref.attribute))

    def _write_threshold(self, value: Data) -> DataAccessResult:
        if value.tag != self._normal.tag:
            return DataAccessResult.TYPE_UNMATCHED
        self._normal = value
        return DataAccessResult.SUCCESS

    def _emergency_reader(self, number: int) -> Reader:
        return lambda _selection: self._emergency[number]

    def _emergency_writer(self, number: int) -> Callable[[Data], DataAccessResult]:
        def write(value: Data) -> DataAccessResult:
            if value.tag != self._emergency[number].tag:
                return DataAccessResult.TYPE_UNMATCHED
            self._emergency[number] = value
            return DataAccessResult.SUCCESS

        return write

    def _duration_writer(self, number: int) -> Callable[[Data], DataAccessResult]:
        def write(value: Data) -> DataAccessResult:
            if value.tag != axdr.Tag.DOUBLE_LONG_UNSIGNED:
                return DataAccessResult.TYPE_UNMATCHED
            self._durations[number] = value.integer()
            return DataAccessResult.SUCCESS

        return write

    def _write_actions(self, value: Data) -> DataAccessResult:
        try:
            over, under = value.members()
            self._actions = {True: _ScriptRef.of(over), False: _ScriptRef.of(under)}
        except (LocalError, ValueError):
            return DataAccessResult.TYPE_UNMATCHED
        return DataAccessResult.SUCCESS
