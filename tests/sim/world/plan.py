"""What happens in one world: drawn from its seed, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from dlms.cosem.profile import FIFO, LIFO

LARGEST = 3  # sort method: the row with the largest value comes first

HOUR_S, DAY_S = 3600.0, 86_400.0
# Days around which worlds begin: the two switches of Central Europe, a change of year, and a day like any other.
STARTS = (
    datetime(2026, 10, 24, 12, tzinfo=UTC),
    datetime(2027, 3, 27, 12, tzinfo=UTC),
    datetime(2026, 12, 31, 6, tzinfo=UTC),
    datetime(2026, 11, 10, 3, tzinfo=UTC),
)
TROUBLE_DAYS = 2.0
RING_S = 3 * DAY_S  # what a buffer holds that is full in the middle of a world
SETTLE_DAYS = 1.5  # after the trouble: what can be made up is made up in this time


@dataclass(frozen=True, slots=True, order=True)
class Happening:
    """`what` at `at` seconds after the beginning; `meter` is an index, `amount` its strength or length."""

    at: float
    what: str
    meter: int = 0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Calendar:
    """Runs at these hours and minutes of local time."""

    fields: str
    hours: tuple[int, ...]
    minutes: tuple[int, ...] = (0,)


ALL_DAY = tuple(range(24))
# Times that do not exist, and that exist twice, where clocks are set; each hour and each quarter; midnight.
CALENDARS = (
    Calendar("30 2 * * *", (2,), (30,)),
    Calendar("*/30 * * * *", ALL_DAY, (0, 30)),
    Calendar("0 */3 * * *", tuple(range(0, 24, 3))),
    Calendar("15 1-4 * * *", (1, 2, 3, 4), (15,)),
    Calendar("0 0 * * *", (0,)),
    Calendar("5,35 0,2,3,12 * * *", (0, 2, 3, 12), (5, 35)),
)
BERLIN = ZoneInfo("Europe/Berlin")
ZONE = "CET-1CEST,M3.5.0,M10.5.0/3"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    start: datetime
    meters: int
    zone: bool
    deviation: bool
    compress: str
    backlog_days: int
    period_s: int
    every_s: int
    register_every_s: int
    loss: float
    trouble: float
    happenings: tuple[Happening, ...] = field(default=())
    ports: int = 1
    calendar: Calendar | None = None  # when registers are read, in place of `register_every_s`
    topology: bool = False  # whether the lists of who hangs on whom are read as well
    keep_forwarded: int = 200
    by_time: bool = False  # whether meters select rows of a profile by their time alone
    packed_in_buffer: bool = False  # rows are relative to the one in front of them in the buffer, if to any
    order: int = FIFO  # of a buffer's rows: its sort method
    ring: bool = False  # the buffer holds `RING_S`, and the oldest rows are overwritten
    bus: bool = False  # HDLC meters on RS-485 behind a terminal server, in place of base nodes
    slow: bool = False  # a line on which a first visit does not end in the time that a visit has

    @property
    def end_s(self) -> float:
        return (TROUBLE_DAYS + SETTLE_DAYS) * DAY_S

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong at the device, its meters and its lines."""
        return not self.loss and not self.trouble and all(one.what in HARMLESS for one in self.happenings)


KINDS = (
    "kill", "kill-in-append", "kill-after-upload", "off", "node-reset", "leave", "mute", "meter-off", "headend-down",
    "meter-clock", "meter-2028", "clock-1970", "line-cut", "silence", "clock-back", "clock-ahead", "store-page",
)  # fmt: skip


# Drawn beside those, from a source of their own: what a seed had before it has still.
RARE_KINDS = ("restore", "store-pages")
# And these from a third one, in half of the worlds: the other half is as it was when faults were found in it.
LATER_KINDS = ("second", "swallow", "refuse")
LATER_WORLDS = (0, 4, 6, 7)  # seeds modulo 8
# What is odd about meters, drawn from a fourth one.
ODD_KINDS = ("ail", "columns")
ODD_WORLDS = (2, 3, 5, 8, 10, 11, 13)  # seeds modulo 16; 8 are calm ones
# What happens to a bus behind a terminal server, which stands in place of a base node.
BUS_KINDS = ("swallow", "hang-up", "refused", "double")
BUS_WORLDS = (9, 25, 32, 41, 57)  # seeds modulo 64; 32 is a calm one
ALL_KINDS = (*KINDS, *RARE_KINDS, *LATER_KINDS, *ODD_KINDS, *BUS_KINDS[1:])
HARMLESS = ("restore", "second", "columns")  # which happen in calm worlds too


def draw(seed: int, kinds: tuple[str, ...] = ALL_KINDS) -> Plan:
    """The plan of this seed. One seed in eight is a calm world, in which everything has to be perfect."""
    pick = random.Random(f"world/{seed}")
    meters = pick.choice((1, 2, 3))
    zone = pick.random() < 0.5
    calm = seed % 8 == 0
    frequent = tuple(kind for kind in kinds if kind in KINDS)
    count = 0 if calm or not frequent else pick.randint(1, 6)
    happenings = [
        Happening(
            round(pick.uniform(0.5 * HOUR_S, TROUBLE_DAYS * DAY_S), 1),
            pick.choice(frequent),
            pick.randrange(meters),
            round(pick.random(), 3),
        )
        for _ in range(count)
    ]
    plan = Plan(
        seed=seed,
        start=pick.choice(STARTS),
        meters=meters,
        zone=zone,
        deviation=pick.random() < 0.6 if zone else True,
        compress=pick.choice(("", "", "delta", "delta+clock")),
        backlog_days=pick.choice((0, 0, 0, 3, 30)),
        period_s=pick.choice((900, 900, 1800, 3600)),
        every_s=pick.choice((3600, 4 * 3600, 6 * 3600)),
        register_every_s=pick.choice((1800, 3600)),
        loss=0.0 if calm else pick.choice((0.0, 0.0, 0.01, 0.03)),
        trouble=0.0 if calm else pick.choice((0.0, 0.05, 0.2)),
    )
    more = random.Random(f"world/{seed}/more")
    plan = replace(
        plan,
        ports=2 if meters > 1 and more.random() < 0.3 else 1,
        calendar=more.choice(CALENDARS) if more.random() < 0.35 else None,
        topology=more.random() < 0.25,
        keep_forwarded=more.choice((200, 2000)),
        happenings=tuple(sorted(happenings + _rare(more, kinds, meters, calm=calm))),
    )
    return _bus(_odd(_later(plan, kinds, calm=calm), kinds, calm=calm), kinds, calm=calm)


def _rare(more: random.Random, kinds: tuple[str, ...], meters: int, *, calm: bool) -> list[Happening]:
    """A head-end that is put back to what it was, which a calm world must bear as well; and a store that loses many
    pages while the head-end has been away for hours, so that something is lost."""
    found: list[Happening] = []
    at, meter, amount = more.uniform(12 * HOUR_S, TROUBLE_DAYS * DAY_S), more.randrange(meters), more.random()
    rare = [kind for kind, share in (("restore", 0.25), ("store-pages", 0.1)) if more.random() < share]
    if "restore" in rare and "restore" in kinds:
        found.append(Happening(round(at, 1), "restore", meter, round(amount, 3)))
    if "store-pages" in rare and "store-pages" in kinds and not calm:
        away = more.uniform(2 * HOUR_S, 10 * HOUR_S)
        found.append(Happening(round(at - away, 1), "headend-down", meter, 1.0))
        found.append(Happening(round(at, 1), "store-pages", meter, round(amount, 3)))
    return found


def _later(plan: Plan, kinds: tuple[str, ...], *, calm: bool) -> Plan:
    """What worlds have learned last: meters that select by time alone, a line that is too slow for a first visit, a
    second daemon, a line that swallows what it is given until it is opened anew, a meter that has another password."""
    if plan.seed % 8 not in LATER_WORLDS:
        return plan
    pick = random.Random(f"world/{plan.seed}/later")
    by_time, slow = pick.random() < 0.5, pick.random() < 0.12
    found = [
        _some_time(pick, plan, kind)
        for kind, share in (("second", 0.4), ("swallow", 0.3), ("refuse", 0.3))
        if pick.random() < share and kind in kinds and (not calm or kind in HARMLESS)
    ]
    return replace(
        plan,
        by_time=by_time,
        slow=slow,
        backlog_days=30 if slow else plan.backlog_days,
        period_s=900 if slow else plan.period_s,
        happenings=tuple(sorted([*plan.happenings, *found])),
    )


def _odd(plan: Plan, kinds: tuple[str, ...], *, calm: bool) -> Plan:
    """Meters that are less good than others: buffers with the newest row first, or sorted, or overwritten, rows that
    are relative to others which were not asked for, errors in place of values, another column and an empty buffer."""
    if plan.seed % 16 not in ODD_WORLDS:
        return plan
    pick = random.Random(f"world/{plan.seed}/odd")
    order, packed, ring = pick.choice((FIFO, LIFO, LIFO, LARGEST)), pick.random() < 0.5, pick.random() < 0.5
    found = [
        _some_time(pick, plan, kind)
        for kind, share in (("ail", 0.4), ("columns", 0.3))
        if pick.random() < share and kind in kinds and (not calm or kind in HARMLESS)
    ]
    # Rows stamped elsewhere stand elsewhere among sorted ones, and are passed over (docs/collection.md).
    except_for = ("meter-2028", "meter-clock") if order == LARGEST else ()
    return replace(
        plan,
        order=order,
        packed_in_buffer=packed,
        ring=ring,
        compress=plan.compress or ("delta+clock" if packed else ""),
        every_s=max(plan.every_s, 4 * 3600) if packed else plan.every_s,  # the whole buffer is read, each time
        backlog_days=3 if ring or packed else plan.backlog_days,
        happenings=tuple(one for one in sorted([*plan.happenings, *found]) if one.what not in except_for),
    )


def _bus(plan: Plan, kinds: tuple[str, ...], *, calm: bool) -> Plan:
    """Meters on a bus behind a terminal server, that hangs up, refuses, swallows, and is back; and two of them at one
    address."""
    if plan.seed % 64 not in BUS_WORLDS:
        return plan
    pick = random.Random(f"world/{plan.seed}/bus")
    found = [_some_time(pick, plan, kind) for kind in BUS_KINDS if pick.random() < 0.5 and kind in kinds and not calm]
    return replace(plan, bus=True, slow=False, happenings=tuple(sorted([*plan.happenings, *found])))


def _some_time(pick: random.Random, plan: Plan, kind: str) -> Happening:
    """It happens to one of the meters, while there is trouble."""
    at = round(pick.uniform(0.5 * HOUR_S, TROUBLE_DAYS * DAY_S), 1)
    return Happening(at, kind, pick.randrange(plan.meters), round(pick.random(), 3))


def runs_of(plan: Plan, start: float, until: float) -> Sequence[int]:
    """The runs of the registers' task, reckoned with the tz database, which the device does not have."""
    calendar = plan.calendar
    if calendar is None:
        every = plan.register_every_s
        return range(int(start) // every * every, int(until), every)
    found: set[int] = set()
    first = datetime.fromtimestamp(start, UTC).date() - timedelta(days=1)
    for day in range(9):
        for hour in calendar.hours:
            for minute in calendar.minutes:
                local = datetime.combine(first + timedelta(days=day), time(hour, minute), BERLIN)
                both = len(calendar.hours) == len(ALL_DAY)  # every hour, and not that one: also the second time
                found |= {int(one.timestamp()) for one in (local, *([local.replace(fold=1)] if both else []))}
    return sorted(run for run in found if start <= run < until)
