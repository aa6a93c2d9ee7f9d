"""Releases of firmware: what packages are, which one a device is sent, and what if a delta does not fit."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, delete
from starlette.applications import Starlette

from agent.jobs import firmware
from agent.ota.errors import DeltaUnfit
from headend import web
from headend.dm import tables
from headend.dm.jobs.types import JOB_TYPES, JobError
from headend.operator import app as operator
from headend.operator.console import _contents, _outcome, _what
from headend.security import devices
from headend.software import app, releases
from headend.software.releases import NoPackageError, PackageInfo, choose
from headend.software.repository import PackageStore
from omadm import descriptor as dd
from tests.agent.dm.server import DEVICE_ID
from tests.agent.dm_device import UPDATE
from tests.headend.asgi import call, pieces
from tests.headend.database import empty_database
from tests.headend.dm.test_with_agent import World
from tests.updateagent.packages import HARDWARE, Workshop, release
from updateagent.buildhost import bsdiff
from updateagent.errors import DELTA_SOURCE
from updateagent.package import verity
from updateagent.package.payload import DeltaSource, Encoding, Role

PACKAGES = "https://packages.example:1"
OLD, NEW = b"old " * 5000, b"old " * 4000 + b"new!" * 1000
DELTA, FULL = "fw-2-from-1.swu", "fw-2.swu"
RESULT = UPDATE / "outbox/result.json"


def a_delta(shop: Workshop, **said: Any) -> bytes:
    patch = io.BytesIO()
    bsdiff.write(OLD, NEW, bsdiff.stretches(OLD, NEW), patch)
    path = shop.folder / "patch"
    path.write_bytes(patch.getvalue())
    source = DeltaSource("1", len(OLD), verity.build([OLD])[0])
    image = shop.image("rootfs", NEW, Role.IMAGE, Encoding.BSDIFF, delta=source, patch=path)
    return shop.build([image], release(**said))


@dataclass
class Shelf:
    """A package server, and what lies there."""

    store: PackageStore
    shop: Workshop
    server: Starlette = field(init=False)

    def __post_init__(self) -> None:
        self.server = app.create_app(self.store, lambda: PACKAGES)

    def add(self, name: str, content: bytes) -> None:
        asyncio.run(self.store.add(name, "application/octet-stream", pieces(content), 5.0))

    def add_both(self) -> None:
        self.add(FULL, self.shop.build([self.shop.image("rootfs", NEW)], release()))
        self.add(DELTA, a_delta(self.shop, requires_version=("1",)))

    def descriptor(self, name: str) -> dd.Descriptor:
        answer = call(self.server, "GET", f"/descriptors/{name}")
        assert answer.status_code == 200
        return dd.parse(answer.content)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = empty_database(tmp_path / "headend.db")
    yield engine
    engine.dispose()


@pytest.fixture
def shelf(engine: Engine, tmp_path: Path) -> Shelf:
    return Shelf(PackageStore(engine, tmp_path / "files"), Workshop(tmp_path))


# -- what a package is


def test_a_package_is_known_for_what_it_is_once_it_is_added(shelf: Shelf) -> None:
    shelf.add_both()
    shelf.add("notes.txt", b"no package at all")
    rows = {row["name"]: row for row in shelf.store.listing()}
    names = ("kind", "version", "delta", "from_versions", "compatible")
    assert [rows[FULL][name] for name in names] == ["firmware", "2", False, [], [HARDWARE]]
    assert [rows[DELTA][name] for name in names] == ["firmware", "2", True, ["1"], [HARDWARE]]
    assert [rows["notes.txt"][name] for name in names] == ["", "", False, [], []]


def test_a_package_that_is_replaced_or_removed_is_no_longer_what_it_was(shelf: Shelf) -> None:
    shelf.add_both()
    shelf.add(FULL, b"something else")
    assert shelf.store.release(FULL) == (None, None)
    shelf.store.remove(DELTA)
    assert shelf.store.release(DELTA) == (None, None)


def test_packages_of_an_older_head_end_are_read_at_its_next_start(shelf: Shelf, engine: Engine) -> None:
    shelf.add_both()
    with engine.begin() as connection:
        connection.execute(delete(releases.releases))
    assert shelf.store.release(DELTA) == (None, None)
    shelf.store.learn()
    found, full = shelf.store.release(DELTA)
    assert found is not None
    assert found.is_delta
    assert full is not None
    assert full.name == FULL


def test_the_descriptor_of_a_delta_tells_what_it_needs_and_where_the_full_package_is(shelf: Shelf) -> None:
    shelf.add_both()
    delta = shelf.descriptor(DELTA).delta
    assert delta is not None
    assert delta.from_versions == ("1",)
    assert [(one.name, one.version, one.size) for one in delta.sources] == [("rootfs", "1", len(OLD))]
    assert delta.sources[0].root == verity.build([OLD])[0].hex()
    assert delta.full_uri == f"{PACKAGES}/descriptors/{FULL}"
    assert delta.full_size == shelf.descriptor(FULL).size
    assert shelf.descriptor(FULL).delta is None


@pytest.mark.parametrize(
    "said",
    [{"compatible": ("other",)}, {"requires_version": ("1",)}, {"version": "3"}],
    ids=lambda said: next(iter(said)),
)
def test_a_full_package_that_not_all_its_devices_could_install_is_not_offered(shelf: Shelf, said: Any) -> None:
    shelf.add(FULL, shelf.shop.build([shelf.shop.image("rootfs", NEW)], release(**said)))
    shelf.add(DELTA, a_delta(shelf.shop))
    delta = shelf.descriptor(DELTA).delta
    assert delta is not None
    assert (delta.full_uri, delta.full_size) == (None, 0)
    assert delta.from_versions == ("1",), "of the source, where the package does not require a version"


# -- which package a device is sent


def package(name: str, size: int, *, made_from: str = "", requires: str = "", hardware: str = "a") -> PackageInfo:
    sources = (dd.DeltaSource("rootfs", made_from, 1, "00" * 32),) if made_from else ()
    needed = (requires,) if requires else ()
    return PackageInfo(name, "firmware", "", "3", 1, tuple(hardware.split()), needed, sources, size)


WHOLE = package("whole", 100)
SMALL = package("small", 10, made_from="2")
LARGE = package("large", 200, made_from="1")


@pytest.mark.parametrize(
    ("running", "delta", "wanted"),
    [("2", True, "small"), ("2", False, "whole"), ("1", True, "whole"), ("0", True, "whole"), ("", True, "whole")],
)
def test_the_smallest_package_that_fits_is_sent(running: str, wanted: str, *, delta: bool) -> None:
    assert choose([WHOLE, SMALL, LARGE], running, "a", delta=delta).name == wanted


def test_packages_for_other_hardware_are_not_sent() -> None:
    other = package("other", 1, hardware="b c")
    assert choose([WHOLE, other], "2", "a") is WHOLE
    assert choose([WHOLE, other], "2", "c") is other
    assert choose([WHOLE, SMALL], "2", None) is SMALL
    with pytest.raises(NoPackageError, match="different hardware"):
        choose([WHOLE, other], "2", None)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([], "none was uploaded"),
        ([SMALL], "small is a delta for a from 2"),
        ([package("stone", 5, requires="7")], "stone is full for a from 7"),
    ],
)
def test_a_device_that_nothing_is_for_is_told_apart(there: list[PackageInfo], said: str) -> None:
    with pytest.raises(NoPackageError, match=said):
        choose(there, "1", "a")


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"version": "2"},
        {"version": "2", "packages_url": "http://x"},
        {"version": "2", "packages_url": PACKAGES, "delta": "yes"},
        {"url": "https://x/y", "delta": True},
        {"packages_url": PACKAGES},
    ],
)
def test_a_firmware_job_with_wrong_parameters_is_not_queued(params: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        JOB_TYPES["firmware"].check(params)


# -- both ends


class Scene:
    """The head-end with both packages, and a device that runs version 1 and can use the delta, or cannot."""

    def __init__(self, engine: Engine, shelf: Shelf, *, usable: bool = True, full_instead: bool = False) -> None:
        shelf.add_both()
        self.shelf = shelf
        self.world = World(engine, "application/vnd.syncml.dm+wbxml")
        self.device = self.world.device
        self.device.full_instead_of_delta = full_instead
        self.device.restart()
        if not usable:
            self.device.check_sources = unfit
        base = f"{PACKAGES}/descriptors"
        asked = {
            f"{base}/{name}{query}": name for name in (DELTA, FULL) for query in ("", f"?device={quote(DEVICE_ID)}")
        }
        self.device.fetcher.descriptors = {url: shelf.descriptor(name) for url, name in asked.items()}

    def start(self, **params: Any) -> int:
        number = self.world.enqueue("firmware", version="2", packages_url=PACKAGES, **params)
        assert self.world.session() == "ok"
        return number

    def fetched(self) -> list[str]:
        return [url.partition("?")[0].rpartition("/")[2] for url in self.device.fetcher.urls]

    def succeed(self) -> None:
        """The Update Agent installs what was handed over."""
        for _ in range(3):
            self.device.work()
        job = firmware.load(self.device.service.tree.view())
        result = {"id": job.id, "correlator": job.correlator, "code": 0, "name": "ok", "fumo": 200}
        self.device.disk.write_durable(RESULT, json.dumps(result).encode())
        self.device.disk.remove_durable(UPDATE / "inbox/request.json")
        self.device.turn()  # the reboot that was asked for
        self.device.work()
        assert self.world.session() == "ok"


def unfit(_: object) -> None:
    raise DeltaUnfit(DELTA_SOURCE, "the slot that runs was changed")


def test_a_job_for_a_release_sends_the_delta_that_fits_and_shows_which(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf)
    number = scene.start()
    size = shelf.descriptor(DELTA).size
    waiting = scene.world.job(number)
    assert (waiting["state"], waiting["sent"]) == ("waiting", {"package": DELTA, "delta": True, "bytes": size})
    scene.succeed()
    done = scene.world.job(number)
    assert done["state"] == "done", done
    assert (done["result"]["package"], done["result"]["delta"]) == (DELTA, True)
    assert scene.fetched() == [DELTA]


def test_a_job_may_ask_for_the_full_package(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf)
    number = scene.start(delta=False)
    assert scene.world.job(number)["sent"]["package"] == FULL


def test_a_release_that_was_not_uploaded_fails_the_job_with_a_sentence(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf)
    shelf.store.remove(FULL)
    shelf.store.remove(DELTA)
    number = scene.start()
    assert scene.world.job(number)["result"]["error"].endswith("none was uploaded")


def test_a_package_for_other_hardware_is_not_sent_to_this_device(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf)
    shelf.add(FULL, shelf.shop.build([shelf.shop.image("rootfs", NEW)], release(compatible=("other",))))
    shelf.store.remove(DELTA)
    number = scene.start()
    assert "runs 1: fw-2.swu is full for other" in scene.world.job(number)["result"]["error"]


def test_the_device_fetches_the_full_package_by_its_own_policy(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf, usable=False, full_instead=True)
    number = scene.start()
    scene.succeed()
    done = scene.world.job(number)
    assert done["state"] == "done", done
    assert scene.fetched() == [DELTA, FULL]
    assert done["result"]["full_instead"].startswith("38 delta-source: ")
    assert len(scene.world.rows(tables.alerts)) == 1


def test_a_device_that_may_not_fetch_it_says_so_and_the_job_ends(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf, usable=False)
    number = scene.start()
    scene.device.work()
    assert scene.world.session() == "ok"
    failed = scene.world.job(number)
    assert (failed["state"], failed["result"]["result_code"]) == ("failed", 451)
    assert failed["result"]["device_error"].startswith("46 full-refused: ")
    assert scene.fetched() == [DELTA]


def test_the_operator_may_have_the_job_send_the_full_package_then(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf, usable=False)
    number = scene.start(full_after_delta=True)
    scene.device.work()
    assert scene.world.session() == "ok"
    waiting = scene.world.job(number)
    assert (waiting["state"], waiting["sent"]["package"]) == ("waiting", FULL)
    scene.succeed()
    done = scene.world.job(number)
    assert done["state"] == "done", done
    assert done["result"]["after_delta"] == {"package": DELTA, "result_code": 451}
    assert scene.fetched() == [DELTA, FULL]
    correlator = done["correlator"]
    told = [(alert.correlator, alert.result_code) for alert in scene.world.rows(tables.alerts)]
    assert told == [(correlator, 451), (correlator, 200)]


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["request", "answer"])
@pytest.mark.parametrize("at", range(5))
def test_whichever_exchange_is_lost_the_full_package_is_sent_once(
    engine: Engine, shelf: Shelf, at: int, fate: str
) -> None:
    scene = Scene(engine, shelf, usable=False)
    number = scene.start(full_after_delta=True)
    scene.device.work()
    scene.world.line.lose = {scene.world.line.exchanges + at: fate}
    for _ in range(4):
        scene.world.session()
    assert scene.world.job(number)["sent"]["package"] == FULL
    scene.succeed()
    assert scene.world.job(number)["state"] == "done", scene.world.job(number)
    assert scene.fetched() == [DELTA, FULL]


# -- what the operator sees


def test_pages_say_in_a_line_what_a_package_is(shelf: Shelf) -> None:
    shelf.add_both()
    rows = {str(row["name"]): row for row in shelf.store.listing()}
    assert _contents(rows[FULL]) == "firmware 2"
    assert _contents(rows[DELTA]) == "firmware 2, delta from 1"
    assert _contents(rows[FULL] | {"from_versions": ["1", "1.5"]}) == "firmware 2, only from 1, 1.5"


def test_a_job_says_what_it_is_about_and_what_was_sent(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf)
    job = scene.world.job(scene.start())
    assert _what(job) == "version 2, delta allowed"
    assert _outcome(job) == f"sent {DELTA}, {shelf.descriptor(DELTA).size} bytes"


def test_the_operator_names_a_release_and_the_server_fills_in_the_rest(engine: Engine, shelf: Shelf) -> None:
    scene = Scene(engine, shelf)
    urls = {"dm": "https://dm.example", "software": PACKAGES, "metering": "https://metering.example"}
    parts = operator.OperatorDeps(engine, shelf.store, lambda _: 1, lambda: urls, web.token_hash("token"))
    server = operator.create_app(parts)
    head = {"Authorization": "Bearer token"}
    with engine.begin() as connection:
        devices.enrol(connection, DEVICE_ID, bytes(32), 1.0, replace=False)
    wanted = {"kind": "firmware", "params": {"version": "2"}}
    queued = call(server, "POST", f"/v1/devices/{DEVICE_ID}/jobs", headers=head, json=wanted)
    assert queued.status_code == 201, queued.text
    assert scene.world.session() == "ok"
    job = call(server, "GET", f"/v1/jobs/{queued.json()['id']}", headers=head).json()
    assert (job["state"], job["sent"]["package"]) == ("waiting", DELTA)
    listed = call(server, "GET", "/v1/packages", headers=head).json()["packages"]
    assert {row["name"]: (row["kind"], row["delta"]) for row in listed} == {
        DELTA: ("firmware", True),
        FULL: ("firmware", False),
    }
