"""A simulated meter, for `dlms simulate`, tests and demonstrations.

It has the values of a reading list, determined by its serial number, a clock, profiles that grow with time, an event
log, a contactor with scripts, schedule and limiter, image transfer, push, and an object list.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING
from weakref import WeakSet

from dlms import axdr
from dlms.axdr import Data, Tag
from dlms.codes import SERVER_CONFORMANCE, Conformance, DataAccessResult
from dlms.cosem.obis import ALARM_OBJECTS, AttributeRef, Obis
from dlms.cosem.profile import CLOCK_CLASS
from dlms.cosem.time import CosemDateTime
from dlms.errors import LocalError
from dlms.security.settings import Auth, Security
from dlms.server.connection import ServerConnection
from dlms.server.objects import CosemObject, Row, constant, objects_from_rows
from dlms.server.rights import MANAGEMENT, Rights
from dlms.server.server import MeterServer
from dlms.simulator.objects import ENERGY_SHARES, DynamicObjects, Event
from dlms.xdlms.apdu.common import AccessError, Item, Result
from dlms.xdlms.apdu.notify import Notification

__all__ = ["CLOCK_CLASS", "SERIAL_MAX", "Event", "SimulatedMeter", "SimulatedConnection", "device_name"]

if TYPE_CHECKING:
    from dlms.server.security_setup import SecuritySetup

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DEVICE_NAME = "0.0.42.0.0.255"
SAP_ASSIGNMENT = "0.0.41.0.0.255"
SERIAL_MAX = 10**13 - 1
NOTIFICATIONS_MAX = 64  # waiting on one connection


def device_name(serial: int) -> str:
    """A COSEM logical device name: three letters for the maker and thirteen digits."""
    return f"DCU{serial:013d}"


class SimulatedConnection(ServerConnection):
    """One connection to a simulated meter, with its pending notifications."""

    def __init__(self, meter: SimulatedMeter) -> None:
        super().__init__(meter.server)
        self._meter = meter
        self.waiting: deque[Notification] = deque(maxlen=NOTIFICATIONS_MAX)

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        """Take one APDU of a client and return the answers, after catching up with the clock."""
        self._meter.tick()
        return super().receive_apdu(client, apdu, now)

    def take_notifications(self) -> list[tuple[int, bytes]]:
        """Notifications since the last call, with the SAP of each client that negotiated them; long ones are
        dropped."""
        found: list[tuple[int, bytes]] = []
        while self.waiting:
            try:
                found += self.notify(self.waiting.popleft()).items()
            except LocalError:
                continue
        return found


class SimulatedMeter:
    """One meter. `rows` are the lines of a reading list; attributes for more phases than it has are undefined.

    `now` returns civil time. Without `dynamic` the profiles keep their initial rows, nothing is logged, and schedule
    and limiter do nothing.
    """

    def __init__(
        self,
        serial: int,
        rows: Sequence[Row],
        *,
        phases: int = 3,
        auth: Auth | Mapping[int, Auth] | None = None,
        security: Security | Mapping[int, Security] | None = None,
        rights: Rights | Mapping[int, Rights] = MANAGEMENT,
        conformance: Conformance = SERVER_CONFORMANCE,
        pdu_size: int = 1024,
        now: Callable[[], datetime],
        dynamic: bool = True,
    ) -> None:
        self.serial = serial
        self.id = device_name(serial)
        self.rows = [row for row in rows if row.phases <= phases]
        self._values = {_key(row.class_id, row.obis, row.attribute): self._make(row) for row in self.rows}
        self.server = MeterServer(
            objects_from_rows(self.rows, self._value, phases=phases),
            auth=auth,
            security=security,
            pdu_size=pdu_size,
            conformance=conformance,
            short_names=True,
            rights=rights,
        )
        self._connections: WeakSet[SimulatedConnection] = WeakSet()
        classes = {(row.class_id, row.obis) for row in self.rows}
        self.dynamic = DynamicObjects(self.server, classes, serial, now, self._send, dynamic=dynamic)
        self.clock = self.dynamic.clock
        self.contactor = self.dynamic.contactor
        self.images = self.dynamic.images
        self.profiles = self.dynamic.profiles
        self.security_setup = _security_setup(self.server, security)
        if self.security_setup is not None:
            self.server.add(self.security_setup.item)
        self._add_identity()

    def _add_identity(self) -> None:
        name = axdr.octets(self.id.encode())
        listed = axdr.array([axdr.structure(axdr.u16(1), name)])
        self.server.add(CosemObject(17, Obis.parse(SAP_ASSIGNMENT), readers={2: constant(listed)}))

    # ---- talking

    def connect(self) -> SimulatedConnection:
        """Make a connection. The meter forgets it when nobody refers to it any more."""
        connection = SimulatedConnection(self)
        self._connections.add(connection)
        return connection

    def _send(self, message: Notification) -> None:
        for connection in self._connections:
            connection.waiting.append(message)

    # ---- values

    def get(self, ref: AttributeRef) -> Result:
        """Read an attribute as a client with all rights would."""
        return self.server.get(Item(ref))

    def put(self, ref: AttributeRef, value: Data) -> None:
        """Change the value of an attribute of the list. Raises `LocalError` for one that is not in it."""
        key = _key(ref.class_id, ref.obis, ref.attribute)
        if key not in self._values:
            raise LocalError(f"{ref} is not in this meter's list")
        self._values[key] = value

    def advance(self, watt_hours: int) -> None:
        """Add `watt_hours` of imported energy to the energy registers (and a share of export)."""
        for row in self.rows:
            share = ENERGY_SHARES.get(str(row.obis))
            if share is not None and row.attribute == 2:
                key = _key(row.class_id, row.obis, row.attribute)
                old = self._values[key]
                self._values[key] = Data(old.tag, old.integer() + watt_hours * share // 100)

    def tick(self) -> None:
        """Catch up with the clock: capture profile rows, run the schedule and the limiter."""
        self.dynamic.tick()

    def log(self, event: Event) -> None:
        """Add an event to the event log, and notify the clients that negotiated event notifications."""
        self.dynamic.log(event)

    def _value(self, class_id: int, obis: Obis, attribute: int) -> Result:
        value = self._values.get(_key(class_id, obis, attribute))
        return AccessError(DataAccessResult.OBJECT_UNDEFINED) if value is None else value

    def _make(self, row: Row) -> Data:
        seed = f"{self.serial}/{row.class_id}/{row.obis}/{row.attribute}".encode()
        rng = Random(hashlib.sha256(seed).digest())  # noqa: S311 (values to look at, not secrets)
        kind = row.type_name.partition(":")[0]
        if str(row.obis) == DEVICE_NAME:
            return axdr.octets(self.id.encode())
        if kind == "oct":
            digits = f"{rng.randrange(10**18):018d}{self.serial % 10_000:04d}"
            return axdr.octets(digits[-row.octets :].encode())
        if kind in ("dt", "clock"):
            moment = EPOCH + timedelta(minutes=rng.randrange(28 * 24 * 60))
            return axdr.octets(CosemDateTime.from_datetime(moment).emit())
        if kind == "bool":
            return Data(tag=Tag.BOOLEAN, value=True)
        return Data(row.tag, _number(row, rng))


def _security_setup(server: MeterServer, security: Security | Mapping[int, Security] | None) -> SecuritySetup | None:
    """A security setup for a meter whose clients share one set of keys; None otherwise, as each set needs its own."""
    if not isinstance(security, Security):
        return None
    from dlms.server.security_setup import SecuritySetup

    return SecuritySetup(server, security)


def _key(class_id: int, obis: Obis, attribute: int) -> tuple[int, bytes, int]:
    return class_id, obis.code, attribute


def _number(row: Row, rng: Random) -> int:
    """A plausible number for the row's type and unit."""
    if row.tag is Tag.ENUM:
        return 1  # of a contactor: connected
    if row.obis.code[:4] == ALARM_OBJECTS:
        return 0  # nothing is wrong
    if row.unit == 35:  # volt, in tenths or hundredths
        return rng.randrange(2250, 2350) if row.scaler == -1 else rng.randrange(300, 360)
    if row.unit == 44:  # hertz, in hundredths
        return rng.randrange(5995, 6005)
    if row.unit == 255:  # power factor, in thousandths
        return rng.randrange(800, 1000)
    bits = {Tag.UNSIGNED: 6, Tag.LONG_UNSIGNED: 12, Tag.LONG: 9, Tag.INTEGER: 6}.get(row.tag, 24)
    return rng.randrange(1, 1 << bits)
