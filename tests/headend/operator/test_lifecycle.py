"""A device's life: switched off it is cut off everywhere at once, and each step is audited."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import Engine, func, select

from headend import web
from headend.dm import accounts
from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.dm.server import DmServer, ServerConfig
from headend.metering import app as metering_app
from headend.operator import app
from headend.security import app as security_app
from headend.security import records
from headend.security.service import SecurityService
from headend.software import app as software_app
from headend.software.repository import PackageStore
from omadm import bootstrap
from omadm.bootstrap import Account
from omadm.codes import Code
from omadm.ssmp import wire
from omadm.ssmp.client_core import Registered, SsmpClient
from omadm.syncml.messages import Status, SyncML
from tests.headend.asgi import call
from tests.headend.dm_device import Device, Tree
from tests.omadm.test_readings import a_batch, a_record

TOKEN = "operator-token"
DEVICE = "urn:dcu:T-1"
KEY = bytes(range(32))
URLS = {"dm": "https://dm.example", "software": "https://packages.example", "metering": "https://metering.example"}
CONFIG = ServerConfig("headend", "https://dm.example/dm")


class Bench:
    """A whole head-end without sockets, and one box."""

    def __init__(self, engine: Engine, files: Path) -> None:
        self.engine = engine
        self.now = 1000.0
        self.rng = random.Random(5)
        self.packages = PackageStore(engine, files)
        self.api = app.create_app(
            app.OperatorDeps(engine, self.packages, lambda _: 1, lambda: URLS, web.token_hash(TOKEN), lambda: self.now)
        )
        self.ssmp = SecurityService(
            engine, security_app.dm_accounts("headend", CONFIG.url), monotonic=lambda: self.now, wall=lambda: self.now
        )
        self.dm = DmServer(engine, CONFIG, wall=lambda: self.now)
        self.metering = metering_app.create_app(engine, wall=lambda: self.now)
        self.software = software_app.create_app(self.packages, lambda: URLS["software"], wall=lambda: self.now)
        self.closed = software_app.create_app(self.packages, lambda: URLS["software"], open_to_all=False)
        self.account: Account | None = None

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return call(self.api, method, path, headers={"Authorization": f"Bearer {TOKEN}"}, **arguments)

    def enrol(self, key: bytes = KEY) -> None:
        assert self.ask("POST", "/v1/devices", json={"id": DEVICE, "key": key.hex()}).status_code == 201

    def switch(self, on: bool) -> None:
        assert self.ask("PATCH", f"/v1/devices/{DEVICE}", json={"enabled": on}).status_code == 200

    def register(self, key: bytes = KEY) -> bool:
        self.now += 60.0
        held = b"" if self.account is None else self.account.fingerprint()
        client = SsmpClient(DEVICE, key, wire.RegistrationInfo("", "", "", "", "", ""), self.rng.randbytes(32), held)
        client.start(0.0)
        while message := client.take_output():
            client.receive(self.ssmp.handle(message, "192.0.2.9")[1], 0.0)
        event = client.next_event()
        if not isinstance(event, Registered):
            return False
        self.account = bootstrap.account_from_tnds(bootstrap.parse_profile(event.document))
        return True

    def box(self, tree: Tree | None = None) -> Device:
        assert self.account is not None
        return Device(self.dm, self.account, tree)

    def token(self) -> httpx.Response:
        return self.ask("POST", f"/v1/devices/{DEVICE}/metering-token")

    def send(self, token: str) -> int:
        batch = a_batch(a_record(1), device=DEVICE)
        headers = {"Authorization": f"Bearer {token}"}
        return call(self.metering, "POST", "/v1/readings", content=batch, headers=headers).status_code

    def row(self) -> dict[str, Any]:
        (row,) = self.ask("GET", "/v1/devices").json()["devices"]
        assert isinstance(row, dict)
        return row

    def audit(self) -> list[str]:
        return [entry["action"] for entry in self.ask("GET", "/v1/audit").json()["audit"]]


@pytest.fixture
def bench(database: Engine, tmp_path: Path) -> Bench:
    made = Bench(database, tmp_path / "files")
    made.enrol()
    assert made.register()
    return made


def header_code(message: SyncML) -> int:
    return next(status.code for status in message.of(Status) if status.cmd_ref == "0")


def job_url(bench: Bench) -> str:
    """The URL that a job gives the device for a package of this head-end."""
    assert bench.ask("PUT", "/v1/packages/p.swu", content=b"package").status_code == 201
    params = {"url": f"{URLS['software']}/packages/p.swu"}
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/jobs", json={"kind": "firmware", "params": params}).is_success
    with bench.engine.begin() as connection:
        return str(connection.scalars(select(dm.jobs.c.params)).all()[-1]["url"])


def below(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


# ---- off, everywhere


def test_a_device_that_is_switched_off_is_refused_at_every_door_and_that_is_shown(bench: Bench) -> None:
    token = bench.token().json()["token"]
    url = below(job_url(bench))
    assert call(bench.software, "GET", url).status_code == 200
    assert bench.send(token) == 200
    bench.switch(on=False)
    assert bench.row()["refused"] == {}
    bench.now = 2000.0
    assert not bench.register()
    box = bench.box()
    assert header_code(decoded(bench, box)) == Code.FORBIDDEN
    assert bench.send(token) == 403
    assert call(bench.software, "GET", url).status_code == 403
    assert bench.token().status_code == 409
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/dm-account", json={}).status_code == 409
    row = bench.row()
    assert row["state"] == "switched off"
    assert {door: told["last"] for door, told in row["refused"].items()} == dict.fromkeys(
        ("registration", "dm", "readings", "downloads", "token"), bench.now
    )
    assert row["refused"]["registration"]["peer"] == "192.0.2.9"
    bench.switch(on=True)
    assert (bench.row()["refused"], bench.row()["state"]) == ({}, "in service")
    assert bench.send(token) == 200
    assert call(bench.software, "GET", url).status_code == 200
    assert bench.register()
    bench.box().session()
    assert bench.audit() == ["switch on", "switch off", "enrol"]


def decoded(bench: Bench, box: Device) -> SyncML:
    return box.take(bench.dm.handle(box.request(box.begin())))


def test_a_session_that_is_running_ends_with_the_next_message(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        queue.enqueue(connection, DEVICE, "get", {"paths": ["./A"]})
    box = bench.box(Tree({"./A": "secret"}))
    message = decoded(bench, box)
    assert header_code(message) == 200
    bench.switch(on=False)
    commands, final = box.reply(message)
    last = box.take(bench.dm.handle(box.request(commands, final=final)))
    assert header_code(last) == Code.FORBIDDEN
    assert not [command for command in last.commands if not isinstance(command, Status)]
    with bench.engine.begin() as connection:
        (job,) = queue.listing(connection, DEVICE)
        assert connection.scalar(select(func.count()).select_from(dm.values).where(dm.values.c.uri == "./A")) == 0
        assert connection.scalars(select(dm.sessions.c.state)).all()[-1] == "failed"
    assert job["state"] == "queued"


def test_the_answer_to_a_repeated_request_is_not_given_to_a_device_that_is_switched_off(bench: Bench) -> None:
    box = bench.box()
    request = box.request(box.begin())
    first = bench.dm.handle(request)
    assert bench.dm.handle(request) == first
    bench.switch(on=False)
    assert bench.dm.handle(request).body != first.body


def test_only_a_device_that_proves_itself_counts_as_refused(bench: Bench) -> None:
    bench.switch(on=False)
    assert not bench.register(bytes(32))
    stranger = bench.box()
    stranger.account = accounts.draft(DEVICE, server_id="headend", url=CONFIG.url)
    bench.dm.handle(stranger.request(stranger.begin()))
    assert call(bench.software, "GET", f"/packages/p?device={DEVICE}").status_code == 403
    assert bench.row()["refused"] == {}


def test_refusals_are_counted_and_written_once_a_second(bench: Bench) -> None:
    token = bench.token().json()["token"]
    bench.switch(on=False)
    for tenth in range(31):
        bench.now = 5000.0 + tenth / 10
        bench.send(token)
    told = bench.row()["refused"]["readings"]
    assert (told["first"], told["last"], told["count"]) == (5000.0, 5003.0, 31)


# ---- downloads


def test_a_closed_package_server_serves_nobody_without_a_pass(bench: Bench) -> None:
    url = below(job_url(bench))
    for wrong in ("/packages/p.swu", f"/packages/p.swu?device={DEVICE}", url[:-1] + "x", url.replace("T-1", "T-2")):
        assert call(bench.closed, "GET", wrong).status_code == 403
    assert call(bench.closed, "GET", url).status_code == 200
    descriptor = call(bench.closed, "GET", url.replace("/packages/", "/descriptors/"))
    assert descriptor.status_code == 200
    assert url.partition("pass=")[2] in descriptor.text


# ---- keys


@pytest.mark.parametrize("end_account", [False, True])
def test_another_key_ends_the_account_only_when_that_is_asked(bench: Bench, end_account: bool) -> None:
    token = bench.token().json()["token"]
    new = {"key": "11" * 32, "end_account": end_account}
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/key", json=new).status_code == 200
    assert (bench.send(token) == 401) == end_account
    box = bench.box()
    answer = bench.dm.handle(box.request(box.begin()))
    assert (answer.mac is not None and header_code(box.take(answer)) < 400) if not end_account else True
    assert not bench.register()
    assert bench.register(b"\x11" * 32)
    assert bench.audit()[0] == "replace key"


def test_another_key_does_not_switch_a_device_on(bench: Bench) -> None:
    bench.switch(on=False)
    assert bench.ask("POST", f"/v1/devices/{DEVICE}/key", json={"key": "11" * 32}).status_code == 200
    replaced = {"id": DEVICE, "key": "22" * 32, "replace": True}
    assert bench.ask("POST", "/v1/devices", json=replaced).status_code == 201
    assert not bench.register(b"\x22" * 32)
    assert bench.row()["state"] == "switched off"


# ---- decommission


def decommission(bench: Bench) -> httpx.Response:
    return bench.ask("POST", f"/v1/devices/{DEVICE}/decommission", json={})


def test_a_device_is_switched_off_when_it_has_said_that_its_account_is_erased(bench: Bench) -> None:
    old = bench.account
    assert decommission(bench).status_code == 201
    assert decommission(bench).status_code == 409
    assert bench.row()["state"] == "leaving"
    tree = Tree({"./DMAcc/main": None, "./DMAcc/main/AppID": "w7"})
    box = bench.box(tree)
    box.session()
    assert "./DMAcc/main" not in tree.nodes
    assert bench.row()["state"] == "decommissioned"
    with bench.engine.begin() as connection:
        row = accounts.load(connection, DEVICE)
    assert row is not None
    assert old is not None
    assert row.client_secret != old.client_secret
    assert not bench.register()
    bench.switch(on=True)
    assert bench.register()
    assert bench.audit() == ["switch on", "decommission", "enrol"]


def test_a_device_that_refuses_to_erase_its_account_stays(bench: Bench) -> None:
    decommission(bench)
    bench.box(Tree({"./DMAcc/main": None}, refuse={"./DMAcc/main": 425})).session()
    assert bench.row()["state"] == "in service"
    assert bench.ask("GET", "/v1/jobs").json()["jobs"][0]["state"] == "failed"


def test_a_device_whose_session_broke_off_shows_by_registering_that_its_account_is_gone(bench: Bench) -> None:
    decommission(bench)
    assert not bench.register()  # it still has its account, and gets no other while it is to leave
    assert bench.row()["state"] == "leaving"
    bench.account = None
    assert not bench.register()
    assert bench.row()["state"] == "decommissioned"


def test_what_cannot_be_decommissioned_is_said(bench: Bench, database: Engine) -> None:
    bench.switch(on=False)
    assert "switched off" in decommission(bench).json()["error"]
    assert bench.ask("POST", "/v1/devices", json={"id": "urn:dcu:new", "key": "00" * 32}).status_code == 201
    answer = bench.ask("POST", "/v1/devices/urn:dcu:new/decommission", json={})
    assert (answer.status_code, "no DM account" in answer.json()["error"]) == (409, True)
    assert bench.ask("POST", "/v1/devices/nobody/decommission", json={}).status_code == 404


# ---- delete


def test_a_deleted_device_leaves_its_readings_and_the_logs(bench: Bench) -> None:
    token = bench.token().json()["token"]
    assert bench.send(token) == 200
    bench.box().session()
    assert bench.ask("DELETE", f"/v1/devices/{DEVICE}").status_code == 409
    bench.switch(on=False)
    assert bench.ask("DELETE", f"/v1/devices/{DEVICE}").status_code == 204
    assert bench.ask("DELETE", f"/v1/devices/{DEVICE}").status_code == 404
    assert bench.ask("GET", "/v1/devices").json()["devices"] == []
    assert bench.send(token) == 401
    assert not bench.register()
    assert len(bench.ask("GET", "/v1/readings").json()["readings"]) == 1
    assert bench.ask("GET", "/v1/registrations").json()["registrations"]
    assert bench.audit() == ["delete", "switch off", "enrol"]
    (entry, *_) = bench.ask("GET", f"/v1/audit?device={DEVICE}&limit=1").json()["audit"]
    assert (entry["who"], entry["at"]) == ("operator, API, 192.0.2.1", bench.now - 60.0)  # one try to register later


# ---- many at once


def enrol_csv(bench: Bench, text: str) -> httpx.Response:
    return bench.ask("POST", "/v1/enrolments", content=text.encode())


def test_a_csv_file_enrols_all_its_devices(bench: Bench) -> None:
    rows = "".join(f"{n:064x},urn:dcu:{n}\r\n" for n in range(300))
    answer = enrol_csv(bench, f"\ufeffkey,id\r\n{rows}")
    assert (answer.status_code, answer.json()) == (201, {"enrolled": 300})
    assert len(bench.ask("GET", "/v1/devices").json()["devices"]) == 301
    assert bench.ask("GET", "/v1/audit?device=urn:dcu:299").json()["audit"][0]["action"] == "enrol"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["line 1: the columns id and key are expected, each once"]),
        ("id,key,key\n", ["line 1: the columns"]),
        ("id,key\n", ["no device"]),
        ("id,key\nurn:dcu:2\n", ["line 2: 2 columns are expected, not 1"]),
        (
            f"id,key\nurn:dcu:2,{'ab' * 32}\n\nu r n,{'ab' * 31}\n",
            ["line 4, column id", "line 4, column key: a device key"],
        ),
        (f"id,key\n{DEVICE},{'ab' * 32}\n", [f"line 2, column id: {DEVICE} is enrolled already"]),
        (
            f"id,key\nurn:dcu:2,{'ab' * 32}\nurn:dcu:2,{'ab' * 32}\n",
            ["line 3, column id: urn:dcu:2 stands in line 2 too"],
        ),
        ('id,key\n"urn:dcu:2,' + "ab" * 32, ["line 2: unexpected end of data"]),
    ],
)
def test_a_csv_file_with_a_mistake_enrols_nobody_and_shows_no_key(bench: Bench, text: str, problems: list[str]) -> None:
    answer = enrol_csv(bench, text)
    assert answer.status_code == 400
    for problem in problems:
        assert problem in answer.json()["error"]
    assert "abab" not in answer.text
    assert len(bench.ask("GET", "/v1/devices").json()["devices"]) == 1
    assert bench.audit() == ["enrol"]


def test_a_csv_file_of_nothing_but_mistakes_is_answered_shortly(bench: Bench) -> None:
    answer = enrol_csv(bench, "id,key\n" + "x,y\n" * 5000)
    assert answer.status_code == 400
    assert "and 4900 more" in answer.json()["error"]


# ---- alarms


def test_security_alarms_are_shown_and_acknowledged(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        records.raise_alarm(connection, "two-devices", DEVICE, "seen", 5.0)
    (alarm,) = bench.ask("GET", "/v1/security-alarms?state=open").json()["alarms"]
    assert (alarm["kind"], alarm["device"], alarm["count"]) == ("two-devices", DEVICE, 1)
    path = f"/v1/security-alarms/{alarm['id']}/acknowledge"
    assert bench.ask("POST", path).status_code == 200
    assert bench.ask("POST", path).status_code == 404
    assert bench.ask("GET", "/v1/security-alarms?state=open").json() == {"alarms": []}
    assert bench.audit()[:2] == ["acknowledge alarm", "alarm two-devices"]
