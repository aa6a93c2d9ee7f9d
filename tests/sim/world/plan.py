"""What happens in one world: drawn from its seed, and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
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

    @property
    def end_s(self) -> float:
        return (TROUBLE_DAYS + SETTLE_DAYS) * DAY_S


KINDS = (
    "kill", "kill-in-append", "kill-after-upload", "off", "node-reset", "leave", "mute", "meter-off", "headend-down",
    "meter-clock", "meter-2028", "clock-1970", "line-cut", "silence", "clock-back", "clock-ahead", "store-page",
)  # fmt: skip


def draw(seed: int, kinds: tuple[str, ...] = KINDS) -> Plan:
    """The plan of this seed. One seed in eight is a calm world, in which everything has to be perfect."""
    pick = random.Random(f"world/{seed}")
    meters = pick.choice((1, 2, 3))
    zone = pick.random() < 0.5
    calm = seed % 8 == 0
    count = 0 if calm or not kinds else pick.randint(1, 6)
    happenings = sorted(
        Happening(
            round(pick.uniform(0.5 * HOUR_S, TROUBLE_DAYS * DAY_S), 1),
            pick.choice(kinds),
            pick.randrange(meters),
            round(pick.random(), 3),
        )
        for _ in range(count)
    )
    return Plan(
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
        happenings=tuple(happenings),
    )
