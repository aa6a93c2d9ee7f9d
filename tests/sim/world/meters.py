"""The meters of the world: a load profile and a register, and a record of what was really measured.

Every captured row has a value that no other row of that meter has. So a row that reaches the head-end can be told from
every other, whatever time it claims.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import DataAccessResult
from dlms.cosem.obis import AttributeRef, Obis, Selection
from dlms.cosem.profile import CLOCK_OBIS, FIFO, LIFO, SELECT_ENTRY, CaptureObject
from dlms.cosem.time import DEVIATION_UNKNOWN, STATUS_UNKNOWN, CosemDateTime
from dlms.security.settings import Lls
from dlms.server.connection import ServerConnection
from dlms.server.objects import CosemObject, constant
from dlms.server.profile import ProfileObject
from dlms.server.server import MeterServer
from dlms.simulator.meter import device_name
from dlms.xdlms.apdu.common import AccessError, Result
from tests.sim.world.plan import LARGEST

CLIENT = 16
AARQ = b"\x60"  # the first octet of a request for an association
PASSWORD, OTHER_PASSWORD = b"world-lls", b"not-world-lls"
PROFILE = Obis.parse("1.0.99.1.0.255")
REGISTER = AttributeRef(3, Obis.parse("1.0.1.8.0.255"), 2)
CLOCK_COLUMN = CaptureObject(AttributeRef(8, CLOCK_OBIS, 2))
WATT_HOUR = 30
SECOND = AttributeRef(3, Obis.parse("1.0.2.8.0.255"), 2)
SECOND_MORE = 2_000_000_000  # what it is ahead of the first one
FIRST_VALUE = 10_000_000  # of the first meter, and so on
DELTAS = range(-128, 128)
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
class Packing:
    """How a meter keeps and says its rows. `cells`: what of a row is said as what it adds to another, `delta` or
    `delta+clock`; `in_buffer`: that other is the one in front of it in the buffer, and not in the answer; `order` of
    the rows, a sort method; `by_time`: they are selected by their time alone."""

    cells: str = ""
    in_buffer: bool = False
    order: int = FIFO
    by_time: bool = False


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
        packing: Packing,
        backlog_s: float = 0.0,
    ) -> None:
        """`backlog_s`: for how long it has been measuring before the world begins."""
        self.serial = serial
        self.id = device_name(serial)
        self.measured: list[Measured] = []
        self.set_off_s = 0.0  # how far its clock is from the truth
        self.powered = True
        self.refuses = self.refused = False  # the password; `refused`: when it was asked last
        self.ails = 0.0  # the share of reads that it answers with an error
        self.changed_at = -math.inf  # when its buffer was cleared last, by true civil time
        self.disturbed_at = -math.inf  # when something happened to it last, by true civil time
        self.disturbances = 0
        self.read_at = self.erred_at = -math.inf  # when its register was read last, by true civil time, or was not
        self._packing = packing
        self._entries = entries
        self._pick = random.Random(f"meter/{serial}")
        self._civil = civil
        self._clockwork = clockwork
        self.period_s = period_s
        self._due = self._next_due() - backlog_s // period_s * period_s
        self._value = FIRST_VALUE * serial
        self._profile = self._new_profile((CLOCK_COLUMN, CaptureObject(REGISTER)))
        self.server = MeterServer(self._objects(), auth=Lls(PASSWORD))
        self._connection = ServerConnection(self.server)

    # ---- talking, as the base node wants it

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        if not self.powered:
            return []
        self.tick()
        if client == CLIENT and apdu[:1] == AARQ:
            self.refused = self.refuses
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

    def disturb(self) -> None:
        """Something happens to it: to say how it is now will take the device a while."""
        self.disturbed_at = self._civil()
        self.disturbances += 1

    def refuse(self, *, refuses: bool) -> None:
        """Somebody gives it another password, or the right one again."""
        self.refuses = refuses
        self.server.change_auth(CLIENT, Lls(OTHER_PASSWORD if refuses else PASSWORD))
        self.forget_clients()
        self.disturb()

    def capture_more(self) -> None:
        """Somebody sets the capture objects: a register more, in front of the one that there was, and an empty buffer
        (Blue Book 4.3.6)."""
        self.tick()
        self._profile = self._new_profile((CLOCK_COLUMN, CaptureObject(SECOND), CaptureObject(REGISTER)))
        self.server.add(self._profile.item)
        self.changed_at = self._civil()

    def ail(self, share: float) -> None:
        """So much of what it is asked for it answers with an error, from now on."""
        self.ails = share
        self.disturb()

    def switch_power(self, *, on: bool) -> None:
        self.tick()
        self.powered = on
        self.forget_clients()
        self.disturb()

    # ---- inside

    def _now_s(self) -> float:
        return self._civil() + self.set_off_s

    def _next_due(self) -> float:
        return (self._now_s() // self.period_s + 1) * self.period_s

    def _capture(self, due: float) -> None:
        moment = datetime.fromtimestamp(due, UTC)
        self._value += STEP_WH
        stamp = self._stamp(due)
        second = [axdr.u32(SECOND_MORE + self._value)] if len(self._profile.columns) > 2 else []
        self._profile.capture([axdr.octets(stamp), *second, axdr.u32(self._value)])
        self.measured.append(Measured(self._value, stamp, moment, due - self.set_off_s))

    def _stamp(self, seconds: float) -> bytes:
        return self._clockwork.stamp(datetime.fromtimestamp(seconds, UTC)).emit()

    def _objects(self) -> list[CosemObject]:
        scaler_unit = axdr.structure(axdr.i8(0), axdr.enum(WATT_HOUR))
        register = CosemObject(REGISTER.class_id, REGISTER.obis)
        register.readers = {2: lambda _: self._register(REGISTER), 3: constant(scaler_unit)}
        second = CosemObject(SECOND.class_id, SECOND.obis)
        second.readers = {2: lambda _: self._register(SECOND), 3: constant(scaler_unit)}
        clock = CosemObject(8, CLOCK_OBIS)
        clock.readers = {
            2: lambda _: axdr.octets(self._clockwork.stamp(datetime.fromtimestamp(self._now_s(), UTC)).emit())
        }
        name = CosemObject(1, Obis.parse("0.0.42.0.0.255"))
        name.readers = {2: constant(axdr.octets(self.id.encode()))}
        return [register, second, clock, name, self._profile.item]

    def _new_profile(self, columns: Sequence[CaptureObject]) -> ProfileObject:
        profile = ProfileObject(PROFILE, columns, period_s=self.period_s, entries=self._entries)
        read = profile.item.readers[2]
        profile.item.readers[2] = lambda selection: self._buffer(read, selection)
        profile.item.readers[5] = constant(axdr.enum(self._packing.order))
        return profile

    def _register(self, of: AttributeRef) -> Result:
        if self._pick.random() < self.ails:
            self.erred_at = self._civil()
            return AccessError(DataAccessResult.TEMPORARY_FAILURE)
        if of == SECOND:
            return axdr.u32(SECOND_MORE + self._value)
        self.read_at = self._civil()
        return axdr.u32(self._value)

    def _buffer(self, read: Callable[[Selection | None], Result], selection: Selection | None) -> Result:
        """The rows that are asked for; where the meter compresses, values that follow from the row before are not
        said again."""
        packing = self._packing
        if self._pick.random() < self.ails:
            return AccessError(DataAccessResult.HARDWARE_FAULT)
        by_entry = selection is not None and selection.selector == SELECT_ENTRY
        if by_entry and (packing.by_time or packing.order != FIFO):
            return AccessError(DataAccessResult.TYPE_UNMATCHED)
        found = read(selection)
        if not isinstance(found, Data) or (not packing.cells and packing.order == FIFO):
            return found
        rows = self._ordered([row.members() for row in found.members()])
        if not packing.cells or (rows and len(rows[0]) != len(self._profile.columns)):
            return axdr.array([axdr.structure(*row) for row in rows])
        fronts: Sequence[Sequence[Data] | None] = [None, *rows[:-1]]
        if packing.in_buffer:
            buffer = self._ordered(self._profile.rows)
            front = {row[-1].value: before for before, row in pairwise(buffer)}  # no value is there twice
            fronts = [front.get(row[-1].value) for row in rows]
        return axdr.array([
            axdr.structure(*row) if before is None else self._packed(before, row)
            for before, row in zip(fronts, rows, strict=False)
        ])  # fmt: skip

    def _ordered(self, rows: Sequence[tuple[Data, ...]]) -> list[tuple[Data, ...]]:
        if self._packing.order == LARGEST:
            return sorted(rows, key=lambda row: -row[-1].integer())
        return list(rows if self._packing.order == FIFO else reversed(rows))

    def _packed(self, before: Sequence[Data], row: Sequence[Data]) -> Data:
        return axdr.structure(self._later(before[0], row[0]), *map(_delta, before[1:], row[1:]))

    def _later(self, before: Data, cell: Data) -> Data:
        """Null where a reader can work out the time: one period after the row before, or, where the newest comes first,
        one before."""
        step_s = {FIFO: self.period_s, LIFO: -self.period_s}.get(self._packing.order)
        follows = CosemDateTime.parse(before.octets()).local()
        local = CosemDateTime.parse(cell.octets()).local()
        if follows is None or local is None or step_s is None or "clock" not in self._packing.cells:
            return cell
        same_tail = before.octets()[9:] == cell.octets()[9:]
        return axdr.null() if same_tail and local - follows == timedelta(seconds=step_s) else cell


def _delta(before: Data, cell: Data) -> Data:
    difference = cell.integer() - before.integer()
    if difference not in DELTAS:  # rows that were chosen by their time need not be neighbours
        return cell
    return axdr.null() if difference == 0 else Data(axdr.Tag.DELTA_INTEGER, difference)
