"""The objects of a simulated meter that change as time passes.

Events have the numbers of the standard event log of IDIS (package 2, event codes).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import CLOCK_CLASS, CLOCK_OBIS, PROFILE_CLASS, CaptureObject
from dlms.cosem.time import CosemDateTime
from dlms.server.clock import ClockObject
from dlms.server.control import DisconnectControl, Limiter, ScriptTable, SingleActionSchedule, action, script
from dlms.server.image import ImageTransfer
from dlms.server.objects import CosemObject
from dlms.server.profile import ProfileObject
from dlms.server.push import PushSetup
from dlms.server.server import MeterServer
from dlms.server.view import association_object
from dlms.simulator.tariff import ActivityCalendar, SpecialDays
from dlms.xdlms.apdu.common import Item
from dlms.xdlms.apdu.notify import EventNotification, Notification

CONTACTOR_CLASS, LIMITER_CLASS = 70, 71
DISCONNECT_SCRIPTS, IMAGE_SCRIPTS = Obis.parse("0.0.10.0.106.255"), Obis.parse("0.0.10.0.107.255")
DISCONNECT_SCHEDULE, IMAGE_SCHEDULE = Obis.parse("0.0.15.0.1.255"), Obis.parse("0.0.15.0.2.255")
LIMITER = Obis.parse("0.0.17.0.0.255")
POWER = AttributeRef(3, Obis.parse("1.0.1.7.0.255"), 2)
EVENT_REF = AttributeRef(1, Obis.parse("0.0.96.11.0.255"), 2)
STANDARD_LOG = Obis.parse("0.0.99.98.0.255")

CLOCK_COLUMN = CaptureObject(AttributeRef(CLOCK_CLASS, CLOCK_OBIS, 2))
IMPORTED = CaptureObject(AttributeRef(3, Obis.parse("1.0.1.8.0.255"), 2))
EXPORTED = CaptureObject(AttributeRef(3, Obis.parse("1.0.2.8.0.255"), 2))
EVENT = CaptureObject(EVENT_REF)

# Columns, capture period in seconds and initial number of rows, by the code of a profile; others are event logs.
PROFILES: dict[str, tuple[tuple[CaptureObject, ...], int, int]] = {
    "1.0.99.1.0.255": ((CLOCK_COLUMN, IMPORTED, EXPORTED), 900, 192),
    "1.0.99.2.0.255": ((CLOCK_COLUMN, IMPORTED, EXPORTED), 86_400, 31),
    "0.0.98.1.0.255": ((CLOCK_COLUMN, IMPORTED, EXPORTED), 30 * 86_400, 12),
}
EVENT_LOG = ((CLOCK_COLUMN, EVENT), 0, 5)
EVENT_SPACING_S = 36_000
PROFILE_ENTRIES = 4000

# The share of `advance(wh)` that an energy register gains, in percent: imports count in tariff 1, exports are a fifth.
ENERGY_SHARES = {
    "1.0.1.8.0.255": 100, "1.0.1.8.1.255": 100, "1.0.15.8.0.255": 120, "1.0.16.8.0.255": 80,
    "1.0.2.8.0.255": 20, "1.0.2.8.1.255": 20, "1.0.9.8.0.255": 105, "1.0.10.8.0.255": 21,
    "1.0.3.8.0.255": 30, "1.0.3.8.1.255": 30, "1.0.5.8.0.255": 30, "1.0.4.8.0.255": 5, "1.0.4.8.1.255": 5,
    "1.0.8.8.0.255": 5,
}  # fmt: skip


class Event(enum.IntEnum):
    """The events of the log."""

    POWER_DOWN = 1
    POWER_UP = 2
    CLOCK_BEFORE = 4  # the clock was adjusted: logged with the old time
    CLOCK_AFTER = 5  # logged with the new time
    FIRMWARE_READY = 17
    FIRMWARE_ACTIVATED = 18
    COVER_REMOVED = 40
    COVER_CLOSED = 41
    DISCONNECTED = 62
    CONNECTED = 63


class DynamicObjects:
    """The objects and their changes. `now` returns civil time; `send` takes notifications.

    Without `dynamic` nothing changes by itself, and nothing is logged.
    """

    def __init__(
        self,
        server: MeterServer,
        classes: set[tuple[int, Obis]],
        serial: int,
        now: Callable[[], datetime],
        send: Callable[[Notification], None],
        *,
        dynamic: bool = True,
    ) -> None:
        self._dynamic = dynamic
        self._server = server
        self._serial = serial
        self._send = send
        self.clock = ClockObject(now, adjusted=self._clock_adjusted)
        self.contactor = DisconnectControl(switched=self._switched)
        self.images = ImageTransfer(activated=lambda _image: self.log(Event.FIRMWARE_ACTIVATED))
        self.calendar = ActivityCalendar(self.clock.time)
        self.special_days = SpecialDays()
        self.profiles: dict[Obis, ProfileObject] = {}
        self._due: dict[Obis, int] = {}  # when the next row is captured, in seconds of the epoch
        self._periods: dict[Obis, int] = {}
        self._last_event = 0
        self._event_object(classes)
        for class_id, obis in sorted(classes):
            if class_id == PROFILE_CLASS:
                self._add_profile(obis)
        self.push = PushSetup(server, [CLOCK_COLUMN, IMPORTED, EVENT], send)
        self._timed = self._add_control(classes)
        self._add_others(classes)
        self._ticked = self.clock.time()

    # ---- as time passes

    def tick(self) -> None:
        """Catch up with the clock."""
        if not self._dynamic:
            return
        now, since = self.clock.time(), self._ticked
        self._ticked = now
        for obis in self._due:
            self._catch_up(obis, int(now.timestamp()))
        for item in self._timed if now > since else ():
            item.run(since, now)
        self.calendar.tick()

    def _catch_up(self, obis: Obis, now_s: int) -> None:
        period_s = self._periods[obis]
        first = max(self._due[obis], now_s - PROFILE_ENTRIES * period_s)
        first += -first % period_s
        for moment_s in range(first, now_s + 1, period_s):
            self.profiles[obis].capture(self._sample(obis, datetime.fromtimestamp(moment_s, UTC)))
        self._due[obis] = max(self._due[obis], now_s // period_s * period_s + period_s)

    def log(self, event: Event, when: datetime | None = None) -> None:
        """Add a row to the event log, set the object of the event code, and notify the clients."""
        if not self._dynamic:
            return
        moment = when or self.clock.time()
        self._last_event = event
        log = self.profiles.get(STANDARD_LOG)
        if log is not None:
            log.capture([_time(moment), axdr.u8(event)])
        self._send(EventNotification(CosemDateTime.from_datetime(moment), EVENT_REF, axdr.u8(event)))

    def _clock_adjusted(self, before: datetime, after: datetime) -> None:
        """Log the change. Profiles continue at the next full period of the new time; the gap is not filled."""
        self._ticked = after
        for obis, period_s in self._periods.items():
            self._due[obis] = int(after.timestamp()) // period_s * period_s + period_s
        self.log(Event.CLOCK_BEFORE, before)
        self.log(Event.CLOCK_AFTER, after)

    def _switched(self, connected: bool) -> None:
        self.log(Event.CONNECTED if connected else Event.DISCONNECTED)

    # ---- profiles

    def _add_profile(self, obis: Obis) -> None:
        columns, period_s, count = PROFILES.get(str(obis), EVENT_LOG)
        profile = ProfileObject(
            obis,
            columns,
            period_s=period_s,
            entries=PROFILE_ENTRIES,
            sample=lambda: self._sample(obis, self.clock.time()),
        )
        self.profiles[obis] = profile
        self._fill(profile, obis, period_s, count)
        if period_s:
            self._periods[obis] = period_s
            self._due[obis] = int(self.clock.time().timestamp()) // period_s * period_s + period_s
        self._server.add(profile.item)

    def _sample(self, obis: Obis, moment: datetime) -> list[Data]:
        """A row of present values."""
        columns = self.profiles[obis].columns
        return [_time(moment) if column.is_clock else self._captured(column) for column in columns]

    def _captured(self, column: CaptureObject) -> Data:
        value = self._server.get(Item(column.ref))
        return value if isinstance(value, Data) else axdr.null()

    def _fill(self, profile: ProfileObject, obis: Obis, period_s: int, count: int) -> None:
        """Fill in the initial rows, backwards from the newest, which agrees with the registers."""
        spacing_s = period_s or EVENT_SPACING_S
        last = int(self.clock.time().timestamp()) // spacing_s * spacing_s
        rng = Random(f"{self._serial}/{obis}")  # noqa: S311 (values to look at, not secrets)
        totals = [self._total(column) for column in profile.columns[1:]] if period_s else []
        rows: list[list[Data]] = []
        for index in range(count):
            row = [_time(datetime.fromtimestamp(last - index * spacing_s, UTC))]
            if period_s:
                row += [axdr.u32(total) for total in totals]
                totals = [max(0, total - rng.randrange(20, 200)) for total in totals]
            else:
                row.append(axdr.u8(rng.randrange(1, 40)))
            rows.append(row)
        for row in reversed(rows):
            profile.capture(row)

    def _total(self, column: CaptureObject) -> int:
        value = self._server.get(Item(column.ref))
        return value.integer() if isinstance(value, Data) else 1_000_000

    # ---- the others

    def _event_object(self, classes: set[tuple[int, Obis]]) -> None:
        if (EVENT_REF.class_id, EVENT_REF.obis) not in classes:
            item = CosemObject(EVENT_REF.class_id, EVENT_REF.obis)
            item.readers[2] = lambda _selection: axdr.u8(self._last_event)
            self._server.add(item)

    def _add_control(self, classes: set[tuple[int, Obis]]) -> list[SingleActionSchedule | Limiter]:
        """Add the scripts and schedules of contactor and image, and the limiter if the list has one."""
        server = self._server
        contactor, image = str(self.contactor.item.obis), str(self.images.item.obis)
        switching = [script(number, action(CONTACTOR_CLASS, contactor, number)) for number in (1, 2)]
        activating = [script(1, action(18, image, 4))]
        for table in (
            ScriptTable(server, DISCONNECT_SCRIPTS, switching),
            ScriptTable(server, IMAGE_SCRIPTS, activating),
        ):
            server.add(table.item)
        timed: list[SingleActionSchedule | Limiter] = [
            SingleActionSchedule(server, DISCONNECT_SCHEDULE, DISCONNECT_SCRIPTS, 1),
            SingleActionSchedule(server, IMAGE_SCHEDULE, IMAGE_SCRIPTS, 1),
        ]
        threshold = server.get(Item(AttributeRef(LIMITER_CLASS, LIMITER, 3)))
        if (LIMITER_CLASS, LIMITER) in classes and isinstance(threshold, Data):
            timed.append(Limiter(server, LIMITER, POWER, threshold, DISCONNECT_SCRIPTS))
        for item in timed:
            server.add(item.item)
        return timed

    def _add_others(self, classes: set[tuple[int, Obis]]) -> None:
        server = self._server
        if (CLOCK_CLASS, CLOCK_OBIS) in classes:
            server.add(self.clock.item)
        server.add(self.contactor.item)
        for item in (self.images.item, self.push.item, self.calendar.item, self.special_days.item):
            server.add(item)
        server.add(association_object(server))


def _time(moment: datetime) -> Data:
    return axdr.octets(CosemDateTime.from_datetime(moment).emit())
