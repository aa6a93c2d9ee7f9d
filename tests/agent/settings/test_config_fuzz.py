"""Every parser of the runtime, fed with damaged input: a result or its own error, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.control import ControlServer
from agent.https import Response
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.readinglist import ReadingList, ReadingListError, parse
from agent.metering.scheduling.schedule import Backoff
from agent.metering.store.reading_store import Store
from agent.metering.uplink.worker import Uplink
from agent.settings.config import Config, ConfigError, load
from agent.settings.provisioning import UplinkSettings
from tests.agent.metering.readings import visit
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk

REPO = Path(__file__).resolve().parents[3]
ROUNDS = 100
SPICE = [b"\0", b"\xff", b"\n", b"- ", b": ", b"[", b"{", b'"', b"&a ", b"*a ", b"!!", b"|\n", b"<<", b",", b"9" * 30]


def damaged(original: bytes, seed: int, rounds: int = ROUNDS) -> Iterator[bytes]:
    """The original with bytes changed, cut out, doubled, and with what means something to a parser put in."""
    rng = random.Random(seed)
    for _ in range(rounds):
        data = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(5):
                case 0:
                    data[at : at + 1] = bytes((rng.randrange(256),))
                case 1:
                    del data[at : at + rng.randint(1, 40)]
                case 2:
                    data[at:at] = data[at : at + rng.randint(1, 40)]
                case 3:
                    data[at:at] = rng.choice(SPICE)
                case _:
                    del data[at:]
        yield bytes(data)


def test_a_damaged_configuration_is_a_configuration_or_an_error_with_lines(tmp_path: Path) -> None:
    example = (REPO / "etc" / "dcu.yaml").read_bytes()
    file = tmp_path / "dcu.yaml"
    good, said = 0, []
    for data in damaged(example, 1, 150):
        file.write_bytes(data)
        try:
            good += isinstance(load(file), Config)
        except ConfigError as error:
            said += str(error).splitlines() or ["nothing said"]
    assert good > 0
    assert len(said) > 0
    assert [line for line in said if not line.startswith(f"{file}:")] == []


def test_a_damaged_reading_list_is_a_list_or_an_error(tmp_path: Path) -> None:
    original = (REPO / "etc" / "reading-lists" / "residential-108.csv").read_bytes()
    good, said = 0, []
    for data in damaged(original, 2, 150):
        try:
            good += isinstance(parse("x", data.decode("utf-8", "replace"), "x.csv"), ReadingList)
        except ReadingListError as error:
            said += str(error).splitlines() or ["nothing said"]
    assert good > 0
    assert len(said) > 0
    assert [line for line in said if not line.startswith("x.csv:")] == []


def test_a_damaged_registry_is_read_or_set_aside(tmp_path: Path) -> None:
    clock, file = VirtualClock(), tmp_path / "meters.json"
    registry = Registry(RealDisk(), file, clock, leave_after_s=60)
    for number in range(5):
        registry.join("plc0", number, bytes((2, 0, 0, 0, 0, number)))
    clock.advance(10)
    registry.tick()
    original = file.read_bytes()
    for data in damaged(original, 3):
        file.write_bytes(data)
        found = Registry(RealDisk(), file, clock, leave_after_s=60).meters()
        assert len(found) in (0, 5)


def test_a_damaged_request_is_answered(tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "control.sock", {"status": lambda request: {"said": sorted(request)}})
    for line in damaged(b'{"command":"status","x":[1,2,{"y":null}]}', 4):
        answer = json.loads(server.answer(line))
        assert answer["ok"] is True or answer["error"]


@pytest.mark.parametrize("status", [200, 400])
def test_a_damaged_acknowledgement_never_releases_what_was_not_sent(tmp_path: Path, status: int) -> None:
    clock = VirtualClock()
    store = Store(tmp_path / "readings.db", clock, records_max=10_000, keep_forwarded_max=0)
    store.append(visit(0, 40))

    class Headend:
        body = b""

        def request(self, *_: object, **__: object) -> Response:
            return Response(status, {}, self.body)

    headend = Headend()
    uplink = Uplink(store, headend, clock, device_id="d", backoff=Backoff(1, 2), rng=random.Random(1))
    uplink.configure(UplinkSettings("https://x/", "t", 3))
    for body in damaged(b'{"acknowledged": 3, "error": "x"}', 5, 60):
        headend.body = body
        before = store.batch(3)
        if before is None:
            break
        uplink.step()
        clock.advance(5)
        after = store.batch(3)
        assert after is None or before.first <= after.first <= before.first + 3


@pytest.mark.parametrize("table", ["block", "progress", "knowledge", "meta"])
def test_a_damaged_store_file_is_used_or_replaced(tmp_path: Path, table: str) -> None:
    """Bytes changed in the file itself, around the pages of one table."""
    file = tmp_path / "readings.db"
    clock = VirtualClock()

    def opened() -> Store:
        return Store(file, clock, records_max=10_000, keep_forwarded_max=100)

    first = opened()
    for number in range(40):
        first.append(visit(number * 10, 10), [], {f"m{number}": {"scalers": {"x": [0, number]}}})
    first.close()
    original = file.read_bytes()
    rng = random.Random(table)
    for _ in range(15):
        data = bytearray(original)
        for _ in range(rng.randint(1, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data)
        store = opened()
        store.stats()
        batch = store.batch(1000)
        if batch is not None:
            store.release(batch.store, batch.last)
        assert store.append(visit(0, 1))[0] >= 1
        store.knowledge("m3")
        store.progress()
        store.close()
