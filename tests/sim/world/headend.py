"""The metering server of the world: the head-end's own database, behind a line that now and then is a bad one."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from agent.https import HttpsError, Response
from headend.metering import gaps
from headend.metering import readings as metering
from omadm import readings
from omadm.readings import GapReport, Record
from tests.sim.world.network import Killed

URL = "https://headend.example/readings"


class WorldHeadend:
    """`trouble`: the share of requests that something happens to; `down`: none gets through."""

    def __init__(self, pick: random.Random) -> None:
        self.kept: dict[tuple[str, int], Record] = {}
        self.gaps: dict[tuple[str, int], GapReport] = {}
        self.different: list[Record] = []  # came under an id that had another content
        self.trouble = 0.0
        self.down = False
        self.kill_after = False  # the daemon dies between our commit and its own
        self._pick = pick
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
        acknowledged, listed = self._keep(plain)
        if self.kill_after:
            self.kill_after = False
            raise Killed
        if self._happens():
            raise HttpsError("the answer was lost")
        answer = {"listed": listed} if listed is not None else {}
        return Response(200, {}, json.dumps({"acknowledged": acknowledged, **answer}).encode())

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

    def _keep(self, plain: bytes) -> Any:
        batch = readings.parse(plain)
        for record in batch.records:
            before = self.kept.setdefault((batch.store, record.id), record)
            if before != record:
                self.different.append(record)
        for gap in batch.gaps:
            self.gaps.setdefault((batch.store, gap.id), gap.report)
        return batch.last, metering.store(self.engine, batch, 0.0)

    def _happens(self) -> bool:
        return self._pick.random() < self.trouble


def _memory() -> Engine:
    """A database in memory, whose tables need no writing anew for each world."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        for table in (metering.readings, metering.doubtful, metering.meters, gaps.gap_reports, gaps.gaps):
            table.create(connection)
    return engine
