"""The metering server of the world: the head-end's own database, behind a line that now and then is a bad one."""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from agent.https import HttpsError, Response
from headend.metering import gaps, missing, resend
from headend.metering import readings as metering
from omadm import readings
from omadm.readings import GapReport, Record, ResendOrder
from tests.sim.world.network import Killed

DEVICE = "urn:dcu:world"
URL = "https://headend.example/readings"


class WorldHeadend:
    """`trouble`: the share of requests that something happens to; `down`: none gets through."""

    def __init__(self, pick: random.Random) -> None:
        self.kept: dict[tuple[str, int], Record] = {}
        self.gaps: dict[tuple[str, int], GapReport] = {}  # that it knows of
        self.told: dict[tuple[str, int], GapReport] = {}  # that it ever knew of
        self.different: list[Record] = []  # came under an id that had another content
        self.trouble = 0.0
        self.down = False
        self.kill_after = False  # the daemon dies between our commit and its own
        self._pick = pick
        self._backup: tuple[sqlite3.Connection, dict[tuple[str, int], GapReport], Counter[str]] | None = None
        self.engine = _memory()

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        del method, url
        if self.down or self._happens():
            raise HttpsError("no way to the head-end")
        if self._happens():
            return Response(503, {}, b"busy")
        gzipped = headers is not None and headers.get("Content-Encoding") == "gzip"
        plain = gzip.decompress(body or b"") if gzipped else body or b""
        answer = self._keep(plain)
        if self.kill_after:
            self.kill_after = False
            raise Killed
        if self._happens():
            raise HttpsError("the answer was lost")
        return Response(200, {}, json.dumps(answer).encode())

    def close(self) -> None:
        """There is no connection to keep."""

    def shown(self) -> list[Record]:
        """What the head-end shows: each reading once, with what it says of its trust."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                metering.readings.select().where(metering.readings.c.repeated.is_(False))
            ).mappings()
            return [
                Record(**{name: row[name] for name in Record.__dataclass_fields__ if name != "doubt"}, doubt=None)
                for row in rows
            ]

    def ranges(self) -> list[dict[str, Any]]:
        """What it lists as missing, open and closed."""
        return missing.listing(self.engine, limit=gaps.PAGE_MAX)

    # ---- put back

    def back_up(self) -> None:
        """Keep what there is now."""
        copy = sqlite3.connect(":memory:")
        self._database().backup(copy)
        self._backup = copy, dict(self.gaps), self._newest()

    def restore(self, now: float) -> None:
        """Somebody puts the database back to what was kept, and asks for all that has come since."""
        if self._backup is None:
            return
        copy, self.gaps, had = self._backup
        copy.backup(self._database())
        copy.close()
        with self.engine.begin() as connection:
            for store, last in self._newest().items():
                if had[store] < last:
                    resend.order(connection, DEVICE, ResendOrder(0, store, had[store] + 1, last), now)

    def orders(self) -> list[dict[str, Any]]:
        """What it wanted again, and how that ended."""
        with self.engine.begin() as connection:
            return resend.listing(connection, DEVICE)

    def _newest(self) -> Counter[str]:
        """The highest id that ever came, by store."""
        newest: Counter[str] = Counter()
        for store, record_id in (*self.kept, *self.told):
            newest[store] = max(newest[store], record_id)
        return newest

    def _database(self) -> sqlite3.Connection:
        connection = self.engine.raw_connection().driver_connection
        assert isinstance(connection, sqlite3.Connection)
        return connection

    # ---- inside

    def _keep(self, plain: bytes) -> dict[str, Any]:
        """What the application does with a batch (`headend.metering.app`)."""
        batch = readings.parse(plain)
        for record in batch.records:
            before = self.kept.setdefault((batch.store, record.id), record)
            if before != record:
                self.different.append(record)
        for gap in batch.gaps:
            self.gaps.setdefault((batch.store, gap.id), gap.report)
            self.told.setdefault((batch.store, gap.id), gap.report)
        listed = metering.store(self.engine, batch, 0.0)
        if batch.reports:
            resend.close(self.engine, DEVICE, batch.reports, 0.0)
        orders = resend.open_orders(self.engine, DEVICE)
        again = {"resend": [order.entry() for order in orders]} if orders else {}
        return {"acknowledged": batch.last, **again, **({} if listed is None else {"listed": listed})}

    def _happens(self) -> bool:
        return self._pick.random() < self.trouble


def _memory() -> Engine:
    """A database in memory, whose tables need no writing anew for each world."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        for table in (
            metering.readings,
            metering.doubtful,
            metering.meters,
            gaps.gap_reports,
            gaps.gaps,
            resend.orders,
        ):
            table.create(connection)
    return engine
