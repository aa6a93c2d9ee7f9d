"""Worlds in which orders to meters are asked for, while everything goes wrong that goes wrong in worlds.

What a meter was told is counted at the meter, which no loss and no kill of the daemon takes back. In the end every
order is over, has been carried out at most once on each meter, and its result says so.
`python -m tests.sim.world.orders` runs many.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from agent.metering.orders.images import ImageStore
from agent.metering.orders.journal import Journal
from agent.metering.orders.order import OrderRefusedError, Permission
from agent.metering.orders.order_book import JournalError, OrderBook, Request
from dlms import axdr
from dlms.axdr import Data
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.obis import Obis
from dlms.server.image import ImageTransfer
from dlms.server.objects import CosemObject
from dlms.simulator.tariff import ActivityCalendar, SpecialDays
from dlms.xdlms.apdu.common import ActionOutcome
from tests.sim.world.judges import verdict as collection
from tests.sim.world.meters import WorldMeter
from tests.sim.world.network import Killed
from tests.sim.world.plan import DAY_S, HOUR_S, TROUBLE_DAYS, Plan, draw
from tests.sim.world.world import World
from updateagent.disk import RealDisk

ORDERS_MAX = 14
COUNTER = "1/0.0.96.50.0.255"
IMAGE_OCTETS = 5000  # 40 blocks
KINDS = ("action", "set", "special-days", "tariff", "firmware")
SHORT, LONG = 300.0, 0.6 * DAY_S
STRIKE_S = 0.3  # so long after a meter was told something the daemon is killed at the latest
OFF_S = 60.0
AGAIN_S = 120.0  # whoever asks asks again, when there was no answer
DAYS = [{"id": 1, "actions": [{"at": "00:00", "script": 1}]}]
WEEKS = [{"name": "W", "days": [1] * 7}]
SEASONS = [{"name": "S", "start": "****-01-01", "week": "W"}]


@dataclass(frozen=True, slots=True)
class Asked:
    """One order: `number` is in what it does, so that a meter can tell which order it was."""

    number: int
    kind: str
    at: float
    meters: tuple[int, ...]
    deadline_s: float
    priority: int
    cancelled_after_s: float | None

    @property
    def id(self) -> str:
        return f"o{self.number}"

    def parameters(self) -> dict[str, Any]:
        if self.kind == "action":
            return {"code": f"{COUNTER}/1", "value": ["u16", self.number]}
        if self.kind == "set":
            return {"code": f"{COUNTER}/2", "value": ["u16", self.number]}
        if self.kind == "special-days":
            return {
                "insert": [{"index": 100 * self.number + day, "date": self._date(day), "day": 1} for day in range(3)]
            }
        if self.kind == "tariff":
            return {"name": f"T{self.number}", "seasons": SEASONS, "weeks": WEEKS, "days": DAYS}
        image = self.image()
        digest = hashlib.sha256(image).hexdigest()
        url = f"https://images.example/{self.number}"
        return {"url": url, "sha256": digest, "size": len(image), "identifier": f"F{self.number}"}

    def _date(self, day: int) -> str:
        return f"{2030 + self.number:04}-0{day + 1}-01"

    def image(self) -> bytes:
        return random.Random(self.number).randbytes(IMAGE_OCTETS)


def draw_orders(plan: Plan) -> list[Asked]:
    """The orders of the world of this plan."""
    pick = random.Random(f"world/{plan.seed}/orders")
    return [
        Asked(
            number,
            pick.choice(KINDS),
            round(pick.uniform(HOUR_S, TROUBLE_DAYS * DAY_S), 1),
            tuple(sorted(pick.sample(range(plan.meters), pick.randint(1, plan.meters)))),
            pick.choice((SHORT, HOUR_S, LONG)),
            pick.choice((1, 5, 9)),
            pick.uniform(0, HOUR_S) if pick.random() < 0.1 else None,
        )
        for number in range(1, pick.randint(2, ORDERS_MAX) + 1)
    ]


@dataclass(slots=True)
class Told:
    """What one meter has carried out: how often, by the number of the order."""

    actions: Counter[int] = field(default_factory=Counter)
    writes: Counter[int] = field(default_factory=Counter)
    inserted: Counter[int] = field(default_factory=Counter)
    calendars: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    answers_lost: bool = False
    countdown: int = 0
    strike: Callable[[], None] | None = None

    def arm(self, countdown: int, strike: Callable[[], None]) -> None:
        """`strike` when it has been told so many things more."""
        self.countdown, self.strike = countdown, strike

    def tell(self) -> None:
        """It is told something."""
        if self.strike is not None and self.countdown == 0:
            strike, self.strike = self.strike, None
            strike()
        self.countdown -= 1

    def times(self, asked: Asked) -> list[int]:
        """How often each part of an order was carried out."""
        match asked.kind:
            case "action":
                return [self.actions[asked.number]]
            case "set":
                return [self.writes[asked.number]]
            case "special-days":
                return [self.inserted[100 * asked.number + day] for day in range(3)]
            case "tariff":
                return [self.calendars[f"T{asked.number}"]]
        return [self.images[f"F{asked.number}"]]


def equip(meter: WorldMeter, now: Callable[[], datetime]) -> Told:
    """Give a meter what orders are about."""
    told = Told()
    counter = CosemObject(1, Obis.parse(COUNTER.partition("/")[2]), readers={2: lambda _selection: axdr.u16(0)})

    def write(value: Data) -> DataAccessResult:
        told.tell()
        told.writes[value.integer()] += 1
        return DataAccessResult.SUCCESS

    def call(value: Data | None) -> ActionOutcome:
        told.tell()
        told.actions[value.integer() if value is not None else 0] += 1
        return ActionOutcome(ActionResult.SUCCESS)

    counter.writers, counter.methods = {2: write}, {1: call}
    calendar, days = ActivityCalendar(now), SpecialDays()
    activate, insert = calendar.item.methods[1], days.item.methods[1]

    def activated(value: Data | None) -> ActionOutcome:
        told.tell()
        told.calendars[calendar.attributes[6].octets().decode()] += 1
        return activate(value)

    def inserted(value: Data | None) -> ActionOutcome:
        told.tell()
        told.inserted[value.members()[0].integer() if value is not None else 0] += 1
        return insert(value)

    calendar.item.methods[1], days.item.methods[1] = activated, inserted

    def switched(_image: bytes) -> None:
        told.tell()
        told.images[images.identifier.decode()] += 1

    images = ImageTransfer(activated=switched)
    firmware = CosemObject(
        1, Obis.parse("1.0.0.2.0.255"), readers={2: lambda _selection: axdr.octets(images.identifier)}
    )
    for item in (counter, calendar.item, days.item, images.item, firmware):
        meter.server.add(item)
    receive = meter.receive_apdu

    def answer(client: int, apdu: bytes, now: float) -> list[bytes]:
        answers = receive(client, apdu, now)
        if not told.answers_lost:
            return answers
        told.answers_lost = False
        meter.switch_power(on=False)
        return []

    meter.receive_apdu = answer  # type: ignore[method-assign]
    return told


class KillableDisk(RealDisk):
    """The disk of the journal, at whose write the daemon can be killed: just before it, or just after."""

    kill_in = ""

    def write_durable(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        kill, self.kill_in = self.kill_in, ""
        if kill == "before":
            raise Killed
        super().write_durable(path, data, mode)
        if kill == "after":
            raise Killed


class OrderWorld(World):
    """A world with orders. `accepted` are those that whoever asked was told of."""

    changes_meters = True

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.disk = KillableDisk()
        self.accepted: set[str] = set()
        self.asked = draw_orders(plan)
        super().__init__(plan, folder)
        self.told = [equip(meter, lambda: datetime.fromtimestamp(self.civil(), UTC)) for meter in self.meters]
        for asked in self.asked:
            self.at(asked.at, lambda asked=asked: self._ask(asked))  # type: ignore[misc]
            if asked.cancelled_after_s is not None:
                self.at(asked.at + asked.cancelled_after_s, lambda asked=asked: self._cancel(asked))  # type: ignore[misc]
        if plan.seed % 8:
            self._draw_strikes(random.Random(f"world/{plan.seed}/strikes"))

    def _draw_strikes(self, pick: random.Random) -> None:
        """What strikes while a meter carries out what it was told: at a random moment, nothing would be under way."""
        for asked in self.asked:
            index, after_s = pick.choice(asked.meters), pick.uniform(0.0, STRIKE_S)
            strikes: dict[str, Callable[[], None]] = {
                "nothing": lambda: None,
                "journal": partial(setattr, self.disk, "kill_in", pick.choice(("before", "after"))),
                "kill": partial(self._kill_after, after_s),
                "power": partial(self._cut_off, index),
            }
            strike = strikes[pick.choice(list(strikes))]
            self.at(asked.at, partial(self.told[index].arm, pick.randrange(4), strike))

    def _kill_after(self, seconds: float) -> None:
        self.fate.kill_at = self.clock.now + seconds

    def _cut_off(self, index: int) -> None:
        """The meter has done it, and loses its power before its answer has left."""
        self.told[index].answers_lost = True
        self.later(OFF_S, lambda: self.meters[index].switch_power(on=True))

    def make_orders(self, known: Callable[[], set[str]]) -> OrderBook:
        images = {asked.parameters()["url"]: asked.image() for asked in self.asked if asked.kind == "firmware"}

        def fetch(url: str, into: Path, *, bytes_max: int, stop: object, beat: object) -> tuple[int, str]:
            del bytes_max, stop, beat
            into.write_bytes(images[url])
            return len(images[url]), hashlib.sha256(images[url]).hexdigest()

        self.images = ImageStore(RealDisk(), self.folder / "images", fetch, self.clock)
        self.orders = OrderBook(
            Journal(self.disk, self.folder / "orders"),
            self.clock,
            allowed=list(Permission),
            known=known,
            images=self.images,
        )
        return self.orders

    def _turn(self, end: float) -> None:
        super()._turn(end)
        self.images.step(threading.Event(), lambda: None)

    def _ask(self, asked: Asked) -> None:
        """Ask for it, again and again until there is an answer: the same id is the same order."""
        meters = [self.meters[index].id for index in asked.meters]
        request = Request(asked.id, asked.kind, meters, "world", asked.parameters(), asked.priority, asked.deadline_s)
        try:
            self.orders.submit(request)
        except (OrderRefusedError, JournalError):  # a meter is not known yet, or has left
            self.later(AGAIN_S, lambda: self._ask(asked))
        except Killed:
            self.later(AGAIN_S, lambda: self._ask(asked))
            raise
        else:
            self.accepted.add(asked.id)

    def _cancel(self, asked: Asked) -> None:
        if asked.id in self.accepted:
            self.orders.cancel(asked.id)


def violations(world: OrderWorld) -> list[str]:
    """What is wrong with the orders, one line each; nothing in a good world."""
    wrong: list[str] = []
    for asked in world.asked:
        found: Any = world.orders.describe(asked.id)
        if found is None:
            if asked.id in world.accepted:
                wrong.append(f"{asked.id}: was accepted and is not there")
            if any(any(world.told[index].times(asked)) for index in asked.meters):
                wrong.append(f"{asked.id}: is not there and was carried out")
            continue
        for index, result in zip(asked.meters, found["meters"], strict=True):
            times = world.told[index].times(asked)
            place = f"{asked.id} {asked.kind} on {index}, {result['state']} ({result['error']}), carried out {times}"
            wrong += [f"{place}: {why}" for why in _judged(world, asked, result, times)]
    return wrong


def _judged(world: OrderWorld, asked: Asked, result: dict[str, Any], times: list[int]) -> list[str]:
    state, progress = result["state"], result["progress"]
    wrong: list[str] = []
    if any(count > 1 for count in times):
        wrong.append("more than once")
    if state == "done" and set(times) != {1}:
        wrong.append("done, and it was not")
    if state in ("not reached", "cancelled") and any(times):
        wrong.append("said not to have begun")
    if state == "refused":
        wrong.append("no meter here refuses")
    if state == "incomplete" and (asked.kind not in ("special-days", "tariff", "firmware") or progress is None):
        wrong.append("incomplete, and nothing was sent, or it has one step only")
    if state == "unknown" and asked.kind in ("special-days", "tariff", "firmware") and progress is None:
        wrong.append("unknown, and nothing was sent")
    if state in ("queued", "asking", "sent", "partly done"):
        wrong.append("not over")
    calm = world.plan.seed % 8 == 0
    if calm and asked.cancelled_after_s is None and state != "done" and asked.deadline_s > SHORT:
        wrong.append("in a calm world")
    return wrong


def judge(seed: int) -> tuple[int, list[str]]:
    """What is wrong with the orders of the world of this seed, and with collection beside them.

    An exception of the daemon's code is wrong too.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="orders-", dir=memory) as folder:
        world = OrderWorld(draw(seed), Path(folder))
        try:
            world.run()
            return seed, violations(world) + collection.violations(world)
        except Exception:
            return seed, traceback.format_exc().splitlines()[-6:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.sim.world.orders", description="orders in virtual time, seed by seed")
    parser.add_argument("--seeds", type=int, default=1, help="run so many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    bad = 0
    with ProcessPoolExecutor(options.workers) as pool:
        for seed, wrong in pool.map(judge, range(options.first, options.first + options.seeds)):
            if wrong:
                bad += 1
                sys.stdout.writelines(f"seed {seed}: {line}\n" for line in wrong[:12])
                sys.stdout.flush()
    sys.stdout.write(f"{bad} of {options.seeds} worlds are wrong\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
