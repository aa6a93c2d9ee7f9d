"""Push setup (class 40): a list of attributes that the meter sends as one data-notification (BB 4.4.8).

The message is passed to `send`, whose owner knows where APDUs are sent. The notification's own time is left empty,
because the list usually has the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.obis import Obis
from dlms.cosem.profile import CaptureObject, columns_of
from dlms.errors import DlmsError
from dlms.server.objects import CosemObject, constant
from dlms.server.services import ObjectAccess
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Item
from dlms.xdlms.apdu.notify import LONG_ID_MASK, DataNotification

PUSH_OBIS = Obis.parse("0.0.25.9.0.255")
OBJECTS_MAX = 64
TCP, DLMS_MESSAGE = 0, 0  # transport service, message type


class PushSetup:
    """Class 40. Pushes the attributes in `objects`; one that cannot be read is null in the message."""

    def __init__(
        self,
        actor: ObjectAccess,
        objects: Iterable[CaptureObject],
        send: Callable[[DataNotification], None],
        obis: Obis = PUSH_OBIS,
    ) -> None:
        self._actor = actor
        self._objects = tuple(objects)
        self._send = send
        self._invoke = 0
        destination = axdr.structure(axdr.enum(TCP), axdr.octets(b""), axdr.enum(DLMS_MESSAGE))
        self.item = CosemObject(
            40,
            obis,
            readers={
                2: lambda _selection: axdr.array(one.data() for one in self._objects),
                3: constant(destination),
                4: constant(axdr.array([])),
                5: constant(axdr.u16(0)),
                6: constant(axdr.u8(0)),
                7: constant(axdr.u16(0)),
            },
            writers={2: self._write},
            methods={1: self._push},
        )

    def push(self) -> None:
        """Read the attributes and send them."""
        self._invoke = (self._invoke + 1) & LONG_ID_MASK
        self._send(DataNotification(self._invoke, None, axdr.structure(*map(self._value, self._objects))))

    def _value(self, one: CaptureObject) -> Data:
        """The value of an attribute, or of one member of it where the data index is not 0."""
        value = self._actor.get(Item(one.ref))
        if isinstance(value, AccessError):
            return axdr.null()
        if not one.data_index:
            return value
        members = value.members() if isinstance(value.value, tuple) else ()
        return members[one.data_index - 1] if 0 < one.data_index <= len(members) else axdr.null()

    def _push(self, _parameters: Data | None) -> ActionOutcome:
        self.push()
        return ActionOutcome(ActionResult.SUCCESS)

    def _write(self, value: Data) -> DataAccessResult:
        try:
            objects = columns_of(value)
        except (DlmsError, ValueError):
            return DataAccessResult.TYPE_UNMATCHED
        if len(objects) > OBJECTS_MAX:
            return DataAccessResult.OTHER_REASON
        self._objects = objects
        return DataAccessResult.SUCCESS
