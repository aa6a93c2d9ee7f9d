"""A simulated meter: the values of a reading list, deterministic from its serial number, with a real clock, profiles
with rows, a contactor, image transfer and its object list. For `dlms simulate`, tests and demonstrations.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from dlms import axdr
from dlms.apdu.common import AccessError, Item, Result
from dlms.axdr import Data, Tag
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject
from dlms.cosem.time import CosemDateTime
from dlms.objects import Row, objects_from_rows
from dlms.security import Auth, Security
from dlms.server import MeterServer, ServerAssociation
from dlms.server_control import DisconnectControl
from dlms.server_image import ImageTransfer
from dlms.server_objects import ClockObject, ProfileObject, association_object

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DEVICE_NAME = "0.0.42.0.0.255"
SERIAL_MAX = 10**13 - 1
PROFILE_CLASS, CLOCK_CLASS, CONTACTOR_CLASS = 7, 8, 70

CLOCK_COLUMN = CaptureObject(AttributeRef(CLOCK_CLASS, CLOCK_OBIS, 2))
IMPORTED = CaptureObject(AttributeRef(3, Obis.parse("1.0.1.8.0.255"), 2))
EXPORTED = CaptureObject(AttributeRef(3, Obis.parse("1.0.2.8.0.255"), 2))
EVENT = CaptureObject(AttributeRef(1, Obis.parse("0.0.96.11.0.255"), 2))

# Columns, period in seconds and rows at the beginning, by the code of a profile; others are event logs.
PROFILES: dict[str, tuple[tuple[CaptureObject, ...], int, int]] = {
    "1.0.99.1.0.255": ((CLOCK_COLUMN, IMPORTED, EXPORTED), 900, 192),
    "1.0.99.2.0.255": ((CLOCK_COLUMN, IMPORTED, EXPORTED), 86_400, 31),
    "0.0.98.1.0.255": ((CLOCK_COLUMN, IMPORTED, EXPORTED), 30 * 86_400, 12),
}
EVENT_LOG = ((CLOCK_COLUMN, EVENT), 0, 5)
EVENT_SPACING_S = 36_000

# What an energy register gains of `advance(wh)`, in percent: imports flow through tariff 1, exports are a fifth.
ENERGY_SHARES = {
    "1.0.1.8.0.255": 100, "1.0.1.8.1.255": 100, "1.0.15.8.0.255": 120, "1.0.16.8.0.255": 80,
    "1.0.2.8.0.255": 20, "1.0.2.8.1.255": 20, "1.0.9.8.0.255": 105, "1.0.10.8.0.255": 21,
    "1.0.3.8.0.255": 30, "1.0.3.8.1.255": 30, "1.0.5.8.0.255": 30, "1.0.4.8.0.255": 5, "1.0.4.8.1.255": 5,
    "1.0.8.8.0.255": 5,
}  # fmt: skip


def _civil_now() -> datetime:
    return datetime.now(UTC)


def device_name(serial: int) -> str:
    """A COSEM logical device name: three letters of a maker and thirteen digits."""
    return f"DCU{serial:013d}"


class SimulatedMeter:
    """One meter. `rows` are the lines of a reading list; those for more phases than it has are undefined in it."""

    def __init__(
        self,
        serial: int,
        rows: Sequence[Row],
        *,
        phases: int = 3,
        auth: Auth | Mapping[int, Auth] | None = None,
        security: Security | Mapping[int, Security] | None = None,
        pdu_size: int = 1024,
        now: Callable[[], datetime] = _civil_now,
    ) -> None:
        self.serial = serial
        self.id = device_name(serial)
        self.rows = [row for row in rows if row.phases <= phases]
        self._now = now
        self._values = {_key(row.class_id, row.obis, row.attribute): self._make(row) for row in self.rows}
        objects = objects_from_rows(self.rows, self._value, phases=phases)
        self.server = MeterServer(objects, auth=auth, security=security, pdu_size=pdu_size)
        self.clock = ClockObject(now)
        self.contactor = DisconnectControl()
        self.images = ImageTransfer()
        self.profiles: dict[Obis, ProfileObject] = {}
        self._add_living_objects()
        self._associations: dict[int, ServerAssociation] = {}

    # ---- talking

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        """The answers to one APDU of one client SAP."""
        association = self._associations.get(client)
        if association is None:
            association = self._associations[client] = self.server.new_association(client)
        return association.receive_apdu(apdu, now)

    def forget_clients(self) -> None:
        """The link is gone, and all associations with it."""
        self._associations.clear()

    # ---- values

    def get(self, ref: AttributeRef) -> Result:
        """What a client would be given."""
        return self.server.get(Item(ref))

    def advance(self, watt_hours: int) -> None:
        """Energy flows."""
        for row in self.rows:
            share = ENERGY_SHARES.get(str(row.obis))
            if share is not None and row.attribute == 2:
                key = _key(row.class_id, row.obis, row.attribute)
                old = self._values[key]
                self._values[key] = Data(old.tag, old.integer() + watt_hours * share // 100)

    def _value(self, class_id: int, obis: Obis, attribute: int) -> Result:
        value = self._values.get(_key(class_id, obis, attribute))
        return AccessError(DataAccessResult.OBJECT_UNDEFINED) if value is None else value

    def _make(self, row: Row) -> Data:
        seed = f"{self.serial}/{row.class_id}/{row.obis}/{row.attribute}".encode()
        pick = random.Random(hashlib.sha256(seed).digest())  # noqa: S311 (values to look at, not secrets)
        kind = row.type_name.partition(":")[0]
        if str(row.obis) == DEVICE_NAME:
            return axdr.octets(self.id.encode())
        if kind == "oct":
            digits = f"{pick.randrange(10**18):018d}{self.serial % 10_000:04d}"
            return axdr.octets(digits[-row.octets :].encode())
        if kind in ("dt", "clock"):
            moment = EPOCH + timedelta(minutes=pick.randrange(28 * 24 * 60))
            return axdr.octets(CosemDateTime.from_datetime(moment).emit())
        if kind == "bool":
            return Data(tag=Tag.BOOLEAN, value=True)
        return Data(row.tag, _number(row, pick))

    # ---- objects that do something

    def _add_living_objects(self) -> None:
        classes = {(row.class_id, row.obis) for row in self.rows}
        if (CLOCK_CLASS, CLOCK_OBIS) in classes:
            self.server.add(self.clock.item)
        if (CONTACTOR_CLASS, self.contactor.item.obis) in classes:
            self.server.add(self.contactor.item)
        for class_id, obis in sorted(classes):
            if class_id == PROFILE_CLASS:
                profile = self._profile(obis)
                self.profiles[obis] = profile
                self.server.add(profile.item)
        self.server.add(self.images.item)
        self.server.add(association_object(self.server))

    def _profile(self, obis: Obis) -> ProfileObject:
        columns, period_s, count = PROFILES.get(str(obis), EVENT_LOG)
        profile = ProfileObject(obis, columns, period_s=period_s)
        spacing_s = period_s or EVENT_SPACING_S
        last = int(self._now().timestamp()) // spacing_s * spacing_s
        pick = random.Random(f"{self.serial}/{obis}")  # noqa: S311 (values to look at, not secrets)
        totals = [self._total(column) for column in columns[1:]]
        rows: list[list[Data]] = []
        for index in range(count):  # from the newest row back, so that the newest shows what the registers show
            moment = datetime.fromtimestamp(last - index * spacing_s, UTC)
            row = [axdr.octets(CosemDateTime.from_datetime(moment).emit())]
            if period_s:
                row += [axdr.u32(total) for total in totals]
                totals = [max(0, total - pick.randrange(20, 200)) for total in totals]
            else:
                row.append(axdr.u8(pick.randrange(1, 40)))
            rows.append(row)
        for row in reversed(rows):
            profile.capture(row)
        return profile

    def _total(self, column: CaptureObject) -> int:
        value = self._values.get(_key(column.ref.class_id, column.ref.obis, column.ref.attribute))
        return value.integer() if value is not None else 1_000_000


def _key(class_id: int, obis: Obis, attribute: int) -> tuple[int, bytes, int]:
    return class_id, obis.code, attribute


def _number(row: Row, pick: random.Random) -> int:
    """A believable number for the row's type and unit."""
    if row.tag is Tag.ENUM:
        return 1  # of a contactor: connected
    if row.unit == 35:  # volt, in tenths or hundredths
        return pick.randrange(2250, 2350) if row.scaler == -1 else pick.randrange(300, 360)
    if row.unit == 44:  # hertz, in hundredths
        return pick.randrange(5995, 6005)
    if row.unit == 255:  # power factor, in thousandths
        return pick.randrange(800, 1000)
    bits = {Tag.UNSIGNED: 6, Tag.LONG_UNSIGNED: 12, Tag.LONG: 9, Tag.INTEGER: 6}.get(row.tag, 24)
    return pick.randrange(1, 1 << bits)
