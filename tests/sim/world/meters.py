"""The meters of the world: a load profile and a register, and a record of what was really measured.

Every captured row has a value that no other row of that meter has. So a row that reaches the head-end can be told from
every other, whatever time it claims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject
from dlms.cosem.time import DEVIATION_UNKNOWN, STATUS_UNKNOWN, CosemDateTime
from dlms.security.settings import Lls
from dlms.server.connection import ServerConnection
from dlms.server.objects import CosemObject, constant
from dlms.server.profile import ProfileObject
from dlms.server.server import MeterServer
from dlms.simulator.meter import device_name
from dlms.xdlms.apdu.common import Result

PASSWORD = b"world-lls"
PROFILE = Obis.parse("1.0.99.1.0.255")
REGISTER = AttributeRef(3, Obis.parse("1.0.1.8.0.255"), 2)
CLOCK_COLUMN = CaptureObject(AttributeRef(8, CLOCK_OBIS, 2))
BERLIN = ZoneInfo("Europe/Berlin")
WATT_HOUR = 30
FIRST_VALUE = 10_000_000  # of the first meter, and so on
STEP_WH = 7  # what a row adds to the one before


@dataclass(frozen=True, slots=True)
class Clockwork:
    """How a meter tells the time. `zone`: of its local time; `deviation`: whether its time stamps name it."""

    zone: ZoneInfo | None = None
    deviation: bool = True

    def stamp(self, moment: datetime) -> CosemDateTime:
        local = moment.astimezone(self.zone or UTC)
        cosem = CosemDateTime.from_datetime(local)
        if self.deviation:
            return cosem
        return replace(cosem, deviation=DEVIATION_UNKNOWN, status=STATUS_UNKNOWN)


@dataclass(frozen=True, slots=True)
class Measured:
    """A row as the meter captured it. `moment`: by the meter's own clock, as an instant."""

    value: int
    stamp: bytes
    moment: datetime
    true_time: float


class WorldMeter:
    """One meter. `civil` gives true civil time in seconds since the epoch."""

    def __init__(
        self,
        serial: int,
        civil: Callable[[], float],
        *,
        clockwork: Clockwork,
        period_s: int,
        entries: int,
        compress: str = "",
        backlog_s: float = 0.0,
    ) -> None:
        """`backlog_s`: for how long it has been measuring before the world begins."""
        self.serial = serial
        self.id = device_name(serial)
        self.measured: list[Measured] = []
        self.set_off_s = 0.0  # how far its clock is from the truth
        self.powered = True
        self._civil = civil
        self._clockwork = clockwork
        self.period_s = period_s
        self._compress = compress
        self._due = self._next_due() - backlog_s // period_s * period_s
        self._value = FIRST_VALUE * serial
        self._profile = ProfileObject(
            PROFILE, (CLOCK_COLUMN, CaptureObject(REGISTER)), period_s=period_s, entries=entries
        )
        self._profile_read = self._profile.item.readers[2]
        self._profile.item.readers[2] = self._buffer
        self.server = MeterServer(self._objects(), auth=Lls(PASSWORD))
        self._connection = ServerConnection(self.server)

    # ---- talking, as the base node wants it

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        if not self.powered:
            return []
        self.tick()
        return self._connection.receive_apdu(client, apdu, now)

    def forget_clients(self) -> None:
        self._connection.forget()

    # ---- living

    def tick(self) -> None:
        """Capture what is due by the meter's clock."""
        while self._due <= self._now_s():
            if self.powered:
                self._capture(self._due)
            self._due += self.period_s

    def set_clock(self, off_s: float) -> None:
        """Somebody sets the meter's clock; it goes on with the next full period of its new time."""
        self.tick()
        self.set_off_s = off_s
        self._due = self._next_due()

    def switch_power(self, *, on: bool) -> None:
        self.tick()
        self.powered = on
        self.forget_clients()

    # ---- inside

    def _now_s(self) -> float:
        return self._civil() + self.set_off_s

    def _next_due(self) -> float:
        return (self._now_s() // self.period_s + 1) * self.period_s

    def _capture(self, due: float) -> None:
        moment = datetime.fromtimestamp(due, UTC)
        self._value += STEP_WH
        stamp = self._stamp(due)
        self._profile.capture([axdr.octets(stamp), axdr.u32(self._value)])
        self.measured.append(Measured(self._value, stamp, moment, due - self.set_off_s))

    def _stamp(self, seconds: float) -> bytes:
        return self._clockwork.stamp(datetime.fromtimestamp(seconds, UTC)).emit()

    def _objects(self) -> list[CosemObject]:
        scaler_unit = axdr.structure(axdr.i8(0), axdr.enum(WATT_HOUR))
        register = CosemObject(REGISTER.class_id, REGISTER.obis)
        register.readers = {2: lambda _: axdr.u32(self._value), 3: constant(scaler_unit)}
        clock = CosemObject(8, CLOCK_OBIS)
        clock.readers = {
            2: lambda _: axdr.octets(self._clockwork.stamp(datetime.fromtimestamp(self._now_s(), UTC)).emit())
        }
        name = CosemObject(1, Obis.parse("0.0.42.0.0.255"))
        name.readers = {2: constant(axdr.octets(self.id.encode()))}
        return [register, clock, name, self._profile.item]

    def _buffer(self, selection: Selection | None) -> Result:
        """The rows that are asked for; where the meter compresses, values that follow from the row before are not
        said again."""
        found = self._profile_read(selection)
        if not self._compress or not isinstance(found, Data):
            return found
        rows: list[Data] = []
        before: list[Data] = []
        for row in found.members():
            cells = list(row.members())
            if before and len(cells) == 2:
                rows.append(axdr.structure(self._later(before[0], cells[0]), _delta(before[1], cells[1])))
            else:
                rows.append(row)
            before = cells
        return axdr.array(rows)

    def _later(self, before: Data, cell: Data) -> Data:
        """Null where a reader can work out the time: one period after the row before."""
        follows = CosemDateTime.parse(before.octets()).local()
        local = CosemDateTime.parse(cell.octets()).local()
        if follows is None or local is None or "clock" not in self._compress:
            return cell
        same_tail = before.octets()[9:] == cell.octets()[9:]
        return axdr.null() if same_tail and local - follows == timedelta(seconds=self.period_s) else cell


def _delta(before: Data, cell: Data) -> Data:
    difference = cell.integer() - before.integer()
    return axdr.null() if difference == 0 else Data(axdr.Tag.DELTA_INTEGER, difference)
