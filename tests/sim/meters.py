"""A meter with values: deterministic from its serial number, except for its clock, which is real."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dlms import axdr
from dlms.apdu.common import AccessError, Result
from dlms.axdr import Data, Tag
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.time import CosemDateTime
from dlms.objects import Row, objects_from_rows, rows_from_csv
from dlms.security import Lls
from dlms.server import MeterServer, ServerAssociation

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DEVICE_NAME = "0.0.42.0.0.255"
CLOCK_CLASS = 8

# What an energy register gains of `advance(wh)`, in percent: imports flow through tariff 1, exports are a fifth.
ENERGY_SHARES = {
    "1.0.1.8.0.255": 100, "1.0.1.8.1.255": 100, "1.0.15.8.0.255": 120, "1.0.16.8.0.255": 80,
    "1.0.2.8.0.255": 20, "1.0.2.8.1.255": 20, "1.0.9.8.0.255": 105, "1.0.10.8.0.255": 21,
    "1.0.3.8.0.255": 30, "1.0.3.8.1.255": 30, "1.0.5.8.0.255": 30, "1.0.4.8.0.255": 5, "1.0.4.8.1.255": 5,
    "1.0.8.8.0.255": 5,
}  # fmt: skip

# Types of the uplink's records, from the type column of the list.
RECORD_TAGS = {"clock": "dt"}


def device_name(serial: int) -> str:
    """The COSEM logical device name: three letters of a maker and thirteen digits."""
    return f"DCU{serial:013d}"


class MeterModel:
    """The values behind one meter's objects."""

    def __init__(self, serial: int, rows: list[Row], phases: int) -> None:
        self.serial = serial
        self.id = device_name(serial)
        self.rows = [row for row in rows if row.phases <= phases]
        self._values = {_key(row.class_id, row.obis, row.attribute): self._make(row) for row in self.rows}

    def _make(self, row: Row) -> Data:
        seed = hashlib.sha256(f"{self.serial}/{row.class_id}/{row.obis}/{row.attribute}".encode()).digest()
        pick = random.Random(seed)
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

    def value(self, class_id: int, obis: Obis, attribute: int) -> Result:
        """The `ValueSource` of this meter's objects."""
        if class_id == CLOCK_CLASS and attribute == 2:
            return axdr.octets(CosemDateTime.from_datetime(datetime.now(UTC)).emit())
        value = self._values.get(_key(class_id, obis, attribute))
        return AccessError(DataAccessResult.OBJECT_UNDEFINED) if value is None else value

    def advance(self, watt_hours: int) -> None:
        """Energy flows."""
        for row in self.rows:
            share = ENERGY_SHARES.get(str(row.obis))
            if share is not None and row.attribute == 2:
                key = _key(row.class_id, row.obis, row.attribute)
                old = self._values[key]
                self._values[key] = Data(old.tag, old.integer() + watt_hours * share // 100)

    def records(self) -> dict[str, dict[str, object]]:
        """Every value as the uplink's records have it: what a head-end must hold in the end."""
        found: dict[str, dict[str, object]] = {}
        for row in self.rows:
            data = self.value(row.class_id, row.obis, row.attribute)
            if isinstance(data, Data):
                kind = row.type_name.partition(":")[0]
                raw = data.value.hex() if isinstance(data.value, bytes) else data.value
                record: dict[str, object] = {
                    "tag": RECORD_TAGS.get(kind, kind),
                    "raw": raw,
                    "scaler": row.scaler,
                    "unit": row.unit,
                }
                found[str(AttributeRef(row.class_id, row.obis, row.attribute))] = record
        return found

    def volatile(self) -> list[str]:
        """What changes by itself between two calls of `records`."""
        live = [row for row in self.rows if row.class_id == CLOCK_CLASS and row.attribute == 2]
        return [str(AttributeRef(row.class_id, row.obis, row.attribute)) for row in live]


def _key(class_id: int, obis: Obis, attribute: int) -> tuple[int, bytes, int]:
    return class_id, obis.code, attribute


def _number(row: Row, pick: random.Random) -> int:
    """A believable number for the row's type and unit."""
    if row.tag is Tag.ENUM:
        return 1  # of a disconnector: connected
    if row.unit == 35:  # volt, in tenths or hundredths
        return pick.randrange(2250, 2350) if row.scaler == -1 else pick.randrange(300, 360)
    if row.unit == 44:  # hertz, in hundredths
        return pick.randrange(5995, 6005)
    if row.unit == 255:  # power factor, in thousandths
        return pick.randrange(800, 1000)
    bits = {Tag.UNSIGNED: 6, Tag.LONG_UNSIGNED: 12, Tag.LONG: 9, Tag.INTEGER: 6}.get(row.tag, 24)
    return pick.randrange(1, 1 << bits)


class SimMeter:
    """A meter: its model, and a server with one association a client."""

    def __init__(self, serial: int, rows: list[Row], phases: int, password: bytes | None, pdu_size: int = 1024) -> None:
        self.model = MeterModel(serial, rows, phases)
        self.id = self.model.id
        objects = objects_from_rows(rows, self.model.value, phases=phases)
        self._server = MeterServer(objects, auth=Lls(password) if password else None, pdu_size=pdu_size)
        self._associations: dict[int, ServerAssociation] = {}

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        """The answers to one APDU of one client SAP."""
        association = self._associations.get(client)
        if association is None:
            association = self._associations[client] = self._server.new_association(client)
        return association.receive_apdu(apdu, now)

    def forget_clients(self) -> None:
        """The link or the node is gone, and all associations with it."""
        self._associations.clear()


def make_meters(
    list_file: Path, phases: int, serials: list[int], password_file: Path | None, pdu_size: int = 1024
) -> list[SimMeter]:
    """Meters that hold the values of a reading list; with a password file, LLS is required of every client."""
    rows = rows_from_csv(list_file)
    password = password_file.read_bytes().strip() if password_file else None
    return [SimMeter(serial, rows, phases, password, pdu_size) for serial in serials]
