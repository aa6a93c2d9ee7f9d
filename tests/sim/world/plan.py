"""What happens in one world: drawn from its seed, and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

HOUR_S, DAY_S = 3600.0, 86_400.0
# Days around which worlds begin: the two switches of Central Europe, a change of year, and a day like any other.
STARTS = (
    datetime(2026, 10, 24, 12, tzinfo=UTC),
    datetime(2027, 3, 27, 12, tzinfo=UTC),
    datetime(2026, 12, 31, 6, tzinfo=UTC),
    datetime(2026, 11, 10, 3, tzinfo=UTC),
)
TROUBLE_DAYS = 2.0
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

    @property
    def end_s(self) -> float:
        return (TROUBLE_DAYS + SETTLE_DAYS) * DAY_S

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong at the device, its meters and its lines."""
        return not self.loss and not self.trouble and all(one.what == "restore" for one in self.happenings)


KINDS = (
    "kill", "kill-in-append", "kill-after-upload", "off", "node-reset", "leave", "mute", "meter-off", "headend-down",
    "meter-clock", "meter-2028", "clock-1970", "line-cut", "silence", "clock-back", "clock-ahead", "store-page",
)  # fmt: skip


# Drawn beside those, from a source of their own: what a seed had before it has still.
RARE_KINDS = ("restore", "store-pages")
ALL_KINDS = (*KINDS, *RARE_KINDS)


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
    return replace(
        plan,
        ports=2 if meters > 1 and more.random() < 0.3 else 1,
        calendar=more.choice(CALENDARS) if more.random() < 0.35 else None,
        topology=more.random() < 0.25,
        keep_forwarded=more.choice((200, 2000)),
        happenings=tuple(sorted(happenings + _rare(more, kinds, meters, calm=calm))),
    )


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
