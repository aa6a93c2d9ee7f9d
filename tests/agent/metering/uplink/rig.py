"""A head-end, and an uplink with its store and clock that talks to it, for the tests of the uplink."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from pathlib import Path

from agent.https import HttpsError, Response
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store
from agent.metering.uplink.replay import ReplayLimits
from agent.metering.uplink.worker import Uplink
from agent.settings.provisioning import UplinkSettings
from agent.status import QueueStatus
from tests.agent.virtual import VirtualClock

AT_ONCE = ReplayLimits(60_000, 0)
URL = "https://head.example/metering"


class Headend:
    """Keeps records by (device, store, id). `mood` says what happens to the next requests, in order; then all is well:
    an int is a bare status, an exception is raised before anything is stored, `"lost"` stores and loses the answer."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, int], object] = {}
        self.seen_twice = 0
        self.mood: list[int | str | HttpsError] = []
        self.requests: list[dict[str, object]] = []
        self.tokens: list[str] = []
        self.priorities: list[str] = []
        self.order: list[object] = []  # raw values as they came in
        self.poison: set[int] = set()
        self.body_records_max = 10**6
        self.resend: list[dict[str, object]] = []  # orders that go out with each answer
        self.reports: list[dict[str, object]] = []

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert method == "POST"
        assert body is not None
        assert headers is not None
        self.tokens.append(headers["Authorization"])
        self.priorities.append(headers["Priority"])
        text = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        document = json.loads(text)
        self.requests.append(document)
        mood = self.mood.pop(0) if self.mood else 200
        if isinstance(mood, HttpsError):
            raise mood
        if isinstance(mood, int) and mood != 200:
            return Response(mood, {}, b"busy")
        answer = self.judge(document)
        if answer.status == 200 and mood == "lost":
            raise HttpsError("connection lost after the answer was sent")
        return answer

    def judge(self, document: dict[str, object]) -> Response:
        records = document["records"]
        assert isinstance(records, list)
        assert document["version"] == 1
        if len(records) > self.body_records_max:
            return Response(413, {}, b"")
        if any(record["id"] in self.poison for record in records):
            return Response(400, {}, b'{"error":"records[0].unit: not a unit"}')
        for record in records:
            key = (str(document["device"]), str(document["store"]), int(record["id"]))
            self.seen_twice += key in self.kept
            raw = record["key"] if "event" in record else record["raw"]
            self.kept[key] = raw
            self.order.append(raw)
        for report in document.get("resent", []):  # type: ignore[attr-defined]
            self.reports.append(report)
            self.resend = [order for order in self.resend if order["request"] != report["request"]]
        answer = {"acknowledged": records[-1]["id"] if records else None, "resend": self.resend}
        return Response(200, {}, json.dumps(answer).encode())


class Rig:
    def __init__(
        self,
        tmp_path: Path,
        batch_records_max: int = 50,
        *,
        url: str = URL,
        replay: ReplayLimits = AT_ONCE,
        keep: int = 0,
    ) -> None:
        self.clock = VirtualClock()
        self.store = Store(tmp_path / "readings.db", self.clock, records_max=100_000, keep_forwarded_max=keep)
        self.headend = Headend()
        self.published: list[QueueStatus] = []
        self.made = 0
        self.settings = UplinkSettings(url, "secret-token", batch_records_max)
        self.replay = replay
        self.rng = random.Random(7)
        self.start()
        self.uplink.step()  # what is appended from here on is fresh

    def start(self) -> None:
        """Start the uplink, again as after a restart of the process: only the store is what it was."""
        self.uplink = Uplink(
            self.store,
            self.headend,
            self.clock,
            device_id="urn:dcu:1",
            backoff=Backoff(2.0, 60.0),
            rng=self.rng,
            replay=self.replay,
            publish=self.published.append,
        )
        self.uplink.configure(self.settings)

    def run(self, seconds: float) -> None:
        """Let virtual time pass, as the worker's loop would."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            pause = self.uplink.step()
            self.uplink.report()
            self.clock.advance(min(max(pause, 0.001), until - self.clock.now + 0.001))

    def error(self) -> str:
        self.uplink.report()
        return self.published[-1].last_error

    def delivered(self) -> list[object]:
        return [self.headend.kept[key] for key in sorted(self.headend.kept, key=lambda key: key[2])]
